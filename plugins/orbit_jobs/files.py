"""The directory of one job: where its script, its record and its output lie, and that somebody asked for its end.

It lies where the job can see it, is the user's alone, and is all that another process needs to tell how the job stands. It
holds the script, so what the user's environment is to be is in here and nowhere else. Nothing here runs anything.
"""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from orbit_zmq.batch.exit_record import ExitRecord, read_record
from orbit_zmq.errors import NotPermitted
from orbit_zmq.files import write_private
from orbit_zmq.paths import state_dir


def default_root() -> Path:
    """Where jobs have their directories unless a runner says otherwise."""
    return state_dir() / "jobs"


@dataclass(frozen=True, slots=True)
class JobFiles:
    """The paths of one job; nothing has to exist."""

    directory: Path

    @property
    def script(self) -> Path:
        return self.directory / "script"

    @property
    def record(self) -> Path:
        return self.directory / "record"

    @property
    def stdout(self) -> Path:
        return self.directory / "stdout"

    @property
    def stderr(self) -> Path:
        return self.directory / "stderr"

    @property
    def held(self) -> Path:
        """The whole request of a job that is not handed over yet, its environment among it."""
        return self.directory / "held"

    @property
    def _cancel(self) -> Path:
        return self.directory / "cancel"

    def make(self) -> None:
        """Make the directory; NotPermitted where that cannot be."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.chmod(0o700)
        except OSError as error:
            raise NotPermitted(
                f"The directory {self.directory} cannot be made: {error.strerror}.",
                hint="Set ORBIT_STATE_DIR, or the runner's `root`, to a place that jobs can write to.",
            ) from error

    def read_record(self, member: int | None = None) -> ExitRecord | None:
        """What the job, or a member of an array, has written of itself."""
        return read_record(self.record if member is None else self.record.with_name(f"{self.record.name}.{member}"))

    def note_cancel(self, reason: str) -> None:
        """Somebody asks for its end, which is done also where this cannot be written down."""
        try:
            write_private(self._cancel, json.dumps({"reason": reason}))
        except NotPermitted:
            with suppress(OSError):
                self._cancel.touch(0o600)  # takes no room on a full disk

    def cancel_reason(self) -> str | None:
        """Why somebody asked for its end, which may be an empty text; None where nobody did."""
        try:
            return str(json.loads(self._cancel.read_text())["reason"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def forget_script(self) -> None:
        """Take away what has the job's environment in it; it has been handed over and has ended."""
        for path in (self.script, self.held):
            with suppress(OSError):
                path.unlink()

    def remove(self) -> None:
        """Take away all of it."""
        shutil.rmtree(self.directory, ignore_errors=True)


def member_path(path: Path, member: int | None) -> Path:
    """The file of a member of an array."""
    return path if member is None else path.with_name(f"{path.name}.{member}")
