"""PSI/J itself: the one module that imports it, and only when it is asked for something.

It is used for what it knows of schedulers: templates of scripts, launchers, the words of commands. Its own submission and its
thread that asks each scheduler in turn are not: they lose exit codes, and a job that they have not seen for a moment is
completed to them. A call may take some tenths of a second, the first one for the import.
"""

from __future__ import annotations

import logging
import signal
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orbit_psij.models import JobSpec
from orbit_zmq.errors import InvalidArgument, Unsupported
from orbit_zmq.files import make_private_directory
from orbit_zmq.paths import state_dir

if TYPE_CHECKING:
    from psij.executors.batch.batch_scheduler_executor import BatchSchedulerExecutor

OWN_NAMES = {"jsrun": "jrun"}  # launchers that PSI/J calls otherwise
OTHERS = "Ask for executors: they say which can be used here."
HINT = 'pip install "orbit-zmq[psij]" where the endpoint runs.'
_lock = threading.Lock()


@cache
def _psij() -> Any:
    logging.getLogger("psij.executors.local").setLevel(logging.ERROR)  # it warns of threads, and is not used
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGCHLD) if in_main_thread else None
    try:
        import psij  # takes 150 ms
    except ImportError as error:
        raise Unsupported(f"PSI/J is not installed here: {error}", hint=HINT) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGCHLD, handler)  # it takes the signal for its own
    return psij


def executor_names() -> list[str]:
    """The names that PSI/J has, sorted; Unsupported where it is not installed."""
    return sorted(_psij().JobExecutor.get_executor_names())


def executor_of(name: str) -> BatchSchedulerExecutor:
    """PSI/J's executor for a batch system; InvalidArgument for a name that it does not have, Unsupported for another kind."""
    with _lock:
        return _made(name)


@cache
def _made(name: str) -> BatchSchedulerExecutor:
    names = executor_names()
    if name not in names:
        raise InvalidArgument(f"There is no executor {name!r}.", hint=f"There are: {', '.join(names)}.")
    try:
        made = _psij().JobExecutor.get_instance(name)
    except Exception as error:
        said = f"PSI/J's executor {name} does not load: {type(error).__name__}: {error}"
        raise Unsupported(said, hint=OTHERS) from error
    if not hasattr(made, "get_submit_command"):
        raise Unsupported(f"PSI/J's executor {name} submits without a script, which is not supported here.", hint=OTHERS)
    if hasattr(made, "generator"):
        import pystache

        # What it escapes for a shell it puts between double quotes; `models` lets nothing through that needs it.
        made.generator.renderer = pystache.Renderer(escape=str)
    found: BatchSchedulerExecutor = made
    return found


def job_of(spec: JobSpec, job_id: str, **more: Any) -> Any:
    """A job of PSI/J's; `more` are attributes of its spec that differ from ours."""
    psij: Any = _psij()
    resources = spec.settled_resources()
    fields = {
        "name": spec.name,
        "executable": spec.executable,
        "arguments": list(spec.arguments),
        "directory": spec.directory,
        "inherit_environment": spec.inherit_environment,
        "launcher": spec.launcher,
        "pre_launch": spec.pre_launch,
        "post_launch": spec.post_launch,
        "resources": psij.ResourceSpecV1(**resources.model_dump()),
        "attributes": psij.JobAttributes(
            queue_name=spec.attributes.queue_name, account=spec.account, reservation_id=spec.attributes.reservation_id
        ),
    }
    job: Any = psij.Job(psij.JobSpec(**{**fields, **more}))
    job._id = job_id
    return job


def launch_words(spec: JobSpec, job_id: str, stdin: str, stdout: str, stderr: str) -> list[str]:
    """What PSI/J's launcher of a job is called with; its scripts are put where the nodes of a cluster find them."""
    psij = _psij()
    name = spec.launcher or "single"
    config = psij.JobExecutorConfig(work_directory=launcher_folder())
    job = job_of(spec, job_id, stdin_path=stdin, stdout_path=stdout, stderr_path=stderr)
    with _lock:
        launcher = psij.Launcher.get_instance(OWN_NAMES.get(name, name), config=config)
        words: list[str] = launcher.get_launch_command(job)
    return words


def launcher_folder() -> Path:
    """Where PSI/J's launchers lie: with the endpoint's state, which the nodes of a cluster see as they see a home."""
    return make_private_directory(state_dir() / "launchers", "ORBIT_STATE_DIR")
