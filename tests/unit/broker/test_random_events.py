"""Any sequence of events leaves a state that fits together, and gives no caller more replies than it has asked for."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import hypothesis.strategies as st
import msgpack
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from orbit_zmq.wire.header import FIELDS, FINAL, IDEMPOTENT, LAST, RESENT, STREAM, STREAMED, Kind
from tests.unit.broker.world import Sent, World, identity

ENDPOINTS = ("e1", "e2", "e3")
CALLERS = ("c1", "c2", "e1")
EVERYBODY = ("e1", "e2", "e3", "c1", "c2", "thief")
IDS = st.integers(0, 4)
REQUEST_FLAGS = st.sampled_from([0, RESENT, IDEMPOTENT, RESENT | IDEMPOTENT, STREAMED, STREAM | RESENT])
ANSWERS = st.sampled_from([Kind.REPLY, Kind.REPLY, Kind.ERROR, Kind.CHUNK, Kind.CREDIT])
ANSWER_FLAGS = st.sampled_from([0, STREAMED, STREAM, LAST])
CATALOGUE = b"catalogue"
DIGEST = hashlib.sha256(CATALOGUE).digest()


class Broker(RuleBasedStateMachine):
    """Peers that do what they like, in any order; `World` runs `check` after every step."""

    @initialize(settle_s=st.sampled_from([0.001, 10.0]))
    def start(self, settle_s):
        self.world = World(settle_s=settle_s)
        self.open: Counter[tuple[str, int]] = Counter()
        for label in ("e1", "e2", "c1", "c2"):
            self.connect_(label, identity())

    def note(self, sent: list[Sent]) -> None:
        """One request has one reply; only that of a stream may be said again while the stream lasts."""
        for message in sent:
            if message.kind == Kind.REPLY and not message.header.flags & (STREAM | STREAMED):
                self.open[message.to, message.header.id] -= 1
                assert self.open[message.to, message.header.id] >= 0

    def is_known(self, label: str) -> bool:
        return label in self.world.routes

    @rule(label=st.sampled_from(EVERYBODY), user=st.sampled_from(["ada", "eve"]), again=st.booleans())
    def connect(self, label, user, again):
        self.connect_(label, identity(user) if again else identity("ada"), user)

    def connect_(self, label, who, user="ada"):
        facts: dict[str, Any] = {}
        if label[0] in "et":
            facts = {"role": "endpoint", "sessions": [{"id": "s", "user": user}], "catalogue": DIGEST}
        if label == "thief":
            facts["name"] = "e1"
        self.note(self.world.connect(label, as_=who, **facts))

    @rule(label=st.sampled_from(EVERYBODY), notice=st.booleans())
    def cut(self, label, notice):
        if self.is_known(label) and self.world.routes[label] in self.world.state.peers:
            self.note(self.world.cut(label, notice=notice))

    @rule(label=st.sampled_from(EVERYBODY), is_stuck=st.booleans())
    def stick(self, label, is_stuck):
        if is_stuck:
            self.world.stuck.add(label)
        else:
            self.note(self.world.unstick(label))

    @rule(
        label=st.sampled_from(CALLERS),
        call_id=IDS,
        endpoint=st.sampled_from([*ENDPOINTS, "nobody", "", "broker", "*"]),
        flags=REQUEST_FLAGS,
        with_target=st.booleans(),
        left_s=st.sampled_from([0.5, 5.0, 60.0]),
        operation=st.sampled_from(["resolve", "endpoints", "status", "ping"]),
    )
    def call(self, label, call_id, endpoint, flags, with_target, left_s, operation):
        if not self.is_known(label):
            return
        target = self.world.incarnations.get(endpoint, b"") if with_target else b""
        self.open[label, call_id] += 1
        sent = self.world.call(
            label, call_id, endpoint, flags=flags, target=target, left_s=left_s, operation=operation, session="s"
        )
        self.note(sent)

    @rule(label=st.sampled_from(CALLERS), call_id=IDS, endpoint=st.sampled_from(["e1", "e2"]), flags=REQUEST_FLAGS)
    def call_well(self, label, call_id, endpoint, flags):
        self.open[label, call_id] += 1
        self.note(self.world.call(label, call_id, endpoint, flags=flags, target=self.world.incarnations[endpoint]))

    @rule(endpoint=st.sampled_from(["e1", "e2"]))
    def tell_the_catalogue(self, endpoint):
        self.note(self.world.say(endpoint, Kind.UPDATE, {"catalogue_body": CATALOGUE}))

    @rule(label=st.sampled_from(EVERYBODY), flags=st.sampled_from([0, FINAL]))
    def leave(self, label, flags):
        if self.is_known(label):
            self.note(self.world.say(label, Kind.BYE, flags=flags))

    @rule(is_cut=st.booleans())
    def take_the_name_of_another(self, is_cut):
        if is_cut and self.world.routes["e1"] in self.world.state.peers:
            self.note(self.world.cut("e1"))
        self.connect_("thief", identity())

    @rule(which=st.integers(0, 10), kind=ANSWERS, flags=ANSWER_FLAGS, channel=st.integers(0, 3))
    def answer_an_open_call(self, which, kind, flags, channel):
        flights = [flight for flight in self.world.state.flights.values() if flight.server is not None]
        if not flights:
            return
        flight = flights[which % len(flights)]
        names = {self.world.incarnations[label]: label for label in self.world.incarnations}
        endpoint, caller = names[flight.server.incarnation], names[flight.caller.incarnation]
        if kind in (Kind.CHUNK, Kind.CREDIT) and which % 2:
            self.note(self.world.say(caller, kind, id=flight.id, flags=flags, channel=channel))
        else:
            body = {"code": "conflict"} if kind == Kind.ERROR else b""
            self.note(self.world.answer(endpoint, caller, flight.id, kind, body, flags=flags, channel=channel))

    @rule(
        label=st.sampled_from(EVERYBODY),
        kind=st.sampled_from(list(Kind)),
        call_id=IDS,
        flags=st.sampled_from([0, LAST, FINAL]),
        channel=st.integers(0, 3),
        body=st.sampled_from(
            [
                b"",
                {},
                {"closed": ["s"]},
                {"opened": [{"id": "s", "user": "ada"}]},
                {"loop_age_s": 9.0},
                {"catalogue_body": CATALOGUE},
            ]
        ),
    )
    def say(self, label, kind, call_id, flags, channel, body):
        if self.is_known(label) and kind != Kind.HELLO:
            self.note(self.world.say(label, kind, body, id=call_id, flags=flags, channel=channel))

    @rule(label=st.sampled_from(EVERYBODY), frames=st.lists(st.binary(max_size=40), max_size=3))
    def junk(self, label, frames):
        if self.is_known(label):
            self.note(self.world.raw(label, frames))

    @rule(label=st.sampled_from(EVERYBODY), fields=st.dictionaries(st.sampled_from(list(FIELDS)), st.integers(0, 20)))
    def half_right(self, label, fields):
        if self.is_known(label):
            self.note(self.world.raw(label, [msgpack.packb(fields), b""]))

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 35.0]))
    def wait(self, seconds):
        self.note(self.world.pass_time(seconds))

    def teardown(self):
        if hasattr(self, "world"):
            self.world.stuck.clear()
            self.world.pass_time(100.0)
            assert self.world.state.flights == {} and self.world.state.held == {}
            assert self.world.state.participants == {} and self.world.state.sessions == {}
            assert self.world.state.catalogues == {}


Broker.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
test_any_sequence_of_events_fits_together = Broker.TestCase
