"""`orbit token` as a user types it, with the lines of the guide."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab import directories
from shell import Shell

from orbit_zmq.children import environment_of_child
from orbit_zmq.security.tokens import TOKEN, TokenList

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "http.md"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(environment_of_child(**directories(tmp_path)))
    with made.stack:
        yield made


def test_the_lines_of_the_guide_do_what_they_say(shell: Shell, tmp_path: Path) -> None:
    lines = re.findall(r"^(orbit token .*?)(?: +#.*)?$", GUIDE.read_text(), re.MULTILINE)
    assert len(lines) >= 4

    said = {line: shell.run(*shlex.split(line)[1:]) for line in lines}

    assert {line: done.stderr for line, done in said.items() if done.returncode} == {}
    tokens = [done.stdout.strip() for line, done in said.items() if "create" in line]
    assert all(TOKEN.fullmatch(token) for token in tokens) and len(set(tokens)) == len(tokens)
    assert "laptop" in {entry.name for entry in TokenList(tmp_path / "state" / "gateway")}


def test_a_token_is_listed_with_what_it_may_do_and_never_itself(shell: Shell) -> None:
    token = shell.run(
        "token", "create", "ci", "--user", "ann", "--rights", "read", "--plugins", "math", "--expires", "1h"
    ).stdout

    (listed,) = shell.json("token", "list")

    assert listed["user"] == "ann" and listed["rights"] == ["read"] and listed["plugins"] == ["math"]
    assert listed["endpoints"] == ["*"] and listed["is_expired"] is False
    assert token.strip() not in str(listed) and "hash" not in listed


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("revoke", "nobody"), 1, "nobody"),
        (("create", "Big"), 2, "a-z"),
        (("create", "ci", "--rights", "fly"), 2, "rights"),
        (("create", "ci", "--expires", "soon"), 2, "duration"),
        (("create", "ci", "--expires", "0"), 2, "expired"),
        (("create",), 2, "NAME"),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(shell: Shell, words: tuple[str, ...], code: int, said: str) -> None:
    done = shell.run("token", *words)

    assert done.returncode == code and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(("option", "text"), [("--user", ""), ("--rights", ""), ("--endpoints", " , "), ("--plugins", "")])
def test_an_option_without_a_word_is_not_taken_for_no_limit(shell: Shell, option: str, text: str) -> None:
    done = shell.run("token", "create", "ci", option, text)

    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
    assert shell.json("token", "list") == []


def test_a_name_is_taken_once(shell: Shell) -> None:
    assert shell.run("token", "create", "ci").returncode == 0
    again = shell.run("token", "create", "ci")

    assert again.returncode == 1 and again.stdout == "" and "ci" in again.stderr
