# Made by scripts/unasync from plugins/orbit_math/_async/client.py: change that file, not this one.
"""MathClient: the operations of math as typed methods. It must not calculate anything itself."""

from __future__ import annotations

from typing import Any

from orbit_zmq.client._sync.plugin import PluginClient


class MathClient(PluginClient):
    """Arithmetic on an endpoint. Each operation answers `{op, a, b, result}`."""

    def add(self, a: float, b: float) -> dict[str, Any]:
        """a + b"""
        return self._calculate("add", a, b)

    def sub(self, a: float, b: float) -> dict[str, Any]:
        """a - b"""
        return self._calculate("sub", a, b)

    def mul(self, a: float, b: float) -> dict[str, Any]:
        """a * b"""
        return self._calculate("mul", a, b)

    def div(self, a: float, b: float) -> dict[str, Any]:
        """a / b; ZeroDivisionError where b is 0."""
        return self._calculate("div", a, b)

    def history(self) -> dict[str, Any]:
        """`count` of all operations of this session, and the last of them as `ops`."""
        answer: dict[str, Any] = self.call("history")
        return answer

    def _calculate(self, name: str, a: float, b: float) -> dict[str, Any]:
        answer: dict[str, Any] = self.call(name, a=a, b=b)
        return answer
