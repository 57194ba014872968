"""The schedule: which fault comes when, drawn from a seed. The same seed and length give the same schedule.

Faults come one at a time or overlap by chance; after each stretch of them nothing is broken for a while, so that traffic
without faults can be measured. Nothing here touches a process.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

STRETCH_S = 15.0  # of which the first part has faults
CALM_S = 5.0  # at the end of each stretch nothing is broken
LONGEST_S = 4.0  # of one fault


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what, to whom, from when to when (seconds from the start). A kill is over when it has happened."""

    at_s: float
    kind: str
    target: str
    for_s: float = 0.0

    @property
    def ends_s(self) -> float:
        return self.at_s + self.for_s

    def to_body(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.kind:<12} {self.target:<8}" + (f" for {self.for_s:.2f} s" if self.for_s else "")


# kind: which targets, how often it is drawn, and whether it lasts
KINDS: dict[str, tuple[str, int, bool]] = {
    "kill": ("broker endpoint", 6, False),
    "terminate": ("broker", 2, False),
    "pause": ("broker endpoint client", 3, True),  # SIGSTOP, SIGCONT
    "reset": ("endpoint client", 4, False),
    "down": ("endpoint client", 3, True),
    "deaf": ("endpoint client", 2, True),  # nothing comes down to it
    "mute": ("endpoint client", 2, True),  # nothing comes up from it
    "slow": ("endpoint client", 2, True),
    "loss": ("endpoint client", 2, True),
    "disk-full": ("broker endpoint", 2, True),
    "file-limit": ("broker", 1, True),
    "clock-jump": ("broker endpoint client", 2, True),
    "plugin-exit": ("endpoint", 1, False),
    "plugin-hang": ("endpoint", 1, True),
    "plugin-hold": ("endpoint", 1, True),  # the interpreter's lock
    "plugin-fork": ("endpoint", 1, False),
}


def make_schedule(seed: int, duration_s: float, endpoints: list[str], clients: list[str]) -> list[Fault]:
    """Faults in the order of time; the last calm comes before the end."""
    source = random.Random(seed)
    of_role = {"broker": ["broker"], "endpoint": endpoints, "client": clients}
    kinds, weights = list(KINDS), [weight for _, weight, _ in KINDS.values()]
    faults: list[Fault] = []
    begins = CALM_S
    while begins + STRETCH_S <= duration_s:
        ends = begins + STRETCH_S - CALM_S
        at = begins + source.uniform(0.0, 1.0)
        while at < ends - 1.0:
            kind = source.choices(kinds, weights)[0]
            roles, _, lasts = KINDS[kind]
            target = source.choice(of_role[source.choice(roles.split())])
            for_s = round(min(source.uniform(0.5, LONGEST_S), ends - at), 2) if lasts else 0.0
            faults.append(Fault(round(at, 2), kind, target, for_s))
            at += source.uniform(0.5, 3.0)
        begins += STRETCH_S
    return faults


def calm_stretches(faults: list[Fault], duration_s: float, settle_s: float = 1.0) -> list[tuple[float, float]]:
    """When nothing was broken for a while: from `settle_s` after one fault has ended until the next begins."""
    calm, free_from = [], 0.0
    for fault in faults:
        if fault.at_s - free_from >= CALM_S / 2:
            calm.append((free_from, fault.at_s))
        free_from = max(free_from, fault.ends_s + settle_s)
    if duration_s - free_from >= CALM_S / 2:
        calm.append((free_from, duration_s))
    return calm
