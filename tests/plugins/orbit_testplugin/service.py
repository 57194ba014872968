"""The endpoint side of the test plugin.

Every execution of `once` and `once_read` is counted under its key, in this process and, where ORBIT_TESTPLUGIN_LOG names a
file, as a line appended there, so that a test can prove that nothing ran twice even across a killed endpoint.
"""

from __future__ import annotations

import asyncio
import builtins
import os
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import structlog

from orbit_zmq.plugin import Caller, Plugin, PluginSession, Raw, operation

LOG_VARIABLE = "ORBIT_TESTPLUGIN_LOG"
_counts: Counter[str] = Counter()


class OddError(Exception):
    """An exception that only this plugin knows."""


def executions(key: str) -> int:
    """How often operations with that key were executed, by all processes that share a log, else by this one."""
    path = os.environ.get(LOG_VARIABLE)
    if not path:
        return _counts[key]
    try:
        with open(path, encoding="utf-8") as lines:
            return sum(line.rstrip("\n") == key for line in lines)
    except FileNotFoundError:
        return 0


def _count(key: str) -> int:
    _counts[key] += 1
    path = os.environ.get(LOG_VARIABLE)
    if path:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, f"{key}\n".encode())
        finally:
            os.close(descriptor)
    return _counts[key]


class TestSession(PluginSession):
    """One session; `initialize_s` and `initialize_error` make its start slow, or fail."""

    __test__ = False  # for pytest, which collects by name

    def __init__(self, sid: str, initialize_s: float = 0.0, initialize_error: str = "") -> None:
        super().__init__(sid)
        self._initialize_s = initialize_s
        self._initialize_error = initialize_error

    async def initialize(self) -> None:
        if self._initialize_s:
            await asyncio.sleep(self._initialize_s)
        if self._initialize_error:
            raise OddError(self._initialize_error)

    @operation(effect="read")
    async def echo(self, text: str) -> str:
        """The same text."""
        return text

    @operation(effect="read")
    async def echo_any(self, value: Any) -> Any:
        """The same value."""
        return value

    @operation(effect="run")
    async def echo_raw(self, body: Raw) -> Raw:
        """The same bytes."""
        return body

    @operation(effect="write")
    async def count(self, data: AsyncIterator[bytes], pause_s: float = 0.0) -> int:
        """How many bytes the stream has."""
        total = 0
        async for chunk in data:
            total += len(chunk)
            if pause_s:
                await asyncio.sleep(pause_s)
        return total

    @operation(effect="read")
    async def produce(self, total_bytes: int, chunk_bytes: int = 65536, pause_s: float = 0.0) -> AsyncIterator[bytes]:
        """A stream of that many bytes."""
        block = bytes(range(256)) * (chunk_bytes // 256 + 1)
        left = total_bytes
        while left > 0:
            size = min(left, chunk_bytes)
            yield block[:size]
            left -= size
            if pause_s:
                await asyncio.sleep(pause_s)

    @operation(effect="read")
    async def produce_and_fail(self, total_bytes: int, message: str = "in the middle") -> AsyncIterator[bytes]:
        """A stream that breaks after that many bytes."""
        async for block in self.produce(total_bytes):
            yield block
        raise OddError(message)

    @operation(effect="write")
    async def copy(self, data: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same stream back."""
        async for chunk in data:
            yield chunk

    @operation(effect="read")
    async def sleep(self, seconds: float) -> float:
        """Answer after that time."""
        await asyncio.sleep(seconds)
        return seconds

    @operation(effect="run", deadline_s=60)
    async def note_cancel(self, seconds: float) -> None:
        """Answer after that time, or leave a line that says why it was canceled."""
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError as error:
            _count(f"canceled:{error}".replace(" ", "_"))
            raise

    @operation(effect="run")
    async def block(self, seconds: float, until: str = "") -> float:
        """Block the endpoint's loop for that time, or until there is such a file, as no plugin should."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at and not (until and os.path.exists(until)):  # noqa: ASYNC240
            time.sleep(0.05)  # noqa: ASYNC251 - the fault that this is for
        return seconds

    @operation(effect="run", deadline_s=60)
    async def ignore_cancel(self, seconds: float) -> float:
        """Go on for that time, whoever wants it to end."""
        ends_at = time.monotonic() + seconds
        while time.monotonic() < ends_at:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.1)
        return seconds

    @operation(effect="run")
    async def fail(self, kind: str = "ValueError", message: str = "on purpose") -> None:
        """Raise an exception: a builtin by its name, or OddError."""
        exception = OddError if kind == "OddError" else getattr(builtins, kind)
        raise exception(message)

    @operation(effect="write")
    async def write_log(self, text: str) -> None:
        """Write a line to the endpoint's log, here and in a thread, as a plugin with a logger of its own does."""
        structlog.get_logger().info("written-here", text=text)
        await asyncio.to_thread(structlog.get_logger().info, "written-in-a-thread", text=text)

    @operation(effect="run")
    async def fork(self) -> int:
        """Fork and go on in both processes, as no plugin should; the process id of the child."""
        return os.fork()

    @operation(effect="run")
    async def fail_oddly(self) -> None:
        """Raise an exception whose text cannot be encoded, as file names may have it."""
        raise ValueError("bad \udcff name")

    @operation(effect="run")
    async def fail_in_a_group(self) -> None:
        """Raise several exceptions at once."""
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    @operation(effect="write")
    async def once(self, key: str, seconds: float = 0.0, size: int = 0) -> dict[str, Any]:
        """Count an execution; not idempotent. Answers after that time, with that many bytes beside the count."""
        count = _count(key)
        if seconds:
            await asyncio.sleep(seconds)
        return {"key": key, "count": count, "padding": bytes(size)}

    @operation(effect="write", deadline_s=60)
    async def flood(self, source: str, seconds: float) -> int:
        """Tell numbers as events, as fast as a `thread` or the `loop` can, for that time; how many they were."""
        ends_at, told = time.monotonic() + seconds, 0

        def from_thread() -> int:
            number = 0
            while time.monotonic() < ends_at:
                self.notify("flood", number)
                number += 1
            return number

        if source == "thread":
            return await asyncio.to_thread(from_thread)
        while time.monotonic() < ends_at:
            self.notify("flood", told)
            told += 1
            await asyncio.sleep(0)
        return told

    @operation(effect="write", deadline_s=300)
    async def tell(self, first: int, count: int, topic: str = "news", per_s: float = 0.0) -> int:
        """Tell numbers as events, all at once or so many a second; how many they were."""
        began = time.monotonic()
        for number in range(first, first + count):
            if per_s and (early_s := (number - first) / per_s - (time.monotonic() - began)) > 0:
                await asyncio.sleep(early_s)
            self.notify(topic, {"number": number, "from": self.sid})
        return count

    @operation(effect="write")
    async def where(self, text: str) -> dict[str, Any]:
        """Which session of which process this is, and the text."""
        return {"sid": self.sid, "pid": os.getpid(), "text": text}

    @operation(effect="read")
    async def once_read(self, key: str) -> int:
        """Count an execution; idempotent."""
        return _count(key)

    @operation(effect="read")
    async def executions(self, key: str) -> int:
        """How often the key was counted."""
        return executions(key)


class TestPlugin(Plugin):
    """The plugin; its own operations need no session."""

    __test__ = False

    plugin_name = "test"
    session_class = TestSession

    @operation(effect="read")
    async def echo_plain(self, text: str) -> str:
        """The same text, without a session."""
        return text

    @operation(effect="read")
    async def whoami(self, caller: Caller) -> dict[str, str]:
        """The user and the name that the call came with."""
        return {"user": caller.user, "name": caller.name}
