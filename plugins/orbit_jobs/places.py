"""Where jobs may go: the targets of the settings and the runners of this machine, by name, each made once.

It makes runners and asks none of them for anything but whether they can be used.
"""

from __future__ import annotations

import threading
from typing import Any

from orbit_jobs.models import JobHandle
from orbit_jobs.runner import JobRunner, build, runner_of
from orbit_jobs.targets import Targets
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.errors import InvalidArgument, NotFound, OrbitError
from orbit_zmq.plugin.arguments import did_you_mean

LOCAL = "shell"


class Places:
    """Targets by name. For any thread."""

    def __init__(self, targets: Targets, default: str | None) -> None:
        self._targets = targets
        self._default = default
        self._made: dict[str, JobRunner] = {}
        self._foreign: dict[str, JobRunner] = {}  # of handles whose target is another one by now
        self._lock = threading.Lock()
        if default is not None and default not in targets and default not in self.names():
            raise InvalidArgument(f"default_target is {default!r}.", hint=did_you_mean(default, self.names(), "There are"))

    def names(self) -> list[str]:
        """The targets that there are: those of the settings, the batch system, and processes of this machine."""
        own = [detect_batch_system().psij_executor] if detect_batch_system().name != "none" else []
        return list(dict.fromkeys((*self._targets, *own, LOCAL)))

    @property
    def default(self) -> str:
        """Where a job goes that names no target."""
        return self._default or self.names()[0]

    def find(self, name: str | None) -> tuple[str, JobRunner]:
        """A target's name and runner. NotFound where there is none, other errors where its runner cannot be made."""
        wanted = self.default if name is None else name
        if wanted == "local":
            wanted = LOCAL
        if wanted not in self.names():
            raise NotFound(f"There is no target {wanted!r} here.", hint=did_you_mean(wanted, self.names(), "There are"))
        with self._lock:
            if wanted not in self._made:
                self._made[wanted] = build(self._targets.get(wanted, {"runner": wanted}))
            return wanted, self._made[wanted]

    def runner_of(self, handle: JobHandle) -> JobRunner:
        """The runner that has a job, or one like it."""
        if handle.target is not None and (made := self._made.get(handle.target)) is not None and made.backend == handle.backend:
            return made
        if handle.target in self.names():
            found = self.find(handle.target)[1]
            if found.backend == handle.backend:
                return found
        with self._lock:
            key = f"{handle.backend} {handle.target}"
            if key not in self._foreign:
                self._foreign[key] = runner_of(handle)
            return self._foreign[key]

    def poll_s(self, handle: JobHandle) -> float:
        """How often jobs like that one are looked at."""
        made = self._made.get(handle.target or "")
        return made.poll_s if made is not None else JobRunner.poll_s

    def described(self) -> list[dict[str, Any]]:
        """`{name, runner, usable, reason}` of each."""
        found = []
        for name in self.names():
            options = self._targets.get(name, {"runner": name})
            try:
                self.find(name)
                reason = ""
            except OrbitError as error:
                reason = error.message
            runner = options.get("runner") or options.get("module")
            found.append({"name": name, "runner": runner, "usable": not reason, "reason": reason})
        return found
