"""How long sessions live: what listens to one keeps it, and nobody waits for an endpoint that does not answer."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab import Lab, wait_until

from orbit_zmq import AsyncClient, Client, Plugin, PluginSession, operation
from orbit_zmq.errors import DeadlineExceeded, InvalidArgument, NotFound, SessionExpired
from orbit_zmq.paths import state_dir
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import KEY_LIST
from orbit_zmq.testing import NAME, Running, serve

TTL_S = 3.0


class SteadyClock:
    """The time without most of that for which the machine stood still: lifetimes are looked at every second."""

    def __init__(self) -> None:
        self._now = self._seen = time.monotonic()

    def __call__(self) -> float:
        now = time.monotonic()
        self._now, self._seen = self._now + min(now - self._seen, 1.5), now
        return self._now


@contextmanager
def steadily_served() -> Iterator[Running]:
    with serve(SpeakingPlugin) as running:
        service: Any = running.endpoint._service
        service.sessions._clock = SteadyClock()
        yield running


class SpeakingSession(PluginSession):
    @operation(effect="write")
    async def say(self, text: str) -> None:
        self.notify("said", text)


class SpeakingPlugin(Plugin):
    plugin_name = "speaking"
    session_class = SpeakingSession


class FailingSession(PluginSession):
    def __init__(self, sid: str, hangs: bool = False) -> None:
        super().__init__(sid)
        self.hangs = hangs

    async def initialize(self) -> None:
        if self.hangs:
            await asyncio.sleep(600)
        raise ValueError("no licence")


class FailingPlugin(Plugin):
    plugin_name = "failing"
    session_class = FailingSession


def open_session(running: Running, **arguments: Any) -> str:
    return str(running.client.call(NAME, "speaking", "register_session", arguments)["sid"])


def is_there(running: Running, sid: str) -> bool:
    listed = running.client.call(NAME, "speaking", "list_sessions")["sessions"]  # asks for no session, so it renews none
    return sid in [session["sid"] for session in listed]


def stays(running: Running, sids: list[str]) -> bool:
    """Whether sessions are there for longer than one that nothing keeps."""
    unkept = open_session(running, ttl=TTL_S)
    wait_until(lambda: not is_there(running, unkept))
    return all(is_there(running, sid) for sid in sids)


def test_a_session_with_a_ttl_lives_while_somebody_listens_to_it() -> None:
    with steadily_served() as running:
        by_id, by_place, unheard = (open_session(running, ttl=TTL_S) for _ in range(3))
        heard: list[Any] = []
        subscriptions = [
            running.client.subscribe(lambda *event: heard.append(event), session=by_id),
            running.client.subscribe(lambda *event: heard.append(event), session=by_id, topic="said"),
            running.client.subscribe(lambda *event: None, session=by_place, endpoint=NAME, plugin="speaking"),
        ]
        assert stays(running, [by_id, by_place])
        wait_until(lambda: not is_there(running, unheard))
        subscriptions[0].unsubscribe()
        assert stays(running, [by_id])
        running.client.call("", "", "say", {"text": "still here"}, session=by_id)
        wait_until(lambda: heard)
        for subscription in subscriptions:
            subscription.unsubscribe()
        wait_until(lambda: not is_there(running, by_id) and not is_there(running, by_place))
        with pytest.raises(SessionExpired):
            running.client.call(NAME, "speaking", "say", {"text": "late"}, session=by_id)


def test_a_session_ends_with_the_client_that_listened_and_with_its_plugin_client() -> None:
    async def listen(url: str, sid: str, check: Callable[[], bool]) -> None:
        async with AsyncClient(url=url, connect_timeout_s=60) as client:
            await client.subscribe(lambda *event: None, session=sid)
            assert await asyncio.to_thread(check)

    with steadily_served() as running:
        sid, other = (open_session(running, ttl=TTL_S) for _ in range(2))
        attached = running.client.get_plugin(NAME, "speaking", sid=other)
        attached.on_notification(lambda *event: None)
        asyncio.run(listen(running.client._link.place.address, sid, lambda: stays(running, [sid, other])))
        attached.close()
        wait_until(lambda: not is_there(running, sid) and not is_there(running, other))


def test_a_session_that_is_opened_after_it_was_listened_to_is_heard() -> None:
    with serve(SpeakingPlugin) as running:
        heard: list[Any] = []
        running.client.subscribe(lambda *event: heard.append(event), session="planned")
        with running.client.get_plugin(NAME, "speaking", sid="planned", lifetime="ttl", ttl=600) as planned:
            planned.say("hello")
            wait_until(lambda: heard)
        assert heard == [(NAME, "speaking", "said", "hello")]


def test_a_plugin_that_could_not_be_had_leaves_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbit_zmq.client._sync.plugin.DISCARD_S", 60.0)
    with serve(SpeakingPlugin, FailingPlugin) as running:

        def sessions() -> list[str]:
            return [one["sid"] for one in running.client.call(NAME, "failing", "list_sessions")["sessions"]]

        for arguments in ({}, {"sid": "mine"}, {"lifetime": "persistent"}):
            with pytest.raises(ValueError, match="no licence"):
                running.client.get_plugin(NAME, "failing", **arguments)
            assert sessions() == []
        with pytest.raises(DeadlineExceeded):
            running.client.get_plugin(NAME, "failing", hangs=True, init_timeout=0.1)
        assert sessions() == []
        running.client.call(NAME, "failing", "register_session", {"sid": "slow", "hangs": True})
        with pytest.raises(DeadlineExceeded):
            running.client.get_plugin(NAME, "failing", sid="slow", init_timeout=0.1)
        assert sessions() == ["slow"]  # it was there before, and may be somebody else's


def test_a_plugin_client_hears_its_own_session_and_no_other() -> None:
    with serve(SpeakingPlugin) as running, running.client.get_plugin(NAME, "speaking") as other:
        heard: list[Any] = []
        everything: list[Any] = []
        subscription = running.plugin.on_notification(lambda *event: heard.append(event), with_meta=True)
        running.plugin.on_notification(lambda *event: everything.append(event), topic="other topic")
        for number in range(5):
            other.say(f"other {number}")
            running.plugin.say(f"mine {number}")
        running.events.wait_for("said", count=10)
        wait_until(lambda: len(heard) == 5)
        assert [event[:4] for event in heard] == [(NAME, "speaking", "said", f"mine {number}") for number in range(5)]
        assert {event[4]["session"] for event in heard} == {running.plugin.sid}
        assert everything == []

        running.plugin.unregister_session()
        with pytest.raises(InvalidArgument, match="speaking: there is no session to listen to"):
            running.plugin.on_notification(print)
        running.plugin.close()
        assert "ended" in repr(subscription)


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
def test_closing_does_not_wait_for_an_endpoint_that_does_not_answer(lab: Lab, how: signal.Signals) -> None:
    endpoint = lab.start_endpoint("hpc1")
    client = lab.client()
    plugins = [client.get_plugin("hpc1", "test") for _ in range(4)]
    os.kill(endpoint.pid, how)
    started = time.monotonic()
    with plugins[0]:
        pass
    assert plugins[0].sid == ""
    client.close()
    took_s = time.monotonic() - started
    if how == signal.SIGSTOP:
        os.kill(endpoint.pid, signal.SIGCONT)
    assert took_s < 25  # a call waits for 30 s, and there were four of them


def test_sessions_are_closed_on_an_endpoint_that_answers(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbit_zmq.client._sync.plugin.SILENT_S", 60.0)
    lab.start_endpoint("hpc1")
    client, watching = lab.client(), lab.client()
    plugins = [client.get_plugin("hpc1", "test") for _ in range(3)]
    assert len(watching.call("hpc1", "test", "list_sessions")["sessions"]) == 3
    with plugins[0]:
        pass
    assert len(watching.call("hpc1", "test", "list_sessions")["sessions"]) == 2
    client.close()
    assert watching.call("hpc1", "test", "list_sessions")["sessions"] == []


def join_string(lab: Lab, name: str, role: str) -> str:
    """For a party of a user of its own."""
    assert lab.broker is not None
    pair = KeyList.load(state_dir() / KEY_LIST).admit(name, user=name, role=role)
    ready = lab.broker.ready
    return JoinString((lab.tcp,), (ready["events_tcp"],), ready["public_key"], pair, name, role).encode()


def test_an_admin_is_shown_the_sessions_of_all_users_and_others_their_own(lab: Lab) -> None:
    lab.start_endpoint("hpc1", share="*")
    with (
        Client(join=join_string(lab, "bob", "client"), connect_timeout_s=60) as bob,
        Client(join=join_string(lab, "eve", "client"), connect_timeout_s=60) as eve,
        Client(join=join_string(lab, "root", "admin"), connect_timeout_s=60) as root,
    ):
        sids = {name: client.get_plugin("hpc1", "test").sid for name, client in (("bob", bob), ("eve", eve))}
        for name, client in (("bob", bob), ("eve", eve)):
            (mine,) = client.call("hpc1", "test", "list_sessions")["sessions"]
            assert (mine["owner"], mine["sid"]) == (name, sids[name])
        for admin in (root, lab.client()):  # the broker's own user is one, too
            listed = admin.call("hpc1", "test", "list_sessions")["sessions"]
            assert {session["owner"]: session["sid"] for session in listed} == sids
        with pytest.raises(NotFound):
            root.call("hpc1", "test", "echo", {"text": "x"}, session=sids["bob"])
