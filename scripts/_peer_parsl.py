"""The peer Parsl, run by a Python that has it: its high-throughput executor with two workers on this machine."""

from __future__ import annotations

import importlib
import sys

from _peer import same, seconds, serve

WORKERS = 2


def main() -> None:
    parsl = importlib.import_module("parsl")
    executors, providers = importlib.import_module("parsl.executors"), importlib.import_module("parsl.providers")
    executor = executors.HighThroughputExecutor(
        label="bench",
        address="127.0.0.1",
        max_workers_per_node=WORKERS,
        provider=providers.LocalProvider(init_blocks=1, min_blocks=1, max_blocks=1),
    )
    config = importlib.import_module("parsl.config").Config(executors=[executor], run_dir=sys.argv[1], strategy="none")
    with parsl.load(config):
        app = parsl.python_app(same)
        app(0).result()  # its workers are there
        serve(map=lambda count: seconds(lambda n: [future.result() for future in [app(k) for k in range(n)]], count))


if __name__ == "__main__":
    main()
