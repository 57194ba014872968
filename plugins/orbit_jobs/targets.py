"""Targets: the places for jobs that a site or a user has given names to, in config.toml. Nothing here makes a runner.

[plugins.jobs.jobs]
default_target = "gpu"

[plugins.jobs.jobs.targets.gpu]
runner = "slurm"
attributes = {queue_name = "gpu", account = "physics"}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orbit_zmq.configuration import plugin_options
from orbit_zmq.errors import InvalidArgument

Targets = dict[str, dict[str, Any]]  # name -> what `build` takes

PLUGIN = "jobs"


def configured_targets() -> Targets:
    """The targets in config.toml. InvalidArgument names what is wrong there."""
    return checked_targets(plugin_options().get(PLUGIN, {}).get(PLUGIN, {}).get("targets", {}))


def checked_targets(given: Any) -> Targets:
    """Targets by name; InvalidArgument for one that is no table, or says no runner."""
    if not isinstance(given, Mapping):
        raise InvalidArgument("targets is no table", hint="Write [plugins.jobs.jobs.targets.NAME].")
    for name, options in given.items():
        if not isinstance(options, Mapping) or not (options.get("runner") or options.get("module")):
            raise InvalidArgument(f"the target {name} names no runner", hint='Write runner = "slurm", or another one.')
    return {str(name): dict(options) for name, options in given.items()}
