"""`orbit job`: batch jobs at all endpoints: to submit, list, show, wait for, cancel, and to read what they write."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names, plugin_names
from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.job_outcome import exit_code_of, has_ended, pause_after, wait_for_jobs
from orbit_zmq.cli.job_output import COLUMNS, row_of, show_job
from orbit_zmq.cli.job_selection import MOST, NEWEST, PLUGIN, is_named, jobs_of, one_job
from orbit_zmq.cli.job_submit import submit
from orbit_zmq.cli.output import ByteStream, Output, output_options
from orbit_zmq.cli.parameters import DURATION
from orbit_zmq.cli.places import SESSION, Item

if TYPE_CHECKING:
    from orbit_zmq import Client

STATUSES = ("pending", "running", "successful", "failed", "cancelled", "finished_unknown")
POLL_S = 20.0  # one wait for more of what a job writes
GRACE_S = 15.0  # for the way there and back
PORTION_BYTES = 1 << 20

endpoint_option = click.option("--endpoint", metavar="NAME", shell_complete=endpoint_names, help="At this endpoint only.")
plugin_option = click.option(
    "--plugin", metavar="NAME", default=PLUGIN, show_default=True, shell_complete=plugin_names, help="Of this instance only."
)


@click.group()
def job() -> None:
    """Submit, list, show, wait for and cancel batch jobs, and read what they write."""


job.add_command(submit)


@job.command("list")
@click.argument("selectors", nargs=-1, metavar="[JOB]...")
@click.option(
    "--state", "statuses", multiple=True, type=click.Choice(STATUSES, case_sensitive=False), help="Only these; may be repeated."
)
@click.option("--target", metavar="NAME", help="Of this target only.")
@click.option("--limit", type=click.IntRange(1, MOST), default=100, show_default=True, help="How many of each endpoint.")
@endpoint_option
@plugin_option
@output_options
@broker_options
def list_jobs(
    selectors: tuple[str, ...],
    statuses: tuple[str, ...],
    target: str | None,
    limit: int,
    endpoint: str | None,
    plugin: str,
    output: Output,
    where: Where,
) -> None:
    """List your jobs, the newest first: all of them, or by id, by its beginning, by a pattern such as 'sim*', or `last`."""
    wanted: Item = {"limit": limit}
    if statuses:
        wanted["status"] = list(statuses)
    if target:
        wanted["target"] = target
    with connected(where) as client:
        found = jobs_of(client, endpoint, plugin, selectors, wanted)
    output.items("orbit.job.list", found, COLUMNS, id_key="job_id", nothing="There is no such job of yours.")


@job.command()
@click.argument("selector", default=NEWEST, metavar="[JOB]")
@endpoint_option
@plugin_option
@output_options
@broker_options
def show(selector: str, endpoint: str | None, plugin: str, output: Output, where: Where) -> None:
    """Show all that is known of one job, and of the members of an array; of the newest where none is named."""
    with connected(where) as client:
        one = one_job(client, endpoint, plugin, selector)
    show_job(output, "orbit.job.show", one)


@job.command()
@click.argument("selectors", nargs=-1, metavar="[JOB]...")
@click.option("--timeout", "timeout_s", type=DURATION, metavar="DURATION", help="End after that time, with exit code 5.")
@endpoint_option
@plugin_option
@output_options
@broker_options
def wait(
    selectors: tuple[str, ...], timeout_s: float | None, endpoint: str | None, plugin: str, output: Output, where: Where
) -> int:
    """Return once all these jobs have ended, with the exit code of the first that was not successful; the newest where none
    is named.

    That is the job's own, 128 and the number of the signal that ended it, 123 where it was cancelled, 124 where its time limit
    was over, and 125 where nobody knows. Ctrl-C ends this command, and no job.
    """
    with connected(where) as client:
        chosen = jobs_of(client, endpoint, plugin, selectors or [NEWEST], {"limit": MOST})
        ended = wait_for_jobs(client, chosen, timeout_s)
    output.items("orbit.job.wait", ended, COLUMNS, id_key="job_id", nothing="No job is meant by this.")
    return next((code for one in ended if (code := exit_code_of(one))), 0)


@job.command()
@click.argument("selectors", nargs=-1, required=True, metavar="JOB...")
@click.option("--reason", metavar="TEXT", help="Kept with the job.")
@endpoint_option
@plugin_option
@output_options
@broker_options
def cancel(
    selectors: tuple[str, ...], reason: str | None, endpoint: str | None, plugin: str, output: Output, where: Where
) -> None:
    """End jobs: by id, by its beginning, by a pattern, or `all`. One that has ended stays as it is."""
    with connected(where) as client:
        chosen = jobs_of(client, endpoint, plugin, selectors, {"limit": MOST})
        by_name = [one for one in chosen if not has_ended(one) or is_named(one, selectors)]
        asked = [_asked_to_end(client, one, reason) for one in by_name]
    output.items("orbit.job.cancel", asked, COLUMNS, id_key="job_id", nothing="No job that has not ended is meant by this.")


@job.command()
@click.argument("selectors", nargs=-1, required=True, metavar="JOB...")
@endpoint_option
@plugin_option
@output_options
@broker_options
def forget(selectors: tuple[str, ...], endpoint: str | None, plugin: str, output: Output, where: Where) -> None:
    """Take away what is known of jobs that have ended, and what they have written: by id, by a pattern, or `all`.

    One that has not ended stays, and is an error where it is named by its id.
    """
    with connected(where) as client:
        chosen = jobs_of(client, endpoint, plugin, selectors, {"limit": MOST})
        gone = [one for one in chosen if has_ended(one) or is_named(one, selectors)]
        for one in gone:
            client.call(one["endpoint"], one["plugin"], "forget", {"job_id": one["job_id"]}, session=SESSION)
    output.items("orbit.job.forget", gone, COLUMNS, id_key="job_id", nothing="No job that has ended is meant by this.")


@job.command()
@click.argument("selector", default=NEWEST, metavar="[JOB]")
@click.option("-f", "--follow", is_flag=True, help="Go on until the job has ended.")
@click.option("--member", type=click.IntRange(0), metavar="INDEX", help="Of this member of an array.")
@endpoint_option
@plugin_option
@broker_options
def logs(selector: str, follow: bool, member: int | None, endpoint: str | None, plugin: str, where: Where) -> None:
    """Print what a job has written: its standard output to ours, its standard error to ours, byte for byte.

    It is the newest job where none is named.
    """
    with connected(where) as client:
        one = one_job(client, endpoint, plugin, selector)
        _print_logs(client, one, {} if member is None else {"member": member}, follow)


def _print_logs(client: Client, one: Item, which: Item, follow: bool) -> None:
    """Who follows goes on through a restart of broker or endpoint."""
    from orbit_zmq.client.patience import Patience
    from orbit_zmq.errors import OrbitError

    patience = Patience(one["endpoint"])
    streams = {"stdout": ByteStream(sys.stdout), "stderr": ByteStream(sys.stderr)}
    offsets = {f"{name}_offset": 0 for name in streams}
    while True:
        arguments = {"job_id": one["job_id"], **which, **offsets, "max_bytes": PORTION_BYTES, "wait_s": POLL_S * follow}
        try:
            said = client.call(
                one["endpoint"], one["plugin"], "logs", arguments, session=SESSION, deadline_s=POLL_S * follow + GRACE_S
            )
        except OrbitError as error:
            if not follow:
                raise
            time.sleep(pause_after(client, patience, error))
            continue
        patience.on_answer()
        for name, stream in streams.items():
            stream.write(bytes(said[name]))
        is_more = any(said[name] for name in streams)
        offsets = {offset: said[offset] for offset in offsets}
        if said["ended"] or not (follow or is_more):
            break
    for stream in streams.values():
        stream.end()


def _asked_to_end(client: Client, one: Item, reason: str | None) -> Item:
    arguments: dict[str, Any] = {"job_id": one["job_id"], **({"reason": reason} if reason else {})}
    said = client.call(one["endpoint"], one["plugin"], "cancel", arguments, session=SESSION)
    return row_of(said, one["endpoint"], one["plugin"])
