"""Children: endpoints that are started by jobs of this one, each with a key and, where the site asks for it, a tunnel.

A child's key is minted when its job is submitted and revoked when the job has ended; it lies in a file that only its user may
read. A child is kept before there is anything of it, so that an endpoint that was started anew goes on with its tunnel, or
clears away what is left of it where there is no job. This module must not know schedulers or ssh.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from orbit_psij.following import Following
from orbit_psij.jobs import Job
from orbit_psij.models import JobSpec, check_mode
from orbit_zmq.addresses import events_address, host_and_port
from orbit_zmq.batch.threads import Threads
from orbit_zmq.client._async.client import AsyncClient
from orbit_zmq.endpoint import storefile
from orbit_zmq.endpoint.endpoint import check_name
from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, NotPermitted, OrbitError, OutcomeUnknown
from orbit_zmq.files import make_private_directory, remove_private
from orbit_zmq.log import get_logger
from orbit_zmq.paths import state_dir
from orbit_zmq.place import Place
from orbit_zmq.plugin.store import SessionStore
from orbit_zmq.security.join import JoinString
from orbit_zmq.tunnel import WRAPPER
from orbit_zmq.tunnel.deadlines import LOOK_S
from orbit_zmq.tunnel.opener import ReverseTunnel
from orbit_zmq.tunnel.rendezvous import Rendezvous, Report

log = get_logger(__name__)

AUTO = "auto"  # the child finds out
KEPT = "child/"  # before a child's name, in the plugin's store
SITE = "site/"  # before an executor's name: the kind of tunnel that has worked there
SOON_S = 0.1  # between two looks for a request, times the number of children: who waits for a tunnel has just been started
REVOKE_S, REVOKE_LONGEST_S = 2.0, 300.0  # between two attempts
SLACK_S = 86_400.0  # that a key is valid beyond its job's wall time; while the job waits, that is counted from now
RENEW_S = 3_600.0  # so often: this endpoint may be away for the rest of SLACK_S before the key of a job that waits is over
STORE_S = 60.0  # for a child's process to let go of its file, after its job
OWN_KEYS = ("ORBIT_JOIN_FILE", "ORBIT_JOIN", "ORBIT_CONTEXT")  # a job that brings one of these needs no key of ours
WRAPPERS = ("orbit-endpoint-wrapper.sh", "orbit-endpoint-wrapper")
UNKNOWN = {"status": "no_tunnel", "port": None, "pid": None, "ssh_host": None, "since": None, "reason": ""}


@dataclass(slots=True)
class Child:
    """One child, as it is kept and told."""

    endpoint_name: str
    tunnel: str
    job_id: str
    owner: str
    executor: str
    has_key: bool
    wall_time_s: float = 0.0  # none: not known
    status: str = "pending"  # or no_tunnel, active, reconnecting, failed, done
    port: int | None = None
    pid: int | None = None
    ssh_host: str | None = None
    since: float | None = None  # of the status, seconds since 1970
    reason: str = ""
    hint: str = ""
    has_ended_job: bool = False  # because its tunnel has failed

    def take(self, report: Report) -> None:
        self.tunnel, self.status, self.since = report.mode, report.state, report.since
        self.port, self.pid, self.ssh_host = report.port or None, report.pid, report.ssh_host or None
        self.reason, self.hint = report.reason, report.hint


class Parent(Protocol):
    """Whoever a child's job is submitted for."""

    owner: str

    @property
    def client(self) -> AsyncClient: ...

    async def submit_as(self, job_id: str, job_spec: JobSpec, executor: str) -> dict[str, Any]:
        """`{job_id, native_id}`; after OutcomeUnknown the scheduler may have the job, after another error it has not."""


class Children:
    """Those of one plugin instance."""

    def __init__(self, following: Following, threads: Threads) -> None:
        self._following, self._threads = following, threads
        self._children: dict[str, Child] = {}
        self._watched: dict[str, asyncio.Task[None]] = {}
        self._starting: set[str] = set()  # whose jobs are being submitted
        self._sites: dict[str, str] = {}  # by executor, what AUTO has found
        self._store = SessionStore()
        self._resumed = asyncio.Event()
        self._client: Callable[[], AsyncClient] | None = None
        self._cancel: Callable[[Job], Awaitable[None]] | None = None

    async def resume(
        self, store: SessionStore, client: Callable[[], AsyncClient], cancel: Callable[[Job], Awaitable[None]]
    ) -> None:
        """Go on with the children of an earlier process."""
        self._store, self._client, self._cancel = store, client, cancel
        await self._following.ready()
        sites = await self._threads.run(store.items, SITE)
        self._sites = {key.removeprefix(SITE): mode for key, mode in sites.items()}
        for kept in (await self._threads.run(store.items, KEPT)).values():
            with suppress(TypeError):  # another version wrote it
                child = Child(**kept)
                self._children[child.endpoint_name] = child
                self._watch(child)
        self._resumed.set()

    async def start(self, parent: Parent, spec: JobSpec, executor: str, tunnel: object) -> dict[str, Any]:
        """Submit the job of a child: what the parent answers, and its `endpoint_name`. AUTO is what has worked before, if
        anything has, else the child finds out."""
        await self._resumed.wait()
        mode = self._sites.get(executor, AUTO) if tunnel == AUTO else check_mode(tunnel)
        name = name_in(spec.arguments)
        if name in self._watched or name in self._starting:
            raise Conflict(
                f"a job that starts the endpoint {name} is under way already", hint="Wait for its end, or take another name."
            )
        has_key = not any(variable in spec.environment for variable in OWN_KEYS)
        if not has_key and mode in ("reverse", AUTO):
            raise InvalidArgument(f"tunnel {mode} needs a key that is minted here", hint=f"Leave out {', '.join(OWN_KEYS)}.")
        child = Child(name, mode, str(uuid.uuid4()), parent.owner, executor, has_key, spec.attributes.duration or 0.0)
        child.status, child.since = "no_tunnel" if mode == "none" else "pending", time.time()
        self._starting.add(name)
        try:
            if has_key:
                await _refuse_second_key(parent.client, name)
            answer = await self._submitted(child, spec, parent)
        finally:
            self._starting.discard(name)
        return {**answer, "endpoint_name": name}

    async def _submitted(self, child: Child, spec: JobSpec, parent: Parent) -> dict[str, Any]:
        """What the parent answers; where it fails nothing is left, unless the scheduler may have the job after all."""
        self._keep(child)
        await self._store.flush()  # before there is a key: whoever comes after a crash revokes it
        try:
            equipped = await self._equipped(child, spec, parent.client)
            answer = await parent.submit_as(child.job_id, equipped, child.executor)
        except OutcomeUnknown:
            self._begin(child)
            raise
        except BaseException:
            await self._put_away(child)
            raise
        self._begin(child)
        return answer

    def status(self, name: str, user: str) -> dict[str, Any]:
        """`{endpoint_name, status, port, pid, ssh_host, since, reason, hint}`."""
        child = self._children.get(name)
        if child is None or child.owner != user:
            return {"endpoint_name": name, **UNKNOWN, "hint": ""}
        return _told(child)

    def get(self, name: str) -> Child | None:
        return self._children.get(name)

    def all_of(self, user: str) -> list[dict[str, Any]]:
        """Those of a user whose jobs have not ended."""
        return [_told(child) for name, child in self._children.items() if child.owner == user and name in self._watched]

    async def _equipped(self, child: Child, spec: JobSpec, client: AsyncClient) -> JobSpec:
        """The job as the scheduler gets it: our wrapper by its path, the tunnel's options, and where the key lies."""
        name, mode = child.endpoint_name, child.tunnel
        environment: dict[str, str | int] = {"ORBIT_STATE_DIR": str(state_dir()), **spec.environment}
        await self._threads.run(Rendezvous(name).clear)
        if child.has_key:
            joined = await client.invite(name, "endpoint", expires_s=child.wall_time_s + SLACK_S)
            path = join_path(name)
            await self._threads.run(as_seen_from(client.place, joined).write, path)
            environment["ORBIT_JOIN_FILE"] = str(path)
        more = {"forward": ["--tunnel", "forward", "--tunnel-via", socket.gethostname()], "reverse": ["--tunnel", "reverse"]}
        more[AUTO] = ["--tunnel", AUTO, "--tunnel-via", socket.gethostname()]
        changes: dict[str, Any] = {"environment": environment, "arguments": [*spec.arguments, *more.get(mode, [])]}
        if spec.executable in WRAPPERS:
            changes["executable"] = str(WRAPPER)
            environment.setdefault("ORBIT_PYTHON", sys.executable)
        return spec.model_copy(update=changes)

    def _begin(self, child: Child) -> None:
        self._children[child.endpoint_name] = child
        self._watch(child)

    def _watch(self, child: Child) -> None:
        task = asyncio.get_running_loop().create_task(self._follow(child))
        self._watched[child.endpoint_name] = task
        task.add_done_callback(lambda _: self._watched.pop(child.endpoint_name, None))

    async def _follow(self, child: Child) -> None:
        """Until its job has ended: open the tunnel that it asks for, and note how that is."""
        job = self._following.get(child.job_id)
        reverse = self._opener(child)
        if reverse is not None and child.status == "active":  # it has ended with the process that kept it
            child.status, child.since, child.pid = "reconnecting", time.time(), None
        renewing = asyncio.get_running_loop().create_task(self._keep_valid(child, job))
        try:
            while job is not None and not job.is_final:
                if child.tunnel != "none":
                    await self._look(child, job, reverse)
                is_awaited = child.status == "pending" and job.state == "ACTIVE"  # a job may wait for days
                await self._following.ended(job, min(LOOK_S, SOON_S * len(self._watched)) if is_awaited else LOOK_S)
        except asyncio.CancelledError:  # the endpoint ends, the job does not
            if reverse is not None:
                reverse.leave()
            raise
        finally:
            renewing.cancel()
        if job is not None and child.tunnel != "none":
            await self._look(child, job, reverse)  # what it ended with
        if reverse is not None:
            await self._threads.run(reverse.close)
        await self._remove_store(child.endpoint_name)
        await self._put_away(child)
        if child.tunnel != "none" and child.status != "failed":
            child.status, child.since, child.reason, child.hint, child.pid = "done", time.time(), "", "", None

    async def _keep_valid(self, child: Child, job: Job | None) -> None:
        """The time of a key begins when its job does: until then its end is put off, as where the wall time is not known."""
        while child.has_key and job is not None and self._client is not None:
            if job.state != "ACTIVE" or not child.wall_time_s:
                try:
                    await self._client().renew(child.endpoint_name, child.wall_time_s + SLACK_S)
                except NotFound:  # somebody has revoked it
                    return
                except OrbitError as error:
                    log.warning("key-not-renewed", endpoint=child.endpoint_name, reason=error.message, again_in_s=RENEW_S)
            await asyncio.sleep(RENEW_S)

    async def _look(self, child: Child, job: Job, reverse: ReverseTunnel | None) -> None:
        """What has failed stays so: its job is ended, however often that has to be tried."""
        try:
            if child.status != "failed":
                await self._take_report(child, reverse)
            if child.status == "failed":
                await self._end_job(child, job)
        except OrbitError as error:  # a file of another version, or a scheduler that does not cancel now
            log.warning("child-not-followed", endpoint=child.endpoint_name, reason=error.message)

    async def _take_report(self, child: Child, reverse: ReverseTunnel | None) -> None:
        if reverse is not None:
            await self._threads.run(reverse.look)
        report = await self._threads.run(Rendezvous(child.endpoint_name).reported)
        if report is None or (report.state, report.since, report.reason) == (child.status, child.since, child.reason):
            return
        self._note_site(child, report)
        child.take(report)
        self._keep(child)

    async def _end_job(self, child: Child, job: Job) -> None:
        self._following.explain(job, f"No tunnel: {child.reason}")
        if job.is_final or child.has_ended_job or self._cancel is None:
            return
        log.warning("child-without-tunnel", endpoint=child.endpoint_name, reason=child.reason)
        await self._cancel(job)
        child.has_ended_job = True

    def _note_site(self, child: Child, report: Report) -> None:
        """What has worked is tried first the next time; what fails is found out anew."""
        if child.tunnel == AUTO and report.state in ("active", "no_tunnel"):
            self._sites[child.executor] = report.mode
            self._store.keep(SITE + child.executor, report.mode)
        elif report.state == "failed" and self._sites.pop(child.executor, None) is not None:
            self._store.drop(SITE + child.executor)

    def _opener(self, child: Child) -> ReverseTunnel | None:
        if child.tunnel not in ("reverse", AUTO):
            return None
        try:
            joined = JoinString.read(join_path(child.endpoint_name))
        except OrbitError as error:  # somebody has removed it
            child.status, child.reason, child.hint = "failed", error.message, error.hint
            return None
        return ReverseTunnel(child.endpoint_name, (host_and_port(joined.requests[-1]), host_and_port(joined.events[-1])))

    async def _put_away(self, child: Child) -> None:
        """The key is worth nothing from here on, and no file by which the child was started is left."""
        name = child.endpoint_name
        if child.has_key:
            await self._threads.run(remove_private, join_path(name))
        await self._threads.run(Rendezvous(name).clear)
        if child.has_key:
            await self._revoke(name)
        self._store.drop(KEPT + name)

    async def _remove_store(self, name: str) -> None:
        """What the child itself has kept goes with its job: nobody serves it any more."""
        ends_at = time.monotonic() + STORE_S
        while True:
            try:
                await self._threads.run(storefile.remove, storefile.path_of(state_dir(), name))
                return
            except BlockingIOError:  # its process has not ended yet
                if time.monotonic() > ends_at:
                    log.warning("store-not-removed", endpoint=name, reason="another process has it")
                    return
                await asyncio.sleep(LOOK_S)

    async def _revoke(self, name: str) -> None:
        """Until it is done: the broker may be away."""
        pause_s = REVOKE_S
        while self._client is not None:
            try:
                await self._client().revoke(name)
                return
            except (NotFound, NotPermitted):  # there is none of ours
                return
            except OrbitError as error:
                log.warning("key-not-revoked", endpoint=name, reason=error.message, again_in_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, REVOKE_LONGEST_S)

    def _keep(self, child: Child) -> None:
        self._store.keep(KEPT + child.endpoint_name, asdict(child))


def _told(child: Child) -> dict[str, Any]:
    told = asdict(child)
    return {key: told[key] for key in ("endpoint_name", *UNKNOWN, "hint", "tunnel", "job_id", "executor")}


def name_in(arguments: Sequence[str]) -> str:
    """The name that the child is given among its arguments; InvalidArgument where there is none."""
    for at, word in enumerate(arguments):
        if word in ("-n", "--name") and at + 1 < len(arguments):
            return _checked(arguments[at + 1])
        for start in ("--name=", "-n"):
            if word.startswith(start) and len(word) > len(start):
                return _checked(word.removeprefix(start))
    raise InvalidArgument("the job's arguments give the endpoint no name", hint="Add -n NAME to them.")


def _checked(name: str) -> str:
    check_name(name)  # it becomes a part of the names of files
    return name


def join_path(name: str) -> Path:
    """Where a child's key lies while its job lives; the node has to see it."""
    directory = make_private_directory(state_dir() / "tunnels", "ORBIT_STATE_DIR")
    return directory / f"{name}.join"


def as_seen_from(place: Place, joined: JoinString) -> JoinString:
    """With the addresses by which this endpoint itself reaches the broker as the last: a tunnel ends where it runs."""
    if not place.address.startswith("tcp://") or not joined.events:
        return joined
    events = place.events or events_address(place.address, {"tcp": joined.events[0]}) or ""
    return replace(joined, requests=(*joined.requests, place.address), events=(*joined.events, events))


async def _refuse_second_key(client: AsyncClient, name: str) -> None:
    """Conflict where a key of that name is listed: it is somebody's, and not ours to revoke."""
    with suppress(NotFound):
        await client.keys(name)
        raise Conflict(f"a key of the name {name} is listed already", hint="Revoke it first, or take another name.")
