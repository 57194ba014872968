"""Where files live: configuration, state (keys, stores), and what exists only while something runs (sockets, records).

Each directory is made 0700 when it is first asked for, and refused when it is another user's or open to others. Homes on HPC
machines are shared and slow: what runs belongs in the runtime directory, and each of the three can be moved by a variable.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import platformdirs

from orbit_zmq.files import make_private_directory
from orbit_zmq.settings import environment

CONFIG_FILE = "config.toml"
SOCKET_PATH_BYTES = 100  # the kernel takes 107; libzmq and a lock's suffix want a few


def config_dir() -> Path:
    """Settings and stored contexts."""
    return _directory("ORBIT_CONFIG_DIR", _config_default())


def existing_config_file() -> Path | None:
    """The file of settings, if there is one; a directory of settings is not made for the question."""
    path = _chosen("ORBIT_CONFIG_DIR", _config_default()) / CONFIG_FILE
    return config_dir() / CONFIG_FILE if path.exists() else None


def state_dir() -> Path:
    """Keys and whatever has to outlive a process."""
    return _directory("ORBIT_STATE_DIR", platformdirs.user_state_dir("orbit", appauthor=False))


def gateway_dir() -> Path:
    """Tokens, browser sessions and the index of events of the HTTP gateway."""
    return make_private_directory(state_dir() / "gateway", "ORBIT_STATE_DIR")


def runtime_dir() -> Path:
    """Sockets and the records of running processes, on this machine only."""
    session = os.environ.get("XDG_RUNTIME_DIR")
    return _directory("ORBIT_RUNTIME_DIR", f"{session}/orbit" if session else short_runtime_dir())


def socket_path(name: str) -> str:
    """A path for a socket: in the runtime directory, or in a short one of this user where that would be too long."""
    path = runtime_dir() / name
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return str(path)
    short = make_private_directory(Path(short_runtime_dir()), "ORBIT_RUNTIME_DIR")
    return str(short / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.sock")


def short_runtime_dir() -> str:
    """This user's directory under /tmp; what it must not be used without is the check of its owner and mode."""
    return f"/tmp/orbit-{os.geteuid()}"


def _config_default() -> str:
    return platformdirs.user_config_dir("orbit", appauthor=False)


def _chosen(variable: str, default: str) -> Path:
    return Path(environment(variable) or default).expanduser().absolute()


def _directory(variable: str, default: str) -> Path:
    return make_private_directory(_chosen(variable, default), variable)
