"""The application: the parts that were asked for, put together. What a part does is in its own module."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute

from orbit_gateway.answers import unrouted
from orbit_gateway.backend import Backend
from orbit_gateway.feeds import Hub
from orbit_gateway.identity import Identifier, Identity
from orbit_zmq.errors import InvalidArgument

if TYPE_CHECKING:
    from orbit_gateway.metrics import Figures

PARTS = ("auth", "openapi", "metrics", "pages", "sse", "rest")  # in this order; the last takes all paths that are left
PROTECTION = "protection"  # always there
WRAPPERS = (PROTECTION, "metrics")  # from the outside to the inside


@dataclass(frozen=True, slots=True)
class Options:
    """How the gateway is reached."""

    host: str = "127.0.0.1"
    port: int = 0
    tls: bool = False
    hosts: tuple[str, ...] = ()  # more names by which browsers may ask


@dataclass
class Gateway:
    """What all parts share."""

    backend: Backend
    identifier: Identifier
    directory: Path  # of its state
    options: Options
    figures: Figures | None = None  # of the part metrics
    hub: Hub = field(init=False)

    def __post_init__(self) -> None:
        self.hub = Hub(self.backend, self.directory)

    async def identify(self, request: Request) -> Identity:
        """Who a request comes from; it is on the request from then on."""
        identity = await self.identifier.identify(request)
        request.state.identity = identity
        return identity


def check_parts(names: Collection[str]) -> tuple[str, ...]:
    """The parts of these names, in their order; InvalidArgument for one that is none."""
    unknown = sorted(set(names) - set(PARTS))
    if unknown:
        raise InvalidArgument(f"the gateway has no part {unknown[0]!r}", hint=f"Parts are {', '.join(sorted(PARTS))}.")
    return tuple(part for part in PARTS if part in names)


def _part(name: str) -> ModuleType:
    return import_module(f"orbit_gateway.{name}")


def make_app(gateway: Gateway, parts: Collection[str] = PARTS) -> Starlette:
    """The ASGI application with these parts."""
    routes: list[BaseRoute] = []
    for part in check_parts(parts):
        routes += _part(part).routes(gateway)
    middleware = [
        one for module in WRAPPERS if module in parts or module == PROTECTION for one in _part(module).middleware(gateway)
    ]

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        beside = (gateway.hub.run(), gateway.identifier.run(gateway.backend))
        running = [loop.create_task(coroutine) for coroutine in beside]
        yield
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan, exception_handlers={HTTPException: unrouted})
