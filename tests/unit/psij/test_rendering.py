"""The script that a scheduler is given: what it says, that it is the same each time, and that a shell reads it as meant."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbit_psij.models import JobSpec
from orbit_psij.rendering import launched, render, warnings_of
from orbit_zmq.errors import InvalidArgument

BATCH = ("slurm", "pbs", "pbs_classic", "lsf", "cobalt")
PLACE = Path("/scratch/j1")


def script(executor: str, *, launch: list[str] | None = None, place: Path = PLACE, **fields: Any) -> str:
    spec = JobSpec.of({"executable": "/bin/date"} | fields)
    return render(executor, spec, job_id="j1", launch_command=launch or ["/bin/true"], script_dir=place)


def lines(executor: str, **fields: Any) -> list[str]:
    return script(executor, **fields).splitlines()


@pytest.mark.parametrize(
    ("executor", "line"),
    [
        ("slurm", "#SBATCH --time=1-2:0:30"),
        ("pbs", "#PBS -l walltime=26:0:30"),
        ("pbs_classic", "#PBS -l walltime=26:0:30"),
        ("lsf", "#BSUB -W 26:1"),
        ("cobalt", "#COBALT --time=1561"),
    ],
)
def test_a_wall_time_of_more_than_a_day_is_rendered_for_each_scheduler(executor: str, line: str) -> None:
    assert line in lines(executor, attributes={"duration": "1-02:00:30"})


@pytest.mark.parametrize("executor", BATCH)
def test_without_a_duration_the_scheduler_has_its_own_default(executor: str) -> None:
    assert not [line for line in lines(executor) if "time" in line and line.startswith("#")]


def test_slurm_is_told_all_that_was_asked_for() -> None:
    said = lines(
        "slurm",
        name="my job",
        directory="/tmp/a b",
        attributes={
            "queue_name": "debug",
            "account": "physics",
            "reservation_id": "r1",
            "node_count": 2,
            "custom_attributes": {"slurm.constraint": "gpu", "slurm.requeue": True, "slurm.nice": 5, "slurm.hold": False},
        },
        resources={"processes_per_node": 4, "cpu_cores_per_process": 2, "gpu_cores_per_process": 1, "memory": "8GiB",
                   "exclusive_node_use": True},
    )  # fmt: skip
    for wanted in (
        '--job-name="my job"', '--chdir="/tmp/a b"', "--exclusive", "--nodes=2", "--ntasks=8", "--ntasks-per-node=4",
        "--gpus-per-task=1", "--cpus-per-task=2", "--mem=4194304K", '--partition="debug"', '--account="physics"',
        '--reservation="r1"', '--constraint="gpu"', "--requeue", '--nice="5"', '--comment="orbit:j1"', "--export=ALL",
    ):  # fmt: skip
        assert f"#SBATCH {wanted}" in said
    assert not [line for line in said if "hold" in line]


def test_pbs_is_told_of_cores_and_gpus_too() -> None:
    said = lines(
        "pbs", name="my job", resources={"node_count": 2, "processes_per_node": 4, "cpu_cores_per_process": 2,
                                         "gpu_cores_per_process": 1, "memory": "8GiB"},
        attributes={"custom_attributes": {"pbs.l": ["filesystems=home", "place=pack"]}},
    )  # fmt: skip
    assert "#PBS -l select=2:ncpus=8:mpiprocs=4:ngpus=4:mem=4294967296" in said
    assert "#PBS -N my_job" in said
    assert '#PBS -l "filesystems=home"' in said and '#PBS -l "place=pack"' in said


def test_what_an_executor_passes_over_is_said() -> None:
    spec = JobSpec.of(
        {"executable": "x", "resources": {"exclusive_node_use": True},
         "attributes": {"project_name": "p", "custom_attributes": {"slurm.qos": "x"}}}
    )  # fmt: skip
    assert len(warnings_of("lsf", spec)) == 3
    assert len(warnings_of("slurm", spec)) == 1


@pytest.mark.parametrize("executor", [*BATCH, "local"])
def test_the_script_ends_as_the_command_does(executor: str) -> None:
    assert lines(executor)[-1] == "exec /bin/true"


def test_a_place_that_a_script_cannot_name_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="ORBIT_STATE_DIR"):
        script("slurm", place=Path('/scratch/a"b'))
    assert 'PSIJ_NODEFILE="/scratch/a b/$SLURM_JOB_ID.nodefile"' in script("slurm", place=Path("/scratch/a b"))


def test_the_name_of_the_program_is_the_name_of_the_job_as_far_as_schedulers_take_it() -> None:
    assert '#SBATCH --job-name="my_tool"' in lines("slurm", executable="/opt/x y/my tool")
    assert "#PBS -N job2tool" in lines("pbs", executable="/opt/2tool")


def test_a_launcher_of_psij_is_called_with_the_files_that_the_wrapper_keeps_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("ORBIT_STATE_DIR", str(tmp_path))
    spec = JobSpec.of({"executable": "/bin/date", "arguments": ["+%s"], "launcher": "srun", "attributes": {"node_count": 2}})
    words = launched(spec, "j1")
    assert words[-3:] == ["2", "/bin/date", "+%s"] and words[-6:-3] == ["/dev/fd/5", "/dev/fd/6", "/dev/fd/7"]
    assert any(Path(word).name == "srun_launch.sh" and Path(word).is_file() for word in words)
    assert launched(JobSpec.of({"executable": "/bin/date", "arguments": ["+%s"]}), "j1") == ["/bin/date", "+%s"]


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
PLAIN = st.text("abcXYZ019 _-./é", min_size=1, max_size=20)
SPECS = st.fixed_dictionaries(
    {"executable": TEXT.filter(bool)},
    optional={
        "name": PLAIN,
        "arguments": st.lists(TEXT, max_size=4),
        "environment": st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True), TEXT, max_size=3),
        "inherit_environment": st.booleans(),
        "attributes": st.fixed_dictionaries(
            {},
            optional={
                "duration": st.integers(1, 10**7),
                "queue_name": PLAIN,
                "account": PLAIN,
                "node_count": st.integers(1, 9),
            },
        ),
        "resources": st.fixed_dictionaries(
            {}, optional={"memory": st.integers(1, 1 << 50), "exclusive_node_use": st.booleans()}
        ),
    },
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=60)
@given(SPECS, st.sampled_from([*BATCH, "local"]))
def test_the_same_job_is_the_same_script_and_directives_are_lines_of_their_own(fields: dict[str, Any], executor: str) -> None:
    first, second = script(executor, **fields), script(executor, **fields)
    assert first == second
    head, _, _ = first.partition("\nexport ")
    assert all(line.count("\r") == 0 for line in head.splitlines() if line.startswith("#"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.lists(TEXT, min_size=1, max_size=4), st.dictionaries(st.sampled_from(["A1", "B_2", "c"]), TEXT, max_size=3))
def test_a_shell_gives_the_job_its_arguments_and_variables_byte_for_byte(
    tmp_path: Path, words: list[str], variables: dict[str, str]
) -> None:
    shown = tmp_path / "shown"
    told = ["/bin/sh", "-c", 'out=$1; shift; printf "%s\\0" "$@" "$A1" "$B_2" "$c" >"$out"', "sh", str(shown), *words]
    path = tmp_path / "script"
    path.write_bytes(script("local", launch=told, environment=variables).encode())

    subprocess.run(["/bin/bash", str(path)], check=True, timeout=100, env={"PATH": os.environ["PATH"]})

    expected = [*words, *(variables.get(name, "") for name in ("A1", "B_2", "c"))]
    assert shown.read_bytes() == b"".join(word.encode() + b"\0" for word in expected)


def test_a_job_without_the_endpoints_environment_has_its_own_alone(tmp_path: Path) -> None:
    path = tmp_path / "script"
    path.write_text(script("local", launch=["/usr/bin/env"], environment={"OWN": "1"}, inherit_environment=False))
    done = subprocess.run(
        ["/bin/bash", str(path)], check=True, timeout=100, capture_output=True, text=True, env={"THEIRS": "1", "PATH": "/bin"}
    )
    assert "OWN=1" in done.stdout.splitlines() and "THEIRS" not in done.stdout
