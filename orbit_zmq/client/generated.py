"""Methods made of the catalogue: for each operation a function with its signature and its docstring.

They look like written ones in a notebook and to `help`. A catalogue is another party's word, so nothing of it is executed:
names that are no names of parameters are left out of the signature, and can still be given by `call`.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import AsyncIterator, Callable
from typing import Any

from orbit_zmq.client.facts import OperationFacts
from orbit_zmq.errors import InvalidArgument

TYPES: dict[str, Any] = {
    "string": str, "integer": int, "number": float, "boolean": bool, "array": list, "object": dict, "null": None,
}  # fmt: skip
DEADLINE = "deadline_s"
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_EITHER = inspect.Parameter.POSITIONAL_OR_KEYWORD


def method_of(call: Callable[..., Any], call_raw: Callable[..., Any], name: str, facts: OperationFacts) -> Callable[..., Any]:
    """A function that calls the operation; its arguments may be given by position too."""
    signature = signature_of(facts)
    bind = signature.bind
    takes_more = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())

    def method(*positional: Any, **named: Any) -> Any:
        try:
            bound = bind(*positional, **named)
        except TypeError as error:
            raise InvalidArgument(f"{name}: {error}", hint=f"It is {name}{signature}.") from None
        arguments = dict(bound.arguments)
        if takes_more:
            arguments |= arguments.pop("arguments", {})
        if facts.raw:
            return call_raw(name, **arguments)
        return call(name, **arguments)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = facts.doc
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def signature_of(facts: OperationFacts) -> inspect.Signature:
    """The parameters of an operation as its catalogue entry tells them."""
    if facts.raw:
        parameters = [inspect.Parameter("body", _EITHER, annotation=bytes)]
    else:
        parameters = _ordinary(facts.parameters, facts.stream_in)
    if all(parameter.name != DEADLINE for parameter in parameters):
        parameters.append(inspect.Parameter(DEADLINE, _KEYWORD, default=None, annotation=float | None))
    if not facts.raw and (not facts.parameters or facts.parameters.get("additionalProperties") is True):
        parameters.append(inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD, annotation=Any))
    returns = AsyncIterator[bytes] if facts.stream_out else annotation_of(facts.returns)
    return inspect.Signature(parameters, return_annotation=returns)


def annotation_of(schema: dict[str, Any]) -> Any:
    """The type that a JSON Schema stands for, roughly: what helps a reader."""
    options = schema.get("anyOf")
    if isinstance(options, list):
        found = [annotation_of(option) for option in options if isinstance(option, dict)]
        union: Any = found[0] if found else Any
        for other in found[1:]:
            union = Any if Any in (union, other) else union | other
        return union
    if schema.get("format") == "binary":
        return bytes
    kind = schema.get("type")
    return TYPES.get(kind, Any) if isinstance(kind, str) else (dict if "$ref" in schema else Any)


def _ordinary(schema: dict[str, Any], stream_in: str) -> list[inspect.Parameter]:
    described = schema.get("properties")
    properties = described if isinstance(described, dict) else {}
    needed = schema.get("required")
    required = {name for name in needed if isinstance(name, str)} if isinstance(needed, list) else set()
    parameters = [
        _parameter(name, one if isinstance(one, dict) else {}, name in required)
        for name, one in properties.items()
        if name.isidentifier() and not keyword.iskeyword(name) and name != "arguments"
    ]
    if stream_in.isidentifier():
        parameters.append(inspect.Parameter(stream_in, _EITHER, annotation=AsyncIterator[bytes]))
    return sorted(parameters, key=lambda parameter: parameter.default is not inspect.Parameter.empty)


def _parameter(name: str, schema: dict[str, Any], is_required: bool) -> inspect.Parameter:
    if is_required:
        return inspect.Parameter(name, _EITHER, annotation=annotation_of(schema))
    return inspect.Parameter(name, _EITHER, default=schema.get("default"), annotation=annotation_of(schema))
