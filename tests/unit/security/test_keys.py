"""Key files: made once, private, refused when others could have read them."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orbit_zmq.errors import InvalidArgument, NotPermitted
from orbit_zmq.security.keys import KeyPair, is_key, load_keypair, load_or_make_keypair, make_keypair, own_user


def test_a_new_key_file_is_private_and_read_back_the_same(tmp_path: Path) -> None:
    made = load_or_make_keypair(tmp_path / "broker.key")

    assert stat.S_IMODE((tmp_path / "broker.key").stat().st_mode) == 0o600
    assert load_or_make_keypair(tmp_path / "broker.key") == made
    assert is_key(made.public) and is_key(made.secret)
    assert [file.name for file in tmp_path.iterdir()] == ["broker.key"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666])
def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "broker.key"
    load_or_make_keypair(path)
    path.chmod(mode)

    with pytest.raises(NotPermitted, match=r"broker\.key"):
        load_or_make_keypair(path)


def test_starts_at_the_same_time_get_the_same_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        pairs = set(pool.map(lambda _: load_or_make_keypair(tmp_path / "broker.key"), range(64)))

    assert len(pairs) == 1


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"public": 1, "secret": 2}', '{"public": "abc", "secret": "hunter2"}'])
def test_a_damaged_key_file_is_named_and_never_quoted(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broker.key"
    path.write_text(content)
    path.chmod(0o600)

    with pytest.raises(InvalidArgument, match=r"broker\.key") as raised:
        load_keypair(path)
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_secret_is_not_shown() -> None:
    pair = make_keypair()

    assert pair.secret not in repr(pair)
    assert pair.public in repr(pair)


def test_what_is_no_key_is_refused() -> None:
    with pytest.raises(InvalidArgument):
        KeyPair(public="short", secret="short")


def test_a_key_file_in_a_directory_that_cannot_be_written_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(NotPermitted, match="ORBIT_STATE_DIR"):
        load_or_make_keypair(tmp_path / "absent" / "broker.key")


def test_the_own_user_has_a_name() -> None:
    assert own_user()


def test_a_key_file_is_plain_json(tmp_path: Path) -> None:
    pair = load_or_make_keypair(tmp_path / "k")

    assert json.loads((tmp_path / "k").read_text()) == {"public": pair.public, "secret": pair.secret}
    assert os.stat(tmp_path / "k").st_nlink == 1
