"""The join string: read back as it was, refused when damaged, never quoted."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orbit_zmq.errors import InvalidArgument, NotPermitted
from orbit_zmq.security.join import PREFIX, JoinString
from orbit_zmq.security.keys import make_keypair

JOIN = JoinString(
    requests=("tcp://bridge.example.org:5670", "tcp://10.0.0.1:5670"),
    events=("tcp://bridge.example.org:5671",),
    broker_key=make_keypair().public,
    keys=make_keypair(),
    name="hpc1",
    role="endpoint",
)


def test_a_join_string_is_one_line_and_reads_back() -> None:
    text = JOIN.encode()

    assert text.startswith(PREFIX) and "\n" not in text and " " not in text
    assert JoinString.decode(f"  {text}\n") == JOIN


def test_a_join_file_is_private(tmp_path: Path) -> None:
    JOIN.write(tmp_path / "join")
    assert JoinString.read(tmp_path / "join") == JOIN

    (tmp_path / "join").chmod(0o644)
    with pytest.raises(NotPermitted):
        JoinString.read(tmp_path / "join")
    with pytest.raises(InvalidArgument, match="absent"):
        JoinString.read(tmp_path / "absent")


def test_any_single_wrong_character_is_noticed_and_the_secret_is_not_quoted() -> None:
    text = JOIN.encode()
    for position in range(len(PREFIX), len(text)):
        damaged = text[:position] + ("A" if text[position] != "A" else "B") + text[position + 1 :]
        with pytest.raises(InvalidArgument) as raised:
            JoinString.decode(damaged)
        assert damaged[8:40] not in str(raised.value)


@pytest.mark.parametrize("cut", [0, 1, 7, 20, -1])
def test_a_part_of_a_join_string_is_refused(cut: int) -> None:
    with pytest.raises(InvalidArgument):
        JoinString.decode(JOIN.encode()[:cut])


@given(st.text() | st.binary().map(lambda raw: PREFIX + base64.urlsafe_b64encode(raw).decode()))
def test_any_text_is_a_join_string_or_an_invalid_argument(text: str) -> None:
    with pytest.raises(InvalidArgument):
        JoinString.decode(text)


def test_the_repr_hides_the_secret() -> None:
    assert JOIN.keys.secret not in repr(JOIN)
