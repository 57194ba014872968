"""Children: what the scheduler is given for one, where its key lies, and that no key outlives what it was minted for."""

from __future__ import annotations

import asyncio
import shlex
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest
from lab import wait_until

from orbit_psij import children as children_module
from orbit_psij.children import KEPT, SLACK_S, Child, Children, join_path
from orbit_psij.following import Following
from orbit_psij.jobs import Job, new_job
from orbit_psij.models import JobSpec
from orbit_psij.submission import Submission
from orbit_zmq.batch.threads import Threads
from orbit_zmq.client._async.client import AsyncClient
from orbit_zmq.endpoint import storefile
from orbit_zmq.endpoint.store import Store
from orbit_zmq.errors import BrokerUnreachable, Conflict, InvalidArgument, NotFound, OrbitError, OutcomeUnknown
from orbit_zmq.paths import state_dir
from orbit_zmq.place import Place
from orbit_zmq.plugin.store import SessionStore
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keys import make_keypair
from orbit_zmq.tunnel import WRAPPER

NAME = "login.one"
WORDS = ["-n", NAME, "--plugins", "rhapsody"]
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORBIT_STATE_DIR", str(tmp_path / "state"))


class Kept:
    """What an endpoint keeps on disk, for several processes one after the other."""

    fault = ""
    is_over_limit = False

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def keep(self, session: str, items: Iterable[tuple[str, bytes]]) -> None:
        self.values.update(items)

    def drop(self, session: str, keys: Iterable[str]) -> None:
        for key in keys:
            self.values.pop(key, None)

    def when_kept(self, callback: Callable[[], None]) -> None:
        callback()

    def items(self, session: str, prefix: str) -> list[tuple[str, bytes]]:
        return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]

    def get(self, session: str, key: str) -> bytes | None:
        return self.values.get(key)


class Broker:
    """The broker's keys, as a client asks for them."""

    def __init__(self) -> None:
        self.place = Place("tcp://10.0.0.1:5670", "B" * 40, None, "a test", "tcp://10.0.0.1:5671")
        self.minted: dict[str, JoinString] = {}
        self.expires_s: dict[str, float] = {}
        self.renewed = 0
        self.fails: OrbitError | None = None  # of the next invitation, which has been carried out

    async def keys(self, name: str) -> list[str]:
        if name not in self.minted:
            raise NotFound(name)
        return [name]

    async def invite(self, name: str, role: str, *, expires_s: float) -> JoinString:
        addresses = ("tcp://bridge:5670",), ("tcp://bridge:5671",)
        self.minted[name] = JoinString(*addresses, "B" * 40, make_keypair(), name, role)
        self.expires_s[name] = expires_s
        if self.fails is not None:
            raise self.fails
        return self.minted[name]

    async def renew(self, name: str, expires_s: float) -> None:
        self.renewed += 1
        self.expires_s[name] = expires_s

    async def revoke(self, name: str) -> None:
        if self.minted.pop(name, None) is None:
            raise NotFound(name)


class World:
    """One process of a login endpoint, and the session of a user who submits; its scheduler takes what it is given."""

    owner = "maya"

    def __init__(self, broker: Broker, kept: Kept) -> None:
        self.broker = broker
        self.store = SessionStore(cast(Any, kept))
        self.threads = Threads()
        self.following = Following(self.threads, lambda job: None, 5.0)
        self.following._restored.set()
        self.children = Children(self.following, self.threads)
        self.given: JobSpec | None = None
        self.script = ""
        self.fails: BaseException | None = None  # of the next submission, after the job is known

    @property
    def client(self) -> AsyncClient:
        return cast(AsyncClient, self.broker)

    async def begin(self) -> None:
        async def cancel(job: Job) -> None: ...

        await self.children.resume(self.store, lambda: self.client, cancel)

    async def submit_as(self, job_id: str, job_spec: JobSpec, executor: str) -> dict[str, Any]:
        submission = Submission.of(job_id, executor, job_spec)
        self.given, self.script = submission.spec, submission.script()
        job = new_job(job_id, submission.spec, executor, self.owner, "s", "x", time.time())
        self.following._jobs[job_id] = job
        if self.fails is not None:
            if not isinstance(self.fails, OutcomeUnknown):
                self.following.drop(job)
            raise self.fails
        return {"job_id": job_id, "native_id": "7"}

    async def start(self, tunnel: object = "none", **more: Any) -> dict[str, Any]:
        spec = {"executable": WRAPPER.name, "arguments": WORDS, "attributes": {"duration": 600}, **more}
        return await self.children.start(self, JobSpec.of(spec), "slurm", tunnel)

    def end_job(self) -> None:
        for job in self.following.all():
            self.following._settle(job, "COMPLETED", "")

    @property
    def words(self) -> list[str]:
        """The command in the script, as the shell takes it, after our own lines around it."""
        words = shlex.split(self.script[self.script.index("\nexec /bin/sh -c") :])
        return words[words.index("orbit-job") + 6 :]


def played(scene: Callable[[World], Awaitable[None]], broker: Broker | None = None, kept: Kept | None = None) -> World:
    """A scene in one process of the endpoint, which ends as with a kill."""

    async def play() -> World:
        world = World(broker or Broker(), kept or Kept())
        await world.begin()
        await scene(world)
        return world

    return asyncio.run(play())


async def until(is_so: Callable[[], bool]) -> None:
    await asyncio.to_thread(wait_until, is_so, PATIENCE_S)


@pytest.mark.parametrize(
    ("tunnel", "more"),
    [
        ("none", []),
        ("forward", ["--tunnel", "forward", "--tunnel-via", socket.gethostname()]),
        ("reverse", ["--tunnel", "reverse"]),
        ("auto", ["--tunnel", "auto", "--tunnel-via", socket.gethostname()]),
    ],
)
def test_the_scheduler_sees_the_wrapper_with_the_options_of_the_tunnel_and_no_secret(tunnel: str, more: list[str]) -> None:
    broker = Broker()

    async def scene(world: World) -> None:
        await world.start(tunnel)

    world = played(scene, broker)

    assert world.words == [str(WRAPPER), *WORDS, *more]
    assert world.given is not None and [world.given.executable, *world.given.arguments] == world.words
    joined = broker.minted[NAME]
    for text in (world.script, world.given.model_dump_json(), repr(world.given)):
        assert joined.keys.secret not in text and joined.keys.public not in text and joined.encode() not in text
        assert "orbit1:" not in text
    assert world.given.environment["ORBIT_JOIN_FILE"] == str(join_path(NAME))
    assert world.given.environment["ORBIT_PYTHON"] == sys.executable
    assert JoinString.read(join_path(NAME)).keys == joined.keys
    assert join_path(NAME).stat().st_mode & 0o777 == 0o600


def test_a_key_is_valid_for_the_wall_time_and_a_day_and_that_is_counted_anew_while_the_job_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = Broker()
    monkeypatch.setattr(children_module, "RENEW_S", 0.01)

    async def scene(world: World) -> None:
        await world.start()
        assert broker.expires_s[NAME] == 600 + SLACK_S
        await until(lambda: broker.renewed > 3)
        (job,) = world.following.all()
        job.state = "ACTIVE"
        await asyncio.sleep(0.1)  # one that is under way may come to its end
        so_far = broker.renewed
        await asyncio.sleep(0.1)
        assert broker.renewed == so_far

    played(scene, broker)

    assert broker.expires_s[NAME] == 600 + SLACK_S


def test_the_key_of_a_job_without_a_wall_time_is_renewed_as_long_as_the_job_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = Broker()
    monkeypatch.setattr(children_module, "RENEW_S", 0.01)

    async def scene(world: World) -> None:
        await world.start(attributes={})
        (job,) = world.following.all()
        job.state = "ACTIVE"
        so_far = broker.renewed
        await until(lambda: broker.renewed > so_far + 3)
        world.end_job()
        await until(lambda: broker.minted == {})

    played(scene, broker)


def test_a_key_whose_job_was_never_handed_over_is_revoked_by_the_next_process() -> None:
    broker, kept = Broker(), Kept()

    async def cut_off(world: World) -> None:
        """Killed after the invitation, before the job is known."""
        child = Child(NAME, "reverse", "never", World.owner, "slurm", has_key=True)
        world.store.keep(KEPT + NAME, asdict(child))
        await world.children._equipped(child, JobSpec.of({"executable": "x", "arguments": WORDS}), world.client)

    played(cut_off, broker, kept)
    assert list(broker.minted) == [NAME] and join_path(NAME).exists()

    async def afterwards(world: World) -> None:
        await until(lambda: broker.minted == {} and kept.values == {})

    played(afterwards, broker, kept)
    assert not join_path(NAME).exists()


def test_a_child_is_kept_before_it_has_a_key() -> None:
    broker, kept = Broker(), Kept()
    broker.fails = BrokerUnreachable("it is away")
    seen: list[list[str]] = []

    async def scene(world: World) -> None:
        invite = broker.invite

        async def look(*arguments: Any, **more: Any) -> JoinString:
            seen.append(list(kept.values))
            return await invite(*arguments, **more)

        broker.invite = look  # type: ignore[method-assign]
        with pytest.raises(BrokerUnreachable):
            await world.start()

    played(scene, broker, kept)

    assert seen == [[KEPT + NAME]]
    assert broker.minted == {} and kept.values == {}  # and nothing is left where it fails


def test_after_an_unknown_outcome_of_the_submission_the_key_ends_with_the_job() -> None:
    broker, kept = Broker(), Kept()

    async def scene(world: World) -> None:
        world.fails = OutcomeUnknown("the scheduler has not answered")
        with pytest.raises(OutcomeUnknown):
            await world.start()
        assert list(broker.minted) == [NAME]  # the scheduler may have the job
        with pytest.raises(Conflict, match="under way"):
            await world.start()
        world.end_job()  # it was never submitted, or has ended
        await until(lambda: broker.minted == {} and kept.values == {})

    played(scene, broker, kept)


def test_after_an_unknown_outcome_of_the_invitation_nothing_is_left() -> None:
    broker, kept = Broker(), Kept()

    async def scene(world: World) -> None:
        broker.fails = OutcomeUnknown("the broker was started anew")
        with pytest.raises(OutcomeUnknown):
            await world.start()
        await until(lambda: broker.minted == {} and kept.values == {})

    played(scene, broker, kept)


def test_where_the_scheduler_refuses_the_job_nothing_is_left() -> None:
    broker, kept = Broker(), Kept()

    async def scene(world: World) -> None:
        world.fails = InvalidArgument("no such queue")
        with pytest.raises(InvalidArgument):
            await world.start("reverse")

    played(scene, broker, kept)

    assert broker.minted == {} and kept.values == {} and not join_path(NAME).exists()


def test_a_key_of_that_name_that_is_somebodys_is_left_alone() -> None:
    broker, kept = Broker(), Kept()

    async def scene(world: World) -> None:
        theirs = await broker.invite(NAME, "endpoint", expires_s=60)
        with pytest.raises(Conflict, match="is listed already"):
            await world.start()
        assert broker.minted == {NAME: theirs}

    played(scene, broker, kept)

    assert kept.values == {}


def test_what_the_child_has_kept_goes_when_its_job_and_its_process_have_ended() -> None:
    broker = Broker()
    left: list[str] = []

    async def scene(world: World) -> None:
        await world.start()
        own, other = Store.open(state_dir(), NAME), Store.open(state_dir(), f"{NAME}.x")
        own.keep_session("s", b"facts")
        world.end_job()
        await asyncio.sleep(0.1)
        assert storefile.path_of(state_dir(), NAME).exists()  # its process still has it
        own.close()
        await until(lambda: broker.minted == {})
        left.extend(one.name for one in state_dir().iterdir() if one.name.startswith(f"endpoint-{NAME}."))
        other.close()

    played(scene, broker)

    assert left and all(name.startswith(f"endpoint-{NAME}.x.") for name in left)  # another child's
