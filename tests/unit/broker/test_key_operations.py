"""Invite, list_keys and revoke: who may, what a child may be given, and what is in force when the answer comes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from orbit_broker import admission
from orbit_broker.audit import BURST, Audit
from orbit_broker.keyring import Keyring
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import make_keypair
from tests.unit.broker.world import Sent, World, brief, identity


@pytest.fixture
def keys(tmp_path: Path) -> KeyList:
    return KeyList.load(tmp_path / "keys.json")


@pytest.fixture
def world(keys: KeyList) -> World:
    made = World()
    made.state.keys = Keyring(keys)
    made.state.facts |= {"tcp": "tcp://0.0.0.0:5670", "events_tcp": "tcp://0.0.0.0:5671"}
    made.state.public_key = "B" * 40
    made.state.reachable = lambda address: [address.replace("0.0.0.0", "10.0.0.1")]
    owner = next(iter(keys)).key
    made.connect("admin", as_=made.state.keys.identify(owner))
    return made


def ask(world: World, label: str, operation: str, **arguments: Any) -> Sent:
    world.calls = getattr(world, "calls", 0) + 1  # type: ignore[attr-defined]
    sent = world.call(label, world.calls, "broker", arguments, operation=operation, plugin="")  # type: ignore[attr-defined]
    answers = [one for one in (sent or world.pass_time(0.3)) if one.header.id == world.calls]  # type: ignore[attr-defined]
    return answers[-1]


def invite(world: World, label: str = "admin", **arguments: Any) -> Sent:
    return ask(world, label, "invite", **({"key": make_keypair().public, "role": "client", "name": "laptop"} | arguments))


def enter(world: World, keys: KeyList, name: str, role: str, label: str = "") -> None:
    """Connect with the key of that name."""
    assert world.state.keys is not None
    assert brief(world.connect(label or name, role, as_=world.state.keys.identify(keys.by_name(name).key)))[0][1] == "welcome"


def test_an_admin_invites_and_gets_what_a_join_string_needs(world: World, keys: KeyList) -> None:
    pair = make_keypair()
    answer = invite(world, key=pair.public, user="maya", rights=["read"], plugins=["sysinfo"], expires_s=60).value

    assert answer["broker_key"] == "B" * 40
    assert (answer["requests"], answer["events"]) == (["tcp://10.0.0.1:5670"], ["tcp://10.0.0.1:5671"])
    entry = keys.by_name("laptop")
    assert (entry.key, entry.user, entry.role, entry.rights, entry.plugins) == (
        pair.public, "maya", "client", ("read",), ("sysinfo",),
    )  # fmt: skip
    assert entry.expires is not None and 0 < entry.expires - time.time() <= 60
    assert answer["entry"]["name"] == "laptop" and answer["entry"]["connections"] == 0


def test_an_invitation_said_twice_is_one_and_another_of_its_name_a_conflict(world: World) -> None:
    pair = make_keypair()
    assert invite(world, key=pair.public).value["entry"]["key"] == pair.public
    assert invite(world, key=pair.public).value["entry"]["key"] == pair.public
    assert invite(world).code == "conflict"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"expires_s": 0}, "expires_s"),
        ({"expires_s": True}, "expires_s"),
        ({"names": "hpc1"}, "names"),
        ({"name": ""}, "name"),
        ({"user": 7}, "user"),
        ({"plugins": ["x"] * 65}, "plugins"),
        ({"key": "short"}, None),
        ({"role": "king"}, None),
        ({"rights": ["fly"]}, None),
    ],
)
def test_a_wrong_invitation_is_refused(world: World, changes: dict[str, Any], field: str | None) -> None:
    error = invite(world, **changes)
    assert error.code == "invalid-argument"
    assert field is None or error.value["details"] == {"field": field}


def test_without_tcp_nobody_is_invited(world: World) -> None:
    world.state.facts["tcp"] = None
    assert invite(world).code == "conflict"


def test_nobody_but_an_admin_for_itself_may(world: World, keys: KeyList) -> None:
    keys.admit("guest", "client", "guest")
    keys.admit("web", "gateway", "web")
    enter(world, keys, "guest", "client")
    enter(world, keys, "web", "gateway")

    for label in ("guest", "web"):
        assert invite(world, label, name="x").code == "not-permitted"
        assert ask(world, label, "revoke", name="web").code == "not-permitted"
        assert ask(world, label, "list_keys").code == "not-permitted"
        assert ask(world, label, "drain").code == "not-permitted"
    assert not world.state.is_draining and len(keys) == 3


def test_the_list_tells_of_connections(world: World, keys: KeyList) -> None:
    keys.admit("guest", "client", "guest")
    enter(world, keys, "guest", "client", "one")
    enter(world, keys, "guest", "client", "two")

    (entry,) = ask(world, "admin", "list_keys", name="guest").value
    assert (entry["name"], entry["connections"], entry["is_expired"], entry["parent"]) == ("guest", 2, False, "")
    assert {entry["name"] for entry in ask(world, "admin", "list_keys").value} == {"owner", "guest"}
    assert ask(world, "admin", "list_keys", name="nobody").code == "not-found"


def test_revoke_ends_the_connections_and_replaces_the_keys_before_it_answers(world: World, keys: KeyList) -> None:
    for name in ("guest", "other"):
        keys.admit(name, "client", "ada")
        enter(world, keys, name, "client")
    before = world.state.audiences.by_name["ada"].key

    sent = world.call("admin", 90, "broker", {"name": "guest"}, operation="revoke", plugin="")
    assert brief(sent) == []
    sent = world.pass_time(0.3)

    kinds = brief(sent)
    assert kinds[0] == ("guest", "auth-required")
    assert kinds.index(("other", "keys")) < kinds.index(("admin", "reply"))
    assert world.state.audiences.by_name["ada"].key != before
    assert world.out.cuts == [world.routes["guest"]]
    assert [one.value for one in sent if one.kind.name == "REPLY"] == [{"revoked": ["guest"], "connections": 1}]
    assert ask(world, "admin", "revoke", name="guest").code == "not-found"
    assert ask(world, "admin", "revoke", name="owner").code == "not-permitted"


def test_a_key_whose_time_is_over_is_out_like_a_revoked_one(
    world: World, keys: KeyList, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert world.state.keys is not None
    invite(world, name="brief", expires_s=600)
    enter(world, keys, "brief", "client")
    world.pass_time(0.05)
    over = time.time() + 601
    monkeypatch.setattr(time, "time", lambda: over)
    world.state.keys.look()
    sent = world.pass_time(0.05)

    assert brief(sent)[0] == ("brief", "auth-required")
    assert [entry["is_expired"] for entry in ask(world, "admin", "list_keys", name="brief").value] == [True]


def test_one_that_waits_for_a_name_does_not_get_in_after_it_was_revoked(world: World, keys: KeyList) -> None:
    assert world.state.keys is not None
    for name in ("hpc1", "hpc2"):
        keys.admit(name, "endpoint", "ada", names=("hpc1",))
    enter(world, keys, "hpc1", "endpoint")
    world.stuck.add("hpc1")
    world.connect("late", "endpoint", name="hpc1", as_=world.state.keys.identify(keys.by_name("hpc2").key))
    keys.revoke("hpc2")
    admission.on_keys_changed(world.state, world.out, world.state.keys.identify, world.now)

    assert brief(world.pass_time(3.0)) == [("late", "auth-required")]
    assert world.state.newcomers == {}


class Children:
    """An endpoint hpc1, its key limited in every way."""

    def __init__(self, world: World, keys: KeyList) -> None:
        self.world, self.expires = world, time.time() + 1000
        keys.admit("hpc1", "endpoint", "maya", plugins=("sys*",), rights=("read", "write"), expires=self.expires)
        enter(world, keys, "hpc1", "endpoint")

    def invite(self, **changes: Any) -> Sent:
        given = {"name": "hpc1.job7", "role": "endpoint", "plugins": ["sysinfo"], "rights": ["read"], **changes}
        return invite(self.world, "hpc1", **given)


@pytest.fixture
def children(world: World, keys: KeyList) -> Children:
    return Children(world, keys)


def test_an_endpoint_mints_keys_for_its_children_that_end_with_its_own(children: Children, keys: KeyList) -> None:
    entry = children.invite().value["entry"]
    assert (entry["parent"], entry["user"], entry["expires"]) == ("hpc1", "maya", children.expires)
    assert entry["names"] == ["hpc1.job7", "hpc1.job7.*"]
    assert {one["name"] for one in ask(children.world, "hpc1", "list_keys").value} == {"hpc1", "hpc1.job7"}

    enter(children.world, keys, "hpc1.job7", "endpoint")
    assert children.invite(name="hpc1.job8").value["entry"]["parent"] == "hpc1"
    grandchild = {"key": make_keypair().public, "name": "hpc1.job7.x", "role": "endpoint"}
    limits = {"plugins": ["sysinfo"], "rights": ["read"]}
    assert ask(children.world, "hpc1.job7", "invite", **grandchild, **limits).value["entry"]["parent"] == "hpc1.job7"

    answer = ask(children.world, "admin", "revoke", name="hpc1").value
    assert set(answer["revoked"]) == {"hpc1", "hpc1.job7", "hpc1.job8", "hpc1.job7.x"} and answer["connections"] == 2
    assert [entry.name for entry in keys] == ["owner"]


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "hpc2"},
        {"name": "hpc10.x"},
        {"role": "client"},
        {"role": "admin"},
        {"user": "ada"},
        {"names": ["*"]},
        {"names": ["hpc1.job7", "hpc1"]},
        {"plugins": ["*"]},
        {"plugins": ["s*"]},
        {"plugins": ["rhapsody"]},
        {"rights": ["read", "run"]},
        {"rights": ["act-for"]},
        {"expires_s": 2000},
    ],
    ids=str,
)
def test_a_child_never_gets_more_than_its_parent(children: Children, keys: KeyList, changes: dict[str, Any]) -> None:
    assert children.invite(**changes).code == "not-permitted"
    assert {entry.name for entry in keys} == {"owner", "hpc1"}


def test_an_endpoint_revokes_its_children_and_nobody_else(children: Children, keys: KeyList) -> None:
    keys.admit("hpc1.other", "endpoint", "maya")
    children.invite()

    for name in ("hpc1", "hpc1.other", "owner", "nobody"):
        assert ask(children.world, "hpc1", "revoke", name=name).code == "not-permitted"
    assert ask(children.world, "hpc1", "revoke", name="hpc1.job7").value["revoked"] == ["hpc1.job7"]


def test_an_endpoint_puts_off_the_expiry_of_its_children_to_its_own_at_the_latest(children: Children, keys: KeyList) -> None:
    keys.admit("hpc1.other", "endpoint", "maya", expires=time.time() + 10)
    children.invite(expires_s=10)

    entry = ask(children.world, "hpc1", "renew", name="hpc1.job7", expires_s=100).value
    assert entry["expires"] == keys.by_name("hpc1.job7").expires
    assert 90 < entry["expires"] - time.time() <= 100
    assert ask(children.world, "hpc1", "renew", name="hpc1.job7", expires_s=1).value == entry  # not brought forward
    assert ask(children.world, "hpc1", "renew", name="hpc1.job7", expires_s=5000).value["expires"] == children.expires
    assert ask(children.world, "hpc1", "renew", name="hpc1.job7").code == "invalid-argument"
    for name in ("hpc1", "hpc1.other", "owner", "nobody"):
        assert ask(children.world, "hpc1", "renew", name=name, expires_s=100).code == "not-permitted"
    assert ask(children.world, "admin", "renew", name="nobody", expires_s=100).code == "not-found"
    assert ask(children.world, "admin", "renew", name="owner", expires_s=100).value["expires"] is None


def test_administrative_actions_and_refusals_are_audited_without_secrets(world: World, tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.log")
    invite(world)
    ask(world, "admin", "revoke", name="laptop")
    ask(world, "admin", "revoke", name="laptop")
    ask(world, "admin", "drain", x=1)
    audit.write(world.out.audits, 0.0)
    audit.close()

    lines = (tmp_path / "audit.log").read_text().splitlines()
    assert ['"what": "invite"' in lines[0], '"result": "done"' in lines[0], '"laptop"' in lines[0]] == [True] * 3
    assert '"what": "revoke"' in lines[1] and "secret" not in "".join(lines)
    assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600


def test_one_peer_writes_a_bounded_number_of_audit_lines(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit.log")
    for _ in range(1_000):
        audit.write([{"key": "eve", "what": "look"}], 0.0)
    audit.write([{"key": "bob", "what": "look"}], 0.0)
    assert len((tmp_path / "audit.log").read_text().splitlines()) == BURST + 1

    audit.write([{"key": "eve", "what": "look"}], 1.0)
    audit.close()
    assert '"suppressed": 950' in (tmp_path / "audit.log").read_text().splitlines()[-1]


def test_a_full_disk_ends_nothing_and_the_files_rotate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path / "absent" / "audit.log")
    audit.write([{"key": "eve"}], 0.0)
    assert audit.lost == 1

    monkeypatch.setattr("orbit_broker.audit.FILE_BYTES", 2_000)
    audit = Audit(tmp_path / "audit.log")
    for number in range(100):
        audit.write([{"key": str(number), "reason": "x" * 100}], 0.0)
    audit.close()
    assert len(list(tmp_path.glob("audit.log*"))) == 6
    assert all(file.stat().st_size <= 2_000 and file.stat().st_mode & 0o077 == 0 for file in tmp_path.glob("audit.log*"))


def test_a_broker_that_knows_no_keys_has_none_to_change() -> None:
    world = World()
    world.connect("admin", as_=identity())
    assert ask(world, "admin", "list_keys").code == "not-found"


def test_the_keys_that_an_endpoint_mints_are_bounded(
    children: Children, keys: KeyList, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orbit_broker.key_operations.CHILDREN", 2)

    assert [children.invite(name=f"hpc1.job{number}").code for number in range(3)] == ["", "", "busy"]
    assert children.invite(name="hpc1.job9", rights=["run"]).code == "busy"
    ask(children.world, "hpc1", "revoke", name="hpc1.job0")
    assert children.invite(name="hpc1.job3").code == ""
