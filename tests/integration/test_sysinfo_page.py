"""docs/sysinfo.md: its examples run as they stand, and it names every key that the operations answer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from orbit_sysinfo.gpus import Gpu, GpuUse, shown
from orbit_sysinfo.provider import SysInfoProvider
from orbit_sysinfo.service import SysInfoPlugin

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sysinfo.md").read_text()


def test_the_examples_run_as_they_stand(tmp_path: Path) -> None:
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        (tmp_path / "example.py").write_text(example)
        done = subprocess.run(
            [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
        )
        assert done.returncode == 0 and done.stdout, done.stderr


def test_every_key_is_named() -> None:
    metrics = SysInfoProvider().get_metrics() | {"gpus": [shown(Gpu("0", 0, "", "", "", ""), GpuUse())]}
    for part, facts in metrics.items():
        (row,) = re.findall(rf"^\| `{part}`.*$", PAGE, re.MULTILINE)
        for entry in facts if isinstance(facts, list) else [facts]:
            assert set(entry) <= set(re.findall(r"`(\w+)`", row)), part


def test_every_operation_of_its_own_is_named() -> None:
    own = SysInfoPlugin.operations.keys() & {"homedir", "host_role", "metrics"}

    assert set(re.findall(r"^\| `(\w+)` \| (?:no|yes) \|", PAGE, re.MULTILINE)) == own
