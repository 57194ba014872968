"""Runs a scheduler's command: no shell, the C locale, a deadline, and a bound on what it may print.

What the user's environment says of the format of a command's output is taken away, so that it is always the same. A command
that takes too long is killed with all that it has started. Nothing here knows what the output means.
"""

from __future__ import annotations

import atexit
import os
import re
import selectors
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, cast

from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, NotPermitted, SchedulerFailed, TooLarge

COMMAND_S = 60.0  # a controller under load takes this long; the scheduler's own commands give up after 60 to 100 s
JOB_S = 10.0  # for one job
OUTPUT_BYTES = 32 << 20  # more JSON than this holds the interpreter for half a second while it is parsed
COMPLAINT_BYTES = 64 << 10
REAP_S = 1.0  # a killed command that hangs in a dead file system does not end; it is then left behind
CHUNK_BYTES = 1 << 16

_running: set[subprocess.Popen[bytes]] = set()  # killed when this process ends

JOB_ID = re.compile(r"[A-Za-z0-9\u0192][A-Za-z0-9_.+\[\]\u0192-]{0,127}")  # Flux writes an f with a hook
FOR_GOOD = ("invalid", "illegal", "unrecognized", "unknown queue", "configuration is not available")  # in what is said of it
USER_FORMATS = re.compile(r"(SQUEUE|SINFO|SACCT|SCONTROL|SACCTMGR|PBS_QSTAT|LSB_BJOBS|LSB_BQUEUES|FLUX_JOBS)_|SLURM_CLUSTERS$")
SETTLED = {"LC_ALL": "C", "SLURM_TIME_FORMAT": "%s", "SLURM_BITSTR_LEN": "0"}  # seconds since 1970, and task lists in full


@dataclass(frozen=True, slots=True)
class Answer:
    """What a command has printed, and how it ended."""

    text: str
    complaint: str
    exit_code: int


def ask(command: Sequence[str], *, environment: Mapping[str, str] | None = None, timeout_s: float = COMMAND_S) -> str:
    """What a command prints.

    SchedulerFailed where it is not installed or fails, NotFound for a job that the scheduler does not know, NotPermitted
    where it refuses, DeadlineExceeded after `timeout_s`, TooLarge above OUTPUT_BYTES.
    """
    answer = run(command, environment=environment, timeout_s=timeout_s)
    if answer.exit_code:
        raise refusal(command[0], answer)
    return answer.text


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = COMMAND_S,
    limit_bytes: int | None = None,
    settled: bool = True,
) -> Answer:
    """The same, whatever its exit code is. Without `settled` it has the user's own environment, to hand on to a job."""
    path = shutil.which(command[0])
    if path is None:
        raise SchedulerFailed(f"{command[0]} is not installed on this machine", hint="Look at PATH where the endpoint starts.")
    kept = {name: value for name, value in os.environ.items() if not (settled and USER_FORMATS.match(name))}
    try:
        process = subprocess.Popen(
            [path, *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**kept, **(SETTLED if settled else {}), **(environment or {})},
            process_group=0,
        )
    except OSError as error:
        raise SchedulerFailed(f"{command[0]} cannot be started: {error}") from None
    _running.add(process)
    try:
        text, complaint = _read(process, command[0], time.monotonic() + timeout_s, timeout_s, limit_bytes or OUTPUT_BYTES)
    except BaseException:
        _kill(process)
        raise
    finally:
        _running.discard(process)
    return Answer(text.decode(errors="replace"), complaint.decode(errors="replace").strip(), process.wait())


def checked_job_id(job_id: str | int) -> str:
    """The id as text; InvalidArgument for what no scheduler would call a job, so that it cannot be an option of a command."""
    text = str(job_id)
    if not JOB_ID.fullmatch(text):
        raise InvalidArgument(
            f"{text!r} is no id of a job", hint="Ids are as the scheduler prints them, such as 4711 or 17.host."
        )
    return text


def refusal(name: str, answer: Answer) -> SchedulerFailed | NotFound | NotPermitted:
    """What a failed command is to its caller."""
    said = answer.complaint or answer.text.strip()
    last = said.splitlines()[-1].removeprefix(f"{name}: ")[:500] if said else ""
    sentence = f"{name}: {last}" if last else f"{name} ended with exit code {answer.exit_code}"
    words = said.lower()
    if any(word in words for word in ("invalid job id", "unknown job", "is not found", "no such job", "unknown jobid")):
        return NotFound(sentence, hint="The scheduler does not know the job, or no longer.")
    if any(word in words for word in ("permission denied", "access/permission", "unauthorized", "not authorized")):
        return NotPermitted(sentence, hint="The scheduler lets the endpoint's user do this to jobs of their own.")
    return SchedulerFailed(sentence, transient=not any(word in words for word in FOR_GOOD))


def _read(
    process: subprocess.Popen[bytes], name: str, ends_at: float, timeout_s: float, limit_bytes: int
) -> tuple[bytes, bytes]:
    """Both pipes to their ends; a command that closes them and lives on has its deadline, too."""
    out, complaint = bytearray(), bytearray()
    stdout, stderr = cast(IO[bytes], process.stdout), cast(IO[bytes], process.stderr)  # both were asked for
    with selectors.DefaultSelector() as selector, stdout, stderr:
        selector.register(stdout, selectors.EVENT_READ, out)
        selector.register(stderr, selectors.EVENT_READ, complaint)
        while selector.get_map():
            for key, _ in selector.select(_left_s(name, ends_at, timeout_s)):
                chunk = os.read(key.fd, CHUNK_BYTES)
                if not chunk:
                    selector.unregister(key.fileobj)
                elif key.data is out or len(complaint) < COMPLAINT_BYTES:
                    key.data.extend(chunk)
            if len(out) > limit_bytes:
                raise TooLarge(f"{name} prints more than {limit_bytes >> 20} MiB", hint="Ask for one user or one queue.")
    try:
        process.wait(_left_s(name, ends_at, timeout_s))
    except subprocess.TimeoutExpired:
        raise _too_slow(name, timeout_s) from None
    return bytes(out), bytes(complaint)


def _left_s(name: str, ends_at: float, timeout_s: float) -> float:
    left_s = ends_at - time.monotonic()
    if left_s <= 0:
        raise _too_slow(name, timeout_s)
    return left_s


def _too_slow(name: str, timeout_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"{name} gave no answer within {timeout_s:g} s", hint="The scheduler is busy or down; ask again later."
    )


@atexit.register
def _kill_all() -> None:
    for process in tuple(_running):
        _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(REAP_S)
