"""What a plugin class may say of itself, routes and handlers, default sessions, waiting calls, plugins that come and go."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest
from bench import incarnation_of, run, served, until

from orbit_testplugin import TestPlugin, TestSession
from orbit_zmq.errors import (
    Busy,
    Conflict,
    InternalError,
    InvalidArgument,
    NotFound,
    OrbitError,
    SessionClosed,
    SessionExpired,
    SessionNotReady,
)
from orbit_zmq.plugin import Host, JSONResponse, Plugin, PluginSession, Request, Response, UIConfig, operation


def plugin_class(name: str = "mine", **members: Any) -> type[Plugin]:
    return type(name.title(), (Plugin,), {"plugin_name": name, "session_class": TestSession, "__module__": __name__, **members})


class Worker(PluginSession):
    def __init__(self, sid: str, size: int = 1) -> None:
        super().__init__(sid)
        self.size = size

    @operation(effect="write")
    async def work(self, param: str) -> dict[str, Any]:
        return {"result": f"processed: {param}", "size": self.size}

    async def plain(self, param: str) -> str:
        return f"plain: {param}"

    @operation(effect="read", waits=True)
    async def wait(self) -> None:
        await asyncio.sleep(60)

    @operation(effect="read")
    async def sleep(self) -> None:
        await asyncio.sleep(60)


class Routed(Plugin):
    plugin_name = "routed"
    session_class = Worker

    def __init__(self, host: Host, instance_name: str | None = None) -> None:
        super().__init__(host, instance_name)
        self.add_route_post("do/{sid}", self.do)
        self.add_route_get("look/{sid}/{item}", self.look)
        self.add_route_post("worked/{sid}/{param}", Worker.work)

    async def do(self, request: Request) -> Any:
        values = await request.json()
        method = values.pop("method", "work")
        return await self.forward(request.path_params["sid"], method, **values)

    async def look(self, request: Request) -> Any:
        if request.query_params.get("absent"):
            return JSONResponse({"detail": "nothing there"}, status_code=404)
        return Response(
            {"path": request.path_params, "query": request.query_params, "body": len(await request.body())},
            media_type="text/x-look",
        )

    @operation(effect="write")
    async def take_in(self, request: Request) -> dict[str, str]:
        """A session that the plugin makes itself."""
        session = Worker("own", size=7)
        self.add_session(session, lifetime="ttl", ttl=60)
        return {"sid": session.sid}


# What a class may say


def test_an_instance_has_a_namespace_and_an_id_of_its_own():
    one, two = TestPlugin(Host(), "left"), TestPlugin(Host(), "right")

    assert (one.namespace, two.namespace) == ("/left", "/right")
    assert one.uid.startswith("left.") and one.uid != TestPlugin(Host(), "left").uid


@pytest.mark.parametrize(
    ("members", "fault"),
    [
        ({"ui_config": {"tite": "x"}}, "ui_config is not valid: tite"),
        ({"ui_config": {"forms": [{"id": "a", "fields": [{"name": "x", "type": "knob"}]}]}}, "forms.0.fields.0.type"),
        ({"ui_config": ["title"]}, "ui_config is list"),
        ({"ui_module": "no-such.js"}, "ui_module: there is no file"),
        ({"ui_module": "../../../../etc/passwd.js"}, "ui_module leads out of the package"),
        ({"ui_module": "page.html"}, "not the path of a .js file"),
        ({"session_ttl": -1}, "session_ttl is -1"),
        ({"session_ttl": float("nan")}, "session_ttl is nan"),
        ({"client_class": "Client"}, "client_class is 'Client'"),
        ({"session_class": None}, "session_class is None"),
    ],
)
def test_a_bad_attribute_is_refused_with_plugin_and_attribute(members, fault):
    with pytest.raises(InvalidArgument, match="plugin mine: Mine") as caught:
        plugin_class(**members)
    assert fault in caught.value.message


def test_a_plugin_may_have_no_page():
    assert plugin_class(ui_config=None)._ui == plugin_class()._ui == {}


def test_the_page_is_given_out_with_the_keys_it_was_written_with():
    config: dict[str, Any] = {
        "title": "T",
        "forms": [{"id": "f", "fields": [{"name": "x", "options": ["a", {"value": 1, "label": "b"}]}]}],
    }
    as_dict, as_model = plugin_class(ui_config=config), plugin_class(ui_config=UIConfig.model_validate(config))

    async def scenario() -> None:
        async with served(as_dict(Host(), "one"), as_model(Host(), "two")) as bench:
            for name in ("one", "two"):
                answer = await bench.call("ui_config", plugin=name)
                assert answer == {"plugin_name": "mine", "instance_name": name, "version": "0.0.1", "ui": config}
            with pytest.raises(NotFound, match="plugin one has no ui_module"):
                await bench.call("ui_module", plugin="one")

    run(scenario)


def test_the_module_of_a_page_is_given_out_as_bytes(tmp_path: Path, monkeypatch):
    (tmp_path / "page.js").write_bytes(b"export const name = 'mine';")
    monkeypatch.chdir(tmp_path)  # a class that was typed in belongs to the working directory
    made = plugin_class(ui_module="page.js", __module__="typed_in")

    async def scenario() -> None:
        async with served(made(Host())) as bench:
            assert await bench.call("ui_module", plugin="mine") == b"export const name = 'mine';"

    run(scenario)


# Routes


def test_a_handler_sees_the_request_and_forwards_to_a_session():
    async def scenario() -> None:
        async with served(Routed(Host())) as bench:
            sid = await bench.session(plugin="routed", size=3)
            answer = await bench.call("do", {"param": "x"}, plugin="routed", session=sid)
            assert answer == {"result": "processed: x", "size": 3}
            assert await bench.call("do", {"param": "x", "method": "plain"}, plugin="routed", session=sid) == "plain: x"
            look = await bench.call("look", {"item": "i7", "deep": "yes"}, plugin="routed", session=sid)
            assert look == {"path": {"sid": sid, "item": "i7"}, "query": {"deep": "yes"}, "body": 0}

    run(scenario)


def test_a_request_that_came_over_http_is_handed_on_with_all_its_parts():
    async def scenario() -> None:
        async with served(Routed(Host())) as bench:
            sid = await bench.session(plugin="routed")
            parts = {"path_params": {"item": "i7"}, "query_params": {"q": ["1", "2"]}, "headers": {"X-A": "b"}, "body": b"abc"}
            answer = await bench.call("look", {"_request": parts}, plugin="routed", session=sid)
            assert answer["status_code"] == 200 and answer["headers"] == {"content-type": "text/x-look"}
            assert answer["body"] == {"path": {"sid": sid, "item": "i7"}, "query": {"q": ["1", "2"]}, "body": 3}
            bad = {"path_params": {}, "body": b"{"}
            with pytest.raises(InvalidArgument, match="the body is no JSON"):
                await bench.call("do", {"_request": bad}, plugin="routed", session=sid)
            with pytest.raises(InvalidArgument, match=r"_request\.path_params is no map"):
                await bench.call("do", {"_request": {"path_params": 3}}, plugin="routed", session=sid)

    run(scenario)


def test_a_response_of_an_error_status_is_that_error():
    async def scenario() -> None:
        async with served(Routed(Host())) as bench:
            sid = await bench.session(plugin="routed")
            with pytest.raises(NotFound, match="nothing there"):
                await bench.call("look", {"item": "x", "absent": "1"}, plugin="routed", session=sid)

    run(scenario)


@pytest.mark.parametrize("status", ["400", None, 0, 1000, 200.0])
def test_a_status_that_is_none_is_refused_where_the_response_is_made(status):
    for kind in (Response, JSONResponse):
        with pytest.raises(InvalidArgument, match=f"{kind.__name__}: status_code is {status!r}") as caught:
            kind("text", status_code=status)
        assert caught.value.details == {"fields": ["status_code"]}


def test_what_is_forwarded_is_checked_as_in_a_call():
    async def scenario() -> None:
        async with served(Routed(Host())) as bench:
            sid = await bench.session(plugin="routed")
            for arguments in ({"param": 3}, {"params": "x"}, {"method": "plain", "nonsense": 1}):
                with pytest.raises(InvalidArgument):
                    await bench.call("do", arguments, plugin="routed", session=sid)
            with pytest.raises(NotFound, match=f"unknown session id: {sid}"):
                await bench.call("do", {"param": "x"}, plugin="routed", session=sid, user="bob")
            await bench.call("unregister_session", plugin="routed", session=sid)
            with pytest.raises(SessionClosed):
                await bench.call("do", {"param": "x"}, plugin="routed", session=sid)

    run(scenario)


def test_routes_stand_in_the_catalogue_handlers_without_a_schema():
    entries = {entry["name"]: entry for entry in (one.describe() for one in Routed(Host()).operations.values())}

    assert (entries["do"]["method"], entries["do"]["path"], entries["do"]["parameters"]) == ("POST", "do/{sid}", {})
    assert (entries["look"]["method"], entries["look"]["effect"], entries["do"]["effect"]) == ("GET", "read", "run")
    assert entries["work"]["path"] == "worked/{sid}/{param}" and entries["work"]["parameters"]["required"] == ["param"]
    assert "do" not in Routed.operations


def test_routes_that_cannot_be_are_refused():
    plugin = plugin_class("bad", session_class=Worker)(Host())

    async def handler(request: Request) -> None: ...

    async def two(request: Request, more: int) -> None: ...

    def blocking(request: Request) -> None: ...

    plugin.add_route_get("there", handler)
    with pytest.raises(InvalidArgument, match=r"asyncio\.to_thread"):
        plugin.add_route_get("x", blocking)
    for path, wrong in (("y", two), ("z", handler), ("work/{item}", Worker.work), ("w", TestSession.echo)):
        with pytest.raises(InvalidArgument, match="plugin bad: route GET"):
            plugin.add_route_get(path, wrong)
    with pytest.raises(InvalidArgument, match="are both GET there"):
        plugin.add_route_get("there", Worker.work)


def test_a_served_plugin_gets_no_more_routes():
    async def scenario() -> None:
        plugin = Routed(Host())
        async with served(plugin):
            with pytest.raises(Conflict, match="plugin routed is served already"):
                plugin.add_route_get("late", plugin.look)

    run(scenario)


def test_a_session_that_the_plugin_makes_belongs_to_the_caller():
    async def scenario() -> None:
        plugin = Routed(Host())
        async with served(plugin) as bench:
            assert await bench.call("take_in", plugin="routed") == {"sid": "own"}
            assert (await bench.call("work", {"param": "x"}, plugin="routed", session="own"))["size"] == 7
            with pytest.raises(Conflict, match="session id own is taken"):
                await bench.call("take_in", plugin="routed")
            with pytest.raises(NotFound):
                await bench.call("work", {"param": "x"}, plugin="routed", session="own", user="bob")
            assert bench.announced == [{"opened": [{"id": "own", "plugin": "routed", "user": "ann", "lifetime": "ttl"}]}]
            with pytest.raises(InternalError, match="add_session works only within a call"):
                plugin.add_session(Worker("other"))
            with pytest.raises(InternalError, match="forward works only within a call"):
                await plugin.forward("own", Worker.work, param="x")

    run(scenario)


# The default session


def test_each_user_has_a_default_session_at_each_instance_from_the_first_call_on():
    async def scenario() -> None:
        async with served(Routed(Host(), "one"), Routed(Host(), "two")) as bench:
            calls = [
                bench.start("work", {"param": "x"}, plugin=plugin, session="default", user=user, source=f"{user}.1")
                for plugin in ("one", "two")
                for user in ("ann", "bob")
                for _ in range(3)
            ]
            assert all([(await call.result())["result"] == "processed: x" for call in calls])
            assert len(bench.service.sessions) == 4
            assert bench.announced == []  # its id says nothing without plugin and user
            (listed,) = (await bench.call("list_sessions", plugin="one"))["sessions"]
            assert (listed["sid"], listed["lifetime"]) == ("default", "persistent")

    run(scenario)


def test_the_default_session_waits_until_it_is_ready_and_can_be_closed_and_opened_again():
    async def scenario() -> None:
        async with served() as bench:
            await bench.call("register_session", {"sid": "default", "initialize_s": 0.05})
            assert await bench.call("echo", {"text": "x"}, session="default") == "x"
            await bench.call("unregister_session", session="default")
            assert len(bench.service.sessions) == 0
            assert await bench.call("echo", {"text": "x"}, session="default") == "x"

    run(scenario)


def test_a_default_session_that_fails_says_why_and_is_tried_anew():
    async def scenario() -> None:
        async with served() as bench:
            await bench.call("register_session", {"sid": "default", "initialize_error": "no queue"})
            with pytest.raises(SessionNotReady, match="no queue"):
                await bench.call("echo", {"text": "x"}, session="default")
            assert await bench.call("echo", {"text": "x"}, session="default") == "x"

    run(scenario)


def test_the_default_session_has_no_other_lifetime():
    async def scenario() -> None:
        async with served() as bench:
            for arguments in ({"lifetime": "ephemeral"}, {"ttl": 5}):
                with pytest.raises(Conflict, match="the session default is persistent"):
                    await bench.call("register_session", {"sid": "default", **arguments})
            assert (await bench.call("register_session", {"sid": "default", "lifetime": "persistent"}))["sid"] == "default"

    run(scenario)


# Refusals by id, for each kind of call


@pytest.mark.parametrize("name", ["echo", "session_status", "unregister_session"])
def test_each_way_in_tells_unknown_closed_expired_and_taken_apart(name):
    async def scenario() -> None:
        async with served() as bench:
            now = [1000.0]
            bench.service.sessions._clock = lambda: now[0]
            closed, expired, others = await bench.session(), await bench.session(ttl=10), await bench.session(user="bob")
            await bench.call("unregister_session", session=closed)
            now[0] += 11
            bench.service.sessions.sweep()
            arguments = {"text": "x"} if name == "echo" else {}
            cases: list[tuple[str, type[OrbitError], int]] = [
                ("nobodys", NotFound, 404),
                (others, NotFound, 404),
                (closed, SessionClosed, 410),
                (expired, SessionExpired, 410),
            ]
            for sid, kind, status in cases:
                with pytest.raises(kind, match=sid) as caught:
                    await bench.call(name, arguments, session=sid)
                assert caught.value.http_status == status
            with pytest.raises(Conflict, match="is taken") as taken:
                await bench.call("register_session", {"sid": others})
            assert taken.value.http_status == 409

    run(scenario)


def test_a_closed_id_may_be_used_anew():
    async def scenario() -> None:
        async with served() as bench:
            await bench.session(sid="mine")
            await bench.call("unregister_session", session="mine")
            await bench.session(sid="mine")
            assert await bench.call("echo", {"text": "x"}, session="mine") == "x"

    run(scenario)


def test_a_holder_that_is_told_to_be_back_keeps_its_sessions():
    async def scenario() -> None:
        async with served() as bench:
            now = [1000.0]
            bench.service.sessions._clock = lambda: now[0]
            await bench.session()
            held = incarnation_of("ann.1")
            bench.service.sessions.on_holders([held], [])
            now[0] += 299
            bench.service.sessions.on_holders([], [held])
            now[0] += 1000
            bench.service.sessions.sweep()
            assert len(bench.service.sessions) == 1

    run(scenario)


# Calls that wait


def test_long_polls_take_no_places_of_calls_that_work_and_have_a_bound_of_their_own():
    async def scenario() -> None:
        async with served(Routed(Host()), max_running=2, max_waiting=3) as bench:
            sid = await bench.session(plugin="routed")
            waiting = [bench.start("wait", plugin="routed", session=sid) for _ in range(3)]
            await asyncio.sleep(0)
            assert bench.service.load()["running"] == 0
            with pytest.raises(Busy, match="3 calls wait on endpoint hpc1 already"):
                await bench.call("wait", plugin="routed", session=sid)
            working = [bench.start("sleep", plugin="routed", session=sid) for _ in range(2)]
            with pytest.raises(Busy, match="2 calls run on endpoint hpc1 already"):
                await bench.call("work", {"param": "x"}, plugin="routed", session=sid)
            assert bench.service.load()["running"] == 2
            for call in (*waiting, *working):
                bench.service.on_cancel(call.header.caller, call.header.id)
            await until(lambda: bench.service._running == set())
            assert await bench.call("work", {"param": "x"}, plugin="routed", session=sid)
            assert bench.service._waiting == 0

    run(scenario)


# Plugins that come and go


class Lasting(TestSession):
    __test__ = False
    closed: ClassVar[list[str]] = []

    async def close(self) -> dict[str, Any]:
        self.closed.append(self.sid)
        return await super().close()


def test_a_plugin_that_is_added_is_served_and_announced():
    async def scenario() -> None:
        async with served() as bench:
            before = bench.service.facts()["catalogue"]
            bench.service.add(TestPlugin(Host(), "second"))
            (fact,) = bench.announced
            assert fact["plugins"] == {name: {"plugin": "test", "version": "0.0.1"} for name in ("test", "second")}
            assert fact["catalogue"] != before and fact["catalogue_body"]
            assert await bench.call("ping", plugin="second") == {}
            with pytest.raises(Conflict, match="two plugins have the instance name 'second'"):
                bench.service.add(TestPlugin(Host(), "second"))

    run(scenario)


def test_a_plugin_that_is_removed_ends_its_calls_and_closes_its_sessions():
    made = plugin_class("lasting", session_class=Lasting)

    async def scenario() -> None:
        async with served(made(Host()), TestPlugin(Host())) as bench:
            sid, kept = await bench.session(plugin="lasting"), await bench.session()
            running = bench.start("sleep", {"seconds": 60}, plugin="lasting", session=sid)
            await asyncio.sleep(0)
            bench.service.remove("lasting")
            with pytest.raises(SessionClosed, match="the session ended during the call"):
                await running.result()
            await until(lambda: sid in Lasting.closed)
            with pytest.raises(NotFound, match="has no plugin 'lasting'; it has: test"):
                await bench.call("ping", plugin="lasting")
            assert await bench.call("echo", {"text": "x"}, session=kept) == "x"
            assert bench.announced[-2]["plugins"].keys() == {"test"} and bench.announced[-1] == {"closed": [sid]}
            with pytest.raises(NotFound):
                bench.service.remove("lasting")

    run(scenario)
