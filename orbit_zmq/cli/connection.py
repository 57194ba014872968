"""What commands that talk to a broker share: the options that name it, and the client."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from orbit_zmq.cli.parameters import one_of

if TYPE_CHECKING:
    from orbit_zmq import Client
    from orbit_zmq.client.facts import EndpointFacts

Command = TypeVar("Command", bound=Callable[..., Any])
Made = TypeVar("Made")

CONNECT_S = 2.0  # a broker that is there answers within a few round trips
RETURN_S = 10.0  # one whose supervisor starts it again takes as long as a program takes to start on a busy machine
LEAST_S = 0.2  # of one try to connect
POLL_S = 0.05


class Where(NamedTuple):
    """Which broker, as `Client` takes it: `Client(*where)`."""

    url: str | None = None
    join: str | None = None
    context: str | None = None


def _no_secret(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """A join string among the arguments could be read by every user of the machine."""
    if value is not None and value.strip().startswith("orbit1:"):
        raise click.UsageError(
            "--join takes a file, because arguments can be seen by other users of this machine. "
            "Store the string with `orbit join`, or give it by --join - or in ORBIT_JOIN."
        )
    return value


def broker_options(command: Command) -> Command:
    """--url, --join and --context; the command gets them as `where`. Every command that talks to a broker has them."""

    @wraps(command)
    def with_where(*args: Any, url: str | None, join: str | None, context: str | None, **values: Any) -> Any:
        return command(*args, where=Where(url, join, context and _whole_context(context)), **values)

    made: Any = with_where
    for option in (
        click.option("--context", metavar="NAME", help="A stored context."),
        click.option("--join", metavar="FILE", callback=_no_secret, help="A file with a join string; - for standard input."),
        click.option("--url", metavar="URL", help="The broker: tcp://host:port or ipc:///path."),
    ):
        made = option(made)
    return made  # type: ignore[no-any-return]


def _whole_context(name: str) -> str:
    """The stored context that begins so; where there is none, who reads it says so."""
    from orbit_zmq.contexts import context_names

    names = context_names()
    return one_of("context", name, names) if any(one.startswith(name) for one in names) else name


@contextmanager
def connected(where: Where, within_s: float = RETURN_S) -> Iterator[Client]:
    """A client of the broker that the options name, or of the one that is found; BrokerUnreachable after `within_s`, at most
    CONNECT_S or, where its supervisor runs, RETURN_S, and at once where nobody says that there is a broker.
    """
    from orbit_zmq import Client  # the command's help needs no client

    began = time.monotonic()
    ends_at = began + min(within_s, CONNECT_S)

    def connect() -> Client:
        return Client(*where, connect_timeout_s=max(ends_at - time.monotonic(), LEAST_S))

    with patiently(connect, where, ends_at, began + min(within_s, RETURN_S)) as client:
        yield client


def patiently(make: Callable[[], Made], where: Where, ends_at: float, returns_at: float = 0.0) -> Made:
    """What `make` makes; while this user's broker here is away for a moment it is tried again, until that monotonic time, or
    the later one where its supervisor runs.
    """
    from orbit_zmq.errors import BrokerUnreachable

    while True:
        try:
            return make()
        except BrokerUnreachable:
            if any(where) or time.monotonic() + POLL_S > _awaited_until(ends_at, returns_at):
                raise
        time.sleep(POLL_S)


def _awaited_until(ends_at: float, returns_at: float) -> float:
    """Until when this user's broker may be back: its supervisor runs, or it has left its record behind; 0 for neither."""
    from orbit_zmq.errors import NotPermitted
    from orbit_zmq.process_record import running_supervisor
    from orbit_zmq.runtime_file import runtime_file_path

    try:
        if running_supervisor() is not None:
            return max(ends_at, returns_at)
        return ends_at if runtime_file_path().exists() else 0.0
    except NotPermitted:
        return 0.0


def wait_for_broker(where: Where, timeout_s: float, ask: Callable[[Client, float], object], missing: str) -> None:
    """Call `ask(client, deadline)` once a broker answers. DeadlineExceeded, which begins with `missing`, where none does."""
    from orbit_zmq.errors import BrokerUnreachable, DeadlineExceeded

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            with connected(where, deadline - time.monotonic()) as client:
                ask(client, deadline)
            return
        except BrokerUnreachable as error:
            if time.monotonic() + POLL_S > deadline:
                raise DeadlineExceeded(f"{missing}{error.message}", hint=error.hint) from error
        time.sleep(POLL_S)


def find_endpoint(client: Client, wanted: str) -> EndpointFacts:
    """An endpoint by its name, or by the beginning of it; NotFound says what there is."""
    from orbit_zmq.errors import NotFound

    try:
        return client.resolve(wanted)
    except NotFound:
        names = [handle.name for handle in client.endpoints()]
        return client.resolve(one_of("endpoint", wanted, names))


def endpoints_of(client: Client, wanted: str | None) -> list[EndpointFacts]:
    """All endpoints, or the one that is wanted, by name."""
    if wanted:
        return [find_endpoint(client, wanted)]
    return sorted((handle.facts for handle in client.endpoints()), key=lambda facts: facts.name)
