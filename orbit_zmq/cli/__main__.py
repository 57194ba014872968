"""`python -m orbit_zmq.cli`: the command `orbit` where it is not on the path."""

from __future__ import annotations

import sys

from orbit_zmq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
