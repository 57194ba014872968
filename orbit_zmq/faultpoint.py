"""Fault points: places where a test makes a process die, stop, or be slow at an exact moment.

`ORBIT_FAULTPOINTS` names points and what happens there, with commas: `broker.sent=kill@500` ends the process at the 500th
passage, `endpoint.executed=sleep:0.2` makes every passage slow, `client.sending=stop@1` stops the process until it is
continued. Without the variable a point costs one look at `is_armed`. It is read once, at the start. Nothing in here may be
used for anything but tests, and no point may change what the code around it does.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.settings import environment

VARIABLE = "ORBIT_FAULTPOINTS"
POINTS = {
    "broker.received": "a message has been taken from the socket and not been looked at",
    "broker.sending": "a message is about to be given to libzmq",
    "broker.sent": "libzmq has it, and the broker has not noted that",
    "endpoint.received": "a request has arrived and nothing is remembered of it",
    "endpoint.executing": "a request is remembered and about to be executed",
    "endpoint.executed": "an operation has ended and nothing is answered",
    "client.sending": "a participant's message is about to be given to libzmq",
    "client.answered": "an answer has arrived and nobody has been told",
}
ACTIONS = ("kill", "stop", "sleep")


@dataclass(slots=True)
class _Fault:
    """What happens at one point: at one passage, counted from 1, or at each."""

    action: str
    seconds: float = 0.0
    passage: int = 0
    passed: int = 0

    def happen(self) -> None:
        self.passed += 1
        if self.passage and self.passed != self.passage:
            return
        if self.action == "sleep":
            time.sleep(self.seconds)
        else:
            os.kill(os.getpid(), signal.SIGKILL if self.action == "kill" else signal.SIGSTOP)


def parse(text: str) -> dict[str, _Fault]:
    """The faults that a text asks for; InvalidArgument names the part that is none."""
    faults: dict[str, _Fault] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        point, _, what = part.partition("=")
        what, _, passage = what.partition("@")
        action, _, seconds = what.partition(":")
        try:
            fault = _Fault(action, float(seconds or 0), int(passage or 0))
        except ValueError:
            fault = _Fault("")
        if point not in POINTS or fault.action not in ACTIONS or fault.passage < 0 or not 0 <= fault.seconds < 3600:
            raise InvalidArgument(
                f"{VARIABLE}: {part!r} is no fault",
                hint=f"Write POINT=kill|stop|sleep:SECONDS[@PASSAGE]; points are {', '.join(POINTS)}.",
            )
        faults[point] = fault
    return faults


_faults = parse(environment(VARIABLE) or "")
is_armed = bool(_faults)


def reach(point: str) -> None:
    """The code has come to a point. Where that costs, ask for `is_armed` before."""
    fault = _faults.get(point)
    if fault is not None:
        fault.happen()
