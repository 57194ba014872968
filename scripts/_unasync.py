"""Writes the sync twin of every `_async` package: the same text without async, await, and the prefix Async.

Each twin is checked in, and `--check` compares it with what would be written. Nothing is edited in a twin by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import unasync

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "orbit_zmq/client",
    "plugins/orbit_jobs",
    "plugins/orbit_math",
    "plugins/orbit_psij",
    "plugins/orbit_queue_info",
    "plugins/orbit_rhapsody",
    "plugins/orbit_sysinfo",
)
NAMES = {"_async": "_sync", "aclose": "close"}  # beside what unasync itself renames
# In names that begin with async, and in the words of docstrings, which unasync leaves alone.
TEXT = (
    (re.compile(r"\b(?:Async|Sync)(?=[A-Z])"), ""),
    (re.compile(r"\basync_(?=[a-z])"), ""),
    (re.compile(r"\basync (?=with\b|for\b)"), ""),
    (re.compile(r"\b_async\b"), "_sync"),
)
HEADER = "# Made by scripts/unasync from {source}: change that file, not this one.\n"


def twins_of(package: Path, scratch: Path) -> dict[Path, str]:
    """The text of each twin by its path; written to `scratch` and formatted there."""
    sources = sorted((package / "_async").glob("*.py"))
    target = scratch / package.relative_to(ROOT) / "_sync"
    rule = unasync.Rule(str(package / "_async"), str(target), additional_replacements=NAMES)
    unasync.unasync_files([str(source) for source in sources], [rule])
    for source in sources:
        file = target / source.name
        body = file.read_text()
        for pattern, replacement in TEXT:
            body = pattern.sub(replacement, body)
        file.write_text(HEADER.format(source=source.relative_to(ROOT)) + body)
    if sources:
        configuration = ["--config", str(ROOT / "pyproject.toml"), "--quiet"]
        subprocess.run(["ruff", "check", "--fix", "--select", "I,F401,F811", *configuration, str(target)], check=False)
        subprocess.run(["ruff", "format", *configuration, str(target)], check=True)
    return {package / "_sync" / source.name: (target / source.name).read_text() for source in sources}


def main() -> int:
    only_check = "--check" in sys.argv[1:]
    stale: list[Path] = []
    with tempfile.TemporaryDirectory() as scratch:
        for package in PACKAGES:
            twins = twins_of(ROOT / package, Path(scratch))
            extra = set((ROOT / package / "_sync").glob("*.py")) - set(twins)
            stale += sorted(extra)
            for path, text in twins.items():
                if path.exists() and path.read_text() == text:
                    continue
                stale.append(path)
                if not only_check:
                    path.parent.mkdir(exist_ok=True)
                    path.write_text(text)
            if not only_check:
                for path in extra:
                    path.unlink()
    for path in stale:
        print(f"{path.relative_to(ROOT)}: {'differs from its async source' if only_check else 'written'}")
    if only_check and stale:
        print("Run scripts/unasync and keep what it writes.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
