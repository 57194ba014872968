"""The provider alone, without an endpoint: the documented shape, real figures, and many who ask at once."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from lab import wait_until

from orbit_sysinfo import provider as provider_module
from orbit_sysinfo.provider import SysInfoProvider
from orbit_zmq.errors import DeadlineExceeded
from orbit_zmq.wire.body import pack_body, unpack_body

SHAPE = {
    "system": ["hostname", "user", "uptime", "kernel", "arch"],
    "cpu": ["model", "vendor", "cores_physical", "cores_logical", "percent", "load_avg", "freq_mhz"],
    "memory": ["total", "available", "percent", "used"],
}
INTERFACE = ["interface", "ip", "mac", "rx_bytes", "tx_bytes", "speed_mbps"]


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return SysInfoProvider().get_metrics()


def test_the_metrics_have_the_documented_shape(metrics):
    assert list(metrics) == ["system", "cpu", "memory", "disks", "network", "gpus"]
    assert {name: list(metrics[name]) for name in SHAPE} == SHAPE
    assert all(list(entry) == INTERFACE for entry in metrics["network"])


def test_the_metrics_travel_as_they_are(metrics):
    assert unpack_body(*pack_body(metrics)) == metrics
    assert json.loads(json.dumps(metrics)) == metrics


def test_the_figures_are_this_machines(metrics):
    assert metrics["system"]["hostname"] == socket.gethostname()
    assert metrics["system"]["kernel"].startswith("Linux ")
    assert metrics["system"]["uptime"] == pytest.approx(float(Path("/proc/uptime").read_text().split()[0]), abs=60)
    assert metrics["cpu"]["cores_logical"] >= 1 and len(metrics["cpu"]["load_avg"]) == 3
    assert 0 < metrics["memory"]["used"] < metrics["memory"]["total"]
    assert "lo" not in {entry["interface"] for entry in metrics["network"]}


def test_the_first_cpu_percentage_is_real():
    stop = threading.Event()

    def burn() -> None:
        while not stop.is_set():
            pass

    burner = threading.Thread(target=burn)
    burner.start()
    try:
        assert SysInfoProvider().get_metrics()["cpu"]["percent"] > 0
    finally:
        stop.set()
        burner.join()


def test_what_the_kernel_says_of_the_processor_is_taken(tmp_path):
    (tmp_path / "cpuinfo").write_text(
        "processor : 0\nvendor_id : X\nmodel name : First\n\nprocessor : 1\nmodel name : Second\n"
    )

    cpu = SysInfoProvider(proc=tmp_path).get_metrics()["cpu"]
    assert (cpu["model"], cpu["vendor"]) == ("First", "X")


def test_a_processor_without_a_name_is_called_by_its_architecture(tmp_path):
    metrics = SysInfoProvider(proc=tmp_path).get_metrics()

    assert metrics["cpu"]["model"] == metrics["cpu"]["vendor"] == metrics["system"]["arch"]


class Slow(SysInfoProvider):
    """Measures only when it may, and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.began, self.may_end = threading.Event(), threading.Event()

    def _measure(self) -> dict[str, Any]:
        self.count += 1
        self.began.set()
        assert self.may_end.wait(60)
        return {"count": self.count}


class Turn:
    """A lock that counts who has asked for it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.release = self._lock.release
        self.asked = 0

    def acquire(self, timeout: float) -> bool:
        self.asked += 1
        return self._lock.acquire(timeout=timeout)


def test_many_who_ask_at_once_share_a_measurement_that_began_after_they_asked():
    slow, turn = Slow(), Turn()
    slow._turn = turn  # type: ignore[assignment]
    answers: list[int] = []
    asking = [threading.Thread(target=lambda: answers.append(slow.get_metrics()["count"])) for _ in range(10)]
    asking[0].start()
    assert slow.began.wait(60)
    for thread in asking[1:]:
        thread.start()
    wait_until(lambda: turn.asked == 10)
    slow.may_end.set()
    for thread in asking:
        thread.join(60)

    assert sorted(answers) == [1, *[2] * 9]


def test_who_waits_too_long_for_a_turn_is_told(monkeypatch):
    monkeypatch.setattr(provider_module, "TURN_S", 0.1)
    slow = Slow()
    first = threading.Thread(target=slow.get_metrics)
    first.start()
    assert slow.began.wait(60)
    with pytest.raises(DeadlineExceeded, match="was not measured"):
        slow.get_metrics()
    slow.may_end.set()
    first.join(60)


def test_the_prefetch_does_not_hold_up_its_caller(monkeypatch):
    may_end, done = threading.Event(), threading.Event()
    provider = SysInfoProvider()

    def find() -> list[Any]:
        assert may_end.wait(100)
        done.set()
        return []

    monkeypatch.setattr(provider._gpus, "find", find)
    began = time.monotonic()
    provider.start_prefetch()

    assert time.monotonic() - began < 60
    assert not done.is_set()
    may_end.set()
    assert done.wait(60)
