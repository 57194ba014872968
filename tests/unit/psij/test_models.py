"""What a job may say, and what is refused before anything is done."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orbit_psij.models import JobSpec
from orbit_zmq.errors import InvalidArgument

DATE: dict[str, Any] = {"executable": "/bin/date"}


def refused(**more: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        JobSpec.of(DATE | more)
    return caught.value


@pytest.mark.parametrize(
    ("given_duration", "seconds"),
    [
        (600, 600),
        (90.2, 91),
        ("600", 600),
        ("1h30m", 5_400),
        ("26:00:00", 93_600),
        ("1-02:00:30", 93_630),
        ("2-3", 183_600),
        ("00:10:00", 600),
        (None, None),
    ],
)
def test_a_duration_is_seconds_or_what_people_and_schedulers_write(given_duration: Any, seconds: int | None) -> None:
    assert JobSpec.of(DATE | {"attributes": {"duration": given_duration}}).attributes.duration == seconds


@pytest.mark.parametrize("duration", ["10:00", "soon", 0, -1, "0", float("nan"), float("inf"), True, [], "1e400"])
def test_a_duration_that_is_none_or_may_be_two_is_refused(duration: Any) -> None:
    assert "attributes.duration" in refused(attributes={"duration": duration}).message


@pytest.mark.parametrize(
    ("wrong", "where", "meant"),
    [
        ({"argument": []}, "job_spec", "'arguments'"),
        ({"attributes": {"queue": "debug"}}, "attributes", "'queue_name'"),
        ({"resources": {"nodes_count": 2}}, "resources", "'node_count'"),
        ({"launcher": "srum"}, "job_spec", "'srun'"),
        ({"attributes": {"custom_attributes": {"slrm.qos": "x"}}}, "attributes", "'slurm'"),
    ],
)
def test_an_unknown_field_is_refused_with_the_nearest_known_one(wrong: dict[str, Any], where: str, meant: str) -> None:
    message = refused(**wrong).message
    assert message.startswith(where) and f"did you mean {meant}?" in message


def test_project_name_means_account_and_warns() -> None:
    spec = JobSpec.of(DATE | {"attributes": {"project_name": "physics"}})
    assert spec.account == "physics" and "project_name" in spec.warnings[0]
    assert JobSpec.of(DATE | {"attributes": {"account": "physics"}}).warnings == []
    assert "differ" in refused(attributes={"project_name": "physics", "account": "chemistry"}).message


def test_the_node_count_of_the_attributes_is_honoured_and_a_contradiction_is_refused() -> None:
    assert JobSpec.of(DATE | {"attributes": {"node_count": 3}}).settled_resources().node_count == 3
    both = JobSpec.of(DATE | {"attributes": {"node_count": 3}, "resources": {"node_count": 3}})
    assert both.settled_resources().node_count == 3
    assert "attributes.node_count is 3 and resources.node_count is 2" in (
        refused(attributes={"node_count": 3}, resources={"node_count": 2}).message
    )
    assert "process_count 4" in refused(attributes={"node_count": 3}, resources={"process_count": 4}).message


@pytest.mark.parametrize(
    "resources",
    [
        {"process_count": 5, "processes_per_node": 2},
        {"process_count": 5, "node_count": 2},
        {"process_count": 5, "node_count": 2, "processes_per_node": 2},
        {"node_count": 0},
        {"node_count": True},
        {"node_count": "2"},
        {"memory": "much"},
        {"memory": 0},
    ],
)
def test_resources_that_cannot_be_are_refused(resources: dict[str, Any]) -> None:
    assert refused(resources=resources).code == "invalid-argument"


def test_memory_may_be_written_as_people_do() -> None:
    assert JobSpec.of(DATE | {"resources": {"memory": "4GiB"}}).resources.memory == 4 << 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": 'x"\n#SBATCH --qos=high'},
        {"attributes": {"queue_name": "a b\nc"}},
        {"attributes": {"account": "$(id)"}},
        {"attributes": {"custom_attributes": {"slurm.qos": 'x" --y="z'}}},
        {"attributes": {"custom_attributes": {"slurm.qos\n": "x"}}},
        {"directory": "/tmp/`id`"},
        {"environment": {"A B": "1"}},
        {"environment": {"A": "nul\0"}},
        {"arguments": ["nul\0"]},
        {"executable": ""},
        {"executable": "x" * 5_000},
        {"arguments": ["x" * (128 << 10)]},
    ],
)
def test_what_would_be_another_line_or_command_in_the_script_is_refused(wrong: dict[str, Any]) -> None:
    assert refused(**wrong).code == "invalid-argument"


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*JobSpec.model_fields, "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
            max_leaves=5,
        ),
    )
)
def test_whatever_comes_is_a_job_or_is_refused(fields: dict[str, Any]) -> None:
    with suppress(InvalidArgument):
        JobSpec.of(fields)
