"""What monitors show against what is known to happen, and `orbit top` on a terminal."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from lab import Lab, running_lab, wait_until
from load import LoadPlugin, Pace
from shell import Shell, terminal

from orbit_zmq import Client, Endpoint
from orbit_zmq.cli.top import ANSWER_S, Watch
from orbit_zmq.models import STATUS_SCHEMA_VERSION, BrokerStatus
from orbit_zmq.transport import mailbox

STEADY_S = 11.5  # the rates over ten seconds are of this load alone then


@pytest.fixture
def shell(lab: Lab) -> Iterator[Shell]:
    made = Shell(lab.environment)
    with made.stack:
        yield made


class Losses:
    """Has a client lose some publications."""

    def __init__(self, client: Client) -> None:
        self.count = 0
        sockets: Any = client._link._sockets
        make = sockets.subscriber

        def subscriber(*arguments: Any, **named: Any) -> tuple[Any, Any]:
            socket, monitor = make(*arguments, **named)
            return Losing(socket, self), monitor

        sockets.subscriber = subscriber


class Losing:
    """A SUB socket on a line that loses what it is told to."""

    def __init__(self, socket: Any, losses: Losses) -> None:
        self._socket = socket
        self._losses = losses

    def recv_multipart(self, flags: int = 0) -> list[bytes]:
        while True:
            frames: list[bytes] = self._socket.recv_multipart(flags)
            if len(frames) != 3 or self._losses.count <= 0:
                return frames
            self._losses.count -= 1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


def close_to(shown: float, known: float) -> bool:
    return abs(shown - known) <= 0.1 * known


def disagreements(
    report: dict[str, Any], calls: float, events: float, names: tuple[str, ...], sids: list[str]
) -> dict[str, Any]:
    """Rates that are not those of the load, with what they should be: calls to two sessions, events of three endpoints."""
    served = [endpoint_of(report, name)["calls_served_per_s"] for name in names]
    busiest = {one["session"]: one["calls_per_s"] for one in report["busiest_sessions"]}
    pairs = {
        "requests": (report["rates_10s"]["requests"], calls),
        "events": (report["rates_10s"]["events"], events),
        "calls served": (sum(served), calls),
        "calls served by the first": (served[0], calls / 2),
        **{f"events of {name}": (endpoint_of(report, name)["events_per_s"], events / 3) for name in names},
        **{f"calls of {sid}": (busiest.get(sid, 0.0), calls / 2) for sid in sids},
    }
    return {what: pair for what, pair in pairs.items() if not close_to(*pair)}


def endpoint_of(item: dict[str, Any], name: str) -> dict[str, Any]:
    return next((peer for peer in item["participants"] if peer["name"] == name), {"state": "absent"})


@pytest.mark.timeout(240)
def test_reports_agree_with_a_known_load(lab: Lab, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three endpoints, two sessions, 100 calls and 500 events a second, one subscriber that is stuck and one that loses."""
    monkeypatch.setattr(mailbox, "ITEMS", 1_000)
    names = ("hpc1", "hpc2", "hpc3")
    with ExitStack() as stack:
        endpoints = [stack.enter_context(Endpoint(name, url=lab.url, plugins=[LoadPlugin])) for name in names]
        caller, stuck, loser = (stack.enter_context(Client(url=lab.url, connect_timeout_s=60)) for _ in range(3))
        sessions = [caller.get_plugin(name, "load") for name in names[:2]]
        losses, release = Losses(loser), stack.enter_context(Released())
        subscription = stuck.subscribe(lambda *event: release.wait())
        loser.subscribe(lambda *event: None)
        said = [endpoint.plugins[0] for endpoint in endpoints]
        events = stack.enter_context(Pace(500, lambda number: said[number % 3].send_notification("news", number)))
        calls = stack.enter_context(Pace(100, lambda number: sessions[number % 2].call("echo", number=number)))
        losses.count = 40
        wait_until(lambda: time.monotonic() - release.began >= STEADY_S)

        def agreeing() -> list[dict[str, Any]] | None:
            """A machine that stands still for a moment changes the rates between one look and the next."""
            known = calls.per_s(10), events.per_s(10)
            both = [shell.json("broker", "status"), json.loads(shell.run("top", "--once", "--json").stdout)["item"]]
            differing = [disagreements(report, *known, names, [session.sid for session in sessions]) for report in both]
            print(differing)
            return None if any(differing) else both

        reports = wait_until(agreeing, 150, "reports that agree with the load")
        assert reports is not None
        calls.stop()
        events.stop()
        release.set()
        wait_until(lambda: subscription.missed > 0)
        expected = wait_until(lambda: gaps_told(caller, stuck, loser, subscription))

        for report in reports:
            assert endpoint_of(report, names[2])["calls_served_per_s"] < 1
            assert report["sessions"] == 2 and report["events"]["subscribers"] == 2
        final = shell.json("broker", "status")
        totals = [endpoint_of(final, name)["calls_served"] for name in names]
        own = [endpoint_of(reports[0], name)["calls_served"] for name in names]
        assert all(later >= earlier for earlier, later in zip(own, totals, strict=True))
        assert calls.total <= sum(totals) <= calls.total + 50  # and sessions opened, and replays
        assert (endpoint_of(final, stuck.name)["missed"], endpoint_of(final, loser.name)["replayed"]) == expected
        assert expected[0] == subscription.missed and expected[1] >= 40
        latencies = [endpoint_of(final, name)["latency_s"] for name in names]
        assert all(latency is not None and 0 < latency < 30 for latency in latencies)


class Released:
    """An event that is set at the end, so that nothing waits for ever."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.began = time.monotonic()

    def __enter__(self) -> Released:
        return self

    def __exit__(self, *_: object) -> None:
        self._event.set()

    def wait(self) -> None:
        self._event.wait(200)

    def set(self) -> None:
        self._event.set()


def gaps_told(caller: Client, stuck: Client, loser: Client, subscription: Any) -> tuple[int, int] | None:
    """The subscribers' own counts (missed, replayed), once the broker has been told of all of them."""
    listener: Any = loser._link.ear.listener
    own = subscription.missed, listener.subscriber.replayed
    report = caller.broker_status()
    told = endpoint_of(report, stuck.name)["missed"], endpoint_of(report, loser.name)["replayed"]
    return own if own == told else None


@pytest.fixture
def patient_lab() -> Iterator[Lab]:
    """Whose broker has an endpoint as suspect for long enough to be seen by whoever stands still meanwhile."""
    with running_lab("--interval", "closed_lost_s=10") as made:
        yield made


def test_a_killed_endpoint_is_suspect_then_lost_and_then_back(patient_lab: Lab) -> None:
    lab, shell = patient_lab, Shell(patient_lab.environment)
    lab.stack.enter_context(shell.stack)
    lab.start_endpoint("hpc1")
    child = lab.start_endpoint("hpc2")
    watching = shell.start("top", "--jsonl", "--interval", "0.2s")
    assert watching.stdout is not None

    def state() -> str:
        assert watching.stdout is not None
        item: dict[str, Any] = {"unreachable": ""}
        while "unreachable" in item:  # for a moment
            item = json.loads(watching.stdout.readline())["item"]
        if any(gone["name"] == "hpc2" for gone in item["lost_endpoints"]):
            return "lost"
        return str(endpoint_of(item, "hpc2")["state"])

    wait_until(lambda: state() == "present")
    os.kill(child.pid, signal.SIGKILL)
    seen = ["present"]
    while seen[-1] != "lost":
        if (now := state()) != seen[-1]:
            seen.append(now)
    assert seen == ["present", "suspect", "lost"]
    (lost,) = shell.json("broker", "status")["lost_endpoints"]
    assert (lost["name"], lost["cause"]) == ("hpc2", "silence")
    lab.start_endpoint("hpc2")
    wait_until(lambda: state() == "present")


def test_piped_it_is_one_json_object_a_line_and_the_model_of_the_status(shell: Shell) -> None:
    done = shell.run("top", "--once")
    said = json.loads(done.stdout)

    assert done.stdout.count("\n") == 1
    assert (said["schema"], said["version"]) == ("orbit.top", STATUS_SCHEMA_VERSION)
    assert set(said["item"]) == set(BrokerStatus.model_fields) == set(shell.json("broker", "status"))


def test_the_first_report_is_waited_for_longer_than_those_of_a_screen(lab: Lab) -> None:
    assert lab.broker is not None
    client = lab.client()
    client.connect()
    os.kill(lab.broker.pid, signal.SIGSTOP)
    goes_on = threading.Timer(1.5 * ANSWER_S, os.kill, (lab.broker.pid, signal.SIGCONT))
    goes_on.start()
    assert Watch(client).fresh().pid == lab.broker.pid
    goes_on.join()


def test_a_filter_leaves_out_what_was_not_asked_for(lab: Lab, shell: Shell) -> None:
    lab.start_endpoint("hpc1")
    lab.start_endpoint("cloud")
    item = json.loads(shell.run("top", "--once", "--filter", "hpc*").stdout)["item"]

    assert [peer["name"] for peer in item["participants"]] == ["hpc1"]


@pytest.mark.parametrize("keys", ["q", "\x03"])
def test_on_a_terminal_it_is_a_screen_until_q_or_ctrl_c_and_leaves_the_terminal_sane(lab: Lab, shell: Shell, keys: str) -> None:
    lab.start_endpoint("hpc1")
    with terminal(lab.environment, "top", "--interval", "0.2s") as screen:
        shown = screen.wait_for("q quit")
        assert "hpc1" in shown and "\x1b[?1049h" in shown
        screen.press("s")
        screen.wait_for("sort: state")
        screen.press("r" + keys)
        assert screen.wait() == 0
        assert screen.is_sane()


def test_a_signal_leaves_the_terminal_sane_too(lab: Lab) -> None:
    with terminal(lab.environment, "top") as screen:
        screen.wait_for("q quit")
        screen.process.send_signal(signal.SIGTERM)
        screen.wait()
        assert screen.is_sane()


def test_it_survives_a_restart_of_the_broker_and_says_since_when_there_is_none(lab: Lab) -> None:
    with terminal(lab.environment, "top", "--interval", "0.2s") as screen:
        screen.wait_for("q quit")
        assert lab.broker is not None
        os.kill(lab.broker.pid, signal.SIGKILL)
        lab.broker.end()
        screen.wait_for("unreachable since ")
        lab.start_broker()
        wait_until(lambda: "drops" in (drawn := screen.read(0.3)) and "unreachable" not in drawn)
        screen.press("q")
        assert screen.wait() == 0 and screen.is_sane()


def test_once_on_a_terminal_it_prints_and_ends(lab: Lab) -> None:
    lab.start_endpoint("hpc1")
    with terminal(lab.environment, "top", "--once") as screen:
        assert screen.wait() == 0
        assert "hpc1" in screen.seen and "\x1b[?1049h" not in screen.seen


def test_without_a_broker_it_ends_with_exit_code_3(shell: Shell, lab: Lab) -> None:
    assert lab.broker is not None
    lab.broker.end()
    done = shell.run("top")

    assert done.returncode == 3 and done.stderr.count("\n") == 1
