"""A broker, an endpoint and a gateway in processes and directories of their own, and HTTP to ask them by."""

from __future__ import annotations

import re
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from lab import Lab, within

ALL = ("read", "write", "run", "admin")


class Site:
    """What runs. `http` comes with a token that may do everything."""

    def __init__(self, lab: Lab, *options: str, http: str = "127.0.0.1:0") -> None:
        self.lab = lab
        self.gateway = lab.start_gateway(*options, http=http)
        self.url: str = self.gateway.ready["http"]
        self.netloc = urlsplit(self.url).netloc
        self.token = lab.token(rights=ALL)
        self.http = self.asking(self.token)

    def asking(self, token: str = "", **headers: str) -> httpx.Client:
        """A client with that token, or with none."""
        said = headers | ({"Authorization": f"Bearer {token}"} if token else {})
        return self.lab.stack.enter_context(httpx.Client(base_url=self.url, headers=said, timeout=60, verify=False))

    def browser(self, token: str) -> tuple[httpx.Client, str]:
        """A client with the cookie that POST /auth gives for that token, and the text for X-CSRF-Token."""
        browser = self.asking()
        answer = browser.post("/auth", headers={"Authorization": f"Bearer {token}"})
        assert answer.status_code == 200, answer.text
        return browser, str(answer.json()["csrf"])

    def connect(self) -> socket.socket:
        parts = urlsplit(self.url)
        line = socket.create_connection((parts.hostname, parts.port), 60)
        if parts.scheme == "https":
            context = ssl._create_unverified_context()
            line = context.wrap_socket(line)
        return line

    def raw(self, request: bytes, timeout_s: float = 60.0) -> bytes:
        """What is answered to these bytes, until the gateway closes, or falls silent after a whole answer."""
        answer = b""
        with self.connect() as line, suppress(OSError):
            line.settimeout(timeout_s)
            with suppress(ConnectionError):  # who is refused in the middle may find the line cut, and the answer before that
                line.sendall(request)
            while data := line.recv(65_536):
                answer += data
                if is_whole(answer):
                    line.settimeout(0.5)
        return answer

    def works(self) -> bool:
        """Whether the next good call is answered."""
        return bool(self.http.post("/hpc1/math/add", json={"a": 1, "b": 2}).json()["result"] == 3)


def is_whole(answer: bytes) -> bool:
    """Whether one answer is there with all of the body that it has said the length of."""
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?im)^content-length: *(\d+)", head)
    return bool(end) and length is not None and len(body) >= int(length[1])


@contextmanager
def gateway_site(*options: str, plugins: str = "math,sysinfo", **settings: Any) -> Iterator[Site]:
    """All of it, and its end."""
    place = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    lab = Lab(place)
    with within(place):
        try:
            lab.start_broker()
            lab.start_endpoint(plugins=plugins)
            yield Site(lab, *options, **settings)
        finally:
            lab.close()
            shutil.rmtree(place, ignore_errors=True)
