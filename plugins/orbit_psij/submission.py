"""From a job as it was asked for to a scheduler's id: what is refused, rendered, written, and handed over, in this order.

`Submission.of` refuses, `script` shows what would be handed over without writing it, `hand_over` does it. All of it blocks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit_psij.defaults import with_defaults
from orbit_psij.jobs import RECORD, SCRIPT, STDERR, STDOUT, folder_of, make_folder, remove_folder
from orbit_psij.models import JobSpec
from orbit_psij.rendering import launched, render, warnings_of
from orbit_psij.schedulers import LOCAL, submit_script
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.batch.exit_record import wrapped
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, OrbitError, Unsupported
from orbit_zmq.files import write_private

ARRAYS = ("slurm.array", "slurm.a", "pbs.J", "pbs.t")
COPIES_SCRIPTS = ("slurm", "pbs", "pbs_classic")  # at the submission, so that ours need not stay


@dataclass(frozen=True, slots=True)
class Submission:
    """One job on its way to a scheduler."""

    job_id: str
    executor: str
    spec: JobSpec
    warnings: list[str]

    @classmethod
    def of(cls, job_id: str, executor: str, asked_for: JobSpec | Mapping[str, Any]) -> Submission:
        """InvalidArgument for what is wrong with the job. Whether the executor can be used here is seen later."""
        spec = with_defaults(JobSpec.of(asked_for), executor, detect_batch_system())
        if array := next((name for name in ARRAYS if name in spec.attributes.custom_attributes), None):
            raise Unsupported(f"{array}: this plugin follows single jobs.", hint="The plugin jobs has arrays.")
        if spec.directory is not None and not os.path.isabs(spec.directory):
            raise InvalidArgument(f"directory: {spec.directory!r} is not an absolute path")
        return cls(job_id, executor, spec, warnings_of(executor, spec))

    def script(self) -> str:
        """What is handed over, byte for byte."""
        folder, spec = folder_of(self.job_id), self.spec
        words = wrapped(
            launched(spec, self.job_id),
            record=folder / RECORD,
            stdin=Path(spec.stdin_path) if spec.stdin_path else None,
            stdout=Path(spec.stdout_path or folder / STDOUT),
            stderr=Path(spec.stderr_path or folder / STDERR),
            kind="local" if self.executor == LOCAL else "batch",
        )
        return render(self.executor, spec, job_id=self.job_id, launch_command=words, script_dir=folder)

    def hand_over(self) -> str:
        """The scheduler's id. Where it refuses nothing is left behind; after DeadlineExceeded it may have the job."""
        try:
            path = make_folder(self.job_id) / SCRIPT
            write_private(path, self.script())
            native_id = submit_script(self.executor, path)
        except DeadlineExceeded:
            raise
        except OrbitError:
            remove_folder(self.job_id)
            raise
        if self.executor in COPIES_SCRIPTS:
            path.unlink(missing_ok=True)  # the job's environment is in it
        return native_id
