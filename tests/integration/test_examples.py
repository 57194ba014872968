"""The examples in docs/examples run as they stand, with an endpoint by name and with whichever there is."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from lab import running_lab
from nbclient import NotebookClient

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
ELSEWHERE = {"asyncflow.py"}  # test_rhapsody_asyncflow.py runs it


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    with running_lab() as lab:
        lab.start_endpoint("hpc1", plugins="rhapsody")
        yield {**lab.environment, "ORBIT_URL": lab.url}


def run(example: str, environment: dict[str, str], place: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / example), *arguments]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=250, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("arguments", [[], ["hpc1"]], ids=["anywhere", "by name"])
def test_the_drop_in(environment: dict[str, str], tmp_path: Path, arguments: list[str]) -> None:
    primes, powers = run("executor_drop_in.py", environment, tmp_path, *arguments).splitlines()

    assert primes == "3 primes: 112272535095233, 112272535095239, 112272535095293"
    assert powers == "5 powers"


def test_the_parameter_sweep(environment: dict[str, str], tmp_path: Path) -> None:
    printed = run("parameter_sweep.py", environment, tmp_path)

    assert printed.startswith("12 runs, 3 failed; the best has (3.5, ")
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert sorted(row[3] for row in rows) == ["DONE"] * 9 + ["FAILED"] * 3


def test_the_notebook(environment: dict[str, str], tmp_path: Path) -> None:
    notebook: Any = nbformat.read(EXAMPLES / "notebook.ipynb", as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)  # it is checked in without them
    client = NotebookClient(
        notebook, timeout=250, startup_timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    places = {"IPYTHONDIR": str(tmp_path / "ipython"), "JUPYTER_RUNTIME_DIR": str(tmp_path / "jupyter")}
    client.execute(env={**environment, **places})
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    texts = [output["data"]["text/plain"] for output in shown if output.output_type == "execute_result"]

    assert texts[-2:] == ["3.14", "'run 19'"]
    assert [output["text"] for output in shown if output.output_type == "stream" and output["name"] == "stdout"] == [
        "True True\n"
    ]


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.iterdir() if path.is_file()} == {
        "executor_drop_in.py",
        "parameter_sweep.py",
        "notebook.ipynb",
        *ELSEWHERE,
    }
