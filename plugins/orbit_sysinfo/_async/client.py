"""AsyncSysInfoClient: the operations of sysinfo as typed methods. It must not measure anything itself."""

from __future__ import annotations

from typing import Any

from orbit_zmq.client._async.plugin import AsyncPluginClient


class AsyncSysInfoClient(AsyncPluginClient):
    """What the machine of an endpoint is and does."""

    async def homedir(self) -> str:
        """The home directory of the endpoint's process; needs no session."""
        answer = await self.call("homedir")
        return str(answer["homedir"])

    async def host_role(self) -> dict[str, Any]:
        """`role`, `scheduler`, `psij_executor`, `job_id` and `python_version` of the endpoint's host; needs no session."""
        answer: dict[str, Any] = await self.call("host_role")
        return answer

    async def get_metrics(self) -> dict[str, Any]:
        """The machine as it is now: `system`, `cpu`, `memory`, `disks`, `network` and `gpus`."""
        answer: dict[str, Any] = await self.call("metrics")
        return answer
