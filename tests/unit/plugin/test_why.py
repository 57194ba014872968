"""The operation `why` that every plugin has: sessions by their ids, hooks of sessions and plugins, and those that fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from bench import run, served

from orbit_testplugin import TestPlugin
from orbit_zmq.endpoint import explaining
from orbit_zmq.errors import InvalidArgument, SchedulerFailed
from orbit_zmq.plugin import Caller, Explanation, Host, Plugin, PluginSession, operation
from orbit_zmq.wire.header import ADMIN, ALL_RIGHTS


class Shelf(PluginSession):
    """Knows its own items; some questions go wrong."""

    async def why(self, item: str) -> Explanation | None:
        if item == self.sid:
            return Explanation(kind="odd", state="odd", phase="running", reason="It holds two books.", limit=2)
        if item == "slow":
            await asyncio.sleep(60)
        if item == "scheduler":
            raise SchedulerFailed("squeue is away")
        if item == "text":
            return "a sentence"  # type: ignore[return-value]  # the fault that this is for
        return Explanation(kind="book", state="lent", phase="waiting", reason="It is lent.") if item == "book" else None


class Library(Plugin):
    plugin_name = "library"
    session_class = Shelf

    async def why(self, item: str, caller: Caller) -> Explanation | None:
        if item != f"card of {caller.user}":
            return None
        return Explanation(kind="card", state="valid", phase="ready", reason="It is valid.")


async def asked(bench: Any, item: str, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = await bench.call("why", {"item": item}, **{"plugin": "library", **options})
    return found


def library() -> Library:
    return Library(Host(name="hpc1"))


def test_a_hook_explains_what_is_its_own():
    async def scenario() -> None:
        async with served(library()) as bench:
            sid = await bench.session("library")
            await bench.session("library")

            (book,) = (await asked(bench, "book", user="ann"))["found"][:1]
            assert (book["explanation"]["kind"], book["explanation"]["reason"]) == ("book", "It is lent.")
            assert len((await asked(bench, "book"))["found"]) == 2
            (card,) = (await asked(bench, "card of ann"))["found"]
            assert (card["explanation"]["kind"], card["session"]) == ("card", None)
            (own,) = (await asked(bench, sid))["found"]
            explanation = own["explanation"]
            assert (explanation["kind"], explanation["state"], explanation["phase"]) == ("session", "ready", "ready")
            assert (explanation["reason"], explanation["limit"], own["session"]["sid"]) == ("It holds two books.", 2, sid)

    run(scenario)


def test_who_cannot_tell_is_named(monkeypatch):
    async def scenario() -> None:
        async with served(library()) as bench:
            sid = await bench.session("library")
            answers = {item: await asked(bench, item) for item in ("scheduler", "text")}
            monkeypatch.setattr(explaining, "HOOK_S", 0.05)
            answers["slow"] = await asked(bench, "slow")

            assert all(answer["found"] == [] for answer in answers.values())
            assert answers["slow"]["unanswered"] == [f"session {sid} of library did not answer within 0.05 s"]
            assert answers["scheduler"]["unanswered"] == [f"session {sid} of library: squeue is away"]
            assert "answered str in place of an Explanation" in answers["text"]["unanswered"][0]

    run(scenario)


def test_what_is_another_users_is_as_unknown_as_what_never_was():
    async def scenario() -> None:
        async with served(library()) as bench:
            sid = await bench.session("library", user="ann")
            empty: dict[str, Any] = {"found": [], "unanswered": []}

            assert await asked(bench, sid, user="bob") == await asked(bench, "book", user="bob") == empty
            await bench.call("unregister_session", plugin="library", session=sid)
            assert await asked(bench, sid, user="bob") == empty
            assert (await asked(bench, sid))["found"][0]["explanation"]["state"] == "closed"
            other = await bench.session("library", user="ann")
            assert len((await asked(bench, other, user="root", rights=ALL_RIGHTS | ADMIN))["found"]) == 1

    run(scenario)


def test_to_be_asked_about_is_no_activity():
    async def scenario() -> None:
        async with served(TestPlugin(Host(name="hpc1"))) as bench:
            sid = await bench.session(ttl=60)
            (record,) = bench.service.sessions.records_of(bench.service.plugins[0], Caller("ann", "ann.1"))
            before = record.last_used
            await bench.call("why", {"item": sid})
            assert record.last_used == before

    run(scenario)


def test_the_hook_cannot_be_an_operation_and_has_to_be_async():
    with pytest.raises(InvalidArgument, match="why is a hook"):

        class Wrong(PluginSession):
            @operation(effect="read")
            async def why(self, item: str) -> Explanation | None:
                return None

    with pytest.raises(InvalidArgument, match="why is not `async def`"):

        class Blocking(PluginSession):
            def why(self, item: str) -> Explanation | None:  # type: ignore[override]
                return None
