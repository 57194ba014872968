"""The plugin classes under the names that plugins of the predecessor use, so that such a plugin runs with its imports changed.

Everything here is a thin name for something that `orbit_zmq.plugin` and `orbit_zmq.client` have; new plugins use those. It
must not add behaviour.
"""

from __future__ import annotations

import json as _json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from orbit_zmq.client._sync.plugin import PluginClient as _PluginClient
from orbit_zmq.client.routes import SESSION, find_route
from orbit_zmq.errors import OrbitError
from orbit_zmq.plugin import Host, JSONResponse, Request, get_plugin_class, get_plugin_names
from orbit_zmq.plugin import Plugin as _Plugin
from orbit_zmq.plugin import PluginSession as _PluginSession

__all__ = ["FastAPI", "JSONResponse", "Plugin", "PluginClient", "PluginSession", "Request"]

FastAPI = Host  # the first argument of a plugin's constructor


class PluginSession(_PluginSession):
    """`_check_active` and `_notify`."""

    def _check_active(self) -> None:
        self.check_active()

    @property
    def _notify(self) -> Callable[..., None]:
        return self.notify


class _Adopting:
    """`plugin._sessions[sid] = session`."""

    def __init__(self, plugin: _Plugin) -> None:
        self._plugin = plugin

    def __setitem__(self, sid: str, session: _PluginSession) -> None:
        self._plugin.add_session(session)


class Plugin(_Plugin):
    """`_create_session`, `_forward`, `_sessions`, a `send_notification` to be awaited, the `is_*` of the host, the registry."""

    if not TYPE_CHECKING:

        def __init_subclass__(cls, **arguments: Any) -> None:
            if "_create_session" in vars(cls):
                cls.create_session = cls._create_session
            super().__init_subclass__(**arguments)

    def _create_session(self, sid: str, **arguments: Any) -> Any:
        return _Plugin.create_session(self, sid, **arguments)

    async def _forward(self, sid: str, method: Callable[..., Any] | str, /, **arguments: Any) -> Any:
        return await self.forward(sid, method, **arguments)

    @property
    def _sessions(self) -> _Adopting:
        return _Adopting(self)

    async def send_notification(self, topic: str, data: Any = None) -> None:  # type: ignore[override]
        super().send_notification(topic, data)

    @property
    def is_bridge(self) -> bool:
        return self.host.is_bridge

    @property
    def is_login_node(self) -> bool:
        return self.host.is_login_node

    @property
    def is_compute_node(self) -> bool:
        return self.host.is_compute_node

    @property
    def is_standalone(self) -> bool:
        return self.host.is_standalone

    @classmethod
    def get_plugin_class(cls, name: str) -> type[_Plugin] | None:
        return get_plugin_class(name)

    @classmethod
    def get_plugin_names(cls) -> list[str]:
        return get_plugin_names()


class _Answer:
    """What `_http` answers."""

    def __init__(self, value: Any, error: OrbitError | None) -> None:
        self._value = value
        self.error = error
        self.status_code = 200 if error is None else error.http_status
        self.is_error = error is not None

    def json(self) -> Any:
        return {"error": True, "detail": self.error.message} if self.error is not None else self._value

    @property
    def text(self) -> str:
        return _json.dumps(self.json(), default=str)


class _Routes:
    """`get` and `post` of routes, as calls of the operations behind them."""

    def __init__(self, owner: PluginClient) -> None:
        self._owner = owner

    def get(self, path: str, *, params: dict[str, Any] | None = None) -> _Answer:
        return self._owner._answer_of("GET", path, params or {})

    def post(self, path: str, *, json: dict[str, Any] | None = None) -> _Answer:
        return self._owner._answer_of("POST", path, json or {})


class PluginClient(_PluginClient):
    """`_url`, `_http` and `_raise`."""

    def _url(self, path: str) -> str:
        return path.strip("/")

    @property
    def _http(self) -> _Routes:
        return _Routes(self)

    def _raise(self, answer: _Answer, what: str = "") -> None:
        if answer.error is not None:
            raise answer.error

    def _answer_of(self, method: str, path: str, arguments: dict[str, Any]) -> _Answer:
        try:
            name, said = find_route(self._operations, method, path)
            session = said.pop(SESSION, "")
            return _Answer(self._client.call(self.endpoint, self.plugin, name, {**arguments, **said}, session=session), None)
        except OrbitError as error:
            return _Answer(None, error)
