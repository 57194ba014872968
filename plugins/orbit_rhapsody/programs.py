"""An executable in a Dask worker: a coroutine on the worker's loop, so that it can be ended there with its children.

Imported by workers, maybe on other machines: this module must not import what only an endpoint has.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orbit_rhapsody.output import Tail
from orbit_rhapsody.workers import end_process

READ_BYTES = 65_536

_programs: dict[str, asyncio.subprocess.Process | None] = {}  # by task; None while one is being started
_canceled: set[str] = set()


@dataclass(slots=True)
class Ended:
    """How a program ended."""

    stdout: str
    stderr: str
    exit_code: int | None
    is_overdue: bool = False


async def run_program(uid: str, program: dict[str, Any]) -> Ended:
    """Run a program to its end."""
    _programs[uid] = None
    try:
        with ExitStack() as files:
            process = await _started(uid, program, files)
            _programs[uid] = process
            return await _ended(uid, process, program)
    finally:
        del _programs[uid]
        _canceled.discard(uid)


async def _started(uid: str, program: dict[str, Any], files: ExitStack) -> asyncio.subprocess.Process:
    output: list[Any] = [asyncio.subprocess.PIPE, asyncio.subprocess.PIPE]
    if program.get("directory"):
        output = [files.enter_context(open(path, "wb")) for path in _paths(uid, program)]  # noqa: ASYNC230, SIM115
    command, arguments = program["executable"], program.get("arguments", [])
    more: dict[str, Any] = {
        "stdin": asyncio.subprocess.DEVNULL, "stdout": output[0], "stderr": output[1], "start_new_session": True,
        "cwd": program.get("cwd"), "env": program.get("env"),
    }  # fmt: skip
    if program.get("shell"):
        return await asyncio.create_subprocess_shell(" ".join([command, *arguments]), **more)
    return await asyncio.create_subprocess_exec(command, *arguments, **more)


def _paths(uid: str, program: dict[str, Any]) -> tuple[str, str]:
    directory = Path(program["directory"])
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return str(directory / f"{uid}.stdout"), str(directory / f"{uid}.stderr")


async def _ended(uid: str, process: asyncio.subprocess.Process, program: dict[str, Any]) -> Ended:
    if uid in _canceled:
        await end_process(process)
    end = asyncio.gather(process.wait(), _tail_of(process.stdout), _tail_of(process.stderr))
    done, _ = await asyncio.wait((end,), timeout=program.get("timeout"))
    if not done:
        await end_process(process)
    _, *output = await end
    if program.get("directory"):
        output = list(_paths(uid, program))
    return Ended(output[0], output[1], process.returncode, is_overdue=not done)


async def _tail_of(stream: asyncio.StreamReader | None) -> str:
    """What a process writes, or the end of it where that is very much; bytes that are not UTF-8 are shown as \\xff."""
    if stream is None:
        return ""
    tail = Tail()
    while chunk := await stream.read(READ_BYTES):
        tail.add(chunk)
    return tail.text()


async def end_programs(uids: list[str], dask_worker: Any) -> list[str]:
    """End the programs of these tasks that run here: they are gone when this answers. It names the functions that run on."""
    mine = [uid for uid in uids if uid in _programs]
    _canceled.update(mine)
    await asyncio.gather(*(end_process(process) for uid in mine if (process := _programs[uid]) is not None))
    tasks = dask_worker.state.tasks
    return [uid for uid in uids if uid in tasks and uid not in mine and tasks[uid].state in ("executing", "cancelled")]
