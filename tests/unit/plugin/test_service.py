"""The service: calls are executed, bounded, ended in time, and answered exactly once."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from bench import EVERYBODY, chunks, run, run_at_once, served, until

from orbit_testplugin import TestPlugin, TestSession, executions
from orbit_zmq.endpoint import service
from orbit_zmq.endpoint.raised import LINES, PLACES, Faults, error_of
from orbit_zmq.endpoint.service import Service
from orbit_zmq.errors import (
    Busy,
    Canceled,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidArgument,
    NotFound,
    OrbitError,
    ProtocolError,
    RemoteError,
    ShuttingDown,
    error_from_body,
)
from orbit_zmq.plugin import Host, Plugin, PluginSession, operation
from orbit_zmq.wire.body import pack_body, unpack_map


def test_a_call_reaches_its_session_and_its_result_comes_back():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            assert await bench.call("echo", {"text": "hi"}, session=sid) == "hi"
            assert await bench.call("echo_any", {"value": {"big": 1 << 70}}, session=sid) == {"big": 1 << 70}
            assert await bench.call("echo_raw", b"\x00\xff", session=sid) == b"\x00\xff"

    run(scenario)


def test_operations_of_the_plugin_need_no_session_and_may_know_their_caller():
    async def scenario() -> None:
        async with served() as bench:
            assert await bench.call("echo_plain", {"text": "hi"}) == "hi"
            assert await bench.call("whoami", user="bob", source="bob.7") == {"user": "bob", "name": "bob.7"}
            assert await bench.call("ping") == {}
            assert await bench.call("version") == {"plugin": "test", "version": "0.0.1"}

    run(scenario)


def test_health_counts_sessions_and_uptime():
    async def scenario() -> None:
        async with served() as bench:
            await bench.session()
            health = await bench.call("health")
            assert health.pop("uptime_seconds") > 0
            assert health == {
                "status": "ok", "plugin": "test", "version": "0.0.1", "active_sessions": 1, "detail": "",
            }  # fmt: skip

    run(scenario)


def test_a_streamed_argument_is_read_chunk_by_chunk():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            assert await bench.call("count", {}, session=sid, stream_in=chunks(b"abc", b"", b"de")) == 5

    run(scenario)


def test_a_streamed_result_is_yielded_chunk_by_chunk():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            call = bench.start("produce", {"total_bytes": 1000, "chunk_bytes": 300}, session=sid)
            assert len(await call.result()) == 1000
            assert [len(chunk) for chunk in call.chunks] == [300, 300, 300, 100]
            assert await bench.call("copy", session=sid, stream_in=chunks(b"ab", b"c")) == b"abc"

    run(scenario)


def test_a_stream_that_breaks_ends_the_call_with_the_error():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            with pytest.raises(RemoteError, match="in the middle") as caught:
                await bench.call("produce_and_fail", {"total_bytes": 10}, session=sid)
            assert caught.value.remote_type == "orbit_testplugin.service.OddError"

    run(scenario)


def test_streams_and_arguments_that_do_not_fit_the_operation_are_refused():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            with pytest.raises(InvalidArgument, match="argument 'data' is a stream of bytes"):
                await bench.call("count", session=sid)
            with pytest.raises(InvalidArgument, match=r"test\.echo takes no stream"):
                await bench.call("echo", {"text": "x"}, session=sid, stream_in=chunks(b"x"))
            with pytest.raises(InvalidArgument, match="argument 'text' is missing"):
                await bench.call("echo", session=sid)

    run(scenario)


def test_a_body_that_does_not_parse_is_a_protocol_error():
    async def scenario() -> None:
        async with served() as bench:
            call = bench.start("ping", b"")
            with pytest.raises(InvalidArgument):  # raw bytes to an operation that takes names
                await call.result()
            broken = bench.start("echo_plain", {})
            broken.body = b"\xc1"  # the task has not begun yet
            with pytest.raises(ProtocolError):
                await broken.result()

    run(scenario)


def test_an_unknown_plugin_is_named_with_what_there_is():
    async def scenario() -> None:
        async with served() as bench:
            with pytest.raises(NotFound) as caught:
                await bench.call("ping", plugin="tets")
            assert caught.value.message == "endpoint hpc1 has no plugin 'tets'; it has: test"
            assert caught.value.hint == "Did you mean 'test'?"

    run(scenario)


def test_an_unknown_operation_is_named_with_what_there_is():
    async def scenario() -> None:
        async with served() as bench:
            with pytest.raises(NotFound) as caught:
                await bench.call("produse", session="whatever")
            assert caught.value.message.startswith("plugin test has no operation 'produse'; it has: block, ")
            assert caught.value.hint == "Did you mean 'produce'?"
            assert "echo" in caught.value.details["known"]

    run(scenario)


def test_a_call_by_bare_session_id_finds_the_plugin():
    async def scenario() -> None:
        async with served(TestPlugin(Host(), "one"), TestPlugin(Host(), "two")) as bench:
            sid = await bench.session(plugin="two")
            assert await bench.call("echo", {"text": "x"}, plugin="", session=sid) == "x"
            with pytest.raises(NotFound, match="unknown session id: nobodys"):
                await bench.call("echo", {"text": "x"}, plugin="", session="nobodys")
            with pytest.raises(NotFound, match=f"unknown session id: {sid}"):
                await bench.call("echo", {"text": "x"}, plugin="one", session=sid)
            with pytest.raises(NotFound, match="has no plugin ''; it has: one, two"):
                await bench.call("echo", plugin="")

    run(scenario)


def test_two_instances_of_one_name_are_refused():
    async def scenario() -> None:
        with pytest.raises(Conflict, match="two plugins have the instance name 'test'"):
            Service(Host(), [TestPlugin(Host()), TestPlugin(Host())], access=EVERYBODY, announce=lambda fact: None)

    run(scenario)


def test_an_exception_of_an_operation_carries_type_message_arguments_and_traceback():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            with pytest.raises(RemoteError) as caught:
                await bench.call("fail", {"kind": "ValueError", "message": "bad value"}, session=sid)
            body = unpack_map(*pack_body(caught.value.to_body()))
            assert body["code"] == "internal" and body["type"] == "builtins.ValueError"
            assert body["details"] == {"arguments": ["bad value"]}
            assert "raise exception(message)" in body["traceback"]
            rebuilt = error_from_body(body)
            assert isinstance(rebuilt, ValueError) and str(rebuilt) == "bad value"

    run(scenario)


def test_an_orbit_error_of_an_operation_passes_with_its_own_code():
    class Picky(PluginSession):
        @operation(effect="read")
        async def pick(self) -> None:
            raise Conflict("already there", details={"value": {1}, "bad": object()})

    class PickyPlugin(Plugin):
        plugin_name = "picky"
        session_class = Picky

    async def scenario() -> None:
        async with served(PickyPlugin(Host())) as bench:
            sid = await bench.session(plugin="picky")
            with pytest.raises(Conflict, match="already there") as caught:
                await bench.call("pick", plugin="picky", session=sid)
            assert "in pick" in caught.value.remote_traceback
            pack_body(caught.value.to_body())  # whatever the details were

    run(scenario)


@pytest.mark.parametrize("kind", ["SystemExit", "CancelledError", "StopAsyncIteration", "OddError"])
def test_no_exception_of_a_plugin_ends_the_service(kind):
    async def scenario() -> None:
        async with served(RaisesPlugin(Host())) as bench:
            sid = await bench.session(plugin="raises")
            with pytest.raises(InternalError):
                await bench.call("go", {"kind": kind}, plugin="raises", session=sid)
            assert await bench.call("ping", plugin="raises") == {}

    run(scenario)


class Unprintable(Exception):
    def __str__(self) -> str:
        raise OSError("not even this")


class RaisesSession(PluginSession):
    @operation(effect="read")
    async def per_device(self) -> dict[int, float]:
        return {0: 0.5}

    @operation(effect="run")
    async def go(self, kind: str) -> None:
        raise {
            "SystemExit": SystemExit(3),
            "CancelledError": asyncio.CancelledError(),
            "StopAsyncIteration": StopAsyncIteration(),
            "OddError": Unprintable(),
        }[kind]

    @operation(effect="read")
    async def unsendable(self) -> Any:
        return object()


class RaisesPlugin(Plugin):
    plugin_name = "raises"
    session_class = RaisesSession


def test_a_result_that_cannot_be_sent_is_the_plugins_fault_and_says_which():
    async def scenario() -> None:
        async with served(RaisesPlugin(Host())) as bench:
            sid = await bench.session(plugin="raises")
            with pytest.raises(InternalError, match=r"raises\.unsendable returned a value that cannot be sent"):
                await bench.call("unsendable", plugin="raises", session=sid)
            with pytest.raises(InternalError, match=r"raises\.per_device returned a map .* key 0 is int") as caught:
                await bench.call("per_device", plugin="raises", session=sid)
            assert "text keys" in str(caught.value.hint)

    run(scenario)


def test_arguments_of_an_exception_travel_only_where_they_are_plain():
    assert error_of(KeyError("k", 3)).details == {"arguments": ["k", 3]}
    assert error_of(KeyError(object())).details == {}
    assert error_of(ValueError(1 << 80)).details == {}
    assert error_of(ValueError("x" * 100_000)).details == {}
    assert len(error_of(ValueError("x" * 100_000)).message) < 10_000
    assert error_of(Unprintable()).message == "<Unprintable whose __str__ fails>"
    assert error_of(ValueError()).message == "ValueError"


def test_a_call_that_outlives_its_deadline_is_ended():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            began = time.monotonic()
            with pytest.raises(DeadlineExceeded, match=r"test\.sleep did not end within 0\.05 s"):
                await bench.call("sleep", {"seconds": 600}, session=sid, left_s=0.05)
            assert time.monotonic() - began < 60

    run(scenario)


def test_deadlines_are_kept_whatever_order_calls_come_in(monkeypatch):
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            ended: list[float] = []

            async def one(left_s: float) -> None:
                with pytest.raises(DeadlineExceeded):
                    await bench.call("sleep", {"seconds": 60}, session=sid, left_s=left_s)
                ended.append(left_s)

            await asyncio.gather(*(one(left_s) for left_s in (0.3, 0.05, 0.2, 0.1)))
            assert ended == [0.05, 0.1, 0.2, 0.3]

    run_at_once(scenario, monkeypatch)


def test_without_a_deadline_the_operations_own_counts():
    class Hasty(PluginSession):
        @operation(effect="read", deadline_s=0.05)
        async def wait(self) -> None:
            await asyncio.sleep(60)

    class HastyPlugin(Plugin):
        plugin_name = "hasty"
        session_class = Hasty

    async def scenario() -> None:
        async with served(HastyPlugin(Host())) as bench:
            sid = await bench.session(plugin="hasty")
            with pytest.raises(DeadlineExceeded):
                await bench.call("wait", plugin="hasty", session=sid, left_s=0)

    run(scenario)


def test_the_deadline_of_a_stream_bounds_silence_not_the_whole(monkeypatch):
    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(10):
            await asyncio.sleep(0.05)
            yield b"x"

    async def silent() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            assert await bench.call("count", {}, session=sid, stream_in=slowly(), left_s=0.3) == 10
            produced = {"total_bytes": 10, "chunk_bytes": 1, "pause_s": 0.05}
            assert len(await bench.call("produce", produced, session=sid, left_s=0.3)) == 10
            with pytest.raises(DeadlineExceeded):
                await bench.call("count", {}, session=sid, stream_in=silent(), left_s=0.1)

    run_at_once(scenario, monkeypatch)


def test_a_canceled_call_stops_and_is_answered_canceled():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            call = bench.start("sleep", {"seconds": 60}, session=sid)
            other = bench.start("sleep", {"seconds": 0.05}, session=sid)
            await asyncio.sleep(0)
            bench.service.on_cancel(b"c" * 16, call.header.id)
            bench.service.on_cancel(b"d" * 16, other.header.id)  # another caller's id
            with pytest.raises(Canceled):
                await call.result()
            assert await other.result() == 0.05

    run(scenario)


def test_of_a_flood_of_the_same_fault_some_are_said_and_the_others_counted(capfd):
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            for _ in range(200):
                with pytest.raises(RemoteError):
                    await bench.call("fail", {"kind": "ZeroDivisionError"}, session=sid)
            with pytest.raises(RemoteError):
                await bench.call("fail", {"kind": "KeyError"}, session=sid)

    run(scenario)
    said = capfd.readouterr().err
    assert LINES <= said.count("ZeroDivisionError: on purpose") <= 5 * LINES
    assert said.count("KeyError: 'on purpose'") == 1

    faults = Faults()
    assert [faults.count("a", 1.0 + number / 100) for number in range(LINES + 2)] == [0] * LINES + [None] * 2
    assert [faults.count("a", now) for now in (2.0, 2.1, 9.0)] == [2, 0, 0]
    for number in range(1_000):
        faults.count(str(number), 10.0)
    assert len(faults._seen) == PLACES


def test_an_operation_that_takes_no_notice_of_its_cancel_is_said_to_the_log(monkeypatch, capfd):
    monkeypatch.setattr(service, "STOPPED_S", 0.05)

    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            call = bench.start("ignore_cancel", {"seconds": 0.5}, session=sid)
            stops = bench.start("sleep", {"seconds": 60}, session=sid)
            await asyncio.sleep(0.05)
            for one in (call, stops):
                bench.service.on_cancel(b"c" * 16, one.header.id, "not needed")
            await call.result()

    run_at_once(scenario, monkeypatch)
    said = [line for line in capfd.readouterr().err.splitlines() if "call-not-stopped" in line]
    assert len(said) == 1
    assert "ignore_cancel" in said[0] and "not needed" in said[0]


def test_a_call_canceled_before_it_begins_is_never_executed():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            call = bench.start("once", {"key": "canceled before"}, session=sid)
            bench.service.on_cancel(b"c" * 16, call.header.id)
            with pytest.raises(Canceled):
                await call.result()
            assert executions("canceled before") == 0

    run(scenario)


def test_a_canceled_stream_closes_the_operations_generator():
    closed = []

    class Streams(PluginSession):
        @operation(effect="read")
        async def forever(self) -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x"
            finally:
                closed.append(True)

    class StreamsPlugin(Plugin):
        plugin_name = "streams"
        session_class = Streams

    async def scenario() -> None:
        async with served(StreamsPlugin(Host())) as bench:
            sid = await bench.session(plugin="streams")
            call = bench.start("forever", plugin="streams", session=sid)
            call.credit.clear()
            await until(lambda: call.chunks)
            bench.service.on_cancel(b"c" * 16, call.header.id)
            with pytest.raises(Canceled):
                await call.result()
            await until(lambda: closed)

    run(scenario)


def test_calls_above_the_bound_are_answered_busy_and_the_others_go_on():
    async def scenario() -> None:
        async with served(max_running=3) as bench:
            sid = await bench.session()
            calls = [bench.start("sleep", {"seconds": 0.05}, session=sid) for _ in range(3)]
            with pytest.raises(Busy, match="3 calls run on endpoint hpc1 already") as caught:
                await bench.call("ping")
            assert caught.value.transient
            assert [await call.result() for call in calls] == [0.05] * 3
            assert await bench.call("ping") == {}

    run(scenario)


def test_a_fault_in_the_transport_ends_that_call_alone():
    def broken(*_: Any) -> None:
        raise OSError("the line is gone")

    async def scenario() -> None:
        async with served() as bench:
            call = bench.start("ping")
            call.reply = call.fail = broken  # type: ignore[method-assign, assignment]
            assert await bench.call("ping") == {}

    run(scenario)


def test_stop_ends_calls_and_sessions_and_takes_no_more():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            call = bench.start("sleep", {"seconds": 60}, session=sid)
            await asyncio.sleep(0)
            await bench.service.stop()
            with pytest.raises(ShuttingDown):
                await call.result()
            with pytest.raises(ShuttingDown):
                await bench.call("ping")
            assert bench.announced[-1] == {"closed": [sid]}

    run(scenario)


def test_a_service_that_is_canceled_answers_its_calls():
    async def scenario() -> None:
        async with served() as outer:
            bench = outer  # only for its words
            service = Service(Host(), [TestPlugin(Host())], access=EVERYBODY, announce=lambda fact: None)
            bench.service, kept = service, bench.service
            running = asyncio.create_task(service.run())
            await asyncio.sleep(0)
            sid = await bench.session()
            call = bench.start("sleep", {"seconds": 60}, session=sid)
            await asyncio.sleep(0)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            with pytest.raises(ShuttingDown):
                await call.result()
            bench.service = kept

    run(scenario)


def test_facts_say_what_hello_needs():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session(lifetime="persistent")
            facts = bench.service.facts()
            assert facts["plugins"] == {"test": {"plugin": "test", "version": "0.0.1"}}
            assert facts["sessions"] == [{"id": sid, "plugin": "test", "user": "ann", "lifetime": "persistent"}]
            assert facts["host"] == {"role": "standalone", "scheduler": "none"}
            load = facts["load"]
            assert load.pop("host_load") >= 0
            assert load == {"running": 0, "waiting": 0, "sessions": 1, "tasks": 0, "tasks_by_state": {}}
            assert facts["settings"]["retention"]["events_s"] == 600 and facts["settings"]["limits"]["running_calls"] == 1024
            assert len(facts["catalogue"]) == 32 and facts["absent"] == []

    run(scenario)


def test_a_thousand_calls_at_once_are_all_answered_once():
    async def scenario() -> None:
        async with served(max_running=1000) as bench:
            sid = await bench.session()
            texts = [str(number) for number in range(1000)]
            calls = [bench.start("echo", {"text": text}, session=sid) for text in texts]
            assert [await call.result() for call in calls] == texts
            assert bench.service.load()["running"] == 0

    run(scenario)


def test_sessions_of_a_subclass_run_their_own_methods():
    class Shouting(TestSession):
        __test__ = False

        async def echo(self, text: str) -> str:
            return text.upper()

    class ShoutingPlugin(TestPlugin):
        def create_session(self, sid: str, **arguments: Any) -> Shouting:
            return Shouting(sid)

    async def scenario() -> None:
        async with served(ShoutingPlugin(Host())) as bench:
            sid = await bench.session()
            assert await bench.call("echo", {"text": "a"}, session=sid) == "A"

    run(scenario)


def test_orbit_errors_are_all_that_leaves_the_service():
    async def scenario() -> None:
        async with served() as bench:
            sid = await bench.session()
            call = bench.start("fail", {"kind": "KeyError"}, session=sid)
            await call.answered.wait()
            assert isinstance(call.answers[0], OrbitError)

    run(scenario)
