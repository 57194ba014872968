"""The environment variables that ORBIT-ZMQ reads, in one table that the documentation is checked against, and settings.

A setting is a variable of ours or, where that is unset, a value of `config.toml`. No other module reads `os.environ` for a
variable of ours. Nothing is cached: a test or a notebook may change a variable.
"""

from __future__ import annotations

import os

VARIABLES = {
    "ORBIT_URL": "address of the broker: tcp://host:port or ipc://path",
    "ORBIT_EVENTS_URL": "address of the broker's events, where it is not the one that the broker names",
    "ORBIT_JOIN": "a join string",
    "ORBIT_JOIN_FILE": "file with a join string",
    "ORBIT_CONTEXT": "name of a stored context",
    "ORBIT_CONFIG_DIR": "directory of settings and contexts",
    "ORBIT_STATE_DIR": "directory of keys and state",
    "ORBIT_RUNTIME_DIR": "directory of sockets and of the running broker's record",
    "ORBIT_OUTPUT": "how commands show what they find: table, tsv, json, jsonl or quiet",
    "ORBIT_LOG_LEVEL": "debug, info, warning, error or critical",
    "ORBIT_RHAPSODY_BACKEND": "default execution backend of Rhapsody sessions",
    "ORBIT_BATCH_SYSTEM": "the batch system to use where this machine has several: slurm, pbs, pbs-aurora, lsf, flux or none",
    "ORBIT_FAULTPOINTS": "for tests alone: where a process is to die, stop, or be slow",
}

SET_FOR_PROGRAMS = {
    "ORBIT_TASK_NUMBER": "which of several tasks of `orbit task submit -n` this is, from 1 on",
    "ORBIT_ARRAY_INDEX": "which member of an array of jobs this is",
    "ORBIT_PYTHON": "the Python that runs a worker inside a job",
}


def environment(name: str) -> str | None:
    """The value of one of VARIABLES, or None where it is unset or empty."""
    if name not in VARIABLES:
        raise KeyError(f"{name} is not in orbit_zmq.settings.VARIABLES")
    return os.environ.get(name) or None


def setting(name: str) -> str | None:
    """The variable `ORBIT_<NAME>`, else the value of that name in config.toml, else None; InvalidArgument for a bad file."""
    value = environment(f"ORBIT_{name.upper()}")
    if value is not None:
        return value
    from orbit_zmq.paths import existing_config_file  # which asks for a variable

    path = existing_config_file()
    if path is None:
        return None
    from orbit_zmq.configuration import configured  # takes 100 ms

    return configured(path).get(name)
