"""How long each step towards a tunnel may take: who waits for somebody waits longer, and the docs name the figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from orbit_zmq.tunnel.deadlines import (
    ANSWER_S,
    FORWARD_S,
    HEARD_S,
    JOIN_S,
    LOOK_S,
    OPEN_S,
    PROBE_S,
    SPEAKS_S,
    THROUGH_S,
    WAY_S,
)
from orbit_zmq.tunnel.ssh import CONNECT_S

NFS_S = 60.0  # that a client of NFS may show a directory as it was
DOCS = Path(__file__).parents[3] / "docs" / "tunnels.md"


def test_the_worker_waits_longer_than_the_login_endpoint_tries() -> None:
    assert HEARD_S > LOOK_S + NFS_S
    assert ANSWER_S > OPEN_S + LOOK_S


def test_the_caller_waits_longer_than_the_worker_tries() -> None:
    assert WAY_S >= PROBE_S + HEARD_S + ANSWER_S + SPEAKS_S
    assert WAY_S >= FORWARD_S + SPEAKS_S
    assert JOIN_S > WAY_S + THROUGH_S


def test_an_attempt_has_the_time_to_connect() -> None:
    assert min(PROBE_S, FORWARD_S, OPEN_S) > CONNECT_S


@pytest.mark.parametrize("seconds", [FORWARD_S, OPEN_S, HEARD_S, ANSWER_S, JOIN_S])
def test_the_docs_name_it(seconds: float) -> None:
    assert f"{seconds:g} s" in DOCS.read_text()
