"""Doing what the schedule says to a world, and undoing it in time."""

from __future__ import annotations

import heapq
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from chaoslab.schedule import Fault
from chaoslab.world import World, say
from orbit_zmq import Client
from orbit_zmq.errors import OrbitError

AWAY_S = 8.0  # after a fault at an endpoint, its calls may end as lost for that long: 3 s, and what a restart takes
SLOW_BYTES_S = 100_000.0
LOSS = 0.05
JUMP_S = 3600.0
Step = Callable[[], None]


class Injector:
    """Plays a schedule. One thread; plugins are asked for their misbehaviour in threads that nobody waits for."""

    def __init__(self, world: World | None, faults: list[Fault], verbose: bool = False) -> None:
        self.faults, self.verbose = faults, verbose
        self._world = world
        self.began = 0.0
        self._starting: dict[str, threading.Thread] = {}
        self._held_up: dict[str, int] = {}  # how many holds each line has, by direction
        self._dos: dict[str, Callable[[Fault], Step | None]] = {
            "kill": self._kill,
            "terminate": self._terminate,
            "pause": self._pause,
            "reset": lambda fault: self.world.lines[fault.target].cut(),
            "down": lambda fault: self._hold(fault, up=True, down=True),
            "deaf": lambda fault: self._hold(fault, up=False, down=True),
            "mute": lambda fault: self._hold(fault, up=True, down=False),
            "slow": lambda fault: self._limit_line(fault, bytes_s=SLOW_BYTES_S),
            "loss": lambda fault: self._limit_line(fault, loss=LOSS),
            "disk-full": lambda fault: self._limit_process(fault, resource.RLIMIT_FSIZE, 0),
            "file-limit": self._limit_files,
            "clock-jump": self._jump,
            "plugin-exit": self._exit,
            "plugin-hang": lambda fault: self._misbehave(fault, "hang", seconds=fault.for_s),
            "plugin-hold": lambda fault: self._misbehave(fault, "hold", seconds=fault.for_s),
            "plugin-fork": lambda fault: self._misbehave(fault, "fork"),
        }

    @property
    def world(self) -> World:
        assert self._world is not None
        return self._world

    @property
    def kinds(self) -> set[str]:
        """What it can do."""
        return set(self._dos)

    def play(self, duration_s: float) -> None:
        """All faults at their times, until the end; then everything is whole again."""
        order = itertools.count()
        steps: list[tuple[float, int, Fault, Step | None]] = [(fault.at_s, next(order), fault, None) for fault in self.faults]
        heapq.heapify(steps)
        self.began = time.monotonic()
        while steps and steps[0][0] <= duration_s:
            at_s, _, fault, undo = heapq.heappop(steps)
            time.sleep(max(0.0, self.began + at_s - time.monotonic()))
            if undo is not None:
                undo()
                continue
            if self.verbose:
                say(str(fault))
            undo = self._dos[fault.kind](fault)
            if fault.target in self.world.children and fault.target.startswith("hpc"):
                since = self.began + at_s - 0.5
                self.world.away.append((since, max(time.monotonic(), since + fault.for_s) + AWAY_S))
            if undo is not None:
                heapq.heappush(steps, (fault.ends_s, next(order), fault, undo))
        for _, _, _, undo in steps:
            if undo is not None:
                undo()
        for starting in self._starting.values():
            starting.join()
        time.sleep(max(0.0, self.began + duration_s - time.monotonic()))

    def _kill(self, fault: Fault) -> None:
        self._replace(fault.target, self.world.kill)

    def _terminate(self, fault: Fault) -> None:
        self.world.signal(fault.target, signal.SIGCONT)
        self._replace(fault.target, self.world.terminate)

    def _replace(self, name: str, end: Callable[[str], None]) -> None:
        """End a process and start it again, beside what else happens: its line may be bad. One that is starting is spared."""
        if name in self._starting and self._starting[name].is_alive():
            return
        end(name)
        self._starting[name] = threading.Thread(target=self._restart, args=(name, time.monotonic()))
        self._starting[name].start()

    def _pause(self, fault: Fault) -> Step:
        self.world.signal(fault.target, signal.SIGSTOP)
        return lambda: self.world.signal(fault.target, signal.SIGCONT)

    def _hold(self, fault: Fault, *, up: bool, down: bool) -> Step:
        line = self.world.lines[fault.target]
        line.hold(up=up, down=down)
        self._held_up[fault.target] = self._held_up.get(fault.target, 0) + 1
        return lambda: self._heal(fault.target)

    def _limit_line(self, fault: Fault, bytes_s: float = 0.0, loss: float = 0.0) -> Step:
        self.world.lines[fault.target].limit(bytes_s, loss)
        return self.world.lines[fault.target].limit

    def _heal(self, target: str) -> None:
        self._held_up[target] -= 1
        if not self._held_up[target]:
            self.world.lines[target].heal()

    def _limit_process(self, fault: Fault, which: int, soft: int) -> Step:
        self.world.limit(fault.target, which, soft)
        return lambda: self.world.limit(fault.target, which, None)

    def _limit_files(self, fault: Fault) -> Step:
        """No new connection has room; those that are there go on."""
        used = len(os.listdir(f"/proc/{self.world.children[fault.target].pid}/fd"))
        return self._limit_process(fault, resource.RLIMIT_NOFILE, used)

    def _jump(self, fault: Fault) -> Step:
        self.world.jump_clock(JUMP_S)
        return lambda: self.world.jump_clock(0.0)

    def _exit(self, fault: Fault) -> None:
        self._misbehave(fault, "exit")
        self._replace(fault.target, self._wait_for_exit)

    def _restart(self, name: str, ended: float) -> None:
        self.world.restart(name)
        if name != "broker":
            self.world.away.append((ended - 1.0, time.monotonic() + AWAY_S))

    def _wait_for_exit(self, name: str) -> None:
        child, patience = self.world.children[name], time.monotonic() + 3
        while child.exit_code() is None and time.monotonic() < patience:
            time.sleep(0.02)
        self.world.kill(name)  # where it could not be reached

    def _misbehave(self, fault: Fault, operation: str, **arguments: float) -> None:
        def ask() -> None:
            with suppress(OrbitError), Client(url=self.world.ipc) as client:
                client.call(fault.target, "chaos", operation, arguments, deadline_s=10)

        threading.Thread(target=ask, daemon=True).start()
