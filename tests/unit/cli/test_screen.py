"""One screen of `orbit top`: what fits, what is left out, in which order, and that nothing in a name can draw on it."""

from __future__ import annotations

from typing import Any

import pytest

from orbit_zmq.cli.screen import SORTS, View, draw
from orbit_zmq.cli.top import SORTS as OPTIONS
from orbit_zmq.models import BrokerStatus

RATES = dict.fromkeys(
    ("messages_in", "messages_out", "bytes_in", "bytes_out", "requests", "replies", "errors", "events"), 123_456.7
)


def peer(name: str, role: str = "endpoint", **facts: Any) -> dict[str, Any]:
    return {
        "name": name, "role": role, "user": "ada", "state": "present", "incarnation": "00", "is_connected": True,
        "silent_for_s": 0.5, "loop_age_s": 0.1, "latency_s": 0.0021, "open_calls_made": 0, "open_calls_served": 0,
        "calls_made": 0, "calls_served": 0, "calls_served_per_s": 0.0, "events_per_s": 0.0, "sessions": 0,
        "host_role": "login", "scheduler": "slurm", "load": {"running": 1, "tasks": 2, "host_load": 0.5},
        "is_subscriber": False, "replayed": 0, "missed": 0, "queue": {"messages": 0, "bytes": 0}, **facts,
    }  # fmt: skip


def report(*participants: dict[str, Any], **facts: Any) -> BrokerStatus:
    made: dict[str, Any] = {
        "epoch": "ab" * 16, "broker_version": "0.1.0", "protocol_versions": (1, 1), "versions": {}, "hostname": "bridge",
        "pid": 12345, "ipc": None, "tcp": None, "events_ipc": None, "events_tcp": None, "uptime_s": 200_000.0,
        "memory_bytes": 1 << 30, "open_files": 1_000, "open_files_limit": 65_536, "participants": participants,
        "lost_endpoints": [], "busiest_sessions": [],
        "calls": {"in_flight": 1, "held": 2, "own_streams": 0},
        "events": {"audiences": 1, "streams": 1, "subscribers": 3, "replayed": 40, "missed": 50},
        "security": {"keys": 1, "key_list_damage": "", "connections_reaped": 0, "audit_lines_lost": 0},
        "loop": {"rounds": 1, "longest_round_s": 0.001, "longest_round_lately_s": 0.001},
        "sessions": 3, "catalogues": 1, "queues": {"messages": 1, "bytes": 1},
        "totals": dict.fromkeys(RATES, 1), "rates_1s": RATES, "rates_10s": RATES,
        "drops": {"late-answer": 3, "queue-full": 1}, **facts,
    }  # fmt: skip
    return BrokerStatus.model_validate(made)


def session(number: int) -> dict[str, Any]:
    return {
        "endpoint": f"hpc{number}", "plugin": "rhapsody", "session": f"session.{number:08x}", "user": "ada",
        "calls_per_s": 10.0, "events_per_s": 2.0,
    }  # fmt: skip


def lines(status: BrokerStatus, view: View | None = None, width: int = 80, height: int = 24, **options: Any) -> list[str]:
    return draw(status, view or View(), width, height, is_live=options.pop("is_live", True), **options).plain.split("\n")


def names_in(shown: list[str], *prefixes: str) -> list[str]:
    return [line.split()[0] for line in shown if line.startswith(prefixes)]


def crowd(count: int) -> BrokerStatus:
    return report(
        *(peer(f"hpc{number:03}.{'x' * 30}", calls_served_per_s=float(number)) for number in range(count)),
        peer("ada.1", "client", replayed=10, missed=20),
        lost_endpoints=[{"name": "gone", "user": "ada", "host_role": "login", "cause": "silence", "lost_for_s": 3.0}],
        busiest_sessions=[session(number) for number in range(20)],
    )


@pytest.mark.parametrize(("width", "height"), [(80, 24), (80, 12), (40, 10), (200, 60)])
def test_the_screen_is_never_larger_than_the_terminal(width: int, height: int) -> None:
    shown = lines(crowd(300), width=width, height=height)

    assert len(shown) == height and max(map(len, shown)) <= width
    assert shown[-1].startswith("q quit")


def test_all_parts_are_on_eighty_by_twenty_four() -> None:
    shown = "\n".join(lines(crowd(300)))

    for words in ("up 2d7h", "memory 1.0GiB", "in flight 1", "held 2", "replayed 40  missed 50", "late-answer 3"):
        assert words in shown
    for words in ("RTT", "HEARD", "TASKS", "... and 29", "BUSIEST SESSIONS", "session.00000000", "SUBSCRIBERS BEHIND"):
        assert words in shown


def test_every_column_of_an_endpoint_fits_eighty_characters() -> None:
    (line,) = (line for line in lines(report(peer("login1.cluster.example"))) if line.startswith("login1"))

    assert line.split()[-2:] == ["2.1ms", "0.5s"]


def test_a_lost_endpoint_is_among_the_others_and_first_by_state() -> None:
    status = report(
        peer("a"),
        peer("b", state="suspect"),
        lost_endpoints=[{"name": "c", "user": "ada", "host_role": "login", "cause": "silence", "lost_for_s": 3.0}],
    )

    assert names_in(lines(status), "a ", "b ", "c ") == ["a", "b", "c"]
    assert names_in(lines(status, View("state")), "a ", "b ", "c ") == ["c", "b", "a"]


def test_keys_go_through_the_orders_and_turn_them_round() -> None:
    view = View()
    for expected in [*SORTS[1:], SORTS[0]]:
        view.press("s")
        assert view.sort == expected
    status = report(peer("a", calls_served_per_s=1.0), peer("b", calls_served_per_s=2.0))
    view.sort = "calls"

    assert names_in(lines(status, view), "a ", "b ") == ["b", "a"]
    view.press("r")
    assert names_in(lines(status, view), "a ", "b ") == ["a", "b"]


def test_the_option_offers_the_orders_that_there_are() -> None:
    assert OPTIONS == SORTS


@pytest.mark.parametrize(
    ("wanted", "found"), [("hpc1", ["hpc1"]), ("comp", ["hpc2"]), ("*susp*", ["hpc2"]), ("", ["hpc1", "hpc2"])]
)
def test_a_filter_takes_part_of_a_name_role_or_state(wanted: str, found: list[str]) -> None:
    status = report(peer("hpc1"), peer("hpc2", host_role="compute", state="suspect"))

    assert names_in(lines(status, View(wanted=wanted)), "hpc") == found


def test_names_cannot_draw_on_the_terminal() -> None:
    evil = "x\x1b[2J\n\u202eroot"
    status = report(
        peer(evil, host_role=evil, state=evil),
        peer(evil, "client", missed=1, user=evil),
        busiest_sessions=[session(1) | {"session": evil, "user": evil, "plugin": evil}],
        hostname=evil,
        broker_version=evil,
        lost_endpoints=[{"name": evil, "user": evil, "host_role": evil, "cause": evil, "lost_for_s": 1.0}],
    )

    for line in lines(status, is_live=False):
        assert line.isprintable() or line == ""


def test_a_broker_that_is_away_is_said_above_the_last_report() -> None:
    assert any(
        line.startswith("unreachable since 12:00:00") for line in lines(report(), trouble="unreachable since 12:00:00: x")
    )
