"""One run: a world, workloads, a schedule, and the verdict. `scripts/chaos` calls `main`; the tests call `run`."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

from lab import within

from chaoslab.checker import Verdict, check
from chaoslab.faults import Injector
from chaoslab.schedule import calm_stretches, make_schedule
from chaoslab.world import World, say

ENDPOINTS = ["hpc1", "hpc2", "hpc3"]
RATE = 100.0  # calls or batches a second of each workload
SHOWN = 40


def run(seed: int, duration_s: float, place: Path, *, clients: int = 2, rate: float = RATE, verbose: bool = False) -> Verdict:
    """Play the schedule of that seed and check what happened."""
    names = [f"client{number + 1}" for number in range(clients)]
    faults = make_schedule(seed, duration_s, ENDPOINTS, names)
    with within(place):
        with World(place, seed) as world:
            world.start_broker()
            for endpoint in ENDPOINTS:
                world.start_endpoint(endpoint)
            for name in names:
                world.start_workload(name, ENDPOINTS, rate)
            injector = Injector(world, faults, verbose)
            injector.play(duration_s)
            for name in names:
                world.end_workload(name)
        workloads = [world.history(name) for name in names]
    calm = [(injector.began + since, injector.began + until) for since, until in calm_stretches(faults, duration_s)]
    return check(workloads, world.executions(), calm, world.away)


def show(verdict: Verdict) -> None:
    """The verdict, for people."""
    total = sum(verdict.outcomes.values())
    print(f"{total:,} calls and tasks ended: {dict(verdict.outcomes.most_common())}")
    print(f"{verdict.executions:,} executions; {verdict.calm_rate:,.0f} a second while nothing was broken")
    late = sorted(verdict.late)
    if late:
        print(f"after the deadline: p99.9 {late[int(len(late) * 0.999)]:.3f} s, at most {late[-1]:.3f} s")
    for reason in verdict.invalid:
        print(f"INVALID: {reason}")
    for violation in verdict.violations[:SHOWN]:
        print(f"VIOLATED: {violation}")
    if len(verdict.violations) > SHOWN:
        print(f"... and {len(verdict.violations) - SHOWN} more")
    print("verdict:", "good" if verdict.good else "invalid" if not verdict.violations else "BROKEN")


def main() -> int:
    """The command; 0 for a good verdict, 1 for a broken promise, 2 for a run that proves nothing."""
    parser = argparse.ArgumentParser(
        prog="scripts/chaos", description="Break things on a seeded schedule and check the promises."
    )
    parser.add_argument("--seed", type=int, default=None, help="of the schedule and the workloads (drawn if left out)")
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults go on (2)")
    parser.add_argument("--clients", type=int, default=2, help="workload processes (2)")
    parser.add_argument("--rate", type=float, default=RATE, help="calls or batches a second of each (100)")
    parser.add_argument("--keep", action="store_true", help="leave histories and logs behind")
    options = parser.parse_args()
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    names = [f"client{number + 1}" for number in range(options.clients)]
    print(f"seed {seed}, {options.minutes:g} minutes")
    for fault in make_schedule(seed, options.minutes * 60, ENDPOINTS, names):
        print(f"  {fault}")
    place = Path(tempfile.mkdtemp(prefix="orbit-chaos-"))
    try:
        verdict = run(seed, options.minutes * 60, place, clients=options.clients, rate=options.rate, verbose=True)
    finally:
        if options.keep:
            say(f"histories and logs are in {place}")
        else:
            shutil.rmtree(place, ignore_errors=True)
    show(verdict)
    print(json.dumps({"seed": seed, "good": verdict.good, "outcomes": verdict.outcomes, "violations": len(verdict.violations)}))
    return 1 if verdict.violations else 2 if verdict.invalid else 0


if __name__ == "__main__":
    sys.exit(main())
