"""Why a client or an endpoint is not let in: each reason has its own sentence, its fix, and its exit code, within 3 s."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import pytest
import zmq
from lab import Lab, wait_until

from orbit_zmq import Client
from orbit_zmq.children import Child
from orbit_zmq.cli.main import REFUSED, UNREACHABLE, main
from orbit_zmq.errors import AddressTaken, AuthRequired, BrokerUnreachable
from orbit_zmq.rules.obstacles import SENTENCES, Obstacle
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keys import KeyPair, make_keypair

WITHIN_S = 3.0
BUSY = 4  # so many times longer on a machine that has other things to do
PATIENCE_S = 60.0


def invited(lab: Lab, name: str, role: str = "client", **options: object) -> JoinString:
    return lab.client().invite(name, role, hosts=["127.0.0.1"], **options)


def admit(lab: Lab, joined: JoinString, role: str = "client") -> None:
    """Put a key on the list that was refused before."""
    facts = {"key": joined.keys.public, "name": joined.name, "role": role}
    lab.client()._ask_broker("invite", facts, on_behalf_of="")


def stranger(lab: Lab, name: str = "stranger", role: str = "client") -> JoinString:
    """A join string whose key is on no list."""
    return replace(invited(lab, f"{name}-template", role), keys=make_keypair(), name=name)


def refused(lab: Lab, joined: JoinString, capsys: pytest.CaptureFixture[str], obstacle: Obstacle, code: int) -> None:
    """What a command and a client are told, and how soon."""
    file = lab.place / "joined"
    joined.write(file)
    kind = AuthRequired if code == REFUSED else BrokerUnreachable
    started = time.monotonic()
    with pytest.raises(kind) as raised, Client(join=str(file)):
        pass
    assert time.monotonic() - started < BUSY * WITHIN_S
    sentence, hint = SENTENCES[obstacle]
    assert raised.value.message == sentence.format(at=f"{joined.requests[0]} (from {file})")
    assert raised.value.hint == hint

    capsys.readouterr()
    assert main(["endpoint", "list", "--join", str(file)]) == code
    said = capsys.readouterr().err
    assert said.startswith("orbit: ") and said.count("\n") == 1 and hint in said


@contextmanager
def listening(banner: bytes = b"") -> Iterator[str]:
    """Something that is no broker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        kept: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    kept.append(listener.accept()[0])
                    kept[-1].sendall(banner)
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE_S)
        for one in kept:
            one.close()


@contextmanager
def nobody_listening() -> Iterator[str]:
    """A port that is nobody else's meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{held.getsockname()[1]}"


@pytest.mark.parametrize("why", ["unlisted", "revoked", "expired"])
def test_who_is_not_admitted_is_told_so_in_one_sentence_that_names_the_three(lab, capsys, why):
    if why == "unlisted":
        joined = stranger(lab)
    elif why == "revoked":
        joined = invited(lab, "laptop")
        lab.client().revoke("laptop")
    else:
        joined = invited(lab, "laptop", expires_s=0.1)
        admin = lab.client()
        wait_until(lambda: admin.keys("laptop")[0]["is_expired"])

    refused(lab, joined, capsys, Obstacle.NOT_ADMITTED, REFUSED)


def test_a_broker_with_another_key_is_no_broker_of_ours(lab, capsys):
    joined = replace(invited(lab, "laptop"), broker_key=make_keypair().public)

    refused(lab, joined, capsys, Obstacle.NO_HANDSHAKE, UNREACHABLE)


def start_again(lab: Lab) -> None:
    """At the same port, which somebody else may have had for a moment."""

    def is_started() -> bool:
        with suppress(AddressTaken):
            lab.start_broker(lab.tcp)
            return True
        return False

    wait_until(is_started, 60.0, what="the port is free")


def test_a_broker_that_hangs_is_told_apart_from_one_that_is_not_there(lab, capsys):
    joined = invited(lab, "laptop")
    lab.stack.close()  # the clients of this test would wait for it, too
    start_again(lab)
    os.kill(lab.broker.pid, signal.SIGSTOP)
    try:
        refused(lab, joined, capsys, Obstacle.NO_HANDSHAKE, UNREACHABLE)
    finally:
        os.kill(lab.broker.pid, signal.SIGCONT)


def test_a_socket_of_zeromq_without_keys_is_no_broker(lab, capsys):
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        plain = context.socket(zmq.ROUTER)
        port = plain.bind_to_random_port("tcp://127.0.0.1")
        joined = replace(invited(lab, "laptop"), requests=(f"tcp://127.0.0.1:{port}",))
        refused(lab, joined, capsys, Obstacle.FOREIGN, UNREACHABLE)
    finally:
        context.destroy(linger=0)


def test_a_server_of_another_protocol_is_no_broker(lab, capsys):
    with listening(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
        joined = replace(invited(lab, "laptop"), requests=(address,))
        refused(lab, joined, capsys, Obstacle.FOREIGN, UNREACHABLE)


def test_where_nothing_listens_is_told(lab, capsys):
    with nobody_listening() as address:
        joined = replace(invited(lab, "laptop"), requests=(address,))
        refused(lab, joined, capsys, Obstacle.NOTHING_LISTENS, UNREACHABLE)


def test_a_host_that_does_not_exist_cannot_be_reached(lab, capsys):
    joined = replace(invited(lab, "laptop"), requests=("tcp://no-such-host.invalid:5670",))

    refused(lab, joined, capsys, Obstacle.UNREACHABLE, UNREACHABLE)


def test_a_client_that_was_refused_gets_in_once_it_has_been_admitted(lab):
    joined = stranger(lab)
    client = lab.stack.enter_context(closing_client(joined, 5.0))
    with pytest.raises(AuthRequired):
        client.endpoints()

    admit(lab, joined)

    assert client.endpoints() == []


def test_a_client_that_waits_gets_in_when_it_is_admitted(lab):
    joined = stranger(lab)
    found: list[object] = []
    client = lab.stack.enter_context(closing_client(joined, 60.0))
    waiting = threading.Thread(target=lambda: found.append(client.endpoints()))
    waiting.start()
    wait_until(lambda: client._link.is_turned_away)

    admit(lab, joined)

    waiting.join(PATIENCE_S)
    assert found == [[]]


@contextmanager
def closing_client(joined: JoinString, connect_timeout_s: float) -> Iterator[Client]:
    client = Client(join=joined.encode(), connect_timeout_s=connect_timeout_s)
    try:
        yield client
    finally:
        client.close()


def test_an_endpoint_that_is_refused_says_so_once_and_gets_in_when_it_is_admitted(lab):
    joined = stranger(lab, "hpc7", "endpoint")
    joined.write(lab.place / "hpc7.join")
    arguments = ["--join", str(lab.place / "hpc7.join"), "--plugins", "test", "--plugin-module", "orbit_testplugin"]
    endpoint = Child("orbit_zmq.endpoint", arguments, lab.environment, lab.place / "hpc7.log")
    lab.stack.callback(endpoint.end)
    wait_until(lambda: "not-connected" in lab.log_of("hpc7"))

    admit(lab, joined, "endpoint")

    assert endpoint.wait_until_ready()["name"] == "hpc7"
    assert lab.log_of("hpc7").count("not-connected") == 1
    assert "does not admit this key" in lab.log_of("hpc7")
    assert [one.name for one in lab.client().endpoints()] == ["hpc7"]


def test_calls_of_a_client_that_is_revoked_end_and_later_ones_are_refused(lab):
    lab.start_endpoint("hpc1")
    joined = invited(lab, "laptop")
    client = lab.stack.enter_context(Client(join=joined.encode()))
    plugin = client.get_plugin("hpc1", "test")
    ends: list[BaseException] = []

    def call() -> None:
        try:
            plugin.sleep(seconds=100, deadline_s=100)
        except AuthRequired as error:
            ends.append(error)

    calling = threading.Thread(target=call)
    calling.start()
    admin = lab.client()
    wait_until(lambda: admin.endpoints()[0].facts.load["running"] == 1)

    admin.revoke("laptop")

    calling.join(BUSY * WITHIN_S)
    assert len(ends) == 1
    started = time.monotonic()
    with pytest.raises(AuthRequired, match="does not admit this key"):
        plugin.echo(text="again")
    assert time.monotonic() - started < BUSY * WITHIN_S
    admit(lab, joined)
    wait_until(lambda: gets_in(client))


def gets_in(client: Client) -> bool:
    try:
        return len(client.endpoints()) == 1
    except AuthRequired:
        return False


def test_the_addresses_of_a_join_string_are_tried_until_one_is_the_brokers(lab):
    joined = invited(lab, "laptop")
    with listening() as silent, listening(b"220 mail ESMTP\r\n") as other, nobody_listening() as nobody:
        several = replace(joined, requests=(nobody, other, joined.requests[0], silent), events=())
        with Client(join=several.encode()) as client:
            assert client.endpoints() == []
            heard = client.subscribe(lambda *event: None)  # the port of events is found on the same host
            heard.unsubscribe()


def test_a_key_pair_never_shows_its_secret():
    pair = KeyPair(public="p" * 40, secret="s" * 40)

    assert "s" * 40 not in repr(pair) + str(pair)
