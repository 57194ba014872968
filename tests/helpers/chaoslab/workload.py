"""A workload: one client process that calls and submits tasks at a steady rate, and writes down all that it does.

`python -m chaoslab.workload --url ... --history ... --endpoints hpc1,hpc2` runs until its standard input is closed, then
begins nothing new, waits for what is open, and says `closed`. A control timer in the same loop says when the process itself
was late, so that a paused process is not taken for a late answer.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from chaoslab.history import History, Record
from orbit_zmq import AsyncClient
from orbit_zmq.errors import OrbitError

CONTROL_S = 0.01
LATE_S = 0.02  # a control timer that is later than that is worth a line
OPEN = 400  # calls and batches at once
BATCH = 20
TASK_PATIENCE_S = 60.0
END_S = 90.0  # longer than any deadline
REOPEN_S = 0.5
KINDS = {"once": 45, "look": 20, "large": 8, "anywhere": 12, "short": 7, "tasks": 8}


class Workload:
    """What one process does; all randomness is from the seed."""

    def __init__(
        self, client: AsyncClient, name: str, history: History, endpoints: list[str], seed: int, least_s: float
    ) -> None:
        self.client, self.name, self.history, self.endpoints = client, name, history, endpoints
        self.random = random.Random(f"{seed} {name}")
        self.least_s = least_s
        self.numbers = itertools.count(1)
        self.slots = asyncio.Semaphore(OPEN)
        self.sessions: dict[str, Any] = {}
        self.opening: dict[str, asyncio.Lock] = {endpoint: asyncio.Lock() for endpoint in endpoints}

    async def run(self, rate: float, kinds: dict[str, int], ends: asyncio.Event) -> None:
        """Begin `rate` calls or batches a second until the end, then wait for those that are open."""
        names, weights = list(kinds), list(kinds.values())
        began = time.monotonic()
        tasks: set[asyncio.Task[None]] = set()
        for number in itertools.count(1):
            if ends.is_set():
                break
            await self.slots.acquire()
            kind = self.random.choices(names, weights)[0]
            task = asyncio.get_running_loop().create_task(getattr(self, f"do_{kind}")(self.random.choice(self.endpoints)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            task.add_done_callback(lambda _: self.slots.release())
            await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        _, late = await asyncio.wait(tasks, timeout=END_S) if tasks else ((), ())
        if not late:
            self.history.add(event="closed", t=time.monotonic())

    async def do_once(self, endpoint: str) -> None:
        await self._call(endpoint, "once", self._deadline_s(), seconds=self.random.uniform(0, 0.3))

    async def do_look(self, endpoint: str) -> None:
        await self._call(endpoint, "look", self._deadline_s(), seconds=self.random.uniform(0, 0.1))

    async def do_large(self, endpoint: str) -> None:
        padding, size = bytes(self.random.randrange(70_000, 400_000)), self.random.randrange(1000, 300_000)
        await self._call(endpoint, "once", 20.0, moves=True, padding=padding, size=size)

    async def do_short(self, endpoint: str) -> None:
        await self._call(endpoint, "once", self.random.uniform(0.3, 1.0), seconds=2.0)

    async def do_anywhere(self, endpoint: str) -> None:
        """By capability: the broker says where."""
        await self._call("*", "once", self._deadline_s(), seconds=self.random.uniform(0, 0.5))

    async def do_tasks(self, endpoint: str) -> None:
        """A batch, and the results of all its tasks."""
        numbers = [next(self.numbers) for _ in range(BATCH)]
        names = {f"{self.name}-t{number}": number for number in numbers}
        work = "orbit_chaosplugin.record:work"
        tasks = [{"uid": uid, "function": work, "args": [uid, number]} for uid, number in names.items()]
        for uid, number in names.items():
            self._begin(uid, "task", "task", None, number * number, may_repeat=False, moves=False)
        results: list[dict[str, Any]] = []
        try:
            session = await self._session(endpoint)
            await session.submit_tasks(tasks)
            results = await session.wait_tasks(list(names), timeout=TASK_PATIENCE_S)
            ended = {result["uid"]: _outcome_of(result) for result in results}
        except OrbitError as error:
            if error.code in ("not-found", "session-closed", "session-expired", "endpoint-lost", "outcome-unknown"):
                self.sessions.pop(endpoint, None)
            ended = {uid: (error.code, str(error)) for uid in names}
        except Exception as error:
            ended = {uid: (type(error).__name__, str(error)) for uid in names}
        for uid, (outcome, value) in ended.items():
            self.history.add(event="end", id=uid, t=time.monotonic(), outcome=outcome, value=value)

    def _deadline_s(self) -> float:
        return self.random.uniform(1, 10) * self.least_s

    async def _session(self, endpoint: str) -> Any:
        async with self.opening[endpoint]:
            if endpoint not in self.sessions:
                self.sessions[endpoint] = await self.client.get_plugin(endpoint, "rhapsody", backends=["concurrent"])
            return self.sessions[endpoint]

    def _begin(self, name: str, kind: str, operation: str, deadline_s: float | None, wanted: Any, **facts: Any) -> None:
        record: Record = {"event": "begin", "id": name, "kind": kind, "operation": operation, "key": name}
        self.history.add(**record, t=time.monotonic(), deadline_s=deadline_s, wanted=wanted, **facts)

    async def _call(self, endpoint: str, operation: str, deadline_s: float, moves: bool = False, **arguments: Any) -> None:
        number = next(self.numbers)
        name = f"{self.name}-{number}"
        wanted = [number * number, arguments.get("size", 0)]
        self._begin(name, "call", operation, deadline_s, wanted, may_repeat=operation == "look", moves=moves)
        value: Any = None
        try:
            said = {"key": name, "number": number, **arguments}
            answer = await self.client.call(endpoint, "chaos", operation, said, deadline_s=deadline_s)
            outcome, value = "ok", [answer["square"], len(answer["padding"])]
        except OrbitError as error:
            outcome, value = error.code, str(error)
        except Exception as error:
            outcome, value = type(error).__name__, str(error)
        self.history.add(event="end", id=name, t=time.monotonic(), outcome=outcome, value=value)


def _outcome_of(result: dict[str, Any]) -> tuple[str, Any]:
    if result["state"] == "DONE":
        return "ok", result["return_value"]
    error = result.get("exception")
    return getattr(error, "code", result["state"]), str(error)


async def control(history: History) -> None:
    """Say when this process is late by itself."""
    while True:
        due = time.monotonic() + CONTROL_S
        await asyncio.sleep(CONTROL_S)
        now = time.monotonic()
        if now - due > LATE_S:
            history.add(event="late", t=now, late_s=now - due)


def _watch_input(loop: asyncio.AbstractEventLoop, ends: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(ends.set)


async def main(options: argparse.Namespace) -> None:
    """Run until standard input is closed."""
    history, ends = History(Path(options.history)), asyncio.Event()
    kinds = {kind: KINDS[kind] for kind in (options.kinds.split(",") if options.kinds else KINDS)}
    threading.Thread(target=_watch_input, args=(asyncio.get_running_loop(), ends), daemon=True).start()
    timer = asyncio.get_running_loop().create_task(control(history))
    async with AsyncClient(url=options.url) as client:
        workload = Workload(client, options.name, history, options.endpoints.split(","), options.seed, options.deadline)
        print('{"ready": true}', flush=True)
        await workload.run(options.rate, kinds, ends)
    timer.cancel()


def parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exit-with-parent", action="store_true")
    for name in ("url", "history", "endpoints", "name"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--kinds", default="")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=2.0, help="of the most impatient calls, in seconds")
    parser.add_argument("--rate", type=float, default=150.0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    gc.freeze()
    asyncio.run(main(parsed(sys.argv[1:])))
