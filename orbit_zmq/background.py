"""Processes in the background: started so that they outlive the terminal, and ended in order.

What is started leads a session of its own, writes to a log file, and says by one line on its standard output that it is ready,
or why it will not be. How long that may take, and what it says, is the caller's matter.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from orbit_zmq.children import command_of, environment_of_child, read_ready
from orbit_zmq.errors import Conflict, DeadlineExceeded, InternalError, NotPermitted, OrbitError
from orbit_zmq.paths import state_dir
from orbit_zmq.process_record import ProcessRecord

POLL_S = 0.02
END_S = 2.0  # for one that did not come up
TAIL_BYTES = 4_096


def log_path(name: str) -> Path:
    """Where a process in the background writes: `broker.log`, `endpoint.NAME.log`."""
    return state_dir() / f"{name}.log"


def start_in_background(arguments: Sequence[str], log: Path, ready_s: float) -> dict[str, Any]:
    """Run `orbit` with these arguments in the background; what it said when it was ready.

    Raises the error that it said instead, DeadlineExceeded when it said nothing in time, InternalError when it ended,
    NotPermitted where the log cannot be written. Whoever ends this process by a signal meanwhile ends what it has started.
    """
    with _ended_in_order():
        try:
            errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        except OSError as error:
            raise NotPermitted(f"The log file {log} cannot be written: {error.strerror}.", hint="Name another.") from error
        try:
            began_at = os.fstat(errors).st_size
            started = subprocess.Popen(
                [*command_of("orbit_zmq.cli"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment_of_child(),
                start_new_session=True,
            )
        finally:
            os.close(errors)
        try:
            said = read_ready(started.stdout.fileno(), ready_s) if started.stdout else None
            if said is None:
                raise _not_ready(started, log, began_at, ready_s)
            return said
        except BaseException:
            _end(started)
            raise
        finally:
            if started.stdout:
                started.stdout.close()


def _not_ready(started: subprocess.Popen[bytes], log: Path, began_at: int, ready_s: float) -> OrbitError:
    """Why there was no ready line. One that has closed its output is about to end, but may not have yet."""
    hint = f"Its log says why: {log}"
    try:
        started.wait(END_S)
    except subprocess.TimeoutExpired:
        return DeadlineExceeded(f"It was not ready within {ready_s:g} s.", hint=hint)
    last = _last_line(log, began_at)
    return InternalError(f"It ended before it was ready{f': {last}' if last else '.'}", hint=hint)


def _last_line(log: Path, began_at: int) -> str:
    """What was written last since it had that size."""
    if not log.is_file():
        return ""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(began_at, log.stat().st_size - TAIL_BYTES))
        lines = file.read(TAIL_BYTES).decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")
    return ""


@contextlib.contextmanager
def _ended_in_order() -> Iterator[None]:
    """SIGTERM and SIGHUP do what Ctrl-C does, until the end of this."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_process(record: ProcessRecord, timeout_s: float) -> None:
    """End a process of this machine by SIGTERM and wait for its end.

    Conflict for one that runs elsewhere or as part of another, DeadlineExceeded for one that does not end.
    """
    what = f"{record.kind.capitalize()} {record.name}"
    if not record.is_here():
        raise Conflict(
            f"{what} runs on {record.hostname}, as process {record.pid}, not on this machine.",
            hint=f"Stop it there: ssh {record.hostname} orbit {record.kind} stop {record.name}",
        )
    if record.parent_pid:
        raise Conflict(
            f"{what} is part of process {record.parent_pid}, which is `orbit up` or a program with an endpoint of its own.",
            hint=f"Stop that with Ctrl-C, or with: kill {record.parent_pid}",
        )
    with contextlib.suppress(ProcessLookupError):
        os.kill(record.pid, signal.SIGTERM)
    wait_until_gone(record, timeout_s)


def wait_until_gone(record: ProcessRecord, timeout_s: float) -> None:
    """Return when the process has ended; DeadlineExceeded when it is still there then."""
    deadline = time.monotonic() + timeout_s
    while record.is_alive():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(
                f"{record.kind.capitalize()} {record.name}, process {record.pid}, is still there.",
                hint=f"Look at its log, or end it by force: kill -9 {record.pid}",
            )
        time.sleep(POLL_S)


def refuse_second(record: ProcessRecord | None) -> None:
    """Raise Conflict where that process is there."""
    if record is not None and record.is_here() and record.is_alive():
        raise Conflict(
            f"{record.kind.capitalize()} {record.name} of this user runs here already: process {record.pid}.",
            hint=f"Use it, or stop it with `orbit {'broker' if record.kind == 'supervisor' else record.kind} stop`.",
        )


def check_no_secret(join: str | None) -> None:
    """Refuse a join string where it would stand in the list of processes for as long as this one runs."""
    if join and not Path(join).expanduser().exists():
        raise NotPermitted(
            "With --detach or --launcher, --join names a file, for everybody on this machine can read command lines.",
            hint="Write the join string to a file (chmod 600) and name that.",
        )


def _end(started: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        if started.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(started.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(END_S)
