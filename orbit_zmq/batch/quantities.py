"""How schedulers write durations, sizes and lists of hosts: text in, seconds, bytes and names out.

What cannot be read is None, never an exception: a scheduler prints what it likes. Nothing here runs a command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal

Limit = int | Literal["unlimited"] | None  # None: not known

UNLIMITED: Literal["unlimited"] = "unlimited"
ENDLESS = ("UNLIMITED", "INFINITE")
FACTORS = {"": 1, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, "E": 1 << 60}
MOST_HOSTS = 1_000_000
DURATION = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?(?:\.\d+)?")
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTPE]?)I?([BWNC]?)")
RANGE = re.compile(r"(\d{1,18})(?:-(\d{1,18}))?")


def seconds_of(text: str) -> Limit:
    """`D-HH:MM:SS`, `D-HH`, `HH:MM:SS`, `MM:SS`, `MM`, or a word for no limit, as Slurm writes them."""
    if text.upper() in ENDLESS:
        return UNLIMITED
    matched = DURATION.fullmatch(text)
    if matched is None or len(text) > 40:
        return None
    days, first, second, third = matched.groups()
    if days is not None:
        hours, minutes, seconds = int(first), int(second or 0), int(third or 0)
    elif third is not None:
        hours, minutes, seconds = int(first), int(second), int(third)
    else:
        hours, minutes, seconds = 0, int(first), int(second or 0)
    return int(days or 0) * 86_400 + hours * 3_600 + minutes * 60 + seconds


def clock_seconds_of(text: str) -> Limit:
    """`HH:MM:SS`, `MM:SS`, or plain seconds, as PBS writes them."""
    if re.fullmatch(r"\d{1,18}", text):
        return int(text)
    parts = text.split(":")
    if not 2 <= len(parts) <= 4 or not all(re.fullmatch(r"\d{1,12}", part) for part in parts):
        return UNLIMITED if text.upper() in ENDLESS else None
    total = 0
    for part in parts if len(parts) < 4 else (str(int(parts[0]) * 24 + int(parts[1])), *parts[2:]):
        total = total * 60 + int(part)
    return total


def bytes_of(text: str, unit: str = "") -> int | None:
    """`512000`, `4G`, `50mb`, `1.5T`; a bare number counts in `unit` (K, M, ...)."""
    matched = SIZE.fullmatch(text.strip().upper()) if len(text) <= 40 else None
    if matched is None:
        return None
    number, letter, _ = matched.groups()
    return int(float(number) * FACTORS[letter or unit])


def limit_of(text: str) -> Limit:
    """A whole number, or a word for none."""
    if text.upper() in ENDLESS:
        return UNLIMITED
    return int(text) if re.fullmatch(r"\d{1,18}", text) else None


def number_of(text: str) -> int | None:
    """A whole number, or None."""
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def gpus_of(gres: str) -> dict[str, int]:
    """GPUs by type in what Slurm calls GRES: `gpu:a100:4(S:0-1),gpu:2` is {"a100": 4, "gpu": 2}."""
    found: dict[str, int] = {}
    for part in re.sub(r"\([^)]*\)", "", gres).split(","):
        words = [word.strip() for word in re.split("[:=]", part.strip().removeprefix("gres:").removeprefix("gres/"))]
        if words[0] != "gpu":
            continue
        count = number_of(words[-1]) if len(words) > 1 else None
        kind = words[1] if len(words) > 2 or (len(words) == 2 and count is None) else "gpu"
        if (count if count is not None else 1) > 0 and kind:
            found[kind] = found.get(kind, 0) + (1 if count is None else count)
    return found


def expand_hosts(text: str) -> list[str]:
    """The names that `n[1-3,007],x1` stands for, in that order; at most a million."""
    found: list[str] = []
    for part in _split(text):
        for name in _expanded(part.strip()):
            if len(found) >= MOST_HOSTS:
                return found
            found.append(name)
    return found


def _split(text: str) -> Iterator[str]:
    """The parts between the commas that are not within brackets."""
    depth, begin = 0, 0
    for place, sign in enumerate(text):
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth <= 0:
            yield text[begin:place]
            begin = place + 1
    yield text[begin:]


def _expanded(part: str) -> Iterator[str]:
    """One part, its first bracket outermost. What is no range stands for itself."""
    before, bracket, rest = part.partition("[")
    ranges, closing, after = rest.partition("]")
    if not bracket or not closing:
        if part:
            yield part
        return
    tails = list(_expanded(after)) if after else [""]
    for one in ranges.split(","):
        for number in _numbers(one.strip()):
            for tail in tails:
                yield f"{before}{number}{tail}"


def _numbers(text: str) -> Iterator[str]:
    matched = RANGE.fullmatch(text)
    if matched is None:
        yield text
        return
    first, last = matched.groups()
    end = int(last) if last is not None else int(first)
    for number in range(int(first), min(end, int(first) + MOST_HOSTS) + 1):
        yield str(number).zfill(len(first))
