"""Events through real processes and sockets: what subscribers hear, what they are told when they cannot, who hears nothing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any

import msgpack
import pytest
import zmq
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from lab import Lab, wait_until

from orbit_zmq import AsyncClient, Client, Endpoint, Plugin, PluginSession, operation
from orbit_zmq.errors import InvalidArgument, TooLarge
from orbit_zmq.paths import state_dir
from orbit_zmq.place import find_broker
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keylist import KeyList
from orbit_zmq.security.keys import KEY_LIST


def has_heard(heard: list[Any], count: int) -> bool:
    return len(heard) == count


class NoisySession(PluginSession):
    @operation(effect="write")
    async def say(self, topic: str = "news", first: int = 0, count: int = 1) -> int:
        for number in range(first, first + count):
            self.notify(topic, {"number": number})
        return count

    @operation(effect="write")
    async def say_in_threads(self, threads: int, count: int) -> None:
        def run(thread: int) -> None:
            for number in range(count):
                self.notify(f"thread-{thread}", number)

        await asyncio.gather(*(asyncio.to_thread(run, thread) for thread in range(threads)))

    @operation(effect="write")
    async def say_too_much(self) -> None:
        self.notify("news", b"x" * 40_000)

    @operation(effect="write")
    async def say_number_keys(self) -> None:
        self.notify("news", {0: "gpu0"})

    @operation(effect="write")
    async def say_nonsense(self, count: int) -> None:
        for _ in range(count):
            self.notify_packed("news", msgpack.packb({0: "gpu0"}))

    @operation(effect="write")
    async def say_batch(self, numbers: list[int]) -> None:
        self.notify("task_status_batch", {"tasks": [{"number": number} for number in numbers]})


class NoisyPlugin(Plugin):
    plugin_name = "noisy"
    session_class = NoisySession

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.views: list[dict[str, Any]] = []

    async def on_topology_change(self, endpoints: dict[str, Any]) -> None:
        self.views.append(endpoints)

    @operation(effect="write")
    async def announce(self, text: str) -> None:
        self.send_notification("announcement", text)


class Heard(list[tuple[Any, ...]]):
    """A callback that remembers."""

    def __call__(self, *event: Any) -> None:
        self.append(event)

    def numbers(self) -> list[int]:
        return [event[3]["number"] for event in self]


@pytest.fixture
def endpoint(lab: Lab) -> Iterator[Endpoint]:
    with Endpoint("hpc1", url=lab.url, plugins=[NoisyPlugin]) as made:
        yield made


def test_an_event_reaches_its_subscriber_with_its_facts(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard, with_meta = Heard(), Heard()
    client.subscribe(heard)
    client.subscribe(with_meta, with_meta=True)
    noisy = client.get_plugin("hpc1", "noisy")
    noisy.say()

    wait_until(lambda: heard and with_meta)
    assert heard == [("hpc1", "noisy", "news", {"number": 0})]
    meta = with_meta[0][4]
    assert (meta["number"], meta["session"]) == (1, noisy.sid) and abs(meta["time"] - time.time()) < 60


def test_filters_take_what_they_name_and_see_no_gap_on_a_busy_session(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    noisy, other = client.get_plugin("hpc1", "noisy"), client.get_plugin("hpc1", "noisy")
    rare, mine, elsewhere = Heard(), Heard(), Heard()
    subscription = client.subscribe(rare, topic="rare")
    client.subscribe(mine, session=other.sid, plugin="noisy", endpoint="hpc1")
    client.subscribe(elsewhere, endpoint="hpc2")
    for number in range(20):
        noisy.say("noise", count=200)
        noisy.say("rare", first=number)
    other.say("noise", count=3)

    wait_until(lambda: len(rare) == 20 and len(mine) == 3)
    assert rare.numbers() == list(range(20))
    assert subscription.missed == 0 and elsewhere == []
    assert client.broker_status()["events"]["missed"] == 0


def test_a_slow_callback_delays_nobody_and_an_ended_subscription_hears_nothing(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    noisy = client.get_plugin("hpc1", "noisy")
    release, quick, ended = threading.Event(), Heard(), Heard()
    client.subscribe(lambda *event: release.wait(100))
    client.subscribe(quick)
    subscription = client.subscribe(ended)
    noisy.say()
    wait_until(lambda: quick and ended)
    subscription.unsubscribe()
    subscription.unsubscribe()
    noisy.say()

    wait_until(lambda: len(quick) == 2)
    assert noisy.ping() == {} and len(ended) == 1
    release.set()


def test_a_callback_that_raises_hears_the_next_event(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard = Heard()

    def callback(*event: Any) -> None:
        heard(*event)
        raise ValueError("of the user")

    client.subscribe(callback)
    client.get_plugin("hpc1", "noisy").say(count=2)

    wait_until(lambda: len(heard) == 2)


@pytest.mark.parametrize("error", [SystemExit(1), asyncio.CancelledError()], ids=repr)
def test_a_callback_that_ends_its_thread_or_task_hears_the_next_event(
    lab: Lab, endpoint: Endpoint, error: BaseException
) -> None:
    client = lab.client()
    noisy = client.get_plugin("hpc1", "noisy")
    heard = Heard()

    def callback(*event: Any) -> None:
        heard(*event)
        raise error

    async def callback_of_task(*event: Any) -> None:
        callback(*event)

    client.subscribe(callback)
    noisy.say(count=2)
    wait_until(lambda: len(heard) == 2)

    async def listen() -> None:
        async with AsyncClient(url=lab.url, connect_timeout_s=60) as other:
            await other.subscribe(callback_of_task)
            await asyncio.to_thread(noisy.say, count=2)
            await asyncio.to_thread(wait_until, lambda: len(heard) == 6)

    asyncio.run(listen())


def test_a_client_that_is_closed_calls_back_no_more(lab: Lab, endpoint: Endpoint) -> None:
    noisy = lab.client().get_plugin("hpc1", "noisy")
    client = lab.client()
    heard, begun, release = Heard(), threading.Event(), threading.Event()

    def callback(*event: Any) -> None:
        heard(*event)
        begun.set()
        release.wait(100)

    def threads() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "orbit-events"}

    before = threads()
    subscription = client.subscribe(callback)
    noisy.say(count=20)
    assert begun.wait(60)
    client.close()
    assert "ended" in repr(subscription)
    release.set()
    wait_until(lambda: threads() <= before)
    assert len(heard) == 1


def test_a_callback_may_close_its_client(lab: Lab, endpoint: Endpoint) -> None:
    noisy = lab.client().get_plugin("hpc1", "noisy")

    async def listen() -> None:
        client, heard, closed = AsyncClient(url=lab.url, connect_timeout_s=60), Heard(), asyncio.Event()

        async def callback(*event: Any) -> None:
            heard(*event)
            await client.close()
            closed.set()

        subscription = await client.subscribe(callback)
        await asyncio.to_thread(noisy.say, count=3)
        await asyncio.wait_for(closed.wait(), 60)
        assert len(heard) == 1 and "ended" in repr(subscription)

    asyncio.run(listen())


def test_an_event_that_cannot_be_read_is_refused_where_it_is_sent_or_counted_as_missed(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard, missed = Heard(), Heard()
    subscription = client.subscribe(heard, on_missed=missed)
    noisy = client.get_plugin("hpc1", "noisy")
    with pytest.raises(InvalidArgument, match="its key 0 is int, not text"):
        noisy.say_number_keys()
    noisy.say_nonsense(count=2)
    noisy.say()

    wait_until(lambda: heard and len(missed) == 2)
    assert heard.numbers() == [0]
    assert subscription.missed == 2 and missed == [("hpc1", 1)] * 2


def test_sessions_notify_from_any_thread_and_plugins_as_well(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard = Heard()
    client.subscribe(heard)
    noisy = client.get_plugin("hpc1", "noisy")
    noisy.say_in_threads(threads=4, count=250)
    noisy.announce(text="hello")

    wait_until(lambda: len(heard) == 1001)
    for thread in range(4):
        assert [event[3] for event in heard if event[2] == f"thread-{thread}"] == list(range(250))
    assert heard[-1] == ("hpc1", "noisy", "announcement", "hello")


def test_what_is_too_large_for_an_event_is_an_error_and_notify_alone_does_nothing(lab: Lab, endpoint: Endpoint) -> None:
    noisy = lab.client().get_plugin("hpc1", "noisy")
    with pytest.raises(TooLarge, match="32768"):
        noisy.say_too_much()
    NoisySession("alone").notify("news", {})


def test_batches_and_single_events_are_heard_as_the_subscriber_asks(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    each, batches = Heard(), Heard()
    client.subscribe(each, topic="task_status")
    client.subscribe(batches, topic="task_status_batch")
    noisy = client.get_plugin("hpc1", "noisy")
    noisy.say_batch(numbers=[1, 2])
    noisy.say("task_status", first=3)

    wait_until(lambda: len(each) == 3 and len(batches) == 2)
    assert each.numbers() == [1, 2, 3]
    assert [event[3]["tasks"] for event in batches] == [[{"number": 1}, {"number": 2}], [{"number": 3}]]


def test_an_asyncio_client_hears_by_callbacks_and_by_iterating(lab: Lab, endpoint: Endpoint) -> None:
    async def main() -> tuple[list[Any], list[Any]]:
        heard: list[Any] = []
        iterated: list[Any] = []

        async def callback(*event: Any) -> None:
            await asyncio.sleep(0)
            heard.append(event)

        async with AsyncClient(url=lab.url, connect_timeout_s=60) as client, await client.get_plugin("hpc1", "noisy") as noisy:
            subscription = await client.subscribe(callback, topic="news")
            async for event in client.events(topic="news"):
                iterated.append(event)
                if len(iterated) == 3:
                    break
                await noisy.call("say", first=len(iterated))
            await subscription.unsubscribe()
        return heard, iterated

    async def with_a_first_event() -> tuple[list[Any], list[Any]]:
        async with asyncio.timeout(100), asyncio.TaskGroup() as group:
            going = group.create_task(main())
            async with (
                AsyncClient(url=lab.url, connect_timeout_s=60) as other,
                await other.get_plugin("hpc1", "noisy") as noisy,
            ):
                while not going.done():
                    await noisy.call("say")
                    await asyncio.sleep(0.05)
        return going.result()

    heard, iterated = asyncio.run(with_a_first_event())

    assert heard and {event[2] for event in heard} == {"news"}
    assert [type(event).__name__ for event in iterated] == ["Event"] * 3


class DroppingSubscriber:
    """A SUB socket that loses what a test names."""

    def __init__(self, socket: Any, drops: Any) -> None:
        self._socket = socket
        self._drops = drops

    def recv_multipart(self, *arguments: Any) -> list[bytes]:
        while True:
            frames: list[bytes] = self._socket.recv_multipart(*arguments)
            if not self._drops(frames):
                return frames

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Losses:
    """Loses the next publications."""

    def __init__(self, client: Client) -> None:
        self.count = 0
        self.lost = 0
        sockets: Any = client._link._sockets
        make = sockets.subscriber

        def subscriber(*arguments: Any, **named: Any) -> tuple[Any, Any]:
            socket, monitor = make(*arguments, **named)
            return DroppingSubscriber(socket, self._drops), monitor

        sockets.subscriber = subscriber

    def _drops(self, frames: list[bytes]) -> bool:
        if self.count <= 0 or len(frames) != 3:
            return False
        self.count -= 1
        self.lost += 1
        return True


def test_the_last_event_of_a_burst_is_heard_soon_though_it_was_lost(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    losses, heard = Losses(client), Heard()
    client.subscribe(heard)
    noisy = client.get_plugin("hpc1", "noisy")
    noisy.say(count=5)
    wait_until(lambda: len(heard) == 5)
    losses.count = 1
    began = time.monotonic()
    noisy.say(first=5)

    wait_until(lambda: len(heard) == 6)
    assert losses.lost == 1 and time.monotonic() - began < 10  # it takes a quarter of a second, and tips go on for 30
    assert heard.numbers() == list(range(6))


def test_a_tip_that_is_lost_as_well_is_told_over_the_safe_path(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    losses, heard = Losses(client), Heard()
    client.subscribe(heard)
    noisy = client.get_plugin("hpc1", "noisy")
    noisy.say()
    wait_until(lambda: heard)
    losses.count = 1_000_000
    noisy.say(first=1, count=10)

    wait_until(lambda: len(heard) == 11)
    assert heard.numbers() == list(range(11))


def test_a_gap_in_the_middle_is_replayed_in_order(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    losses, heard = Losses(client), Heard()
    subscription = client.subscribe(heard)
    noisy = client.get_plugin("hpc1", "noisy")
    for goal in range(200, 1001, 200):
        losses.count = 7
        noisy.say(first=goal - 200, count=200)
        wait_until(partial(has_heard, heard, goal))

    assert heard.numbers() == list(range(1000)) and subscription.missed == 0
    wait_until(lambda: client.broker_status()["events"]["replayed"] >= 5)  # in each round; tips may be lost in place of events


def test_a_burst_to_a_subscriber_that_pauses_arrives_whole_or_is_counted(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard, pause_ended = Heard(), threading.Event()

    def callback(*event: Any) -> None:
        if not pause_ended.is_set():
            time.sleep(1.0)
            pause_ended.set()
        heard(*event)

    subscription = client.subscribe(callback)
    client.get_plugin("hpc1", "noisy").say(count=20_000)
    assert pause_ended.wait(60)

    wait_until(lambda: len(heard) + subscription.missed == 20_000)
    assert heard.numbers() == sorted(heard.numbers()) and heard.numbers()[-1] == 19_999


def test_a_restart_of_the_broker_loses_no_event(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard = Heard()
    client.subscribe(heard)
    noisy = client.get_plugin("hpc1", "noisy")
    noisy.say(count=10)
    wait_until(lambda: len(heard) == 10)
    assert lab.broker is not None
    lab.broker.end()
    plugin = endpoint.plugins[0]
    for number in range(10, 20):
        plugin.send_notification("news", {"number": number})
    lab.start_broker()
    noisy.say(first=20, count=10)

    wait_until(lambda: len(heard) == 30)
    assert heard.numbers() == list(range(30))


def test_the_topology_is_told_whole_and_a_lost_endpoint_once(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    views: list[dict[str, Any]] = []
    client.on_topology_change(views.append)
    wait_until(lambda: views and views[-1].get("hpc1", {}).get("plugins") == ["noisy"])
    with Endpoint("hpc2", url=lab.url, plugins=[NoisyPlugin], role="compute"):
        wait_until(lambda: views[-1].get("hpc2") == {"role": "compute", "state": "present", "plugins": ["noisy"]})
        wait_until(lambda: client.topology() == views[-1])
    wait_until(lambda: any(view.get("hpc2", {}).get("state") == "lost" for view in views))
    with Endpoint("hpc3", url=lab.url, plugins=[NoisyPlugin]):
        wait_until(lambda: "hpc3" in views[-1])

    assert "hpc2" not in views[-1]
    assert sum(view.get("hpc2", {}).get("state") == "lost" for view in views) == 1
    plugin: Any = endpoint.plugins[0]
    wait_until(lambda: "hpc3" in plugin.views[-1] or any("hpc3" in view for view in plugin.views))
    assert sum(view.get("hpc2", {}).get("state") == "lost" for view in plugin.views) == 1


def subscriber_of_another_make(stack: ExitStack, url: str, place: Any) -> zmq.Socket[bytes]:
    context: zmq.Context[Any] = stack.enter_context(zmq.Context())
    socket: zmq.Socket[bytes] = stack.enter_context(context.socket(zmq.SUB))
    socket.linger = 0
    socket.curve_serverkey = place.server_key.encode()
    socket.curve_publickey, socket.curve_secretkey = place.keys.public.encode(), place.keys.secret.encode()
    socket.connect(url)
    return socket


def publications(socket: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    while len(found) < count and socket.poll(60_000):
        found.append(socket.recv_multipart())
    return found


def test_a_plain_subscriber_with_tag_and_key_unseals_its_prefix_and_hears_noise_elsewhere(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    noisy = client.get_plugin("hpc1", "noisy")
    audience = client._ask_broker("keys", {})[client._link.user]
    assert lab.broker is not None
    place = find_broker(lab.tcp)
    with ExitStack() as stack:
        mine = subscriber_of_another_make(stack, lab.broker.ready["events_tcp"], place)
        everything = subscriber_of_another_make(stack, lab.broker.ready["events_tcp"], place)
        for socket, prefix in ((mine, f"{audience['tag']}/hpc1/".encode()), (everything, b"")):
            socket.subscribe(prefix)
            socket.subscribe(b"b/" + prefix)
            while publications(socket, 1) != [[b"b/" + prefix]]:
                pass  # what happens may be heard before
        noisy.say(count=50)
        events: list[tuple[Any, bytes]] = []
        while len(events) < 50:
            ((topic, mark, sealed),) = publications(mine, 1)
            assert topic == f"{audience['tag']}/hpc1/".encode() and mark[:8] == audience["key_id"]
            plain = ChaCha20Poly1305(audience["key"]).decrypt(mark[8:], sealed, topic + mark)
            length = int.from_bytes(plain[:2], "big")
            header, body = msgpack.unpackb(plain[2 : 2 + length]), plain[2 + length :]
            assert header["s"] == "hpc1"
            events += [(header, body)] if "m" not in header else [(msgpack.unpackb(h), b) for h, b in msgpack.unpackb(body)]
        noisy.say(first=50)
        overheard = publications(everything, 2)

    assert [header["i"] for header, _ in events] == list(range(1, 51))
    assert {(header["p"], header["n"], header["o"]) for header, _ in events} == {("noisy", noisy.sid, "news")}
    assert [msgpack.unpackb(body) for _, body in events] == [{"number": number} for number in range(50)]
    assert len(overheard) == 2 and not any(b"news" in frame for frames in overheard for frame in frames)


def test_a_connection_with_too_many_subscriptions_is_cut(lab: Lab, endpoint: Endpoint) -> None:
    assert lab.broker is not None
    place = find_broker(lab.tcp)
    with ExitStack() as stack:
        greedy = subscriber_of_another_make(stack, lab.broker.ready["events_tcp"], place)
        monitor = greedy.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        for number in range(300):
            greedy.subscribe(f"{number}/".encode())
        assert monitor.poll(60_000)
        greedy.disable_monitor()
        client = lab.client()
        wait_until(lambda: client.broker_status()["drops"].get("too-many-subscriptions"))


def test_a_revoked_key_is_followed_by_a_new_one_of_the_audience(lab: Lab, endpoint: Endpoint) -> None:
    client = lab.client()
    heard = Heard()
    client.subscribe(heard)
    keys = KeyList.load(state_dir() / KEY_LIST)
    user = client._link.user
    pair = keys.admit("guest", user=user, role="client")
    assert lab.broker is not None
    join = JoinString((lab.tcp,), (lab.broker.ready["events_tcp"],), lab.broker.ready["public_key"], pair, "guest", "client")
    with Client(join=join.encode(), connect_timeout_s=60) as guest:
        overheard = Heard()
        guest.subscribe(overheard)
        noisy = client.get_plugin("hpc1", "noisy")
        noisy.say()
        wait_until(lambda: heard and overheard)
        before = client._ask_broker("keys", {})[user]["key_id"]
        keys.revoke("guest")
        wait_until(lambda: client._ask_broker("keys", {})[user]["key_id"] != before)
        noisy.say(first=1, count=5)
        wait_until(lambda: len(heard) == 6)

    assert heard.numbers() == list(range(6)) and len(overheard) == 1
