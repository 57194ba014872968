"""Kinds of sites: laptop, bridge, login and compute node with only the permitted directions open, and one command for a worker.

Every site has its own answer to `--tunnel auto`.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from lab import wait_until
from sitelab import CAN_RUN, WHY_NOT, site
from slurmlab.cluster import SlurmLab

TASKS = 10_000
PATIENCE_S = 120.0
pytestmark = [pytest.mark.skipif(not CAN_RUN, reason=WHY_NOT), pytest.mark.timeout(400)]

TOLD = pytest.mark.long  # what is told is done by other tests as well; that it is found out, by none


@pytest.mark.parametrize(
    ("kind", "tunnel"),
    [
        ("none", "auto"),
        ("forward", "auto"),
        ("reverse", "auto"),
        pytest.param("none", "none", marks=TOLD),
        pytest.param("forward", "forward", marks=TOLD),
        pytest.param("reverse", "reverse", marks=TOLD),
    ],
)
def test_ten_thousand_tasks_from_a_laptop_through_a_worker_inside_a_job(
    slurm: SlurmLab, tmp_path: Path, kind: str, tunnel: str
) -> None:
    with site(kind, slurm, tmp_path) as there:
        client, name = there.client, "login.1"
        with client.get_plugin("login", "psij") as psij:
            job_id = psij.start_worker(there.job(name), "slurm", tunnel)["job_id"]
            wait_until(lambda: any(one.name == name for one in client.endpoints()), PATIENCE_S, what="the worker is there")
            with client.get_plugin(name, "rhapsody", backends=["noop"]) as session:
                first = session.submit_tasks([{"executable": "/bin/true"}])
                session.wait_tasks(first, timeout=PATIENCE_S)
                answered_at = time.time()
                started_at = wait_until(lambda: psij.get_job_status(job_id)["started_at"], PATIENCE_S, "the job has started")
                print(f"{kind} by {tunnel}: the first task {answered_at - started_at:.1f} s after")
                answers = session.submit_tasks([{"executable": "/bin/true"}] * TASKS)
                results = session.wait_tasks(answers, timeout=PATIENCE_S)
            assert [result["state"] for result in results] == ["DONE"] * TASKS
            assert client.call(name, "rhapsody", "ping") == {}
            status = "no_tunnel" if kind == "none" else "active"
            wait_until(lambda: psij.tunnel_status(name)["status"] == status, PATIENCE_S, what="the tunnel is told of")
            assert psij.tunnel_status(name)["tunnel"] == kind

            psij.cancel_job(job_id)

            psij.wait_job(job_id, timeout=PATIENCE_S)
            keys = client.keys
            wait_until(lambda: name not in [key["name"] for key in keys()], PATIENCE_S, what="its key is gone")
