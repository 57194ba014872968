"""Writes docs/cli-reference.md from the commands themselves; with `--check`, only says whether it is up to date."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from orbit_zmq.cli.main import NOUNS, cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli-reference.md"
HEADER = """# Reference of the command `orbit`

Made by `scripts/cli-reference` from the commands: change those, not this page. Examples are in [cli.md](cli.md), exit codes in
[errors.md](errors.md). `-h` and `--help` work everywhere.
"""


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its whole name, in the order of the names."""
    root = click.Context(cli)
    for noun in sorted(NOUNS):
        command = cli.get_command(root, noun)
        if isinstance(command, click.Group):
            yield from ((f"orbit {noun} {verb}", member) for verb, member in sorted(command.commands.items()))
        elif command is not None:
            yield f"orbit {noun}", command


def page() -> str:
    """The whole page."""
    return HEADER + "".join(map("".join, (_section(name, command) for name, command in commands())))


def _section(name: str, command: click.Command) -> Iterator[str]:
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    usage = [name, "[OPTIONS]" if options else "", *map(_argument, arguments)]
    yield f"\n## {name}\n\n```\n{' '.join(filter(None, usage))}\n```\n\n{inspect.cleandoc(command.help or '')}\n"
    if options:
        yield "\n| option | meaning |\n|---|---|\n"
        yield from (f"| {_names(option)} | {_meaning(option)} |\n" for option in options)


def _argument(argument: click.Argument) -> str:
    if isinstance(argument.type, click.Choice) and argument.metavar is None:
        shown = "|".join(map(str, argument.type.choices))
        return f"{{{shown}}}" if argument.required else f"[{shown}]"
    shown = argument.metavar or (argument.name or "").upper()
    return shown if argument.required or shown.startswith("[") else f"[{shown}]"


def _names(option: click.Option) -> str:
    metavar = "" if option.is_flag else f" {_metavar(option)}"
    return ", ".join(f"`{name}{metavar}`" for name in (*option.opts, *option.secondary_opts))


def _metavar(option: click.Option) -> str:
    if option.metavar is not None:
        return option.metavar
    if isinstance(option.type, click.Choice):
        return "\\|".join(map(str, option.type.choices))
    return option.type.name.partition(" ")[0].upper()


def _meaning(option: click.Option) -> str:
    default = f" Default: `{option.default}`." if option.show_default else ""
    return f"{option.help or ''}{default}".replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write the page, or compare it."""
    text = page()
    if "--check" in arguments:
        if PAGE.exists() and PAGE.read_text() == text:
            return 0
        print(f"{PAGE} is not what the commands say: run scripts/cli-reference", file=sys.stderr)
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
