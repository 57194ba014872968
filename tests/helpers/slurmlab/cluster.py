"""A lab for tests: started, used, and for sure ended with the test's process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
from lab import is_gone, wait_until

from orbit_zmq.children import Child, command_of, environment_of_child, read_ready

COMMAND_S = 100.0
START_S = 240.0  # for all daemons, on a machine that has more to do


class SlurmLab:
    """A cluster that runs: `environment` is what its commands want."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.conf = place / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}
        self.keeper_pid = int((place / "keeper.pid").read_text())

    def run(self, *command: str, more: Mapping[str, str] | None = None) -> str:
        """What a command prints; an AssertionError with what it complains about."""
        done = subprocess.run(
            command,
            env={**self.environment, **(more or {})},
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
        return done.stdout

    def pid_of(self, daemon: str) -> int:
        """Of munged, mariadbd, slurmdbd, slurmctld, slurmd.n1 or slurmd.n2."""
        return int((self.place / f"{daemon}.daemon").read_text())

    def stop(self, daemon: str) -> None:
        """End it: the controller so that it keeps what it knows.

        One that is killed forgets some seconds. It then starts jobs again that have ended or that run, and drains their nodes
        for the duplicate.
        """
        process = psutil.Process(self.pid_of(daemon))
        process.send_signal(signal.SIGTERM if daemon == "slurmctld" else signal.SIGKILL)
        wait_until(lambda: is_gone(process.pid), COMMAND_S, what=f"{daemon} has ended")

    def start_again(self, daemon: str) -> None:
        """Whatever has been stopped."""
        os.kill(self.keeper_pid, signal.SIGHUP)
        wait_until(lambda: not is_gone(self.pid_of(daemon)), COMMAND_S, what=f"{daemon} runs again")
        if daemon == "slurmctld":
            wait_until(self._answers, START_S, what="the controller answers")

    def _answers(self) -> bool:
        with contextlib.suppress(AssertionError):  # what `run` says of a controller that is down
            return "UP" in self.run("scontrol", "ping")
        return False


@contextlib.contextmanager
def slurm_lab(accounting: bool = True) -> Iterator[SlurmLab]:
    """A lab of one's own."""
    place = Path(tempfile.mkdtemp(prefix="orbit-slurm-"))
    arguments = ["--directory", str(place), *([] if accounting else ["--no-accounting"])]
    child = Child("slurmlab.keeper", arguments, environment_of_child(), log=None)
    try:
        child.wait_until_ready(START_S)
        yield SlurmLab(place)
    finally:
        child.end()
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def shared_slurm_lab(meeting: Path, prepare: Callable[[SlurmLab], None]) -> Iterator[SlurmLab]:
    """One lab for all processes that meet in a directory, for tests that only look at it.

    The first makes and prepares it. Each keeps a named pipe open that the keeper reads, so it ends with the last of them, who
    waits for that: whoever comes next must not find one that is about to end.
    """
    pipe, place_file = meeting / "alive", meeting / "place"
    meeting.mkdir(exist_ok=True)
    with (meeting / "lock").open("a") as lock, (meeting / "users").open("a") as users, contextlib.ExitStack() as stack:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        try:
            stack.callback(os.close, os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:  # nobody has made it, or who has is gone
            pipe.unlink(missing_ok=True)
            os.mkfifo(pipe)
            stack.callback(os.close, os.open(pipe, os.O_RDWR))
            place_file.write_text(str(_start_keeper(pipe)))
            prepared = False
        else:
            prepared = True
        lab = SlurmLab(Path(place_file.read_text()))
        try:
            if not prepared:
                prepare(lab)
            fcntl.flock(lock, fcntl.LOCK_UN)
            yield lab
        finally:
            fcntl.flock(lock, fcntl.LOCK_EX)
            stack.close()
            with contextlib.suppress(BlockingIOError):  # somebody else uses it
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                wait_until(lambda: is_gone(lab.keeper_pid), COMMAND_S, what="the lab has ended")


def _start_keeper(pipe: Path) -> Path:
    """One that ends when nobody has that pipe open for writing any more."""
    place = Path(tempfile.mkdtemp(prefix="orbit-slurm-"))
    with pipe.open("rb", buffering=0) as alive:
        started = subprocess.Popen(
            [*command_of("slurmlab.keeper"), "--exit-with-parent", "--directory", str(place)],
            stdin=alive,
            stdout=subprocess.PIPE,
            env=environment_of_child(),
            process_group=0,
        )
    assert started.stdout is not None
    with started.stdout:
        assert read_ready(started.stdout.fileno(), START_S) is not None, "the lab was not ready"
    return place
