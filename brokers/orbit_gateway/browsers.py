"""Browsers that have shown a token once: a cookie for each, and the plugin sessions that they leave behind.

A cookie is not the token, and only its hash is kept, in a file of the gateway's state directory (0600), so that a restarted
gateway still knows its browsers. What a browser opens is closed some time after its last stream and request. Nothing here
knows HTTP or calls anybody; times are given.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from orbit_zmq.files import read_private, write_private
from orbit_zmq.log import get_logger

log = get_logger("orbit_gateway")

FILE = "browsers.json"
LOGIN_S = 12 * 3_600.0  # a cookie's life; a token that ends earlier ends it earlier
BROWSERS = 4_096  # known at once; the one that would expire next makes room
AWAY_S = 60.0  # from a browser's last stream and request to the end of what it has opened
SESSIONS = 1_000  # that one browser has open


@dataclass(frozen=True, slots=True)
class Login:
    """One browser: the hash of the token that it showed, and until when its cookie counts (wall-clock seconds)."""

    token_hash: str
    expires: float


class Logins:
    """The cookies that count, by their hashes."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._logins = self._read()

    def begin(self, token_hash: str, now_wall: float, expires: float | None) -> tuple[str, float]:
        """A new cookie, and until when it counts."""
        cookie = secrets.token_urlsafe(32)
        ends = min(now_wall + LOGIN_S, expires or now_wall + LOGIN_S)
        self._logins = {key: login for key, login in self._logins.items() if now_wall < login.expires}
        while len(self._logins) >= BROWSERS:
            del self._logins[min(self._logins, key=lambda key: self._logins[key].expires)]
        self._logins[key_of(cookie)] = Login(token_hash, ends)
        self._write()
        return cookie, ends

    def end(self, cookie: str) -> None:
        """The cookie counts no more."""
        if self._logins.pop(key_of(cookie), None) is not None:
            self._write()

    def find(self, cookie: str, now_wall: float) -> Login | None:
        login = self._logins.get(key_of(cookie))
        return login if login is not None and now_wall < login.expires else None

    def _write(self) -> None:
        write_private(self._path, json.dumps({key: asdict(login) for key, login in self._logins.items()}))

    def _read(self) -> dict[str, Login]:
        try:
            said = json.loads(read_private(self._path))
            return {str(key): Login(str(one["token_hash"]), float(one["expires"])) for key, one in said.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            log.warning("browsers-forgotten", path=str(self._path), reason=str(error))  # they log in again
            return {}


@dataclass(slots=True)
class Visit:
    """What one browser does now, and what it has opened."""

    user: str
    open: int = 0  # requests and streams
    left_at: float = 0.0  # when the last of them ended
    sessions: list[tuple[str, str, str]] = field(default_factory=list)  # (endpoint, plugin, session)


class Visits:
    """The browsers that are here, or were a moment ago, by the hashes of their cookies."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._visits: dict[str, Visit] = {}

    def begin(self, key: str, user: str) -> None:
        """A request begins."""
        self._visits.setdefault(key, Visit(user)).open += 1

    def end(self, key: str) -> None:
        """A request has ended."""
        if (visit := self._visits.get(key)) is not None:
            visit.open -= 1
            visit.left_at = self._clock()

    def note(self, key: str, endpoint: str, plugin: str, session: str) -> None:
        """The browser has opened a session, or has come back to it."""
        visit = self._visits.get(key)
        opened = (endpoint, plugin, session)
        if visit is not None and opened not in visit.sessions:
            del visit.sessions[: max(0, len(visit.sessions) + 1 - SESSIONS)]
            visit.sessions.append(opened)

    def gone(self) -> list[Visit]:
        """The browsers that have been away for long enough; they are forgotten."""
        ends_at = self._clock() - AWAY_S
        found = {key: visit for key, visit in self._visits.items() if visit.open <= 0 and visit.left_at <= ends_at}
        for key in found:
            del self._visits[key]
        return list(found.values())


def key_of(cookie: str) -> str:
    """What is kept of a cookie."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogateescape")).hexdigest()


def csrf_of(cookie: str) -> str:
    """What a page shows beside its cookie when it changes something; from it nobody gets the cookie."""
    return hashlib.sha256(f"csrf:{cookie}".encode("utf-8", "surrogateescape")).hexdigest()
