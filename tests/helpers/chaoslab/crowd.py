"""Many endpoints in one process: `python -m chaoslab.crowd --url ... --names a,b,c` serves them until its input closes.

Each is a whole endpoint with a connection, a service and a name of its own; they share one event loop. They have the chaos
plugin, or those that `--plugins` names.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import threading
from typing import Any

from chaoslab.world import raise_file_limit
from orbit_zmq import Endpoint


async def serve(url: str, names: list[str], plugins: list[Any]) -> None:
    """All endpoints, until standard input is closed."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Queue[None] = asyncio.Queue()

    def on_ready() -> None:
        loop.call_soon_threadsafe(ready.put_nowait, None)

    endpoints = [Endpoint(name, url=url, plugins=plugins, role="compute") for name in names]
    threading.Thread(target=_watch_input, args=(endpoints,), daemon=True).start()
    loop.add_signal_handler(signal.SIGTERM, _stop, endpoints)
    async with asyncio.TaskGroup() as group:
        for endpoint in endpoints:
            group.create_task(endpoint._main(on_ready, with_signals=False))
        for _ in endpoints:
            await ready.get()
        print('{"ready": true}', flush=True)


def _watch_input(endpoints: list[Endpoint]) -> None:
    while os.read(0, 4096):
        pass
    _stop(endpoints)


def _stop(endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        endpoint.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exit-with-parent", action="store_true")
    parser.add_argument("--url", required=True)
    parser.add_argument("--names", required=True)
    parser.add_argument("--plugins")
    options = parser.parse_args()
    raise_file_limit()
    plugins = options.plugins.split(",") if options.plugins else [_chaos_plugin()]
    asyncio.run(serve(options.url, options.names.split(","), plugins))


def _chaos_plugin() -> Any:
    from orbit_chaosplugin.service import ChaosPlugin

    return ChaosPlugin


if __name__ == "__main__":
    main()
