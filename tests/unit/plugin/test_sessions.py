"""Sessions: opened, attached to, initialized, owned, expired, closed."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from bench import PATIENCE_S, Bench, incarnation_of, run, run_at_once, served, until

from orbit_testplugin import OddError, TestPlugin, TestSession
from orbit_zmq.endpoint import sessions as sessions_module
from orbit_zmq.errors import (
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
    RemoteError,
    SessionClosed,
    SessionExpired,
    SessionNotReady,
)
from orbit_zmq.plugin import Host, Plugin, PluginSession, operation
from orbit_zmq.wire.header import ADMIN, ALL_RIGHTS


class Journal(PluginSession):
    """Writes down what happens to it."""

    def __init__(self, sid: str, color: str = "none") -> None:
        super().__init__(sid)
        self.color = color
        self.events: list[str] = []
        self.is_working = False

    @operation(effect="run")
    async def start(self, fails: bool = False) -> None:
        async def background() -> None:
            try:
                if fails:
                    raise OddError("in the background")
                await asyncio.sleep(60)
            finally:
                self.events.append("background ended")

        self.spawn(background())

    @operation(effect="read")
    async def state(self) -> dict[str, Any]:
        return {"color": self.color, "owner": self.owner, "holder": self.holder, "events": self.events}

    @operation(effect="read")
    async def wait(self) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            self.events.append("call ended")

    def has_unfinished_work(self) -> bool:
        return self.is_working

    async def close(self) -> dict[str, Any]:
        self.events.append("closed")
        return await super().close()


class JournalPlugin(Plugin):
    plugin_name = "journal"
    session_class = Journal
    made: list[Journal]

    def __init__(self, host: Host, instance_name: str | None = None) -> None:
        super().__init__(host, instance_name)
        self.made = []

    async def create_session(self, sid: str, color: str = "blue") -> Journal:
        await asyncio.sleep(0)
        self.made.append(Journal(sid, color))
        return self.made[-1]


class Clock:
    """A time that the test moves."""

    def __init__(self, bench: Bench) -> None:
        self.now = 1000.0
        bench.service.sessions._clock = lambda: self.now


def test_register_answers_a_short_id_and_announces_the_session():
    async def scenario() -> None:
        async with served() as bench:
            answer = await bench.call("register_session")
            prefix, _, digits = answer["sid"].partition(".")
            assert prefix == "session" and len(digits) == 8
            assert answer["status"] == "initializing"
            fact = {"id": answer["sid"], "plugin": "test", "user": "ann", "lifetime": "ephemeral", "holder": b"c" * 16}
            assert bench.announced == [{"opened": [fact]}]

    run(scenario)


def test_a_session_without_initialize_is_ready_at_once():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            answer = await bench.call("register_session", {"color": "red"}, plugin="journal")
            assert answer["status"] == "ready"
            state = await bench.call("state", plugin="journal", session=answer["sid"])
            assert state == {"color": "red", "owner": "ann", "holder": "ann.1", "events": []}

    run(scenario)


def test_calls_before_ready_are_refused_for_now_and_status_waits_for_the_change(monkeypatch):
    async def scenario() -> None:
        async with served() as bench:
            sid = (await bench.call("register_session", {"initialize_s": 0.05}))["sid"]
            with pytest.raises(SessionNotReady, match=f"session {sid} is still being set up") as caught:
                await bench.call("echo", {"text": "x"}, session=sid)
            assert caught.value.transient
            assert (await bench.call("session_status", session=sid))["status"] == "initializing"
            async with asyncio.timeout(PATIENCE_S):
                answer = await bench.call("session_status", {"wait_s": 60}, session=sid, left_s=60)
            assert (answer["sid"], answer["status"], answer["plugin"], answer["kept"]) == (sid, "ready", "test", False)
            assert await bench.call("echo", {"text": "x"}, session=sid) == "x"

    run_at_once(scenario, monkeypatch)


def test_a_status_poll_that_ends_before_the_change_says_initializing():
    async def scenario() -> None:
        async with served() as bench:
            sid = (await bench.call("register_session", {"initialize_s": 60}))["sid"]
            answer = await bench.call("session_status", {"wait_s": 0.02}, session=sid)
            assert answer["status"] == "initializing"

    run(scenario)


def test_a_session_that_fails_to_initialize_says_why_in_status_and_to_calls():
    async def scenario() -> None:
        async with served() as bench:
            sid = (await bench.call("register_session", {"initialize_error": "no queue"}))["sid"]
            status = await bench.call("session_status", {"wait_s": PATIENCE_S}, session=sid)
            assert status["status"] == "failed"
            assert status["error"]["message"] == "no queue"
            assert status["error"]["type"] == "orbit_testplugin.service.OddError"
            with pytest.raises(SessionNotReady, match="could not be set up: no queue") as caught:
                await bench.call("echo", {"text": "x"}, session=sid)
            assert not caught.value.transient

    run(scenario)


def test_a_session_whose_initialize_is_canceled_by_what_it_waits_for_has_failed():
    class Canceling(Journal):
        async def initialize(self) -> None:
            waited_for = asyncio.ensure_future(asyncio.sleep(60))
            waited_for.cancel()
            await waited_for

    class CancelingPlugin(Plugin):
        plugin_name = "canceling"
        session_class = Canceling

    async def scenario() -> None:
        async with served(CancelingPlugin(Host())) as bench:
            sid = (await bench.call("register_session", plugin="canceling"))["sid"]
            status = await bench.call("session_status", {"wait_s": PATIENCE_S}, plugin="canceling", session=sid)
            assert status["status"] == "failed"
            assert status["error"]["type"] == "asyncio.exceptions.CancelledError"

    run(scenario)


def test_a_session_that_cannot_be_made_leaves_nothing_behind():
    class Fussy(TestPlugin):
        def create_session(self, sid: str) -> PluginSession:
            raise OddError("no room")

    async def scenario() -> None:
        async with served(Fussy(Host())) as bench:
            with pytest.raises(RemoteError, match="no room"):
                await bench.call("register_session", {"sid": "mine"})
            assert bench.announced == []
            assert await bench.call("list_sessions") == {"sessions": []}
            with pytest.raises(NotFound, match="unknown session id: mine"):
                await bench.call("session_status", session="mine")

    run(scenario)


def test_a_hook_that_returns_no_session_is_named():
    class Lazy(TestPlugin):
        async def create_session(self, sid: str) -> Any:
            return None

    async def scenario() -> None:
        async with served(Lazy(Host())) as bench:
            with pytest.raises(InternalError, match="plugin test: create_session returned no PluginSession"):
                await bench.call("register_session")

    run(scenario)


def test_register_with_the_id_of_ones_own_session_attaches_to_it():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            assert (await bench.call("register_session", {"sid": "s1"}, plugin="journal"))["sid"] == "s1"
            again = await bench.call("register_session", {"sid": "s1"}, plugin="journal", source="ann.2")
            assert again == {"sid": "s1", "status": "ready"}
            assert (await bench.call("state", plugin="journal", session="s1"))["holder"] == "ann.2"
            assert [fact["opened"][0]["holder"] for fact in bench.announced] == [b"c" * 16, incarnation_of("ann.2")]

    run(scenario)


def test_two_registers_of_one_id_at_once_make_one_session():
    async def scenario() -> None:
        plugin = JournalPlugin(Host())
        async with served(plugin) as bench:
            calls = [bench.start("register_session", {"sid": "s1"}, plugin="journal") for _ in range(5)]
            assert {(await call.result())["sid"] for call in calls} == {"s1"}
            assert len(plugin.made) == 1

    run(scenario)


def test_an_id_of_another_user_or_with_another_lifetime_is_a_conflict():
    async def scenario() -> None:
        async with served() as bench:
            await bench.call("register_session", {"sid": "s1", "ttl": 60})
            with pytest.raises(Conflict, match="session id s1 is taken"):
                await bench.call("register_session", {"sid": "s1"}, user="bob")
            with pytest.raises(Conflict, match="session s1 exists with lifetime ttl, ttl 60"):
                await bench.call("register_session", {"sid": "s1", "lifetime": "persistent"})
            with pytest.raises(Conflict, match="ttl 60"):
                await bench.call("register_session", {"sid": "s1", "ttl": 61})
            assert (await bench.call("register_session", {"sid": "s1", "ttl": 60}))["sid"] == "s1"

    run(scenario)


def test_who_attaches_leaves_arguments_out_or_says_the_same_and_some_are_free():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:

            async def register(**arguments: str) -> str:
                return (await bench.call("register_session", {"sid": "s1", **arguments}, plugin="journal"))["sid"]

            await register(color="red")
            assert [await register(), await register(color="red")] == ["s1", "s1"]
            with pytest.raises(Conflict, match="session s1 exists with other color") as caught:
                await register(color="green")
            assert caught.value.details["fields"] == ["color"]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Journal, "free_arguments", frozenset({"color"}))
                assert await register(color="green") == "s1"

    run(scenario)


@pytest.mark.parametrize(
    "arguments",
    [
        {"lifetime": "forever"},
        {"ttl": 0},
        {"ttl": float("nan")},
        {"ttl": -1},
        {"lifetime": "persistent", "ttl": 5},
        {"sid": "a b"},
        {"sid": ""},
        {"colour": "red"},
    ],
)
def test_bad_arguments_of_register_are_named(arguments):
    async def scenario() -> None:
        async with served() as bench:
            with pytest.raises(InvalidArgument) as caught:
                await bench.call("register_session", arguments)
            assert caught.value.details["fields"] == [list(arguments)[-1]]
            assert len(bench.service.sessions) == 0

    run(scenario)


def test_another_users_session_is_as_unknown_as_none():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            for operation_name in ("echo", "session_status", "unregister_session"):
                with pytest.raises(NotFound, match=f"unknown session id: {sid}"):
                    await bench.call(operation_name, session=sid, user="bob")
            assert await bench.call("list_sessions", user="bob") == {"sessions": []}
            (mine,) = (await bench.call("list_sessions"))["sessions"]
            assert mine == {
                "sid": sid, "plugin": "test", "status": "ready", "owner": "ann", "holder": "ann.1", "lifetime": "ephemeral",
                "ttl": 0, "kept": False,
            }  # fmt: skip

    run(scenario)


def test_an_admin_is_shown_the_sessions_of_all_users_and_may_use_only_their_own():
    async def scenario() -> None:
        async with served() as bench:
            sids = {user: await bench.session(user=user) for user in ("ann", "bob")}
            listed = (await bench.call("list_sessions", user="root", source="root.1", rights=ADMIN | ALL_RIGHTS))["sessions"]
            assert {session["owner"]: session["sid"] for session in listed} == sids
            with pytest.raises(NotFound):
                await bench.call("echo", {"text": "x"}, session=sids["ann"], user="root", rights=ADMIN | ALL_RIGHTS)

    run(scenario)


def test_a_call_that_needs_a_session_and_names_none_is_told_so():
    async def scenario() -> None:
        async with served() as bench:
            for operation_name in ("echo", "unregister_session"):
                with pytest.raises(InvalidArgument, match=f"test.{operation_name} needs a session"):
                    await bench.call(operation_name)

    run(scenario)


def test_a_closed_session_releases_what_it_held_and_answers_closed():
    async def scenario() -> None:
        plugin = JournalPlugin(Host())
        async with served(plugin) as bench:
            sid = await bench.session(plugin="journal")
            await bench.call("start", plugin="journal", session=sid)
            waiting = bench.start("wait", plugin="journal", session=sid)
            await asyncio.sleep(0)
            assert await bench.call("unregister_session", plugin="journal", session=sid) == {}
            with pytest.raises(SessionClosed):
                await waiting.result()
            assert sorted(plugin.made[0].events[:2]) == ["background ended", "call ended"]
            assert plugin.made[0].events[2:] == ["closed"]
            assert bench.announced[-1] == {"closed": [sid]}
            with pytest.raises(SessionClosed, match=f"session closed: {sid}"):
                await bench.call("state", plugin="journal", session=sid)
            with pytest.raises(NotFound, match="unknown session id"):
                await bench.call("state", plugin="journal", session=sid, user="bob")
            with pytest.raises(SessionClosed):
                plugin.made[0].check_active()

    run(scenario)


def test_a_closed_id_can_be_registered_again():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            await bench.session(plugin="journal", sid="s1")
            await bench.call("unregister_session", plugin="journal", session="s1")
            await bench.session(plugin="journal", sid="s1")
            assert (await bench.call("state", plugin="journal", session="s1"))["events"] == []

    run(scenario)


def test_a_session_closed_while_it_initializes_ends_its_initialization():
    async def scenario() -> None:
        async with served() as bench:
            sid = (await bench.call("register_session", {"initialize_s": 60}))["sid"]
            poll = bench.start("session_status", {"wait_s": PATIENCE_S}, session=sid)
            await asyncio.sleep(0)
            await bench.call("unregister_session", session=sid)
            with pytest.raises(SessionClosed):
                await poll.result()

    run(scenario)


def test_a_close_that_fails_still_ends_the_session():
    class Stubborn(TestSession):
        __test__ = False

        async def close(self) -> dict[str, Any]:
            raise OddError("will not")

    class StubbornPlugin(Plugin):
        plugin_name = "stubborn"
        session_class = Stubborn

    async def scenario() -> None:
        async with served(StubbornPlugin(Host())) as bench:
            sid = await bench.session(plugin="stubborn")
            assert await bench.call("unregister_session", plugin="stubborn", session=sid) == {}
            with pytest.raises(SessionClosed):
                await bench.call("echo", {"text": "x"}, plugin="stubborn", session=sid)

    run(scenario)


def test_a_spawned_task_that_fails_harms_nobody():
    async def scenario() -> None:
        plugin = JournalPlugin(Host())
        async with served(plugin) as bench:
            sid = await bench.session(plugin="journal")
            await bench.call("start", {"fails": True}, plugin="journal", session=sid)
            await until(lambda: plugin.made[0].events)
            assert await bench.call("ping", plugin="journal") == {}

    run(scenario)


def test_spawn_needs_a_registered_session():
    async def nothing() -> None: ...

    with pytest.raises(SessionNotReady, match="session s is not registered yet"):
        Journal("s").spawn(nothing())


def test_a_ttl_session_ends_after_its_time_without_activity():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            clock = Clock(bench)
            sid = await bench.session(plugin="journal", lifetime="ttl", ttl=60)
            clock.now += 59
            bench.service.sessions.sweep()
            await bench.call("state", plugin="journal", session=sid)  # activity
            clock.now += 59
            bench.service.sessions.sweep()
            await bench.call("ping", plugin="journal", session=sid)  # none of this session's
            clock.now += 1
            bench.service.sessions.sweep()
            with pytest.raises(SessionExpired, match=f"session expired: {sid}"):
                await bench.call("state", plugin="journal", session=sid)
            assert bench.announced[-1] == {"closed": [sid]}

    run(scenario)


def test_calls_and_unfinished_work_keep_a_ttl_session():
    async def scenario() -> None:
        plugin = JournalPlugin(Host())
        async with served(plugin) as bench:
            clock = Clock(bench)
            sid = await bench.session(plugin="journal", ttl=60)
            waiting = bench.start("wait", plugin="journal", session=sid)
            await asyncio.sleep(0)
            clock.now += 100
            bench.service.sessions.sweep()
            bench.service.on_cancel(b"c" * 16, waiting.header.id)
            await waiting.answered.wait()
            plugin.made[0].is_working = True
            clock.now += 100
            bench.service.sessions.sweep()
            plugin.made[0].is_working = False
            assert len(bench.service.sessions) == 1
            clock.now += 60
            bench.service.sessions.sweep()
            assert len(bench.service.sessions) == 0

    run(scenario)


def test_the_timer_sweeps_by_itself(monkeypatch):
    monkeypatch.setattr(sessions_module, "SWEEP_S", 0.01)

    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            await bench.call("register_session", {"ttl": 0.05}, plugin="journal")  # it may have ended by the next call
            await until(lambda: not len(bench.service.sessions))

    run(scenario)


async def no_number() -> int:
    return 1


def end_the_process() -> int:
    raise SystemExit(1)


@pytest.mark.parametrize(
    "answer", [lambda: None, lambda: [1], lambda: float("nan"), no_number, end_the_process], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("hook", ["unfinished_tasks", "has_unfinished_work"])
def test_a_hook_that_answers_no_number_counts_for_nothing_and_ends_nobody(monkeypatch, hook, answer):
    monkeypatch.setattr(sessions_module, "SWEEP_S", 0.005)
    counted = []

    class Counted(Journal):
        def unfinished_tasks(self) -> int:
            counted.append(1)
            return 3

        def has_unfinished_work(self) -> bool:
            return False

    class CountedPlugin(JournalPlugin):
        plugin_name = "counted"
        session_class = Counted

        async def create_session(self, sid: str, color: str = "blue") -> Journal:
            return Counted(sid, color)

    async def scenario() -> None:
        plugin = JournalPlugin(Host())
        async with served(plugin, CountedPlugin(Host())) as bench:
            await bench.session(plugin="counted")
            await bench.session(plugin="journal", ttl=600)
            monkeypatch.setattr(plugin.made[0], hook, answer)
            counted.clear()
            await until(lambda: len(counted) > 3)
            assert bench.service.sessions.unfinished_tasks == 3
            assert await bench.call("ping", plugin="journal") == {}

    run(scenario)


def test_a_sweep_that_fails_is_not_the_last(monkeypatch):
    monkeypatch.setattr(sessions_module, "SWEEP_S", 0.005)

    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            sweeps = []

            def sweep() -> None:
                sweeps.append(1)
                raise RuntimeError("the first")

            monkeypatch.setattr(bench.service.sessions, "sweep", sweep)
            await until(lambda: len(sweeps) > 2)

    run(scenario)


def test_ttl_defaults_to_the_plugins_and_zero_is_never():
    class Immortal(JournalPlugin):
        session_ttl = 0

    async def scenario() -> None:
        async with served(JournalPlugin(Host(), "a"), Immortal(Host(), "b")) as bench:
            clock = Clock(bench)
            mortal, immortal = [await bench.session(plugin=name, lifetime="ttl") for name in ("a", "b")]
            persistent = await bench.session(plugin="a", lifetime="persistent")
            clock.now += 3600
            bench.service.sessions.sweep()
            left = {fact["id"] for fact in bench.service.sessions.facts()}
            assert left == {immortal, persistent} and mortal not in left

    run(scenario)


def test_an_ephemeral_session_ends_some_time_after_its_holder():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            clock = Clock(bench)
            lost, kept = [await bench.session(plugin="journal") for _ in range(2)]
            bench.service.sessions.on_holders([b"s" * 16], [])
            clock.now += 100_000
            bench.service.sessions.sweep()
            bench.service.sessions.on_holders([b"c" * 16], [])
            clock.now += 299
            bench.service.sessions.sweep()
            await bench.call("register_session", {"sid": kept}, plugin="journal", source="ann.2")  # attaches
            clock.now += 2
            bench.service.sessions.sweep()
            assert [fact["id"] for fact in bench.service.sessions.facts()] == [kept]
            with pytest.raises(SessionExpired):
                await bench.call("state", plugin="journal", session=lost)

    run(scenario)


def test_a_holder_that_comes_back_keeps_its_session():
    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            clock = Clock(bench)
            sid = await bench.session(plugin="journal")
            bench.service.sessions.on_holders([b"c" * 16], [])
            await bench.call("state", plugin="journal", session=sid)
            clock.now += 1000
            bench.service.sessions.sweep()
            assert len(bench.service.sessions) == 1

    run(scenario)


def test_ended_ids_are_remembered_only_so_long(monkeypatch):
    monkeypatch.setattr(sessions_module, "ENDED_IDS", 2)

    async def scenario() -> None:
        async with served(JournalPlugin(Host())) as bench:
            sids = [await bench.session(plugin="journal") for _ in range(3)]
            for sid in sids:
                await bench.call("unregister_session", plugin="journal", session=sid)
            with pytest.raises(NotFound):
                await bench.call("state", plugin="journal", session=sids[0])
            with pytest.raises(SessionClosed):
                await bench.call("state", plugin="journal", session=sids[2])

    run(scenario)


def test_a_session_whose_close_hangs_does_not_hold_up_the_stop(monkeypatch):
    monkeypatch.setattr("orbit_zmq.endpoint.service.CLOSE_WITHIN_S", 0.05)

    class Hanging(TestSession):
        __test__ = False

        async def close(self) -> dict[str, Any]:
            await asyncio.sleep(60)
            return {}

    class HangingPlugin(Plugin):
        plugin_name = "hanging"
        session_class = Hanging

    async def scenario() -> None:
        async with served(HangingPlugin(Host())) as bench:
            await bench.session(plugin="hanging")
            async with asyncio.timeout(5):
                await bench.service.stop()

    run_at_once(scenario, monkeypatch)


class Stubborn(PluginSession):
    """Does not end when it is told to."""

    may_end = False

    async def close(self) -> dict[str, Any]:
        while not self.may_end:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)
        return await super().close()


class StubbornPlugin(Plugin):
    plugin_name = "stubborn"
    session_class = Stubborn


def test_a_close_that_never_ends_is_given_up(monkeypatch):
    monkeypatch.setattr("orbit_zmq.endpoint.session_code.CLOSE_S", 0.05)
    monkeypatch.setattr(Stubborn, "may_end", False)

    async def scenario() -> None:
        async with served(StubbornPlugin(Host())) as bench:
            sid = await bench.session(plugin="stubborn")
            assert await bench.call("unregister_session", plugin="stubborn", session=sid) == {}
        Stubborn.may_end = True

    run(scenario)


def test_a_close_that_takes_no_notice_of_being_canceled_does_not_hold_up_the_stop(monkeypatch):
    monkeypatch.setattr("orbit_zmq.endpoint.service.CLOSE_WITHIN_S", 0.05)
    monkeypatch.setattr(Stubborn, "may_end", False)

    async def scenario() -> None:
        async with served(StubbornPlugin(Host())) as bench:
            await bench.session(plugin="stubborn")
            async with asyncio.timeout(5):
                await bench.service.stop()
        Stubborn.may_end = True

    run_at_once(scenario, monkeypatch)
