"""What commands read from the command line: durations, sizes, and names that may be shortened.

A name is found by itself, or by its beginning where only one has it. Nothing here talks to a broker.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from typing import Any

import click

from orbit_zmq.errors import InvalidArgument, NotFound
from orbit_zmq.units import parse_duration, parse_size

LISTED = 8  # names in one error
ENDPOINTS = ("endpoint", "worker")


class HumanType(click.ParamType):  # type: ignore[type-arg]  # newer releases of click make it generic
    """A click type for something that people write with units."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds or bytes; a usage error that shows how to write it."""
        if isinstance(value, (int, float)):
            return value
        try:
            return self._parse(value)
        except InvalidArgument as error:
            self.fail(str(error), param, ctx)


DURATION = HumanType("duration", parse_duration)  # seconds, a float
SIZE = HumanType("size", parse_size)  # bytes, an int


def one_of(what: str, wanted: str, names: Collection[str]) -> str:
    """The one of `names` that `wanted` is, or begins. NotFound, InvalidArgument where several begin so; `what` is for both."""
    if wanted in names:
        return wanted
    found = shortened_to(wanted, names, of_endpoints=what in ENDPOINTS)
    if len(found) == 1:
        return found[0]
    if found:
        raise InvalidArgument(f"Several {what}s begin with {wanted!r}: {listed(found)}.", hint="Write more of the name.")
    near = difflib.get_close_matches(wanted, names, n=1)
    known = f"There is: {listed(sorted(names))}." if names else f"There are no {what}s."
    hint = f"Did you mean {near[0]}?" if near else known
    raise NotFound(f"There is no {what} {wanted!r}.", hint=hint)


def shortened_to(wanted: str, names: Collection[str], *, of_endpoints: bool) -> list[str]:
    """The names that begin so, sorted. `hpc1` is an endpoint's whole name and no beginning of its worker `hpc1.3f9a2c`: who
    means an endpoint that is away must not be given another."""
    return sorted(name for name in names if name.startswith(wanted) and not (of_endpoints and name.startswith(f"{wanted}.")))


def several_of(what: str, selectors: Collection[str], names: Collection[str]) -> list[str]:
    """Those that the selectors mean, in the order of `names`: `all`, a pattern with * or ?, a name or its beginning; commas
    join several. A pattern may mean none; errors are those of `one_of`.
    """
    found: set[str] = set()
    for selector in (part for given in selectors for part in given.split(",") if part):
        if selector == "all" and "all" not in names:
            found.update(names)
        elif any(sign in selector for sign in "*?["):
            found.update(name for name in names if fnmatchcase(name, selector))
        else:
            found.add(one_of(what, selector, names))
    return [name for name in names if name in found]


def listed(names: list[str]) -> str:
    """A few names for a sentence."""
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest
