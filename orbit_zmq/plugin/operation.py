"""Operations: the decorator that declares one, and the record that is made of it when a plugin class is defined.

Everything that can be wrong with an operation is found here, at class definition, in an error that names class and
attribute. Nothing here calls an operation, and nothing but `Operation.arguments` and `Operation.pack` runs per call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Never, TypeVar

from orbit_zmq.errors import InternalError, InvalidArgument
from orbit_zmq.plugin.arguments import ArgumentCheck, Caller, Raw, Signature, is_byte_stream, result_schema
from orbit_zmq.plugin.request import PARAMETER
from orbit_zmq.wire.body import pack_body, unpack_map
from orbit_zmq.wire.header import RAW
from orbit_zmq.wire.limits import MAX_LEFT_S

__all__ = ["Caller", "Declaration", "Effect", "Operation", "Raw", "collect", "declare", "make_operation", "operation"]

Effect = Literal["read", "write", "run"]
Method = Literal["GET", "POST"]
EFFECTS: Final = ("read", "write", "run")
METHODS: Final = ("GET", "POST")
MARK: Final = "__orbit_operation__"
HOOKS: Final = ("initialize", "close", "why")  # the endpoint calls these itself, at their time; they cannot be operations
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Declaration:
    """What the decorator says of an operation."""

    effect: str
    idempotent: bool
    deadline_s: float
    method: str | None
    path: str | None
    name: str | None  # where it cannot be the attribute's
    session_id: bool  # of a plugin's operation: the call has to name a session, which need not be ready
    waits: bool = False


def operation(
    *bare: Never,
    effect: Effect | None = None,
    idempotent: bool = False,
    deadline_s: float = 30.0,
    method: Method | None = None,
    path: str | None = None,
    waits: bool = False,
) -> Callable[[Function], Function]:
    """Declare an async method of a session or plugin class as an operation.

    `effect`: it reads, it writes, or it lets the caller run code. `idempotent`: executing it twice does no harm, so a
    caller may repeat it unasked; every read is. `deadline_s` counts where the caller gives none. `method` and `path`
    are its HTTP route under the plugin, by default POST (GET for a read) and `<name>[/{sid}]`. `waits`: most of its time
    it waits for something to happen, as a long poll does, so it does not count among the calls that run.

    InvalidArgument names a method whose effect is not given.
    """
    if bare:
        raise _no_effect(bare[0])
    return declare(effect=effect, idempotent=idempotent, deadline_s=deadline_s, method=method, path=path, waits=waits)


def declare(
    *,
    effect: str | None,
    idempotent: bool = False,
    deadline_s: float = 30.0,
    method: str | None = None,
    path: str | None = None,
    name: str | None = None,
    session_id: bool = False,
    waits: bool = False,
) -> Callable[[Function], Function]:
    """The same with what only the library's own operations need."""

    def mark(function: Function) -> Function:
        if effect is None:
            raise _no_effect(function)
        setattr(function, MARK, Declaration(effect, idempotent, deadline_s, method, path, name, session_id, waits))
        return function

    return mark


def _no_effect(function: object) -> InvalidArgument:
    name = getattr(function, "__qualname__", repr(function))
    return InvalidArgument(
        f"{name}: @operation does not say what effect a call has",
        hint='Write @operation(effect="read"), or "write", or "run" where it lets the caller execute code.',
    )


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of one plugin class."""

    label: str  # plugin.operation, for messages
    name: str
    attribute: str  # the method's name
    effect: str
    idempotent: bool
    deadline_s: float
    method: str
    path: str
    doc: str
    on_session: bool  # a method of the session, else of the plugin
    needs_session: bool  # the call has to carry a session id
    is_generator: bool
    stream_in: str  # name of the parameter that is a stream of bytes, or empty
    stream_out: bool
    raw_in: str  # name of the parameter that is the body as it is, or empty
    raw_out: bool
    caller: str  # name of the parameter that the endpoint fills in, or empty
    request: str  # name of the parameter that is the whole request, or empty
    waits: bool  # it does not count among the calls that run
    returns: Any
    check: ArgumentCheck

    def arguments(self, body: bytes, flags: int) -> dict[str, Any]:
        """The arguments that a body carries, checked and converted; a raw operation takes the body as it is."""
        if self.raw_in:
            if not flags & RAW:
                raise InvalidArgument(f"{self.label} takes raw bytes, not arguments by name", hint="Use call_raw.")
            return {self.raw_in: body}
        if flags & RAW:
            raise InvalidArgument(f"{self.label} takes arguments by name, not raw bytes", hint="Use call.")
        return self.check(unpack_map(body, flags))

    def validate(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The check alone, for arguments that did not come as a body."""
        return self.check(arguments)

    def pack(self, result: object) -> tuple[bytes, int]:
        """The body of a result and its flags."""
        if self.raw_out:
            if not isinstance(result, bytes):
                raise InternalError(f"{self.label} is declared to return Raw and returned {type(result).__name__}")
            return result, RAW
        try:
            return pack_body(result)
        except InvalidArgument as error:
            raise InternalError(f"{self.label} returned {error.message}", hint=error.hint) from error

    def describe(self) -> dict[str, Any]:
        """The entry in the catalogue."""
        return {
            "name": self.name,
            "effect": self.effect,
            "idempotent": self.idempotent,
            "deadline_s": self.deadline_s,
            "session": self.needs_session,
            "method": self.method,
            "path": self.path,
            "doc": self.doc,
            "parameters": self._parameters(),
            "returns": {} if self.stream_out else result_schema(bytes if self.raw_out else self.returns),
            "stream_in": self.stream_in,
            "stream_out": self.stream_out,
            "raw": bool(self.raw_in),
        }

    def routed(self, method: str, path: str) -> Operation:
        """The same operation under another route."""
        return replace(self, method=method, path=path)

    def _parameters(self) -> dict[str, Any]:
        if self.request:
            return {}
        return {"type": "string", "format": "binary"} if self.raw_in else self.check.schema()


def collect(owner: type, label: str) -> dict[str, tuple[Declaration, Callable[..., Any]]]:
    """The operations of a class by attribute, each checked. An override needs no decorator; None takes one away."""
    found: dict[str, Declaration] = {}
    for ancestor in reversed(owner.__mro__):
        for attribute, value in vars(ancestor).items():
            declaration = getattr(value, MARK, None)
            if isinstance(declaration, Declaration):
                found[attribute] = declaration
            elif value is None:
                found.pop(attribute, None)
    for attribute, declaration in found.items():
        _check(declaration, getattr(owner, attribute), attribute, f"{label}: {owner.__qualname__}.{attribute}")
    return {attribute: (declaration, getattr(owner, attribute)) for attribute, declaration in found.items()}


def make_operation(
    declaration: Declaration,
    attribute: str,
    function: Callable[..., Any],
    signature: Signature,
    *,
    plugin: str,
    on_session: bool,
) -> Operation:
    """The record of a checked operation."""
    name = declaration.name or attribute
    label = f"{plugin}.{name}"
    needs_session = on_session or declaration.session_id
    is_generator = inspect.isasyncgenfunction(function)
    method = declaration.method or ("GET" if declaration.effect == "read" and not signature.stream_in else "POST")
    path = declaration.path or (f"{name}/{{sid}}" if needs_session else name)
    if not signature.request:
        check_path(path, signature.fields, label)
    return Operation(
        label=label,
        name=name,
        attribute=attribute,
        effect=declaration.effect,
        idempotent=declaration.idempotent or declaration.effect == "read",
        deadline_s=float(declaration.deadline_s),
        method=method,
        path=path,
        doc=inspect.getdoc(function) or "",
        on_session=on_session,
        needs_session=needs_session,
        is_generator=is_generator,
        stream_in=signature.stream_in,
        stream_out=_is_streamed(is_generator, signature.returns, label),
        raw_in=signature.raw_in,
        raw_out=signature.returns is Raw,
        caller=signature.caller,
        request=signature.request,
        waits=declaration.waits,
        returns=signature.returns,
        check=ArgumentCheck(label, signature.fields, signature.takes_more),
    )


def check_is_async(function: Any, label: str) -> None:
    """Refuse a method that would block the loop; None is no method at all."""
    if function is None or inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return
    raise InvalidArgument(
        f"{label} is not `async def`",
        hint="Write `async def`, and run what blocks with `await asyncio.to_thread(function, ...)`.",
    )


def _check(declaration: Declaration, function: Any, attribute: str, label: str) -> None:
    if attribute in HOOKS:
        raise InvalidArgument(f"{label} is a hook that the endpoint calls and cannot be an operation")
    check_is_async(function, label)
    if declaration.effect not in EFFECTS:
        raise InvalidArgument(f"{label} has effect {declaration.effect!r}", hint=f"Effects are {', '.join(EFFECTS)}.")
    if declaration.method not in (None, *METHODS):
        raise InvalidArgument(f"{label} has method {declaration.method!r}", hint=f"Methods are {', '.join(METHODS)}.")
    deadline_s = declaration.deadline_s
    if type(deadline_s) not in (int, float) or not 0 < deadline_s <= MAX_LEFT_S:
        raise InvalidArgument(f"{label} has deadline_s {deadline_s!r}", hint=f"Seconds, at most {MAX_LEFT_S:.0f}.")


def check_path(path: str, known: Collection[str], label: str) -> None:
    """Refuse a route with a part that is no parameter."""
    for parameter in PARAMETER.findall(path):
        if parameter != "sid" and parameter not in known:
            raise InvalidArgument(f"{label}: path {path!r} names {parameter!r}, which is no parameter")


def _is_streamed(is_generator: bool, returns: Any, label: str) -> bool:
    if is_generator and returns is Any:
        return True
    streamed = is_byte_stream(returns, f"{label}: the result")
    if is_generator and not streamed:
        raise InvalidArgument(f"{label} is an async generator and does not return AsyncIterator[bytes]")
    return streamed
