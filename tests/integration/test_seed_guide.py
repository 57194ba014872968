"""The plugin of the predecessor's guide runs here with its imports changed and the harness in place of a web server."""

# mypy: ignore-errors

from __future__ import annotations

import uuid as _uuid
from typing import Any

import pytest

from orbit_zmq.compat import FastAPI, JSONResponse, Plugin, PluginClient, PluginSession, Request
from orbit_zmq.errors import SessionClosed
from orbit_zmq.testing import serve


class MySession(PluginSession):
    def __init__(self, sid: str, config: dict | None = None, backends: list | None = None):
        super().__init__(sid)
        self._data = {}
        self.config = config
        self.backends = backends
        self.was_initialized = False

    async def initialize(self) -> None:
        self.was_initialized = True

    async def do_work(self, param: str) -> dict:
        self._check_active()

        result = f"processed: {param}"
        self._data[param] = result

        if self._notify:
            self._notify("work_status", {"param": param, "status": "done"})

        return {"result": result}

    async def describe(self) -> dict:
        return {"config": self.config, "backends": self.backends, "initialized": self.was_initialized}

    async def close(self) -> dict:
        self._data = {}
        return await super().close()


class MyServiceClient(PluginClient):
    def do_work(self, param: str) -> dict:
        if not self.sid:
            raise RuntimeError("No active session")

        url = self._url(f"do_work/{self.sid}")
        resp = self._http.post(url, json={"param": param})
        self._raise(resp, f"do_work({param!r})")
        return resp.json()


class PluginMyService(Plugin):
    plugin_name = "myservice"
    session_class = MySession
    client_class = MyServiceClient
    version = "0.1.0"

    def __init__(self, app: FastAPI, instance_name: str = "myservice"):
        super().__init__(app, instance_name)

        self.add_route_post("do_work/{sid}", self.do_work)
        self.add_route_get("describe/{sid}", self.describe)
        self.add_route_get("host", self.host_role)

    async def do_work(self, request: Request) -> JSONResponse:
        sid = request.path_params["sid"]
        data = await request.json()
        return await self._forward(sid, MySession.do_work, param=data["param"])

    async def host_role(self, request: Request) -> JSONResponse:
        await self.send_notification("asked", {"of": self.uid})
        roles = ("is_bridge", "is_login_node", "is_compute_node", "is_standalone")
        return JSONResponse({"roles": [role for role in roles if getattr(self, role)], "namespace": self.namespace})

    async def describe(self, request: Request) -> JSONResponse:
        return JSONResponse(await self._forward(request.path_params["sid"], MySession.describe))


class PluginWithConfig(PluginMyService):
    plugin_name = "myservice-created"
    _config = {"from": "the plugin"}  # noqa: RUF012 - as the guide's plugins do

    def __init__(self, app: FastAPI, instance_name: str = "myservice-created"):
        super().__init__(app, instance_name)

    def _create_session(self, sid: str, **kwargs: Any) -> MySession:
        return self.session_class(sid, config=self._config)


class PluginWithRegistration(PluginMyService):
    plugin_name = "myservice-registered"

    def __init__(self, app: FastAPI, instance_name: str = "myservice-registered"):
        super().__init__(app, instance_name)

    async def register_session(self, request: Request) -> JSONResponse:
        data = await request.json()
        backends = data.get("backends", ["default"])

        sid = f"session.{_uuid.uuid4().hex[:8]}"
        session = self._create_session(sid, backends=backends)

        if hasattr(session, "initialize"):
            await session.initialize()

        self._sessions[sid] = session
        return JSONResponse({"sid": sid})


def test_the_guides_plugin_works_and_tells_of_it() -> None:
    with serve(PluginMyService) as running:
        assert isinstance(running.plugin, MyServiceClient)
        assert running.plugin.do_work("test") == {"result": "processed: test"}
        (event,) = running.events.wait_for("work_status")
        assert event.data == {"param": "test", "status": "done"}
        assert (event.plugin, event.session) == ("myservice", running.plugin.sid)


def test_after_close_the_guides_session_is_an_error() -> None:
    with serve(PluginMyService) as running:
        sid = running.plugin.sid
        running.plugin.unregister_session()
        with pytest.raises(RuntimeError, match="No active session"):
            running.plugin.do_work("test")
        running.plugin.sid = sid
        with pytest.raises(SessionClosed, match=f"session closed: {sid}"):
            running.plugin.do_work("test")


def test_custom_creation_and_custom_registration_work() -> None:
    with serve(PluginWithConfig, PluginWithRegistration) as running:
        assert running.plugin.describe()["config"] == {"from": "the plugin"}
        assert running.plugin.do_work("test") == {"result": "processed: test"}
        with running.client.get_plugin("testing", "myservice-registered", backends=["a", "b"]) as registered:
            assert registered.describe() == {"config": None, "backends": ["a", "b"], "initialized": True}


def test_a_plugin_asks_where_it_is_and_awaits_its_notifications() -> None:
    with serve(PluginMyService) as running:
        said = running.plugin.host_role()
        assert len(said["roles"]) == 1 and said["namespace"] == "/myservice"
        (event,) = running.events.wait_for("asked")
        assert event.data["of"].startswith("myservice.") and event.session == ""
    assert Plugin.get_plugin_class("myservice") is PluginMyService
    assert Plugin.get_plugin_class("nobodys") is None and "myservice" in Plugin.get_plugin_names()
