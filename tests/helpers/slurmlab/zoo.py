"""Jobs in every state that a scheduler has: pending for each of its reasons, running, on their way out, and ended in all ways.

What is left after `fill` changes no more, but for the clock: whoever runs, runs for hours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from lab import wait_until

from slurmlab.cluster import SlurmLab

HOURS = "sleep 20000"
PATIENCE_S = 240.0  # Slurm looks for jobs that are over their time every half minute
QUIET_S = 5.0  # two rounds of the scheduler
STRANGE_NAME = "a name, with |, 'quotes', \"more\" & ümläuts %j"


def fill(lab: SlurmLab) -> None:
    """More than 300 jobs, members of arrays counted."""
    (lab.place / "jobs").mkdir()
    (lab.place / "jobs").chmod(0o777)
    zoo = _Zoo(lab)
    zoo.jobs_that_end()
    zoo.jobs_that_run()
    zoo.jobs_that_wait()
    zoo.wait_until_settled()


class _Zoo:
    def __init__(self, lab: SlurmLab) -> None:
        self._lab = lab
        self._ends: dict[str, str] = {}  # job id -> the state that it will be in

    def submit(self, script: str, *words: str, times: int = 1) -> list[str]:
        """The ids. Jobs of one core and ten minutes unless the words say otherwise."""
        common = ("sbatch", "--parsable", f"--chdir={self._lab.place}/jobs", "--time=10")
        return [self._lab.run(*common, *words, f"--wrap={script}").strip() for _ in range(times)]

    def control(self, verb: str, *words: str) -> None:
        self._lab.run("scontrol", verb, *words)

    def wait_for(self, states: dict[str, str]) -> None:
        """Until each of these jobs is in its state."""
        now: dict[str, str] = {}

        def are_there() -> bool:
            lines = self._lab.run("squeue", "--array", "--states=all", "--noheader", "--format=%i %T,%r").splitlines()
            now.update((job, state) for job, state in (line.split(maxsplit=1) for line in lines))
            return all(now.get(job, "").partition(",")[0] == state for job, state in states.items())

        try:
            wait_until(are_there, PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"the jobs are {[now.get(job) for job in states]}, not {states}") from None

    def jobs_that_end(self) -> None:
        over_time = self.submit(HOURS, "--job-name=slow", times=2)
        self._ends |= dict.fromkeys(over_time, "TIMEOUT")
        self.wait_for(dict.fromkeys(over_time, "RUNNING"))
        for job in over_time:
            self.control("update", f"JobId={job}", "EndTime=now+2")
        self._ends |= dict.fromkeys(self.submit("echo done", "--job-name=good", times=12), "COMPLETED")
        self._ends |= dict.fromkeys(self.submit("true", "--uid=nobody", "--partition=long", times=4), "COMPLETED")
        self._ends |= dict.fromkeys(self.submit("exit 3", f"--job-name={STRANGE_NAME}", times=8), "FAILED")
        self._ends |= dict.fromkeys(self.submit("kill -9 $$", "--account=chemistry", times=3), "FAILED")
        (array,) = self.submit("exit $SLURM_ARRAY_TASK_ID", "--array=0-1")
        self._ends |= {f"{array}_0": "COMPLETED", f"{array}_1": "FAILED"}
        cancelled = self.submit(HOURS, "--begin=now+2hours", times=5)
        self._lab.run("scancel", *cancelled)
        self._ends |= dict.fromkeys(cancelled, "CANCELLED")
        self.wait_for({job: state for job, state in self._ends.items() if state != "TIMEOUT"})

    def jobs_that_run(self) -> None:
        running = self.submit(
            HOURS, "--gres=gpu:a100:1", "--partition=gpu", "--mem=500M", "--output=%x-%j.out", "--error=err.%A"
        )
        running += self.submit(HOURS, "--partition=debug,long", "--constraint=fast")
        (array,) = self.submit(HOURS, "--array=1-20%1", "--job-name=members", "--output=%A_%a.out")
        self._ends |= dict.fromkeys((*running, f"{array}_1"), "RUNNING")
        self.wait_for(dict.fromkeys((*running, f"{array}_1"), "RUNNING"))
        stopped = self.submit(HOURS, "--job-name=stopped", "--nodes=1", times=1)
        killed = self.submit(HOURS, "--uid=nobody", times=2)
        again = self.submit(HOURS, "--job-name=again", "--requeue")
        self.wait_for(dict.fromkeys((*stopped, *killed, *again), "RUNNING"))
        self.control("suspend", *stopped)
        self.control("requeuehold", *again)
        self._lab.run("scancel", *killed)
        self._ends |= dict.fromkeys(stopped, "SUSPENDED") | dict.fromkeys(killed, "CANCELLED") | dict.fromkeys(again, "PENDING")
        leaves_slowly = f"touch {self._lab.place}/state/completing.$SLURM_JOB_ID"
        self._ends |= dict.fromkeys(self.submit(leaves_slowly, "--job-name=leaving", times=2), "COMPLETING")
        self.wait_for({job: state for job, state in self._ends.items() if state != "TIMEOUT"})

    def jobs_that_wait(self) -> None:
        (first,) = self.submit(HOURS, "--nodes=2", "--exclusive", "--job-name=wide", "--partition=debug")
        self.submit(HOURS, "--hold", times=20)
        held = self.submit(HOURS, "--job-name=held-by-admin", times=10)
        self.control("hold", ",".join(held))
        for kind in ("afterok", "afterany", "afternotok", "after"):
            self.submit(HOURS, f"--dependency={kind}:{first}", "--job-name=waits", times=10)
        failed = next(job for job, state in self._ends.items() if state == "FAILED")
        self.submit(HOURS, f"--dependency=afterok:{failed}", "--job-name=never")
        self.submit(HOURS, "--dependency=singleton", "--job-name=wide")
        self.submit(HOURS, "--begin=now+3hours", "--job-name=later", times=10)
        self.submit(HOURS, "--nice=50", "--ntasks=3", "--cpus-per-task=2", "--time=2-03:04:05", "--partition=long", times=20)
        self.submit(HOURS, "--time=UNLIMITED", "--partition=long", "--account=chemistry", "--comment=no limit", times=20)
        self.submit(HOURS, "--partition=stopped", times=10)
        self.submit(HOURS, "--time=3-00:00:00", "--partition=gpu", "--gres=gpu:2", times=10)  # over the partition's limit
        self.submit(HOURS, "--uid=nobody", "--partition=long", "--mem-per-cpu=100M", "--constraint=n2&fast", times=40)
        self.submit(HOURS, "--array=0-99:3", "--partition=debug", "--gres=gpu:2", f"--job-name={STRANGE_NAME}")
        self.submit(HOURS, "--array=5,7,9-11", "--hold", "--uid=nobody")
        self.control(
            "create", "reservation", "ReservationName=training", "StartTime=now+1hour", "Duration=60", "Users=root", "Nodes=n2"
        )
        self.submit(HOURS, "--reservation=training", "--nodelist=n2", "--partition=debug", times=3)
        self.submit(HOURS, "--exclude=n1", "--partition=debug", "--nodes=1-2", times=20)

    def wait_until_settled(self) -> None:
        """All have their states, in the accounting, too, and who was to be started instead of them has been."""
        self.wait_for(self._ends)
        before, since = "", time.monotonic()

        def is_quiet() -> bool:
            nonlocal before, since
            now = self._lab.run("squeue", "--array", "--states=all", "--noheader", "--format=%i %T")
            if now != before:
                before, since = now, time.monotonic()
            running = {line.split()[0] for line in now.splitlines() if line.endswith(" RUNNING")}
            return running == self._accounted_as_running() and time.monotonic() > since + QUIET_S

        wait_until(is_quiet, PATIENCE_S, "nothing changes any more")

    def _accounted_as_running(self) -> set[str]:
        words = ("--allusers", "--allocations", "--noheader", "--parsable2", "--starttime=now-1day", "--format=JobID,State")
        lines = self._lab.run("sacct", *words).splitlines()
        return {line.partition("|")[0] for line in lines if line.endswith("|RUNNING")}


def count(lab: SlurmLab, words: Sequence[str] = ()) -> int:
    """Jobs that Slurm knows, members of arrays one by one."""
    return len(lab.run("squeue", "--array", "--states=all", "--noheader", "--format=%i", *words).split())
