"""What jobs of a site get unless they say otherwise: data files, ours beside this module and the user's own before them.

A file says for which machines it is and what a job gets there. It must not change what a job says itself.
"""

from __future__ import annotations

import fnmatch
import socket
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from orbit_psij.models import Attributes, Custom, JobSpec, Seconds, Word, _Part, refusal_of
from orbit_zmq.batch import BatchSystem
from orbit_zmq.errors import InvalidArgument
from orbit_zmq.paths import config_dir

OURS = Path(__file__).with_name("sites")
FOLDER = "sites"  # in the directory of settings


class Defaults(_Part):
    """Fields of a job, under their own names."""

    queue_name: Word | None = None
    account: Word | None = None
    reservation_id: Word | None = None
    duration: Seconds = None
    launcher: str | None = None
    custom_attributes: dict[str, Custom] = Field(default_factory=dict)


class Site(_Part):
    """One file: it counts where all that it names fits, by patterns with `*`."""

    batch_system: str = "*"
    executor: str | None = Field(default=None, description="by default that of the machine's batch system")
    host: str = "*"
    defaults: Defaults

    def fits(self, executor: str, batch: BatchSystem, host: str) -> bool:
        return (
            executor == (self.executor or batch.psij_executor)
            and fnmatch.fnmatchcase(batch.name, self.batch_system)
            and fnmatch.fnmatchcase(host, self.host)
        )


def with_defaults(spec: JobSpec, executor: str, batch: BatchSystem) -> JobSpec:
    """The job with what it leaves open filled in; InvalidArgument names a file that cannot be read."""
    host = socket.getfqdn()
    for site in all_sites():
        if site.fits(executor, batch, host):
            spec = _filled(spec, site.defaults)
    return spec


def all_sites() -> Iterator[Site]:
    """The user's own first, each by the name of its file."""
    for folder in (config_dir() / FOLDER, OURS):
        for path in sorted(folder.glob("*.toml")):
            yield site_of(path)


def site_of(path: Path) -> Site:
    """One file."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"{path} cannot be read: {error}", hint="docs/psij.md shows such a file.") from None
    try:
        return Site.model_validate(content)
    except ValidationError as error:
        raise InvalidArgument(f"{path}: {refusal_of(error).message}", hint="docs/psij.md shows such a file.") from None


def _filled(spec: JobSpec, defaults: Defaults) -> JobSpec:
    given = spec.attributes
    account = given.account if given.project_name is not None else given.account or defaults.account
    attributes: Mapping[str, Any] = {
        "queue_name": given.queue_name or defaults.queue_name,
        "account": account,
        "reservation_id": given.reservation_id or defaults.reservation_id,
        "duration": given.duration or defaults.duration,
        "custom_attributes": {**defaults.custom_attributes, **given.custom_attributes},
    }
    filled: Attributes = given.model_copy(update=attributes)
    return spec.model_copy(update={"attributes": filled, "launcher": spec.launcher or defaults.launcher})
