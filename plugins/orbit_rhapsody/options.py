"""What a task asks for beside its function or program, in the words of its backend; what that has not is refused by name.

The same few words are known for all backends, on the task itself or in its `task_backend_specific_kwargs`; what else
those hold is passed on. This module must not start anything.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

from orbit_rhapsody.codec import EXECUTABLE, FUNCTION
from orbit_zmq.errors import InvalidArgument, Unsupported

_KINDS = {FUNCTION: "functions", EXECUTABLE: "executables"}
_ALL = frozenset({"cwd", "env", "shell", "timeout", "ranks", "type", "capture_stdio", "stream_output"})

# Which words a backend knows, for functions and for executables.
_KNOWN: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "concurrent": (frozenset(), frozenset({"cwd", "env", "shell", "timeout", "capture_stdio", "stream_output"})),
    "dask": (frozenset(), frozenset({"cwd", "env", "shell", "timeout", "capture_stdio"})),
    "dragon": (_ALL - {"shell", "stream_output"}, _ALL - {"shell", "stream_output"}),
    "radical_pilot": (frozenset(), frozenset({"cwd", "env", "timeout", "ranks", "type"})),
    "noop": (_ALL, _ALL),
}
# Of these Dask's submit knows; it would hand others to the function.
_DASK_OPTIONS = frozenset({"allow_other_workers", "fifo_timeout", "priority", "pure", "resources", "retries", "workers"})


def _is_text(value: object) -> bool:
    return isinstance(value, str) and "\0" not in value


def _is_env(value: object) -> bool:
    """What a process can be given: names without =, and nowhere a NUL."""
    return isinstance(value, dict) and all(
        type(name) is type(text) is str and name and "=" not in name and "\0" not in name + text for name, text in value.items()
    )


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_timeout(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


_CHECKS: dict[str, tuple[Callable[[object], bool], str]] = {
    "cwd": (_is_text, "a path"),
    "env": (_is_env, "a map of text, names without = and nothing with a NUL"),
    "shell": (_is_bool, "true or false"),
    "timeout": (_is_timeout, "a number of seconds above 0"),
    "ranks": (_is_count, "a number from 1 on"),
    "type": (_is_text, "text"),
    "capture_stdio": (_is_bool, "true or false"),
    "stream_output": (_is_bool, "true or false"),
}
_WORDS = (*_CHECKS, "environment")
_ENV_REPLACED = ("concurrent", "dask")  # there `env` among the options is the whole environment, as Rhapsody has it


def options_of(fields: dict[str, Any], kind: int, backend: str) -> dict[str, Any]:
    """What a task asks for, as the part of the backend's task that says so.

    InvalidArgument for a word with a wrong value, Unsupported for one that the backend has not.
    """
    rest = fields.get("task_backend_specific_kwargs") or {}
    if not isinstance(rest, dict):
        raise InvalidArgument("task_backend_specific_kwargs is a map")
    if "prompt" in fields and backend != "noop":
        raise Unsupported(
            f"the backend {backend!r} answers no prompts",
            hint="It runs functions and executables.",
            details={"field": "prompt"},
        )
    if backend == "radical_pilot" and kind == FUNCTION:
        raise Unsupported(
            "the backend 'radical_pilot' runs executables, and no functions",
            hint="Use another backend, or an executable like python3 with a script.",
            details={"field": "function", "backend": backend},
        )
    if not rest and fields.keys().isdisjoint(_WORDS):
        return {"task_backend_specific_kwargs": {}}
    rest = dict(rest)
    whole_env = rest.pop("env", None) if backend in _ENV_REPLACED else None
    asked = _asked(fields, rest)
    if whole_env is not None:
        asked["env"] = _checked("env", "env", whole_env) | asked.get("env", {})
    elif "env" in asked and backend in _ENV_REPLACED:
        asked["env"] = {**os.environ, **asked["env"]}
    _refuse_unknown(asked, kind, backend)
    return {"task_backend_specific_kwargs": rest, **_PUT[backend](asked, rest)}


def _asked(fields: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """The words that are known for all backends, taken out of the rest; what says nothing is left out."""
    asked: dict[str, Any] = {}
    for name in _WORDS:
        word = "env" if name == "environment" else name
        for value in (rest.pop(name, None), fields.get(name)):
            if value is None or value == "":
                continue
            if asked.get(word, value) != value:
                raise InvalidArgument(f"a task says two things of its {name}", details={"field": name})
            asked[word] = _checked(word, name, value)
    return {word: value for word, value in asked.items() if value is not False and (word, value) != ("ranks", 1)}


def _checked(word: str, name: str, value: Any) -> Any:
    is_right, what = _CHECKS[word]
    if not is_right(value):
        raise InvalidArgument(f"a task's {name} is {what}, not {value!r}", details={"field": name})
    return value


def _refuse_unknown(asked: dict[str, Any], kind: int, backend: str) -> None:
    """Unsupported for what this backend has not."""
    for word in asked:
        if word not in _KNOWN[backend][kind]:
            others = [name for name, known in _KNOWN.items() if word in known[kind] and name != "noop"]
            raise Unsupported(
                f"the backend {backend!r} has no {word!r} for {_KINDS[kind]}",
                hint=f"Leave it out{', or use the backend ' + ' or '.join(others) if others else ''}.",
                details={"field": word, "backend": backend},
            )


def _concurrent(asked: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    rest.update(_some(asked, "cwd", "env", "shell"))
    if {"capture_stdio", "stream_output"} <= asked.keys():
        raise InvalidArgument("the output of a task goes into files (capture_stdio) or is read (stream_output), and not both")
    return _some(asked, "timeout", "capture_stdio", "stream_output")


def _dask(asked: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    unknown = sorted(rest.keys() - _DASK_OPTIONS)
    if unknown:
        raise Unsupported(
            f"the backend 'dask' has no {unknown[0]!r} for a task",
            hint=f"It has {', '.join(sorted(_DASK_OPTIONS))}.",
            details={"field": unknown[0], "backend": "dask"},
        )
    program = _some(asked, "cwd", "env", "shell", "timeout")
    return {**({"program": program} if program else {}), **_some(asked, "timeout", "capture_stdio")}


def _dragon(asked: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    template, ranks = _some(asked, "cwd", "env"), asked.get("ranks", 1)
    if (template or ranks > 1 or "type" in asked) and rest.keys() & {"process_template", "process_templates"}:
        raise InvalidArgument("a task has process_template(s), or cwd, env, ranks and type, and not both")
    if ranks > 1 or asked.get("type") == "mpi":
        rest["process_templates"] = [(ranks, template)]
    elif template:
        rest["process_template"] = template
    rest.update(_some(asked, "timeout"))
    return _some(asked, "timeout", "capture_stdio")


def _radical_pilot(asked: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    words = {"cwd": "sandbox", "env": "environment", "ranks": "ranks"}
    rest.update({theirs: asked[ours] for ours, theirs in words.items() if ours in asked})
    if asked.get("type") == "mpi":
        rest["use_mpi"] = True
    if "timeout" in asked:
        rest["timeout"] = float(asked["timeout"])
    return _some(asked, "timeout")


def _noop(asked: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    rest.update(asked)
    return {}


def _some(asked: dict[str, Any], *words: str) -> dict[str, Any]:
    return {word: asked[word] for word in words if word in asked}


_PUT = {"concurrent": _concurrent, "dask": _dask, "dragon": _dragon, "radical_pilot": _radical_pilot, "noop": _noop}
