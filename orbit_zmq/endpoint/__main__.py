"""`python -m orbit_zmq.endpoint`: an endpoint in a process of its own; the options are those of `orbit endpoint start`."""

from __future__ import annotations

import sys

from orbit_zmq.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["endpoint", "start", *sys.argv[1:]]))
