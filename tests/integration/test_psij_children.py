"""Children of an endpoint in jobs of this machine: what is left of them when jobs end, and when their parent is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from lab import Lab, running_lab, wait_until

from orbit_zmq.errors import OrbitError

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 100.0
WALL_S = 600
DAY_S = 86_400


@pytest.fixture
def lab() -> Iterator[Lab]:
    with running_lab() as made:
        yield made


def worker(name: str) -> dict[str, Any]:
    return {
        "executable": "orbit-endpoint-wrapper.sh",
        "arguments": ["-n", name, "--plugins", "math"],
        "attributes": {"duration": WALL_S},
    }


def keys_of(lab: Lab, name: str) -> list[dict[str, Any]]:
    listed = lab.client().keys
    return [key for key in listed() if key["name"] == name]


def files_of(lab: Lab, name: str) -> list[str]:
    """All in the state directory that has to do with a child."""
    found: list[str] = []
    for _, directories, files in os.walk(lab.environment["ORBIT_STATE_DIR"]):  # passes over what vanishes meanwhile
        found += [one for one in (*directories, *files) if name in one]
    return found


def test_nothing_of_a_child_outlives_its_job(lab: Lab) -> None:
    name = "login.short"
    lab.start_endpoint("login", url=lab.tcp, plugins="psij")
    client = lab.client()
    with client.get_plugin("login", "psij") as psij:
        job = psij.submit_tunneled(worker(name))
        wait_until(lambda: any(one.name == name for one in client.endpoints()), PATIENCE_S, what="the child is there")
        (key,) = keys_of(lab, name)
        assert key["expires"] - key["created"] <= WALL_S + DAY_S + 60
        assert f"endpoint-{name}.sqlite" in files_of(lab, name)

        psij.cancel_job(job["job_id"])
        psij.wait_job(job["job_id"], timeout=PATIENCE_S)

    wait_until(lambda: keys_of(lab, name) == [], PATIENCE_S, what="its key is revoked")
    wait_until(lambda: files_of(lab, name) == [], PATIENCE_S, what=f"no file is left: {files_of(lab, name)}")


def test_a_parent_that_is_killed_when_it_has_a_key_for_a_child_and_no_job_revokes_it_when_it_comes_back(lab: Lab) -> None:
    name = "login.lost"
    usual = dict(lab.environment)
    lab.environment["ORBIT_FAULTPOINTS"] = "client.answered=kill@2"  # that there is no such key yet, and the invitation
    parent = lab.start_endpoint("login", url=lab.tcp, plugins="psij")
    lab.environment.clear()
    lab.environment.update(usual)
    psij = lab.client().get_plugin("login", "psij")
    with pytest.raises(OrbitError) as caught:
        psij.submit_tunneled(worker(name))
    assert caught.value.code in ("outcome-unknown", "endpoint-lost")
    assert parent.wait() == -signal.SIGKILL
    assert len(keys_of(lab, name)) == 1

    lab.start_endpoint("login", url=lab.tcp, plugins="psij")

    wait_until(lambda: keys_of(lab, name) == [], PATIENCE_S, what="its key is revoked")
    wait_until(lambda: files_of(lab, name) == [], PATIENCE_S, what="no file is left")
    psij = lab.client().get_plugin("login", "psij")
    assert psij.submit_tunneled(worker(name))["endpoint_name"] == name  # the name is free
    psij.close(cancel=True)


def test_a_parent_that_is_killed_while_a_child_serves_goes_on_with_it(lab: Lab) -> None:
    name = "login.kept"
    parent = lab.start_endpoint("login", url=lab.tcp, plugins="psij")
    client = lab.client()
    job = client.get_plugin("login", "psij").submit_tunneled(worker(name))
    wait_until(lambda: any(one.name == name for one in client.endpoints()), PATIENCE_S, what="the child is there")
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    lab.start_endpoint("login", url=lab.tcp, plugins="psij")

    assert client.call(name, "math", "ping") == {}
    assert len(keys_of(lab, name)) == 1
    with client.get_plugin("login", "psij") as psij:
        psij.cancel_job(job["job_id"])
        psij.wait_job(job["job_id"], timeout=PATIENCE_S)
    wait_until(lambda: keys_of(lab, name) == [] and files_of(lab, name) == [], PATIENCE_S, what="nothing is left")
