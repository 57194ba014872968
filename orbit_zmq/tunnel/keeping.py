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
from orbit_zmq.tunnel.ssh import CONNECT_S, CUT_SHORT, UP_S, Ssh

TRY_AGAIN_S = 1.0  # while the first one is opened
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0  # when one has died
STEADY_S = 30.0  # a tunnel that has held for so long starts again with the first pause

State = Literal["pending", "active", "reconnecting", "failed", "done"]

log = get_logger(__name__)


class KeptTunnel:
    """One tunnel and the thread that keeps it.

    `make` starts ssh; it is told whether the tunnel has been open, for then the ports have to be the same ones. `on_change` is
    told of each state, and of each reason.
    """

    def __init__(
        self, name: str, make: Callable[[bool], Ssh], on_change: Callable[[KeptTunnel], None], was_open: bool = False
    ) -> None:
        self._name, self._make, self._on_change = name, make, on_change
        self.was_open = was_open
        self.state: State = "reconnecting" if was_open else "pending"
        self.failure: OrbitError | None = None  # the last one, while it is tried again
        self.since = time.time()  # of `state`, seconds since 1970
        self.pid: int | None = None
        self._ssh: Ssh | None = None
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"orbit-tunnel-{name}", daemon=True)

    def open(self, within_s: float, check: Callable[[], None] | None = None, once: bool = False) -> None:
        """Open it, trying again while that may help, or once; raises the last failure when the time is over. Then it is kept.

        It counts as open once `check` has not raised.
        """
        ends_at = time.monotonic() + within_s
        while True:
            left_s = ends_at - time.monotonic()
            try:
                self._try(left_s, check)
                break
            except OrbitError as error:
                failure = self.failure if left_s < CONNECT_S and CUT_SHORT in error.details else None  # it tells more
                failure = failure or error
                is_late = time.monotonic() + TRY_AGAIN_S >= ends_at
                if once or not error.transient or is_late or self._over.wait(TRY_AGAIN_S):
                    if not self._over.is_set():
                        self._enter("failed", failure)
                    raise failure from None
                self._enter(self.state, failure)
        self.keep()

    def keep(self) -> None:
        """Go on with one that is open, or that was when another process kept it."""
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

    def _try(self, within_s: float, check: Callable[[], None] | None = None) -> None:
        with self._lock:
            if self._over.is_set():
                return
            ssh = self._ssh = self._make(self.was_open)
        ssh.wait_until_up(min(UP_S, within_s))
        try:
            if check is not None:
                check()
        except OrbitError as error:
            ssh.end()
            if ssh.refused:
                error.message += f" (ssh: {ssh.refused})"
            raise
        self.was_open = True
        self.pid = ssh.pid
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
                pause_s = FIRST_PAUSE_S if time.monotonic() - opened_at > STEADY_S else pause_s
                self._enter("reconnecting", failure)
                log.warning("tunnel-lost", tunnel=self._name, reason=failure.message)
            if self._over.wait(pause_s * random.uniform(0.5, 1.0)):
                return
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
            try:
                self._try(UP_S)
                opened_at = time.monotonic()
            except OrbitError as error:
                if not self._over.is_set():
                    self._enter("reconnecting", error)

    def _enter(self, state: State, failure: OrbitError | None = None) -> None:
        is_same = state == self.state
        if is_same and _message(failure) == _message(self.failure):
            return
        self.state, self.failure = state, failure
        self.since = self.since if is_same else time.time()
        self._on_change(self)


def _message(failure: OrbitError | None) -> str:
    return failure.message if failure is not None else ""
