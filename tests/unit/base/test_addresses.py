"""Addresses as texts: their parts, those of IPv6 as well, and where a broker publishes, seen from where it is reached."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.addresses import bracketed, events_address, host_and_port, host_of, port_of, tcp_address


@pytest.mark.parametrize(
    ("address", "host", "bare", "port"),
    [
        ("tcp://hpc1.example.org:5670", "hpc1.example.org", "hpc1.example.org", 5670),
        ("tcp://10.0.0.1:0", "10.0.0.1", "10.0.0.1", 0),
        ("tcp://[::1]:5670", "[::1]", "::1", 5670),
        ("tcp://[fe80::1%eth0]:5670", "[fe80::1%eth0]", "fe80::1%eth0", 5670),
        ("tcp://*:65535", "*", "*", 65_535),
        ("127.0.0.1:8000", "127.0.0.1", "127.0.0.1", 8000),
        (":8000", "", "", 8000),
        ("8000", "", "", 8000),
    ],
)
def test_an_address_has_a_host_and_a_port(address: str, host: str, bare: str, port: int) -> None:
    assert (host_of(address), port_of(address), host_and_port(address)) == (host, port, (bare, port))


@pytest.mark.parametrize(
    "address", ["", "tcp://", "tcp://host", "tcp://host:", "tcp://host:-1", "tcp://host:65536", "tcp://h:٣"]
)
def test_an_address_without_a_port_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="has no port"):
        port_of(address)
    with pytest.raises(ValueError, match="has no port"):
        host_and_port(address)


@given(st.one_of(st.ip_addresses().map(str), st.from_regex(r"[a-z][a-z0-9.-]{0,30}", fullmatch=True)), st.integers(0, 65_535))
def test_what_is_put_together_is_taken_apart_again(host: str, port: int) -> None:
    address = tcp_address(host, port)

    assert host_and_port(address) == (host, port)
    assert tcp_address(host_of(address), port) == address
    assert bracketed(bracketed(host)) == bracketed(host) == host_of(address)


@given(st.ip_addresses(v=6), st.integers(0, 65_535))
def test_a_host_of_ipv6_stands_in_brackets(host: ipaddress.IPv6Address, port: int) -> None:
    assert tcp_address(str(host), port) == f"tcp://[{host}]:{port}"


@pytest.mark.parametrize(
    ("requests", "published", "address"),
    [
        ("tcp://bridge:5670", {"tcp": "tcp://0.0.0.0:5671"}, "tcp://bridge:5671"),
        ("tcp://127.0.0.1:40123", {"tcp": "tcp://10.0.0.1:5671", "ipc": "ipc:///x"}, "tcp://127.0.0.1:5671"),
        ("tcp://[::1]:5670", {"tcp": "tcp://[::]:5671"}, "tcp://[::1]:5671"),
        ("ipc:///run/a.sock", {"ipc": "ipc:///run/b.sock", "tcp": "tcp://0.0.0.0:5671"}, "ipc:///run/b.sock"),
        ("tcp://bridge:5670", {"ipc": "ipc:///run/b.sock"}, None),
        ("tcp://bridge:5670", {"tcp": 5671}, None),
        ("tcp://bridge:5670", {}, None),
    ],
)
def test_a_broker_is_heard_by_the_way_by_which_it_is_asked(requests: str, published: dict[str, object], address: str) -> None:
    assert events_address(requests, published) == address
