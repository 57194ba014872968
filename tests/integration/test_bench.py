"""Every measure of scripts/bench, and `orbit bench`, runs to its end, prints a table, and says the same in JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lab import Lab, within

PATIENCE_S = 280.0  # on a machine that is busy with something else
pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "call": ["--calls", "5"],
    "task": ["--calls", "5"],
    "events": ["--events", "20", "--listeners", "2"],
    "flood": ["--calls", "5"],
    "route": ["--calls", "500"],
    "rest": ["--calls", "5"],
    "execute": ["--tasks", "5"],
    "stream": ["--case", "dicts", "--tasks", "20", "--sweep", "1", "--sweep-pairs", "1", "--many", "100"],
    "scale": ["--endpoints", "20", "--clients", "8", "--calls", "100", "--subscribers", "12", "--seconds", "0.5"],
}
IN_A_REPORT = {"machine", "versions", "began", "took_s", "load_before", "load_after", "rows", "notes", "met"}
IN_A_ROW = {"what", "unit", "ours", "base", "beside", "ratio", "at_least", "at_most", "met", "pairs", "spread", "disturbed"}


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A measure of scripts/bench, by this Python."""
    helpers = str(ROOT / "tests" / "helpers")
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "_bench.py"), *words],
        env={**os.environ, "PYTHONPATH": helpers, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def report_of(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """What a measure said in JSON; a bound may be missed on a busy machine."""
    assert done.returncode in (0, 1) and done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.keys() >= IN_A_REPORT
    assert all(row.keys() == IN_A_ROW for row in found["rows"])
    return found


@pytest.mark.parametrize("measure", [pytest.param(name, marks=[pytest.mark.long] if name == "flood" else []) for name in TINY])
def test_a_measure_runs_to_its_end_and_says_what_it_has_found_in_json(measure: str) -> None:
    found = report_of(bench(measure, "--pairs", "2", "--json", *TINY[measure]))

    assert found["measure"] == measure and found["rows"]
    assert found["machine"]["cpus"] == os.cpu_count() and "pyzmq" in found["versions"]
    assert all(row["ours"] >= 0 for row in found["rows"])
    if measure == "scale":
        heard, missed, lost = (row["ours"] for row in found["rows"][2:])
        assert lost == 0 and heard + missed == 12 * 50


def test_a_measure_prints_a_table_with_ratios_bounds_and_the_machine() -> None:
    done = bench("call", "--pairs", "2", *TINY["call"])

    head, *rows = done.stdout.splitlines()
    assert head.split() == ["what", "here", "beside", "ratio", "(quartiles)", "bound"], done.stderr
    assert rows[0].startswith("call, p50") and "bare echo" in rows[0] and "at most 2" in rows[0]
    assert "pyzmq" in rows[-1] and f"{os.cpu_count()} x" in rows[-1]


def test_a_peer_that_cannot_be_installed_is_a_line_with_the_reason(tmp_path: Path) -> None:
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/", "PIP_RETRIES": "0", "PIP_NO_INDEX": "1", "XDG_CACHE_HOME": str(tmp_path)}

    done = bench("peers", "--peer", "parsl", "--pairs", "2", **nowhere)

    assert done.returncode == 0 and "parsl cannot be installed: " in done.stdout, done.stderr


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_product_runs_beside_all_peers() -> None:
    helpers = str(ROOT / "tests" / "helpers")
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "_bench.py"), "peers", "--pairs", "2", "--tasks", "20", "--json"],
        env={**os.environ, "PYTHONPATH": helpers},
        capture_output=True,
        text=True,
        timeout=850,
        check=False,
    )

    found = report_of(done)
    assert {row["beside"].partition(",")[0] for row in found["rows"]} == {
        "radical.orbit",
        "distributed",
        "parsl",
        "ipyparallel",
    }


@pytest.mark.long
def test_what_orbit_top_takes_is_measured() -> None:
    found = report_of(bench("top", "--endpoints", "30", "--seconds", "1", "--json"))

    assert [row["what"] for row in found["rows"]] == ["orbit top", "the broker meanwhile"] * 2


def test_the_page_on_performance_names_commands_that_there_are() -> None:
    page = (ROOT / "docs" / "performance.md").read_text()
    commands = re.findall(r"`scripts/bench ([a-z][^`]*)`", page)

    assert {command.split()[0] for command in commands} == {*TINY, "peers", "top", "queue"}
    for measure, option in (command.split()[:2] for command in commands if "--" in command):
        assert f"{option} " in bench(measure, "--help").stdout


def test_bench_without_a_measure_says_which_there_are() -> None:
    done = bench()

    assert done.returncode == 0
    assert all(f"  {measure} " in done.stdout for measure in (*TINY, "peers", "top", "queue"))
    assert bench("nothing").returncode == 2


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A deployment as a user has it, with an endpoint that runs tasks and one that does not."""
    place = tmp_path_factory.mktemp("bench")
    made = Lab(place)
    with within(place):
        try:
            made.start_broker()
            made.start_endpoint("hpc1", plugins="rhapsody")
            made.start_endpoint("login", plugins="math")
            yield made
        finally:
            made.close()


def orbit_bench(lab: Lab, *words: str) -> str:
    command = [sys.executable, "-m", "orbit_zmq.cli", "bench", "--pairs", "2", "--calls", "5", "--tasks", "20", *words]
    done = subprocess.run(command, env=lab.environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_users_own_deployment_is_measured_and_nothing_is_left_behind(lab: Lab) -> None:
    said = json.loads(orbit_bench(lab, "--json"))

    item = said["item"]
    assert said["schema"] == "orbit.bench" and item["endpoint"] == "hpc1"
    assert [row["what"] for row in item["rows"]] == [
        "call, p50",
        "task, p50",
        "20 tasks at once",
        "task to the event of its end, p50",
    ]
    assert item["rows"][0]["beside"] == "the broker alone"
    assert [note.partition(":")[0] for note in item["notes"]] == ["Before", "Afterwards"]
    listed = [sys.executable, "-m", "orbit_zmq.cli", "session", "list", "--json"]
    left = subprocess.run(listed, env=lab.environment, capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(left.stdout)["items"] == []


def test_what_cannot_be_measured_at_an_endpoint_is_said(lab: Lab) -> None:
    item = json.loads(orbit_bench(lab, "--endpoint", "login", "--json"))["item"]

    assert [row["what"] for row in item["rows"]] == ["call, p50"]
    assert {f"{name}: login has no plugin rhapsody." for name in ("task", "stream", "events")} < set(item["notes"])


def test_the_results_are_a_table_for_people(lab: Lab) -> None:
    table = orbit_bench(lab, "call", "task")

    assert "call, p50" in table and "task, p50" in table and "cpus" in table
