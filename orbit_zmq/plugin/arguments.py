"""The arguments of an operation: what its signature says, and the check of what arrives against it.

A pydantic model is built once for each operation, when its plugin class is defined; nothing here runs per call but the
check itself. It knows nothing of plugins, sessions, or the wire.
"""

from __future__ import annotations

import collections.abc
import difflib
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NewType, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticUserError

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.plugin.request import Request

Raw = NewType("Raw", bytes)  # the body as it is: bytes that no codec and no model has looked at

SIGNATURE_HINT = "Compare the call with the operation's signature."
FIELDS_IN_MESSAGE = 5  # a batch of bad arguments would otherwise fill the screen; details list them all
STREAM_TYPES = (collections.abc.AsyncIterator, collections.abc.AsyncIterable, collections.abc.AsyncGenerator)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. A parameter of this type is filled in by the endpoint and is no argument of the operation."""

    user: str
    name: str  # of the participant
    session: str = ""  # the session id that came with the call
    incarnation: bytes = b""  # the participant's process
    is_admin: bool = False  # by the broker's word


@dataclass(frozen=True, slots=True)
class Signature:
    """What a method's parameters say: ordinary arguments by name, and the special ones."""

    fields: dict[str, tuple[Any, Any]]  # name -> (type, default); the default is ... where there is none
    takes_more: bool  # has **arguments
    stream_in: str  # name of the streamed parameter, or empty
    raw_in: str
    caller: str
    request: str  # name of the parameter that is the whole request
    returns: Any


def signature_of(function: Callable[..., Any], label: str) -> Signature:
    """Read the signature of a method; InvalidArgument names what an operation cannot have."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise InvalidArgument(
            f"{label}: an annotation cannot be resolved: {error}",
            hint="Types of an operation are imported or defined at the top of the module, outside TYPE_CHECKING.",
        ) from error
    fields: dict[str, tuple[Any, Any]] = {}
    special = {"stream": "", "raw": "", "caller": "", "request": ""}
    takes_more = False
    for parameter in list(inspect.signature(function).parameters.values())[1:]:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise InvalidArgument(f"{label}: parameter {parameter.name!r} cannot be passed by name")
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_more = True
            continue
        annotation = hints.get(parameter.name, Any)
        role = _special_role(annotation, f"{label}: parameter {parameter.name!r}")
        if not role:
            fields[parameter.name] = (annotation, ... if parameter.default is parameter.empty else parameter.default)
        elif special[role]:
            raise InvalidArgument(f"{label}: a second {role} parameter, {parameter.name!r}")
        else:
            special[role] = parameter.name
    if special["raw"] and (fields or takes_more or special["stream"]):
        raise InvalidArgument(f"{label}: {special['raw']!r} is Raw and has to be the only argument")
    if special["request"] and (fields or special["stream"] or special["raw"]):
        raise InvalidArgument(f"{label}: {special['request']!r} is the Request and has to be the only argument")
    return Signature(
        fields=fields,
        takes_more=takes_more or bool(special["request"]),
        stream_in=special["stream"],
        raw_in=special["raw"],
        caller=special["caller"],
        request=special["request"],
        returns=Any if special["request"] else hints.get("return", Any),
    )


def is_byte_stream(annotation: Any, label: str) -> bool:
    """Whether a type is AsyncIterator[bytes]; a stream of anything else is refused."""
    if (get_origin(annotation) or annotation) not in STREAM_TYPES:
        return False
    if get_args(annotation)[:1] != (bytes,):
        raise InvalidArgument(f"{label} is a stream of something else than bytes", hint="Write AsyncIterator[bytes].")
    return True


def _special_role(annotation: Any, label: str) -> str:
    if annotation is Caller:
        return "caller"
    if annotation is Raw:
        return "raw"
    if annotation is Request:
        return "request"
    return "stream" if is_byte_stream(annotation, label) else ""


class ArgumentCheck:
    """Checks and converts the arguments of one operation."""

    def __init__(self, label: str, fields: dict[str, tuple[Any, Any]], takes_more: bool) -> None:
        self._label = label
        self.names = tuple(fields)
        self._model = _model_of(label, fields, takes_more)
        self._validate = self._model.__pydantic_validator__.validate_python
        self._takes_more = takes_more

    def __call__(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments as the operation's types, defaults filled in; InvalidArgument names operation and field."""
        try:
            checked: BaseModel = self._validate(arguments)
        except ValidationError as error:
            raise self._refusal(error) from None
        values: dict[str, Any] = dict(zip(self.names, checked.__dict__.values(), strict=True))
        if self._takes_more and checked.__pydantic_extra__:
            values |= checked.__pydantic_extra__
        return values

    def defaults(self) -> dict[str, Any]:
        """What the arguments are where nothing is said of them."""
        fields = self._model.model_fields.values()
        return dict(zip(self.names, (field.get_default(call_default_factory=True) for field in fields), strict=True))

    def schema(self) -> dict[str, Any]:
        """The JSON Schema of the arguments."""
        try:
            schema = self._model.model_json_schema()
        except PydanticInvalidForJsonSchema:  # a type that can be checked but not described
            schema = {"type": "object", "properties": {name: {} for name in self.names}}
        described: dict[str, Any] = _without_titles(schema)
        return described

    def _refusal(self, error: ValidationError) -> InvalidArgument:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        paths = [".".join(str(step) for step in fault["loc"]) for fault in faults]
        texts = [_fault_text(path, fault["type"], fault["msg"]) for path, fault in zip(paths, faults, strict=True)]
        more = len(texts) - FIELDS_IN_MESSAGE
        shown = "; ".join(texts[:FIELDS_IN_MESSAGE]) + (f"; and {more} more" if more > 0 else "")
        missing = {"missing": paths} if all(fault["type"] == "missing" for fault in faults) else {}
        unknown = [str(fault["loc"][0]) for fault in faults if fault["type"] == "extra_forbidden"]
        return InvalidArgument(
            f"{self._label}: {shown}",
            hint=did_you_mean(unknown[0], self.names, "It takes") if unknown else SIGNATURE_HINT,
            details={"fields": paths, **missing},
        )


def did_you_mean(name: str, known: Iterable[str], what_is_there: str) -> str:
    """A hint: the nearest known name, else all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(name, names, n=1)
    if nearest:
        return f"Did you mean {nearest[0]!r}?"
    return f"{what_is_there}: {', '.join(names) or 'nothing'}."


def result_schema(annotation: Any) -> dict[str, Any]:
    """The JSON Schema of a result; {} where the type cannot be described."""
    try:
        model = create_model("result", result=(annotation, ...))
        schema = model.model_json_schema(mode="serialization")
    except (PydanticUserError, NameError):  # a type that cannot be described
        return {}
    described = schema["properties"]["result"]
    if "$defs" in schema:
        described["$defs"] = schema["$defs"]
    untitled: dict[str, Any] = _without_titles(described)
    return untitled


def _model_of(label: str, fields: dict[str, tuple[Any, Any]], takes_more: bool) -> type[BaseModel]:
    # The attributes get a prefix, so that a parameter may be called `json`, `copy` or `model_x`; the alias is its name.
    definitions: dict[str, Any] = {
        f"p_{name}": (annotation, Field(default, alias=name)) for name, (annotation, default) in fields.items()
    }
    try:
        return create_model(
            label.replace(".", "_"), __config__=ConfigDict(extra="allow" if takes_more else "forbid"), **definitions
        )
    except (PydanticUserError, NameError) as error:
        raise InvalidArgument(
            f"{label}: a parameter has a type that cannot be checked: {str(error).splitlines()[0]}",
            hint="Use plain types, pydantic models, dataclasses, or Any.",
        ) from error


def _fault_text(path: str, kind: str, message: str) -> str:
    if kind == "missing":
        return f"argument {path!r} is missing"
    if kind == "extra_forbidden":
        return f"unknown argument {path!r}"
    return f"argument {path!r}: {message}" if path else message


def _without_titles(schema: Any) -> Any:
    """pydantic titles everything after its name, which says nothing and takes a third of the catalogue."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: _without_titles(item) for name, item in value.items()}
        if key in ("properties", "$defs") and isinstance(value, dict)
        else _without_titles(value)
        for key, value in schema.items()
        if not (key == "title" and isinstance(value, str))
    }
