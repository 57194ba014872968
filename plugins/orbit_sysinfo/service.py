"""The endpoint's side: what the machine is, for anybody who may call, and what it does, in a session.

Measuring blocks, so it happens in threads; this module must not touch a file, a tool, or psutil itself.
"""

from __future__ import annotations

import asyncio
import os
import platform
from typing import Any, ClassVar

from orbit_sysinfo.provider import SysInfoProvider
from orbit_sysinfo.ui_config import UI_CONFIG
from orbit_zmq.batch import detect_batch_system
from orbit_zmq.plugin import Host, Plugin, PluginSession, operation


class SysInfoSession(PluginSession):
    """A user's view of the machine; all sessions share one provider."""

    def __init__(self, sid: str, provider: SysInfoProvider) -> None:
        super().__init__(sid)
        self._provider = provider

    @operation(effect="read", deadline_s=30)
    async def metrics(self) -> dict[str, Any]:
        """The machine as it is now: system, cpu, memory, disks, network, gpus."""
        return await asyncio.to_thread(self._provider.get_metrics)


class SysInfoPlugin(Plugin):
    """System hardware and how busy it is."""

    plugin_name = "sysinfo"
    session_class = SysInfoSession
    version = "0.1.0"
    ui_config: ClassVar[dict[str, Any]] = UI_CONFIG

    def __init__(self, host: Host, instance_name: str | None = None) -> None:
        super().__init__(host, instance_name)
        self.provider = SysInfoProvider()
        self.provider.start_prefetch()

    def create_session(self, sid: str) -> SysInfoSession:
        return SysInfoSession(sid, self.provider)

    @operation(effect="read")
    async def homedir(self) -> dict[str, str]:
        """The home directory of the endpoint's process."""
        return {"homedir": await asyncio.to_thread(os.path.expanduser, "~")}  # without HOME it asks a directory service

    @operation(effect="read")
    async def host_role(self) -> dict[str, Any]:
        """What the endpoint's host is: role, scheduler, psij_executor, job_id (in an allocation), python_version."""
        batch = await asyncio.to_thread(detect_batch_system)
        return {
            "role": self.host.role,
            "scheduler": batch.name,
            "psij_executor": batch.psij_executor,
            "job_id": batch.job_id,
            "python_version": platform.python_version(),
        }
