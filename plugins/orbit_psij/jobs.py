"""Job: what is known of one job, and how it is kept. It asks nobody; who follows it tells it what has changed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from orbit_psij.models import FINAL, JobSpec, State
from orbit_zmq.files import make_private_directory
from orbit_zmq.paths import state_dir

KEPT = "job/"  # before a job's id, in the plugin's store
RECORD, SCRIPT, STDOUT, STDERR = "exit.json", "script", "stdout", "stderr"


@dataclass(slots=True, kw_only=True)
class Job:
    """A job that was submitted here. Times are seconds since 1970. It holds nothing of the job's environment."""

    job_id: str
    executor: str
    owner: str
    session: str
    name: str
    executable: str
    arguments: list[str]
    directory: str | None
    queue_name: str | None
    account: str | None
    node_count: int | None
    duration: int | None
    stdout_path: str
    stderr_path: str
    submitted_at: float
    native_id: str | None = None
    state: State = "NEW"
    raw_state: str = ""
    exit_code: int | None = None
    signal: int | None = None
    message: str = ""
    end_reason: str = ""  # why it is to end, where that is known here
    source: str = ""  # who has told of the end: record, accounting, scheduler, or none
    started_at: float | None = None
    ended_at: float | None = None
    changed_at: float = 0.0  # the last change of the state
    cancel_asked: bool = False
    estimated_start: float | None = None
    node_list: str | None = None
    restarts: int | None = None  # how often its scheduler has started it again; None: that does not tell

    @property
    def is_final(self) -> bool:
        return self.state in FINAL

    @property
    def folder(self) -> Path:
        return folder_of(self.job_id)

    def kept(self) -> dict[str, Any]:
        """As it is written to the store."""
        return asdict(self)

    def shown(self) -> dict[str, Any]:
        """As it is told."""
        told = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in ("owner", "end_reason")}
        return {**told, "time": self.changed_at}

    def change(self) -> dict[str, Any]:
        """What an event says of it."""
        names = ("job_id", "native_id", "name", "executor", "state", "raw_state", "exit_code", "signal", "message")
        return {**{name: getattr(self, name) for name in names}, "message": self.message[:500], "time": self.changed_at}


def new_job(job_id: str, spec: JobSpec, executor: str, owner: str, session: str, name: str, now: float) -> Job:
    """A job that is about to be submitted."""
    folder = folder_of(job_id)
    base = Path(spec.directory) if spec.directory else Path.cwd()
    stdout, stderr = spec.stdout_path or str(folder / STDOUT), spec.stderr_path or str(folder / STDERR)
    return Job(
        job_id=job_id,
        executor=executor,
        owner=owner,
        session=session,
        name=name,
        executable=spec.executable,
        arguments=list(spec.arguments),
        directory=spec.directory,
        queue_name=spec.attributes.queue_name,
        account=spec.account,
        node_count=spec.settled_resources().node_count,
        duration=spec.attributes.duration,
        stdout_path=str(base / stdout),
        stderr_path=str(base / stderr),
        submitted_at=now,
        changed_at=now,
    )


def job_of(kept: Mapping[str, Any]) -> Job | None:
    """A job as it was kept; None for what an older or newer version wrote that cannot be read."""
    names = {one.name for one in fields(Job)}
    try:
        return Job(**{name: value for name, value in kept.items() if name in names})
    except TypeError:
        return None


def folder_of(job_id: str) -> Path:
    """Where a job's script, record and output lie; the nodes of a cluster have to see it."""
    return state_dir() / "psij" / job_id


def make_folder(job_id: str) -> Path:
    """It is made, for this user alone."""
    make_private_directory(state_dir() / "psij", "ORBIT_STATE_DIR")
    return make_private_directory(folder_of(job_id), "ORBIT_STATE_DIR")


def remove_folder(job_id: str) -> None:
    """With all that is in it; what cannot be removed stays."""
    shutil.rmtree(folder_of(job_id), ignore_errors=True)
