"""Feeds: each user's events, listened to once, rendered once, numbered, kept for a while, and shared by all readers.

A reader has a bounded queue; one that does not read is ended, and nobody else notices. After a restart the events that were
numbered before it come again from the endpoints' own memory, under the same numbers. Nothing here knows of HTTP.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import chain, islice, product
from pathlib import Path
from typing import Any

from orbit_gateway.answers import to_json
from orbit_gateway.backend import Backend
from orbit_gateway.identity import Identity
from orbit_gateway.index import RETAIN_S, Index
from orbit_gateway.views import endpoint_list
from orbit_zmq.errors import BrokerUnreachable, OrbitError, ProtocolError, ShuttingDown, TooLarge
from orbit_zmq.log import get_logger
from orbit_zmq.rules.heard import Heard, Missed
from orbit_zmq.wire.body import unpack_body

RETAIN_BYTES = 64 << 20  # of one user's frames
RETAIN_ALL_BYTES = 256 << 20  # of all users' frames; each has an equal part
QUEUE_FRAMES = 16_384  # of one reader; frames are shared, so this is mostly references
QUEUE_BYTES = 16 << 20
TAKE_BYTES = 1 << 20  # what is handed to a connection at once
SLICE = 256  # frames of the past, likewise
GONE_IDS = 1 << 20
LOOK_S = 15.0
READY_S = 10.0  # for a user's events to be listened to
RECOVER_S = 5.0  # for events of before a restart to come again
PAUSE_S = 0.5
Key = tuple[str, str, str, str]  # endpoint, plugin, session, topic; empty: any

log = get_logger("orbit_gateway")


@dataclass(slots=True)
class Entry:
    """One frame in a user's memory."""

    id: int
    key: Key
    frame: bytes
    at: float


@dataclass(eq=False)
class Reader:
    """One connection: what it wants, and what waits for it."""

    identity: Identity
    wants: frozenset[Key]
    queue: deque[bytes] = field(default_factory=deque)
    size: int = 0
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""  # why it is ended
    reach: frozenset[tuple[str, str]] = frozenset()  # (endpoint, instance): what its last view of the topology had

    def may_hear(self, key: Key) -> bool:
        """By the name of the instance, or, as the view knows it, by that of its type."""
        return self.identity.may_reach(key[0], key[1]) or key[:2] in self.reach

    def takes(self, key: Key) -> bool:
        """Whether an event is one of those that were asked for and may be had."""
        return any(one in self.wants for one in _keys_of(key)) and self.may_hear(key)

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False where there is no room, which ends the reader."""
        if len(self.queue) >= QUEUE_FRAMES or self.size + len(frame) > QUEUE_BYTES:
            self.end("too-slow")
            return False
        self.queue.append(frame)
        self.size += len(frame)
        return True

    def take(self) -> bytes:
        """What waits; where that is much, a part of it, and `wake` stays set."""
        if self.size <= TAKE_BYTES:
            self.wake.clear()
            data = b"".join(self.queue)
            self.queue.clear()
        else:
            taken, size = [], 0
            while self.queue and size < TAKE_BYTES:
                taken.append(self.queue.popleft())
                size += len(taken[-1])
            data = b"".join(taken)
        self.size -= len(data)
        return data

    def end(self, reason: str) -> None:
        """Say why, and no more."""
        self.queue.clear()
        self.size, self.reason = 0, reason
        self.wake.set()


class Feed:
    """One user's events: listened to, numbered, kept for a while, and handed to the readers."""

    def __init__(self, hub: Hub, user: str) -> None:
        self.user = user
        self.readers: set[Reader] = set()
        self.idle_since = time.monotonic()
        self.ready = asyncio.Event()
        self._hub = hub
        self._views: dict[Key, dict[Reader, None]] = {}
        self._kept: deque[Entry] = deque()
        self._kept_bytes = 0
        self._gone = array("Q")  # running numbers whose frames are not kept any more
        self._owed: dict[bytes, int] = {}  # streams whose events of before a restart have not come again up to that number

    async def run(self) -> None:
        """Listen, for as long as this is not canceled."""
        while True:
            try:
                await self._listen()
            except OrbitError as error:
                log.warning("events-not-heard", user=self.user, code=error.code, reason=error.message)
            except Exception:  # the top of a task: its readers would wait for ever
                log.exception("feed-failed", user=self.user)
            await asyncio.sleep(PAUSE_S)

    def add(self, reader: Reader, after: int | None) -> Iterator[bytes]:
        """A reader begins; what it has missed since that number, in slices of a fair size."""
        self.readers.add(reader)
        for key in reader.wants:
            self._views.setdefault(key, {})[reader] = None
        return iter(()) if after is None else self._since(reader, after)

    def remove(self, reader: Reader) -> None:
        """A reader has gone. Harmless when it had."""
        self.readers.discard(reader)
        self.idle_since = time.monotonic()
        for key in reader.wants:
            readers = self._views.get(key, {})
            readers.pop(reader, None)
            if not readers:
                self._views.pop(key, None)

    def tick(self, now: float) -> None:
        """Forget what is too old or too much."""
        limit = self._hub.retain_bytes
        while self._kept and (now - self._kept[0].at > RETAIN_S or self._kept_bytes > limit):
            entry = self._kept.popleft()
            self._kept_bytes -= len(entry.frame)
            insort(self._gone, entry.id)
        if len(self._gone) > GONE_IDS:
            del self._gone[: GONE_IDS // 2]

    async def _listen(self) -> None:
        client, index = self._hub.backend.client_of(self.user), self._hub.index
        stands = await client.cursor()
        if self.user not in index.users:
            index.begin(self.user, stands)
        if not self.ready.is_set():
            self._kept.clear()
        cursor = index.cursor_of(self.user)
        self._owed = {incarnation: last for incarnation, last in stands.items() if last > cursor.get(incarnation, 0)}
        subscription = await client.listen_after(cursor)
        try:
            with suppress(TimeoutError):  # what the endpoints do not say by then is gone
                async with asyncio.timeout(RECOVER_S):
                    while self._owed and not self.ready.is_set():
                        self._take(await subscription.take())
            if not self.ready.is_set():
                self._settle()
            items: list[Heard | Missed | None] = []
            while None not in items:
                items = await subscription.take()
                self._take(items)
        finally:
            await subscription.unsubscribe()

    def _settle(self) -> None:
        """What was numbered before a restart has come again, or will not."""
        index = self._hub.index
        have = {entry.id for entry in self._kept}
        self._gone = array("Q", (id_ for id_ in index.ids_of(self.user) if id_ not in have))
        if not self._owed:
            index.settle(self.user)
        self._kept = deque(sorted(self._kept, key=lambda entry: entry.id))
        self.ready.set()

    def _take(self, items: list[Heard | Missed | None]) -> None:
        """Number, write down, and only then hand on."""
        fresh: list[Entry] = []
        now = time.monotonic()
        for item in items:
            entry = self._entry_of(item, now)
            if entry is not None:
                fresh.append(entry)
        self._hub.index.flush()
        woken: set[Reader] = set()
        for entry in fresh:
            self._kept.append(entry)
            self._kept_bytes += len(entry.frame)
            if self._views:
                self._hand_on(entry, woken)
        for reader in woken:
            reader.wake.set()
        self._hub.events += len(fresh)
        self.tick(now)

    def _entry_of(self, item: Heard | Missed | None, now: float) -> Entry | None:
        index = self._hub.index
        if isinstance(item, Missed):
            self._hub.missed += item.count
            id_, _ = index.number(self.user, b"", index.last + 1)
            return Entry(id_, (item.endpoint, "", "", ""), missed_frame(item.count, item.endpoint, id_), now)
        if item is None:
            return None
        header = item.header
        if self._owed and header.id >= self._owed.get(item.incarnation, header.id + 1):
            del self._owed[item.incarnation]
        id_, is_new = index.number(self.user, item.incarnation, header.id)
        if self.ready.is_set() and not is_new:
            return None  # too late: who came back meanwhile has been told that it was missed
        said: dict[str, Any] = {"endpoint": item.endpoint, "plugin": header.plugin, "topic": header.operation}
        meta = {"session": header.session, "number": header.id, "time": header.happened_at}
        try:
            said["data"] = unpack_body(item.body, header.flags)
            frame = frame_of({"topic": "notification", "data": said, "meta": meta}, id_)
        except (ProtocolError, TooLarge) as error:
            log.warning("event-not-shown", endpoint=item.endpoint, plugin=header.plugin, reason=error.message)
            self._hub.missed += 1
            return Entry(id_, (item.endpoint, "", "", ""), missed_frame(1, item.endpoint, id_), now)
        return Entry(id_, (item.endpoint, header.plugin, header.session, header.operation), frame, now)

    def _hand_on(self, entry: Entry, woken: set[Reader]) -> None:
        is_missed = not entry.key[3]
        wanted = self.readers if is_missed else {one for key in _keys_of(entry.key) for one in self._views.get(key, ())}
        for reader in list(wanted):
            if not reader.may_hear(entry.key):
                continue
            if self.give(reader, entry.frame):
                woken.add(reader)

    def give(self, reader: Reader, frame: bytes) -> bool:
        """Queue a frame for a reader; False where it has not read for so long that it is ended."""
        if reader.put(frame):
            return True
        self.remove(reader)
        self._hub.cut_off += 1
        log.warning("reader-cut-off", user=self.user, token=reader.identity.name, frames=QUEUE_FRAMES)
        return False

    def _since(self, reader: Reader, after: int) -> Iterator[bytes]:
        if after > self._hub.index.last:
            return iter([missed_frame(None, None, self._hub.index.last)])  # another gateway's numbers
        frames = [entry for entry in self._kept if entry.id > after]
        gone = len(self._gone) - bisect_right(self._gone, after)
        first = [missed_frame(gone, None, None if frames else self._gone[-1])] if gone else []
        wanted = (entry.frame for entry in frames if not entry.key[3] or reader.takes(entry.key))
        return chain(first, iter(lambda: b"".join(islice(wanted, SLICE)), b""))


class Hub:
    """All feeds of a gateway, and what they have in common: the connection, the index, the topology."""

    def __init__(self, backend: Backend, directory: Path) -> None:
        self.backend = backend
        self.index = Index(directory)
        self.events = self.missed = self.cut_off = 0
        self._feeds: dict[str, tuple[Feed, asyncio.Task[None]]] = {}
        self.is_closed = False

    async def run(self) -> None:
        """Go on where an earlier process has ended, and tell readers of the topology, until canceled."""
        for user in self.index.users:
            self._feed_of(user)
        news = asyncio.Event()
        while True:
            try:
                await self.backend.own.on_topology_change(lambda view: news.set())
                break
            except OrbitError as error:
                log.warning("topology-not-heard", code=error.code, reason=error.message)
                await asyncio.sleep(PAUSE_S)
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await news.wait()
            except TimeoutError:
                self._look_around()
                continue
            news.clear()
            for feed, _ in tuple(self._feeds.values()):
                await self._tell_topology(feed)

    def close(self) -> None:
        """End all streams; their readers come back when there is a gateway again."""
        self.is_closed = True
        for feed, task in self._feeds.values():
            task.cancel()
            for reader in tuple(feed.readers):
                reader.end("shutting-down")

    def figures(self) -> dict[str, int]:
        """For whoever counts."""
        readers = sum(len(feed.readers) for feed, _ in self._feeds.values())
        counts = {"events": self.events, "missed": self.missed, "cut_off": self.cut_off}
        return {"readers": readers, "users": len(self._feeds), **counts, "last_id": self.index.last}

    @property
    def retain_bytes(self) -> int:
        """What each user's feed may keep."""
        return min(RETAIN_BYTES, RETAIN_ALL_BYTES // max(1, len(self._feeds)))

    async def open(self, reader: Reader, after: int | None) -> tuple[Feed, Iterable[bytes]]:
        """The feed of a reader's user with the reader in it, and the frames that come first."""
        if self.is_closed:
            raise ShuttingDown("the gateway is ending")
        await self.backend.client(reader.identity.user)
        feed = self._feed_of(reader.identity.user)
        try:
            async with asyncio.timeout(READY_S):
                await feed.ready.wait()
        except TimeoutError:
            raise BrokerUnreachable("the broker's events cannot be heard at the moment") from None
        last = self.index.last if after is None else None
        slices = feed.add(reader, after)  # first, so that no change of the topology is between the view and the news
        try:
            view = await endpoint_list(self.backend, reader.identity)
        except BaseException:
            feed.remove(reader)
            raise
        reader.reach = _reach_of(view)
        return feed, chain([frame_of({"topic": "topology", "data": view}, last)], slices)

    def _feed_of(self, user: str) -> Feed:
        known = self._feeds.get(user)
        if known is None:
            feed = Feed(self, user)
            known = self._feeds[user] = (feed, asyncio.get_running_loop().create_task(feed.run()))
        return known[0]

    def _look_around(self) -> None:
        """A user without readers is listened to for as long as one may come back for what is kept."""
        now = time.monotonic()
        for user, (feed, task) in tuple(self._feeds.items()):
            feed.tick(now)
            if not feed.readers and now - feed.idle_since > RETAIN_S:
                task.cancel()
                del self._feeds[user]
                self.index.forget(user)

    async def _tell_topology(self, feed: Feed) -> None:
        frames: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[bytes, frozenset[tuple[str, str]]]] = {}
        for reader in tuple(feed.readers):
            identity = reader.identity
            scope = (identity.endpoints, identity.plugins)
            if scope not in frames:
                try:
                    view = await endpoint_list(self.backend, identity)
                except OrbitError:
                    return  # the broker is away; its return is news
                frames[scope] = frame_of({"topic": "topology", "data": view}, None), _reach_of(view)
            frame, reader.reach = frames[scope]
            if reader in feed.readers and feed.give(reader, frame):
                reader.wake.set()


def _reach_of(view: dict[str, Any]) -> frozenset[tuple[str, str]]:
    return frozenset((name, plugin) for name, entry in view["endpoints"].items() for plugin in entry["plugins"])


def _keys_of(key: Key) -> Iterator[Key]:
    """What filters that take an event may say."""
    endpoint, plugin, session, topic = ((part, "") if part else ("",) for part in key)
    return product(endpoint, plugin, session, topic)


def frame_of(message: object, id_: int | None) -> bytes:
    """One frame; JSON has no line breaks in it."""
    said = b"" if id_ is None else b"id: %d\n" % id_
    return said + b"data: " + to_json(message) + b"\n\n"


def missed_frame(count: int | None, endpoint: str | None, id_: int | None) -> bytes:
    """So many events could not be had; None: it is not known how many, or of which endpoint."""
    return frame_of({"topic": "missed", "data": {"endpoint": endpoint, "count": count}}, id_)
