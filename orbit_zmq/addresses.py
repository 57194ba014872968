"""Addresses: taking them apart, putting them together, and where a broker publishes, seen from where it is reached.

An address is `tcp://HOST:PORT` or `ipc:///PATH`; `tcp://` may be missing where people write HOST:PORT. A host of IPv6 stands
in brackets. These are functions on texts: nothing is looked up, and nothing is connected.
"""

from __future__ import annotations

from collections.abc import Mapping

TCP = "tcp://"
LARGEST_PORT = 65_535


def host_of(address: str) -> str:
    """The host as it stands there, one of IPv6 in its brackets; empty where there is none."""
    return _split(address)[0]


def port_of(address: str) -> int:
    """The port; ValueError where there is none."""
    port = _split(address)[1]
    if not (port.isascii() and port.isdigit()) or int(port) > LARGEST_PORT:
        raise ValueError(f"{address!r} has no port")
    return int(port)


def host_and_port(address: str) -> tuple[str, int]:
    """As sockets want them, without brackets; ValueError where there is no port."""
    return host_of(address).removeprefix("[").removesuffix("]"), port_of(address)


def tcp_address(host: str, port: int) -> str:
    """The address of a port on a host, which may have its brackets already."""
    return f"{TCP}{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """The host as it stands in an address."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host


def events_address(requests: str, published: Mapping[str, object]) -> str | None:
    """Where to hear a broker whose requests are reached at an address, by what it says of where it publishes, `{tcp, ipc}`.

    Over TCP its host is the one that leads there from here, which it cannot know itself; of what it says the port counts.
    """
    kind = requests.partition("://")[0]
    said = published.get(kind)
    if not isinstance(said, str):
        return None
    return said if kind != "tcp" else f"{TCP}{host_of(requests)}:{_split(said)[1]}"


def _split(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix(TCP).rpartition(":")
    return host, port
