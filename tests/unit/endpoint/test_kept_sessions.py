"""Sessions that outlive their endpoint's process: a service, a real store, and one life after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgpack
import pytest
from bench import Bench, incarnation_of

from orbit_zmq.endpoint.access import Access, parse_shares
from orbit_zmq.endpoint.keeping import ABSENT_S, Keeping
from orbit_zmq.endpoint.store import Store
from orbit_zmq.errors import InvalidArgument, NotFound, SessionClosed
from orbit_zmq.plugin import Host, Plugin, PluginSession, operation
from orbit_zmq.plugin.store import ABSENT

PATIENCE_S = 60.0


class NotebookSession(PluginSession):
    """Keeps what it is told."""

    def __init__(self, sid: str, color: str = "none", pages: int = 10) -> None:
        super().__init__(sid)
        self.color, self.pages = color, pages
        self.lines: dict[str, Any] = {}
        self.canceled: list[str] = []

    async def initialize(self) -> None:
        self.lines = await asyncio.to_thread(self.store.items, "line/")
        if self.color == "broken":
            raise ValueError("no such color")

    @operation(effect="write")
    async def write(self, number: int, text: str) -> None:
        self.lines[f"line/{number}"] = text
        self.store.keep(f"line/{number}", text)
        await self.store.flush()

    @operation(effect="read")
    async def read(self) -> dict[str, Any]:
        return {"color": self.color, "pages": self.pages, "owner": self.owner, "lines": self.lines}

    @operation(effect="read")
    async def store_facts(self) -> dict[str, Any]:
        return {"is_kept": self.store.is_kept, "fault": self.store.fault, "canceled": self.canceled}

    async def cancel_work(self, reason: str) -> dict[str, int]:
        self.canceled.append(reason)
        return {"canceled": 0, "requested": 0, "unstoppable": 0}

    async def close(self) -> dict[str, Any]:
        self.store.keep("line/0", "written while it was closed")
        return await super().close()


class Notebook(Plugin):
    plugin_name = "notebook"
    session_class = NotebookSession


@asynccontextmanager
async def life(directory: Path, *plugins: Plugin, **limits: Any) -> AsyncIterator[Bench]:
    """One process of the endpoint, from its start to a proper end."""
    store = await asyncio.to_thread(Store.open, directory, "hpc1")
    bench = Bench(plugins or [Notebook(Host(name="hpc1"))], **limits)
    bench.service.sessions.keeping = Keeping(store)
    running = asyncio.create_task(bench.service.run())
    await asyncio.sleep(0)
    await bench.service.restore()
    try:
        yield bench
    finally:
        await asyncio.wait_for(bench.service.stop(), PATIENCE_S)
        await running
        await asyncio.to_thread(store.close)


async def call(bench: Bench, operation_name: str, arguments: dict[str, Any] | None = None, **options: Any) -> Any:
    return await bench.call(operation_name, arguments, plugin="notebook", **options)


def run(scenario: Any) -> None:
    asyncio.run(scenario())


def test_a_lasting_session_is_made_again_with_what_it_was_given_and_has_what_it_kept(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook", lifetime="persistent", color="red")
            await call(bench, "write", {"number": 1, "text": "one"}, session=sid)
            await call(bench, "write", {"number": 2, "text": "two"}, session=sid)
        async with life(tmp_path) as bench:
            assert [fact["id"] for fact in bench.service.sessions.facts()] == [sid]
            await call(bench, "session_status", {"wait_s": PATIENCE_S}, session=sid)
            assert await call(bench, "read", session=sid) == {
                "color": "red", "pages": 10, "owner": "ann", "lines": {"line/1": "one", "line/2": "two"},
            }  # fmt: skip
            with pytest.raises(NotFound):
                await call(bench, "read", session=sid, user="bob")

    run(scenario)


def test_the_default_session_is_kept_too(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            await call(bench, "write", {"number": 1, "text": "anns"}, session="default")
            await call(bench, "write", {"number": 1, "text": "bobs"}, session="default", user="bob")
        async with life(tmp_path) as bench:
            assert (await call(bench, "read", session="default"))["lines"] == {"line/1": "anns"}
            assert (await call(bench, "read", session="default", user="bob"))["lines"] == {"line/1": "bobs"}

    run(scenario)


def test_an_ephemeral_session_keeps_nothing(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook")
            assert not (await call(bench, "store_facts", session=sid))["is_kept"]
            await call(bench, "write", {"number": 1, "text": "lost"}, session=sid)
        async with life(tmp_path) as bench:
            assert (await call(bench, "list_sessions"))["sessions"] == []

    run(scenario)


def test_a_session_that_was_closed_leaves_nothing_behind(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook", lifetime="persistent", sid="mine")
            await call(bench, "write", {"number": 1, "text": "x"}, session=sid)
            await call(bench, "unregister_session", session=sid)
            with pytest.raises(SessionClosed):
                await call(bench, "read", session=sid)
        async with life(tmp_path) as bench:
            await bench.session("notebook", lifetime="persistent", sid="mine")
            assert (await call(bench, "read", session="mine"))["lines"] == {}

    run(scenario)


def test_a_session_whose_plugin_is_not_served_waits_for_it(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook", lifetime="persistent", color="red")
        async with life(tmp_path, Other(Host(name="hpc1"))) as bench:
            assert bench.service.sessions.facts() == []
        async with life(tmp_path, Other(Host(name="hpc1"))) as bench:
            bench.service.add(Notebook(Host(name="hpc1")))
            async with asyncio.timeout(PATIENCE_S):
                while not bench.service.sessions.facts():  # noqa: ASYNC110 - made in the background
                    await asyncio.sleep(0.005)
            await call(bench, "session_status", {"wait_s": PATIENCE_S}, session=sid)
            assert (await call(bench, "read", session=sid))["color"] == "red"

    run(scenario)


def access(*shares: str) -> Access:
    return Access("hpc1", parse_shares(shares), lambda: "ann")


def test_the_session_of_another_user_waits_until_the_endpoint_is_shared_with_them_again_as_it_was(tmp_path, capfd):
    async def scenario() -> None:
        async with life(tmp_path, access=access("bob:notebook")) as bench:
            own = await bench.session("notebook", lifetime="persistent")
            shared = await bench.session("notebook", user="bob", lifetime="persistent", color="red")
        for shares in ((), ("carol",), ("bob:notebook:read",), ("bob:math",)):
            async with life(tmp_path, access=access(*shares)) as bench:
                assert [fact["id"] for fact in bench.service.sessions.facts()] == [own]
            said = capfd.readouterr().err
            assert "sessions-wait-for-share" in said and "bob" in said
        async with life(tmp_path, access=access("bob:*:read,write,run")) as bench:
            assert {fact["id"] for fact in bench.service.sessions.facts()} == {own, shared}
            await call(bench, "session_status", {"wait_s": PATIENCE_S}, session=shared, user="bob")
            assert (await call(bench, "read", session=shared, user="bob"))["color"] == "red"
        async with life(tmp_path, access=access()) as bench:  # what was shared is known after a life in which it was restored
            assert [fact["id"] for fact in bench.service.sessions.facts()] == [own]

    run(scenario)


class Other(Plugin):
    plugin_name = "otherplugin"
    session_class = PluginSession


@pytest.mark.parametrize("is_running", [True, False])
def test_a_session_that_could_not_be_made_again_for_a_week_is_dropped_with_what_it_kept(tmp_path, is_running):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook", lifetime="persistent")
            await call(bench, "write", {"number": 1, "text": "one"}, session=sid)
        async with life(tmp_path, Other(Host(name="hpc1"))) as bench:
            keeping = bench.service.sessions.keeping
            await keeping.written()
            assert keeping._store is not None
            assert [key for key, _ in keeping._store.items(sid, "")] == [ABSENT, "line/1"]
            keeping.expire(time.time() + ABSENT_S - 60)
            if is_running:
                keeping.expire(time.time() + ABSENT_S + 1)
            else:
                keeping._store.keep(sid, [(ABSENT, msgpack.packb(time.time() - ABSENT_S))])
            await keeping.written()
            assert (keeping._store.items(sid, "") == []) is is_running
        async with life(tmp_path, Other(Host(name="hpc1"))) as bench:
            keeping = bench.service.sessions.keeping
            await keeping.written()
            assert keeping._store is not None
            assert keeping._store.sessions() == keeping._store.items(sid, "") == []

    run(scenario)


def test_the_week_begins_anew_once_a_session_has_been_made_again(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook", lifetime="persistent")
        async with life(tmp_path, Other(Host(name="hpc1"))):
            pass
        async with life(tmp_path) as bench:
            keeping = bench.service.sessions.keeping
            await keeping.written()
            assert keeping._store is not None
            assert keeping._store.items(sid, "!") == []
            keeping.expire(time.time() + 2 * ABSENT_S)
            assert [fact["id"] for fact in bench.service.sessions.facts()] == [sid]

    run(scenario)


def test_a_session_that_cannot_be_made_again_harms_no_other_and_keeps_what_it_has(tmp_path, capfd):
    class Strict(Plugin):
        plugin_name = "notebook"
        session_class = NotebookSession

        async def create_session(self, sid: str, color: str = "none", pages: int = 10) -> NotebookSession:
            if color == "red":
                raise ValueError("no red any more")
            return NotebookSession(sid, color, pages)

    async def scenario() -> None:
        async with life(tmp_path) as bench:
            red = await bench.session("notebook", lifetime="persistent", color="red")
            blue = await bench.session("notebook", lifetime="persistent", color="blue")
            await call(bench, "write", {"number": 1, "text": "x"}, session=red)
        async with life(tmp_path, Strict(Host(name="hpc1"))) as bench:
            assert [fact["id"] for fact in bench.service.sessions.facts()] == [blue]
        assert "no red any more" in capfd.readouterr().err
        async with life(tmp_path) as bench:
            await call(bench, "session_status", {"wait_s": PATIENCE_S}, session=red)
            assert (await call(bench, "read", session=red))["lines"] == {"line/1": "x"}

    run(scenario)


def test_with_a_full_disk_sessions_go_on_and_say_so(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            sid = await bench.session("notebook", lifetime="persistent")
            assert (await call(bench, "session_status", session=sid))["kept"]
            assert "store_fault" not in bench.service.load()
            store = bench.service.sessions.keeping._store
            assert store is not None
            with store._using:
                store._connection.execute("PRAGMA max_page_count = 5")  # type: ignore[union-attr]

            await call(bench, "write", {"number": 1, "text": "x" * 100_000}, session=sid)

            assert len((await call(bench, "read", session=sid))["lines"]["line/1"]) == 100_000
            assert "full" in (await call(bench, "store_facts", session=sid))["fault"]
            assert not (await call(bench, "session_status", session=sid))["kept"]
            assert "full" in bench.service.load()["store_fault"]
            health = await call(bench, "health")
            assert (health["status"], "full" in health["detail"]) == ("degraded", True)
            await bench.session("notebook", lifetime="persistent")

    run(scenario)


def test_the_work_of_a_lasting_session_is_canceled_when_its_holder_is_lost_where_that_is_asked_for(tmp_path):
    now = [time.monotonic()]

    async def scenario() -> None:
        async with life(tmp_path) as bench:
            bench.service.sessions._clock = lambda: now[0]
            keeps = await bench.session("notebook", lifetime="persistent")
            cancels = await bench.session("notebook", lifetime="persistent", on_holder_lost="cancel")
            facts = {fact["id"]: fact for fact in bench.service.sessions.facts()}
            assert facts[cancels]["holder"] == incarnation_of("ann.1")
            assert "holder" not in facts[keeps]
            bench.service.sessions.on_holders([incarnation_of("ann.1")], [])
            for step_s in (299.0, 2.0, 300.0):
                now[0] += step_s
                bench.service.sessions.sweep()
            await asyncio.sleep(0)
            told = await call(bench, "store_facts", session=cancels, source="ann.2")
            assert told["canceled"] == ["the session's holder ann.1 was lost"]
            assert (await call(bench, "store_facts", session=keeps, source="ann.2"))["canceled"] == []

    run(scenario)


def test_an_ephemeral_session_cannot_outlive_its_holder(tmp_path):
    async def scenario() -> None:
        async with life(tmp_path) as bench:
            with pytest.raises(InvalidArgument, match="ends with its holder"):
                await bench.session("notebook", on_holder_lost="keep")

    run(scenario)
