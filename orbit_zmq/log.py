"""Logging: events with facts, as JSON lines where standard error is no terminal.

`get_logger` costs nothing to import; structlog is loaded at the first line that is written. A program that merely uses the
library hears warnings only, and its own structlog set-up is left alone; our own processes call `configure_logging`. What a
peer sent is escaped before it reaches a terminal. Writing a line never raises.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from orbit_zmq.errors import InvalidArgument
from orbit_zmq.settings import environment

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
OUR_TEXTS = frozenset({"exception", "stack"})  # several lines that this process itself made


class Logger:
    """Writes events of one module: `log.info("endpoint-lost", endpoint=name, silent_for_s=31.2)`."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    def debug(self, event: str, **facts: Any) -> None:
        self._write("debug", event, facts)

    def info(self, event: str, **facts: Any) -> None:
        self._write("info", event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._write("warning", event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._write("error", event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """An error with the traceback of the exception that is being handled."""
        self._write("error", event, {"exc_info": True, **facts})

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if LEVELS[level] >= _output.level:
            _output.write(level, event, {"logger": self._name, **facts})


class _Output:
    """Where lines of this process go, and from which level on."""

    def __init__(self) -> None:
        self.level = LEVELS["warning"]
        self._backend: Any = None

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if self._backend is None:
            self._backend = _structlog_backend()
        getattr(self._backend, level)(event, **facts)


class _StandardError:
    """Standard error as it is at the moment of writing; one that is closed or full is no reason to fail."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


_output = _Output()


def get_logger(name: str) -> Logger:
    """The logger of a module; `name` is its `__name__`."""
    return Logger(name)


def configure_logging(level: str | None = None) -> None:
    """Set up this process: the level given, else ORBIT_LOG_LEVEL, else info. Plugins' own structlog loggers follow."""
    chosen = (level or environment("ORBIT_LOG_LEVEL") or "info").lower()
    if chosen not in LEVELS:
        raise InvalidArgument(f"{chosen!r} is no log level.", hint=f"Levels are {', '.join(LEVELS)}.")
    _output.level = LEVELS[chosen]
    import structlog  # who only imports the library does not pay for it

    structlog.configure(
        processors=_processors(),
        wrapper_class=structlog.make_filtering_bound_logger(_output.level),
        logger_factory=lambda *_: _file_logger(),
        cache_logger_on_first_use=False,
    )


def escape_facts(_: Any, __: str, facts: Any) -> Any:
    """Make control characters of what peers sent visible, so that no name can draw on a terminal or fake a line."""
    for name, value in facts.items():
        if isinstance(value, str) and not value.isprintable():
            keep = "\n\t" if name in OUR_TEXTS else ""
            facts[name] = "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in value)
    return facts


def _structlog_backend() -> Any:
    import structlog

    return structlog.wrap_logger(
        _file_logger(), processors=_processors(), wrapper_class=structlog.make_filtering_bound_logger(0)
    )


def _file_logger() -> Any:
    import structlog

    return structlog.PrintLogger(_StandardError())  # type: ignore[arg-type]


def _processors() -> list[Any]:
    import structlog

    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape_facts,
    ]
    if sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty():
        return [*shared, structlog.dev.ConsoleRenderer(colors=True)]
    return [*shared, structlog.processors.JSONRenderer(default=repr)]
