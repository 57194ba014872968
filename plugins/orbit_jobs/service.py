"""The endpoint's side: operations on jobs, which belong to a user and not to a session.

A session may be closed, the endpoint may be killed: the jobs and what is known of them stay. What runs and follows them is
the desk's matter; here is what callers may ask.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from orbit_jobs.book import Book, Entry, id_of_key
from orbit_jobs.desk import Desk
from orbit_jobs.files import member_path
from orbit_jobs.models import Array, Issue, JobId, JobSpec, JobStatus, JobValidationError
from orbit_jobs.places import Places
from orbit_jobs.targets import checked_targets
from orbit_jobs.ui_config import UI_CONFIG
from orbit_psij.output import read_part
from orbit_zmq.errors import InvalidArgument
from orbit_zmq.plugin import Explanation, Host, Plugin, PluginSession, operation
from orbit_zmq.plugin.arguments import Caller
from orbit_zmq.plugin.plugin import WAIT_S, WaitSeconds
from orbit_zmq.why import Phase

Part = tuple[bytes, int]  # of an output, and the offset after it

OUTPUT_BYTES = 1 << 20  # of one answer
LOOK_S = 0.25  # between two looks at a file that somebody waits for
SUBMIT_S = 120.0  # a scheduler under load takes a minute
MOST_LISTED = 10_000
MOST_ASKED = 10_000

Key = Annotated[str, Field(min_length=1, max_length=255)]
Offset = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1, le=OUTPUT_BYTES)]
JobIds = Annotated[list[JobId], Field(max_length=MOST_ASKED)]


class JobsSession(PluginSession):
    """A user's view of their jobs, the same in all their sessions."""

    def __init__(self, sid: str, plugin: JobsPlugin) -> None:
        super().__init__(sid)
        self._plugin = plugin
        self._desk = plugin.desk

    @operation(effect="run", deadline_s=SUBMIT_S)
    async def submit(
        self,
        spec: dict[str, Any] | None = None,
        command: list[str] | None = None,
        dry_run: bool = False,
        target: str | None = None,
        key: Key | None = None,
        after: JobIds | None = None,
        array: str | None = None,
    ) -> dict[str, Any]:
        """Submit a job, or show what would be submitted: a handle, or with `dry_run` the script and the command.

        `spec` has the fields of a job, `command` its words. Under a `key` a job is submitted once, however often that is asked.
        `after` are jobs that have to succeed first. `array` makes members of it, such as 0-9 or 0-99%4.
        """
        members = Array.parse(array) if array is not None else None
        job_id = id_of_key(self.host.name, self._plugin.instance_name, self.owner, key) if key is not None else None
        answer = await self._desk.submit(
            self.owner,
            _spec_of(spec, command),
            target=target,
            job_id=job_id,
            after=after or (),
            array=members,
            dry_run=dry_run,
        )
        return answer.model_dump(mode="json")

    @operation(effect="read", path="status/{sid}/{job_id}")
    async def status(self, job_id: JobId) -> dict[str, Any]:
        """The handle of a job with its `status` and `detail`."""
        return (await self._entry(job_id)).result().model_dump(mode="json")

    @operation(effect="read", waits=True, deadline_s=WAIT_S + 30)
    async def wait(self, job_ids: JobIds, wait_s: WaitSeconds = 30.0) -> dict[str, Any]:
        """`{jobs, done}` once all of these have ended, at the latest after `wait_s`."""
        entries = [await self._entry(job_id) for job_id in job_ids]
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                for entry in entries:
                    await entry.over.wait()
        jobs = [entry.result().model_dump(mode="json") for entry in entries]
        return {"jobs": jobs, "done": all(entry.over.is_set() for entry in entries)}

    @operation(effect="run", idempotent=True, deadline_s=SUBMIT_S, path="cancel/{sid}/{job_id}")
    async def cancel(self, job_id: JobId, reason: str = "") -> dict[str, Any]:
        """Ask for a job's end; what is known of it afterwards. One that has ended stays as it is."""
        return (await self._desk.cancel(await self._entry(job_id), reason)).model_dump(mode="json")

    @operation(effect="read", waits=True, deadline_s=WAIT_S + 30, path="logs/{sid}/{job_id}")
    async def logs(
        self,
        job_id: JobId,
        stdout_offset: Offset = 0,
        stderr_offset: Offset = 0,
        member: Offset | None = None,
        max_bytes: Size = OUTPUT_BYTES,
        wait_s: WaitSeconds = 0.0,
    ) -> dict[str, Any]:
        """`{stdout, stderr, stdout_offset, stderr_offset, ended}`: what the job has written from these offsets on, as bytes.

        At most `max_bytes` of each. Where there is nothing new it waits for that, `wait_s` at most. `ended`: the job has ended,
        and nothing more is to be read. Of an array it is that of one `member`: InvalidArgument where that is not said, or where
        there is none of that number.
        """
        entry = await self._entry(job_id)
        _check_member(entry, member)
        ends_at = time.monotonic() + wait_s
        while True:
            was_over = entry.over.is_set()  # before the look, so that the last bytes are not missed
            offsets = (stdout_offset, stderr_offset)
            (out, stdout_after), (err, stderr_after) = await asyncio.to_thread(_read_output, entry, member, offsets, max_bytes)
            if out or err or was_over or time.monotonic() >= ends_at:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(entry.over.wait(), LOOK_S)
        return {
            "stdout": out,
            "stderr": err,
            "stdout_offset": stdout_after,
            "stderr_offset": stderr_after,
            "ended": was_over and not out and not err,
        }

    @operation(effect="read")
    async def list(
        self,
        status: list[JobStatus] | None = None,
        target: str | None = None,
        job_ids: JobIds | None = None,
        limit: Annotated[int, Field(ge=1, le=MOST_LISTED)] = 1_000,
    ) -> dict[str, Any]:
        """`{jobs: [...]}`: those of this user, of any session, the newest first."""
        await self._desk.ready()
        wanted = None if job_ids is None else frozenset(job_ids)
        found = [
            entry
            for entry in self._desk.book
            if entry.user == self.owner
            and (status is None or entry.status in status)
            and (target is None or entry.handle.target == target)
            and (wanted is None or entry.job_id in wanted)
        ]
        found.sort(key=lambda entry: entry.handle.submitted_at, reverse=True)
        return {"jobs": [entry.result().model_dump(mode="json") for entry in found[:limit]]}

    @operation(effect="run", idempotent=True, path="forget/{sid}/{job_id}")
    async def forget(self, job_id: JobId) -> dict[str, Any]:
        """Take away what is known of a job that has ended, with the output that lies with it. Conflict before it has ended."""
        await self._desk.forget(await self._entry(job_id))
        return {}

    async def _entry(self, job_id: str) -> Entry:
        await self._desk.ready()
        return self._desk.book.find(job_id, self.owner)


class JobsPlugin(Plugin):
    """Jobs on this machine and its batch system: submitted, previewed, followed, cancelled and remembered."""

    plugin_name = "jobs"
    session_class = JobsSession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = UI_CONFIG

    def __init__(
        self,
        host: Host,
        instance_name: str | None = None,
        targets: Mapping[str, Any] | None = None,
        default_target: str | None = None,
        keep_days: float = 7.0,
    ) -> None:
        """`targets` are places for jobs by name; what is known of a job is kept for `keep_days` after its end."""
        super().__init__(host, instance_name)
        places = Places(checked_targets(targets or {}), default_target)
        self.desk = Desk(host.name, places, Book(lambda: self.store), self._tell, float(keep_days) * 86_400)

    def create_session(self, sid: str) -> JobsSession:
        return JobsSession(sid, self)

    async def while_served(self) -> None:
        await self.desk.run()

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        """Where a job of this user is."""
        await self.desk.ready()
        entry = self.desk.book.get(item)
        if entry is None or (entry.user != caller.user and not caller.is_admin):
            return None
        return explanation_of(entry, self.desk.book)

    @operation(effect="read")
    async def targets(self) -> dict[str, Any]:
        """`{targets: [{name, runner, usable, reason}], default}`: where jobs may go."""
        places = self.desk.places
        return {"targets": await asyncio.to_thread(places.described), "default": places.default}

    def _tell(self, entry: Entry) -> None:
        facts = {name: entry.detail.get(name) for name in ("exit_code", "signal", "reason")}
        known = {"job_id": entry.job_id, "status": entry.status.value, "native_id": entry.handle.native_id}
        self.send_notification("job_status", {**known, **facts, "name": entry.handle.metadata.get("name")}, user=entry.user)


def explanation_of(entry: Entry, book: Book) -> Explanation:
    """Why a job is not further than it is."""
    waits_for = [one for one in entry.after if (other := book.get(one)) is None or other.stage != "ended"]
    said = str(entry.detail.get("reason") or "")
    phase: Phase = "waiting"
    if entry.status.is_finished:
        phase, reason = "ended", f"It is {entry.status}. {said}".strip()
    elif entry.status is JobStatus.RUNNING:
        phase, reason = "running", f"It runs on {entry.detail.get('node_list') or entry.handle.backend}."
    elif waits_for and entry.stage == "held":
        reason = f"It waits for the jobs {', '.join(waits_for)}."
    elif entry.stage == "handing":
        reason = f"It is being handed over to {entry.handle.backend}."
    else:
        reason = f"It waits to be started by {entry.handle.backend}" + (f": {said}." if said else ".")
    facts = {"backend": entry.handle.backend, "target": entry.handle.target, "problem": entry.problem}
    return Explanation(
        kind="job",
        state=entry.status.value,
        phase=phase,
        reason=reason,
        native_id=entry.handle.native_id or "",
        facts={name: value for name, value in facts.items() if value},
    )


def _spec_of(spec: dict[str, Any] | None, command: list[str] | None) -> JobSpec:
    """The job that is meant. JobValidationError where it is none."""
    given = dict(spec or {})
    if command:
        given |= {"executable": command[0], "arguments": command[1:]}
    try:
        return JobSpec.of(given)
    except InvalidArgument as error:
        ctx = {"fields": error.details.get("fields", [])}
        raise JobValidationError([Issue(kind="invalid_spec", msg=error.message, ctx=ctx)]) from None


def _check_member(entry: Entry, member: int | None) -> None:
    text = entry.handle.metadata.get("array")
    if text is None and member is not None:
        raise InvalidArgument(f"{entry.job_id} is no array, and has no members.", hint="Leave `member` out.")
    if text is not None and (member is None or member not in Array.parse(text).indices):
        said = f"has no member {member}" if member is not None else "is an array, and each of its members has output of its own"
        raise InvalidArgument(f"{entry.job_id} {said}.", hint=f"Say by `member` which one: {text.partition('%')[0]}.")


def _read_output(entry: Entry, member: int | None, offsets: tuple[int, int], size: int) -> tuple[Part, Part]:
    said = [entry.handle.metadata.get(name) for name in ("stdout", "stderr")]
    if said[0] == said[1]:
        said[1] = None  # it is all in one file
    return (
        _read(member_path(Path(said[0]), member), offsets[0], size) if said[0] else (b"", offsets[0]),
        _read(member_path(Path(said[1]), member), offsets[1], size) if said[1] else (b"", offsets[1]),
    )


def _read(path: Path, offset: int, size: int) -> Part:
    """A part of a file, and the offset after it; of one that is not there yet nothing."""
    part, after, there = read_part(path, offset, size)
    if there:
        return part, after
    with suppress(OSError):
        os.listdir(path.parent)  # makes a network file system look again
    return b"", offset
