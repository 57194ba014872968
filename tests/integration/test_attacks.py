"""Who does not belong gets nothing through, whatever is tried; who belongs is served right afterwards."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from attacks import (
    ATTACKS,
    Flood,
    Scene,
    Subscriber,
    attack,
    connect_and_close,
    scene,
    shake_hands_and_stay,
    stay_silent,
)

ATTEMPTS = 1_000
SLACK_S = 12.0  # on a machine that has other things to do, or stands still; `scripts/attack` reports the figures
Flooding = Callable[[Scene, int], Flood]


@pytest.fixture(scope="module")
def place() -> Iterator[Scene]:
    directory = Path(tempfile.mkdtemp(prefix="orbit-test-"))
    with scene(directory) as made:
        yield made
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.parametrize(("flood", "count"), [(connect_and_close, 2_000), (stay_silent, 1_000), (shake_hands_and_stay, 200)])
def test_a_flood_of_strangers_holds_up_nobody_and_leaves_nothing(place: Scene, flood: Flooding, count: int) -> None:
    found = flood(place, count)
    print(found)

    assert found.calls_failed == 0 and found.calls > 0
    assert found.left_after_s < 5 + SLACK_S
    assert found.longest_round_s < 0.05 + SLACK_S


@pytest.mark.parametrize("name", ATTACKS)
def test_nothing_comes_through(place: Scene, name: str) -> None:
    outcome = attack(place, name, ATTEMPTS)

    assert outcome.is_held, outcome


def test_a_revoked_subscriber_hears_nothing_more_and_another_key_of_its_user_misses_nothing(place: Scene) -> None:
    """Both are subscribers of another make that keep their connections open whatever happens."""
    assert place.good_call()
    lost, kept = Subscriber(place, "lost"), Subscriber(place, "kept")
    numbers = [place.tell(number) for number in range(20)]
    before = [listener.hear(number) for listener in (lost, kept) for number in numbers]

    assert place.ask(place.admin, "revoke", name="lost")["revoked"] == ["lost"]
    after = [place.tell(number) for number in range(200)]

    assert all(before)
    assert [kept.hear(number) for number in after] == [True] * 200
    assert not any(lost.hear(number, wait_s=0.0) for number in after)
    lost.close()
    kept.close()
