"""On the path of a process whose wall clock is to jump: `time.time` is off by what the file ORBIT_CHAOS_CLOCK says."""

from __future__ import annotations

import os
import time

_now = time.time


def _jumped() -> float:
    try:
        with open(os.environ["ORBIT_CHAOS_CLOCK"], encoding="ascii") as file:
            return _now() + float(file.read() or 0)
    except (KeyError, OSError, ValueError):
        return _now()


time.time = _jumped
