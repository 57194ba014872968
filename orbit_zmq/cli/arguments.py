"""KEY=VALUE on the command line, read by the schema of the operation that it is for.

A string stays a string where the schema says so; numbers, booleans, lists and objects are JSON. The endpoint checks everything
again: what is checked here is what a user can get wrong by writing it. A schema is another party's word and may be anything.
"""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import click

from orbit_zmq.client.facts import OperationFacts
from orbit_zmq.client.generated import DEADLINE, signature_of
from orbit_zmq.errors import InvalidArgument, TooLarge
from orbit_zmq.wire.limits import Limits

CHUNK_BYTES = 1 << 20
STANDARD_INPUT = "-"
HOW = "program | orbit call ... key=@-"
WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
ARTICLES = {
    "integer": "an integer", "number": "a number", "boolean": "true or false", "array": 'a list, such as ["a", 1]',
    "object": 'an object, such as {"a": 1}', "string": "text", "null": "null",
}  # fmt: skip
DEPTH = 8  # of references and unions that are followed


def pairs_of(words: Sequence[str]) -> dict[str, str]:
    """KEY=VALUE as a map; a usage error for anything else, and for a KEY that comes twice."""
    pairs = [_pair(word) for word in words]
    names = [name for name, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise click.UsageError(f"The argument {twice!r} is given more than once; a list is one argument: {twice}='[1, 2]'.")
    return dict(pairs)


def signature_text(operation: str, facts: OperationFacts) -> str:
    """How an operation is called, for people."""
    signature = signature_of(facts)
    own = facts.parameters.get("properties")
    parameters = [one for one in signature.parameters.values() if one.name != DEADLINE or DEADLINE in _map(own)]
    text = f"{operation}{signature.replace(parameters=parameters)}"
    return text.replace("typing.", "").replace("collections.abc.", "")


def read_arguments(operation: str, given: dict[str, str], facts: OperationFacts) -> dict[str, Any]:
    """The arguments of one call; InvalidArgument names the field and what it has to be.

    `@file` stands for the content of a file, `@-` for standard input, `@@text` for `@text`.
    """
    if facts.raw:
        return {name: _bytes(text) for name, text in given.items()}
    properties = _map(facts.parameters.get("properties"))
    special = {facts.stream_in} - {""}
    unknown = [name for name in given if name not in properties and name not in special]
    if unknown and facts.parameters.get("additionalProperties") is False:
        raise InvalidArgument(f"{operation}: unknown argument {unknown[0]!r}", hint=_hint(operation, facts))
    required = facts.parameters.get("required")
    needed = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    if missing := sorted((needed | special) - set(given)):
        raise InvalidArgument(f"{operation}: argument {missing[0]!r} is missing", hint=_hint(operation, facts))
    definitions = _map(facts.parameters.get("$defs"))
    return {
        name: _chunks(text)
        if name in special
        else _value(f"{operation}: {name}", text, _map(properties.get(name)), definitions)
        for name, text in given.items()
    }


def kinds_of(schema: dict[str, Any], definitions: dict[str, Any], depth: int = 0) -> set[str]:
    """The JSON types that a schema takes, and `binary`; nothing where it takes all."""
    if schema.get("format") == "binary":
        return {"binary"}
    if isinstance(reference := schema.get("$ref"), str) and depth < DEPTH:
        return kinds_of(_map(definitions.get(reference.rpartition("/")[2])), definitions, depth + 1)
    for union in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(union), list) and depth < DEPTH:
            found = [kinds_of(_map(option), definitions, depth + 1) for option in options]
            return set().union(*found) if all(found) else set()
    kind = schema.get("type")
    return {one for one in (kind if isinstance(kind, list) else [kind]) if isinstance(one, str)}


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError(f"{text!r} is no argument: write KEY=VALUE.")
    if name.isidentifier():
        return name, value
    outer, dot, inner = name.partition(".")
    if dot and outer.isidentifier():
        whole = json.dumps({inner: value}, ensure_ascii=False)
        raise click.UsageError(f"{name!r} is no name of an argument: write an object as a whole, {outer}='{whole}'.")
    raise click.UsageError(f"{name!r} is no name of an argument: write KEY=VALUE.")


def _value(label: str, text: str, schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    kinds = kinds_of(schema, definitions)
    if "binary" in kinds:
        return _bytes(text)
    content = _text(label, text)
    if kinds == {"boolean"} and content.lower() in WORDS:
        return WORDS[content.lower()]
    if not kinds or not kinds <= {"string", "null"}:
        try:
            parsed = json.loads(content)
        except (ValueError, RecursionError):
            pass
        else:
            if not kinds or _kind(parsed) in kinds or (_kind(parsed) == "integer" and "number" in kinds):
                return parsed
    if not kinds or "string" in kinds:
        return content
    wanted = " or ".join(ARTICLES.get(kind, kind) for kind in sorted(kinds))
    raise InvalidArgument(f"{label} has to be {wanted}, not {content[:80]!r}", hint="Write numbers, lists and objects as JSON.")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    kinds = ((int, "integer"), (float, "number"), (str, "string"), (list, "array"), (dict, "object"))
    return next((name for kind, name in kinds if isinstance(value, kind)), "null")


def _text(label: str, text: str) -> str:
    try:
        return _bytes(text).decode()
    except UnicodeDecodeError:
        raise InvalidArgument(f"{label}: {text[1:]} is no text in UTF-8", hint="This argument takes text.") from None


def _bytes(text: str) -> bytes:
    """The whole of it; TooLarge, before it is read where that can be known, for what no call may carry."""
    most_bytes, found_bytes = Limits().body_bytes, 0
    path = _path_of(text)
    if path not in (None, STANDARD_INPUT):
        with suppress(OSError, RuntimeError):  # said when it is opened
            found_bytes = Path(path).expanduser().stat().st_size
    chunks: list[bytes] = []
    source = _chunks(text)
    while found_bytes <= most_bytes and (chunk := next(source, b"")):
        chunks.append(chunk)
        found_bytes = max(found_bytes, sum(map(len, chunks)))
    if found_bytes > most_bytes:
        raise TooLarge(f"{path or 'the argument'} has more than {most_bytes >> 20} MiB, which is what one call may carry")
    return b"".join(chunks)


def _chunks(text: str) -> Iterator[bytes]:
    """What an argument stands for, in pieces. A file is opened now, so that a wrong name is an error before the call.

    Devices have no end, and a named pipe may have no beginning: they are refused.
    """
    path = _path_of(text)
    if path is None:
        literal = text[1:] if text.startswith("@@") else text
        return iter([literal.encode("utf-8", "surrogateescape")])
    if path == STANDARD_INPUT:
        return _read(sys.stdin.buffer, path)
    try:
        file = Path(path).expanduser()
        if not stat.S_ISREG(file.stat().st_mode):
            raise InvalidArgument(f"{path} is no file", hint=f"After @ comes the path of a file; @- reads a pipe: {HOW}")
        return _read(file.open("rb"), path)
    except (OSError, RuntimeError, ValueError) as error:  # a user that there is not, a zero byte
        if isinstance(error, InvalidArgument):
            raise
        raise _unreadable(path, error) from error


def _read(file: IO[bytes], path: str) -> Iterator[bytes]:
    with file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        except OSError as error:
            raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> InvalidArgument:
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return InvalidArgument(f"{path} cannot be read: {reason}", hint="After @ comes the path of a file.")


def _path_of(text: str) -> str | None:
    return text[1:] if text.startswith("@") and not text.startswith("@@") else None


def _map(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _hint(operation: str, facts: OperationFacts) -> str:
    return f"It is {signature_text(operation, facts)}."
