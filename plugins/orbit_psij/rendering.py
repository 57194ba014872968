"""The script that is handed to a scheduler: PSI/J's directives, then a few lines of ours that run the job.

Nothing is written and no scheduler is needed, so that what is shown beforehand is byte for byte what is submitted. PSI/J's own
last lines hide the exit code of the job from the scheduler, and its templates do not say all that was asked for; what is put
right here is in one place.
"""

from __future__ import annotations

import io
import math
import re
import shlex
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from orbit_psij.library import executor_of, job_of, launch_words
from orbit_psij.models import NOT_IN_DIRECTIVES, Custom, JobSpec, Resources
from orbit_zmq.errors import InvalidArgument

ASIDE = 'exec "$@" >&8 2>&9'  # what launchers say themselves goes to the script's own output, not to the job's
MARK = "@orbit-launch@"
FLAG = "@orbit-flag@"  # in place of the value of an option that has none
WITHOUT_VALUE = re.compile(rf'(?:=| )"{FLAG}"')
BEFORE_DIRECTIVES = re.compile(r"\n{2,}(?=#(?:SBATCH|PBS|BSUB|COBALT) )")
BLANK_LINES = re.compile(r"\n{3,}")
PBS_NAME = re.compile(r'^#PBS -N="(.*)"$', re.MULTILINE)  # that sign would be part of the name
PBS_SELECT = re.compile(r"^#PBS -l select=\d+:ncpus=\d+:mpiprocs=\d+", re.MULTILINE)
UNFIT_FOR_NAMES = re.compile(r"[^A-Za-z0-9_.+-]+")
IN_MINUTES = ("lsf", "cobalt")  # what counts wall times so; PSI/J cuts seconds off
COMMENT = "orbit:"  # before the job's id, in the scheduler's comment of the job
NOT_RENDERED = {  # resources that PSI/J's templates pass over
    "pbs_classic": ("cpu_cores_per_process",),
    "lsf": ("cpu_cores_per_process", "exclusive_node_use"),
    "cobalt": ("cpu_cores_per_process", "gpu_cores_per_process", "exclusive_node_use", "memory"),
    "local": ("exclusive_node_use", "memory", "cpu_cores_per_process", "gpu_cores_per_process"),
}
EMPTY_ENVIRONMENT = 'for name in $(compgen -e); do unset "$name" 2>/dev/null; done\nexport PATH=/usr/local/bin:/usr/bin:/bin\n'


def launched(
    spec: JobSpec, job_id: str, *, stdin: str = "/dev/fd/5", stdout: str = "/dev/fd/6", stderr: str = "/dev/fd/7"
) -> list[str]:
    """The words that run a job on its nodes: its own, or those of PSI/J's launcher, which opens these files for it."""
    if spec.launcher in (None, "single") and not spec.pre_launch and not spec.post_launch:
        return [spec.executable, *spec.arguments]
    return ["/bin/sh", "-c", ASIDE, "launcher", *launch_words(spec, job_id, stdin, stdout, stderr)]


def render(executor: str, spec: JobSpec, *, job_id: str, launch_command: Sequence[str], script_dir: Path) -> str:
    """The script of a job, which ends as `launch_command` does; what else it writes lies in `script_dir`.

    InvalidArgument for an executor that there is not, Unsupported for one that takes no script.
    """
    if NOT_IN_DIRECTIVES.search(str(script_dir)):
        raise InvalidArgument(
            f"{script_dir} has signs in it that a job's script cannot name", hint="Set ORBIT_STATE_DIR to a plain path."
        )
    directives = _local_head(spec) if executor == "local" else _directives(executor, spec, job_id, script_dir)
    exports = "".join(f"export {name}={shlex.quote(str(value))}\n" for name, value in spec.environment.items())
    change = f"cd -- {shlex.quote(spec.directory)} || exit 1\n" if spec.directory else ""
    return f"{directives}{exports}{change}exec {shlex.join(launch_command)}\n"


def warnings_of(executor: str, spec: JobSpec) -> list[str]:
    """What of a job the executor will pass over, and what was written in an old way."""
    given = spec.resources.model_dump()
    passed_over = [name for name in NOT_RENDERED.get(executor, ()) if given[name]]
    foreign = sorted({name.partition(".")[0] for name in spec.attributes.custom_attributes} - {_prefix(executor)})
    return (
        spec.warnings
        + [f"resources.{name} is not passed on to {executor}" for name in passed_over]
        + [f"custom_attributes of {name} are not passed on to {executor}" for name in foreign]
    )


def job_name(executor: str, spec: JobSpec) -> str:
    """What the scheduler shows: the name, else that of the program; all but Slurm want few signs in it."""
    if spec.name and executor == "slurm":
        return spec.name
    fit = UNFIT_FOR_NAMES.sub("_", spec.name or Path(spec.executable).name)[:60]
    return fit if fit[:1].isalpha() else f"job{fit}"


def _local_head(spec: JobSpec) -> str:
    return "#!/bin/bash\n" + ("" if spec.inherit_environment else EMPTY_ENVIRONMENT)


def _directives(executor: str, spec: JobSpec, job_id: str, script_dir: Path) -> str:
    made = executor_of(executor)
    resources = spec.settled_resources()
    job: Any = job_of(_per_node_memory(spec, resources), job_id)
    job.name = job_name(executor, spec)  # the templates ask the job, which has none
    context: dict[str, Any] = {
        "job": job,
        "custom_attributes": _options(executor, spec, job_id),
        "env": [],
        "psij": {"lib": {}, "launch_command": [MARK], "script_dir": str(script_dir)},
    }
    job.spec.attributes.duration = None
    if (seconds := spec.attributes.duration) is not None:
        duration = timedelta(minutes=math.ceil(seconds / 60)) if executor in IN_MINUTES else timedelta(seconds=seconds)
        context["formatted_job_duration"] = made._format_duration(duration)
        context["duration"] = math.ceil(seconds / 60)
    written = io.StringIO()
    getattr(made, "generator", made).generate_submit_script(job, context, written)
    head = WITHOUT_VALUE.sub("", written.getvalue().partition(MARK)[0])
    return BLANK_LINES.sub("\n\n", BEFORE_DIRECTIVES.sub("\n", _put_right(executor, head, resources)))


def _put_right(executor: str, head: str, resources: Resources) -> str:
    """What PSI/J's templates for PBS say otherwise than it is meant."""
    if executor != "pbs":
        return PBS_NAME.sub(r"#PBS -N \1", head)
    nodes, each = _nodes_and_processes(resources)
    cpus, gpus = (resources.cpu_cores_per_process or 1) * each, (resources.gpu_cores_per_process or 0) * each
    chunk = f"#PBS -l select={nodes}:ncpus={cpus}:mpiprocs={each}" + (f":ngpus={gpus}" if gpus else "")
    return PBS_SELECT.sub(chunk, PBS_NAME.sub(r"#PBS -N \1", head))


def _per_node_memory(spec: JobSpec, resources: Resources) -> JobSpec:
    """Schedulers count the memory of a node, in KiB, and take none for all there is."""
    if resources.memory is None:
        return spec
    nodes, _ = _nodes_and_processes(resources)
    of_node = math.ceil(resources.memory / nodes / 1024) * 1024
    return spec.model_copy(update={"resources": resources.model_copy(update={"memory": of_node})})


def _nodes_and_processes(resources: Resources) -> tuple[int, int]:
    """How many nodes, and processes on each of them."""
    nodes, processes, each = resources.node_count, resources.process_count, resources.processes_per_node
    if nodes is None:
        nodes = processes // each if processes and each else 1
    return nodes, each or (processes // nodes if processes else 1)


def _options(executor: str, spec: JobSpec, job_id: str) -> dict[str, list[dict[str, str]]]:
    """The scheduler's own options, as PSI/J's templates want them; of Slurm the comment by which a lost job is found."""
    wanted: dict[str, Custom] = dict(spec.attributes.custom_attributes)
    if executor == "slurm":
        wanted.setdefault("slurm.comment", COMMENT + job_id)
    prefix = _prefix(executor) + "."
    return {
        prefix[:-1]: [
            {"key": name.removeprefix(prefix), "value": FLAG if each is True or each == "" else str(each)}
            for name, value in wanted.items()
            if name.startswith(prefix) and value is not False
            for each in (value if isinstance(value, list) else [value])
        ]
    }


def _prefix(executor: str) -> str:
    return "pbs" if executor.startswith("pbs") else executor
