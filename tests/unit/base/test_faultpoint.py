"""Fault points: what the variable may say, and that nothing happens without it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orbit_zmq import faultpoint
from orbit_zmq.errors import InvalidArgument

ROOT = Path(__file__).resolve().parents[3]


def ended(faults: str, passages: int = 3) -> int:
    """The exit code of a process that passes one point that often."""
    code = f"from orbit_zmq import faultpoint\nfor _ in range({passages}): faultpoint.reach('broker.sent')"
    environment = {"ORBIT_FAULTPOINTS": faults, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, stderr=subprocess.DEVNULL).returncode


def test_without_the_variable_a_point_does_nothing():
    assert not faultpoint.is_armed
    faultpoint.reach("broker.sent")


def test_a_process_is_killed_at_the_passage_that_is_named():
    assert ended("broker.sent=kill@3") == -9
    assert ended("broker.sent=kill@4") == 0
    assert ended("broker.received=kill") == 0


def test_a_passage_can_be_slow():
    (fault,) = faultpoint.parse("endpoint.executed=sleep:0.05").values()
    began = time.monotonic()
    fault.happen()
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize(
    "text", ["nowhere=kill", "broker.sent=explode", "broker.sent", "broker.sent=kill@x", "broker.sent=sleep:-1"]
)
def test_what_is_no_fault_is_refused_by_name(text: str):
    with pytest.raises(InvalidArgument, match=re.escape(repr(text))):
        faultpoint.parse(text)
    assert ended(text) != 0


def test_every_point_is_in_the_code_and_none_beside_them():
    sources = [path.read_text() for shelf in ("orbit_zmq", "brokers") for path in (ROOT / shelf).rglob("*.py")]
    assert {point for text in sources for point in re.findall(r'reach\("([a-z.]+)"\)', text)} == faultpoint.POINTS.keys()


def test_every_point_is_documented():
    text = (ROOT / "docs" / "guarantees.md").read_text()
    for point, meaning in faultpoint.POINTS.items():
        assert f"| `{point}` | {meaning} |" in text
