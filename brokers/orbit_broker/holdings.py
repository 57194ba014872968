"""Rules: telling endpoints which of the processes that hold their sessions are lost, and which are there again.

An endpoint says with each session that does not outlive its holder, or whose work does not, which process that is. It is told
when that process is lost, when the same process comes back, and after its own return or the broker's start how things stand.
What follows is the endpoint's matter.
"""

from __future__ import annotations

from collections.abc import Iterable

from orbit_broker.out import Out
from orbit_broker.state import Participant, State
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.header import Kind

HOLDERS = 4_096  # named in one message


def on_lost(state: State, out: Out, peer: Participant) -> None:
    """A participant is lost."""
    for endpoint in state.holdings.get(peer.incarnation, ()):
        _tell(out, endpoint, lost=[peer.incarnation])


def on_back(state: State, out: Out, peer: Participant) -> None:
    """A participant is new here; its sessions may be older, for the broker or the line to it was away."""
    for endpoint in state.holdings.get(peer.incarnation, ()):
        _tell(out, endpoint, back=[peer.incarnation])


def on_sessions(state: State, out: Out, endpoint: Participant, holders: Iterable[bytes]) -> None:
    """An endpoint has said who holds sessions of it; it is told who of them is not there."""
    gone = {holder for holder in holders if holder and holder not in state.participants}
    if gone and state.is_settled:
        _tell(out, endpoint, lost=sorted(gone))


def on_return(state: State, out: Out, endpoint: Participant) -> None:
    """An endpoint is connected again, and may have missed what it was told meanwhile."""
    holders = {session.holder for session in endpoint.sessions.values() if session.holder}
    there = sorted(holder for holder in holders if holder in state.participants)
    if there:
        _tell(out, endpoint, back=there)
    on_sessions(state, out, endpoint, holders)


def on_settled(state: State, out: Out) -> None:
    """Whoever has not found the broker again by now after its start is lost."""
    state.is_settled = True
    for holder in [holder for holder in state.holdings if holder not in state.participants]:
        for endpoint in state.holdings[holder]:
            _tell(out, endpoint, lost=[holder])


def _tell(out: Out, endpoint: Participant, *, lost: list[bytes] | None = None, back: list[bytes] | None = None) -> None:
    for word, holders in (("lost", lost or []), ("back", back or [])):
        for first in range(0, len(holders), HOLDERS):
            body, flags = pack_body({word: holders[first : first + HOLDERS]})
            out.control(endpoint, Kind.HOLDERS, flags, body)
