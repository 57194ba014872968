"""A participant written from docs/protocol.md alone: pyzmq, msgpack, and nothing of orbit_zmq.

It says hello, calls an operation, and serves one (`echo` of the plugin `foreign`). Run as
`foreign_client.py ADDRESS call ENDPOINT PLUGIN OPERATION` or `foreign_client.py ADDRESS serve NAME`.
"""

import hashlib
import json
import os
import sys
import time

import msgpack
import zmq

HELLO, WELCOME, BYE, HEARTBEAT, UPDATE, REQUEST, REPLY, ERROR = 1, 2, 4, 5, 6, 7, 8, 9
IDEMPOTENT, FINAL, PROBE = 32, 64, 512


class Participant:
    """One connection to a broker at an ipc address."""

    def __init__(self, address, **facts):
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.set(zmq.ROUTING_ID, b"\x01" + os.urandom(15))
        self.socket.set(zmq.RECONNECT_IVL, -1)
        self.socket.set(zmq.LINGER, 500)
        self.socket.connect(address)
        self.incarnation = os.urandom(16)
        self.last_id = 0
        self.heartbeat_at = time.monotonic() + 2
        self.send({"k": HELLO}, {"versions": [1, 1], "incarnation": self.incarnation, **facts})
        header, self.welcome = self.receive(60)
        if header["k"] != WELCOME:
            raise SystemExit(f"refused: {self.welcome}")

    def send(self, header, body=None):
        self.socket.send_multipart([msgpack.packb(header), b"" if body is None else msgpack.packb(body)])

    def receive(self, within_s):
        """The next message that is not a heartbeat; keeps up our own."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            if time.monotonic() >= self.heartbeat_at:
                self.beat()
            if self.socket.poll(100):
                header, body = self.socket.recv_multipart()
                header = msgpack.unpackb(header)
                if header["k"] != HEARTBEAT:
                    return header, msgpack.unpackb(body) if body else None
                if header.get("f", 0) & PROBE:
                    self.beat()
        raise SystemExit("nothing was heard in time")

    def beat(self):
        self.heartbeat_at = time.monotonic() + 2
        self.send({"k": HEARTBEAT}, {"loop_age_s": 0.0})

    def call(self, header, arguments, within_s=60):
        """Send a request and return the header and body of its answer."""
        self.last_id += 1
        self.send({"k": REQUEST, "i": self.last_id, "l": float(within_s), "d": self.last_id, **header}, arguments)
        while True:
            answer, body = self.receive(within_s)
            if answer["k"] in (REPLY, ERROR) and answer["i"] == self.last_id:
                return answer, body


def call(address, endpoint, plugin, operation):
    me = Participant(address, role="client")
    _, found = me.call({"e": "broker", "o": "resolve", "f": IDEMPOTENT}, {"endpoint": endpoint})
    header = {"e": endpoint, "t": found["incarnation"], "p": plugin, "o": operation}
    answer, body = me.call(header, json.loads(sys.stdin.read() or "{}"))
    print(json.dumps({"kind": answer["k"], "body": body}), flush=True)
    me.send({"k": BYE, "f": FINAL})


def serve(address, name):
    operation = {"name": "echo", "effect": "read", "idempotent": True, "deadline_s": 30.0, "session": False}
    operation |= {"method": "GET", "path": "echo", "doc": "", "parameters": {}, "returns": {}, "stream_in": ""}
    catalogue = msgpack.packb({"foreign": {"plugin": "foreign", "version": "1", "operations": [operation]}})
    me = Participant(
        address,
        role="endpoint",
        name=name,
        plugins={"foreign": {"plugin": "foreign", "version": "1"}},
        catalogue=hashlib.sha256(catalogue).digest(),
    )
    if me.welcome["want_catalogue"]:
        me.send({"k": UPDATE}, {"catalogue_body": catalogue})
    print(json.dumps({"ready": name}), flush=True)
    while True:
        header, arguments = me.receive(3600)
        if header["k"] == BYE:
            return
        if header["k"] == REQUEST:
            answer = {"k": REPLY, "i": header["i"], "c": header["c"], "t": header["t"]}
            me.send(answer, {"heard": arguments, "operation": header["o"], "user": header["u"]})


if __name__ == "__main__":
    if sys.argv[2] == "call":
        call(sys.argv[1], *sys.argv[3:])
    else:
        serve(sys.argv[1], *sys.argv[3:])
