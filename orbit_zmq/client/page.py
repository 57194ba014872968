"""What notebooks show of our objects: small tables in HTML. Every text may be a peer's, so every text is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

TEXT_CHARS = 1_000  # of one cell: a notebook keeps what it has shown


def facts_table(title: str, facts: Mapping[str, object]) -> str:
    """A title and one row for each fact."""
    rows = "".join(
        f"<tr><th style='text-align:left'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in facts.items()
    )
    return f"<table><caption>{_text(title)}</caption>{rows}</table>"


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A title, a row of names, and the rows."""
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    body = "".join("<tr>" + "".join(f"<td>{_text(value)}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><caption>{_text(title)}</caption><tr>{head}</tr>{body}</table>"


def _text(value: object) -> str:
    text = str(value)
    return escape(text if len(text) <= TEXT_CHARS else f"{text[:TEXT_CHARS]} ...")
