"""AsyncClient: one connection to a broker, and from there to every endpoint behind it.

It resolves names, knows which operations may be repeated, and turns plain values into bodies and back. How calls travel is
the link's matter; what they do is the plugins'.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from orbit_zmq.client._async.plugin import AsyncPluginClient
from orbit_zmq.client._async.renewals import AsyncRenewals, HeardSession
from orbit_zmq.client._async.subscription import AsyncSubscription, caller_of
from orbit_zmq.client.classes import async_client_class
from orbit_zmq.client.events import Event, wire_topics
from orbit_zmq.client.facts import EndpointFacts, OperationFacts, operations_of
from orbit_zmq.client.page import facts_table, rows_table
from orbit_zmq.client.party import ClientParty
from orbit_zmq.client.patience import BROKER_AWAY_S, ENDPOINT_AWAY_S
from orbit_zmq.errors import Conflict, EndpointLost, InvalidArgument, NotFound
from orbit_zmq.place import Place, find_broker
from orbit_zmq.rules.heard import Missed
from orbit_zmq.security.join import JoinString, invitation
from orbit_zmq.security.keys import make_keypair
from orbit_zmq.transport.asking import check_deadline
from orbit_zmq.transport.async_port import AsyncPort
from orbit_zmq.transport.link import Link
from orbit_zmq.wire.body import pack_body, unpack_body
from orbit_zmq.wire.header import IDEMPOTENT, RAW, Header, Kind

if TYPE_CHECKING:
    from orbit_zmq.why import Why

ANYWHERE = "*"  # in place of an endpoint's name: one that has the plugin, chosen by the broker
BROKER = "broker"
BROKER_DEADLINE_S = 10.0
DEFAULT = "default"  # the session that each user has at each plugin without asking for it
CONNECT_S = 2.5  # whoever waits for a first connection then hears what stands in its way
LISTEN_S = 10.0  # for a subscription to be in force
WHY_S = 10.0  # for an answer of one plugin, which may have to ask a batch system
HOMES = 10_000  # sessions whose endpoints are remembered
LEAST_S = 0.01  # of a deadline that has all but passed: that it has is said as of any other
NOTHING_S = 0.001  # so much of a deadline is not worth taking off
UNKNOWN = OperationFacts()  # what is assumed of an operation that is in no catalogue


class AsyncEndpointHandle:
    """One endpoint, by name. `facts` is what the broker said of it when the handle was made."""

    def __init__(self, client: AsyncClient, facts: EndpointFacts) -> None:
        self._client = client
        self.facts = facts

    def __repr__(self) -> str:
        return f"<endpoint {self.name}: {self.facts.state}, plugins {', '.join(sorted(self.plugins)) or 'none'}>"

    def _repr_html_(self) -> str:
        served = [(name, facts.get("plugin"), facts.get("version")) for name, facts in sorted(self.plugins.items())]
        absent = [(entry.get("plugin"), "absent", entry.get("reason")) for entry in self.facts.absent]
        title = f"endpoint {self.name}: {self.facts.state}"
        return rows_table(title, ("instance", "plugin", "version"), [*served, *absent])

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def plugins(self) -> dict[str, dict[str, str]]:
        """Plugin instances with their type and version."""
        return self.facts.plugins

    async def get_plugin(self, plugin: str, **register_arguments: Any) -> AsyncPluginClient:
        """A client of one plugin here, with a new session; see AsyncClient.get_plugin."""
        return await self._client.get_plugin(self.name, plugin, **register_arguments)


class AsyncClient:
    """A connection to a broker.

    The broker is found by the arguments, the environment (ORBIT_URL, ORBIT_JOIN_FILE), a stored context, or as this user's
    broker on this machine, in that order; BrokerUnreachable names the places that were looked at. The connection is made
    with the first call, or by `async with`. Who waits for results of tasks goes on waiting while their endpoint or the broker
    is away, for `endpoint_away_s` and `broker_away_s` seconds.
    """

    def __init__(
        self,
        url: str | None = None,
        join: str | None = None,
        context: str | None = None,
        *,
        connect_timeout_s: float = CONNECT_S,
        endpoint_away_s: float = ENDPOINT_AWAY_S,
        broker_away_s: float = BROKER_AWAY_S,
    ) -> None:
        self._use(Link(find_broker(url, join, context), ClientParty()), connect_timeout_s)
        self.endpoint_away_s = endpoint_away_s
        self.broker_away_s = broker_away_s
        weakref.finalize(self, self._link.close_soon)  # a client that is dropped leaves no thread behind

    @classmethod
    def over(cls, link: Link, *, on_behalf_of: str = "") -> AsyncClient:
        """A client over a connection that is open already and belongs to somebody else, such as an endpoint's.

        It acts for a user, where the connection's key allows that. Closing it closes the sessions that it has opened.
        """
        client = cls.__new__(cls)
        client._use(link, CONNECT_S)
        client._on_behalf_of = on_behalf_of
        client._is_open = client._is_shared = True
        return client

    @property
    def place(self) -> Place:
        """Where the broker is, as this connection reaches it."""
        return self._link.place

    def _use(self, link: Link, connect_timeout_s: float) -> None:
        self._link = link
        self._port = AsyncPort(link)
        self._connect_timeout_s = connect_timeout_s
        self.endpoint_away_s = ENDPOINT_AWAY_S
        self.broker_away_s = BROKER_AWAY_S
        self._on_behalf_of = ""
        self._is_open = False
        self._is_shared = False  # the connection is somebody else's
        self._homes: dict[str, str] = {}  # session id -> endpoint
        self._endpoints: dict[str, EndpointFacts] = {}
        self._catalogues: dict[bytes, dict[str, dict[str, OperationFacts]]] = {}
        self._plugin_clients: list[AsyncPluginClient] = []
        self._renewals = AsyncRenewals(self, self._port)

    def __repr__(self) -> str:
        state = "connected" if self._link.is_up else "not connected"
        return f"<client of the broker at {self._link.place.address}: {state}>"

    def _repr_html_(self) -> str:
        facts = {"broker": self._link.place.address, "connected": self._link.is_up, "name": self.name, "user": self._link.user}
        return facts_table("ORBIT-ZMQ client", facts)

    async def __aenter__(self) -> AsyncClient:
        await self.connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def name(self) -> str:
        """The name that the broker gave to this client."""
        return self._link.name

    @property
    def is_connected(self) -> bool:
        """Whether the broker is there at this moment."""
        return self._link.is_up

    async def connect(self) -> None:
        """Connect now. BrokerUnreachable or AuthRequired say what stands in the way once `connect_timeout_s` is over.

        It may be called again: a client that was not admitted gets in when it has been invited.
        """
        await self._connect(self._connect_timeout_s)

    async def _connect(self, timeout_s: float) -> None:
        if not self._is_open:
            await self._port.open(min(timeout_s, self._connect_timeout_s))
            self._is_open = True

    async def close(self) -> None:
        """Close the sessions that this client opened, and the connection."""
        silent: set[str] = set()  # endpoints that do not answer; none is waited for twice
        for plugin_client in tuple(self._plugin_clients):
            if self._link.is_up:
                plugin_client.is_silent = plugin_client.endpoint in silent
                await plugin_client.close()
                if plugin_client.is_silent:
                    silent.add(plugin_client.endpoint)
        self._renewals.close()
        await self._port.end_subscriptions()
        if not self._is_shared:
            await self._port.close()

    async def endpoints(self) -> list[AsyncEndpointHandle]:
        """All endpoints that the broker knows, lost ones left out."""
        found = await self._ask_broker("endpoints", {})
        return [AsyncEndpointHandle(self, EndpointFacts.from_body(facts)) for facts in found]

    async def endpoint(self, name: str) -> AsyncEndpointHandle:
        """One endpoint; NotFound when the broker does not know it."""
        return AsyncEndpointHandle(self, await self.resolve(name, refresh=True))

    async def find_endpoint(
        self,
        *,
        plugin: str = "",
        role: str = "",
        scheduler: str = "",
        labels: Mapping[str, str] | None = None,
        deadline_s: float = BROKER_DEADLINE_S,
    ) -> AsyncEndpointHandle:
        """An endpoint that has what is asked for: of two that fit, the one with less to do; NotFound where there is none.

        `plugin` is an instance name or a type, `role` and `scheduler` are those of the host.
        """
        wanted = {"plugin": plugin, "role": role, "scheduler": scheduler, "labels": dict(labels or {})}
        found = await self._ask_broker("resolve", {word: value for word, value in wanted.items() if value}, deadline_s)
        return AsyncEndpointHandle(self, EndpointFacts.from_body(found))

    async def broker_status(self, *, deadline_s: float = BROKER_DEADLINE_S) -> dict[str, Any]:
        """The broker's own report; docs/operating.md describes it."""
        status: dict[str, Any] = await self._ask_broker("status", {}, deadline_s)
        return status

    async def why(
        self, item: str, *, endpoint: str = "", plugin: str = "", session: str = "", deadline_s: float = WHY_S
    ) -> Why:
        """Where a task, a job or a session is, by its id, and why it is not further; docs/operating.md has its fields.

        This client, the broker and the plugins of all endpoints are asked; each plugin has `deadline_s` seconds. NotFound where
        nobody knows the id, with who could not be asked. Conflict where several do: `endpoint`, `plugin` (its instance) and
        `session` say which is meant.
        """
        from orbit_zmq.client._async.why import Question, async_why  # its models are slow to load

        asked = Question(item, endpoint, plugin, session, deadline_s)
        return await async_why(self, self._link, self._on_behalf_of or self._link.user, tuple(self._plugin_clients), asked)

    async def disconnect(self, endpoint: str) -> None:
        """End an endpoint of this user, or, for an admin, anybody's: its calls end, and its process.

        Whatever started it may start it again. Raises NotFound, NotPermitted.
        """
        await self._ask_broker("disconnect", {"endpoint": endpoint})

    async def drain(self) -> None:
        """Stop the broker for good (role admin)."""
        await self._ask_broker("drain", {})

    async def invite(
        self,
        name: str,
        role: str = "client",
        *,
        user: str | None = None,
        endpoints: Sequence[str] | None = None,
        plugins: Sequence[str] | None = None,
        rights: Sequence[str] | None = None,
        expires_s: float | None = None,
        hosts: Sequence[str] = (),
    ) -> JoinString:
        """A join string that admits one more party; its `encode()` is the text to hand over, and a secret.

        The key pair is made here, and the broker is told its public half. For an admin's key; an endpoint's may do it for
        endpoints below its own name (`hpc1.x`), never with more rights or a later expiry. `user`: whose it is, yours where
        left out. `endpoints`, `plugins`: patterns of what it may call; all where left out. `hosts`: how the party reaches
        the broker. Raises NotPermitted, Conflict for a name that is taken, InvalidArgument.
        """
        keys = make_keypair()
        wanted: dict[str, Any] = {"key": keys.public, "name": name, "role": role, "user": user, "expires_s": expires_s}
        for word, patterns in {"endpoints": endpoints, "plugins": plugins, "rights": rights}.items():
            wanted[word] = None if patterns is None else list(patterns)
        given = {word: value for word, value in wanted.items() if value is not None}
        answer = await self._ask_broker("invite", given, on_behalf_of="")
        return invitation(answer, keys, name, role, hosts=hosts, seen_at=self._link.place.address)

    async def keys(self, name: str | None = None) -> list[dict[str, Any]]:
        """The keys that are admitted, or the one of that name; an endpoint sees its own and those that it has minted."""
        found: list[dict[str, Any]] = await self._ask_broker("list_keys", {"name": name} if name else {}, on_behalf_of="")
        return found

    async def renew(self, name: str, expires_s: float) -> dict[str, Any]:
        """Have a key expire no earlier than so many seconds from now: its entry. For whoever may revoke it; one that an
        endpoint has minted expires with its own at the latest."""
        entry: dict[str, Any] = await self._ask_broker("renew", {"name": name, "expires_s": expires_s}, on_behalf_of="")
        return entry

    async def revoke(self, name: str) -> dict[str, Any]:
        """Admit a key no more, nor those that it has minted: `{revoked: [names], connections: how many were cut}`.

        When this returns, none of them hears or calls anything any more.
        """
        struck: dict[str, Any] = await self._ask_broker("revoke", {"name": name}, on_behalf_of="")
        return struck

    async def subscribe(
        self,
        callback: Callable[..., Any],
        *,
        endpoint: str = "",
        plugin: str = "",
        session: str = "",
        topic: str = "",
        with_meta: bool = False,
        on_missed: Callable[[str, int], Any] | None = None,
    ) -> AsyncSubscription:
        """Have `callback(endpoint, plugin, topic, data)` called for this user's events; in force when this returns.

        Each filter is optional. With `with_meta` there is a fifth argument, `{number, time, session}`. Where events come too
        fast for the callback, or the endpoint does not have them any more, their number is logged, added to `missed` of what
        this answers, and told as `on_missed(endpoint, count)`. Callbacks run beside everything else and may be slow.
        A session with a ttl that `session` names lives on meanwhile.
        """
        subscription = await self._listen(endpoint=endpoint, plugin=plugin, session=session, topic=topic)
        subscription.start(caller_of(callback, with_meta), on_missed)
        return subscription

    async def events(
        self, *, endpoint: str = "", plugin: str = "", session: str = "", topic: str = ""
    ) -> AsyncIterator[Event | Missed]:
        """This user's events, one after the other, from the first step on; a Missed stands for those that could not be had."""
        subscription = await self._listen(endpoint=endpoint, plugin=plugin, session=session, topic=topic)
        try:
            async for item in subscription.items():
                yield item
        finally:
            await subscription.unsubscribe()

    async def cursor(self) -> dict[bytes, int]:
        """Where this user's events stand: incarnation of an endpoint -> number of the last one."""
        audiences = {"audiences": [self._on_behalf_of or self._link.user]}
        await self._ask_broker("keys", audiences, on_behalf_of="")  # who has them may ask
        said = await self._ask_broker("tips", audiences, on_behalf_of="")
        return {stream[2]: stream[4] for stream in said["streams"]}

    async def listen_after(self, cursor: Mapping[bytes, int]) -> AsyncSubscription:
        """This user's events after a cursor, as far as the endpoints still have them; `take` gives what has come.

        A stream that is not in the cursor is heard from its beginning. One such subscription a user and connection.
        """
        await self.connect()
        listening, mailbox = await self._port.listen(LISTEN_S, audience=self._on_behalf_of, cursor=dict(cursor))
        return AsyncSubscription(self._port, listening, mailbox, {})

    async def on_topology_change(self, callback: Callable[[dict[str, dict[str, Any]]], Any]) -> AsyncSubscription:
        """Have `callback({name: {role, state, plugins}})` called now and whenever an endpoint comes, goes, or changes.

        It gets the whole view each time; an endpoint that has gone is in it once, as `lost`.
        """
        await self.connect()
        listening, mailbox = await self._port.listen(LISTEN_S, is_topology=True)
        subscription = AsyncSubscription(self._port, listening, mailbox, {"stream": "topology"})
        subscription.start(callback, None)
        return subscription

    async def topology(self) -> dict[str, dict[str, Any]]:
        """The endpoints that there are now: `{name: {role, state, plugins}}`."""
        view: dict[str, dict[str, Any]] = (await self._ask_broker("topology", {}))["endpoints"]
        return view

    async def _listen(self, *, topic: str, **filters: str) -> AsyncSubscription:
        await self.connect()
        listening, mailbox = await self._port.listen(
            LISTEN_S, topics=wire_topics(topic), audience=self._on_behalf_of, **filters
        )
        heard = HeardSession(filters["session"], filters["endpoint"], filters["plugin"])
        if not heard.session:
            return AsyncSubscription(self._port, listening, mailbox, {**filters, "topic": topic})
        self._renewals.begin(heard)
        end = partial(self._renewals.end, heard)
        return AsyncSubscription(self._port, listening, mailbox, {**filters, "topic": topic}, end)

    async def get_plugin(self, endpoint: str, plugin: str, **register_arguments: Any) -> AsyncPluginClient:
        """A client of one plugin on one endpoint, with a new session that ends with it.

        `endpoint` may be `*`, for one that has the plugin; `plugin` is an instance name, or a type of which the endpoint has
        exactly one. The arguments are those of the plugin's register_session.
        """
        facts = await (self._find_anywhere(plugin) if endpoint == ANYWHERE else self.resolve(endpoint, refresh=True))
        return await self._open_plugin(facts, facts.instance(plugin), register_arguments)

    async def attach(
        self, session: str, *, endpoint: str = "", plugin: str = "", **register_arguments: Any
    ) -> AsyncPluginClient:
        """A client of a session that is there, which this process holds from now on; it goes on when the client is closed.

        Any process of the session's user may attach, on any machine. The class is that of the session's plugin, and so are the
        arguments: for tasks, `consumer` names who goes on reading results where the consumer of that name has got to. With
        `hold=False` the session stays with the process that holds it. `endpoint` and `plugin` say which session is meant where
        its id does not: you have a session `default` at each plugin, which is opened where it is not. NotFound where there is
        no such session, Conflict where there are several, SessionClosed and SessionExpired where there is none any more.
        """
        if session == DEFAULT:
            facts = await self._home_of_default(endpoint, plugin)
            return await self._open_plugin(facts, facts.instance(plugin), {**register_arguments, "sid": session})
        facts = await (self.resolve(endpoint, refresh=True) if endpoint else self.find_session(session))
        instance = facts.instance(plugin) if plugin else ""
        status = await self.call(facts.name, instance, "session_status", session=session)
        return await self._open_plugin(facts, str(status["plugin"]), {**register_arguments, "sid": session})

    async def _home_of_default(self, endpoint: str, plugin: str) -> EndpointFacts:
        """The endpoint where a user's session `default` of a plugin is meant to be."""
        hint = f"Say which: attach({DEFAULT!r}, endpoint='hpc1', plugin='rhapsody')."
        if not plugin:
            raise InvalidArgument(f"you have a session {DEFAULT} at each plugin of each endpoint", hint=hint)
        if endpoint:
            return await self.resolve(endpoint, refresh=True)
        having = [handle.facts for handle in await self.endpoints() if handle.facts.has(plugin)]
        if not having:
            raise NotFound(f"no endpoint has a plugin {plugin}", hint="client.endpoints() lists what there is.")
        if len(having) > 1:
            names = sorted(facts.name for facts in having)
            raise Conflict(f"{', '.join(names)} have a plugin {plugin}", hint=hint, details={"endpoints": names})
        return having[0]

    async def _open_plugin(
        self, facts: EndpointFacts, instance: str, register_arguments: Mapping[str, Any]
    ) -> AsyncPluginClient:
        plugin = facts.plugins.get(instance, {}).get("plugin", instance)
        kind = async_client_class(plugin) or AsyncPluginClient
        plugin_client = kind(self, facts.name, instance, (await self.operations(facts)).get(instance, {}))
        self._plugin_clients.append(plugin_client)
        try:
            await plugin_client.register_session(**register_arguments)
        except BaseException:
            self._plugin_clients.remove(plugin_client)
            raise
        return plugin_client

    async def call(
        self,
        endpoint: str,
        plugin: str,
        operation: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        session: str = "",
        deadline_s: float | None = None,
        trace: str = "",
    ) -> Any:
        """Call one operation and return its result; an AsyncIterator of bytes where the result is a stream.

        `endpoint` may be `*`, for one that has the plugin. With a session id, endpoint and plugin may be left empty. `trace`
        stands in what the endpoint logs of the call. Raises the typed error that the endpoint or the broker answers;
        DeadlineExceeded after `deadline_s` seconds (the operation's own where none is given), in which the broker is asked for
        the endpoint, too.
        """
        began = time.monotonic()
        facts, plugin, known = await self._find(endpoint, plugin, operation, session, deadline_s)
        values = dict(arguments or {})
        stream = values.pop(known.stream_in, None) if known.stream_in else None
        if known.stream_in and stream is None:
            raise InvalidArgument(f"{plugin}.{operation} needs its stream {known.stream_in}")
        body, flags = pack_body(values)
        header = Header(Kind.REQUEST, endpoint=facts.name, plugin=plugin, session=session, operation=operation, trace=trace)
        return await self._send(header, body, flags, known, deadline_s and _left_s(deadline_s, began), stream)

    async def call_raw(
        self,
        endpoint: str,
        plugin: str,
        operation: str,
        body: bytes,
        *,
        session: str = "",
        deadline_s: float | None = None,
        trace: str = "",
    ) -> bytes:
        """Call an operation that takes and gives plain bytes."""
        began = time.monotonic()
        facts, plugin, known = await self._find(endpoint, plugin, operation, session, deadline_s)
        header = Header(Kind.REQUEST, endpoint=facts.name, plugin=plugin, session=session, operation=operation, trace=trace)
        result: bytes = await self._send(header, body, RAW, known, deadline_s and _left_s(deadline_s, began), None)
        return result

    async def _find(
        self, endpoint: str, plugin: str, operation: str, session: str, deadline_s: float | None
    ) -> tuple[EndpointFacts, str, OperationFacts]:
        """Where a call goes: the endpoint, the plugin's instance, and what is known of the operation."""
        if deadline_s is not None:
            check_deadline(deadline_s)
        within_s = BROKER_DEADLINE_S if deadline_s is None else min(deadline_s, BROKER_DEADLINE_S)
        began = time.monotonic()
        if endpoint == ANYWHERE:
            facts = await self._find_anywhere(plugin, within_s)
            plugin = facts.instance(plugin)
        elif endpoint or not session:
            facts = await self.resolve(endpoint, within_s=within_s)
        else:
            facts = await self.find_session(session, within_s=within_s)
        operations = await self.operations(facts, within_s=max(within_s - (time.monotonic() - began), LEAST_S))
        return facts, plugin, operations.get(plugin, {}).get(operation, UNKNOWN)

    async def _find_anywhere(self, plugin: str, within_s: float = BROKER_DEADLINE_S) -> EndpointFacts:
        facts = (await self.find_endpoint(plugin=plugin, deadline_s=within_s)).facts
        self._endpoints[facts.name] = facts  # the call goes to the incarnation that was chosen
        return facts

    async def resolve(self, endpoint: str, *, refresh: bool = False, within_s: float = BROKER_DEADLINE_S) -> EndpointFacts:
        """What the broker knows of an endpoint; asked once and again after it has restarted."""
        facts = self._endpoints.get(endpoint)
        if not endpoint:
            raise InvalidArgument("the name of the endpoint is empty")
        if facts is None or refresh:
            facts = EndpointFacts.from_body(
                await self._ask_broker("resolve", {"endpoint": endpoint}, min(within_s, BROKER_DEADLINE_S))
            )
            self._endpoints[endpoint] = facts
        return facts

    async def find_session(self, session: str, *, within_s: float = BROKER_DEADLINE_S) -> EndpointFacts:
        """The endpoint where a session of this user is; Conflict where its id is at several."""
        if session in self._homes:  # a session never moves
            return await self.resolve(self._homes[session], within_s=within_s)
        facts = EndpointFacts.from_body(await self._ask_broker("resolve", {"session": session}, within_s))
        while len(self._homes) >= HOMES:
            del self._homes[next(iter(self._homes))]
        self._homes[session] = facts.name
        return facts

    def forget(self, plugin_client: AsyncPluginClient) -> None:
        """The plugin client has been closed."""
        if plugin_client in self._plugin_clients:
            self._plugin_clients.remove(plugin_client)

    async def operations(
        self, facts: EndpointFacts, *, within_s: float = BROKER_DEADLINE_S
    ) -> dict[str, dict[str, OperationFacts]]:
        """What the plugins of an endpoint can do: plugin instance -> operation -> facts."""
        if not facts.catalogue:
            return {}
        if facts.catalogue not in self._catalogues:
            try:
                packed = await self._ask_broker("describe", {"catalogue": facts.catalogue}, within_s)
            except NotFound:  # the endpoint has not told it yet
                return {}
            self._catalogues[facts.catalogue] = operations_of(unpack_body(packed))
        return self._catalogues[facts.catalogue]

    async def _ask_broker(
        self,
        operation: str,
        arguments: dict[str, Any],
        deadline_s: float = BROKER_DEADLINE_S,
        on_behalf_of: str | None = None,
    ) -> Any:
        began = time.monotonic()
        await self._connect(deadline_s)
        left_s = _left_s(deadline_s, began)
        body, flags = pack_body(arguments)
        user = self._on_behalf_of if on_behalf_of is None else on_behalf_of
        header = Header(Kind.REQUEST, endpoint=BROKER, operation=operation, flags=IDEMPOTENT, on_behalf_of=user)
        answer, _ = await self._port.call(header, body, flags, left_s)
        return answer.body if answer.flags & RAW else unpack_body(answer.body, answer.flags)

    async def _send(
        self,
        header: Header,
        body: bytes,
        flags: int,
        known: OperationFacts,
        deadline_s: float | None,
        stream: AsyncIterable[bytes] | None,
    ) -> Any:
        if known.idempotent:
            header.flags |= IDEMPOTENT
        header.on_behalf_of = self._on_behalf_of
        header.target = (await self.resolve(header.endpoint)).incarnation
        within_s = known.deadline_s if deadline_s is None else deadline_s
        ends_at = time.monotonic() + within_s
        try:
            answer, chunks = await self._port.call(header, body, flags, within_s, stream)
        except EndpointLost as error:
            left_s = ends_at - time.monotonic()
            if "incarnation" not in error.details or stream is not None or left_s <= 0:
                raise
            facts = await self.resolve(
                header.endpoint, refresh=True, within_s=left_s
            )  # it has restarted, and nothing was executed
            again = Header(
                Kind.REQUEST,
                endpoint=header.endpoint,
                plugin=header.plugin,
                session=header.session,
                operation=header.operation,
                target=facts.incarnation,
                flags=header.flags & IDEMPOTENT,
                on_behalf_of=self._on_behalf_of,
                trace=header.trace,
            )
            answer, chunks = await self._port.call(again, body, flags, max(ends_at - time.monotonic(), LEAST_S))
        if chunks is not None:
            return chunks
        return answer.body if answer.flags & RAW else unpack_body(answer.body, answer.flags)


def _left_s(deadline_s: float, began: float) -> float:
    """What is left of a deadline; all of it where next to nothing has passed, so that it is named as it was given."""
    passed_s = time.monotonic() - began
    return deadline_s if passed_s < NOTHING_S else max(deadline_s - passed_s, LEAST_S)
