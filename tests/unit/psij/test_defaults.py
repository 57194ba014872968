"""What jobs of a site get unless they say otherwise, and the page that the Explorer shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orbit_psij.defaults import all_sites, with_defaults
from orbit_psij.models import JobSpec
from orbit_psij.service import PSIJPlugin
from orbit_zmq.batch import BatchSystem
from orbit_zmq.errors import InvalidArgument

AURORA = BatchSystem("pbs-aurora", "pbs")
SLURM = BatchSystem("slurm", "slurm")


@pytest.fixture(autouse=True)
def sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ORBIT_CONFIG_DIR", str(tmp_path))
    (tmp_path / "sites").mkdir()
    return tmp_path / "sites"


def filled(executor: str, batch: BatchSystem, **more: Any) -> JobSpec:
    return with_defaults(JobSpec.of({"executable": "x"} | more), executor, batch)


def test_all_of_our_files_can_be_read() -> None:
    assert len(list(all_sites())) >= 1


def test_a_job_on_aurora_names_its_file_systems_unless_it_says_which() -> None:
    assert filled("pbs", AURORA).attributes.custom_attributes == {"pbs.l": "filesystems=home:flare"}
    own = {"custom_attributes": {"pbs.l": "filesystems=home", "pbs.k": "doe"}}
    assert filled("pbs", AURORA, attributes=own).attributes.custom_attributes == own["custom_attributes"]


def test_defaults_are_for_the_machine_and_the_executor_that_they_name() -> None:
    assert filled("local", AURORA).attributes.custom_attributes == {}
    assert filled("pbs", BatchSystem("pbs", "pbs")).attributes.custom_attributes == {}
    assert filled("slurm", SLURM).attributes.custom_attributes == {}


def test_the_users_own_files_count_before_ours_and_after_the_job(sites: Path) -> None:
    (sites / "mine.toml").write_text(
        'batch_system = "pbs*"\n[defaults]\nqueue_name = "debug"\nduration = "1h"\nlauncher = "mpirun"\naccount = "physics"\n'
        '[defaults.custom_attributes]\n"pbs.l" = "filesystems=eagle"\n'
    )
    spec = filled("pbs", AURORA, attributes={"queue_name": "prod", "project_name": "mine"})
    assert (spec.attributes.queue_name, spec.attributes.duration, spec.launcher, spec.account) == (
        "prod",
        3600,
        "mpirun",
        "mine",
    )
    assert spec.attributes.custom_attributes == {"pbs.l": "filesystems=eagle"}


@pytest.mark.parametrize("content", ["[defaults]\nqueue = 'x'\n", "no toml", "[defaults]\nduration = 'soon'\n", ""])
def test_a_file_that_cannot_be_is_named(sites: Path, content: str) -> None:
    (sites / "bad.toml").write_text(content)
    with pytest.raises(InvalidArgument, match=r"bad\.toml"):
        filled("pbs", AURORA)


def test_the_page_is_as_documented() -> None:
    page = PSIJPlugin.ui_config
    (form,) = page["forms"]
    fields = {field["name"]: field for field in form["fields"]}
    assert (page["icon"], page["title"], page["description"]) == (
        "🚀", "PsiJ Jobs", "Submit and monitor HPC batch jobs via PsiJ.",
    )  # fmt: skip
    assert list(fields) == ["exec", "args", "executor", "queue", "account", "duration", "node_count", "custom"]
    assert fields["exec"] == {
        "column": 0, "css_class": "p-exec", "default": "orbit-endpoint-wrapper.sh", "label": "Executable", "name": "exec",
        "type": "text",
    }  # fmt: skip
    assert fields["executor"]["options"] == ["local", "slurm", "pbs", "lsf"]
    assert fields["custom"] == {
        "column": 1, "css_class": "p-custom-attr", "label": "🔧 Custom Attributes", "name": "custom", "required": False,
        "type": "custom_attributes",
    }  # fmt: skip
    assert page["notifications"] == {"topic": "job_status", "id_field": "job_id", "state_field": "state"}
    assert page["monitors"] == [
        {"css_class": "psij-output", "empty_text": "No jobs submitted yet.", "id": "jobs", "title": "📊 Job Monitor",
         "type": "task_list"}
    ]  # fmt: skip
