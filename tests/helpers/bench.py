"""A service with fakes in place of the transport: calls are made, answers are read, no socket is opened."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from orbit_testplugin import TestPlugin
from orbit_zmq.endpoint.access import Access, Share
from orbit_zmq.endpoint.service import Service
from orbit_zmq.errors import OrbitError
from orbit_zmq.plugin import Host, Plugin
from orbit_zmq.wire.body import pack_body, unpack_body
from orbit_zmq.wire.header import ALL_RIGHTS, RAW, Header, Kind

EVERYBODY = Access("hpc1", {"*": Share(rights=("read", "write", "run"))}, lambda: "ann")
PATIENCE_S = 30.0  # a deadline for tests that wait for a condition; it passes only when something is broken


def incarnation_of(source: str) -> bytes:
    """Of the process that has this name."""
    return b"c" * 16 if source == "ann.1" else hashlib.sha256(source.encode()).digest()[:16]


class FakeCall:
    """An IncomingCall that keeps what it was answered, and how often."""

    def __init__(self, header: Header, body: bytes, flags: int, stream_in: AsyncIterator[bytes] | None) -> None:
        self.header = header
        self.body = body
        self.flags = flags
        self.stream_in = stream_in
        self.answers: list[Any] = []
        self.chunks: list[bytes] = []
        self.answered = asyncio.Event()
        self.credit = asyncio.Event()  # cleared: reply_stream waits before each chunk
        self.credit.set()

    def reply(self, body: bytes, flags: int) -> None:
        self._answer(body if flags & RAW else unpack_body(body, flags))

    def fail(self, error: OrbitError) -> None:
        self._answer(error)

    async def reply_stream(self, chunks: AsyncIterator[bytes]) -> None:
        try:
            async for chunk in chunks:
                self.chunks.append(chunk)
                await self.credit.wait()
        except OrbitError as error:
            self.fail(error)
            return
        self._answer(b"".join(self.chunks))

    def _answer(self, answer: Any) -> None:
        self.answers.append(answer)
        self.answered.set()

    async def result(self) -> Any:
        """The one answer; an error is raised."""
        await asyncio.wait_for(self.answered.wait(), PATIENCE_S)
        assert len(self.answers) == 1
        if isinstance(self.answers[0], OrbitError):
            raise self.answers[0]
        return self.answers[0]


class Bench:
    """A running service and short words to call it."""

    def __init__(self, plugins: Sequence[Plugin], **limits: Any) -> None:
        self.announced: list[dict[str, Any]] = []
        self.service = Service(Host(name="hpc1"), plugins, **{"access": EVERYBODY, "announce": self.announced.append, **limits})
        self._next_id = 0

    def start(
        self,
        operation: str,
        arguments: dict[str, Any] | bytes | None = None,
        *,
        plugin: str = "test",
        session: str = "",
        user: str = "ann",
        source: str = "ann.1",
        left_s: float = PATIENCE_S,
        rights: int = ALL_RIGHTS,
        stream_in: AsyncIterator[bytes] | None = None,
    ) -> FakeCall:
        """Hand a call to the service."""
        self._next_id += 1
        header = Header(
            Kind.REQUEST, id=self._next_id, caller=incarnation_of(source), source=source, user=user, plugin=plugin,
            session=session, operation=operation, left_s=left_s, rights=rights,
        )  # fmt: skip
        body, body_flags = (arguments, RAW) if isinstance(arguments, bytes) else pack_body(arguments or {})
        call = FakeCall(header, body, body_flags, stream_in)
        self.service.on_call(call)
        return call

    async def call(self, operation: str, arguments: dict[str, Any] | bytes | None = None, **options: Any) -> Any:
        """Make a call and wait for its answer."""
        return await self.start(operation, arguments, **options).result()

    async def session(self, plugin: str = "test", user: str = "ann", **arguments: Any) -> str:
        """The id of a new session that is ready."""
        answer = await self.call("register_session", arguments, plugin=plugin, user=user)
        status = await self.call("session_status", {"wait_s": 5}, plugin=plugin, session=answer["sid"], user=user)
        assert status["status"] == "ready"
        return str(answer["sid"])


@asynccontextmanager
async def served(*plugins: Plugin, **limits: Any) -> AsyncIterator[Bench]:
    """A service that runs for the length of the block, by default with the test plugin."""
    bench = Bench(plugins or [TestPlugin(Host(name="hpc1"))], **limits)
    running = asyncio.create_task(bench.service.run())
    await asyncio.sleep(0)
    try:
        yield bench
    finally:
        await asyncio.wait_for(bench.service.stop(), PATIENCE_S)
        await running


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run one test's coroutine."""
    asyncio.run(scenario())


async def until(condition: Any) -> None:
    """Let the loop turn until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - a condition on anything
            await asyncio.sleep(0.001)


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
