"""The parent of all of a lab's daemons, and of what their jobs run: `python -m slurmlab.keeper --directory D`.

It ends them when its standard input is closed, as it is when its parent ends in whatever way, or on SIGTERM; SIGHUP starts
again what has ended. Orphans become its children, so that it finds jobs too; should it be killed itself, the daemons end with
it. The directory has to be empty, and is gone when this has ended.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import psutil

from orbit_zmq.errors import DeadlineExceeded, InternalError, OrbitError
from orbit_zmq.exit_with_parent import say_failed, say_ready, watch_parent
from slurmlab.files import CLUSTER, NODES, Ports, epilog, gres_conf, slurm_conf, slurmdbd_conf
from slurmlab.install import find

START_S = 90.0  # for each daemon, on a machine that has more to do
POLL_S = 0.02
PORTS = range(20_000, 32_000)  # below those that the system gives to whoever connects
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SMALL_DATABASE = (
    "--innodb-log-file-size=8M",
    "--innodb-buffer-pool-size=64M",
    "--innodb-lock-wait-timeout=900",
    "--innodb-flush-log-at-trx-commit=0",  # nobody needs it after a crash
)
ACCOUNTS = """\
add account physics Description=physics Organization=lab
add account chemistry Description=chemistry Organization=lab GrpTRES=cpu=6
add user root Account=physics DefaultAccount=physics
add user root Account=chemistry Fairshare=7 MaxJobs=400 MaxSubmitJobs=900 MaxWall=02:00:00
add user nobody Account=physics Partition=debug
add user nobody Account=physics Partition=long
"""
_libc = ctypes.CDLL(None)


class Keeper:
    """The daemons by name, in the order in which they start."""

    def __init__(self, place: Path, accounting: bool) -> None:
        self._place = place
        self.conf = place / "slurm.conf"
        self._accounting = accounting
        sockets = free_ports(2 + len(NODES))
        controller, accounting_port, *nodes = (one.getsockname()[1] for one in sockets)
        self._ports = Ports(controller, accounting_port, (nodes[0], nodes[1]))
        daemons = ("slurmctld", "slurmdbd", *(f"slurmd.{node}" for node in NODES))
        self._kept_free = dict(zip(daemons, sockets, strict=True))  # until the daemon starts, so that no other lab takes them
        self._commands = self._all_commands()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **os.environ,
            "SLURM_CONF": str(self.conf),
            "MYSQL_UNIX_PORT": str(place / "mariadb.socket"),
        }

    @contextlib.contextmanager
    def files(self) -> Iterator[None]:
        """The directory is there, and at the end neither that nor any process is."""
        self._place.mkdir(parents=True, exist_ok=True)
        if any(self._place.iterdir()):
            raise InternalError(f"{self._place} is not empty.", hint="Name a directory that is, or end the lab that is there.")
        try:
            self._write_files()
            yield
        finally:
            kill_children()
            shutil.rmtree(self._place, ignore_errors=True)

    def start(self) -> None:
        """Until both nodes are idle."""
        with ThreadPoolExecutor() as pool:  # accounts take longer to make than nodes to come up
            making = None
            for name in self._commands:
                self._start(name)
                if name == "slurmdbd":
                    self._run("sacctmgr", "-i", "add", "cluster", CLUSTER)
                    making = pool.submit(self._make_accounts)
            if making:
                making.result()
        wait_until(self._nodes_are_idle, "both nodes are idle", self._why_not_idle)

    def start_what_has_ended(self) -> None:
        for name in self._commands:
            if self._has_ended(name):
                self._start(name)

    def _has_ended(self, name: str) -> bool:
        """Also so of one that others see as ended, as its first thread has, and whose other threads are about to."""
        process = self._running[name]
        if process.poll() is None and psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE:
            process.wait(START_S)
        return process.poll() is not None

    def _all_commands(self) -> dict[str, list[str]]:
        place = self._place
        munge = {f"--{name}-file": place / f"munge.{name}" for name in ("key", "pid", "log", "seed")}
        commands = {
            "munged": ["-F", "--num-threads=10", f"--socket={place}/munge.socket", *(f"{o}={p}" for o, p in munge.items())]
        }
        if self._accounting:
            commands["mariadbd"] = [
                "--no-defaults", "--user=root", "--skip-networking", f"--datadir={place}/db",
                f"--socket={place}/mariadb.socket", f"--pid-file={place}/mariadbd.pid", f"--tmpdir={place}/tmp",
                *SMALL_DATABASE,
            ]  # fmt: skip
            commands["slurmdbd"] = ["-D"]
        commands["slurmctld"] = ["-D", "-i"]
        return commands | {f"slurmd.{node}": ["-D", "-N", node] for node in NODES}

    def _write_files(self) -> None:
        place = self._place
        (place / "keeper.pid").write_text(str(os.getpid()))
        place.chmod(0o755)  # jobs of other users speak to munge, too
        for name in ("state", "tmp", *(f"spool.{node}" for node in NODES)):
            (place / name).mkdir()
        self.conf.write_text(slurm_conf(place, self._ports, self._accounting))
        (place / "gres.conf").write_text(gres_conf())
        (place / "epilog").write_text(epilog(place))
        (place / "epilog").chmod(0o755)
        for name, content in {
            "slurmdbd.conf": slurmdbd_conf(place, self._ports).encode(),
            "munge.key": random.randbytes(128),
        }.items():
            (place / name).touch(0o600)
            (place / name).write_bytes(content)

    def _start(self, name: str) -> None:
        if name == "mariadbd" and not (self._place / "db").exists():
            self._make_database()
        program = find(name.partition(".")[0])
        if program is None:
            raise InternalError(f"There is no {name}.", hint="Run: scripts/lab slurm up")
        if name in self._kept_free:
            self._kept_free.pop(name).close()
        with (self._place / f"{name}.out").open("wb") as out:
            self._running[name] = subprocess.Popen(
                [program, *self._commands[name]],
                env=self._environment,
                cwd=self._place,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )
        wait_until(lambda: self._is_up(name), f"{name} has started", lambda: self._end_of_output(name))
        new = self._place / f"{name}.daemon.new"
        new.write_text(str(self._running[name].pid))
        new.rename(self._place / f"{name}.daemon")  # whoever looks finds a whole number

    def _is_up(self, name: str) -> bool:
        if self._running[name].poll() is not None:
            raise InternalError(f"{name} has ended.", hint=self._end_of_output(name))
        if name == "munged":
            return can_connect(socket.AF_UNIX, str(self._place / "munge.socket"))
        if name == "mariadbd":
            return "ready for connections" in self._output(name)
        ports = {"slurmdbd": self._ports.accounting, "slurmctld": self._ports.controller}
        return name not in ports or can_connect(socket.AF_INET, ("127.0.0.1", ports[name]))

    def _make_database(self) -> None:
        data = self._place / "db"
        data.mkdir()
        self._run(
            "mariadb-install-db", "--no-defaults", "--user=root", f"--datadir={data}", "--skip-test-db",
            "--auth-root-authentication-method=normal", f"--tmpdir={self._place}/tmp", SMALL_DATABASE[0],
        )  # fmt: skip

    def _make_accounts(self) -> None:
        self._run("sacctmgr", "-i", said=ACCOUNTS)

    def _run(self, *command: str, said: str = "") -> str:
        done = subprocess.run(
            command, env=self._environment, input=said, capture_output=True, text=True, timeout=START_S, check=False
        )
        if done.returncode != 0:
            raise InternalError(f"{command[0]} failed.", hint=(done.stdout + done.stderr).strip()[-1000:])
        return done.stdout

    def _nodes_are_idle(self) -> bool:
        states = self._run("sinfo", "--Node", "--noheader", "--partition=debug", "--format=%T").split()
        return states == ["idle"] * len(NODES)

    def _why_not_idle(self) -> str:
        return self._run("sinfo", "--Node", "--long")

    def _output(self, name: str) -> str:
        return (self._place / f"{name}.out").read_text(errors="replace")

    def _end_of_output(self, name: str) -> str:
        return self._output(name)[-1000:]


def kill_children() -> None:
    """All that is below this process, and what appears there while that is done."""
    this = psutil.Process()
    while left := this.children(recursive=True):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, 1.0)


def wait_until(is_so: Callable[[], bool], what: str, why_not: Callable[[], str]) -> None:
    deadline = time.monotonic() + START_S
    while not is_so():
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"Not within {START_S:g} s: {what}.", hint=why_not())
        time.sleep(POLL_S)


def can_connect(family: int, address: str | tuple[str, int]) -> bool:
    with socket.socket(family) as tried:
        return tried.connect_ex(address) == 0


def free_ports(count: int) -> list[socket.socket]:
    """Sockets that are bound to ports which nobody else has."""
    found: list[socket.socket] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        tried = socket.socket()
        try:
            tried.bind(("", port))
            found.append(tried)
        except OSError:
            tried.close()
        if len(found) == count:
            break
    return found


def _die_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> int:
    parser = argparse.ArgumentParser(prog="slurmlab.keeper")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--no-accounting", action="store_true")
    parser.add_argument("--exit-with-parent", action="store_true")
    options = parser.parse_args()
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    asked: SimpleQueue[bool] = SimpleQueue()  # whether to go on; its put may be called from a signal handler
    for number, goes_on in ((signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGHUP, True)):
        signal.signal(number, lambda *_, goes_on=goes_on: asked.put(goes_on))
    if options.exit_with_parent:
        watch_parent(lambda: asked.put(False))
    keeper = Keeper(options.directory.resolve(), accounting=not options.no_accounting)
    try:
        with keeper.files():
            keeper.start()
            say_ready({"conf": str(keeper.conf)}, f"SLURM_CONF={keeper.conf}")
            while asked.get():
                keeper.start_what_has_ended()
    except OrbitError as error:
        say_failed(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
