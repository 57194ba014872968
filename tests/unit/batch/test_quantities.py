"""Durations, sizes, GPUs and lists of hosts as schedulers write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.batch.quantities import bytes_of, clock_seconds_of, expand_hosts, gpus_of, limit_of, number_of, seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30:00", 1_800), ("2-00:00:00", 172_800), ("1-12", 129_600), ("5", 300), ("01:02:03", 3_723), ("0:00", 0),
        ("UNLIMITED", "unlimited"), ("INFINITE", "unlimited"), ("NOT_SET", None), ("", None), ("1:2:3:4", None),
    ],
)  # fmt: skip
def test_durations_of_slurm(text, seconds):
    assert seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("720:00:00", 2_592_000), ("00:10", 10), ("3600", 3_600), ("x", None), ("", None)]
)
def test_durations_of_pbs(text, seconds):
    assert clock_seconds_of(text) == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("1000M", 1_048_576_000), ("4G", 4 << 30), ("50mb", 50 << 20), ("1.5T", 3 << 39), ("0b", 0), ("x", None)]
)
def test_sizes(text, size):
    assert bytes_of(text) == size


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [
        ("gpu:a100:2", {"a100": 2}), ("gpu:8(S:0-7)", {"gpu": 8}), ("gpu", {"gpu": 1}), ("gpu:mi250", {"mi250": 1}),
        ("tmpsize:7T,gpu:l40s:4(S:0-1)", {"l40s": 4}), ("gpu:a100:2,gpu:h100:2", {"a100": 2, "h100": 2}), ("", {}),
        ("gres:gpu:a100:1", {"a100": 1}), ("gpu:0", {}),
    ],
)  # fmt: skip
def test_gpus_by_their_type(gres, gpus):
    assert gpus_of(gres) == gpus


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("n[1-3]", ["n1", "n2", "n3"]),
        ("n[1-2,007-009],x1", ["n1", "n2", "n007", "n008", "n009", "x1"]),
        ("nid[000009-000011]", ["nid000009", "nid000010", "nid000011"]),
        ("r[0-1]n[1-2]-ib", ["r0n1-ib", "r0n2-ib", "r1n1-ib", "r1n2-ib"]),
        ("z,a,m", ["z", "a", "m"]),
        ("", []),
    ],
)
def test_lists_of_hosts_are_expanded_in_their_order(text, hosts):
    assert expand_hosts(text) == hosts


def test_a_range_without_end_is_not_expanded_without_end():
    assert len(expand_hosts("n[1-999999999999]")) <= 1_000_000


@given(st.text(max_size=40))
def test_any_text_is_a_value_or_none(text):
    for read in (seconds_of, clock_seconds_of, limit_of):
        assert read(text) is None or read(text) == "unlimited" or isinstance(read(text), int)
    assert bytes_of(text) is None or isinstance(bytes_of(text), int)
    assert number_of(text) is None or isinstance(number_of(text), int)
    assert all(count > 0 for count in gpus_of(text).values())
    expand_hosts(text)
