"""The search for a broker: argument, environment, context, this user's broker here, then an error naming all of them."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path

import pytest

from orbit_zmq.configuration import write_setting
from orbit_zmq.contexts import store_context
from orbit_zmq.errors import BrokerUnreachable, InvalidArgument, NotPermitted
from orbit_zmq.place import find_broker
from orbit_zmq.runtime_file import RuntimeFile, write_runtime_file
from orbit_zmq.security.join import JoinString
from orbit_zmq.security.keys import BROKER_KEY, OWNER_KEY, load_or_make_keypair, make_keypair
from orbit_zmq.settings import VARIABLES


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    for variable in ("ORBIT_CONFIG_DIR", "ORBIT_STATE_DIR", "ORBIT_RUNTIME_DIR"):
        directory = tmp_path / variable.lower()
        directory.mkdir(mode=0o700)
        monkeypatch.setenv(variable, str(directory))
    return tmp_path


def join_of(host: str) -> JoinString:
    return JoinString((f"tcp://{host}:5670",), (), make_keypair().public, make_keypair(), "laptop", "client")


def run_a_broker(hostname: str | None = None) -> None:
    here = hostname or socket.gethostname()
    write_runtime_file(RuntimeFile(os.getpid(), here, "/run/b.sock", None, "k", "00", time.time()))


def test_nothing_named_and_nothing_running_names_every_place() -> None:
    with pytest.raises(BrokerUnreachable) as raised:
        find_broker()

    for place in ("url", "join", "context", "ORBIT_URL", "ORBIT_JOIN_FILE", "ORBIT_CONTEXT", "broker.json", "orbit up"):
        assert place in str(raised.value)


def test_the_own_broker_on_this_machine_is_reached_over_ipc_without_keys() -> None:
    run_a_broker()
    place = find_broker()

    assert (place.address, place.server_key, place.keys) == ("ipc:///run/b.sock", None, None)


def test_a_broker_of_another_machine_is_named_in_the_error() -> None:
    run_a_broker("elsewhere.example.org")

    with pytest.raises(BrokerUnreachable, match=r"elsewhere\.example\.org"):
        find_broker()


def test_the_order_is_argument_environment_context_own_broker(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_a_broker()
    assert find_broker().address == "ipc:///run/b.sock"

    contexts = own / "orbit_config_dir" / "contexts"
    contexts.mkdir(mode=0o700)
    join_of("from-context").write(contexts / "work")
    store_context("home", join_of("from-current-context").encode())
    write_setting("context", "home")
    assert find_broker().address == "tcp://from-current-context:5670"
    monkeypatch.setenv("ORBIT_CONTEXT", "work")
    assert find_broker().address == "tcp://from-context:5670"

    join_of("from-join-file").write(own / "join")
    monkeypatch.setenv("ORBIT_JOIN_FILE", str(own / "join"))
    assert find_broker().address == "tcp://from-join-file:5670"

    monkeypatch.setenv("ORBIT_JOIN", join_of("from-join-variable").encode())
    assert find_broker().address == "tcp://from-join-variable:5670"

    monkeypatch.setenv("ORBIT_URL", "ipc:///from-url-variable")
    assert find_broker().address == "ipc:///from-url-variable"

    assert find_broker(join=join_of("from-join").encode()).address == "tcp://from-join:5670"
    assert find_broker(url="ipc:///from-url").address == "ipc:///from-url"
    assert find_broker(context="work").address == "tcp://from-context:5670"


def test_a_join_string_may_come_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(join_of("bridge").encode() + "\n"))

    assert find_broker(join="-").address == "tcp://bridge:5670"


def test_all_addresses_of_a_join_string_are_tried_in_its_order() -> None:
    addresses = ("tcp://a:1", "tcp://b:1", "tcp://c:1")
    join = JoinString(addresses, ("tcp://a:2", "tcp://b:2"), make_keypair().public, make_keypair(), "laptop", "client")

    tried = find_broker(join=join.encode()).in_order()

    assert [(place.address, place.events) for place in tried] == [
        ("tcp://a:1", "tcp://a:2"),
        ("tcp://b:1", "tcp://b:2"),
        ("tcp://c:1", None),
    ]
    assert {place.keys for place in tried} == {join.keys}


def test_a_join_string_or_a_file_with_one_gives_keys(own: Path) -> None:
    join = join_of("bridge")
    join.write(own / "join")

    for given in (join.encode(), str(own / "join")):
        place = find_broker(join=given)
        assert (place.address, place.server_key, place.keys) == ("tcp://bridge:5670", join.broker_key, join.keys)
    assert find_broker(url="tcp://tunnel:7000", join=join.encode()).keys == join.keys


def test_tcp_to_the_own_broker_uses_the_keys_of_this_user(own: Path) -> None:
    broker = load_or_make_keypair(own / "orbit_state_dir" / BROKER_KEY)
    owner = load_or_make_keypair(own / "orbit_state_dir" / OWNER_KEY)
    place = find_broker(url="tcp://127.0.0.1:5670")

    assert (place.server_key, place.keys) == (broker.public, owner)


def test_tcp_without_a_key_asks_for_a_join_string() -> None:
    with pytest.raises(InvalidArgument, match="join string"):
        find_broker(url="tcp://bridge:5670")


@pytest.mark.parametrize("address", ["bridge:5670", "http://bridge", "tcp://bridge", "tcp://:x", "ipc://", "tcp://a b:1"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(InvalidArgument, match="tcp://host:port"):
        find_broker(url=address)


def test_a_context_that_is_not_there_is_named() -> None:
    with pytest.raises(InvalidArgument, match="holiday"):
        find_broker(context="holiday")
    with pytest.raises(InvalidArgument, match="no name of a context"):
        find_broker(context="../holiday")


def test_a_join_file_that_others_may_read_is_refused(own: Path) -> None:
    join_of("bridge").write(own / "join")
    (own / "join").chmod(0o640)

    with pytest.raises(NotPermitted, match="chmod 600"):
        find_broker(join=str(own / "join"))
