"""A line that can be bad: a TCP proxy that resets, holds, slows and stalls what passes through it.

What is held is passed on later, as TCP would repeat it; bytes are never lost from a connection that lives. Loss is
what a program sees of it: now and then everything behind a lost packet waits for its repetition.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections.abc import Coroutine
from types import TracebackType
from typing import Any

PIECE_BYTES = 16_384
REPEAT_S = 0.2  # what TCP waits before it repeats a packet, at the least
RESET = struct.pack("ii", 1, 0)


class Line:
    """One proxy to one address, in a thread of its own. All methods are for other threads."""

    def __init__(self, address: str, seed: int = 0) -> None:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self._target = (host, int(port))
        self._random = random.Random(seed)
        self._rate_bytes_s = 0.0
        self._loss = 0.0
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._up, self._down = asyncio.Event(), asyncio.Event()  # set: it flows
        self._up.set()
        self._down.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, name="chaos-line", daemon=True)
        self._thread.start()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def cut(self) -> None:
        """Reset all connections; new ones are welcome."""
        self._do(self._reset())

    def hold(self, *, up: bool = True, down: bool = True) -> None:
        """Pass nothing in these directions (up is towards the broker), on new connections neither."""
        self._do(self._set(up, down, False))

    def limit(self, bytes_s: float = 0.0, loss: float = 0.0) -> None:
        """Pass at most so many bytes a second, and stall this share of the pieces. Zero for none."""
        self._rate_bytes_s, self._loss = bytes_s, loss

    def heal(self) -> None:
        """Be a good line again."""
        self.limit()
        self._do(self._set(True, True, True))

    def close(self) -> None:
        """Reset everything and end."""
        if self._thread.is_alive():
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(60)

    # In the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._loop.run_forever()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, sock=self._listener)

    async def _set(self, up: bool, down: bool, flows: bool) -> None:
        for is_meant, event in ((up, self._up), (down, self._down)):
            if is_meant:
                (event.set if flows else event.clear)()

    async def _reset(self) -> None:
        pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for writer in pair:
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        await self._reset()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        try:
            far_in, far_out = await asyncio.open_connection(*self._target)
        except OSError:
            near_out.transport.abort()
            return
        pair = (near_out, far_out)
        self._pairs.add(pair)
        for source, sink, flows in ((near_in, far_out, self._up), (far_in, near_out, self._down)):
            task = self._loop.create_task(self._pass(source, sink, flows, pair))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        flows: asyncio.Event,
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(PIECE_BYTES):
                if self._loss and self._random.random() < self._loss:
                    await asyncio.sleep(REPEAT_S)
                if self._rate_bytes_s:
                    await asyncio.sleep(len(data) / self._rate_bytes_s)
                await flows.wait()
                sink.write(data)
                await sink.drain()
        await flows.wait()  # an end that the other side would not hear of while nothing passes
        self._pairs.discard(pair)
        for writer in pair:
            writer.close()
