"""An executable in a Dask worker: a coroutine on the worker's loop, so that it can be ended there with its children.

Imported by workers, maybe on other machines: this module must not import what only an endpoint has.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit_rhapsody.output import Tail
from orbit_rhapsody.workers import end_process

READ_BYTES = 65_536
ARRIVES_S = 60.0  # a task that was on its way to a worker when it was canceled is there by then, if it comes at all

_programs: dict[str, asyncio.subprocess.Process | None] = {}  # by Dask's key of the task; None while one is being started
_canceled: dict[str, float] = {}  # likewise; when that can be forgotten


@dataclass(slots=True)
class Ended:
    """How a program ended."""

    stdout: str
    stderr: str
    exit_code: int | None
    is_overdue: bool = False


async def run_program(key: str, program: dict[str, Any]) -> Ended:
    """Run a program to its end; not at all where it was canceled before it got here, for its worker is to be free."""
    if key in _canceled:
        return Ended("", "", None)
    _programs[key] = None
    try:
        with ExitStack() as files:
            process = await _started(program, files)
            _programs[key] = process
            return await _ended(key, process, program)
    finally:
        del _programs[key]


async def _started(program: dict[str, Any], files: ExitStack) -> asyncio.subprocess.Process:
    output: list[Any] = [asyncio.subprocess.PIPE, asyncio.subprocess.PIPE]
    if program.get("directory"):
        output = [files.enter_context(open(path, "wb")) for path in _paths(program)]  # noqa: ASYNC230, SIM115
    command, arguments = program["executable"], program.get("arguments", [])
    more: dict[str, Any] = {
        "stdin": asyncio.subprocess.DEVNULL, "stdout": output[0], "stderr": output[1], "start_new_session": True,
        "cwd": program.get("cwd"), "env": program.get("env"),
    }  # fmt: skip
    if program.get("shell"):
        return await asyncio.create_subprocess_shell(" ".join([command, *arguments]), **more)
    return await asyncio.create_subprocess_exec(command, *arguments, **more)


def _paths(program: dict[str, Any]) -> tuple[str, str]:
    directory, uid = Path(program["directory"]), program["uid"]
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(directory / f"{uid}.stdout"), str(directory / f"{uid}.stderr")


async def _ended(key: str, process: asyncio.subprocess.Process, program: dict[str, Any]) -> Ended:
    if key in _canceled:
        await end_process(process)
    end = asyncio.gather(process.wait(), _tail_of(process.stdout), _tail_of(process.stderr))
    done, _ = await asyncio.wait((end,), timeout=program.get("timeout"))
    if not done:
        await end_process(process)
    _, *output = await end
    if program.get("directory"):
        output = list(_paths(program))
    return Ended(output[0], output[1], process.returncode, is_overdue=not done)


async def _tail_of(stream: asyncio.StreamReader | None) -> str:
    """What a process writes, or the end of it where that is very much; bytes that are not UTF-8 are shown as \\xff."""
    if stream is None:
        return ""
    tail = Tail()
    while chunk := await stream.read(READ_BYTES):
        tail.add(chunk)
    return tail.text()


async def end_programs(keys: list[str], dask_worker: Any) -> list[str]:
    """End the programs of these tasks that run here: they are gone when this answers. It names the functions that run on.

    A task may come later than this, which takes another way; then it does not begin.
    """
    now, mine = time.monotonic(), [key for key in keys if key in _programs]
    for key in [key for key, until in _canceled.items() if until < now]:
        del _canceled[key]
    _canceled.update(dict.fromkeys(keys, now + ARRIVES_S))
    await asyncio.gather(*(end_process(process) for key in mine if (process := _programs[key]) is not None))
    tasks = dask_worker.state.tasks
    return [key for key in keys if key in tasks and key not in mine and tasks[key].state in ("executing", "cancelled")]
