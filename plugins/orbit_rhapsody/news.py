"""News: what is told of tasks that start and end, as events: `task_status` for one, `task_status_batch` for several.

An event says what happened; results are fetched. Moments after its result when there is time, in batches under load: after a
message the next one waits twenty times as long as it took, so that telling costs a twentieth of the engine's time whatever
the load. There is no fixed window. This module must not touch sockets, loops or the table of tasks; time comes as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgpack

from orbit_rhapsody.codec import STATES
from orbit_rhapsody.values import strict_packer

TOPIC, BATCH_TOPIC = "task_status", "task_status_batch"
MAX_VALUE_BYTES = 1 << 10  # of a packed return value; a larger one is fetched
MAX_ERROR_CHARS = 300
BATCH_BYTES = 30 << 10  # an event has at most 32 KiB
BATCH_TASKS = 4_096
FIRST_WAIT_S = 0.005  # the result is on its way by then, and the event not in front of it
SHARE = 20.0
LONGEST_WAIT_S = 0.1
MOST_WAITING = 4_096  # beyond that many the next batch waits for nothing: memory is bounded

_TASKS = msgpack.packb("tasks")
_UID = b"\x85" + msgpack.packb("uid")  # of a map with five entries
_STATE, _EXIT_CODE, _ERROR, _VALUE = map(msgpack.packb, ("state", "exit_code", "error", "return_value"))
_STATES = {state: _STATE + msgpack.packb(state) + _EXIT_CODE for state in STATES}
_NIL = b"\xc0"
Notify = Callable[[str, bytes], None]  # topic, packed data


def brief(uid: str, state: str, exit_code: object = None, error: str = "", value: bytes | None = None) -> bytes:
    """One task's news, packed: uid, state, exit code, the error in one line, and a plain value if it is small."""
    pack = strict_packer().pack
    code = pack(exit_code) if type(exit_code) is int else _NIL
    line = pack(error[:MAX_ERROR_CHARS]) if error else _NIL
    shown = value if value is not None and len(value) <= MAX_VALUE_BYTES else _NIL
    return b"".join((_UID, pack(uid), _STATES[state], code, _ERROR, line, _VALUE, shown))


class News:
    """Gathers briefs and tells them when it is time. Used from the engine's thread alone."""

    def __init__(self, notify: Notify, *, longest_wait_s: float | None = None, most_tasks: int | None = None) -> None:
        self._notify = notify
        self._longest_wait_s = LONGEST_WAIT_S if longest_wait_s is None else min(longest_wait_s, LONGEST_WAIT_S)
        self._most_tasks = min(most_tasks or BATCH_TASKS, BATCH_TASKS)
        self._waiting: deque[bytes] = deque()
        self._next_at = 0.0
        self._told = [0, 0]  # tasks, messages

    @property
    def told(self) -> dict[str, int]:
        return {"tasks": self._told[0], "messages": self._told[1]}

    def add(self, packed: bytes, now: float) -> None:
        if not self._waiting:
            self._next_at = max(self._next_at, now + min(FIRST_WAIT_S, self._longest_wait_s))
        self._waiting.append(packed)

    def due_in(self, now: float) -> float | None:
        """How long until `tell` should be called; None when there is nothing to tell."""
        if not self._waiting:
            return None
        return 0.0 if len(self._waiting) > MOST_WAITING else max(0.0, self._next_at - now)

    def tell(self, clock: Callable[[], float], *, everything: bool = False) -> None:
        """Tell one batch, or all there is, and say when the next one may follow."""
        began = clock()
        while self._waiting:
            self._tell_batch()
            if not everything and len(self._waiting) <= MOST_WAITING:
                break
        ended = clock()
        self._next_at = ended + min((ended - began) * SHARE, self._longest_wait_s)

    def _tell_batch(self) -> None:
        batch, size = [self._waiting.popleft()], 0
        size = len(batch[0])
        while self._waiting and len(batch) < self._most_tasks and size + len(self._waiting[0]) <= BATCH_BYTES:
            batch.append(self._waiting.popleft())
            size += len(batch[-1])
        self._told = [self._told[0] + len(batch), self._told[1] + 1]
        if len(batch) == 1:
            self._notify(TOPIC, batch[0])
            return
        length = bytes((0x90 | len(batch),)) if len(batch) < 16 else b"\xdc" + len(batch).to_bytes(2, "big")
        self._notify(BATCH_TOPIC, b"".join((b"\x81", _TASKS, length, *batch)))
