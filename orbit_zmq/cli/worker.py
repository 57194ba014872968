"""`orbit worker`: endpoints inside batch jobs, started through the endpoint on a login node."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from orbit_zmq.cli.completion import endpoint_names
from orbit_zmq.cli.connection import Where, broker_options, connected
from orbit_zmq.cli.endpoint_start import LAUNCHED_S, LAUNCHERS
from orbit_zmq.cli.output import Column, Mode, Output, output_options
from orbit_zmq.cli.parameters import DURATION, one_of
from orbit_zmq.tunnel.deadlines import JOIN_S

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.errors import OrbitError

PLUGIN = "psij"
LOOK_S = 0.5
END_S = 120.0  # for a batch system to end a job
SETTLED_S = 10.0  # after a job's end, until its login endpoint has seen what became of the tunnel
SETTLED = ("no_tunnel", "failed", "done")
STATES = {"NEW": "submitted", "QUEUED": "queued", "ACTIVE": "started"}
STARTING_S = 15.0  # of a job's time are over when its endpoint begins to count
TAIL_CHARS = 1_000
COLUMNS = (
    Column("WORKER", "endpoint_name"),
    Column("STATE", "state"),
    Column("TUNNEL", "tunnel"),
    Column("TUNNEL STATE", "status"),
    Column("JOB", "native_id"),
    Column("EXECUTOR", "executor", rank=2),
    Column("REASON", "reason", rank=1),
)
login_option = click.option(
    "--endpoint", "login", required=True, metavar="NAME", shell_complete=endpoint_names, help="That of the login node."
)


@click.group()
def worker() -> None:
    """Start endpoints inside batch jobs, list and stop them."""


@worker.command()
@login_option
@click.option("-n", "--name", metavar="NAME", help="ENDPOINT.SOMETHING, of the login node's endpoint; made up if left out.")
@click.option("--nodes", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--queue", metavar="NAME", help="Queue or partition; the site's default if left out.")
@click.option("--account", metavar="NAME", help="Whom the job is charged to.")
@click.option("--duration", type=DURATION, default="1h", show_default=True, help="Wall time of the job.")
@click.option("--executor", metavar="NAME", help="One of PSI/J's; the batch system's own if left out.")
@click.option(
    "--tunnel",
    type=click.Choice(["auto", "none", "forward", "reverse"]),
    default="auto",
    show_default=True,
    help="How the job's node reaches the broker; docs/tunnels.md.",
)
@click.option("-p", "--plugins", default="rhapsody", show_default=True, help="What the worker serves.")
@click.option("--launcher", type=click.Choice(LAUNCHERS), help="Start it under this, on all nodes of its job.")
@click.option("--timeout", "timeout_s", type=DURATION, metavar="DURATION", help="Give up waiting after that; the job stays.")
@click.option("--no-wait", is_flag=True, help="Return once the job is submitted.")
@output_options
@broker_options
def start(
    login: str,
    name: str | None,
    nodes: int,
    queue: str | None,
    account: str | None,
    duration: float,
    executor: str | None,
    tunnel: str,
    plugins: str,
    launcher: str | None,
    timeout_s: float | None,
    no_wait: bool,
    output: Output,
    where: Where,
) -> None:
    """Start an endpoint inside a batch job, and print its name once it is there.

    What happens meanwhile is written to standard error: queued, started, tunnel, connected. The job has a key of its own, which
    ends with it.
    """
    attributes = {"duration": int(duration), "queue_name": queue, "account": account, "node_count": nodes}
    with connected(where) as client:
        login = one_of("endpoint", login, [one.name for one in client.endpoints()])
        name = name or f"{login}.{secrets.token_hex(3)}"
        if not name.startswith(f"{login}."):
            raise click.UsageError(f"A worker's name begins with that of its login endpoint: --name {login}.{name}")
        spec = {
            "name": f"orbit-{name}",
            "executable": "orbit-endpoint-wrapper.sh",
            "arguments": _arguments(name, plugins, launcher, duration),
            "attributes": {key: value for key, value in attributes.items() if value is not None},
        }
        with client.get_plugin(login, PLUGIN) as psij:
            executor = executor or str(client.call(login, PLUGIN, "executors")["default"])
            job = psij.start_worker(spec, executor, tunnel)
            if not no_wait:
                patience_s = JOIN_S + (LAUNCHED_S if launcher else 0.0)
                with _login_stays(login, name), _interrupt_leaves_it(login, name):
                    for told in _steps(client, psij, login, name, job["job_id"], timeout_s, patience_s):
                        if output.mode is not Mode.QUIET:
                            click.echo(told, err=True)
    if output.is_json:
        output.item("orbit.worker.start", {**job, "endpoint_name": name, "executor": executor}, id_key="endpoint_name")
    else:
        click.echo(name)


def _arguments(name: str, plugins: str, launcher: str | None, duration: float) -> list[str]:
    """What the worker is told."""
    left_s = duration - min(STARTING_S, 0.1 * duration)
    words = ["-n", name, "--plugins", plugins, "--wait", "1m", "--wall-time", f"{left_s:g}s"]
    return [*words, "--launcher", launcher] if launcher else words


@contextmanager
def _login_stays(login: str, name: str) -> Iterator[None]:
    """Says of what goes wrong with the login endpoint what it means for a worker that is waited for."""
    from orbit_zmq.errors import EndpointLost, NotFound, OutcomeUnknown, ShuttingDown

    try:
        yield
    except (EndpointLost, NotFound, OutcomeUnknown, ShuttingDown) as error:  # nothing is changed while one waits
        raise EndpointLost(
            f"endpoint {login} has ended or was started anew while {name} was waited for; its job stays",
            hint=f"`orbit worker list --endpoint {login}` shows what becomes of it, once that endpoint runs.",
        ) from error


@contextmanager
def _interrupt_leaves_it(login: str, name: str) -> Iterator[None]:
    """Says of a worker that is no longer waited for how it is found and ended."""
    from orbit_zmq.cli.main import complain

    try:
        yield
    except KeyboardInterrupt:
        complain(f"the job of {name} goes on; `orbit worker stop {name} --endpoint {login}` ends it.")
        raise


def _steps(
    client: Client, psij: Any, login: str, name: str, job_id: str, timeout_s: float | None, patience_s: float
) -> Iterator[str]:
    """What happens until the worker is there, a line each; raises what keeps it from coming, or from coming within
    `patience_s` of the start of its job."""
    from orbit_zmq.errors import DeadlineExceeded, TunnelFailed

    ends_at = None if timeout_s is None else time.monotonic() + timeout_s
    changed = _topology_changes(client, name)
    told: set[str] = set()
    started_at = ended_at = None
    while True:
        job, tunnel = psij.get_job_status(job_id), psij.tunnel_status(name)
        for line in _lines(job, tunnel):
            if line not in told:
                told.add(line)
                yield line
        if any(one.name == name and one.facts.state == "present" for one in client.endpoints()):
            yield "connected"
            return
        if tunnel["status"] == "failed":
            raise TunnelFailed(tunnel["reason"], hint=tunnel["hint"])
        now = time.monotonic()
        ended_at = ended_at or (now if job["state"] not in STATES else None)
        if ended_at is not None and (tunnel["status"] in SETTLED or now > ended_at + SETTLED_S):
            raise _ended(job, name)
        started_at = started_at or (now if job["state"] == "ACTIVE" else None)
        if started_at is not None and now > started_at + patience_s:
            raise DeadlineExceeded(
                f"the job {job['native_id']} runs, and {name} is not there after {patience_s:g} s",
                hint=f"orbit worker stop {name} --endpoint {login} ends it; its output is in {job['stderr_path']}.",
            )
        if ends_at is not None and now > ends_at:
            raise DeadlineExceeded(
                f"{name} is not there yet; its job is {job['native_id']}, {job['raw_state'] or job['state']}",
                hint=f"The job stays: `orbit why {name}` says why, `orbit worker stop {name} --endpoint {login}` ends it.",
            )
        changed.wait(LOOK_S)
        changed.clear()


def _topology_changes(client: Client, name: str) -> threading.Event:
    """Set when an endpoint has come or changed; never where no events come through."""
    from orbit_zmq.errors import OrbitError

    changed = threading.Event()
    with suppress(OrbitError):
        client.on_topology_change(lambda view: changed.set() if name in view else None)
    return changed


def _ended(job: dict[str, Any], name: str) -> OrbitError:
    from orbit_zmq.errors import InternalError

    wrote = str(job["stderr"])[-TAIL_CHARS:].strip()
    return InternalError(
        f"the job {job['native_id']} ended before {name} was there: {job['message'] or job['state']}",
        hint=f"The end of what it wrote: {wrote}" if wrote else "It wrote nothing.",
    )


def _lines(job: dict[str, Any], tunnel: dict[str, Any]) -> Iterator[str]:
    why = f": {job['message']}" if job["message"] and job["state"] == "QUEUED" else ""
    if job["state"] in STATES:
        yield f"{STATES[job['state']]} as {job['native_id']}{why}" if job["native_id"] else STATES[job["state"]]
    if tunnel["status"] in ("active", "reconnecting"):
        yield f"tunnel {tunnel['tunnel']} {tunnel['status']}, by {tunnel['ssh_host']}"


@worker.command("list")
@login_option
@output_options
@broker_options
def list_workers(login: str, output: Output, where: Where) -> None:
    """List the workers whose jobs have not ended."""
    with connected(where) as client:
        items = _workers(client, login)
    output.items("orbit.worker.list", items, COLUMNS, id_key="endpoint_name", nothing="There is no worker of yours.")


@worker.command()
@click.argument("name", metavar="WORKER")
@login_option
@output_options
@broker_options
def stop(name: str, login: str, output: Output, where: Where) -> None:
    """End a worker's job, and with it its endpoint, its tunnel and its key."""
    with connected(where) as client:
        found = {one["endpoint_name"]: one for one in _workers(client, login)}
        chosen = found[one_of("worker", name, list(found))]
        with client.get_plugin(login, PLUGIN) as psij:
            psij.cancel_job(chosen["job_id"])
            ended = psij.wait_job(chosen["job_id"], timeout=END_S)
    if output.is_json or output.mode is Mode.QUIET:
        output.item("orbit.worker.stop", {**chosen, "state": ended["state"]}, id_key="endpoint_name")
    else:
        click.echo(f"stopped {chosen['endpoint_name']}")


def _workers(client: Client, login: str) -> list[dict[str, Any]]:
    login = one_of("endpoint", login, [one.name for one in client.endpoints()])
    with client.get_plugin(login, PLUGIN) as psij:
        jobs = {job["job_id"]: job for job in psij.list_jobs(all_sessions=True)["jobs"]}
        found = client.call(login, PLUGIN, "workers")["workers"]
    return [{**one, **{key: jobs.get(one["job_id"], {}).get(key) for key in ("state", "native_id")}} for one in found]
