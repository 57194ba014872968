"""A real Chromium without a window, driven over its debugging pipe."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ANSWER_S = 30.0


def find_browser() -> str | None:
    """The program, or None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One page. `said` has what its console has been told, `faults` its errors and what its policy has kept away."""

    def __init__(self, program: str, place: Path) -> None:
        here_in, there_out = os.pipe()
        there_in, here_out = os.pipe()
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        options += [f"--user-data-dir={place}", "--remote-debugging-pipe", "--window-size=1200,800", "about:blank"]
        self._process = subprocess.Popen(
            [program, *options],
            close_fds=False,
            preexec_fn=lambda: _as_pipe(there_in, there_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(there_in)
        os.close(there_out)
        self._in, self._out = os.fdopen(here_in, "rb"), os.fdopen(here_out, "wb")
        self._answers: dict[int, dict[str, Any]] = {}
        self._heard = threading.Condition()
        self._count = 0
        self._page = ""
        self.said: list[list[Any]] = []
        self.faults: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._page = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the debugging protocol, and its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._page:
            message["sessionId"] = self._page
        self._out.write(json.dumps(message).encode() + b"\0")
        self._out.flush()
        with self._heard:
            assert self._heard.wait_for(lambda: self._count in self._answers, ANSWER_S), f"{method} was not answered"
            answer = self._answers.pop(self._count)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        self.ask("Page.navigate", url=url)
        self.wait_for("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression on the page; a promise is awaited."""
        found = self.ask("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, script: str, within_s: float = 60.0) -> Any:
        """Until an expression is true; its value."""
        deadline = time.monotonic() + within_s
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"{script} is not so: {self.run('document.body.innerText')[:2000]}"
            time.sleep(0.05)
        return value

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        with contextlib.suppress(OSError, ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait(20)
        self._reader.join(10)
        for end in (self._in, self._out):
            with contextlib.suppress(OSError):
                end.close()

    def _read(self) -> None:
        left = b""
        while data := os.read(self._in.fileno(), 1 << 20):
            *messages, left = (left + data).split(b"\0")
            for message in messages:
                self._take(json.loads(message))

    def _take(self, message: dict[str, Any]) -> None:
        with self._heard:
            if "id" in message:
                self._answers[message["id"]] = message
            elif message["method"] == "Runtime.consoleAPICalled":
                self.said.append([_plain(one) for one in message["params"]["args"]])
            elif message["method"] == "Runtime.exceptionThrown":
                self.faults.append(str(message["params"]["exceptionDetails"]))
            elif message["method"] == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.faults.append(message["params"]["entry"]["text"])
            self._heard.notify_all()


def _as_pipe(reads: int, writes: int) -> None:
    """In the new process: the browser reads commands from 3 and writes answers to 4."""
    high = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (reads, writes)]
    for number, end in zip((3, 4), high, strict=True):
        os.dup2(end, number)
        os.close(end)


def _plain(said: dict[str, Any]) -> Any:
    """A console argument: its value, or the properties that its preview shows."""
    if "value" in said:
        return said["value"]
    return {one["name"]: one.get("value") for one in said.get("preview", {}).get("properties", [])}


@contextlib.contextmanager
def browser(program: str) -> Iterator[Browser]:
    place = Path(tempfile.mkdtemp(prefix="orbit-test-browser-"))
    made = Browser(program, place)
    try:
        yield made
    finally:
        made.close()
        shutil.rmtree(place, ignore_errors=True)
