"""What commands print: one envelope, one escape, and the unit in the key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.cli.output import Column, Mode, Output, Section, _that_fit, escaped, output_options, plain, printable, shown

COLUMNS = (Column("NAME", "name"), Column("QUIET FOR", "silent_for_s"), Column("TASKS", "load.tasks"))
ITEMS: list[dict[str, Any]] = [
    {"name": "hpc1", "silent_for_s": 90.0, "load": {"tasks": 3}},
    {"name": "tab\tnew\nline\x1b[31m", "silent_for_s": None, "load": {}},
]


@click.command()
@output_options
def listing(output: Output) -> None:
    output.items("orbit.test.list", ITEMS, COLUMNS, id_key="name", nothing="There is none.", version=3)


@click.command()
@output_options
def showing(output: Output) -> None:
    section = Section("PARTS", COLUMNS[:1], ITEMS[:1])
    output.item(
        "orbit.test.show",
        {"name": "hpc1", "size_bytes": 2048, "parts": ITEMS[:1]},
        id_key="name",
        sections=[section],
        leave_out=["parts"],
    )


@click.command()
@output_options
def streaming(output: Output) -> None:
    write = output.stream("orbit.test.stream", COLUMNS, id_key="name")
    for item in ITEMS:
        write(item)


Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Run:
    monkeypatch.setenv("ORBIT_CONFIG_DIR", str(tmp_path / "none"))

    def run(command: click.Command, *words: str, **environment: str) -> str:
        done = CliRunner().invoke(command, list(words), env=environment)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_in_a_pipe_it_is_tsv_whose_header_is_the_keys_and_every_line_one_item(run: Run) -> None:
    assert run(listing).splitlines() == [
        "name\tsilent_for_s\tload.tasks",
        "hpc1\t90.0\t3",
        "tab\\tnew\\nline\\x1b[31m\t\t",
    ]


def test_json_is_one_value_with_schema_and_version(run: Run) -> None:
    assert json.loads(run(listing, "--json")) == {"schema": "orbit.test.list", "version": 3, "items": ITEMS}
    assert json.loads(run(showing, "--json"))["item"]["size_bytes"] == 2048


def test_jsonl_is_an_item_a_line_with_schema_and_version(run: Run) -> None:
    lines = [json.loads(line) for line in run(listing, "--jsonl").splitlines()]

    assert lines == [{"schema": "orbit.test.list", "version": 3, "item": item} for item in ITEMS]
    assert [json.loads(line)["item"] for line in run(streaming, "--json").splitlines()] == ITEMS


def test_a_map_in_a_cell_is_json_as_it_stands() -> None:
    value = {"text": 'a\nb\\c "d"'}

    assert json.loads(escaped(value)) == value and "\n" not in escaped(value)


def test_on_a_narrow_screen_names_and_states_stay_whole_and_no_word_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orbit_zmq.cli.output.PIPED_WIDTH", 40)
    columns = (Column("JOB", "job"), Column("PLACE", "place"), Column("STATE", "state"), Column("MORE", "more"))
    item = {"job": "1234567", "place": "a" * 30, "state": "CANCELLED", "more": "b" * 30}
    lines = CliRunner().invoke(click.Command("x", callback=lambda: Output.choose(False, False, False).items(
        "x", [item], columns, id_key="job")), env={"ORBIT_OUTPUT": "table"}).stdout.splitlines()  # fmt: skip

    assert len(lines) == 2 and "1234567" in lines[1] and "CANCELLED" in lines[1] and "…" in lines[1]


def test_what_a_narrow_screen_has_no_room_for_goes_by_its_rank() -> None:
    columns = [Column("JOB", "job"), Column("CPUS", "cpus", rank=2), Column("USER", "user", rank=1), Column("STATE", "state")]
    items = [{"job": "12", "cpus": 4, "user": "johannes", "state": "RUNNING"}]

    kept = {width: [one.key for one in _that_fit(columns, items, width)] for width in (28, 27, 20, 5)}

    assert kept == {
        28: ["job", "cpus", "user", "state"],
        27: ["job", "user", "state"],
        20: ["job", "state"],
        5: ["job", "state"],
    }


def test_what_has_no_id_is_no_line_of_quiet_output(capsys: pytest.CaptureFixture[str]) -> None:
    write = Output(Mode.QUIET).stream("orbit.test.stream", COLUMNS, id_key="name")
    write({"name": ""})
    write({"name": "hpc1"})

    assert capsys.readouterr().out == "hpc1\n"


def test_quiet_is_ids_only(run: Run) -> None:
    assert run(listing, "-q").splitlines() == ["hpc1", "tab\\tnew\\nline\\x1b[31m"]
    assert run(showing, "--quiet") == "hpc1\n"


def test_a_table_shows_units_as_people_read_them(run: Run) -> None:
    table = run(listing, ORBIT_OUTPUT="table").splitlines()

    assert table[0].split() == ["NAME", "QUIET", "FOR", "TASKS"]
    assert table[1].split() == ["hpc1", "1m30s", "3"]
    shown_one = run(showing, ORBIT_OUTPUT="table")
    assert "2.0KiB" in shown_one and "PARTS" in shown_one
    assert run(streaming, ORBIT_OUTPUT="table").splitlines()[1].split() == ["hpc1", "1m30s", "3"]


def test_the_option_counts_before_the_variable_and_two_of_them_are_wrong_usage(run: Run) -> None:
    assert run(listing, "-q", ORBIT_OUTPUT="json").startswith("hpc1\n")
    assert CliRunner().invoke(listing, ["-q", "--json"]).exit_code == 2
    done = CliRunner().invoke(listing, [], env={"ORBIT_OUTPUT": "xml"})
    assert done.exit_code == 2 and "tsv" in done.output


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("age_s", 15.0, "15s"), ("memory_bytes", 1 << 20, "1.0MiB"), ("bytes", 10, "10B"), ("is_connected", True, "yes"),
        ("plugins", ["a", "b"], "a, b"), ("plugins", [], "-"), ("pid", 123456, "123456"), ("rate", 0.123456, "0.1235"),
        ("labels", {"gpu": "yes", "left_s": 60}, "gpu=yes left_s=1m"), ("name", None, "-"),
    ],
)  # fmt: skip
def test_the_unit_in_the_key_decides_how_a_value_is_shown(key: str, value: Any, text: str) -> None:
    assert shown(key, value) == text


@given(st.text())
def test_nothing_hidden_is_ever_printed(text: str) -> None:
    assert printable(text).isprintable()
    assert escaped(text).isprintable()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.binary(), inner),
    max_leaves=10,
)


@given(VALUES)
def test_whatever_a_peer_says_becomes_json_that_others_can_read(value: Any) -> None:
    json.dumps(plain(value), allow_nan=False)
