"""Which batch jobs somebody means: by id, by its beginning, by a pattern, by the id in the batch system, or `last`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orbit_zmq.cli.job_output import row_of
from orbit_zmq.cli.places import Item, listed, places_of, selected

if TYPE_CHECKING:
    from orbit_zmq import Client

PLUGIN = "jobs"
MOST = 10_000  # of one endpoint
JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # anything else is a pattern
NEWEST = "last"


def jobs_of(client: Client, endpoint: str | None, plugin: str, selectors: Sequence[str], wanted: Item) -> list[Item]:
    """The jobs that are meant, the newest first. Those that are named by their whole ids are asked for alone."""
    from orbit_zmq.errors import InvalidArgument, NotFound

    places = places_of(client, endpoint, plugin, PLUGIN)

    def ask(arguments: Item) -> list[Item]:
        return [row_of(one, one["endpoint"], one["plugin"]) for one in listed(client, places, "list", "jobs", arguments, None)]

    words = [word for given in selectors for word in given.split(",") if word]
    if selectors and not words:  # a variable of a shell that is not set
        raise InvalidArgument("An empty text means no job.", hint="Write its id, or `all`.")
    found = ask({**wanted, "job_ids": words}) if words and all(map(JOB_ID.fullmatch, words)) else []
    if not words or {one["job_id"] for one in found} < set(words):
        everything = ask(wanted if not words else {**wanted, "limit": MOST})
        ours = {one["native_id"]: one["job_id"] for one in everything if one["native_id"]}
        if everything:
            ours[NEWEST] = max(everything, key=_submitted_at)["job_id"]
        elif words == [NEWEST]:
            raise NotFound("There is no last job.", hint="Submit one: orbit job submit -- hostname")
        found = selected("job", [ours.get(word, word) for word in words], everything, "job_id")
    return sorted(found, key=_submitted_at, reverse=True)


def _submitted_at(one: Item) -> str:
    return str(one["submitted_at"])


def one_job(client: Client, endpoint: str | None, plugin: str, selector: str) -> Item:
    """The job that is meant; InvalidArgument where it is none, or several."""
    from orbit_zmq.errors import InvalidArgument

    chosen = jobs_of(client, endpoint, plugin, [selector], {"limit": MOST})
    if len(chosen) != 1:
        names = ", ".join(f"{one['job_id']} at {one['endpoint']}" for one in chosen) or "none"
        raise InvalidArgument(f"One job is meant here, and {selector!r} means {names}.", hint="Write more of its id.")
    return chosen[0]


def is_named(one: Item, selectors: Sequence[str]) -> bool:
    """Whether the job was asked for itself, and not by a pattern or `all`."""
    words = {word for given in selectors for word in given.split(",")}
    if words == {NEWEST}:
        return True
    return any(str(one.get(key)).startswith(word) for key in ("job_id", "native_id") for word in words - {"all", ""})
