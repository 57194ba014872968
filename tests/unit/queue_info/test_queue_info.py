"""The base of all backends, and which backend is made for which batch system."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from orbit_queue_info import queue_info
from orbit_queue_info.models import Allocation, Job, Queue
from orbit_queue_info.pbs import QueueInfoPBSPro
from orbit_queue_info.queue_info import QueueInfo, QueueInfoNone, current_user, make_queue_info
from orbit_queue_info.slurm import QueueInfoSlurm
from orbit_zmq.batch import BatchSystem
from orbit_zmq.batch.slurm import SlurmBatch
from orbit_zmq.errors import InvalidArgument, SchedulerFailed, Unsupported


class Site(QueueInfo):
    """A third party's."""

    backend_name = "site"

    def _collect_info(self, user: str | None) -> Iterable[Queue]:
        return [Queue(name="z"), Queue(name="a", features=[user or "everybody"])]

    def _collect_jobs(self, user: str | None) -> Iterable[Job]:
        return [Job(job_id="1", partition="a,b", user=user)]

    def _collect_allocations(self, user: str | None) -> Iterable[Allocation]:
        return [Allocation(account="x", user=user)]


def test_a_backend_answers_records_and_the_base_makes_the_rest():
    site = Site()

    assert list(site.get_info()["queues"]) == ["a", "z"]
    assert site.get_info()["queues"]["a"]["features"] == [current_user()]
    assert site.get_info("*")["queues"]["a"]["features"] == ["everybody"]
    assert [len(site.list_jobs(queue)["jobs"]) for queue in ("a", "b", "c")] == [1, 1, 0]
    assert site.list_allocations("ann")["allocations"][0]["user"] == "ann"
    for ask in (site.list_reservations, site.list_finished_jobs, lambda: site.list_array_jobs("1")):
        with pytest.raises(Unsupported, match="backend site"):
            ask()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("slurm", QueueInfoSlurm), ("pbs", QueueInfoPBSPro), ("pbs-aurora", QueueInfoPBSPro), ("none", QueueInfoNone)],
)
def test_the_backend_is_that_of_the_batch_system(name, kind):
    assert type(make_queue_info(BatchSystem(name))) is kind


@pytest.mark.parametrize("name", ["lsf", "flux"])
def test_lists_of_lsf_and_flux_are_not_read_and_that_is_said(name):
    made = make_queue_info(BatchSystem(name))
    for ask in (made.get_info, made.list_all_jobs, made.list_allocations):
        with pytest.raises(Unsupported, match=f"does not read the lists of {name}"):
            ask()


def test_another_clusters_configuration_is_passed_on():
    assert make_queue_info(SlurmBatch("slurm", "slurm"), "/etc/b.conf").batch.environment() == {"SLURM_CONF": "/etc/b.conf"}


@pytest.mark.parametrize(
    ("said", "machine", "expected"),
    [
        ("ClusterName=b\nSlurmctldHost=head\n", "none", "slurm"),
        ("PBS_SERVER=head\n", "none", "pbs"),
        ("PBS_EXEC=/opt/pbs\n", "slurm", "pbs"),
        ("PBS_SERVER=head\n", "pbs-aurora", "pbs-aurora"),
        ("", "slurm", "slurm"),
    ],
)
def test_a_configuration_says_of_which_batch_system_it_is(tmp_path, said, machine, expected):
    conf = tmp_path / "other.conf"
    conf.write_text(said)

    assert make_queue_info(BatchSystem(machine), str(conf)).batch.name == expected


def test_a_configuration_that_says_nothing_is_refused_where_the_machine_has_no_batch_system(tmp_path):
    conf = tmp_path / "other.conf"
    conf.write_text("")
    with pytest.raises(InvalidArgument, match=r"other.conf, and it does not show of which batch system.*ORBIT_BATCH_SYSTEM"):
        make_queue_info(BatchSystem(), str(conf))


def test_a_package_may_bring_a_backend_and_one_that_is_broken_is_named(monkeypatch):
    class Point:
        name, value = "lsf", f"{__name__}:Site"

    monkeypatch.setattr(queue_info, "entry_points", lambda group: [Point])
    monkeypatch.setattr(queue_info, "import_module", lambda name: __import__("types").SimpleNamespace(Site=Site, Broken=int))
    assert type(make_queue_info(BatchSystem("lsf"))) is Site
    Point.value = "site:Broken"
    with pytest.raises(SchedulerFailed, match="site:Broken for lsf"):
        make_queue_info(BatchSystem("lsf"))


def test_without_a_batch_system_there_is_nothing():
    none = make_queue_info(BatchSystem())

    assert (none.get_info(), none.list_all_jobs(), none.list_allocations()) == (
        {"queues": {}},
        {"jobs": []},
        {"allocations": []},
    )
