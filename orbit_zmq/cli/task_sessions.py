"""Where the tasks of the command line are: in your session `default` at the endpoints, or in the one that is named.

The session `default` has the endpoint's own backend. Another backend has a session of its own beside it, made when it is first
asked for, which goes by the names of the backend and of the user. All of them last, so what one shell has submitted another one
sees. Nothing here prints tasks or chooses among them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

from orbit_zmq.cli.connection import endpoints_of, find_endpoint
from orbit_zmq.cli.parameters import one_of

if TYPE_CHECKING:
    from orbit_zmq import Client

PLUGIN = "rhapsody"
DEFAULT = "default"  # the session that each user has at each plugin
STREAMING = frozenset({"concurrent"})  # backends whose programs can be listened to while they run
# All commands read under one name, so that they do not become many readers for whom results are kept.
READING: dict[str, Any] = {"consumer": "orbit task", "from_now": True}
RETENTION_S = 86_400.0  # of results that were read, as in the session `default`
ANSWER_S = 10.0  # an endpoint that says nothing for so long is left out, and named
AT_ONCE = 16
PAGE_TASKS = 10_000  # in one answer
ATTEMPTS = 3  # to list a session whose tasks are being forgotten meanwhile

Found = TypeVar("Found")


class Place(NamedTuple):
    """One session."""

    endpoint: str
    plugin: str
    session: str


class TaskSession(Protocol):
    """What is used here of the plugin's client."""

    endpoint: str
    plugin: str
    sid: str

    def submit_tasks(self, tasks: Sequence[dict[str, Any]]) -> list[dict[str, Any]]: ...
    def wait_tasks(
        self, tasks: Sequence[str], timeout: float | None = None, *, progress: bool = False
    ) -> list[dict[str, Any]]: ...
    def output(self, task: str) -> Iterator[Any]: ...
    def get_statistics(self) -> dict[str, Any]: ...


def session_for(client: Client, endpoint: str | None, session: str | None, backend: str | None) -> TaskSession:
    """The session that tasks are submitted to: that of the name, or your own one of the backend at the endpoint.

    Without an endpoint it is one that has the plugin, whichever has less to do.
    """
    from orbit_zmq.errors import NotFound, SessionClosed, SessionExpired

    if session is not None:
        (place,) = _named(client, endpoint, session)
        return attached(client, place)
    facts = find_endpoint(client, endpoint) if endpoint else client.find_endpoint(plugin=PLUGIN).facts
    place = Place(facts.name, facts.instance(PLUGIN), DEFAULT)
    default = attached(client, place)
    if backend is None or backend in backends_of(default):
        return default
    owner = client.call(place.endpoint, place.plugin, "session_status", session=DEFAULT)["owner"]
    sid = f"{DEFAULT}-{backend}-{re.sub('[^A-Za-z0-9._-]', '_', owner)}"
    try:
        return attached(client, place._replace(session=sid))
    except (NotFound, SessionClosed, SessionExpired):
        made = client.get_plugin(
            *place[:2], sid=sid, lifetime="persistent", backends=[backend], retention_s=RETENTION_S, **READING
        )
        return cast(TaskSession, made)


def attached(client: Client, place: Place) -> TaskSession:
    """A session that is there, and stays with the process that holds it; `default` is opened where it is not."""
    hold = {} if place.session == DEFAULT else {"hold": False}
    return cast(TaskSession, client.attach(place.session, endpoint=place.endpoint, plugin=place.plugin, **hold, **READING))


def backends_of(session: TaskSession) -> list[str]:
    """Its backends; the first one is that of tasks that name none."""
    return list(session.get_statistics()["backends"])


def tasks_at(client: Client, endpoint: str | None, session: str | None, answer_s: float = ANSWER_S) -> list[dict[str, Any]]:
    """The tasks in these sessions, the oldest first: `{uid, state, endpoint, session, plugin, submitted}`, that in seconds
    since 1970 by the endpoint's clock."""
    places = _named(client, endpoint, session) if session is not None else _own_places(client, endpoint)
    found = _answers(places, lambda place: _tasks_of(client, place, answer_s))
    return sorted((task for tasks in found for task in tasks), key=lambda task: task["submitted"])  # which keeps their order


def place_of(task: dict[str, Any]) -> Place:
    return Place(task["endpoint"], task["plugin"], task["session"])


def ask_of_each(tasks: Sequence[dict[str, Any]], ask: Callable[[dict[str, Any]], Found]) -> list[Found]:
    """What `ask` answers for each task, in their order. Ctrl-C does not wait for the answers."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        return list(pool.map(ask, tasks))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _own_places(client: Client, endpoint: str | None) -> list[Place]:
    return [one for one in _places(client, endpoint) if one.session == DEFAULT or one.session.startswith(f"{DEFAULT}-")]


def _named(client: Client, endpoint: str | None, session: str) -> list[Place]:
    """The one session of that id, or beginning of it; errors say where there are several, or what there is."""
    from orbit_zmq.errors import InvalidArgument

    places = _places(client, endpoint)
    sid = one_of("session", session, sorted({place.session for place in places}))
    found = [place for place in places if place.session == sid]
    if len(found) > 1:
        where = ", ".join(sorted(place.endpoint for place in found))
        raise InvalidArgument(f"There is a session {sid!r} at {where}.", hint="Say which by --endpoint.")
    return found


def _places(client: Client, endpoint: str | None) -> list[Place]:
    """Every session of the plugin that one is told of."""
    from orbit_zmq.client.facts import reason_of
    from orbit_zmq.errors import NotFound

    endpoints = endpoints_of(client, endpoint)
    instances = [
        Place(one.name, instance, "")
        for one in endpoints
        for instance, facts in sorted(one.plugins.items())
        if PLUGIN in (instance, facts.get("plugin"))
    ]
    if not instances:
        absent = [
            f"{one.name}: {reason_of(entry)}." for one in endpoints for entry in one.absent if entry.get("plugin") == PLUGIN
        ]
        hint = absent[0] if absent else f"Start one: orbit endpoint start --plugins default,{PLUGIN}"
        raise NotFound(f"No endpoint serves the plugin {PLUGIN}.", hint=hint)
    found = _answers(instances, lambda place: _sessions_of(client, place))
    return [place for places in found for place in places]


def _sessions_of(client: Client, place: Place) -> list[Place]:
    answer = client.call(place.endpoint, place.plugin, "list_sessions", deadline_s=ANSWER_S)
    return [place._replace(session=sid) for sid in sorted({str(one["sid"]) for one in answer["sessions"]})]


def _tasks_of(client: Client, place: Place, answer_s: float) -> list[dict[str, Any]]:
    """All tasks of a session; none where it is somebody else's, or has ended meanwhile."""
    from orbit_zmq.errors import NotFound, SessionClosed, SessionExpired

    tasks: dict[str, dict[str, Any]] = {}
    try:
        for task in _listed(client, place, answer_s):
            where = {"endpoint": place.endpoint, "session": place.session, "plugin": place.plugin}
            tasks[task["uid"]] = {"uid": task["uid"], "state": task["state"], **where, "submitted": task["times"]["submitted"]}
    except (NotFound, SessionClosed, SessionExpired):
        return []
    return list(tasks.values())


def _listed(client: Client, place: Place, answer_s: float) -> Iterator[dict[str, Any]]:
    from orbit_zmq.errors import InvalidArgument

    after, attempts = "", 0
    while True:
        arguments = {"after": after, "limit": PAGE_TASKS}
        try:
            page = client.call(*place[:2], "list_tasks", arguments, session=place.session, deadline_s=answer_s)["tasks"]
        except InvalidArgument:  # the last task of a page was forgotten before the next page was asked for
            attempts += 1
            if not after or attempts == ATTEMPTS:
                raise
            after = ""
            continue
        yield from page
        if len(page) < PAGE_TASKS:
            return
        after = page[-1]["uid"]


def _answers(places: Sequence[Place], ask: Callable[[Place], Found]) -> list[Found]:
    """What is answered everywhere. Who cannot answer is named; where nobody can, that is raised."""
    from orbit_zmq.cli.main import complain
    from orbit_zmq.errors import OrbitError

    def asked(place: Place) -> Found | OrbitError:
        try:
            return ask(place)
        except OrbitError as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        answers = list(pool.map(asked, places))
    errors = [(place, answer) for place, answer in zip(places, answers, strict=True) if isinstance(answer, OrbitError)]
    if errors and len(errors) == len(places):
        raise errors[0][1]
    for place, error in errors:
        complain(f"not listed: {place.endpoint} {place.plugin} {place.session}".rstrip() + f": {error.message}")
    return [answer for answer in answers if not isinstance(answer, OrbitError)]
