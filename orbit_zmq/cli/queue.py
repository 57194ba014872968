"""`orbit queue`: queues, jobs and allocations of the batch systems at all endpoints. It changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from orbit_zmq.cli.completion import endpoint_names, plugin_names
from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.output import Column, Output, Section, output_options, shown
from orbit_zmq.cli.parameters import DURATION, several_of
from orbit_zmq.cli.places import Item, listed, places_of, selected

if TYPE_CHECKING:
    from orbit_zmq import Client

Command = TypeVar("Command", bound=Callable[..., Any])

PLUGIN = "queue_info"
EVERYBODY = "*"
STATES = {"PENDING", "RUNNING", "DONE", "FAILED", "CANCELLED", "HELD", "UNKNOWN"}  # of jobs, for all batch systems
QUEUE_STATES = {"UP", "DOWN", "DRAIN", "INACTIVE", "UNKNOWN"}
ENDED = {"DONE", "FAILED", "CANCELLED"}


def _seconds(value: Any) -> str:
    return shown("_s", value)


def _bytes(value: Any) -> str:
    return shown("bytes", value)


def _moment(value: Any) -> str:
    try:
        return datetime.fromtimestamp(value).strftime("%Y-%m-%dT%H:%M")
    except (TypeError, OverflowError, ValueError, OSError):  # not known, or of an endpoint's odd clock
        return "-"


QUEUES = (
    Column("QUEUE", "name"),
    Column("ENDPOINT", "endpoint"),
    Column("STATE", "state"),
    Column("DEFAULT", "default", rank=6),
    Column("LIMIT", "time_limit", _seconds),
    Column("NODES", "nodes_total"),
    Column("USABLE", "nodes_available", rank=4),
    Column("IDLE", "nodes_idle"),
    Column("CPUS", "cpus_per_node"),
    Column("MEMORY", "mem_per_node_bytes", _bytes, rank=3),
    Column("GPUS", "gpu_types", rank=2),
    Column("FEATURES", "features", rank=8),
)
JOBS = (
    Column("JOB", "job_id"),
    Column("ARRAY", "array_id", rank=3),
    Column("NAME", "job_name"),
    Column("USER", "user", rank=1),
    Column("QUEUE", "partition"),
    Column("STATE", "state"),
    Column("REASON", "reason"),
    Column("NODES", "nodes", rank=4),
    Column("CPUS", "cpus", rank=8),
    Column("USED", "time_used", _seconds, rank=2),
    Column("LIMIT", "time_limit", _seconds, rank=6),
    Column("PLACE", "queue_position", rank=7),
    Column("ENDPOINT", "endpoint", rank=5),
)
FINISHED = (
    *(column for column in JOBS if column.key not in ("time_limit", "queue_position", "endpoint")),
    Column("EXIT", "exit_code"),
    Column("ENDED", "end_time", _moment),
    Column("ENDPOINT", "endpoint", rank=5),
)
ALLOCATIONS = (
    Column("ACCOUNT", "account"),
    Column("USER", "user"),
    Column("QUEUE", "partition"),
    Column("SHARE", "fairshare"),
    Column("QOS", "qos"),
    Column("JOBS", "max_jobs"),
    Column("LIMIT", "max_wall", _seconds),
    Column("NODE HOURS LEFT", "remaining_node_hours"),
    Column("ENDPOINT", "endpoint"),
)


class Asked(NamedTuple):
    """Whom a command asks, and how."""

    where: Where
    endpoint: str | None
    plugin: str
    user: str | None
    force: bool
    deadline_s: float | None


def asking_options(command: Command) -> Command:
    """Of whom, where, and how new; the command gets them as `asked`."""

    @wraps(command)
    def with_asked(
        *args: Any,
        where: Where,
        endpoint: str | None,
        plugin: str,
        user: str | None,
        force: bool,
        deadline_s: float | None,
        **values: Any,
    ) -> Any:
        return command(*args, asked=Asked(where, endpoint, plugin, user, force, deadline_s), **values)

    made: Any = with_asked
    for option in (
        click.option("--deadline", "deadline_s", type=DURATION, help="How long the batch systems may take; two minutes."),
        click.option("--force", is_flag=True, help="Ask the batch systems anew; nothing that was found before."),
        click.option("--plugin", metavar="NAME", default=PLUGIN, show_default=True, shell_complete=plugin_names,
                     help="Of this instance only, where an endpoint knows several clusters."),
        click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="Of this endpoint only."),
        click.option("--user", metavar="USER", help="Of this user; * for everybody. If left out, the endpoint's."),
    ):  # fmt: skip
        made = option(made)
    return broker_options(made)  # type: ignore[no-any-return]


def state_option(which: str) -> Callable[[Command], Command]:
    return click.option(
        "--state", "states", multiple=True, metavar="STATE", help=f"Only these, as {which}; commas join several."
    )


partition_option = click.option(
    "--partition",
    "partitions",
    multiple=True,
    metavar="QUEUE",
    help="In these queues only: names, patterns, several with commas.",
)


@click.group()
def queue() -> None:
    """Look at the queues, jobs and allocations of batch systems."""


@queue.command("list")
@click.argument("selectors", nargs=-1, metavar="[QUEUE]...")
@state_option("UP or DOWN")
@output_options
@asking_options
def list_queues(selectors: tuple[str, ...], states: tuple[str, ...], output: Output, asked: Asked) -> None:
    """List the queues that you may use: all of them, or by name, by its beginning, by a pattern such as 'gpu*'."""
    with connected(asked.where) as client:
        found = _queues(client, asked)
    found = _in_state(selected("queue", selectors, found, "name"), _states(states, QUEUE_STATES, found))
    nothing = "No batch system has a queue for you."
    output.items("orbit.queue.list", found, QUEUES, id_key="name", nothing=nothing)


@queue.command()
@click.argument("selector", metavar="QUEUE")
@output_options
@asking_options
def show(selector: str, output: Output, asked: Asked) -> None:
    """Show all that is known of one queue, and your jobs in it."""
    from orbit_zmq.errors import InvalidArgument

    with connected(asked.where) as client:
        chosen = selected("queue", [selector], _queues(client, asked), "name")
        if len(chosen) != 1:
            places = ", ".join(f"{one['name']} at {one['endpoint']} {one['plugin']}" for one in chosen) or "none"
            raise InvalidArgument(
                f"One queue is shown, and {selector!r} means {places}.", hint="Say which by --endpoint or --plugin."
            )
        (item,) = chosen
        at = asked._replace(endpoint=item["endpoint"], plugin=item["plugin"])
        in_queue = _listed(client, at, "list_jobs", "jobs", {"queue": item["name"], "user": asked.user})
        item["jobs"] = [job for job in in_queue if job.get("state") not in ENDED]
    sections = [Section("JOBS", JOBS, item["jobs"])] if item["jobs"] else []
    output.item("orbit.queue.show", item, id_key="name", sections=sections, leave_out=["jobs"])


@queue.command()
@click.argument("selectors", nargs=-1, metavar="[JOB]...")
@state_option("PENDING, RUNNING, HELD, or a word of the batch system")
@partition_option
@click.option("--finished", is_flag=True, help="Those that have ended, as the accounting knows them, the newest first.")
@click.option("--since", "since_s", type=DURATION, default="1d", show_default=True, help="How long ago, with --finished.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many, with --finished.")
@output_options
@asking_options
def jobs(
    selectors: tuple[str, ...],
    states: tuple[str, ...],
    partitions: tuple[str, ...],
    finished: bool,
    since_s: float,
    limit: int,
    output: Output,
    asked: Asked,
) -> None:
    """List jobs that have not ended: all of them, or by id, by its beginning, by a pattern.

    A new one is there within seconds. Jobs that are named, by id or by --state, are listed as long as the batch system knows
    them; 12_1 is a member of the array 12.
    """
    if not finished:
        _refuse_without_finished("since_s", "limit")
    with connected(asked.where) as client:
        if finished:
            since = {"user": asked.user, "since": time.time() - since_s, "limit": limit}
            found = _listed(client, asked, "list_finished_jobs", "jobs", since)
        else:
            found = _listed(client, asked, "list_all_jobs", "jobs", {"user": asked.user})
        if partitions:
            names = {one["name"] for one in _queues(client, asked._replace(user=EVERYBODY, force=False))}
            wanted = set(several_of("queue", partitions, sorted(names)))
            found = [job for job in found if wanted & set(str(job.get("partition")).split(","))]
    if not (finished or selectors or states):
        found = [job for job in found if job.get("state") not in ENDED]
    found = _in_state(selected("job", selectors, found, "job_id", "array_id"), _states(states, _job_states(), found))
    columns = FINISHED if finished else JOBS
    output.items("orbit.queue.jobs", found, columns, id_key="job_id", nothing="There is no such job.")


@queue.command()
@output_options
@asking_options
def allocations(output: Output, asked: Asked) -> None:
    """List the accounts that jobs may be charged to, with their limits; none where nobody keeps accounts."""
    with connected(asked.where) as client:
        found = _listed(client, asked, "list_allocations", "allocations", {"user": asked.user})
    output.items("orbit.queue.allocations", found, ALLOCATIONS, id_key="account", nothing="No accounts are kept.")


def _queues(client: Client, asked: Asked) -> list[Item]:
    return _listed(client, asked, "get_info", "queues", {"user": asked.user})


def _listed(client: Client, asked: Asked, operation: str, key: str, arguments: Item) -> list[Item]:
    """What the operation answers at every place that is meant."""
    places = places_of(client, asked.endpoint, asked.plugin, PLUGIN)
    found = listed(client, places, operation, key, {**arguments, "force": asked.force}, asked.deadline_s)
    return [_with_array_id(one) for one in found] if key == "jobs" else found


def _with_array_id(job: Item) -> Item:
    """A job with `array_id`, as the batch system has it: `12_1`, or `12_[3-9]` of those that wait together."""
    array, task, waiting = (job.get(key) for key in ("array_job_id", "array_task_id", "array_tasks"))
    which = f"[{waiting}]" if task is None and waiting else task
    return {**job, "array_id": None if array is None or which is None else f"{array}_{which}"}


def _refuse_without_finished(*names: str) -> None:
    context = click.get_current_context()
    for name in names:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.removesuffix('_s')} is of use with --finished alone.")


def _job_states() -> set[str]:
    """Our words, and those of the batch systems."""
    from orbit_zmq.batch import states

    return {*STATES, *states.SLURM, *states.PBS, *states.LSF, *states.FLUX}


def _states(given: Collection[str], known: Collection[str], found: Sequence[Item]) -> set[str]:
    """What --state names; a usage error for a word that is no state and that nothing found has."""
    wanted = {part.strip().upper() for one in given for part in one.split(",") if part.strip()}
    seen = {str(one.get(key)).upper() for one in found for key in ("state", "raw_state")}
    if unknown := sorted(wanted - {*known, *seen}):
        ours = sorted(STATES if set(known) >= STATES else known)
        raise click.UsageError(f"--state: {', '.join(unknown)} is no state; there is: {', '.join(ours)}.")
    return wanted


def _in_state(found: list[Item], wanted: Collection[str]) -> list[Item]:
    """Those in one of the states, in our words, or in the batch system's where we have none; all where none is named."""
    raw = set(wanted) - STATES
    return [one for one in found if not wanted or one.get("state") in wanted or str(one.get("raw_state")).upper() in raw]
