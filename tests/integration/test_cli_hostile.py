"""An endpoint that speaks the protocol by hand and puts escape sequences into every name and text: nothing of it reaches a
terminal as it is, in any form of output.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq
from lab import Lab, wait_until, within
from raw_peer import Peer

EVIL = "\x1b]0;owned\x07\x1b[2J\r\n\tx\u202e\x9b31m\x7f\\"
LINES = {"\n", "\t"}  # of the output itself
REQUEST, REPLY, ERROR, UPDATE, EVENT = 7, 8, 9, 6, 14


def catalogue() -> bytes:
    parameters = {"type": "object", "properties": {f"a{EVIL}": {"type": "string", "default": EVIL}}, "required": [EVIL]}
    operations = [
        {"name": name, "effect": EVIL, "idempotent": True, "deadline_s": 5.0, "session": False, "method": "GET", "path": "x"}
        | {"doc": EVIL, "parameters": parameters if name == "strict" else {}, "returns": {}, "stream_in": ""}
        for name in ("text", "map", "fail", "strict", f"op{EVIL}")
    ]
    packed: bytes = msgpack.packb({"evil": {"plugin": "evil", "version": EVIL, "operations": operations}})
    return packed


ANSWERS: dict[str, Any] = {
    "list_sessions": {"sessions": [{"sid": f"s{EVIL}", "status": EVIL, "lifetime": EVIL, "holder": EVIL, EVIL: EVIL}]},
    "session_status": {"status": EVIL, EVIL: [EVIL, {EVIL: EVIL}]},
    "text": EVIL,
    "map": {EVIL: [EVIL, EVIL.encode()], "not a number": float("nan"), b"bytes": 1},
    "unregister_session": {EVIL: EVIL},
}


class EvilEndpoint:
    """Says hello, answers whatever is asked, and publishes events, until it is ended."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._ended = threading.Event()
        self.is_welcome = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join(60)

    def _run(self) -> None:
        with zmq.Context() as context:
            peer = Peer(context, self._address)
            packed = catalogue()
            welcome = peer.hello(
                "endpoint",
                name="evil",
                plugins={"evil": {"plugin": "evil", "version": EVIL}, EVIL: {"plugin": EVIL, "version": EVIL}},
                absent=[{"plugin": EVIL, "reason": EVIL}],
                host={"role": EVIL, "scheduler": EVIL},
                labels={EVIL: EVIL},
                environment={"orbit_version": EVIL, "python_version": EVIL, "hostname": EVIL, EVIL: EVIL},
                catalogue=hashlib.sha256(packed).digest(),
            )
            peer.send({"k": UPDATE}, {"catalogue_body": packed})
            self.is_welcome.set()
            number = 0
            while not self._ended.is_set():
                number += 1
                event = {"k": EVENT, "i": number, "p": EVIL, "n": EVIL, "o": EVIL, "y": time.time(), "w": welcome["user"]}
                peer.send(event, {EVIL: EVIL})
                self._answer(peer)
            peer.close()

    def _answer(self, peer: Peer) -> None:
        try:
            header, _ = peer.receive(0.05)
        except TimeoutError:
            return
        if header["k"] != REQUEST:
            return
        back = {"i": header["i"], "c": header["c"], "t": peer.incarnation}
        answer = ANSWERS.get(header.get("o", ""))
        if answer is not None:
            peer.send({"k": REPLY, **back}, answer)
            return
        body = {
            "code": "internal",
            "message": EVIL,
            "hint": EVIL,
            "type": f"a.{EVIL}",
            "traceback": EVIL,
            "details": {EVIL: EVIL},
        }
        peer.send({"k": ERROR, **back}, body)


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    lab = Lab(place)
    with within(place):
        lab.start_broker(tcp=None)
        evil = EvilEndpoint(lab.url)
        try:
            assert evil.is_welcome.wait(60)
            client = lab.client()
            wait_until(lambda: client.operations(client.resolve("evil")), what="the catalogue is told")
            yield lab.environment
        finally:
            evil.end()
            lab.close()
            shutil.rmtree(place, ignore_errors=True)


def hidden(text: str) -> set[str]:
    """Characters that a terminal obeys and does not show."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")} - LINES


COMMANDS = [
    ["endpoint", "list"],
    ["endpoint", "show", "evil"],
    ["plugin", "list"],
    ["plugin", "show", "evil"],
    ["session", "list"],
    ["session", "show", "s"],
    ["session", "close", "s"],
    ["call", "evil", "evil", "text"],
    ["call", "evil", "evil", "map"],
    ["call", "evil", "evil", "fail"],
    ["call", "evil", "evil", "strict"],
    ["call", "evil", "evil", EVIL.replace("\x00", "")],
    ["call", "evil", "absent", "text"],
    ["call", EVIL, "evil", "text"],
    ["events", "--count", "2", "--timeout", "60s"],
    ["version", "--all"],
    ["broker", "status"],
    ["top", "--once"],
    ["context", "show", EVIL],
    ["errors", EVIL],
    ["config", "set", EVIL, EVIL],
    [EVIL],
]


@pytest.mark.parametrize("mode", ["table", "tsv", "json", "jsonl", "quiet"])
@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words).encode("unicode_escape").decode()[:40])
def test_nothing_hidden_is_printed(environment: dict[str, str], words: list[str], mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orbit_zmq.cli", *words],
        env=environment | {"ORBIT_OUTPUT": mode, "ORBIT_LOG_LEVEL": "debug"},
        capture_output=True,
        timeout=100,
        check=False,
    )
    said, complained = done.stdout.decode(), done.stderr.decode()

    assert hidden(said) == set()
    assert hidden(complained) == set()
    assert said or complained
    assert "Traceback (most recent" not in complained


def test_on_a_terminal_neither(environment: dict[str, str]) -> None:
    for words in (["plugin", "show", "evil"], ["call", "evil", "evil", "text"], ["session", "list"]):
        leader, follower = os.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "orbit_zmq.cli", *words],
            env=environment | {"NO_COLOR": "1", "TERM": "dumb"},
            stdout=follower,
            stderr=follower,
        ) as running:
            os.close(follower)
            said = b""
            while part := _read(leader):
                said += part
            running.wait(60)
        os.close(leader)
        assert hidden(said.decode().replace("\r\n", "\n")) == set(), words
        assert "x" in said.decode()


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # the other end is closed
        return b""
