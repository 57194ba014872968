"""Durations and sizes as people write and read them: 1h30m, 15s, 01:30:00, 8MiB. Pure text; seconds and bytes on our side."""

from __future__ import annotations

import math
import re

from orbit_zmq.errors import InvalidArgument

SECONDS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
WORDS = {"day": "d", "days": "d", "hour": "h", "hours": "h", "min": "m", "mins": "m", "minute": "m", "minutes": "m"} | {
    "sec": "s", "secs": "s", "second": "s", "seconds": "s",
}  # fmt: skip
BYTES = {"": 1, "b": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
BYTES |= {f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)}
BYTES |= {f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)}

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]+)\s*")
_CLOCK = re.compile(r"(?:(\d+):)?(\d{1,2}):(\d{2}(?:\.\d+)?)")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse_duration(text: str) -> float:
    """Seconds of `90`, `1h30m`, `2 days 4 min`, `250ms`, `MM:SS` or `HH:MM:SS`; InvalidArgument for anything else."""
    wanted = text.strip().lower()
    if _NUMBER.fullmatch(wanted):
        return float(wanted)
    if clock := _CLOCK.fullmatch(wanted):
        hours, minutes, seconds = clock.groups(default="0")
        return int(hours) * 3_600 + int(minutes) * 60 + float(seconds)
    parts = _PART.findall(wanted)
    units = [WORDS.get(unit, unit) for _, unit in parts]
    if not parts or _PART.sub("", wanted) or not set(units) <= set(SECONDS):
        raise InvalidArgument(f"{text!r} is no duration.", hint="Write 90, 15s, 1h30m, 2d, 250ms or HH:MM:SS.")
    return math.fsum(float(number) * SECONDS[unit] for (number, _), unit in zip(parts, units, strict=True))


def duration_text(seconds: float) -> str:
    """The two largest units of a duration: 2d4h, 1h30m, 15s, 0.3s."""
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 0:
        return f"-{duration_text(-seconds)}"
    if seconds < 10:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left, found = round(seconds), []
    for unit in "dhms":
        count, left = divmod(left, int(SECONDS[unit]))
        found.append((count, unit))
    first = next(index for index, (count, _) in enumerate(found) if count)
    return "".join(f"{count}{unit}" for count, unit in found[first : first + 2] if count)


def parse_size(text: str) -> int:
    """Bytes of `4096`, `64k`, `8MiB` (powers of 1024) or `8MB` (of 1000); InvalidArgument for anything else."""
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or found[2] not in BYTES:
        raise InvalidArgument(f"{text!r} is no size.", hint="Write 4096, 64k, 8MiB, 1.5GiB or 8MB.")
    return round(float(found[1]) * BYTES[found[2]])


def size_text(size_bytes: float) -> str:
    """A size in the largest unit that leaves a number of at least 1: 512B, 64.0KiB, 1.5GiB."""
    if abs(size_bytes) < 1024:
        return f"{size_bytes:g}B"
    power = min(int(math.log(abs(size_bytes), 1024)), 4)
    return f"{size_bytes / 1024**power:.1f}{' KMGT'[power]}iB"
