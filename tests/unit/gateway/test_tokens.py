"""Tokens: what is kept of them, who sees a change, and what a damaged list does."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orbit_zmq.errors import Conflict, InvalidArgument, NotFound
from orbit_zmq.security.tokens import TOKEN, TokenEntry, TokenList, hash_of


@pytest.fixture
def tokens(tmp_path: Path) -> TokenList:
    return TokenList(tmp_path)


def test_a_token_is_found_again_with_what_it_may_do(tokens: TokenList) -> None:
    token = tokens.create("ci", "joe", rights=("read",), endpoints=("hpc*",), plugins=("math",), expires_s=60)
    entry = tokens.lookup(token)

    assert entry is not None and TOKEN.fullmatch(token)
    assert (entry.name, entry.user, entry.rights, entry.endpoints, entry.plugins) == (
        "ci",
        "joe",
        ("read",),
        ("hpc*",),
        ("math",),
    )
    assert entry.expires is not None and entry.is_valid(entry.expires - 1) and not entry.is_valid(entry.expires)
    assert tokens.lookup(token[:-1]) is None and tokens.lookup("") is None and tokens.lookup(hash_of(token)) is None


def test_only_the_hash_is_kept_and_only_for_the_owner(tokens: TokenList) -> None:
    token = tokens.create("ci", "joe")
    text = tokens.path.read_text()

    assert token not in text and hash_of(token) in text
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    assert hash_of(token) not in json.dumps([entry.describe() for entry in tokens])


def test_another_process_sees_a_change_at_once(tokens: TokenList) -> None:
    running = TokenList(tokens.path.parent)
    token = tokens.create("ci", "joe")
    assert running.lookup(token) is not None

    tokens.revoke("ci")

    assert running.lookup(token) is None


def test_a_name_is_taken_once_and_revoked_once(tokens: TokenList) -> None:
    tokens.create("ci", "joe")
    with pytest.raises(Conflict, match="ci"):
        tokens.create("ci", "ann")

    assert tokens.revoke("ci").user == "joe"
    with pytest.raises(NotFound, match="ci"):
        tokens.revoke("ci")


def test_many_that_make_tokens_at_once_lose_none(tokens: TokenList) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda number: TokenList(tokens.path.parent).create(f"t{number}", "joe"), range(24)))

    assert all(tokens.lookup(token) is not None for token in made)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Big"},
        {"name": ""},
        {"user": ""},
        {"user": "a\nb"},
        {"rights": ("fly",)},
        {"endpoints": ()},
        {"expires_s": -1e12},
    ],
)
def test_a_token_with_a_wrong_field_is_not_made(tokens: TokenList, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        tokens.create(**({"name": "ci", "user": "joe"} | wrong))  # type: ignore[arg-type]
    assert list(tokens) == []


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"version": 2, "tokens": []}', '{"version": 1, "tokens": [{}]}', "null"])
def test_a_damaged_list_admits_nobody_and_is_not_written_over(tokens: TokenList, content: str) -> None:
    token = tokens.create("ci", "joe")
    tokens.path.write_text(content)

    assert tokens.lookup(token) is None
    assert tokens.damage
    with pytest.raises(InvalidArgument):
        tokens.create("more", "joe")
    assert tokens.path.read_text() == content


def test_a_list_that_others_may_read_admits_nobody(tokens: TokenList) -> None:
    token = tokens.create("ci", "joe")
    tokens.path.chmod(0o644)
    fresh = TokenList(tokens.path.parent)

    assert fresh.lookup(token) is None and "chmod" not in fresh.path.name and fresh.damage


def test_an_entry_says_all_but_its_hash() -> None:
    told = TokenEntry("ci", "joe", "0" * 64).describe()

    assert "hash" not in told and told["is_expired"] is False
