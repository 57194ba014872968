"""Logging: events with facts, as JSON lines where standard error is no terminal, with the request that is being handled.

`get_logger` costs nothing to import; structlog is loaded at the first line that is written. A program that merely uses the
library hears warnings only, and its own structlog set-up is left alone; our own processes call `configure_logging`. What a
peer sent is escaped before it reaches a terminal. Writing a line never raises. A log file is standard error itself, so that
what others print there is kept, too; it is renamed when it is large.
"""

from __future__ import annotations

import contextlib
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from orbit_zmq.errors import InvalidArgument, NotPermitted
from orbit_zmq.settings import setting

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
FORMATS = ("console", "json")
LOG_BYTES = 10 << 20  # of one log file
LOGS_KEPT = 3  # beside the one that is being written
REQUEST: ContextVar[tuple[bytes, int] | None] = ContextVar("orbit_zmq.request", default=None)  # (caller, id) of the call
TRACE: ContextVar[str] = ContextVar("orbit_zmq.trace", default="")  # what the caller calls it
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

    def use(self, backend: Any) -> None:
        self._backend = backend

    def write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if self._backend is None:
            self._backend = _backend_of(_StandardError(), _processors(None))
        getattr(self._backend, level)(event, **facts)


class _StandardError:
    """Standard error as it is at the moment of writing; one that is closed or full is no reason to fail."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        if path is not None:
            self._open(path)

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if self._path is not None and text != "\n":
                self._follow(self._path)
            sys.stderr.write(text)

    def _follow(self, path: Path) -> None:
        """Begin a new file where this one is full, or where another process has begun one."""
        now_open = os.fstat(2)
        try:
            is_in_place = os.path.samestat(now_open, path.stat())
        except FileNotFoundError:
            is_in_place = False
        if is_in_place and now_open.st_size < LOG_BYTES:
            return
        if is_in_place:
            rotate(path)
        self._open(path)

    def _open(self, path: Path) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        output_follows = os.path.samestat(os.fstat(1), os.fstat(2))
        os.dup2(descriptor, 2)
        if output_follows:
            os.dup2(2, 1)
        os.close(descriptor)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            sys.stderr.flush()


_output = _Output()


def get_logger(name: str) -> Logger:
    """The logger of a module; `name` is its `__name__`."""
    return Logger(name)


def configure_logging(level: str | None = None, form: str | None = None, file: Path | None = None) -> None:
    """Set up this process: the level given, else ORBIT_LOG_LEVEL, else info. Plugins' own structlog loggers follow.

    `form` is `console` or `json`; where it is left out standard error decides. With `file` standard error goes there.
    """
    chosen = (level or setting("log_level") or "info").lower()
    if chosen not in LEVELS:
        raise InvalidArgument(f"{chosen!r} is no log level.", hint=f"Levels are {', '.join(LEVELS)}.")
    if form not in (None, *FORMATS):
        raise InvalidArgument(f"{form!r} is no log format.", hint=f"Formats are {', '.join(FORMATS)}.")
    try:
        stream = _StandardError(file)
    except OSError as error:
        raise NotPermitted(f"The log file {file} cannot be written: {error.strerror}.", hint="Name another.") from error
    _output.level = LEVELS[chosen]
    import structlog  # who only imports the library does not pay for it

    processors = _processors(form)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(_output.level),
        logger_factory=lambda *_: _file_logger(stream),
        cache_logger_on_first_use=False,
    )
    _output.use(_backend_of(stream, processors))


def rotate(path: Path) -> None:
    """Rename a log file to `.1`, the one before to `.2`, and so on; the oldest goes."""
    for number in range(LOGS_KEPT, 0, -1):
        older = path.with_name(f"{path.name}.{number}")
        newer = path.with_name(f"{path.name}.{number - 1}") if number > 1 else path
        with contextlib.suppress(FileNotFoundError):
            os.replace(newer, older)


def escape_facts(_: Any, __: str, facts: Any) -> Any:
    """Make control characters of what peers sent visible, so that no name can draw on a terminal or fake a line."""
    for name, value in facts.items():
        if isinstance(value, str) and not value.isprintable():
            keep = "\n\t" if name in OUR_TEXTS else ""
            facts[name] = "".join(c if c.isprintable() or c in keep else c.encode("unicode_escape").decode() for c in value)
    return facts


def add_request(_: Any, __: str, facts: Any) -> Any:
    """Say for which call a line was written: who called, shortened, and the number of the call there."""
    request = REQUEST.get()
    if request is not None:
        facts.setdefault("request", request_name(*request))
        if trace := TRACE.get():
            facts.setdefault("trace", trace)
    return facts


def request_name(caller: bytes, call_id: int) -> str:
    """How a call is named in logs."""
    return f"{caller[:4].hex()}.{call_id}"


def _backend_of(stream: _StandardError, processors: list[Any]) -> Any:
    import structlog

    return structlog.wrap_logger(
        _file_logger(stream), processors=processors, wrapper_class=structlog.make_filtering_bound_logger(0)
    )


def _file_logger(stream: _StandardError) -> Any:
    import structlog

    return structlog.PrintLogger(stream)  # type: ignore[arg-type]


def _processors(form: str | None) -> list[Any]:
    import structlog

    shared: list[Any] = [
        structlog.processors.add_log_level,
        add_request,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        escape_facts,
    ]
    is_terminal = sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()
    if form == "console" or (form is None and is_terminal):
        return [*shared, structlog.dev.ConsoleRenderer(colors=is_terminal and not os.environ.get("NO_COLOR"))]
    return [*shared, structlog.processors.JSONRenderer(default=repr)]
