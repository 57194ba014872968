"""The peer dask.distributed, run by a Python that has it: a scheduler and two workers as processes, and a client."""

from __future__ import annotations

import importlib
import sys

from _peer import same, seconds, serve

WORKERS = 2


def main() -> None:
    distributed = importlib.import_module("distributed")
    cluster = distributed.LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, local_directory=sys.argv[1]
    )
    with cluster, distributed.Client(cluster) as client:
        serve(map=lambda count: seconds(lambda n: client.gather(client.map(same, range(n), pure=False)), count))


if __name__ == "__main__":
    main()
