# Made by scripts/unasync from plugins/orbit_sysinfo/_async/client.py: change that file, not this one.
"""SysInfoClient: the operations of sysinfo as typed methods. It must not measure anything itself."""

from __future__ import annotations

from typing import Any

from orbit_zmq.client._sync.plugin import PluginClient


class SysInfoClient(PluginClient):
    """What the machine of an endpoint is and does."""

    def homedir(self) -> str:
        """The home directory of the endpoint's process; needs no session."""
        answer = self.call("homedir")
        return str(answer["homedir"])

    def host_role(self) -> dict[str, Any]:
        """`role`, `scheduler`, `psij_executor`, `job_id` and `python_version` of the endpoint's host; needs no session."""
        answer: dict[str, Any] = self.call("host_role")
        return answer

    def get_metrics(self) -> dict[str, Any]:
        """The machine as it is now: `system`, `cpu`, `memory`, `disks`, `network` and `gpus`."""
        answer: dict[str, Any] = self.call("metrics")
        return answer
