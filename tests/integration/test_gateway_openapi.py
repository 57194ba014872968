"""The description of the API, held against the API: what is described is so, and what is answered is described."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from gateway_site import Site, gateway_site
from hypothesis import HealthCheck, given, settings

ENDLESS = ("/events",)
PLUGINS = ("math", "rhapsody", "sysinfo")
EXAMPLES = 12  # of each operation and mode


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with gateway_site(plugins=",".join(PLUGINS)) as made:
        yield made


@pytest.fixture(scope="module")
def described(site: Site) -> dict[str, Any]:
    answer = site.http.get("/openapi.json")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def end_waiting(case: Any) -> None:
    """Long polls answer at once; a wait that is no number stays."""
    waits = [parameter["name"] for parameter in case.operation.definition.raw.get("parameters", [])]
    if "wait_s" in waits and isinstance(case.query, dict):
        with suppress(TypeError, ValueError):
            float(case.query.get("wait_s", 0))
            case.query["wait_s"] = 0


def test_every_operation_of_every_plugin_is_described(site: Site, described: dict[str, Any]) -> None:
    client = site.lab.client()
    facts = client.resolve("hpc1")
    for plugin, operations in client.operations(facts).items():
        for name, operation in operations.items():
            entry = described["paths"][f"/hpc1/{plugin}/{operation.path}"][operation.method.lower()]
            assert entry["x-effect"] == operation.effect
            assert name in entry["operationId"]


def test_every_reference_leads_somewhere_and_every_id_is_its_own(described: dict[str, Any]) -> None:
    for reference in references(described):
        found: Any = described
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
    ids = [one["operationId"] for methods in described["paths"].values() for one in methods.values()]
    assert len(ids) == len(set(ids))
    assert described["openapi"].startswith("3.1")


def test_a_plugin_has_a_description_of_its_own(site: Site, described: dict[str, Any]) -> None:
    alone = site.http.get("/hpc1/math/openapi.json").json()

    assert alone["paths"] == {path: one for path, one in described["paths"].items() if path.startswith("/hpc1/math/")}
    assert site.http.get("/hpc1/nothing/openapi.json").status_code == 404
    assert site.http.get("/hpc9/math/openapi.json").status_code == 404


def test_the_page_of_the_api_needs_nothing_from_elsewhere(site: Site) -> None:
    pages = {path: site.asking().get(path) for path in ("/docs", "/docs.js", "/page.css", "/", "/status.js")}

    for path, answer in pages.items():
        assert answer.status_code == 200, path
        assert "http://" not in answer.text and "https://" not in answer.text, path
        assert "<script>" not in answer.text and " style=" not in answer.text and "innerHTML" not in answer.text, path


@pytest.mark.skipif(importlib.util.find_spec("schemathesis") is None, reason="schemathesis is not installed")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_no_read_and_no_write_of_math_answers_what_is_not_described(site: Site, described: dict[str, Any], mode: str) -> None:
    import schemathesis
    from schemathesis.specs.openapi import checks

    wanted = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    headers = {"Authorization": f"Bearer {site.token}"}
    tried = 0
    for found in schemathesis.openapi.from_dict(described).get_all_operations():
        operation: Any = found.ok()  # type: ignore[union-attr]
        is_wanted = operation.method.upper() == "GET" or operation.path.startswith("/hpc1/math/")
        if not is_wanted or operation.path in ENDLESS or operation.path.startswith("/hpc1/test/"):
            continue
        if mode == "negative" and not (operation.query or operation.body or operation.path_parameters):
            continue
        tried += 1

        @settings(
            max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
        )
        @given(case=operation.as_strategy(schemathesis.GenerationMode(mode)))
        def conforms(case: Any) -> None:
            end_waiting(case)
            case.call_and_validate(site.url, checks=wanted, headers=headers, timeout=100)

        conforms()
    assert tried > 20
    assert site.works()
