"""The peer ipyparallel, run by a Python that has it: a controller and two engines on this machine."""

from __future__ import annotations

import importlib
import sys

from _peer import same, seconds, serve

ENGINES = 2


def main() -> None:
    ipyparallel = importlib.import_module("ipyparallel")
    with ipyparallel.Cluster(n=ENGINES, profile_dir=sys.argv[1], log_level=50) as client:
        view = client.load_balanced_view()
        view.apply_sync(same, 0)
        serve(map=lambda count: seconds(lambda n: view.map_async(same, range(n), chunksize=1, ordered=True), count))


if __name__ == "__main__":
    main()
