"""Operations: what the decorator accepts, what arrives, and what the catalogue says."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest
from pydantic import BaseModel

from orbit_testplugin import TestPlugin, TestSession
from orbit_zmq.errors import InternalError, InvalidArgument, TooLarge
from orbit_zmq.plugin import Caller, Host, Plugin, PluginSession, Raw, operation
from orbit_zmq.plugin import catalogue as catalogue_module
from orbit_zmq.plugin.catalogue import catalogue_of
from orbit_zmq.wire.body import pack_body, unpack_body
from orbit_zmq.wire.header import RAW


class Job(BaseModel):
    executable: str
    nodes: int = 1


@dataclass
class Point:
    x: int


class WideSession(PluginSession):
    """Operations of every shape."""

    @operation(effect="run", deadline_s=5, method="POST", path="jobs/{sid}/{name}")
    async def submit(self, job: Job, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Hand a job over."""
        return {"executable": job.executable, "dry_run": dry_run}

    @operation(effect="write", idempotent=True)
    async def odd_names(self, json: int, copy: str = "c", model_x: float = 1.0, self_: int = 0) -> list[Any]:
        return [json, copy, model_x, self_]

    @operation(effect="read")
    async def anything(self, first: int, **rest: int) -> dict[str, int]:
        return {"first": first, **rest}

    @operation(effect="read")
    async def where(self, path: Path, point: Point) -> Point:
        return point

    @operation(effect="read")
    async def raw_result(self, size: int) -> Raw:
        return Raw(bytes(size))

    @operation(effect="read")
    async def opens_a_stream(self, size: int) -> AsyncIterator[bytes]:
        return aiter_of(bytes(size))


async def aiter_of(data: bytes) -> AsyncIterator[bytes]:
    yield data


class WidePlugin(Plugin):
    plugin_name = "wide"
    session_class = WideSession
    version = "1.2.3"


def check(operation_name: str, /, **arguments: Any) -> dict[str, Any]:
    return WidePlugin.operations[operation_name].arguments(*pack_body(arguments))


def refused(operation_name: str, /, **arguments: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        check(operation_name, **arguments)
    return caught.value


def test_arguments_become_the_types_of_the_signature_and_defaults_are_filled_in():
    arguments = check("submit", job={"executable": "date"}, name="n")

    assert arguments == {"job": Job(executable="date", nodes=1), "name": "n", "dry_run": False}
    assert check("where", path="/tmp/x", point={"x": 3}) == {"path": Path("/tmp/x"), "point": Point(3)}


def test_parameters_may_be_called_like_attributes_of_a_pydantic_model():
    assert check("odd_names", json=1, copy="x", self_=2) == {"json": 1, "copy": "x", "model_x": 1.0, "self_": 2}


def test_a_missing_argument_is_named_with_its_operation():
    error = refused("submit", job={"executable": "date"})

    assert error.message == "wide.submit: argument 'name' is missing"
    assert error.details == {"fields": ["name"], "missing": ["name"]}


def test_an_argument_of_the_wrong_type_is_named():
    error = refused("submit", job={"executable": "date", "nodes": "many"}, name="n")

    assert error.message.startswith("wide.submit: argument 'job.nodes': ")
    assert error.details == {"fields": ["job.nodes"]}


def test_an_unknown_argument_is_refused_with_the_nearest_name_as_the_hint():
    error = refused("submit", job={"executable": "date"}, name="n", dryrun=True)

    assert error.message == "wide.submit: unknown argument 'dryrun'"
    assert error.hint == "Did you mean 'dry_run'?"
    assert refused("raw_result", size=1, zzz=2).hint == "It takes: size."


def test_many_faults_are_all_in_the_details_and_the_first_ones_in_the_message():
    error = refused("raw_result", size=1, **{f"x{number}": number for number in range(9)})

    assert len(error.details["fields"]) == 9
    assert error.message.endswith("; and 4 more")


def test_an_operation_with_keyword_arguments_takes_what_it_does_not_name():
    assert check("anything", first=1, second=2) == {"first": 1, "second": 2}


def test_raw_operations_get_the_body_as_it_is_and_refuse_named_arguments():
    raw = TestPlugin.operations["echo_raw"]

    assert raw.arguments(b"\xff\xff", RAW) == {"body": b"\xff\xff"}
    with pytest.raises(InvalidArgument, match=r"test\.echo_raw takes raw bytes"):
        raw.arguments(*pack_body({"body": b"x"}))
    with pytest.raises(InvalidArgument, match=r"test\.echo takes arguments by name"):
        TestPlugin.operations["echo"].arguments(b"x", RAW)


def test_results_are_packed_whatever_plain_shape_they_have():
    assert unpack_body(*WidePlugin.operations["where"].pack(Point(3))) == {"x": 3}
    assert WidePlugin.operations["raw_result"].pack(b"abc") == (b"abc", RAW)
    with pytest.raises(InternalError, match=r"test\.echo_any returned a value that cannot be sent"):
        TestPlugin.operations["echo_any"].pack(object())
    with pytest.raises(InternalError, match="declared to return Raw and returned str"):
        WidePlugin.operations["raw_result"].pack("abc")


def test_every_read_is_idempotent_and_others_only_where_they_say_so():
    operations = WidePlugin.operations

    assert operations["where"].idempotent and operations["odd_names"].idempotent
    assert not operations["submit"].idempotent


def test_routes_default_to_get_for_reads_and_take_the_session_where_one_is_needed():
    def route(plugin_class: type[Plugin], name: str) -> str:
        made = plugin_class.operations[name]
        return f"{made.method} {made.path}"

    assert route(TestPlugin, "echo") == "GET echo/{sid}"
    assert route(TestPlugin, "count") == "POST count/{sid}"
    assert route(TestPlugin, "echo_plain") == "GET echo_plain"
    assert route(WidePlugin, "submit") == "POST jobs/{sid}/{name}"
    assert route(WidePlugin, "register_session") == "POST register_session"
    assert route(WidePlugin, "unregister_session") == "POST unregister_session/{sid}"


def test_streams_are_seen_in_the_signature():
    operations = TestPlugin.operations

    assert operations["count"].stream_in == "data" and not operations["count"].stream_out
    assert operations["produce"].stream_out and operations["produce"].is_generator
    assert operations["copy"].stream_in == "data" and operations["copy"].stream_out
    assert WidePlugin.operations["opens_a_stream"].stream_out


def test_an_override_keeps_the_declaration_and_none_takes_the_operation_away():
    class Loud(TestSession):
        __test__ = False
        sleep = None  # type: ignore[assignment]

        async def echo(self, text: str) -> str:
            return text.upper()

    class LoudPlugin(Plugin):
        plugin_name = "loud"
        session_class = Loud

    assert LoudPlugin.operations["echo"].effect == "read"
    assert "sleep" not in LoudPlugin.operations
    assert asyncio.run(Loud("s").echo("a")) == "A"


def test_register_session_takes_what_the_session_class_takes():
    register = TestPlugin.operations["register_session"]

    assert register.arguments(*pack_body({"initialize_s": 1})) == {
        "sid": None, "lifetime": None, "ttl": None, "on_holder_lost": None, "initialize_s": 1.0, "initialize_error": "",
    }  # fmt: skip
    with pytest.raises(InvalidArgument) as caught:
        register.arguments(*pack_body({"initialise_s": 1}))
    assert caught.value.hint == "Did you mean 'initialize_s'?"


def test_register_session_takes_what_a_custom_create_session_takes():
    class Custom(Plugin):
        plugin_name = "custom"
        session_class = TestSession

        async def create_session(self, sid: str, backends: list[str]) -> TestSession:
            return TestSession(sid)

    register = Custom.operations["register_session"]
    assert register.arguments(*pack_body({"backends": ["a"]}))["backends"] == ["a"]
    with pytest.raises(InvalidArgument, match="argument 'backends' is missing"):
        register.arguments(b"", 0)


def test_the_catalogue_describes_every_operation_and_is_the_same_each_time():
    plugins = [WidePlugin(Host()), TestPlugin(Host(), "second")]
    packed, digest = catalogue_of(plugins)
    catalogue = unpack_body(packed)

    assert (packed, digest) == catalogue_of(list(reversed(plugins)))
    assert len(digest) == 32
    assert list(catalogue) == ["second", "wide"]
    assert catalogue["wide"]["version"] == "1.2.3" and catalogue["second"]["plugin"] == "test"
    submit = next(entry for entry in catalogue["wide"]["operations"] if entry["name"] == "submit")
    assert submit["parameters"]["required"] == ["job", "name"]
    assert submit["parameters"]["properties"]["dry_run"] == {"default": False, "type": "boolean"}
    assert {key: submit[key] for key in submit if key not in ("parameters", "returns")} == {
        "name": "submit", "effect": "run", "idempotent": False, "deadline_s": 5.0, "session": True, "method": "POST",
        "path": "jobs/{sid}/{name}", "doc": "Hand a job over.", "stream_in": "", "stream_out": False, "raw": False,
    }  # fmt: skip
    where = next(entry for entry in catalogue["wide"]["operations"] if entry["name"] == "where")
    assert where["returns"]["$defs"]["Point"]["properties"] == {"x": {"type": "integer"}}


def test_a_catalogue_over_the_limit_names_the_largest_plugin(monkeypatch):
    monkeypatch.setattr(catalogue_module, "CATALOGUE_BYTES", 1000)

    with pytest.raises(TooLarge, match="most of it is plugin test"):
        catalogue_of([WidePlugin(Host()), TestPlugin(Host())])


def define(**members: Any) -> type[Plugin]:
    session_class = type("BadSession", (PluginSession,), members)
    return type("BadPlugin", (Plugin,), {"plugin_name": "bad", "session_class": session_class})


def make(function: Any, **declared: Any) -> Any:
    """A fresh copy of a function, declared: the mark sits on the function, and these serve several tests."""
    fresh = FunctionType(function.__code__, globals(), function.__name__)
    fresh.__annotations__ = function.__annotations__
    return operation(**{"effect": "read", **declared})(fresh)


async def plain(self: Any) -> None: ...
async def positional(self: Any, value: int, /) -> None: ...
async def stream_of_text(self: Any, value: AsyncIterator[str]) -> None: ...
async def two_streams(self: Any, a: AsyncIterator[bytes], b: AsyncIterator[bytes]) -> None: ...
async def raw_and_more(self: Any, body: Raw, size: int) -> None: ...
async def unknown_type(self: Any, value: asyncio.Event) -> None: ...
async def unresolved(self: Any, value: "Missing") -> None: ...  # type: ignore[name-defined]  # noqa: F821
async def yields_text(self: Any) -> AsyncIterator[str]:
    yield "x"


def blocking(self: Any) -> None: ...


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"slow": make(blocking)}, r"BadSession\.slow is not `async def`.*asyncio\.to_thread"),
        ({"odd": make(plain, effect="execute")}, r"BadSession\.odd has effect 'execute'"),
        ({"odd": make(plain, method="PUT")}, r"BadSession\.odd has method 'PUT'"),
        ({"odd": make(plain, deadline_s=0)}, r"BadSession\.odd has deadline_s 0"),
        ({"odd": make(plain, deadline_s=float("nan"))}, r"BadSession\.odd has deadline_s nan"),
        ({"odd": make(plain, path="x/{nobody}")}, r"bad\.odd: path 'x/\{nobody\}' names 'nobody'"),
        ({"close": make(plain)}, r"BadSession\.close is a hook"),
        ({"initialize": blocking}, r"BadSession\.initialize is not `async def`"),
        ({"ping": make(plain)}, r"BadSession\.ping: the plugin has an operation 'ping' already"),
        ({"a": make(plain, path="x"), "b": make(yields_text, path="x")}, "stream of something else than bytes"),
        ({"odd": make(positional)}, r"BadSession\.odd: parameter 'value' cannot be passed by name"),
        ({"odd": make(stream_of_text)}, r"BadSession\.odd: parameter 'value' is a stream of something else"),
        ({"odd": make(two_streams)}, r"BadSession\.odd: a second stream parameter, 'b'"),
        ({"odd": make(raw_and_more)}, r"BadSession\.odd: 'body' is Raw and has to be the only argument"),
        ({"odd": make(unknown_type)}, r"bad\.odd: a parameter has a type that cannot be checked"),
        ({"odd": make(unresolved)}, r"BadSession\.odd: an annotation cannot be resolved"),
    ],
)
def test_bad_operations_are_refused_when_the_class_is_defined_naming_the_attribute(members, says):
    with pytest.raises(InvalidArgument) as caught:
        define(**members)

    assert re.search(says, str(caught.value)), str(caught.value)


@pytest.mark.parametrize("decorate", [operation, operation()], ids=["bare", "without effect"])
def test_an_operation_without_an_effect_is_refused_naming_the_method(decorate):
    with pytest.raises(InvalidArgument, match=r"plain: @operation does not say what effect.*effect=\"read\""):
        decorate(plain)


def test_two_operations_of_one_route_are_refused():
    async def other(self: Any) -> None: ...

    with pytest.raises(InvalidArgument, match="operations 'a' and 'b' are both GET x"):
        define(a=make(plain, path="x"), b=make(other, path="x"))


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ({"plugin_name": "bad"}, r"plugin bad: Bad\.session_class is None"),
        ({"plugin_name": "bad", "session_class": int}, r"plugin bad: Bad\.session_class is <class 'int'>"),
        ({"plugin_name": "Bad Name", "session_class": TestSession}, r"Bad: plugin_name 'Bad Name'"),
        ({"plugin_name": "bad", "session_class": TestSession, "version": 1}, r"plugin bad: Bad\.version is 1"),
        ({"plugin_name": "bad", "session_class": TestSession, "go": make(blocking)}, r"plugin bad: Bad\.go is not `async"),
        (
            {"plugin_name": "bad", "session_class": TestSession, "on_topology_change": blocking},
            r"plugin bad: Bad\.on_topology_change is not `async",
        ),
    ],
)
def test_bad_plugin_classes_are_refused_naming_plugin_and_attribute(members, says):
    with pytest.raises(InvalidArgument, match=says):
        type("Bad", (Plugin,), members)


def test_a_session_argument_that_register_session_has_itself_is_refused():
    class Clash(PluginSession):
        def __init__(self, sid: str, ttl: float) -> None:
            super().__init__(sid)

    with pytest.raises(InvalidArgument, match="has parameters of register_session: ttl"):
        type("ClashPlugin", (Plugin,), {"plugin_name": "clash", "session_class": Clash})


def test_a_caller_parameter_is_no_argument():
    assert "caller" not in str(TestPlugin.operations["whoami"].describe()["parameters"])
    assert TestPlugin.operations["whoami"].caller == "caller"
    assert Caller("u", "n") == Caller("u", "n", "")


def test_a_bad_instance_name_is_refused():
    with pytest.raises(InvalidArgument, match="instance_name 'No Good'"):
        TestPlugin(Host(), "No Good")
