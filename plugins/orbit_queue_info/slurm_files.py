"""Where a job of Slurm writes its output: the name that was given, or Slurm's own, its patterns filled in as sbatch does.

Names alone: nothing here looks for a file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

PATTERN = re.compile(r"%(\d*)([%AajJNnstux])")
OWN_NAME, OWN_NAME_OF_MEMBER = "slurm-%j.out", "slurm-%A_%a.out"
MOST_DIGITS = 10  # as many as Slurm pads to


def output_file(given: str | None, work_dir: str | None, known: Mapping[str, str | None]) -> str | None:
    """The file of a batch job. `known` is what the letters of a pattern stand for; one that stands for nothing yet is left.

    A member of an array knows its `a`. None where nothing was given and the directory is not known.
    """
    name = given or (OWN_NAME_OF_MEMBER if "a" in known else OWN_NAME)
    if not name.startswith("/"):
        if not work_dir:
            return given
        name = f"{work_dir.rstrip('/')}/{name}"
    return name if "\\" in name else PATTERN.sub(lambda found: _filled(found, known), name)  # which keeps patterns as they are


def _filled(found: re.Match[str], known: Mapping[str, str | None]) -> str:
    width, letter = found.groups()
    value = "%" if letter == "%" else known.get(letter)
    if value is None:
        return found[0]
    return value.zfill(min(int(width[:3]), MOST_DIGITS)) if width and value.isdigit() else value
