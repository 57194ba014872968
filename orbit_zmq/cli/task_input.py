"""The tasks that a command line describes: a program with its arguments, once or many times, or a file of tasks in JSON.

What a task may say is the plugin's to check, so that a new field needs no change here; that the file is a list of objects is
checked, and nothing is sent of one that is not. Nothing here talks to a broker.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import IO, Any

import click

from orbit_zmq.errors import InvalidArgument

NUMBER = "ORBIT_TASK_NUMBER"  # in the environment of programs of which several run
EXAMPLE = '{"executable": "/bin/echo", "arguments": ["hello"]}'

Task = dict[str, Any]


def tasks_of_program(command: Sequence[str], count: int, options: Task) -> list[Task]:
    """`count` times the same program, with what is asked for it; its first word is the executable."""
    program = {"executable": command[0], "arguments": list(command[1:]), **options}
    if count == 1:
        return with_uids([program])
    env = options.get("env", {})
    return with_uids([{**program, "env": {**env, NUMBER: str(number)}} for number in range(1, count + 1)])


def tasks_of_file(file: IO[bytes], name: str, options: Task) -> list[Task]:
    """The tasks of a file; what is asked for all of them holds where a task says nothing else itself."""
    env = options.get("env", {})
    return with_uids(
        [{**options, **task, **({"env": {**env, **(task.get("env") or {})}} if env else {})} for task in _read(file, name)]
    )


def with_uids(tasks: list[Task]) -> list[Task]:
    """The tasks with a uid each: x for a single one, x.1, x.2, ... for several, their own where they have one."""
    group = secrets.token_hex(4)
    uids = [group] if len(tasks) == 1 else [f"{group}.{number}" for number in range(1, len(tasks) + 1)]
    return [task if task.get("uid") is not None else {**task, "uid": uid} for task, uid in zip(tasks, uids, strict=True)]


def environment_of(words: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE as a map; a usage error for anything else."""
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise click.UsageError(f"{word!r} is no variable: write --env NAME=VALUE.")
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _read(file: IO[bytes], name: str) -> list[Task]:
    try:
        text = file.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{name} is no text in UTF-8", hint="Tasks are read as JSON.") from error
    found = _whole(text, name)
    if not found:
        raise InvalidArgument(f"{name} has no tasks", hint=f"One is {EXAMPLE}, a list of them in [], or one a line.")
    for place, task in found:
        if not isinstance(task, dict) or not isinstance(task.get("env") or {}, dict):
            wrong = "its env" if isinstance(task, dict) else "a task"
            raise InvalidArgument(
                f"{name}, {place}: {wrong} is an object, not {json.dumps(task)[:80]}", hint=f"Such as {EXAMPLE}"
            )
    return [task for _, task in found]


def _whole(text: str, name: str) -> list[tuple[str, Any]]:
    """What the file has, each with its place: a list, one object, or one object a line."""
    begun = text.lstrip()[:1]
    try:
        whole = json.loads(text) if begun else []
        return [(f"task {number}", task) for number, task in enumerate(whole if isinstance(whole, list) else [whole], 1)]
    except (ValueError, RecursionError) as error:
        if begun == "[":
            raise _no_json(f"{name}", error) from error
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            found += [(f"line {number}", json.loads(line))] if line.strip() else []
        except (ValueError, RecursionError) as error:
            raise _no_json(f"{name}, line {number}", error) from error
    return found


def _no_json(place: str, error: Exception) -> InvalidArgument:
    return InvalidArgument(f"{place} is no JSON: {error}", hint=f"A list of tasks, or one a line, such as {EXAMPLE}")
