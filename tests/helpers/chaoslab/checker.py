"""The checker: proves the promises of docs/guarantees.md from histories. Plain functions on records; nothing is run here.

Records of a workload (t is the monotonic clock of the machine):
  {"event": "begin", "id", "kind": "call"|"task", "operation", "key", "t", "deadline_s", "wanted", "may_repeat", "moves"}
  {"event": "end", "id", "t", "outcome": "ok" or an error's code, "value"}
  {"event": "late", "t", "late_s"}            the control timer of that process, when it fired late
  {"event": "closed", "t"}                    the workload ended in order; all it began has an end
Records of plugins: {"key", "t", "pid"}, one for each execution.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = dict[str, Any]

TOLERANCE_S = 0.25  # an answer after its deadline, beyond what the control timer was late
LATE_SHARE = 0.001  # of the answers that may be later than that: p99.9
SLACK_S = 0.05  # the control timer looks this often
LEAST_RATE = 20.0  # calls and tasks a second in a calm stretch; fewer prove nothing
NOT_EXECUTED = frozenset({"busy", "not-found", "endpoint-lost", "invalid-argument"})  # what these say of a call
UNKNOWN = "outcome-unknown"
WHILE_AWAY = frozenset(
    {UNKNOWN, "not-found", "endpoint-lost", "session-closed", "session-expired", "session-not-ready", "shutting-down"}
)  # only where an endpoint was away while the call was open
TYPED = frozenset({"ok", "busy", "deadline-exceeded", "broker-unreachable"}) | WHILE_AWAY


@dataclass(slots=True)
class Verdict:
    """What the histories prove."""

    violations: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)  # why the run proves nothing
    outcomes: Counter[str] = field(default_factory=Counter)
    executions: int = 0
    late: list[float] = field(default_factory=list)  # seconds beyond the deadline, less the control timer's
    calm_rate: float = 0.0

    @property
    def good(self) -> bool:
        return not self.violations and not self.invalid


def check(
    workloads: Sequence[Sequence[Record]],
    executions: Iterable[Record],
    calm: Sequence[tuple[float, float]] = (),
    away: Sequence[tuple[float, float]] = (),
    least_rate: float = LEAST_RATE,
) -> Verdict:
    """Check everything. `away` is from when to when an endpoint was away, which alone may leave outcomes unknown."""
    verdict = Verdict()
    ran = Counter(record["key"] for record in executions)
    verdict.executions = sum(ran.values())
    known: set[str] = set()
    for records in workloads:
        begun = _check_ends(records, verdict)
        known.update(record["key"] for record in begun.values())
        _check_values(records, begun, ran, verdict)
        _check_lateness(records, begun, verdict)
        _check_away(records, begun, away, verdict)
    for key in ran.keys() - known:
        verdict.violations.append(f"{key} was executed and never asked for")
    _check_late_share(verdict)
    _check_rate(workloads, calm, least_rate, verdict)
    return verdict


def _check_ends(records: Sequence[Record], verdict: Verdict) -> dict[str, Record]:
    """Each begin has one end, and each end a begin."""
    begun: dict[str, Record] = {}
    ended: Counter[str] = Counter()
    for record in records:
        if record["event"] == "begin":
            if record["id"] in begun:
                verdict.violations.append(f"{record['id']} began twice")
            begun[record["id"]] = record
        elif record["event"] == "end":
            ended[record["id"]] += 1
            verdict.outcomes[record["outcome"]] += 1
    if not any(record["event"] == "closed" for record in records):
        verdict.violations.append("a workload did not end in order: something hung")
    verdict.violations += [f"{name} never ended" for name in begun if not ended[name]]
    verdict.violations += [f"{name} ended {times} times" for name, times in ended.items() if times > 1]
    verdict.violations += [f"{name} ended and never began" for name in ended if name not in begun]
    return begun


def _check_values(records: Sequence[Record], begun: dict[str, Record], ran: Counter[str], verdict: Verdict) -> None:
    """Results are right, errors are typed, and executions fit what was said of them."""
    for record in records:
        if record["event"] != "end" or record["id"] not in begun:
            continue
        asked, outcome = begun[record["id"]], record["outcome"]
        times, name = ran[asked["key"]], record["id"]
        if outcome not in TYPED:
            verdict.violations.append(f"{name} ended as {outcome}: {record.get('value')}")
        if outcome == "ok" and record["value"] != asked["wanted"]:
            verdict.violations.append(f"{name} answered {record['value']!r} instead of {asked['wanted']!r}")
        if outcome == "ok" and not times:
            verdict.violations.append(f"{name} was answered and never executed")
        if times > 1 and not asked["may_repeat"]:
            verdict.violations.append(f"{name} ({asked['operation']}) was executed {times} times and ended as {outcome}")
        if times and outcome in NOT_EXECUTED and asked["kind"] == "call" and not asked["may_repeat"]:
            verdict.violations.append(f"{name} was executed and ended as {outcome}, which denies that")


def _check_lateness(records: Sequence[Record], begun: dict[str, Record], verdict: Verdict) -> None:
    """How long after their deadline calls ended. One with chunks on their way has none but for silence."""
    control = sorted((record["t"], record["late_s"]) for record in records if record["event"] == "late")
    times = [t for t, _ in control]
    for record in records:
        asked = begun.get(record["id"]) if record["event"] == "end" else None
        if asked is None or asked["deadline_s"] is None or asked["moves"]:
            continue
        deadline = asked["t"] + asked["deadline_s"]
        late_s = record["t"] - deadline
        if late_s <= 0:
            verdict.late.append(0.0)
            continue
        # The control timer was late, too, when the whole process was: what it fired late around that time is not ours.
        first, last = bisect_left(times, deadline - SLACK_S), bisect_right(times, record["t"] + SLACK_S)
        verdict.late.append(max(0.0, late_s - sum(late for _, late in control[first:last])))


def _check_late_share(verdict: Verdict) -> None:
    too_late = [late_s for late_s in verdict.late if late_s > TOLERANCE_S]
    if len(too_late) > max(LATE_SHARE * len(verdict.late), 0):
        verdict.violations.append(
            f"{len(too_late)} of {len(verdict.late)} calls ended more than {TOLERANCE_S:g} s after their deadline, "
            f"the last of them {max(too_late):.3f} s"
        )


def _check_away(
    records: Sequence[Record], begun: dict[str, Record], away: Sequence[tuple[float, float]], verdict: Verdict
) -> None:
    """An outcome is unknown, and an endpoint or session not there, only where an endpoint was away while the call was open."""
    for record in records:
        if record["event"] != "end" or record["outcome"] not in WHILE_AWAY or record["id"] not in begun:
            continue
        asked = begun[record["id"]]
        if not any(since <= record["t"] and until >= asked["t"] for since, until in away):
            verdict.violations.append(f"{record['id']} ended as {record['outcome']}, and no endpoint was away")


def _check_rate(
    workloads: Sequence[Sequence[Record]], calm: Sequence[tuple[float, float]], least_rate: float, verdict: Verdict
) -> None:
    """Too little traffic without faults proves nothing."""
    if not calm:
        return
    ends = sorted(record["t"] for records in workloads for record in records if record.get("outcome") == "ok")
    done = sum(bisect_left(ends, until) - bisect_left(ends, since) for since, until in calm)
    verdict.calm_rate = done / sum(until - since for since, until in calm)
    if verdict.calm_rate < least_rate:
        verdict.invalid.append(f"only {verdict.calm_rate:.1f} a second ended well while nothing was broken")
    for since, until in calm:
        if bisect_left(ends, until) == bisect_left(ends, since):
            verdict.invalid.append(f"nothing ended well in {until - since:.1f} s without a fault")
