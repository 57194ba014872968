"""The examples of the page about Rhapsody are one program, and run as it stands; its tables name what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from orbit_rhapsody import batches, codec, counters
from orbit_rhapsody.client import AsyncRhapsodyClient
from orbit_rhapsody.counters import STAGES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rhapsody.md"

PRINTED = [
    str(sum(n * n for n in range(1_000))),
    "[('mine', 'SUBMITTED'), ('by-name', 'SUBMITTED'), ('program', 'SUBMITTED'), ('nothing', 'FAILED')]",
    "a task needs either 'function' or 'executable', and not both (Or a 'prompt', for a backend that answers one.)",
    "5.0 10.0",
    "DONE 0 hello",
    "[5.0, 10.0]",
    "4950.0",
    "FAILED ValueError",
    "None True",
    "10000000",
    "['one', 'three', 'two']",
    "[2.0, True]",
    "3.0",
    str(sum(n * n for n in range(100))),
    "canceled",
    "not needed after all",
    "{'canceled': 0, 'requested': 0, 'unstoppable': 0}",
    "long",
    "True",
    "100 results to come",
    str(sum(n * n for n in range(100))),
]


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "example.py").write_text("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == PRINTED
    assert done.stderr == ""


def test_the_page_names_every_method_of_the_client_every_field_and_every_part_of_the_statistics() -> None:
    text = PAGE.read_text()
    own = {name for kind in AsyncRhapsodyClient.__mro__[:2] for name in vars(kind) if not name.startswith("_")}
    fields = set(codec._NOTHING) | set(batches._OPTIONS)
    for word in own - {"register_session"} | fields | set(STAGES) | counters.Counters().facts().keys() | set(codec.STATES):
        assert re.search(rf"\b{word}\b", text), word
