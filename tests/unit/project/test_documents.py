"""The documents say what is there: every error, every variable, every command, and no file beside the agreed ones."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click
import pytest

from orbit_zmq.cli.main import EXIT_CODES, NOUNS, cli
from orbit_zmq.errors import ERRORS, OrbitError
from orbit_zmq.models import BrokerStatus
from orbit_zmq.settings import VARIABLES

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"
TOP_LEVEL = {
    "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CONTRIBUTING.md",
    "orbit_zmq", "brokers", "plugins", "tests", "scripts", "docs", ".ci", ".gitignore",
}  # fmt: skip


def error_row(kind: type[OrbitError]) -> str:
    transient = "yes" if kind.transient else "no"
    return f"| `{kind.code}` | {kind.sentence} | {kind.default_hint} | {transient} | {kind.http_status} | `{kind.__name__}` |"


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_every_error_has_its_row(code: str) -> None:
    assert error_row(ERRORS[code]) in (DOCS / "errors.md").read_text().splitlines()


def test_the_error_table_has_no_row_that_is_no_error() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \|", (DOCS / "errors.md").read_text(), re.MULTILINE)

    assert sorted(rows) == sorted(ERRORS)


def test_the_exit_codes_are_documented() -> None:
    text = (DOCS / "errors.md").read_text()

    for kind, code in EXIT_CODES:
        assert re.search(rf"^\| {code} \|.*`{kind.code}`", text, re.MULTILINE), kind.code


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_every_variable_is_documented(variable: str) -> None:
    assert f"| `{variable}` | {VARIABLES[variable]} |" in (DOCS / "operating.md").read_text()


def commands() -> list[str]:
    context = click.Context(cli)
    found = []
    for noun in NOUNS:
        command = cli.get_command(context, noun)
        verbs = sorted(command.commands) if isinstance(command, click.Group) else [""]
        found += [f"orbit {noun} {verb}".strip() for verb in verbs]
    return found


@pytest.mark.parametrize("command", commands())
def test_every_command_is_documented(command: str) -> None:
    assert f"`{command}" in (DOCS / "operating.md").read_text()


@pytest.mark.parametrize("path", [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), target


def test_every_promise_is_shown_by_something_that_exists() -> None:
    promises = [line for line in (DOCS / "guarantees.md").read_text().splitlines() if line.startswith("| ")]
    for line in promises:
        named = re.findall(r"`((?:tests|scripts)/[\w/.]+)", line)
        assert named or line.split("|")[1].strip() in ("promise", "point", "what") or line.startswith("| `"), line
        for path in named:
            assert (ROOT / path).is_file(), path


def test_nothing_else_lies_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0 or not listed.stdout:
        pytest.skip("no git checkout")

    assert {line.partition("/")[0] for line in listed.stdout.splitlines()} <= TOP_LEVEL


@pytest.mark.parametrize("field", sorted(BrokerStatus.model_fields))
def test_every_field_of_the_status_is_documented(field: str) -> None:
    assert f"`{field}`" in (DOCS / "operating.md").read_text()
