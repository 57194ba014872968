"""What a job itself writes down of its end: the record that a restart of the endpoint, or of the scheduler, does not take away.

A job's command runs inside a few lines of shell. They write a small file when the command begins, and again when it has
ended, each time whole or not at all. Nothing of ours has to be installed where the job runs, and nothing here asks a scheduler.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

# batch: the scheduler's variables are the job's own.  array: and it is one of many.  local: they are somebody else's.
# member: likewise, and it is one of many, with its index in ORBIT_ARRAY_INDEX.
Kind = Literal["batch", "array", "local", "member"]

RECORD_BYTES = 8192  # what is larger is none of ours
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
STARTED = 19  # of the words after the name in /proc/PID/stat: ticks since the machine was booted
SESSION = 3  # likewise
GONE = ("Z", "X", "x")  # states of a process that has ended and that nobody has asked about

# Its own variables begin with o_: an assignment to one that the job has in its environment would change that.
WRAPPER = r"""
o_record=$1 o_in=$2 o_out=$3 o_err=$4 o_kind=$5; shift 5
case $o_kind in
    batch | array) o_id=${SLURM_JOB_ID:-${PBS_JOBID:-${LSB_JOBID:-}}} o_restarts=${SLURM_JOB_ID:+${SLURM_RESTART_COUNT:-0}} ;;
    *) o_id= o_restarts= ;;
esac
[ "$o_kind" != array ] || ORBIT_ARRAY_INDEX=${SLURM_ARRAY_TASK_ID:-${PBS_ARRAY_INDEX:-${LSB_JOBINDEX:-}}}
case $o_kind in
    array | member)
        export ORBIT_ARRAY_INDEX
        o_record=$o_record.$ORBIT_ARRAY_INDEX o_out=$o_out.$ORBIT_ARRAY_INDEX o_err=$o_err.$ORBIT_ARRAY_INDEX
        ;;
esac
o_boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)
o_born=$(stat=$(cat /proc/$$/stat 2>/dev/null) && set -- ${stat##*) } && echo "${20}")
o_begun=$(date +%s)
write() (
    umask 077
    printf '{"pid": %s, "pid_started": "%s", "boot": "%s", "host": "%s", "native_id": "%s", %s}\n' \
        "$$" "$o_born" "$o_boot" "$(uname -n)" "$o_id" \
        "\"started\": $o_begun, \"restarts\": ${o_restarts:-null}, $1" >"$o_record.new" &&
        mv -f "$o_record.new" "$o_record"
)
ended() {
    trap '' HUP INT QUIT TERM USR1 USR2
    o_signal=null
    [ "$1" -gt 128 ] && [ "$1" -le 192 ] && o_signal=$(($1 - 128))
    write "\"exit_code\": $1, \"signal\": $o_signal, \"ended\": $(date +%s), \"problem\": \"$2\""
    exit "$1"
}
cannot() {
    [ -z "$o_asked" ] || ended "$o_asked" ""
    ended 126 "$1"
}
begin() {  # asked to end just before it became a process of its own, the command is not begun
    trap 'exit 129' HUP; trap 'exit 130' INT; trap 'exit 131' QUIT
    trap 'exit 138' USR1; trap 'exit 140' USR2; trap 'exit 143' TERM
    [ -z "$o_asked" ] || exit "$o_asked"
    exec "$@"
}
o_asked=
trap o_asked=129 HUP; trap o_asked=130 INT; trap o_asked=131 QUIT
trap o_asked=138 USR1; trap o_asked=140 USR2; trap o_asked=143 TERM
write '"exit_code": null'
[ -p "$o_in" ] || (: <"$o_in") 2>/dev/null || cannot "stdin cannot be read"
[ -p "$o_out" ] || (: >"$o_out") 2>/dev/null || cannot "stdout cannot be written"
[ "$o_err" = "$o_out" ] || [ -p "$o_err" ] || (: >"$o_err") 2>/dev/null || cannot "stderr cannot be written"
[ -z "$o_asked" ] || ended "$o_asked" ""
if [ "$o_err" = "$o_out" ]; then
    (begin "$@") 8>&1 9>&2 <"$o_in" >"$o_out" 2>&1 5<&0 6>&1 7>&1
else
    (begin "$@") 8>&1 9>&2 <"$o_in" >"$o_out" 2>"$o_err" 5<&0 6>&1 7>&2
fi
ended $? ""
"""


@dataclass(frozen=True, slots=True)
class ExitRecord:
    """What a job has written of itself; times in seconds since 1970. Without `exit_code` it has not ended, or was killed."""

    pid: int  # of the shell around the command
    pid_started: str  # ticks since boot: with `boot` it tells this process from a later one of that number
    boot: str
    host: str
    native_id: str
    started: float
    exit_code: int | None = None
    signal: int | None = None  # that ended the command, as shells tell it: exit codes above 128
    ended: float | None = None
    problem: str = ""  # why the command was never started
    restarts: int | None = None  # how often its scheduler had started it again; None: it does not tell jobs


def wrapped(
    command: Sequence[str], *, record: Path, stdout: Path, stderr: Path, stdin: Path | None = None, kind: Kind = "batch"
) -> list[str]:
    """The words that run a command and write its record. They end as the command does, with its exit code.

    The command finds its standard files as 0, 1, 2 and again as 5, 6, 7, and as 8 and 9 what the script itself writes to.
    Members of an array each have files of their own, with `.INDEX` at the end of the name, and the variable ORBIT_ARRAY_INDEX.
    """
    files = (str(record), str(stdin or os.devnull), str(stdout), str(stderr))
    return ["/bin/sh", "-c", WRAPPER, "orbit-job", *files, kind, *command]


def read_record(path: Path) -> ExitRecord | None:
    """The record; None where there is none, or what is there is none."""
    try:
        with path.open("rb") as file:
            content = json.loads(file.read(RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return _record_of(content) if isinstance(content, dict) else None


def is_running(record: ExitRecord) -> bool:
    """Whether a job of this machine that has written no end is still there: its shell, or what that has left behind.

    A process that has taken over the number does not count, nor does one that has ended and waits to be asked about.
    """
    if record.exit_code is not None or record.host != socket.gethostname() or record.boot != boot_id():
        return False
    return session_lives(record.pid, record.pid_started)


def session_lives(pid: int, started: str) -> bool:
    """Whether a process of this machine is there, or one of the session that it leads; `started` as of `started_ticks`."""
    words = _words_of(pid)
    if words and words[STARTED] != started:
        return False  # the number of a session is not given out while one of its processes lives
    if words and words[0] not in GONE:
        return True
    return any(each[SESSION] == str(pid) and each[0] not in GONE for each in _all_words())


def boot_id() -> str:
    """What tells one run of this machine from the next."""
    with suppress(OSError):
        return BOOT_ID.read_text().strip()
    return ""


def started_ticks(pid: int) -> str:
    """When a process was started, in ticks since boot; nothing where there is none."""
    words = _words_of(pid)
    return words[STARTED] if words else ""


def _record_of(content: dict[str, Any]) -> ExitRecord | None:
    try:
        record = ExitRecord(**{one.name: content[one.name] for one in fields(ExitRecord) if one.name in content})
    except TypeError:
        return None
    numbers = (record.pid, record.exit_code or 0, record.signal or 0, record.restarts or 0)
    times = (record.started, record.ended or 0.0)
    texts = (record.pid_started, record.boot, record.host, record.native_id, record.problem)
    is_sound = (
        all(type(number) is int for number in numbers)
        and all(isinstance(moment, int | float) for moment in times)
        and all(isinstance(text, str) for text in texts)
    )
    return record if is_sound else None


def _words_of(pid: int | str) -> list[str]:
    """Of /proc/PID/stat what stands after the name, which may hold anything."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return []
    return words if len(words) > STARTED else []


def _all_words() -> Iterator[list[str]]:
    with suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit() and (words := _words_of(name)):
                yield words
