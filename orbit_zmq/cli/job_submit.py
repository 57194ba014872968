"""`orbit job submit`: from options and a command to a job, or to what would be submitted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from orbit_zmq.cli.completion import endpoint_names, plugin_names
from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.job_outcome import exit_code_of, wait_for_jobs
from orbit_zmq.cli.job_output import show_job
from orbit_zmq.cli.job_selection import PLUGIN, one_job
from orbit_zmq.cli.output import ByteStream, Output, output_options
from orbit_zmq.cli.parameters import DURATION
from orbit_zmq.cli.places import SESSION, Item, Place, places_of

if TYPE_CHECKING:
    from orbit_zmq import Client

Command = TypeVar("Command", bound=Callable[..., Any])

SUBMIT_S = 120.0  # a scheduler may take its time
# Where an option goes: into the job itself, its attributes, or its resources.
PARTS = {
    "job": ("name", "directory", "stdin_path", "stdout_path", "stderr_path", "pre_launch", "post_launch", "launcher"),
    "attributes": ("duration", "queue_name", "account", "reservation_id"),
    "resources": (
        "node_count", "process_count", "processes_per_node", "cpu_cores_per_process", "gpu_cores_per_process",
        "exclusive_node_use", "memory",
    ),
}  # fmt: skip


def job_options(command: Command) -> Command:
    """What describes the job; the command gets them as `described`."""

    @wraps(command)
    def with_described(*args: Any, **values: Any) -> Any:
        names = [*(name for part in PARTS.values() for name in part), "variables", "clean_environment", "custom"]
        return command(*args, described={name: values.pop(name) for name in names}, **values)

    made: Any = with_described
    for option in reversed((
        click.option("--name", metavar="NAME", help="What the batch system calls it."),
        click.option("--directory", metavar="DIR", help="Where it runs, over there."),
        click.option("--env", "variables", metavar="NAME=VALUE", multiple=True, help="A variable for it; may be repeated."),
        click.option("--clean-env", "clean_environment", is_flag=True, help="It inherits no environment."),
        click.option("--stdin", "stdin_path", metavar="PATH", help="A file over there that it reads."),
        click.option("--stdout", "stdout_path", metavar="PATH", help="A file over there that it writes to."),
        click.option("--stderr", "stderr_path", metavar="PATH", help="The same for its standard error."),
        click.option("--pre-launch", metavar="PATH", help="A script over there that is sourced before it."),
        click.option("--post-launch", metavar="PATH", help="The same after it."),
        click.option("--launcher", metavar="NAME", help="single, multiple, mpirun, srun, aprun or jsrun."),
        click.option("--duration", metavar="DURATION", help="Its time limit: 1h30m, HH:MM:SS or D-HH:MM:SS."),
        click.option("--queue", "queue_name", metavar="NAME", help="The queue, or partition."),
        click.option("--account", metavar="NAME", help="Whom it is charged to."),
        click.option("--reservation", "reservation_id", metavar="NAME", help="Nodes that are kept for it."),
        click.option("--nodes", "node_count", type=click.IntRange(1), help="How many nodes."),
        click.option("--processes", "process_count", type=click.IntRange(1), help="How many processes in all."),
        click.option("--processes-per-node", type=click.IntRange(1), help="How many on each node."),
        click.option("--cores", "cpu_cores_per_process", type=click.IntRange(1), help="Cores of each process."),
        click.option("--gpus", "gpu_cores_per_process", type=click.IntRange(1), help="GPUs of each process."),
        click.option("--memory", metavar="SIZE", help="Of the whole job, such as 4GiB."),
        click.option("--exclusive", "exclusive_node_use", is_flag=True, default=None, help="Nobody else on its nodes."),
        click.option("--attribute", "custom", metavar="SCHEDULER.OPTION=VALUE", multiple=True,
                     help="An option of a batch system, such as slurm.constraint=gpu; may be repeated."),
    )):  # fmt: skip
        made = option(made)
    return made  # type: ignore[no-any-return]


@click.command(context_settings={"allow_interspersed_args": False})
@click.argument("words", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND [ARGUMENT]...")
@click.option("--dry-run", is_flag=True, help="Print the script that would be submitted, and submit nothing.")
@click.option("--wait", "waits", is_flag=True, help="Return once it has ended, with its exit code.")
@click.option(
    "--timeout", "timeout_s", type=DURATION, metavar="DURATION", help="With --wait: end after that, with exit code 5."
)
@click.option("--target", metavar="NAME", help="A target of the endpoint's settings; its default one where this is left out.")
@click.option("--key", metavar="TEXT", help="Two submits with the same key are one job.")
@click.option(
    "--after", metavar="JOB", multiple=True, help="Start when that job was successful; `last` is the newest. May be repeated."
)
@click.option("--array", metavar="INDICES", help="One job of many: 0-9, 1,3,5-7, or 0-99%4 for four at once.")
@job_options
@click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="At this endpoint.")
@click.option("--plugin", metavar="NAME", default=PLUGIN, show_default=True, shell_complete=plugin_names, help="Its instance.")
@output_options
@broker_options
def submit(
    words: tuple[str, ...],
    dry_run: bool,
    waits: bool,
    timeout_s: float | None,
    described: Item,
    endpoint: str | None,
    plugin: str,
    output: Output,
    where: Where,
    **wishes: Any,
) -> int:
    """Submit a COMMAND as a batch job; options of COMMAND follow it.

    The exit code with --wait is the job's, 128 and the number of the signal that ended it, 123 where it was cancelled,
    124 where its time limit was over, and 125 where nobody knows. Ctrl-C ends this command, and not the job.
    """
    from orbit_zmq.cli.main import complain

    if dry_run and waits:
        raise click.UsageError("Nothing is submitted with --dry-run, so there is nothing to --wait for.")
    if timeout_s is not None and not waits:
        raise click.UsageError("--timeout is of use with --wait alone.")
    asked: Item = {"spec": spec_of(words, described), "dry_run": dry_run}
    asked |= {
        name: list(value) if isinstance(value, tuple) else value for name, value in wishes.items() if value not in (None, ())
    }
    with connected(where) as client:
        place = _place(client, endpoint, plugin)
        if asked.get("after"):
            asked["after"] = [one_job(client, *place, selector)["job_id"] for selector in asked["after"]]
        said = client.call(*place, "submit", asked, session=SESSION, deadline_s=SUBMIT_S)
        if dry_run:
            _show_dry_run(said, output)
            return 0
        for text in said["metadata"].get("warnings", ()):
            complain(f"warning: {text}")
        job = {**said, "endpoint": place[0], "plugin": place[1]}
        if not waits:
            output.item("orbit.job.submit", job, id_key="job_id")
            return 0
        return _wait(client, job, timeout_s, output)


def _wait(client: Client, job: Item, timeout_s: float | None, output: Output) -> int:
    from orbit_zmq.cli.main import complain

    complain(f"job {job['job_id']} is submitted to {job['endpoint']}.")
    try:
        (ended,) = wait_for_jobs(client, [job], timeout_s)
    except KeyboardInterrupt:
        complain(f"job {job['job_id']} goes on; `orbit job wait {job['job_id']}` waits for it.")
        raise
    show_job(output, "orbit.job.submit", ended)
    return exit_code_of(ended)


def _place(client: Client, endpoint: str | None, plugin: str) -> Place:
    """Where it is submitted: the one place that there is, or the one that is named."""
    from orbit_zmq.errors import InvalidArgument

    places = places_of(client, endpoint, plugin, PLUGIN)
    if len(places) > 1:
        names = ", ".join(f"{one} {instance}" for one, instance in places)
        raise InvalidArgument(f"Jobs can be submitted at several places: {names}.", hint="Say which by --endpoint or --plugin.")
    return places[0]


def spec_of(words: tuple[str, ...], described: Item) -> Item:
    """The job as the plugin takes it; what was not said is left out."""
    parts = {
        part: {name: described[name] for name in names if described.get(name) is not None} for part, names in PARTS.items()
    }
    parts["attributes"] |= {"custom_attributes": custom} if (custom := _pairs("--attribute", described["custom"])) else {}
    variables = _pairs("--env", described["variables"])
    return {
        "executable": words[0],
        "arguments": list(words[1:]),
        **parts["job"],
        **({"environment": variables} if variables else {}),
        **({"inherit_environment": False} if described["clean_environment"] else {}),
        **{part: parts[part] for part in ("attributes", "resources") if parts[part]},
    }


def _pairs(option: str, given: tuple[str, ...]) -> dict[str, str]:
    pairs = [text.partition("=") for text in given]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise click.UsageError(f"{option}: {name!r} is no NAME=VALUE.")
    return {name: value for name, _, value in pairs}


def _show_dry_run(said: Item, output: Output) -> None:
    """The script to standard output, as it is; all else to standard error, so that the script can be kept in a file."""
    from orbit_zmq.cli.main import complain

    if output.is_json:
        output.item("orbit.job.submit.dry_run", said, id_key="job_id")
        return
    complain(f"would run: {said['command']}")
    for issue in said.get("issues") or ():
        complain(f"{issue['severity']}: {issue['msg']}")
    for path in said.get("files") or ():
        complain(f"would write: {path}")
    script = ByteStream(sys.stdout)
    script.write(said["script"].encode())
    script.end()
