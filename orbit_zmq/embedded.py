"""`orbit_zmq.local()`: a broker and an endpoint for one script, notebook or test, and nobody else.

They are child processes that talk over ipc in a private directory; nothing listens on the network, and they end with this
process. Plugin classes that are handed over as classes are served by this process, because only it has them for certain.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from orbit_zmq.children import Child, environment_of_child, start_broker, start_endpoint

if TYPE_CHECKING:
    from orbit_zmq import AsyncClient, Client, Endpoint
    from orbit_zmq.plugin.registry import Token

DEFAULT_PLUGINS = ("default", "rhapsody")  # named, so that it is served on a machine with a batch system, too


class LocalOrbit:
    """A running broker and endpoint; close it, or use it in a `with` statement."""

    def __init__(self, plugins: Token | Iterable[Token], name: str, here: bool = False) -> None:
        self.endpoint = name
        self.served_here: Endpoint | None = None  # the endpoint itself, where this process serves the plugins
        self.directory = Path(tempfile.mkdtemp(prefix="orbit-"))
        self._stack = ExitStack()
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        weakref.finalize(self, self._stack.close)  # for a script that ends without close
        try:
            self.url = self._start_broker()
            self._start_endpoint(plugins, here)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<local orbit: endpoint {self.endpoint}, broker at {self.url}>"

    def __enter__(self) -> LocalOrbit:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def client(self) -> Client:
        """A client of this broker."""
        from orbit_zmq import Client  # the two sides are loaded by whoever uses them

        return Client(url=self.url)

    def async_client(self) -> AsyncClient:
        """An asyncio client of this broker."""
        from orbit_zmq import AsyncClient

        return AsyncClient(url=self.url)

    def close(self) -> None:
        """End endpoint and broker, and remove the directory. Harmless when that is done."""
        self._stack.close()

    def _start_broker(self) -> str:
        child = start_broker(environment=self._environment(), log=self.directory / "broker.log")
        self._keep(child)
        return f"ipc://{child.ready['ipc']}"

    def _start_endpoint(self, plugins: Token | Iterable[Token], here: bool) -> None:
        tokens = list(plugins) if isinstance(plugins, Iterable) and not isinstance(plugins, str) else [plugins]
        names = [token for token in tokens if isinstance(token, str)]
        if here or len(names) < len(tokens):
            from orbit_zmq.endpoint.endpoint import Endpoint

            made = Endpoint(self.endpoint, url=self.url, plugins=tokens, store_in=self.directory)
            self.served_here = self._stack.enter_context(made)
            return
        log = self.directory / "endpoint.log"
        self._keep(start_endpoint(url=self.url, name=self.endpoint, plugins=names, environment=self._environment(), log=log))

    def _environment(self) -> dict[str, str]:
        directories = {f"ORBIT_{name.upper()}_DIR": str(self.directory / name) for name in ("config", "state", "runtime")}
        return environment_of_child(**directories)

    def _keep(self, child: Child) -> None:
        self._stack.callback(child.end)


def local(plugins: Token | Iterable[Token] = DEFAULT_PLUGINS, name: str = "local", *, here: bool = False) -> LocalOrbit:
    """Start a broker and an endpoint for this process alone; they are ready when this returns.

    `plugins` are names, globs, `default`, `all`, Plugin classes, or instances (one needs no list); `name` is the
    endpoint's; `here` has the plugins served by this process even where they all have names. Use it as

        with orbit_zmq.local() as orbit, orbit.client() as client:
            rhapsody = client.get_plugin("local", "rhapsody")
    """
    return LocalOrbit(plugins, name, here)
