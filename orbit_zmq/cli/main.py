"""The command `orbit`: finds the noun that is asked for, and turns errors into one sentence and an exit code.

`orbit --help` has to answer at once on a slow file system, so this module imports click and the standard library, and a
noun's module is imported when the noun is used. Commands that other packages bring (entry points of the group
`orbit_zmq.commands`) are looked for only when a word is none of ours.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from orbit_zmq._version import __version__
from orbit_zmq.errors import (
    AuthRequired,
    BrokerUnreachable,
    DeadlineExceeded,
    InvalidArgument,
    NotPermitted,
    OrbitError,
    RemoteError,
)

NOUNS = {
    "bench": ("orbit_zmq.cli.bench:bench", "Measure the speed of your own deployment."),
    "broker": ("orbit_zmq.cli.broker:broker", "Start, stop and look at the broker."),
    "call": ("orbit_zmq.cli.call:call", "Call an operation of a plugin on an endpoint."),
    "completion": ("orbit_zmq.cli.completion:completion", "Print the script that completes commands and names in a shell."),
    "config": ("orbit_zmq.cli.config:config", "Show and change settings."),
    "context": ("orbit_zmq.cli.context:context", "Store brokers under names."),
    "demo": ("orbit_zmq.cli.demo:demo", "Stream tasks through a broker and an endpoint of its own."),
    "endpoint": ("orbit_zmq.cli.endpoint:endpoint", "Serve this machine, and look at the endpoints."),
    "errors": ("orbit_zmq.cli.errors_command:errors", "Say what an error means and what to do about it."),
    "events": ("orbit_zmq.cli.events:events", "Show events as they happen."),
    "gateway": ("orbit_zmq.cli.gateway:gateway", "Serve REST and events over HTTP."),
    "job": ("orbit_zmq.cli.job:job", "Submit, list, show, wait for and cancel batch jobs."),
    "logs": ("orbit_zmq.cli.logs:logs", "Show the log of the broker or of an endpoint in the background."),
    "plugin": ("orbit_zmq.cli.plugin:plugin", "Look at the plugins of the endpoints."),
    "queue": ("orbit_zmq.cli.queue:queue", "Look at the queues, jobs and allocations of batch systems."),
    "session": ("orbit_zmq.cli.session:session", "List, show and close sessions."),
    "task": ("orbit_zmq.cli.task:task", "Submit, run, list, show, await, cancel and read tasks."),
    "top": ("orbit_zmq.cli.top:top", "Watch the broker and its endpoints on one screen."),
    "invite": ("orbit_zmq.cli.invite:invite", "Admit another party, and print the join string for it."),
    "join": ("orbit_zmq.cli.join:join", "Store a join string on this machine."),
    "key": ("orbit_zmq.cli.key:key", "List the keys that the broker admits."),
    "revoke": ("orbit_zmq.cli.key:revoke", "Admit a key no more, and cut its connections."),
    "token": ("orbit_zmq.cli.token:token", "Make, list and revoke tokens for HTTP."),
    "up": ("orbit_zmq.cli.up:up", "Run a broker and an endpoint on this machine until Ctrl-C."),
    "why": ("orbit_zmq.cli.why:why", "Say why a task, a job or a session is not further."),
    "worker": ("orbit_zmq.cli.worker:worker", "Start endpoints inside batch jobs, list and stop them."),
    "version": ("orbit_zmq.cli.version:version", "Show the versions of ORBIT-ZMQ and of what it runs on."),
}
GROUP = "orbit_zmq.commands"

OUTPUT_FAILS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF)  # of what was opened before: a disk is full, a line is cut
DONE, FAILED, USAGE, UNREACHABLE, REFUSED, DEADLINE, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
EXIT_CODES: tuple[tuple[type[OrbitError], int], ...] = (
    (InvalidArgument, USAGE),
    (BrokerUnreachable, UNREACHABLE),
    (AuthRequired, REFUSED),
    (NotPermitted, REFUSED),
    (DeadlineExceeded, DEADLINE),
)


class Nouns(click.Group):
    """Knows the nouns and their help from the table, and loads one when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(NOUNS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOUNS:
            module, _, name = NOUNS[cmd_name][0].partition(":")
            command = getattr(import_module(module), name)
        else:
            command = _installed_command(cmd_name)
        return command if isinstance(command, click.Command) else None

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            if near := get_close_matches(args[0], NOUNS, n=1):
                raise click.UsageError(f"There is no command {args[0]!r}. Did you mean {near[0]!r}?", ctx) from error
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(noun, help_line) for noun, (_, help_line) in sorted(NOUNS.items())])


@click.group(cls=Nouns, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="orbit")
def cli() -> None:
    """Drive many HPC machines from one place.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 3 broker unreachable, 4 refused, 5 deadline exceeded.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; answers its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if sys.stdout is None:  # what is opened next would get its number
        complain("Standard output is closed (write `> /dev/null` where nobody wants to see it)")
        return FAILED
    try:
        code = cli.main(args=words, prog_name="orbit", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else DONE
    except click.ClickException as error:
        if _wants_json(words):
            _complain_in_json(InvalidArgument(error.format_message(), hint="--help shows how it is used."), error.exit_code)
        else:
            error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OrbitError as error:
        return failed(error, words)
    except BrokenPipeError:  # the reader of our output has left, as in `| head`
        _drop_output()
        return FAILED
    except Exception as error:  # noqa: BLE001 - the command's top: a user gets a sentence, and the traceback on demand
        if isinstance(error, OSError) and error.filename is None and error.errno in OUTPUT_FAILS:
            _drop_output()
            complain(f"Standard output cannot be written: {error.strerror}.")
            return FAILED
        if _wants_json(words):
            _complain_in_json(OrbitError(f"{type(error).__name__}: {error}"), FAILED)
        else:
            complain(f"{type(error).__name__}: {error} (ORBIT_LOG_LEVEL=debug shows the traceback)")
        _log_traceback()
        return FAILED


def _drop_output() -> None:
    """Let Python's last flush succeed."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def exit_code_of(error: OrbitError) -> int:
    """The documented exit code of an error."""
    return next((code for kind, code in EXIT_CODES if isinstance(error, kind)), FAILED)


def complain(sentence: str) -> None:
    """One line on standard error; control characters, which may come from elsewhere, are made visible."""
    from orbit_zmq.cli.output import printable

    click.echo(f"orbit: {printable(sentence)}", err=True)


def failed(error: OrbitError, words: list[str]) -> int:
    """Say what went wrong, as JSON where that is asked for; the exit code."""
    code = exit_code_of(error)
    if _wants_json(words):
        _complain_in_json(error, code, _wants_traceback(words))
    else:
        complain(f"{error.remote_type.removeprefix('builtins.')}: {error}" if isinstance(error, RemoteError) else str(error))
    if error.remote_traceback and not _wants_json(words) and _wants_traceback(words):
        from orbit_zmq.cli.output import printable

        click.echo("\n".join(map(printable, error.remote_traceback.splitlines())), err=True)
    return code


def _complain_in_json(error: OrbitError, exit_code: int, with_traceback: bool = False) -> None:
    from orbit_zmq.cli.output import VERSION, echo_json

    facts = {"code": error.code, "message": error.message, "hint": error.hint, "transient": error.transient}
    if error.remote_type:
        facts["remote_type"] = error.remote_type
    if error.remote_traceback and with_traceback:
        facts["remote_traceback"] = error.remote_traceback
    envelope = {"schema": "orbit.error", "version": VERSION, "error": facts | {"exit_code": exit_code}}
    echo_json(envelope, err=True)


def _wants_json(words: list[str]) -> bool:
    """Asked before anything is parsed, as the error may be that it could not be."""
    from orbit_zmq.settings import environment

    own = words[: words.index("--")] if "--" in words else words  # what follows is another program's
    return bool({"--json", "--jsonl"} & set(own)) or environment("ORBIT_OUTPUT") in ("json", "jsonl")


def _wants_traceback(words: list[str]) -> bool:
    return "--traceback" in words or _is_debugging()


def _installed_command(noun: str) -> object:
    from importlib.metadata import entry_points  # a scan of all installed packages: 90 ms

    for point in entry_points(group=GROUP, name=noun):
        try:
            return point.load()
        except ImportError as error:
            raise OrbitError(f"The command {noun} of {point.value} does not import: {error}.", hint="") from error
    return None


def _is_debugging() -> bool:
    from orbit_zmq.settings import environment

    return (environment("ORBIT_LOG_LEVEL") or "").lower() == "debug"


def _log_traceback() -> None:
    if _is_debugging():
        import traceback

        traceback.print_exc()
