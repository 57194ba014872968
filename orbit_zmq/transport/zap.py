"""Admission to our sockets: the answers to libzmq's question about each handshake (ZAP, RFC 27).

CURVE: the key has to be known; the user id is the key. NULL: only on ipc, where the kernel vouches for the peer's uid, and
only for our own; the user id is `uid:<number>`. Everything else is refused. A look-up touches memory only, and one that
fails is answered too: an unanswered question would leave every later handshake hanging.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import zmq
from zmq.utils import z85

from orbit_zmq.log import get_logger

log = get_logger(__name__)

VERSION = b"1.0"
BATCH = 64  # a millisecond or two
# Where NULL is used. libzmq appends uid, gid and pid of the peer for ipc alone; an IP address cannot look like this.
IPC_PEER = re.compile(rb"localhost:(\d{1,10}):\d{1,10}:\d{1,10}")


class ZapHandler:
    """Answers on the socket that is bound at inproc://zeromq.zap.01."""

    def __init__(
        self, socket: zmq.Socket[bytes], is_known: Callable[[str], bool], own_uid: int, domain: bytes = b"orbit"
    ) -> None:
        self.refused = 0
        self.last_refusal = ""  # why, and from where
        self._socket = socket
        self._is_known = is_known
        self._own_uid = own_uid
        self._domain = domain

    def on_readable(self) -> None:
        """Answer the questions that are there, up to a batch: a flood of handshakes must not hold up who is in."""
        for _ in range(BATCH):
            try:
                frames = self._socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return
            if len(frames) < 8 or frames[2] != VERSION:  # libzmq itself asks: this cannot be mended by answering
                log.error("zap-question-unknown", frames=len(frames))
                continue
            status, text, user_id = self._judge(frames)
            if status != b"200":
                self.refused += 1
                self.last_refusal = f"{text.decode()}, from {frames[5].decode(errors='replace')}"
            answer = [*frames[:2], VERSION, frames[3], status, text, user_id.encode(), b""]
            try:
                self._socket.send_multipart(answer, zmq.DONTWAIT)
            except zmq.ZMQError as error:
                log.error("zap-answer-failed", reason=str(error))

    def _judge(self, frames: Sequence[bytes]) -> tuple[bytes, bytes, str]:
        """Status, its text, and the user id."""
        domain, address, mechanism, credentials = frames[4], frames[5], frames[7], frames[8:]
        if domain != self._domain:
            return b"400", b"another domain", ""
        if mechanism == b"CURVE" and len(credentials) == 1 and len(credentials[0]) == 32:
            return self._judge_key(z85.encode(credentials[0]).decode("ascii"))
        if mechanism == b"NULL":
            peer = IPC_PEER.fullmatch(address)
            if peer is not None and int(peer[1]) == self._own_uid:
                return b"200", b"OK", f"uid:{self._own_uid}"
            return b"400", b"another user, or no ipc", ""
        return b"400", b"another mechanism", ""

    def _judge_key(self, key: str) -> tuple[bytes, bytes, str]:
        try:
            is_known = self._is_known(key)
        except Exception:  # whatever the look-up raises, the question has to be answered
            log.exception("key-lookup-failed")
            return b"500", b"the look-up failed", ""
        return (b"200", b"OK", key) if is_known else (b"400", b"unknown key", "")
