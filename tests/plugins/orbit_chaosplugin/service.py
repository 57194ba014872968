"""The endpoint side of the plugin `chaos`; its operations need no session, so that they outlive a restarted endpoint."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import time

from orbit_chaosplugin.record import executed
from orbit_zmq.plugin import Plugin, PluginSession, operation

BACKTRACKS = re.compile("(a+)+$")  # one match in C, which holds the interpreter's lock to its end


class ChaosPlugin(Plugin):
    """Writes down what it executes."""

    plugin_name = "chaos"
    session_class = PluginSession

    @operation(effect="write", deadline_s=30)
    async def once(self, key: str, number: int, seconds: float = 0.0, padding: bytes = b"", size: int = 0) -> dict[str, object]:
        """Not to be executed twice: the square of a number, after a time, with that many bytes beside it."""
        executed(key)
        if seconds:
            await asyncio.sleep(seconds)
        return {"square": number * number, "padding": bytes(size)}

    @operation(effect="read", deadline_s=30)
    async def look(self, key: str, number: int, seconds: float = 0.0) -> dict[str, object]:
        """The same; harmless when it is executed again."""
        executed(key)
        if seconds:
            await asyncio.sleep(seconds)
        return {"square": number * number, "padding": b""}

    @operation(effect="read")
    async def census(self) -> dict[str, int]:
        """How many objects and open files this process has."""
        gc.collect()
        return {"objects": len(gc.get_objects()), "files": len(os.listdir("/proc/self/fd"))}

    @operation(effect="run")
    async def exit(self) -> None:
        """End the endpoint's process at once."""
        os._exit(1)

    @operation(effect="run")
    async def hang(self, seconds: float) -> None:
        """Block the endpoint's loop."""
        time.sleep(seconds)  # noqa: ASYNC251 - the fault that this is for

    @operation(effect="run")
    async def hold(self, seconds: float) -> None:
        """Hold the interpreter's lock, in pieces of about a second each, so that no thread runs for long stretches."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            BACKTRACKS.match("a" * 25 + "b")

    @operation(effect="run")
    async def fork(self) -> int:
        """Fork and go on in both processes, as no plugin should."""
        return os.fork()
