"""orbit_zmq.local(): a broker and an endpoint that live no longer than who started them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from lab import wait_until

import orbit_zmq
from orbit_testplugin import TestPlugin
from orbit_zmq.children import environment_of_child
from orbit_zmq.errors import InvalidArgument, NotFound


def processes_of(directory: Path) -> list[int]:
    """Those that were started in a directory, by their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(directory).encode() in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_a_plugin_class_is_served_and_everything_ends_with_the_block() -> None:
    with orbit_zmq.local(plugins=[TestPlugin], name="here") as orbit, orbit.client() as client:
        assert client.get_plugin("here", "test").echo(text="hello") == "hello"
        directory = orbit.directory
        # The broker; the class is served by this process.
        wait_until(lambda: len(processes_of(directory)) == 1, what="one process")

    assert processes_of(directory) == []
    assert not directory.exists()


def test_one_plugin_class_needs_no_list() -> None:
    with orbit_zmq.local(plugins=TestPlugin) as orbit, orbit.client() as client:
        assert client.get_plugin("local", "test").echo(text="hello") == "hello"
    with pytest.raises(InvalidArgument, match="int is no plugin"):
        orbit_zmq.local(plugins=int)  # type: ignore[arg-type]


def test_plugins_by_name_are_served_by_a_child() -> None:
    with orbit_zmq.local(plugins="default") as orbit, orbit.client() as client:
        assert [endpoint.name for endpoint in client.endpoints()] == ["local"]
        directory = orbit.directory
        wait_until(lambda: len(processes_of(directory)) == 2, what="two processes")

    assert processes_of(directory) == []


def test_a_plugin_that_nobody_knows_is_an_error_and_leaves_nothing_behind() -> None:
    with pytest.raises(NotFound, match="absent"):
        orbit_zmq.local(plugins="absent")


def test_two_at_a_time_do_not_meet() -> None:
    with orbit_zmq.local(plugins="default") as one, orbit_zmq.local(plugins="default") as other:
        assert one.url != other.url
        with one.client() as client:
            assert len(client.endpoints()) == 1


def test_a_program_that_is_killed_takes_its_children_along() -> None:
    script = (
        "import orbit_zmq, time\n"
        "orbit = orbit_zmq.local(plugins='default')\n"
        "print(orbit.directory, flush=True)\n"
        "time.sleep(600)"
    )
    program = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert program.stdout is not None
        directory = Path(program.stdout.readline().strip())
        wait_until(lambda: len(processes_of(directory)) == 2, what="two processes")
    finally:
        os.kill(program.pid, signal.SIGKILL)
        program.wait(60)

    wait_until(lambda: not processes_of(directory), what="broker and endpoint are gone")
    shutil.rmtree(directory)  # nobody is left who could


def test_the_name_in_the_package_stays_the_function() -> None:
    import orbit_zmq.embedded

    assert callable(orbit_zmq.local)
    assert orbit_zmq.local is orbit_zmq.embedded.local


def test_an_endpoint_whose_parent_is_gone_before_it_has_started_ends(tmp_path):
    command = [sys.executable, "-m", "orbit_zmq.endpoint", "--exit-with-parent", "--url", f"ipc://{tmp_path}/nowhere"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment_of_child()) as orphan:
        try:
            assert orphan.wait(60) is not None
        finally:
            orphan.kill()
