"""A tunnel that is opened in several attempts, of which the last one may have hardly any time."""

from __future__ import annotations

from typing import Any, cast

import pytest

from orbit_zmq.errors import TunnelFailed
from orbit_zmq.tunnel.keeping import KeptTunnel
from orbit_zmq.tunnel.ssh import CUT_SHORT, Ssh


class Attempt:
    """An ssh that does not come up."""

    def __init__(self, error: TunnelFailed) -> None:
        self._error = error

    def wait_until_up(self, timeout_s: float) -> None:
        raise self._error


def test_an_attempt_that_was_cut_short_does_not_hide_why_those_before_have_failed() -> None:
    errors = [TunnelFailed("nothing takes ssh connections there")]
    told: list[Any] = []

    def make(was_open: bool) -> Ssh:
        late = TunnelFailed("it has not come through after 0.1 s", details={CUT_SHORT: True})
        return cast(Ssh, Attempt(errors.pop() if errors else late))

    tunnel = KeptTunnel("worker", make, lambda kept: told.append((kept.state, kept.failure)))

    with pytest.raises(TunnelFailed, match="nothing takes ssh connections there") as caught:
        tunnel.open(within_s=1.5)
    assert told[-1] == ("failed", caught.value)


def test_one_that_only_ever_had_no_time_says_so() -> None:
    late = TunnelFailed("it has not come through after 0.1 s", details={CUT_SHORT: True})
    tunnel = KeptTunnel("worker", lambda _: cast(Ssh, Attempt(late)), lambda kept: None)

    with pytest.raises(TunnelFailed, match="has not come through"):
        tunnel.open(within_s=0.0)
