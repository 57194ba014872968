"""A tunnel that is opened anew, on the same ports, whenever it dies, until it is not wanted any more.

What uses the ports need not know: its connections break and come back, as over a bad line. This module must not know which
side asks, and what the ports are for.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Literal

from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.tunnel.ssh import Ssh

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0
STEADY_S = 30.0  # a tunnel that has held for so long starts again with the first pause

State = Literal["pending", "active", "reconnecting", "failed", "done"]

log = get_logger(__name__)


class KeptTunnel:
    """One tunnel and the thread that keeps it.

    `make` starts ssh; it is told whether the tunnel has been open, for then the ports have to be the same ones.
    """

    def __init__(self, name: str, make: Callable[[bool], Ssh], on_change: Callable[[KeptTunnel], None]) -> None:
        self._name, self._make, self._on_change = name, make, on_change
        self._was_open = False
        self.state: State = "pending"
        self.reason = self.hint = ""  # of the last failure, while it is tried again
        self.since = time.time()  # of `state`, seconds since 1970
        self.pid: int | None = None
        self._ssh: Ssh | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"orbit-tunnel-{name}", daemon=True)

    def open(self, within_s: float, pause_s: float = 1.0) -> None:
        """Open it, trying again while that may help; raises the last failure when the time is over. Then it is kept."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                self._try()
                break
            except OrbitError as error:
                self.reason, self.hint = error.message, error.hint
                is_late = time.monotonic() + pause_s >= deadline
                if not error.transient or is_late or self._over.wait(pause_s):
                    self._enter("failed")
                    raise
        self._thread.start()

    def close(self) -> None:
        """End it for good."""
        self._over.set()
        with self._lock:
            if self._ssh is not None:
                self._ssh.end()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        if self.state != "failed":
            self._enter("done")

    def _try(self) -> None:
        with self._lock:
            if self._over.is_set():
                return
            ssh = self._ssh = self._make(self._was_open)
        ssh.wait_until_up()
        self._was_open = True
        self.pid, self.reason, self.hint = ssh.pid, "", ""
        self._enter("active")
        log.info("tunnel-open", tunnel=self._name, host=ssh.host, pid=ssh.pid)

    def _keep(self) -> None:
        pause_s, opened_at = FIRST_PAUSE_S, time.monotonic()
        while not self._over.is_set():
            if self._ssh is not None and self.state == "active":
                self._ssh.wait()
                if self._over.is_set():
                    return
                failure = self._ssh.failure()
                self.reason, self.hint = failure.message, failure.hint
                pause_s = FIRST_PAUSE_S if time.monotonic() - opened_at > STEADY_S else pause_s
                self._enter("reconnecting")
                log.warning("tunnel-lost", tunnel=self._name, reason=self.reason)
            if self._over.wait(pause_s * random.uniform(0.5, 1.0)):
                return
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                self._try()
                opened_at = time.monotonic()
            except OrbitError as error:
                self.reason, self.hint = error.message, error.hint

    def _enter(self, state: State) -> None:
        if state != self.state:
            self.state, self.since = state, time.time()
            self._on_change(self)
