"""AsyncMathClient: the operations of math as typed methods. It must not calculate anything itself."""

from __future__ import annotations

from typing import Any

from orbit_zmq.client._async.plugin import AsyncPluginClient


class AsyncMathClient(AsyncPluginClient):
    """Arithmetic on an endpoint. Each operation answers `{op, a, b, result}`."""

    async def add(self, a: float, b: float) -> dict[str, Any]:
        """a + b"""
        return await self._calculate("add", a, b)

    async def sub(self, a: float, b: float) -> dict[str, Any]:
        """a - b"""
        return await self._calculate("sub", a, b)

    async def mul(self, a: float, b: float) -> dict[str, Any]:
        """a * b"""
        return await self._calculate("mul", a, b)

    async def div(self, a: float, b: float) -> dict[str, Any]:
        """a / b; ZeroDivisionError where b is 0."""
        return await self._calculate("div", a, b)

    async def history(self) -> dict[str, Any]:
        """`count` of all operations of this session, and the last of them as `ops`."""
        answer: dict[str, Any] = await self.call("history")
        return answer

    async def _calculate(self, name: str, a: float, b: float) -> dict[str, Any]:
        answer: dict[str, Any] = await self.call(name, a=a, b=b)
        return answer
