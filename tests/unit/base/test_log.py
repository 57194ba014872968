"""Log lines: JSON where nobody watches, quiet in a library's user, and no peer writes on the terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def test_the_format_can_be_chosen() -> None:
    done = run("from orbit_zmq.log import *; configure_logging(form='console'); get_logger('x').info('hello', n=1)")

    assert "hello" in done.stderr and "n=1" in done.stderr and not done.stderr.startswith("{")
    with pytest.raises(InvalidArgument, match="yaml"):
        configure_logging(form="yaml")


def test_lines_say_which_request_they_were_written_for() -> None:
    done = run(
        "import asyncio; from orbit_zmq.log import *; configure_logging(); import structlog\n"
        "async def call(number):\n"
        "    REQUEST.set((b'\\xab' * 16, number)); await asyncio.sleep(0)\n"
        "    get_logger('x').info('ours'); await asyncio.to_thread(structlog.get_logger().info, 'theirs')\n"
        "async def main(): await asyncio.gather(call(1), call(2))\n"
        "asyncio.run(main()); get_logger('x').info('outside')"
    )

    found = [(line["event"], line.get("request")) for line in map(json.loads, done.stderr.splitlines())]
    assert sorted(found[:-1]) == [(event, f"abababab.{n}") for event in ("ours", "theirs") for n in (1, 2)]
    assert found[-1] == ("outside", None)


def test_a_log_file_is_standard_error_and_begins_anew_when_it_is_large(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; import orbit_zmq.log as log_module; from orbit_zmq.log import *\n"
        f"log_module.LOG_BYTES = 1000; configure_logging(file=Path({str(tmp_path / 'x.log')!r})); log = get_logger('x')\n"
        "os.write(2, b'from libzmq')\n"
        "for number in range(100): log.info('line', number=number)\n"
    )
    done = run(script)

    assert done.returncode == 0 and done.stderr == ""
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2", "x.log.3"]
    assert all(path.stat().st_size < 1200 for path in tmp_path.iterdir())
    last = [json.loads(line)["number"] for line in (tmp_path / "x.log").read_text().splitlines()]
    assert last[-1] == 99 and last == list(range(last[0], 100))


def test_a_file_that_another_process_has_rotated_is_followed(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; from orbit_zmq.log import *\n"
        f"path = Path({str(tmp_path / 'x.log')!r}); configure_logging(file=path); log = get_logger('x')\n"
        "log.info('before'); rotate(path); log.info('after')\n"
    )
    assert run(script).returncode == 0

    assert json.loads((tmp_path / "x.log.1").read_text())["event"] == "before"
    assert json.loads((tmp_path / "x.log").read_text())["event"] == "after"
