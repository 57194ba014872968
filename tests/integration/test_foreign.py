"""Somebody who has only docs/protocol.md, pyzmq and msgpack can call, and serve."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from lab import Lab

SCRIPT = Path(__file__).parent / "foreign_client.py"


def run(lab: Lab, *arguments: str, said: str = "") -> str:
    command = [sys.executable, str(SCRIPT), lab.url, *arguments]
    return subprocess.run(command, input=said, capture_output=True, text=True, timeout=120, check=True).stdout


def test_a_foreign_client_calls_an_operation_of_ours(lab):
    lab.start_endpoint("hpc1")
    answer = json.loads(run(lab, "call", "hpc1", "test", "echo_plain", said='{"text": "hello"}'))

    assert answer == {"kind": 8, "body": "hello"}
    refused = json.loads(run(lab, "call", "hpc1", "test", "echo_plain", said='{"txet": "hello"}'))
    assert refused["kind"] == 9
    assert refused["body"]["code"] == "invalid-argument"


def test_our_client_calls_an_operation_that_a_foreign_endpoint_serves(lab):
    command = [sys.executable, str(SCRIPT), lab.url, "serve", "foreign1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as endpoint:
        try:
            assert endpoint.stdout is not None
            assert json.loads(endpoint.stdout.readline()) == {"ready": "foreign1"}
            answer = lab.client().call("foreign1", "foreign", "echo", {"text": "hello"})
            assert answer["heard"] == {"text": "hello"}
            assert answer["operation"] == "echo"
        finally:
            endpoint.kill()


def test_the_foreign_participant_is_short_and_does_without_our_library():
    text = SCRIPT.read_text()
    assert text.count("\n") <= 120
    assert "import orbit" not in text and "from orbit" not in text
