"""Whatever a scheduler prints is a result or a typed error, nothing else: every recorded output, changed ten thousand times."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from orbit_queue_info.models import Job, Queue, shown
from orbit_queue_info.slurm import with_nodes, with_place
from orbit_queue_info.slurm_text import places
from orbit_zmq.errors import OrbitError
from tests.unit.queue_info.recorded_outputs import PLACE, READERS, text

MUTATIONS = 10_000
OTHER: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 70,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "UNLIMITED",
    "gpu:a:9",
    [],
    [None],
    {},
    {"set": 1},
)
SPICE = (
    "\x00",
    "\x1f",
    "\x1e",
    "\n",
    "\t",
    "=",
    "[",
    "]",
    "{",
    '"',
    "9" * 30,
    "é",
    "\ud800",
    " = ",
    "Job Id: ",
    "None",
    "-",
    ":",
    ",",
)


def test_there_is_a_reader_for_everything_that_was_recorded() -> None:
    files = {str(path.relative_to(PLACE)) for path in PLACE.rglob("*") if path.is_file()}

    assert files == {*READERS, "README.md"}


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_was_recorded_is_read(name: str) -> None:
    read = READERS[name](text(name))

    assert read or "25.05/squeue" in name


@pytest.mark.parametrize("name", sorted(READERS))
def test_what_was_recorded_and_then_changed_is_a_result_or_a_typed_error(name: str) -> None:
    original, reader, dice = text(name), READERS[name], random.Random(name)
    mutate: Callable[[str, random.Random], str] = _in_value if name.endswith(".json") else _in_text
    errors = 0
    for number in range(MUTATIONS // len(READERS) + 1):
        changed = _in_text(original, dice) if number % 3 == 0 else mutate(original, dice)
        try:
            _use(reader(changed))
        except OrbitError:
            errors += 1
    assert errors < MUTATIONS


def _use(read: Any) -> None:
    """What is done with it before it travels."""
    for record in read if isinstance(read, list) else ():
        if isinstance(record, Job):
            with_place(record, {})
        elif hasattr(record, "partitions"):
            with_nodes(Queue(name="q"), [record])
            continue
        json.dumps(shown(record), allow_nan=False)


def _in_text(original: str, dice: random.Random) -> str:
    """A few signs taken out, put in, or cut off."""
    changed = original
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(len(changed) + 1)
        kind = dice.random()
        if kind < 0.1:
            changed = changed[:place]
        elif kind < 0.4:
            changed = changed[:place] + changed[place + dice.randint(1, 30) :]
        elif kind < 0.7:
            changed = changed[:place] + dice.choice(SPICE) + changed[place:]
        else:
            other = dice.randrange(len(changed) + 1)
            changed = changed[:place] + changed[other : other + dice.randint(1, 60)] + changed[place:]
    return changed


def _in_value(original: str, dice: random.Random) -> str:
    """A few values of another kind, or none at all."""
    value = json.loads(original)
    for _ in range(dice.randint(1, 4)):
        holder, key = value, None
        for _ in range(dice.randint(1, 7)):
            below = holder if key is None else holder[key]
            if not isinstance(below, (dict, list)) or not below:
                break
            holder, key = below, dice.choice(list(below)) if isinstance(below, dict) else dice.randrange(len(below))
        if key is not None:
            holder[key] = copy.deepcopy(dice.choice(OTHER))
    return json.dumps(value)


def test_a_place_is_found_in_any_text() -> None:
    dice = random.Random(1)
    for _ in range(300):
        places("".join(dice.choice((*SPICE, "1\x1fdebug\x1f10\x1e\n", "12")) for _ in range(20)))
