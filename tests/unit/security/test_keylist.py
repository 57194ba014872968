"""The broker's list of keys: who is in it from the start, who is admitted, revoked, expired, and what damage does."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from orbit_zmq.errors import Conflict, InvalidArgument, NotFound, NotPermitted
from orbit_zmq.security.keylist import DEFAULT_RIGHTS, KeyList, check_entry
from orbit_zmq.security.keys import OWNER_KEY, load_keypair, own_user


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def test_the_owner_is_listed_as_admin_from_the_first_start(path: Path) -> None:
    keys = KeyList.load(path)
    owner = keys.lookup(load_keypair(path.with_name(OWNER_KEY)).public, now_wall=0.0)

    assert owner is not None
    assert (owner.role, owner.user, owner.rights) == ("admin", own_user(), ("read", "write", "run", "act-for"))
    assert owner.may_take("any.name")
    assert len(keys) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(KeyList.load(path)) == list(keys)


def test_a_new_owner_key_replaces_the_old_entry(path: Path) -> None:
    KeyList.load(path)
    path.with_name(OWNER_KEY).unlink()
    keys = KeyList.load(path)

    assert [entry.key for entry in keys] == [load_keypair(path.with_name(OWNER_KEY)).public]


def test_an_admitted_key_is_found_and_survives_a_reload(path: Path) -> None:
    keys = KeyList.load(path)
    pair = keys.admit("hpc1", "endpoint", "maya", expires=1000.0)
    entry = KeyList.load(path).lookup(pair.public, now_wall=999.0)

    assert entry is not None
    assert entry == keys.lookup(pair.public, now_wall=999.0)
    assert (entry.name, entry.role, entry.user) == ("hpc1", "endpoint", "maya")
    assert keys.lookup(pair.public, now_wall=1000.0) is None
    assert pair.secret not in path.read_text()


def test_an_endpoint_may_take_its_name_and_names_below_it(path: Path) -> None:
    keys = KeyList.load(path)
    entry = keys.lookup(keys.admit("hpc1", "endpoint").public, now_wall=0.0)

    assert entry is not None
    assert entry.may_take("hpc1") and entry.may_take("hpc1.job7")
    assert not entry.may_take("hpc10") and not entry.may_take("hpc2")


def test_a_client_may_take_no_name_and_reaches_what_it_was_given(path: Path) -> None:
    keys = KeyList.load(path)
    pair = keys.admit("laptop", "client", endpoints=("hpc1", "gpu*"), plugins=("sysinfo",), rights=("read",))
    entry = keys.lookup(pair.public, now_wall=0.0)

    assert entry is not None
    assert not entry.may_take("laptop")
    assert entry.may_reach("hpc1", "sysinfo") and entry.may_reach("gpu3", "sysinfo")
    assert not entry.may_reach("hpc2", "sysinfo") and not entry.may_reach("hpc1", "rhapsody")


@pytest.mark.parametrize("role", sorted(DEFAULT_RIGHTS))
def test_each_role_has_rights_of_its_own(path: Path, role: str) -> None:
    keys = KeyList.load(path)
    entry = keys.lookup(keys.admit("party", role).public, now_wall=0.0)

    assert entry is not None and entry.rights == DEFAULT_RIGHTS[role]


def test_a_revoked_key_is_unknown_and_named_in_the_answer(path: Path) -> None:
    keys = KeyList.load(path)
    pair = keys.admit("hpc1", "endpoint")

    assert [entry.key for entry in keys.revoke("hpc1")] == [pair.public]
    assert keys.lookup(pair.public, now_wall=0.0) is None
    assert KeyList.load(path).lookup(pair.public, now_wall=0.0) is None


def test_what_cannot_be_admitted_or_revoked_says_so(path: Path) -> None:
    keys = KeyList.load(path)
    keys.admit("hpc1", "endpoint")

    with pytest.raises(Conflict, match="hpc1"):
        keys.admit("hpc1", "client")
    with pytest.raises(InvalidArgument, match="role"):
        keys.admit("x", "king")
    with pytest.raises(InvalidArgument, match="rights"):
        keys.admit("x", "client", rights=("fly",))
    with pytest.raises(InvalidArgument, match="name"):
        keys.admit("Not A Name", "client")
    with pytest.raises(NotFound, match="absent"):
        keys.revoke("absent")
    with pytest.raises(NotPermitted):
        keys.revoke("owner")
    assert len(KeyList.load(path)) == 2


def test_a_change_of_another_process_is_taken_over(path: Path) -> None:
    ours, theirs = KeyList.load(path), KeyList.load(path)
    first = theirs.admit("hpc1", "endpoint")

    assert ours.lookup(first.public, now_wall=0.0) is None
    assert ours.reload() is True
    assert ours.lookup(first.public, now_wall=0.0) is not None
    assert ours.reload() is False

    second = theirs.admit("hpc2", "endpoint")
    third = ours.admit("hpc3", "endpoint")  # written on top of what the other process wrote
    listed = {entry.key for entry in KeyList.load(path)}
    assert {first.public, second.public, third.public} <= listed


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version": 1, "keys": [3]}', '{"version": 1, "keys": [{"name": "x"}]}'])
def test_a_damaged_list_leaves_the_one_in_force(path: Path, damage: str, capsys: pytest.CaptureFixture[str]) -> None:
    keys = KeyList.load(path)
    pair = keys.admit("hpc1", "endpoint")
    path.write_text(damage)

    assert keys.reload() is False
    assert keys.lookup(pair.public, now_wall=0.0) is not None
    assert "key-list-damaged" in capsys.readouterr().err
    assert "keys.json" in keys.damage
    with pytest.raises(Conflict):
        keys.admit("hpc2", "endpoint")
    assert path.read_text() == damage
    with pytest.raises(InvalidArgument, match=r"keys\.json"):
        KeyList.load(path)


def test_a_list_that_others_may_read_is_refused(path: Path) -> None:
    KeyList.load(path)
    path.chmod(0o644)

    with pytest.raises(NotPermitted, match=r"keys\.json"):
        KeyList.load(path)


def test_when_a_key_was_last_seen_is_written_with_the_next_change(path: Path) -> None:
    keys = KeyList.load(path)
    pair = keys.admit("hpc1", "endpoint")
    keys.seen(pair.public, now_wall=12.0)
    KeyList.load(path).admit("hpc2", "endpoint")
    keys.admit("hpc3", "endpoint")

    entry = KeyList.load(path).lookup(pair.public, now_wall=0.0)
    assert entry is not None and entry.last_seen == 12.0


def test_every_field_of_an_entry_is_checked(path: Path) -> None:
    entry = next(iter(KeyList.load(path)))
    wrong = [
        replace(entry, key="short"),
        replace(entry, user=""),
        replace(entry, created=float("nan")),
        replace(entry, expires=True),
        replace(entry, names="*"),  # type: ignore[arg-type]
        replace(entry, plugins=(1,)),  # type: ignore[arg-type]
    ]
    for broken in wrong:
        with pytest.raises(InvalidArgument):
            check_entry(broken)


def test_unknown_fields_of_a_newer_release_are_ignored(path: Path) -> None:
    KeyList.load(path)
    content = json.loads(path.read_text())
    content["keys"][0]["colour"] = "red"
    path.write_text(json.dumps(content))

    assert len(KeyList.load(path)) == 1
