"""The supervisor: keeps a broker running, whatever kills it.

A broker that ends without having been stopped is started again at once, at the same addresses; one that dies again soon waits
longer each time. The supervisor ends with a broker that was stopped for good, and takes its broker along when it is told to
end itself. A gateway beside it is kept running in the same way. Nothing here knows of messages, sockets and keys.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from orbit_zmq.children import BROKER, Child, start_gateway
from orbit_zmq.errors import OrbitError
from orbit_zmq.log import get_logger
from orbit_zmq.process_record import SUPERVISED, SUPERVISOR, ProcessRecord

WILL_RETURN = os.EX_TEMPFAIL  # the exit code of a supervised broker that was told to end, but not for good
STABLE_S = 5.0  # a broker that has lived so long did not die of its start
PAUSES_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)  # before a start, by how many have failed in a row

log = get_logger(__name__)


class Supervisor:
    """One broker and its successors. To be used in the main thread, for it takes the signals."""

    def __init__(self, arguments: Sequence[str], log_file: str = "") -> None:
        self._arguments = list(arguments)
        self._record = ProcessRecord.of_this_process(SUPERVISOR, SUPERVISED, log=log_file)
        self._news: queue.SimpleQueue[Child | None] = queue.SimpleQueue()  # a child that has ended; None: end; signals may put
        self._failures = 0

    def run(self, on_ready: Callable[[dict[str, Any]], None]) -> None:
        """Until the broker is stopped for good, or SIGTERM, SIGINT or SIGHUP. `on_ready` hears of the first start.

        Raises the error of a broker that cannot start the first time.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self._news.put(None))
        child = self._start()
        self._arguments = _at_same_place(self._arguments, child.ready)
        self._record.write()
        try:
            on_ready({**child.ready, "supervisor": os.getpid()})
            self._keep(child)
        finally:
            self._record.remove()

    def _keep(self, first: Child) -> None:
        child: Child | None = first
        while True:
            began = time.monotonic()
            if child is not None:
                if self._wait(child):
                    return
                self._note_end(child, time.monotonic() - began)
            pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
            with suppress(queue.Empty):
                if self._news.get(timeout=pause_s) is None:
                    return
            child = self._start_again()

    def _start(self) -> Child:
        child = Child(BROKER, [*self._arguments, "--supervised"], os.environ, None)
        try:
            child.wait_until_ready()
        except BaseException:
            child.end()
            raise
        return child

    def _start_again(self) -> Child | None:
        try:
            child = self._start()
        except OrbitError as error:
            self._failures += 1
            log.error("broker-did-not-start", reason=error.message, failures=self._failures)
            return None
        log.warning("broker-restarted", pid=child.pid, failures=self._failures)
        return child

    def _wait(self, child: Child) -> bool:
        """Until the broker ends or is to be ended; whether that is the end of the supervisor, too."""
        threading.Thread(target=self._tell_of_end, args=(child,), name="orbit-broker-end", daemon=True).start()
        is_told = self._news.get() is None
        if is_told:
            child.terminate()
        return child.end() == 0 or is_told

    def _tell_of_end(self, child: Child) -> None:
        child.wait()
        self._news.put(child)

    def _note_end(self, child: Child, lived_s: float) -> None:
        self._failures = 0 if lived_s >= STABLE_S else self._failures + 1
        pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
        log.error("broker-ended", pid=child.pid, exit_code=child.exit_code(), lived_s=round(lived_s, 3), restart_in_s=pause_s)


class KeptGateway:
    """A gateway that is started again, at the same address, whenever it ends; it ends with whoever has started it.

    Raises the error of a gateway that cannot start the first time.
    """

    def __init__(self, url: str, http: str, options: Sequence[str] = ()) -> None:
        self._url = url
        self._options = list(options)
        self._child = start_gateway(url=url, http=http, options=options)
        self.address: str = self._child.ready["http"]
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="orbit-gateway", daemon=True)
        self._thread.start()

    @property
    def facts(self) -> dict[str, str]:
        """Where it listens, as `http`, and the `fingerprint` of a certificate of its own making."""
        fingerprint = self._child.ready.get("fingerprint")
        return {"http": self.address} | ({"fingerprint": fingerprint} if fingerprint else {})

    def end(self) -> None:
        """End it for good."""
        self._ended.set()
        self._child.terminate()
        self._thread.join()

    def _keep(self) -> None:
        failures, began = 0, time.monotonic()
        while True:
            self._child.wait()
            self._child.end()
            if self._ended.is_set():
                return
            failures = 0 if time.monotonic() - began >= STABLE_S else failures + 1
            pause_s = PAUSES_S[min(failures, len(PAUSES_S) - 1)]
            log.error("gateway-ended", pid=self._child.pid, exit_code=self._child.exit_code(), restart_in_s=pause_s)
            if self._ended.wait(pause_s):
                return
            began = time.monotonic()
            try:
                self._child = start_gateway(url=self._url, http=self.address.partition("://")[2], options=self._options)
            except OrbitError as error:
                log.error("gateway-did-not-start", reason=error.message)
                continue
            if self._ended.is_set():
                self._child.terminate()


def _at_same_place(arguments: Sequence[str], ready: dict[str, Any]) -> list[str]:
    """The arguments with the addresses that the first broker got, so that its successors are found there."""
    rest = list(arguments)
    for option, address in (("--tcp", ready.get("tcp")), ("--events-tcp", ready.get("events_tcp"))):
        if option in rest:
            at = rest.index(option)
            del rest[at : at + 2]
        if address:
            rest += [option, address]
    return rest
