"""A million random and mutated frames over a real socket; afterwards a good call works."""

from __future__ import annotations

import os
import random

import msgpack
import pytest
import zmq
from lab import Lab, wait_until
from raw_peer import Peer

from orbit_zmq.wire.header import Header, Kind, encode_header

CORPUS = [
    encode_header(Header(Kind.REQUEST, id=7, endpoint="hpc1", plugin="test", operation="ping", left_s=3.5, settled=(1, 2))),
    encode_header(Header(Kind.CHUNK, id=7, channel=2, chunk=9, flags=9)),
    encode_header(Header(Kind.CREDIT, id=7, channel=1, chunk=3, up_to=9)),
    encode_header(Header(Kind.REPLY, id=7, caller=b"c" * 16, target=b"t" * 16)),
]

HELLO = msgpack.packb({"versions": [1, 1], "incarnation": os.urandom(16), "role": "client"})


@pytest.mark.parametrize("frames", [20_000, pytest.param(1_000_000, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
def test_after_junk_from_an_admitted_party_a_good_call_works(lab: Lab, frames: int) -> None:
    seed = int(os.environ.get("ORBIT_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"ORBIT_FUZZ_SEED={seed}")
    draw = random.Random(seed)
    lab.start_endpoint("hpc1")
    with zmq.Context() as context:
        vandal = Peer(context, lab.url)
        vandal.send({"k": int(Kind.HELLO)}, HELLO)
        for turn in range(frames):
            vandal.socket.send_multipart(_junk(draw, turn))
            if turn % 1000 == 0:
                vandal.send({"k": int(Kind.HELLO)}, HELLO)  # junk may have said bye
                while vandal.socket.poll(0):
                    vandal.socket.recv_multipart()
        vandal.socket.close(linger=10_000)

    plugin = lab.client(lab.tcp).get_plugin("hpc1", "test")
    assert plugin.echo(text="well") == "well"
    client = lab.client()
    wait_until(lambda: client.broker_status()["totals"]["messages_in"] > frames, 60.0)
    status = client.broker_status()
    assert status["drops"].get("rule-failed", 0) == 0
    assert status["drops"]["bad-header"] > 0


def _junk(draw: random.Random, turn: int) -> list[bytes]:
    frame = bytearray(draw.randbytes(draw.randrange(40)) if turn % 4 == 0 else CORPUS[turn % len(CORPUS)])
    for _ in range(draw.randrange(1, 4)):
        if frame:
            frame[draw.randrange(len(frame))] = draw.randrange(256)
    return [bytes(frame), draw.randbytes(draw.randrange(30))]
