"""Whom an endpoint serves: its own user, and others what is shared with them, each within the rights of its key."""

import asyncio

import pytest
from bench import Bench, served

from orbit_zmq.endpoint.access import Access, Share, parse_shares
from orbit_zmq.errors import InvalidArgument, NotFound, NotPermitted
from orbit_zmq.plugin import Host, Plugin, PluginSession, operation
from orbit_zmq.wire.header import READ, RUN, WRITE


def access(*shares: str) -> Access:
    return Access("hpc1", parse_shares(shares), lambda: "ann")


def outcome(access: Access, operation: str, **call: object) -> str:
    """`served`, or the code of the error."""

    async def scenario() -> str:
        async with served(access=access) as bench:
            try:
                arguments = {"text": "x"} if operation == "echo_plain" else {}
                await bench.call(operation, arguments, **call)
            except NotPermitted as error:
                return error.code
            return "served"

    return asyncio.run(scenario())


def test_an_endpoint_serves_its_own_user_only():
    assert outcome(access(), "echo_plain", user="ann") == "served"
    assert outcome(access(), "echo_plain", user="bob") == "not-permitted"


@pytest.mark.parametrize("share", ["bob", "bob:test", "bob:math,te*", "*", "*:*:read"])
def test_what_is_shared_is_served(share):
    assert outcome(access(share), "echo_plain", user="bob") == "served"


@pytest.mark.parametrize("share", ["carol", "bob:math", "bob:test:write", "bob:test:run"])
def test_what_is_not_shared_is_not(share):
    assert outcome(access(share), "echo_plain", user="bob") == "not-permitted"


def test_to_run_code_is_shared_only_by_saying_so():
    async def scenario() -> None:
        async with served(access=access("bob:test", "carol:test:read,write,run")) as bench:
            sid = await bench.session(user="bob")
            with pytest.raises(NotPermitted, match=r"does not serve test\.echo_raw to bob") as raised:
                await bench.call("echo_raw", b"x", session=sid, user="bob")
            assert "--share bob:test:run" in raised.value.hint
            sid = await bench.session(user="carol")
            assert await bench.call("echo_raw", b"x", session=sid, user="carol") == b"x"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("name", "rights", "right"), [("echo", WRITE | RUN, "read"), ("where", READ | RUN, "write"), ("fail", READ | WRITE, "run")]
)
def test_an_operation_needs_the_right_that_is_its_effect(name, rights, right):
    async def scenario() -> None:
        async with served(access=access()) as bench:
            sid = await bench.session()
            with pytest.raises(NotPermitted, match=f"needs the right {right}"):
                await bench.call(name, {"text": "x"}, session=sid, rights=rights)

    asyncio.run(scenario())


def test_a_call_without_any_right_is_refused():
    assert outcome(access(), "echo_plain", rights=0) == "not-permitted"


def test_who_may_use_a_plugin_does_not_see_the_sessions_of_others():
    async def scenario() -> None:
        async with served(access=access("bob")) as bench:
            sid = await bench.session(user="ann")
            for name, arguments in (("echo", {"text": "x"}), ("session_status", {}), ("unregister_session", {})):
                with pytest.raises(NotFound, match="unknown session id"):
                    await bench.call(name, arguments, session=sid, user="bob")
            assert await bench.call("list_sessions", user="bob") == {"sessions": []} or await no_session_of(bench, "bob")

    asyncio.run(scenario())


async def no_session_of(bench: Bench, user: str) -> bool:
    return "session." not in str(await bench.call("list_sessions", user=user))


class ForwardingSession(PluginSession):
    @operation(effect="run")
    async def execute(self) -> str:
        return "executed"


class ForwardingPlugin(Plugin):
    plugin_name = "forwarding"
    session_class = ForwardingSession

    @operation(effect="read", method="POST")
    async def execute_quietly(self, sid: str) -> str:
        return str(await self.forward(sid, "execute"))


def test_an_operation_that_forwards_needs_the_right_of_what_it_forwards_to():
    async def scenario() -> None:
        async with served(ForwardingPlugin(Host(name="hpc1")), access=access()) as bench:
            sid = await bench.session("forwarding")
            assert await bench.call("execute_quietly", {"sid": sid}, plugin="forwarding") == "executed"
            with pytest.raises(NotPermitted, match="needs the right run"):
                await bench.call("execute_quietly", {"sid": sid}, plugin="forwarding", rights=READ)

    asyncio.run(scenario())


def test_hello_says_what_is_shared():
    assert access("bob:test,math", "*:test:read").to_body() == {
        "bob": {"plugins": ["test", "math"], "rights": ["read", "write"]},
        "*": {"plugins": ["test"], "rights": ["read"]},
    }


def test_shares_are_read_as_they_are_written():
    assert parse_shares(["bob", "carol:a,b", "dan:a:run"]) == {
        "bob": Share(),
        "carol": Share(("a", "b")),
        "dan": Share(("a",), ("run",)),
    }


@pytest.mark.parametrize("text", ["", ":test", "bob:", "bob::read", "bob:test:", "bob:test:read:x", "bob:test:fly"])
def test_a_share_that_cannot_be_read_is_refused(text):
    with pytest.raises(InvalidArgument):
        parse_shares([text])


def test_a_user_is_named_once():
    with pytest.raises(InvalidArgument, match="second time"):
        parse_shares(["bob:a", "bob:b"])
