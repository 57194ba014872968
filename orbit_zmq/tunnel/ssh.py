"""OpenSSH with forwarded ports, as a child process that ends with this one.

It asks nobody anything: host keys have to be known and a key has to be accepted without a passphrase, by the user's own
configuration of ssh, which also names jump hosts. What it says when it fails is turned into one sentence and a hint.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from orbit_zmq.addresses import bracketed
from orbit_zmq.errors import InvalidArgument, OrbitError, TunnelFailed

ALIVE_S, ALIVE_MISSED = 5, 3  # a line that says nothing for that long and that often is dead
CONNECT_S = 10
UP_S = 30.0  # for a connection over several hosts, with slow log-ins
END_S = 3.0
OPTIONS = {
    "BatchMode": "yes",  # it never asks
    "ExitOnForwardFailure": "yes",
    "ConnectTimeout": str(CONNECT_S),
    "ConnectionAttempts": "1",
    "ServerAliveInterval": str(ALIVE_S),
    "ServerAliveCountMax": str(ALIVE_MISSED),
    "ControlMaster": "no",  # a shared connection would outlive this one, or take the ports along
    "ControlPath": "none",
    "LogLevel": "DEBUG1",  # it says there that the ports are forwarded
}
# Ends ssh when the input of the shell is closed, and with ssh: a process that was killed cannot end its children.
GUARD = (
    'exec 3<&0; "$@" </dev/null & ssh=$!; { read -r _ <&3; kill $ssh; } 2>/dev/null & watch=$!; '
    'trap "kill $ssh" TERM; wait $ssh; code=$?; kill $watch 2>/dev/null; exit $code'
)
FORWARDED = {
    "L": re.compile(r"Local forwarding listening on \S+ port (\d+)"),
    "R": re.compile(r"remote forward success for: listen .*?(\d+), connect"),
}
CHATTER = re.compile(r"^(debug\d: |OpenSSH_|Authenticated to |Transferred: |Bytes per second|\*\*|Warning: Permanently added)")

# Of one connection through the tunnel, which goes on.
OF_CONNECTION = re.compile(r"^(channel \d+: open failed: |connect_to )")

WANTS_OTHER_PORT = "wants_other_port"  # in the details of a failure
CUT_SHORT = "cut_short"  # likewise: it had said nothing when its time was over
OTHER_WAY = "Choose the other direction of the tunnel."


@dataclass(frozen=True, slots=True)
class Saying:
    """Words of ssh, the end of our sentence, and what to do."""

    words: str
    meaning: str
    hint: str
    # On which sides a second attempt does not change it: L, R. A node lets its user in only after the job's start.
    lasts: str = ""
    is_port: bool = False  # another port may do


SAYINGS = (
    Saying(
        "Host key verification failed",
        "its host key is not the one that is known here, or none is known",
        "Log in once by hand with `ssh {host}` from the same machine and compare the fingerprint; docs/tunnels.md has more.",
        lasts="LR",
    ),
    Saying(
        "Permission denied",
        "it accepts none of this user's keys",
        "`ssh -o BatchMode=yes {host} true` has to work there without a question; ~/.ssh/authorized_keys wants a key for it.",
        lasts="L",
    ),
    Saying("Could not resolve hostname", "nobody knows that name", "Check the name of the host.", lasts="LR"),
    Saying("Connection refused", "nothing takes ssh connections there", OTHER_WAY),
    Saying("timed out", "it does not answer", f"A firewall may be in the way. {OTHER_WAY}"),
    Saying("No route to host", "no network leads there", OTHER_WAY),
    Saying("Network is unreachable", "no network leads there", OTHER_WAY),
    Saying("Address already in use", "the port is taken here", "Another one is tried.", is_port=True),
    Saying(
        "forwarding failed",
        "it does not forward the port",
        "It may be taken, or sshd forbids it (AllowTcpForwarding).",
        lasts="R",
        is_port=True,
    ),
)


@dataclass(frozen=True, slots=True)
class Forward:
    """A port that listens at one end of the connection, on the loopback alone, and where it leads from the other end."""

    port: int
    host: str
    host_port: int

    def __str__(self) -> str:
        return f"127.0.0.1:{self.port}:{bracketed(self.host)}:{self.host_port}"


def ssh_command(side: Literal["L", "R"], host: str, forwards: Sequence[Forward]) -> list[str]:
    """What is run: `L` listens here, `R` over there."""
    if not host or host.startswith("-") or not host.isprintable() or " " in host:
        raise InvalidArgument(f"{host!r} is no host for ssh.")
    words = ["ssh", "-N", "-T"]
    for name, value in OPTIONS.items():
        words += ["-o", f"{name}={value}"]
    for forward in forwards:
        words += [f"-{side}", str(forward)]
    return [*words, "--", host]


class Ssh:
    """One run of ssh. Made, it is on its way; `wait_until_up` says whether it has arrived."""

    def __init__(self, side: Literal["L", "R"], host: str, forwards: Sequence[Forward]) -> None:
        self.host = host
        self.refused = ""  # what became of the last connection through it that the other end did not make
        self._side, self._missing = side, {forward.port for forward in forwards}
        self._said: deque[str] = deque(maxlen=20)
        self._is_up = threading.Event()
        command = ssh_command(side, host, forwards)
        if shutil.which("ssh") is None:
            raise TunnelFailed("there is no ssh on this machine", hint="Install OpenSSH's client.")
        self._popen = subprocess.Popen(
            ["sh", "-c", GUARD, "orbit-tunnel", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            process_group=0,
        )
        self._reader = threading.Thread(target=self._read, name=f"orbit-ssh-{host}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def has_ended(self) -> bool:
        return self._popen.poll() is not None

    def wait_until_up(self, timeout_s: float = UP_S) -> None:
        """Until all ports are forwarded; raises TunnelFailed with what ssh said where it ends first, or takes longer."""
        deadline = time.monotonic() + timeout_s
        while not self._is_up.wait(0.05):
            if self.has_ended:
                self.wait()
                raise self.failure()
            if time.monotonic() >= deadline:
                self.end()
                raise (
                    self.failure()
                    if self._said
                    else TunnelFailed(
                        f"ssh to {self.host} has not come through after {timeout_s:g} s",
                        hint="A firewall may be in the way: choose the other direction of the tunnel.",
                        details={CUT_SHORT: True},
                    )
                )

    def wait(self) -> None:
        """Until it has ended."""
        self._popen.wait()
        self._reader.join(1.0)
        self._close_input()

    def end(self) -> None:
        """End it, within seconds."""
        self._close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(END_S)
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait()

    def failure(self) -> OrbitError:
        """Why it has ended, in a sentence."""
        said = "; ".join(self._said)
        for one in SAYINGS:
            if one.words in said:
                return TunnelFailed(
                    f"ssh to {self.host}: {one.meaning}",
                    hint=one.hint.format(host=self.host),
                    transient=self._side not in one.lasts,
                    details={"ssh": said[-500:], WANTS_OTHER_PORT: one.is_port},
                )
        return TunnelFailed(f"ssh to {self.host} ended: {said[-500:] or 'without a word'}", details={"ssh": said[-500:]})

    def _close_input(self) -> None:
        with contextlib.suppress(OSError):
            if self._popen.stdin is not None:
                self._popen.stdin.close()

    def _read(self) -> None:
        stream = self._popen.stderr
        if stream is None:
            return
        with stream:
            for raw in stream:
                line = raw.decode(errors="replace").strip()
                if found := FORWARDED[self._side].search(line):
                    self._missing.discard(int(found[1]))
                    if not self._missing:
                        self._is_up.set()
                elif found := OF_CONNECTION.match(line):
                    self.refused = line.removeprefix(found[0])
                elif line and not CHATTER.match(line):
                    self._said.append(line)
