"""News: what is told of tasks that end, as events: `task_status` for one, `task_status_batch` for several.

An event says what happened; results are fetched. At once when there is time, in batches under load: after a message the next
one waits twenty times as long as it took, so that telling costs a twentieth of the engine's time whatever the load. There is
no fixed window. This module must not touch sockets, loops or the table of tasks; time comes as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgpack

TOPIC, BATCH_TOPIC = "task_status", "task_status_batch"
MAX_VALUE_BYTES = 1 << 10  # of a packed return value; a larger one is fetched
MAX_ERROR_CHARS = 300
BATCH_BYTES = 30 << 10  # an event has at most 32 KiB
BATCH_TASKS = 4_096
SHARE = 20.0
LONGEST_WAIT_S = 0.1

_TASKS = msgpack.packb("tasks")
_FIRST = msgpack.packb("uid")
_REST = {name: msgpack.packb(name) for name in ("state", "exit_code", "error", "return_value")}
_NIL = b"\xc0"
_pack = msgpack.packb
Notify = Callable[[str, bytes], None]  # topic, packed data


def brief(uid: str, state: str, exit_code: object, error: str, value: bytes | None) -> bytes:
    """One task's news, packed: uid, state, exit code, the error in one line, and a plain value if it is small."""
    known = exit_code if isinstance(exit_code, int) else None
    parts = [b"\x85", _FIRST, _pack(uid), _REST["state"], _pack(state), _REST["exit_code"], _pack(known)]
    parts += [_REST["error"], _pack(error[:MAX_ERROR_CHARS] or None), _REST["return_value"]]
    parts.append(value if value is not None and len(value) <= MAX_VALUE_BYTES else _NIL)
    return b"".join(parts)


class News:
    """Gathers briefs and tells them when it is time. Used from the engine's thread alone."""

    def __init__(self, notify: Notify, *, longest_wait_s: float | None = None, most_tasks: int | None = None) -> None:
        self._notify = notify
        self._longest_wait_s = LONGEST_WAIT_S if longest_wait_s is None else min(longest_wait_s, LONGEST_WAIT_S)
        self._most_tasks = min(most_tasks or BATCH_TASKS, BATCH_TASKS)
        self._waiting: deque[bytes] = deque()
        self._next_at = 0.0

    def add(self, packed: bytes) -> None:
        self._waiting.append(packed)

    def due_in(self, now: float) -> float | None:
        """How long until `tell` should be called; None when there is nothing to tell."""
        return max(0.0, self._next_at - now) if self._waiting else None

    def tell(self, clock: Callable[[], float], *, everything: bool = False) -> None:
        """Tell one batch, or all there is, and say when the next one may follow."""
        began = clock()
        while self._waiting:
            self._tell_batch()
            if not everything:
                break
        ended = clock()
        self._next_at = ended + min((ended - began) * SHARE, self._longest_wait_s)

    def _tell_batch(self) -> None:
        batch, size = [self._waiting.popleft()], 0
        size = len(batch[0])
        while self._waiting and len(batch) < self._most_tasks and size + len(self._waiting[0]) <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1])
        if len(batch) == 1:
            self._notify(TOPIC, batch[0])
            return
        length = bytes((0x90 | len(batch),)) if len(batch) < 16 else b"\xdc" + len(batch).to_bytes(2, "big")
        self._notify(BATCH_TOPIC, b"".join((b"\x81", _TASKS, length, *batch)))
