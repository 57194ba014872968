"""For processes that are somebody's child: notice that the parent is gone, and say that the start has worked or failed.

The other half of children.py. A thread reads standard input, which nobody ever writes to, until it is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from orbit_zmq.errors import OrbitError


def watch_parent(on_gone: Callable[[], None]) -> None:
    """Call `on_gone`, from a thread of its own, when standard input is closed."""
    threading.Thread(target=_watch, args=(on_gone,), name="orbit-parent", daemon=True).start()


def say_ready(facts: dict[str, Any], sentence: str) -> None:
    """Print the one line, on a terminal the sentence.

    What is printed later goes to standard error: nobody reads a pipe any more. Where nobody has read this line either, because
    who started this process has been killed, the process is told to end: nobody knows of it.
    """
    if sys.stdout.isatty():
        _print_line(sentence)
        return
    if not _print_line(json.dumps(facts, default=str)):
        os.kill(os.getpid(), signal.SIGTERM)
    with contextlib.suppress(OSError):
        os.dup2(2, 1)


def say_failed(error: OrbitError) -> None:
    """Tell the parent why there will be no ready line."""
    _print_line(json.dumps({"error": error.to_body()}, default=str))


def _print_line(line: str) -> bool:
    """False where the pipe has no reader any more."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return False
    except OSError:
        pass
    return True


def _watch(on_gone: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 65_536):
            pass
    on_gone()
