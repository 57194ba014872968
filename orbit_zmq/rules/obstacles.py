"""Why there is no connection: what was seen on the way to the broker, and the sentence and the fix for it.

The order is that of nearness: who was turned away at the door knows more than who found no house. ZeroMQ tells no difference
between a key that is not listed, one that was revoked and one that has expired, nor between a broker with another key and one
that hangs up; so neither do the sentences.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, auto

from orbit_zmq.errors import AuthRequired, BrokerUnreachable, OrbitError


class Obstacle(IntEnum):
    """The later, the nearer to being let in."""

    UNREACHABLE = auto()  # no connection, and no word why
    NOTHING_LISTENS = auto()
    FOREIGN = auto()  # it does not speak ZeroMQ, or without encryption
    NO_HANDSHAKE = auto()
    NO_WELCOME = auto()  # the key was admitted, and hello not answered
    NOT_ADMITTED = auto()


SENTENCES: dict[Obstacle, tuple[str, str]] = {
    Obstacle.UNREACHABLE: (
        "{at} cannot be reached: nothing answers the attempt to connect",
        "Check the host name, and that the network and its firewalls let this machine connect to that port.",
    ),
    Obstacle.NOTHING_LISTENS: (
        "nothing listens at {at}",
        "Start the broker there with `orbit broker start`, or check address and port.",
    ),
    Obstacle.FOREIGN: (
        "what listens at {at} is no ORBIT-ZMQ broker",
        "Check address and port: a broker takes requests at port 5670 unless it was started with another.",
    ),
    Obstacle.NO_HANDSHAKE: (
        "the key of the broker at {at} is not the expected one, or the broker does not answer",
        "Look there with `orbit broker status`; where the broker was set up anew, ask for a new join string.",
    ),
    Obstacle.NO_WELCOME: (
        "the broker at {at} does not answer",
        "It is overloaded or hangs; look there with `orbit broker status`.",
    ),
    Obstacle.NOT_ADMITTED: (
        "the broker at {at} does not admit this key: it is not listed, has been revoked, or has expired",
        "Ask the broker's owner for a new join string (`orbit invite`), and store it with `orbit join`.",
    ),
}


def error_of(obstacle: Obstacle, at: str) -> OrbitError:
    """The error for whoever waits for the connection; `at` is the address and where it was found."""
    sentence, hint = SENTENCES[obstacle]
    kind = AuthRequired if obstacle is Obstacle.NOT_ADMITTED else BrokerUnreachable
    return kind(sentence.format(at=at), hint=hint)


class Way:
    """What was met on the way to the broker since its last welcome, at each of its addresses."""

    def __init__(self) -> None:
        self.is_reached = False  # somebody has taken the present connection
        self.is_greeted = False  # its handshake has succeeded
        self.reason = ""  # why an earlier connection broke
        self._met: dict[str, Obstacle] = {}

    def on_opening(self) -> None:
        self.is_reached = self.is_greeted = False

    def on_welcome(self) -> None:
        self._met.clear()
        self.reason = ""

    def meet(self, address: str, obstacle: Obstacle) -> bool:
        """An attempt has failed there; whether that is news."""
        is_news = self._met.get(address) is not obstacle
        self._met[address] = obstacle
        return is_news

    @property
    def is_barred(self) -> bool:
        """Whether the broker does not admit this key."""
        return Obstacle.NOT_ADMITTED in self._met.values()

    def error(self, address: str, found_in: str, is_foreign: Callable[[str], bool] = lambda address: False) -> OrbitError:
        """What stands in the way where we came nearest; `address` is the one that is being tried.

        `is_foreign` is asked where a handshake has failed for a reason that is not known.
        """
        seen = Obstacle.NO_HANDSHAKE if self.is_reached else Obstacle.UNREACHABLE
        found = {address: Obstacle.NO_WELCOME if self.is_greeted else seen, **self._met}
        address, nearest = max(found.items(), key=lambda item: item[1])
        if nearest is Obstacle.NO_HANDSHAKE and is_foreign(address):
            nearest = Obstacle.FOREIGN
        at = f"{address} (from {found_in})"
        if self.reason and nearest < Obstacle.NO_HANDSHAKE:
            return BrokerUnreachable(f"the broker at {at} does not answer: {self.reason}")
        return error_of(nearest, at)
