"""Cookies of browsers, and what is closed when a browser has gone, with a made-up clock."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from orbit_gateway import browsers
from orbit_gateway.browsers import AWAY_S, FILE, LOGIN_S, Logins, Visits, csrf_of, key_of


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_cookie_counts_for_its_time_and_through_a_restart(tmp_path: Path) -> None:
    cookie, ends = Logins(tmp_path).begin("of a token", 1_000.0, None)
    again = Logins(tmp_path)

    found = again.find(cookie, ends - 1)
    assert found is not None and found.token_hash == "of a token"
    assert ends == 1_000.0 + LOGIN_S and again.find(cookie, ends) is None
    assert cookie not in (tmp_path / FILE).read_text()
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_a_cookie_ends_with_its_token_and_when_its_browser_leaves(tmp_path: Path) -> None:
    logins = Logins(tmp_path)
    short, ends = logins.begin("hash", 1_000.0, 1_060.0)
    left, _ = logins.begin("hash", 1_000.0, None)
    logins.end(left)

    assert ends == 1_060.0 and logins.find(short, 1_060.0) is None
    assert logins.find(left, 1_001.0) is None and Logins(tmp_path).find(left, 1_001.0) is None


def test_the_table_of_cookies_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browsers, "BROWSERS", 3)
    logins = Logins(tmp_path)
    made = [logins.begin("hash", 1_000.0 + number, None)[0] for number in range(5)]

    assert [logins.find(cookie, 1_010.0) is not None for cookie in made] == [False, False, True, True, True]


def test_a_damaged_file_means_that_browsers_log_in_again(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("[1")
    (tmp_path / FILE).chmod(0o600)

    cookie, _ = Logins(tmp_path).begin("hash", 1_000.0, None)

    assert Logins(tmp_path).find(cookie, 1_001.0) is not None


def test_what_a_page_shows_tells_nothing_of_the_cookie() -> None:
    assert len({csrf_of("a"), csrf_of("b"), key_of("a"), key_of("b"), "a", "b"}) == 6


def test_sessions_end_a_while_after_the_last_stream_and_request() -> None:
    clock = Clock()
    visits = Visits(clock)
    visits.begin("k", "joe")  # a stream
    visits.begin("k", "joe")
    visits.note("k", "hpc1", "math", "session.1")
    visits.note("k", "hpc1", "math", "session.1")
    visits.end("k")
    clock.now += 10 * AWAY_S
    assert visits.gone() == []

    visits.end("k")
    clock.now += AWAY_S - 1
    assert visits.gone() == []
    visits.begin("k", "joe")
    visits.end("k")
    clock.now += AWAY_S - 1
    assert visits.gone() == []
    clock.now += 1
    (gone,) = visits.gone()
    assert (gone.user, gone.sessions) == ("joe", [("hpc1", "math", "session.1")])
    assert visits.gone() == []
