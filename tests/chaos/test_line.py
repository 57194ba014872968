"""The bad line itself, over plain sockets: what is held comes later, what is cut is reset."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from chaoslab.line import Line


@pytest.fixture
def echo() -> Iterator[str]:
    """The address of somebody who says everything again."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(end: socket.socket) -> None:
        try:
            while data := end.recv(65_536):
                end.sendall(data)
        except OSError:
            pass

    def serve() -> None:
        while True:
            try:
                end, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(end,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def line(echo: str) -> Iterator[Line]:
    with Line(echo) as made:
        yield made


def received(end: socket.socket, size_bytes: int) -> bytes:
    """So many bytes, in however many pieces they come."""
    got = b""
    while len(got) < size_bytes:
        part = end.recv(size_bytes - len(got))
        assert part, f"it ended after {got!r}"
        got += part
    return got


def connected(line: Line) -> socket.socket:
    end = socket.create_connection(("127.0.0.1", int(line.address.rsplit(":", 1)[1])), timeout=60)
    end.sendall(b"hello")
    assert received(end, 5) == b"hello"
    return end


@pytest.mark.parametrize("direction", [{"up": True, "down": False}, {"up": False, "down": True}, {"up": True, "down": True}])
def test_what_is_held_comes_when_the_line_is_good_again(line: Line, direction: dict[str, bool]):
    with connected(line) as end:
        line.hold(**direction)
        end.sendall(b"later")
        end.settimeout(0.3)
        with pytest.raises(TimeoutError):
            end.recv(16)
        line.heal()
        end.settimeout(60)
        assert received(end, 5) == b"later"


def test_a_cut_resets_what_is_open_and_lets_new_connections_in(line: Line):
    with connected(line) as end:
        line.cut()
        with pytest.raises(ConnectionResetError):
            end.recv(16)
    connected(line).close()


def test_a_slow_line_passes_everything_slowly(line: Line):
    with connected(line) as end:
        line.limit(bytes_s=200_000)
        began = time.monotonic()
        end.sendall(bytes(40_000))
        received(end, 40_000)
        assert time.monotonic() - began >= 0.2


def test_a_lossy_line_loses_nothing(line: Line):
    with connected(line) as end:
        line.limit(loss=0.5)
        sent = bytes(range(256)) * 400
        threading.Thread(target=end.sendall, args=(sent,), daemon=True).start()
        assert received(end, len(sent)) == sent
