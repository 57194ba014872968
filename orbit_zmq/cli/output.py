"""How commands show what they have found: one set of options, one envelope, one way to escape what comes from elsewhere.

A command makes plain items (dicts with the unit in the name of a key) and names its columns; whether that becomes a table, TSV,
JSON or ids is decided here. On a terminal it is a table, otherwise TSV with the keys as its header; `--json`, `--jsonl`, `-q`
and ORBIT_OUTPUT choose another. JSON is `{"schema", "version", "items": [...]}` for lists and `{"schema", "version", "item"}`
for one thing; a line of `--jsonl` is the latter. Nothing here talks to a broker.
"""

from __future__ import annotations

import base64
import codecs
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from orbit_zmq.units import duration_text, size_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Command = TypeVar("Command", bound=Callable[..., Any])
Item = Mapping[str, Any]

VERSION = 1
PIPED_WIDTH = 10_000  # a table that nobody looks at is not folded
KEPT = ("state", "status")  # columns that stay whole on a narrow screen, like the first
STYLES = {
    "present": "green", "ready": "green", "ok": "green", "busy": "yellow", "suspect": "yellow", "initializing": "yellow",
    "degraded": "yellow", "lost": "red", "failed": "red", "absent": "dim",
}  # fmt: skip


class Mode(StrEnum):
    """The values of ORBIT_OUTPUT."""

    TABLE = "table"
    TSV = "tsv"
    JSON = "json"
    JSONL = "jsonl"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its title for people, the key of the item (`a.b` is b of a), and how people see it if not as `shown`.

    `width` is for streams, whose lines are written before the next is known. On a terminal that is too narrow for all columns
    the one of the highest `rank` is left out first; one of rank 0 stays, cut short if need be.
    """

    title: str
    key: str
    show: Callable[[Any], str] | None = None
    width: int = 0
    rank: int = 0

    def value(self, item: Item) -> Any:
        """What the item has there, or None."""
        found: Any = item
        for part in self.key.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found

    def text(self, item: Item) -> str:
        """For people, escaped."""
        value = self.value(item)
        return printable(self.show(value) if self.show is not None else shown(self.key, value))


@dataclass(frozen=True, slots=True)
class Section:
    """A titled table below the facts of one thing."""

    title: str
    columns: Sequence[Column]
    items: Sequence[Item]


@dataclass(frozen=True, slots=True)
class Output:
    """Where the results of one command go: standard output, in the mode that was chosen."""

    mode: Mode

    @classmethod
    def choose(cls, as_json: bool, as_jsonl: bool, quiet: bool) -> Output:
        """The option, else ORBIT_OUTPUT, else a table on a terminal and TSV in a pipe."""
        wanted = [m for m, on in ((Mode.JSON, as_json), (Mode.JSONL, as_jsonl), (Mode.QUIET, quiet)) if on]
        if len(wanted) > 1:
            raise click.UsageError("Choose one of --json, --jsonl and -q.")
        return cls(wanted[0] if wanted else default_mode())

    @property
    def is_table(self) -> bool:
        """A person looks at it."""
        return self.mode is Mode.TABLE

    @property
    def is_json(self) -> bool:
        """--json or --jsonl."""
        return self.mode in (Mode.JSON, Mode.JSONL)

    def items(
        self,
        schema: str,
        items: Iterable[Item],
        columns: Sequence[Column],
        *,
        id_key: str,
        nothing: str = "",
        version: int = VERSION,
    ) -> None:
        """Show a list. `id_key` is what -q prints; `nothing` is said on standard error where a person would see no row."""
        found = list(items)
        if self.mode is Mode.JSON:
            echo_json({"schema": schema, "version": version, "items": found})
        elif self.mode is Mode.JSONL:
            for item in found:
                echo_json({"schema": schema, "version": version, "item": item})
        elif self.mode is Mode.QUIET:
            for item in found:
                click.echo(escaped(item[id_key]))
        elif self.mode is Mode.TSV:
            _echo_tsv(columns, found)
        elif found or not nothing:
            _echo_table(columns, found)
        else:
            click.echo(nothing, err=True)

    def item(
        self,
        schema: str,
        item: Item,
        *,
        id_key: str,
        sections: Sequence[Section] = (),
        leave_out: Sequence[str] = (),
        version: int = VERSION,
    ) -> None:
        """Show one thing: its facts one below the other, then its sections; JSON is `item` as it is.

        `leave_out` names keys that a section shows.
        """
        if self.is_json:
            echo_json({"schema": schema, "version": version, "item": item})
            return
        if self.mode is Mode.QUIET:
            click.echo(escaped(item[id_key]))
            return
        facts = [(key, value) for key, value in flat(item) if key.partition(".")[0] not in leave_out]
        if self.mode is Mode.TSV:
            _echo_tsv((Column("", "field"), Column("", "value")), [{"field": key, "value": value} for key, value in facts])
        else:
            rows = [{"field": key, "value": shown(key, value)} for key, value in facts]
            _echo_table((Column("", "field"), Column("", "value")), rows, has_head=False)
        for section in sections:
            click.echo()
            self._section(section)

    def text(self, title: str, lines: Iterable[str]) -> None:
        """A titled text below the facts of one thing, for people."""
        click.echo()
        _echo_title(title)
        for line in lines:
            click.echo(readable(line))

    def _section(self, section: Section) -> None:
        if self.mode is Mode.TSV:
            _echo_tsv(section.columns, section.items)
            return
        _echo_title(section.title)
        _echo_table(section.columns, section.items)

    def stream(self, schema: str, columns: Sequence[Column], *, id_key: str, version: int = VERSION) -> Callable[[Item], None]:
        """What writes one item at once, for commands that have no last one; --json is --jsonl there."""
        if self.mode is Mode.TSV:
            _echo_tsv(columns, ())
        elif self.is_table:
            _echo_title("  ".join(c.title.ljust(c.width) for c in columns).rstrip())

        def write(item: Item) -> None:
            if self.is_json:
                echo_json({"schema": schema, "version": version, "item": item})
            elif self.mode is Mode.QUIET:
                if name := escaped(item.get(id_key)):  # what has none is about the whole
                    click.echo(name)
            elif self.mode is Mode.TSV:
                click.echo("\t".join(escaped(column.value(item)) for column in columns))
            else:
                click.echo("  ".join(column.text(item).ljust(column.width) for column in columns).rstrip())

        return write


class ByteStream:
    """Writes bytes as they are; to a terminal, which would obey them, as text that does nothing."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if file.isatty() else None

    def write(self, data: bytes) -> None:
        """The next bytes, at once; a character may be cut in two between them."""
        if self._decoder is not None:
            self._file.write(readable(self._decoder.decode(data)))
            self._file.flush()
        else:
            self._file.buffer.write(data)
            self._file.buffer.flush()

    def end(self) -> None:
        """There is no more: half a character is shown as what it is."""
        if self._decoder is not None:
            self._file.write(self._decoder.decode(b"", final=True))
            self._file.flush()


def output_options(command: Command) -> Command:
    """--json, --jsonl and -q; the command gets an Output as `output`. Every command that lists or shows has them."""
    return _with_output(command, "One JSON value.")


def stream_options(command: Command) -> Command:
    """The same for a command that follows something, and has no last item."""
    return _with_output(command, "One JSON value a line, as --jsonl.")


def _with_output(command: Command, json_help: str) -> Command:
    @wraps(command)
    def with_output(*args: Any, as_json: bool, as_jsonl: bool, quiet: bool, **values: Any) -> Any:
        return command(*args, output=Output.choose(as_json, as_jsonl, quiet), **values)

    made: Any = with_output
    for option in (
        click.option("-q", "--quiet", is_flag=True, help="Names or ids only, one a line."),
        click.option("--jsonl", "as_jsonl", is_flag=True, help="JSON, one item a line."),
        click.option("--json", "as_json", is_flag=True, help=json_help),
    ):
        made = option(made)
    return made  # type: ignore[no-any-return]


def default_mode() -> Mode:
    """ORBIT_OUTPUT, else by whether standard output is a terminal; a usage error for another word.

    What is wrong with the config file is said by who needs more of it, and does not keep `orbit config` from mending it.
    """
    from orbit_zmq.errors import InvalidArgument
    from orbit_zmq.settings import setting

    named = None
    with suppress(InvalidArgument):
        named = setting("output")
    if named is None:
        return Mode.TABLE if sys.stdout.isatty() else Mode.TSV
    try:
        return Mode(named)
    except ValueError:
        raise click.UsageError(f"The output {named!r} of ORBIT_OUTPUT is not one of {', '.join(Mode)}.") from None


def shown(key: str, value: Any) -> str:
    """A value for people. The unit in the key decides: `_s`, like a time limit, is a duration, `bytes` a size."""
    if value is None or value == [] or value == {}:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        if key.endswith(("_s", "time_limit")) and not key.endswith("_per_s"):
            return duration_text(value)
        if key.endswith("bytes"):
            return size_text(value)
        return f"{value:.4g}" if isinstance(value, float) else str(value)
    if isinstance(value, Mapping) and all(isinstance(inner, (str, int, float)) for inner in value.values()):
        return " ".join(f"{name}={shown(str(name), inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)) and all(isinstance(inner, (str, int, float)) for inner in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)


def flat(item: Item, before: str = "") -> list[tuple[str, Any]]:
    """The facts of an item with those inside it, whose keys are joined by dots."""
    found: list[tuple[str, Any]] = []
    for key, value in item.items():
        if isinstance(value, Mapping) and value:
            found += flat(value, f"{before}{key}.")
        else:
            found.append((f"{before}{key}", value))
    return found


def printable(text: str) -> str:
    """Text from elsewhere with its control characters, and all that does not show, made visible."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def readable(text: str) -> str:
    """The same for text of several lines, whose tabs and ends of lines stay."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def escaped(value: Any) -> str:
    r"""A cell of TSV: a value as text, lists of texts with commas; control characters and backslashes escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)) and all(isinstance(inner, str) for inner in value):
        return ",".join(map(escaped, value))
    return printable(value.replace("\\", "\\\\")) if isinstance(value, str) else json_text(value)


def echo_json(value: Any, *, indent: int | None = None, err: bool = False) -> None:
    """One JSON value, at once. What does not show is escaped; bytes are base64; what JSON has no word for is text."""
    click.echo(json_text(value, indent=indent), err=err)  # which flushes


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The same as text."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escape(c) for c in text)


def plain(value: Any) -> Any:
    """A value made of what JSON has."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key if isinstance(key, str) else str(plain(key)): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner) for inner in value]
    return base64.b64encode(value).decode() if isinstance(value, (bytes, bytearray, memoryview)) else str(value)


def _json_escape(character: str) -> str:
    return f"\\u{ord(character):04x}" if ord(character) < 0x80 else json.dumps(character)[1:-1]


def _echo_tsv(columns: Sequence[Column], items: Iterable[Item]) -> None:
    click.echo("\t".join(column.key for column in columns))
    for item in items:
        click.echo("\t".join(escaped(column.value(item)) for column in columns))


def _echo_title(title: str) -> None:
    from rich.text import Text

    _console().print(Text(title, style="bold"))


def _echo_table(columns: Sequence[Column], items: Iterable[Item], *, has_head: bool = True) -> None:
    from rich.table import Table

    items, console = list(items), _console()
    columns = _that_fit(columns, items, console.width) if has_head else columns
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=has_head, header_style="bold")
    for column in columns:
        is_kept = has_head and (column is columns[0] or column.key in KEPT)
        table.add_column(column.title, overflow="ellipsis" if has_head else "fold", no_wrap=is_kept)
    for item in items:
        table.add_row(*(_cell(column, item) for column in columns))
    console.print(table)


def _that_fit(columns: Sequence[Column], items: Sequence[Item], width: int) -> list[Column]:
    """Those that a table of that width has room for."""
    kept = list(columns)
    widths = {column.key: max(map(len, (column.title, *map(column.text, items)))) + 2 for column in columns}
    while sum(widths[column.key] for column in kept) - 2 > width and (least := max(kept, key=lambda one: one.rank)).rank:
        kept.remove(least)
    return kept


def _console() -> Console:
    """What knows the terminal: its width, whether it has colours, and whether they are wanted."""
    from rich.console import Console  # only for people

    width = None if sys.stdout.isatty() else PIPED_WIDTH
    return Console(width=width, highlight=False, markup=False, emoji=False)


def _cell(column: Column, item: Item) -> Text:
    from rich.text import Text

    text = column.text(item)
    return Text(text, style=STYLES.get(text, "") if column.key in ("state", "status") else "")
