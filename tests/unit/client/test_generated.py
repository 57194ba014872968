"""Methods and pages that are made of what a peer says."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orbit_testplugin import TestPlugin
from orbit_zmq.client.facts import OperationFacts, operations_of
from orbit_zmq.client.generated import annotation_of, method_of, signature_of
from orbit_zmq.client.page import facts_table, rows_table
from orbit_zmq.client.routes import find_route
from orbit_zmq.errors import InvalidArgument, NotFound
from orbit_zmq.plugin import Host
from orbit_zmq.plugin.catalogue import catalogue_of
from orbit_zmq.wire.body import unpack_body

FACTS = operations_of(unpack_body(catalogue_of([TestPlugin(Host())])[0]))["test"]


def called(name: str, *positional: Any, **named: Any) -> tuple[str, dict[str, Any]]:
    seen: list[tuple[str, dict[str, Any]]] = []
    method = method_of(lambda name, **given: seen.append((name, given)), lambda name, **given: None, name, FACTS[name])
    method(*positional, **named)
    return seen[0]


def test_a_method_has_the_signature_and_the_docstring_of_its_operation():
    method = method_of(lambda *_: None, lambda *_: None, "produce", FACTS["produce"])

    assert str(inspect.signature(method)) == (
        "(total_bytes: int, chunk_bytes: int = 65536, pause_s: float = 0.0, *, deadline_s: float | None = None)"
        " -> collections.abc.AsyncIterator[bytes]"
    )
    assert method.__name__ == "produce" and method.__doc__ == "A stream of that many bytes."


def test_arguments_may_be_given_by_position_and_defaults_are_the_endpoints():
    assert called("produce", 10, chunk_bytes=5, deadline_s=3) == (
        "produce",
        {"total_bytes": 10, "chunk_bytes": 5, "deadline_s": 3},
    )
    assert called("whoami") == ("whoami", {})


def test_an_argument_that_does_not_fit_is_refused_here_with_the_signature():
    with pytest.raises(InvalidArgument, match="echo: missing a required argument: 'text'") as caught:
        called("echo")
    assert "echo(text: str" in caught.value.hint
    with pytest.raises(InvalidArgument, match="unexpected keyword argument 'txt'"):
        called("echo", "x", txt="x")


def test_a_stream_and_raw_bytes_are_parameters_too():
    count = signature_of(FACTS["count"])
    assert count.parameters["data"].annotation == AsyncIterator[bytes]
    assert str(signature_of(FACTS["echo_raw"]).parameters["body"]) == "body: bytes"


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a b": {}, "class": {}, "x": 7}, "required": 3},
        {"properties": [1], "additionalProperties": True},
        {"properties": {"deadline_s": {"type": ["string"]}, "arguments": {}}},
    ],
)
def test_a_catalogue_of_nonsense_still_makes_a_method(parameters):
    facts = OperationFacts(parameters=parameters, returns={"anyOf": 3, "type": {}}, stream_in="no name")

    assert isinstance(signature_of(facts), inspect.Signature)


def test_schemas_become_types_that_help_a_reader():
    assert annotation_of({"anyOf": [{"type": "string"}, {"type": "null"}]}) == str | None
    assert annotation_of({"type": "string", "format": "binary"}) is bytes
    assert annotation_of({}) is Any


def test_a_route_leads_to_its_operation():
    assert find_route(FACTS, "GET", "/echo/session.1") == ("echo", {"sid": "session.1"})
    assert find_route(FACTS, "POST", "register_session") == ("register_session", {})
    with pytest.raises(NotFound, match="no route GET nowhere"):
        find_route(FACTS, "GET", "nowhere")


def test_what_peers_say_is_escaped_in_a_notebook():
    evil = "<script>alert(1)</script>"

    for page in (facts_table(evil, {evil: evil}), rows_table(evil, [evil], [[evil]])):
        assert "<script" not in page and "&lt;script&gt;" in page
