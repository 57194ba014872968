"""What a process says of itself: versions, platform, host. Read once; no secrets, no environment variables."""

from __future__ import annotations

import os
import pickle
import platform
import socket
from functools import cache
from importlib import metadata
from typing import Any

from orbit_zmq._version import __version__


@cache
def environment_facts() -> dict[str, Any]:
    """Python, platform, host name, process id, serializers, and the versions of what matters to calls across machines."""
    return {
        "python_version": platform.python_version(),
        "platform": platform.platform(terse=True),
        "hostname": socket.gethostname(),
        "pid": os.getpid(),
        "orbit_version": __version__,
        "serializers": {
            "msgpack": metadata.version("msgpack"),
            "pickle": str(pickle.HIGHEST_PROTOCOL),
            "cloudpickle": metadata.version("cloudpickle"),
        },
    }
