"""The loop: the one thread of the broker. Takes messages from the socket, has the rules judge them, and sends what they say.

It alone touches sockets and reads the clock. It never waits for a peer: what a socket does not take at once stays in that
peer's queue, and a peer whose connection is gone is told to the rules between two messages, never in the middle of one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable

import zmq

from orbit_broker import answers, dispatch, presence
from orbit_broker.audit import Audit
from orbit_broker.connections import Connections
from orbit_broker.fanout import Fanout, user_id_of
from orbit_broker.keyring import Keyring
from orbit_broker.out import Out, next_message, was_sent
from orbit_broker.state import Participant, State
from orbit_zmq import faultpoint
from orbit_zmq.log import get_logger
from orbit_zmq.transport.sockets import next_frames, plain_send
from orbit_zmq.transport.zap import ZapHandler
from orbit_zmq.wire.header import FINAL, Kind

log = get_logger("orbit_broker")

BATCH = 256  # messages taken before timers, handshakes and full queues get their turn,
BATCH_S = 0.01  # or fewer that take so long: some operations write a file
TOGETHER = 16  # messages of a burst, 0.2 ms at most, whose answers go together: waking libzmq's thread costs as much as one
FIRST_FRAMES = int(zmq.DONTWAIT | zmq.SNDMORE)  # plain integers: pyzmq's flags cost a microsecond each time
LAST_FRAME = int(zmq.DONTWAIT)
RETRY_S = 0.002  # how soon a full queue is tried again; libzmq cannot say which of its peers has room
GOODBYE_S = 0.25  # for bye to leave the process: closing a socket does not wait


class Loop:
    """Sockets, the clock, and the state that they drive."""

    def __init__(
        self,
        state: State,
        router: zmq.Socket[bytes],
        publisher: zmq.Socket[bytes],
        zap_socket: zmq.Socket[bytes],
        zap: ZapHandler,
        keys: Keyring,
        audit: Audit,
        ports: Iterable[int],
    ) -> None:
        self.state = state
        self.out = Out()
        self._router = router
        self._fanout = Fanout(publisher, state.counters, lambda user_id: keys.identify(user_id) is not None)
        self._connections = Connections(ports)
        self._zap_socket = zap_socket
        self._zap = zap
        self._keys = keys
        self._audit = audit
        state.measure_security = lambda: {"connections_reaped": self._connections.reaped, "audit_lines_lost": audit.lost}
        self._blocked: dict[Participant, None] = {}  # whose queues libzmq did not take
        self._look_at = 0.0
        self._stop: int | None = None  # flags of the bye that ends the loop
        self._wake_in, self._wake_out = os.pipe()
        for descriptor in (self._wake_in, self._wake_out):
            os.set_blocking(descriptor, False)
        self._poller = zmq.Poller()
        for source in (router, publisher, zap_socket, self._wake_in):
            self._poller.register(source, zmq.POLLIN)

    def stop(self, final: bool) -> None:
        """End the loop soon: for good, or to be back. From any thread or signal handler; the first word counts."""
        if self._stop is None:
            self._stop = FINAL if final else 0
        with contextlib.suppress(BlockingIOError):  # it is full of such bytes already
            os.write(self._wake_out, b"\0")

    @property
    def ended_for_good(self) -> bool:
        """Whether it was told to end, and not to be back."""
        return self._stop == FINAL

    def run(self) -> None:
        """Until `stop`, or until somebody who may asks the broker to drain."""
        while self._stop is None:
            self.turn()
            if self.state.is_draining and self._stop is None:
                self._stop = FINAL
        self.state.is_leaving = True
        for peer in tuple(self.state.peers.values()):
            self.out.control(peer, Kind.BYE, self._stop)
        ends_at = time.monotonic() + GOODBYE_S
        while self.state.peers and time.monotonic() < ends_at:
            self.turn()

    def turn(self) -> None:
        """One round: what the time asks for, then what has arrived."""
        now = time.monotonic()
        wake_at = dispatch.on_tick(self.state, self.out, now)
        if now >= self._look_at:
            self._look_at = now + dispatch.SAMPLE_S
            self._look_around(now)
        if now >= self._connections.due_at:
            self._connections.tick((*self.state.peers, *self.state.newcomers), self._fanout.inodes(), now)
        for peer in self._blocked:
            self.out.dirty[peer] = None
        self._flush(now)
        timeout_s = max(0.0, min(wake_at, self._look_at, self._connections.due_at) - now)
        if self._blocked:
            timeout_s = min(timeout_s, RETRY_S)
        self.state.rounds.end(time.monotonic())
        ready = dict(self._poller.poll(int(timeout_s * 1000 + 0.999)))
        self.state.rounds.begin(time.monotonic())
        if self._zap_socket in ready:
            self._zap.on_readable()
        if self._router in ready:
            self._receive()
        if self._fanout.socket in ready:
            self._fanout.on_readable()
        if self._wake_in in ready:
            os.read(self._wake_in, 4096)

    def close(self) -> None:
        """The pipe; the sockets belong to whoever made them."""
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _look_around(self, now: float) -> None:
        """A changed list of keys takes effect; strangers that were refused are reported, however many, in one line."""
        self._keys.look()
        self._fanout.forget_closed()
        if self._zap.refused:
            self.state.counters.drop("connection-refused", self._zap.refused)
            log.warning("connections-refused", count=self._zap.refused, last=self._zap.last_refusal)
            self.out.audits.append(
                {"what": "connect", "result": "refused", "count": self._zap.refused, "last": self._zap.last_refusal}
            )
            self._zap.refused = 0

    def _receive(self) -> None:
        """What has arrived, at least one message, up to a batch. The user of a connection is looked at while it has none."""
        router, peers, state, out = self._router, self.state.peers, self.state, self.out
        now = time.monotonic()
        ends_at = now + BATCH_S
        for number in range(BATCH):
            try:
                routing_id = router.recv(LAST_FRAME)
            except zmq.Again:
                break
            frames = next_frames(router)
            peer = peers.get(routing_id)
            if faultpoint.is_armed:
                faultpoint.reach("broker.received")
            now = time.monotonic()
            try:
                if peer is not None:
                    dispatch.on_message(state, out, peer, [frame.bytes for frame in frames], now)
                else:
                    identity = self._keys.identify(user_id_of(frames[-1]))
                    self._connections.note(routing_id, frames[-1])
                    dispatch.on_first_words(state, out, routing_id, identity, [frame.bytes for frame in frames], now)
            except Exception:  # a fault of ours that one peer's message finds must not end everybody's broker
                state.counters.drop("rule-failed")
                log.exception("rule-failed", participant=peer.name if peer is not None else "")
            if not number % TOGETHER:  # of the first, which may be the only one, at once
                self._flush(now)
            if now > ends_at:
                break
        self._flush(now)

    def _flush(self, now: float) -> None:
        """Send what can be sent. A connection found gone may make the rules say more, which is sent as well."""
        out = self.out
        if out.audits:  # before the answer that says that it is done
            self._audit.write(out.audits, now)
        while out.dirty:
            peer, _ = out.dirty.popitem()
            self._send_queue(peer, now)
        if out.publications:
            self._fanout.publish(out.publications)
        for routing_id, header, body in out.strangers:
            try:
                self._router.send_multipart((routing_id, header, body), zmq.DONTWAIT)
            except zmq.ZMQError:  # gone or full: it may ask again
                self.state.counters.drop("stranger-away")
        out.strangers.clear()
        for routing_id in out.cuts:
            self._connections.cut(routing_id, now)
        out.cuts.clear()
        if out.rights_changed:
            out.rights_changed = False
            self._fanout.cut_unlisted()
        if out.audits:
            self._audit.write(out.audits, now)
        for is_warning, event, facts in out.events:
            (log.warning if is_warning else log.info)(event, **facts)
        out.events.clear()

    def _send_queue(self, peer: Participant, now: float) -> None:
        router, counters = self._router, self.state.counters
        self._blocked.pop(peer, None)
        while (message := next_message(peer, now)) is not None:
            if faultpoint.is_armed:
                faultpoint.reach("broker.sending")
            try:
                plain_send(router, peer.routing_id, FIRST_FRAMES)
                plain_send(router, message.frame, FIRST_FRAMES)
                plain_send(router, message.body, LAST_FRAME)
            except zmq.Again:
                self._blocked[peer] = None
                return
            except zmq.ZMQError as error:
                if error.errno != zmq.EHOSTUNREACH:
                    raise
                presence.on_gone(self.state, self.out, peer, now)
                return
            if faultpoint.is_armed:
                faultpoint.reach("broker.sent")
            was_sent(peer, now)
            counters.messages_out += 1
            counters.bytes_out += len(message.frame) + len(message.body)
        if peer.owes_resend and peer.routing_id:
            answers.on_drained(self.out, peer)
