"""From an invitation to the end of it: join strings, contexts, sharing, children's keys, and that no secret is ever shown."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, directories, wait_until, within

import orbit_testplugin  # noqa: F401 - registers the plugin `test`
from orbit_zmq import Client, Endpoint
from orbit_zmq.children import Child
from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, NotPermitted
from orbit_zmq.plugin import Plugin, PluginSession, operation
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keys import own_user

ORBIT = [sys.executable, "-P", "-m", "orbit_zmq.cli"]
HERE = ["127.0.0.1"]


class Machine:
    """Commands in one set of directories."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.environment = {**lab.environment, **directories(lab.place / name), "ORBIT_LOG_LEVEL": "debug"}

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ORBIT, *arguments], env=self.environment, input=given, capture_output=True, text=True, timeout=100, check=False
        )


class Minting(PluginSession):
    """A session of the plugin below."""


class MintingPlugin(Plugin):
    """Mints keys for children of its endpoint, as one that starts workers elsewhere does."""

    plugin_name = "minting"
    session_class = Minting

    @operation(effect="run")
    async def mint(self, name: str, rights: list[str] | None = None, expires_s: float | None = None) -> str:
        """The join string of a child."""
        joined = await self.client.invite(name, "endpoint", rights=rights, expires_s=expires_s, hosts=HERE)
        return joined.encode()

    @operation(effect="run")
    async def strike(self, name: str) -> list[str]:
        """Revoke a key."""
        found: list[str] = (await self.client.revoke(name))["revoked"]
        return found


def served(stack: ExitStack, joined: JoinString, plugins: Any = "test", **options: Any) -> Endpoint:
    return stack.enter_context(Endpoint(join=joined.encode(), plugins=plugins, **options))


@pytest.fixture(scope="module")
def users() -> Iterator[dict[str, Client]]:
    """Clients of three users; ann has an endpoint that she shares with bob, and one that she keeps to herself."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    lab = Lab(place)
    with within(place), lab.stack as stack:
        lab.start_broker()
        admin = lab.client()
        shared = admin.invite("shared", "endpoint", user="ann", hosts=HERE)
        private = admin.invite("private", "endpoint", user="ann", hosts=HERE)
        served(stack, shared, share=["bob:test"])
        served(stack, private)
        made = {}
        for name, options in {
            "ann": {}, "bob": {}, "carol": {}, "reader": {"user": "ann", "rights": ["read"]},
            "narrow": {"user": "ann", "endpoints": ["shared"], "plugins": ["sys*"]},
        }.items():  # fmt: skip
            joined = admin.invite(name, "client", hosts=HERE, **{"user": name, **options})
            made[name] = stack.enter_context(Client(join=joined.encode()))
        yield made
    shutil.rmtree(place, ignore_errors=True)


def test_an_endpoint_serves_its_own_user(users):
    assert users["ann"].get_plugin("private", "test").echo(text="x") == "x"


@pytest.mark.parametrize(("user", "endpoint"), [("bob", "private"), ("carol", "private"), ("carol", "shared")])
def test_nobody_else_gets_in(users, user, endpoint):
    with pytest.raises((NotPermitted, NotFound)):
        users[user].call(endpoint, "test", "echo_plain", {"text": "x"})
    with pytest.raises((NotPermitted, NotFound)):
        users[user].call(endpoint, "test", "register_session")


def test_who_is_shared_with_may_read_and_write_and_not_run(users):
    plugin = users["bob"].get_plugin("shared", "test")

    assert plugin.echo(text="x") == "x"
    assert plugin.where(text="x")["text"] == "x"
    with pytest.raises(NotPermitted):
        plugin.fork()


def test_what_belongs_to_others_is_not_found(users):
    sid = users["ann"].get_plugin("shared", "test").sid

    for call in (
        lambda: users["bob"].call("shared", "test", "echo", {"text": "x"}, session=sid),
        lambda: users["bob"].call("", "test", "echo", {"text": "x"}, session=sid),
        lambda: users["bob"].call("shared", "test", "unregister_session", session=sid),
    ):
        with pytest.raises(NotFound, match="unknown session id"):
            call()


def test_a_key_that_may_only_read_cannot_write_or_run(users):
    assert users["reader"].call("private", "test", "echo_plain", {"text": "x"}) == "x"
    with pytest.raises(NotPermitted):
        users["reader"].call("private", "test", "register_session")


def test_a_key_reaches_the_endpoints_and_plugins_that_it_names(users):
    for endpoint in ("shared", "private"):
        with pytest.raises(NotPermitted):
            users["narrow"].call(endpoint, "test", "echo_plain", {"text": "x"})


def test_only_an_admin_invites_and_revokes(users):
    with pytest.raises(NotPermitted):
        users["ann"].invite("more", "client")
    with pytest.raises(NotPermitted):
        users["ann"].revoke("bob")


def test_an_endpoint_mints_and_revokes_the_keys_of_its_children(lab):
    admin = lab.client()
    joined = admin.invite("hpc1", "endpoint", expires_s=3600, hosts=HERE)
    served(lab.stack, joined, [MintingPlugin])

    def mint(name: str, **options: object) -> JoinString:
        text: str = admin.call("hpc1", "minting", "mint", {"name": name, **options})
        return JoinString.decode(text)

    child = mint("hpc1.w1", expires_s=60)
    with Endpoint(join=child.encode(), plugins=[]) as worker:
        assert worker.name == "hpc1.w1"
        assert admin.keys("hpc1.w1")[0]["parent"] == "hpc1"
    assert admin.keys(mint("hpc1.w2").name)[0]["expires"] == admin.keys("hpc1")[0]["expires"]
    refused: dict[str, dict[str, Any]] = {
        "hpc2": {}, "hpc1": {}, "hpc1.w3": {"expires_s": 7200}, "hpc1.w4": {"rights": ["read", "act-for"]},
    }  # fmt: skip
    for name, options in refused.items():
        with pytest.raises((NotPermitted, Conflict)):
            mint(name, **options)
    assert admin.call("hpc1", "minting", "strike", {"name": "hpc1.w1"}) == ["hpc1.w1"]
    with pytest.raises(NotPermitted):
        admin.call("hpc1", "minting", "strike", {"name": "owner"})
    assert set(admin.revoke("hpc1")["revoked"]) == {"hpc1", "hpc1.w2"}


def test_pickles_need_the_endpoints_setting_and_a_session_can_only_narrow_it(lab):
    arguments = ["--url", lab.url, "--name", "plain", "--plugins", "rhapsody", "--pickle", "no"]
    endpoint = Child("orbit_zmq.endpoint", arguments, lab.environment, lab.place / "plain.log")
    lab.stack.callback(endpoint.end)
    endpoint.wait_until_ready()
    rhapsody = lab.client().get_plugin("plain", "rhapsody", backends=["concurrent"], allow_pickled_tasks=True)
    tasks = [
        {"function": lambda: 1},
        {"function": "math:sqrt", "args": [2**70]},
        {"function": "math:sqrt", "args": [4]},
        {"executable": "/bin/echo", "arguments": ["hi"]},
    ]

    refused, also, named, executed = rhapsody.wait_tasks(rhapsody.submit_tasks(tasks), timeout=100)

    for result in (refused, also):
        assert isinstance(result["exception"], NotPermitted)
        assert "executable" in result["exception"].hint and "package.module:function" in result["exception"].hint
    assert (named["return_value"], executed["stdout"]) == (2.0, "hi\n")


def test_invite_join_use_list_and_revoke_on_the_command_line(lab):
    bridge, laptop = Machine(lab, ""), Machine(lab, "laptop")
    invited = bridge.run(
        "invite", "laptop", "--role", "client", "--rights", "read,write", "--expires", "7d", "--address", HERE[0]
    )
    assert (invited.returncode, invited.stderr) == (0, "")

    stored = laptop.run("join", given=invited.stdout)
    assert stored.returncode == 0, stored.stderr
    assert "the context laptop; it is used from now on." in stored.stdout
    assert (lab.place / "laptop" / "config" / "contexts" / "laptop").stat().st_mode & 0o777 == 0o600
    assert json.loads(laptop.run("endpoint", "list", "--json").stdout)["items"] == []

    (entry,) = [entry for entry in json.loads(bridge.run("key", "list", "--json").stdout)["items"] if entry["name"] == "laptop"]
    assert (entry["role"], entry["user"], entry["rights"]) == ("client", own_user(), ["read", "write"])
    assert json.loads(bridge.run("key", "show", "laptop", "--json").stdout)["item"]["name"] == "laptop"
    assert "rights" in bridge.run("key", "show", "laptop").stdout
    assert json.loads(bridge.run("revoke", "laptop", "--json").stdout)["item"]["revoked"] == ["laptop"]
    assert laptop.run("endpoint", "list").returncode == 4
    assert bridge.run("revoke", "laptop").returncode == 1
    assert bridge.run("invite", "x", "--role", "client", "--expires", "soon").returncode == 2


def test_a_join_string_comes_from_a_file_standard_input_or_the_environment(lab):
    joined = lab.client().invite("laptop", "client", hosts=HERE)
    joined.write(lab.place / "joined")
    laptop = Machine(lab, "laptop")

    assert laptop.run("endpoint", "list", "--join", str(lab.place / "joined")).returncode == 0
    assert laptop.run("endpoint", "list", "--join", "-", given=joined.encode() + "\n").returncode == 0
    laptop.environment["ORBIT_JOIN"] = joined.encode()
    assert laptop.run("endpoint", "list").returncode == 0
    del laptop.environment["ORBIT_JOIN"]
    laptop.environment["ORBIT_JOIN_FILE"] = str(lab.place / "joined")
    assert laptop.run("endpoint", "list").returncode == 0


def test_no_secret_shows_in_logs_arguments_or_tracebacks(lab):
    bridge, remote = Machine(lab, ""), Machine(lab, "remote")
    text = bridge.run("invite", "hpc1", "--role", "endpoint", "--address", HERE[0]).stdout.strip()
    joined = JoinString.decode(text)
    remote.environment |= {"ORBIT_JOIN": text, "PYTHONFAULTHANDLER": "1"}
    arguments = ["--plugins", "test", "--plugin-module", "orbit_testplugin", "--log-level", "debug"]
    endpoint = Child("orbit_zmq.endpoint", arguments, remote.environment, lab.place / "hpc1.log")
    lab.stack.callback(endpoint.end)
    endpoint.wait_until_ready()
    client = lab.client()
    plugin = client.get_plugin("hpc1", "test")
    said = [repr(client), repr(joined), str(joined), str(client.keys()), str(client.broker_status())]
    with pytest.raises(KeyError, match="on purpose"):
        plugin.fail(kind="KeyError")
    said.append(Path(f"/proc/{endpoint.pid}/cmdline").read_text())
    for damaged in (text[:-9], text[:40] + ("y" if text[40] == "x" else "x") + text[41:], f"{text}x"):
        with pytest.raises(InvalidArgument) as raised:
            JoinString.decode(damaged)
        said.append("".join(traceback.format_exception(raised.value)))
        done = remote.run("join", given=damaged)
        assert done.returncode == 2
        said += [done.stdout, done.stderr]
    done = remote.run("endpoint", "start", "--join", text)
    assert (done.returncode, "ORBIT_JOIN" in done.stderr) == (2, True)
    said += [
        done.stdout,
        done.stderr,
        *(run.stderr + run.stdout for run in (remote.run("join", text), bridge.run("key", "list"))),
    ]
    client.revoke("hpc1")
    wait_until(lambda: "not-connected" in lab.log_of("hpc1"))
    said += [lab.log_of("hpc1"), lab.log_of("broker"), (lab.place / "state" / "keys.json").read_text()]

    everything = "\n".join(said)
    assert joined.keys.secret not in everything
    assert text.removeprefix("orbit1:")[20:60] not in everything
    assert json.loads((lab.place / "state" / "broker.key").read_text())["secret"] not in everything
