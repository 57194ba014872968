"""Names that may be shortened, and KEY=VALUE by the schema of an operation."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.cli.arguments import kinds_of, pairs_of, read_arguments, signature_text
from orbit_zmq.cli.parameters import one_of, several_of
from orbit_zmq.client.facts import OperationFacts
from orbit_zmq.errors import InvalidArgument, NotFound, TooLarge

NAMES = ["hpc1", "hpc2", "laptop", "lap"]


def test_a_name_is_found_by_its_beginning_where_only_one_has_it() -> None:
    assert one_of("endpoint", "lapt", NAMES) == "laptop"
    assert one_of("endpoint", "lap", NAMES) == "lap"
    assert one_of("session", "lap", ["lap.1"]) == "lap.1"
    for what in ("endpoint", "worker"):  # of another than was meant nothing is asked
        with pytest.raises(NotFound):
            one_of(what, "hpc1", ["hpc1.3f9a2c"])
        assert one_of(what, "hpc1.", ["hpc1.3f9a2c"]) == "hpc1.3f9a2c"
    with pytest.raises(InvalidArgument, match="Several endpoints begin with 'hp': hpc1, hpc2"):
        one_of("endpoint", "hp", NAMES)
    with pytest.raises(NotFound, match="Did you mean laptop"):
        one_of("endpoint", "labtop", NAMES)
    with pytest.raises(NotFound, match=r"There is no endpoint 'x'\. \(There are no endpoints\.\)"):
        one_of("endpoint", "x", [])


def test_several_are_meant_by_all_by_patterns_and_by_commas() -> None:
    assert several_of("endpoint", ["all"], NAMES) == NAMES
    assert several_of("endpoint", ["hpc*"], NAMES) == ["hpc1", "hpc2"]
    assert several_of("endpoint", ["lapt,hpc1"], NAMES) == ["hpc1", "laptop"]
    assert several_of("endpoint", ["x*"], NAMES) == []
    with pytest.raises(NotFound):
        several_of("endpoint", ["hpc1", "x"], NAMES)


SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["text"],
    "$defs": {"Point": {"type": "object"}},
    "properties": {
        "text": {"type": "string"}, "name": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "count": {"type": "integer"},
        "ratio": {"type": "number"}, "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "on": {"type": "boolean"},
        "files": {"type": "array", "items": {"type": "string"}}, "point": {"$ref": "#/$defs/Point"}, "any": {},
        "data": {"type": "string", "format": "binary"}, "deadline_s": {"type": "number"},
    },
}  # fmt: skip
FACTS = OperationFacts(parameters=SCHEMA)


def read(*words: str, facts: OperationFacts = FACTS) -> dict[str, Any]:
    return read_arguments("submit", {"text": "x"} | pairs_of(words), facts)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("text=3", "3"), ("text=true", "true"), ('text={"a": 1}', '{"a": 1}'), ("text=", ""), ("text=a=b", "a=b"),
        ("name=null", "null"),
        ("count=3", 3), ("ratio=3", 3), ("ratio=0.5", 0.5), ("either=3", 3), ("either=3x", "3x"),
        ("on=yes", True), ("on=false", False),
        ('files=["a", "b"]', ["a", "b"]), ('point={"x": 1}', {"x": 1}), ("any=3", 3), ("any=hello", "hello"),
        ("any=null", None),
        ("any=@@here", "@here"), ("text=@@here", "@here"), ("data=abc", b"abc"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_the_schema_has_it(word: str, value: Any) -> None:
    name = word.partition("=")[0]

    assert read(word)[name] == value
    assert type(read(word)[name]) is type(value)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("count=x", "an integer"), ("count=0.5", "an integer"), ("count=true", "an integer"), ("ratio=x", "a number"),
     ("on=maybe", "true or false"), ("files=a", "a list"), ("point=[1]", "an object")],
)  # fmt: skip
def test_an_error_names_the_field_and_what_it_has_to_be(word: str, expected: str) -> None:
    with pytest.raises(InvalidArgument, match=rf"submit: {word.partition('=')[0]} has to be {expected}"):
        read(word)


def test_what_is_missing_or_unknown_is_named_with_the_signature() -> None:
    with pytest.raises(InvalidArgument, match=r"'text' is missing.*submit\(text: str"):
        read_arguments("submit", {}, FACTS)
    with pytest.raises(InvalidArgument, match="unknown argument 'txt'"):
        read("txt=1")
    assert read("txt=1", facts=OperationFacts())["txt"] == 1
    with pytest.raises(click.UsageError, match="KEY=VALUE"):
        pairs_of(["novalue"])


def test_a_file_or_standard_input_can_be_the_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "values").write_text('["a"]')

    assert read(f"files=@{tmp_path}/values")["files"] == ["a"]
    assert read(f"text=@{tmp_path}/values")["text"] == '["a"]'
    assert read(f"data=@{tmp_path}/values")["data"] == b'["a"]'
    streamed = read_arguments("copy", {"body": f"@{tmp_path}/values"}, OperationFacts(stream_in="body"))
    assert b"".join(streamed["body"]) == b'["a"]'
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from afar")))
    assert read("text=@-")["text"] == "from afar"
    with pytest.raises(InvalidArgument, match="absent"):
        read("data=@absent")
    (tmp_path / "values").write_bytes(b"\xff")
    with pytest.raises(InvalidArgument, match="no text"):
        read(f"text=@{tmp_path}/values")


def test_the_deadline_of_every_call_is_no_argument_of_the_operation() -> None:
    assert signature_text("ping", OperationFacts(parameters={"properties": {}, "additionalProperties": False})).startswith(
        "ping()"
    )
    assert "deadline_s: float" in signature_text("submit", FACTS)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["string", "#/$defs/a", "object", "a"]),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.sampled_from(["type", "anyOf", "oneOf", "$ref", "format", "properties", "required", "$defs", "a", "text"]), inner
    ),
    max_leaves=20,
)  # fmt: skip


@given(ANYTHING)
def test_a_schema_may_be_anything(schema: Any) -> None:
    facts = OperationFacts(parameters=schema if isinstance(schema, dict) else {"properties": {"text": schema}})
    kinds_of(facts.parameters, {"a": {"$ref": "#/$defs/a"}})
    with suppress(InvalidArgument):
        read_arguments("submit", {"text": "x", "a": "1"}, facts)


def test_only_files_that_a_call_can_carry_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in ("/dev/zero", str(tmp_path / "pipe"), str(tmp_path), "~no-such-user/x", "/proc/self/mem"):
        with pytest.raises(InvalidArgument, match=r"is no file|cannot be read"):
            read(f"data=@{path}")
    with (tmp_path / "large").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(TooLarge, match="64 MiB"):
        read(f"data=@{tmp_path}/large")
    streamed = read_arguments("copy", {"body": f"@{tmp_path}/large"}, OperationFacts(stream_in="body"))
    assert len(next(streamed["body"])) == 1 << 20


def test_a_name_comes_once_and_has_no_dots() -> None:
    with pytest.raises(click.UsageError, match="'a' is given more than once"):
        pairs_of(["a=1", "a=2"])
    with pytest.raises(click.UsageError, match=r"""recipe='\{"name": "pie"\}'"""):
        pairs_of(["recipe.name=pie"])
