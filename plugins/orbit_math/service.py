"""The endpoint's side: four operations that answer at once and tell of it, and the history of a session.

What goes wrong in the arithmetic goes to the caller as Python's own exception; nothing here catches it.
"""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import StrictFloat, StrictInt

from orbit_zmq.plugin import Plugin, PluginSession, operation

HISTORY = 1_000  # operations that a session remembers; older ones are only counted
MAX_BITS = 8_192  # of a whole number that comes out; Python turns no number of more than 4,300 digits into text

Number = StrictInt | StrictFloat


class MathSession(PluginSession):
    """Calculates for one user and remembers what it was asked."""

    def __init__(self, sid: str) -> None:
        super().__init__(sid)
        self._count = 0
        self._history: deque[dict[str, Any]] = deque(maxlen=HISTORY)

    @operation(effect="write")
    async def add(self, a: Number, b: Number) -> dict[str, Any]:
        """a + b"""
        return self._calculate("add", operator.add, a, b)

    @operation(effect="write")
    async def sub(self, a: Number, b: Number) -> dict[str, Any]:
        """a - b"""
        return self._calculate("sub", operator.sub, a, b)

    @operation(effect="write")
    async def mul(self, a: Number, b: Number) -> dict[str, Any]:
        """a * b"""
        return self._calculate("mul", operator.mul, a, b)

    @operation(effect="write")
    async def div(self, a: Number, b: Number) -> dict[str, Any]:
        """a / b; ZeroDivisionError where b is 0."""
        return self._calculate("div", operator.truediv, a, b)

    @operation(effect="read")
    async def history(self) -> dict[str, Any]:
        """How many operations there were, and the last thousand of them."""
        return {"count": self._count, "ops": list(self._history)}

    def _calculate(self, name: str, function: Callable[[Number, Number], Any], a: Number, b: Number) -> dict[str, Any]:
        result = function(a, b)
        if isinstance(result, int) and result.bit_length() > MAX_BITS:
            raise OverflowError(f"the result has more than {MAX_BITS} bits")
        done = {"op": name, "a": a, "b": b, "result": result}
        self._count += 1
        self._history.append(done)
        self.notify("result", {**done, "count": self._count})
        return done


class MathPlugin(Plugin):
    """Adds, subtracts, multiplies and divides."""

    plugin_name = "math"
    session_class = MathSession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = {
        "icon": "🧮",
        "title": "Math",
        "description": "Add, subtract, multiply and divide on an endpoint.",
    }
