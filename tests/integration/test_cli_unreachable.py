"""Every command that talks to a broker, where there is none: exit code 3 within 3 s, and one sentence with what to do."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from lab import directories

from orbit_zmq.children import environment_of_child
from orbit_zmq.cli.main import NOUNS, cli
from orbit_zmq.files import make_private_directory
from orbit_zmq.security.keys import BROKER_KEY, OWNER_KEY, load_or_make_keypair

ORBIT = [sys.executable, "-m", "orbit_zmq.cli"]
WITHIN_S = 3.0
BUSY = 5  # so many times longer on a machine that has other things to do
WAITS = [["broker", "wait"], ["endpoint", "wait", "word"]]  # for what is not there yet
LOCAL = [*WAITS, ["endpoint", "stop"]]  # the last is for a process of this machine


def commands_with_a_broker() -> Iterator[list[str]]:
    """Each command of the tree with the options that name a broker, with words for its arguments."""
    root = click.Context(cli)
    for noun in sorted(NOUNS):
        command = cli.get_command(root, noun)
        members = command.commands.items() if isinstance(command, click.Group) else [("", command)]
        for verb, member in members:
            options = {option for parameter in member.params for option in parameter.opts} if member is not None else set()
            if member is not None and {"--url", "--join", "--context"} <= options:
                arguments = ["word" for one in member.params if isinstance(one, click.Argument) and one.required]
                yield [word for word in (noun, verb, *arguments) if word]


COMMANDS = [words for words in commands_with_a_broker() if words not in LOCAL]
NEEDS: dict[tuple[str, ...], list[str]] = {
    ("gateway", "start"): ["--http", "127.0.0.1:0"],
    ("version",): ["--all"],
    ("top",): ["--once"],
    ("invite", "word"): ["--role", "client"],
    ("task", "submit"): ["word"],
    ("task", "run"): ["word"],
    ("worker", "start"): ["--endpoint", "word"],
    ("worker", "list"): ["--endpoint", "word"],
    ("worker", "stop", "word"): ["--endpoint", "word"],
}


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """Directories of one's own where nothing runs, with the keys that TCP asks for."""
    made = directories(tmp_path)
    state = make_private_directory(Path(made["ORBIT_STATE_DIR"]), "ORBIT_STATE_DIR")
    for name in (BROKER_KEY, OWNER_KEY):
        load_or_make_keypair(state / name)
    return environment_of_child(**made)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """One that nobody listens at, and nobody else can take meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("where", ["dead ipc", "closed port", "nothing"])
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_without_a_broker_the_exit_code_is_3_within_3_s(
    alone: dict[str, str], tmp_path: Path, closed_port: int, words: list[str], where: str
) -> None:
    urls = {"dead ipc": [f"--url=ipc://{tmp_path}/nobody"], "closed port": [f"--url=tcp://127.0.0.1:{closed_port}"]}
    given = [*words, *urls.get(where, []), *NEEDS.get(tuple(words), [])]  # behind a program's name all is the program's
    began = time.monotonic()
    done = subprocess.run([*ORBIT, *given], env=alone, capture_output=True, text=True, timeout=100, check=False)
    took_s = time.monotonic() - began

    assert done.returncode == 3, done.stderr
    assert done.stdout.count("\n") <= 1, "nothing but a header"
    sentences = done.stderr.splitlines()
    assert len(sentences) == 1 and sentences[0].startswith("orbit: "), done.stderr
    assert any(fix in done.stderr for fix in ("orbit up", "orbit broker start", "Check")), done.stderr
    assert took_s < BUSY * WITHIN_S


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_error_is_json_where_json_is_asked_for(alone: dict[str, str], words: list[str]) -> None:
    given = [*words, *NEEDS.get(tuple(words), [])]
    done = subprocess.run(
        [*ORBIT, *given], env=alone | {"ORBIT_OUTPUT": "json"}, capture_output=True, text=True, timeout=100, check=False
    )

    said = json.loads(done.stderr)
    assert (said["schema"], said["version"]) == ("orbit.error", 1)
    assert said["error"]["code"] == "broker-unreachable"
    assert said["error"]["transient"] is True and said["error"]["exit_code"] == 3
    assert said["error"]["message"] and said["error"]["hint"]


@pytest.mark.parametrize("words", WAITS, ids=" ".join)
def test_a_wait_ends_with_its_timeout(alone: dict[str, str], words: list[str]) -> None:
    done = subprocess.run(
        [*ORBIT, *words, "--timeout", "0.2s"], env=alone, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 5
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("orbit: "), done.stderr


def test_these_are_all_that_talk_to_a_broker() -> None:
    nouns = {words[0] for words in COMMANDS}

    assert {"broker", "call", "endpoint", "events", "plugin", "session", "top", "version"} <= nouns
