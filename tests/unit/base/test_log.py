"""Log lines: JSON where nobody watches, quiet in a library's user, and no peer writes on the terminal."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.log import configure_logging, escape_facts


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )


CONFIGURED = "from orbit_zmq.log import *; configure_logging(); log = get_logger('orbit_x'); "


def test_a_line_is_json_with_event_level_logger_time_and_facts() -> None:
    done = run(CONFIGURED + "log.info('endpoint-lost', endpoint='hpc1', silent_for_s=31.2)")

    line = json.loads(done.stderr)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "endpoint-lost",
        "level": "info",
        "logger": "orbit_x",
        "endpoint": "hpc1",
        "silent_for_s": 31.2,
    }
    assert done.stdout == ""


def test_the_level_comes_from_the_environment() -> None:
    done = run(CONFIGURED + "log.info('quiet'); log.error('loud')", ORBIT_LOG_LEVEL="error")

    assert [json.loads(line)["event"] for line in done.stderr.splitlines()] == ["loud"]


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="verbose"):
        configure_logging("verbose")


def test_a_program_that_only_uses_the_library_hears_warnings_and_keeps_its_own_set_up() -> None:
    done = run(
        "import sys; from orbit_zmq.log import get_logger; log = get_logger('x'); log.info('quiet')\n"
        "assert 'structlog' not in sys.modules\n"
        "log.warning('loud'); import structlog; assert not structlog.is_configured()"
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr)["event"] == "loud"


def test_a_plugin_with_its_own_structlog_logger_writes_the_same_lines() -> None:
    done = run(CONFIGURED + "import structlog; structlog.get_logger().info('from-plugin', n=1)")

    assert json.loads(done.stderr)["event"] == "from-plugin"


def test_the_traceback_of_an_exception_is_in_its_line() -> None:
    done = run(CONFIGURED + "\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    log.exception('plugin-failed')")

    assert "ZeroDivisionError" in json.loads(done.stderr)["exception"]


def test_a_closed_standard_error_ends_nothing() -> None:
    done = run(CONFIGURED + "import sys; sys.stderr.close(); log.error('gone'); print('still here')")

    assert done.stdout == "still here\n"


def test_control_characters_of_a_peer_are_escaped() -> None:
    facts = escape_facts(None, "info", {"name": "a\x1b[2J\nroot", "n": 1, "stack": "line 1\nline 2\x07"})

    assert facts == {"name": "a\\x1b[2J\\nroot", "n": 1, "stack": "line 1\nline 2\\x07"}
