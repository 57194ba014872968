"""What commands that talk to a broker share: the options that name it, and the client."""

from __future__ import annotations

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

CONNECT_S = 2.0  # a broker that is there answers within a few round trips


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
        return command(*args, where=Where(url, join, context), **values)

    made: Any = with_where
    for option in (
        click.option("--context", metavar="NAME", help="A stored context."),
        click.option("--join", metavar="FILE", callback=_no_secret, help="A file with a join string; - for standard input."),
        click.option("--url", metavar="URL", help="The broker: tcp://host:port or ipc:///path."),
    ):
        made = option(made)
    return made  # type: ignore[no-any-return]


@contextmanager
def connected(where: Where) -> Iterator[Client]:
    """A client of the broker that the options name, or of the one that is found; BrokerUnreachable after CONNECT_S."""
    from orbit_zmq import Client  # the command's help needs no client

    with Client(*where, connect_timeout_s=CONNECT_S) as client:
        yield client


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
