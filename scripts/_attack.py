"""Attacks a broker of its own: floods of strangers, then attempts to get in, to pass for another, and to reach further.

Each kind is one line: how many attempts, what reached an endpoint, what leaked to a stranger, and whether a good call works
right after. The exit code is 1 where something came through.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from attacks import ATTACKS, attack, connect_and_close, scene, shake_hands_and_stay, stay_silent

ROUND_S = 0.05  # the longest round of the broker's loop that a flood may cause
REAPED_S = 5.0
FLOODS = {
    "connect-and-close": (connect_and_close, 2_000),
    "silent": (stay_silent, 1_000),
    "no-hello": (shake_hands_and_stay, 500),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=1_000, help="of each kind (1000)")
    parser.add_argument("--only", choices=sorted((*ATTACKS, *FLOODS)), help="one kind")
    options = parser.parse_args()
    held = True
    for name, (flood, count) in FLOODS.items():
        if options.only in (None, name):
            with tempfile.TemporaryDirectory(prefix="orbit-attack-") as place, scene(Path(place)) as made:
                found = flood(made, count)
            is_met = not found.calls_failed and found.longest_round_s < ROUND_S and found.left_after_s < REAPED_S
            held &= is_met
            say({"flood": name, **dataclasses.asdict(found), "met": is_met})
    with tempfile.TemporaryDirectory(prefix="orbit-attack-") as place, scene(Path(place)) as made:
        for name in ATTACKS:
            if options.only in (None, name):
                outcome = attack(made, name, options.attempts)
                held &= outcome.is_held
                say({**dataclasses.asdict(outcome), "held": outcome.is_held})
    return 0 if held else 1


def say(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    sys.exit(main())
