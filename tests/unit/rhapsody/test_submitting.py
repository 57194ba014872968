"""A session takes batches in: there is room for a bounded number of tasks, and answers bring results along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from orbit_rhapsody import service
from orbit_rhapsody.batches import encode_batches
from orbit_rhapsody.codec import Acknowledgement, Portion
from orbit_rhapsody.service import RhapsodySession
from orbit_zmq.errors import Busy
from orbit_zmq.plugin import Host, Raw

PATIENCE_S = 60.0


def batch(*uids: str, after: int | None = None) -> Raw:
    (encoded,) = encode_batches([(uid, {"executable": "/bin/true"}) for uid in uids])
    return Raw(encoded.packed(None if after is None else {"consumer": "c", "after": after, "max_bytes": 1 << 20}))


def with_session(scenario: Callable[[RhapsodySession], Awaitable[None]]) -> None:
    async def main() -> None:
        session = RhapsodySession("s", backends=["noop"])
        session.host = Host("hpc1")
        await session.initialize()
        try:
            await scenario(session)
        finally:
            await session.close()

    asyncio.run(main())


async def submitted(session: RhapsodySession, body: Raw) -> Acknowledgement:
    return Acknowledgement.decode(await session.submit(body))


def uids_of(portion: Portion | None) -> list[str]:
    assert portion is not None
    return [record["uid"] for record in portion.records]


def test_the_answer_to_one_short_task_has_its_result(monkeypatch):
    monkeypatch.setattr(service, "LINGER_S", PATIENCE_S)

    async def scenario(session: RhapsodySession) -> None:
        answer = await submitted(session, batch("a", after=0))

        assert uids_of(answer.portion) == ["a"]
        assert (answer.known, answer.refused) == ({}, {})

    with_session(scenario)


def test_the_answer_to_a_batch_brings_the_results_of_those_before_it():
    async def scenario(session: RhapsodySession) -> None:
        await submitted(session, batch("a", "b"))
        before = Portion.decode(await session.fetch("c", 0, wait_s=PATIENCE_S))
        while before.after < 2:
            before = Portion.decode(await session.fetch("c", 0, wait_s=PATIENCE_S))

        answer = await submitted(session, batch("c", after=0))

        assert uids_of(answer.portion)[:2] == ["a", "b"]

    with_session(scenario)


def test_who_names_no_reader_gets_no_results():
    async def scenario(session: RhapsodySession) -> None:
        assert (await submitted(session, batch("a"))).portion is None

    with_session(scenario)


def test_an_answer_does_not_linger_where_the_last_task_took_its_time_or_the_batch_is_large():
    async def scenario(session: RhapsodySession) -> None:
        small, large = 100, service.LINGER_BYTES + 1
        assert session._linger_s(small) == service.LINGER_S
        assert session._linger_s(large) == 0.0
        session._engine.latest_s = 1.0
        assert session._linger_s(small) == 0.0

    with_session(scenario)


def test_a_cursor_that_is_wrong_does_not_keep_a_batch_out():
    async def scenario(session: RhapsodySession) -> None:
        assert (await submitted(session, batch("a", after=1_000))).portion is None
        assert Portion.decode(await session.fetch("c", 0, wait_s=PATIENCE_S)).records[0]["uid"] == "a"

    with_session(scenario)


def test_a_batch_for_which_there_is_no_room_in_time_is_busy(monkeypatch):
    monkeypatch.setattr(service, "QUEUED_BYTES", -1)
    monkeypatch.setattr(service, "ROOM_S", 0.01)

    async def scenario(session: RhapsodySession) -> None:
        with pytest.raises(Busy):
            await session.submit(batch("a"))

    with_session(scenario)


def test_a_batch_waits_for_the_room_that_tasks_before_it_leave(monkeypatch):
    monkeypatch.setattr(service, "QUEUED_BYTES", 1_000_000)
    monkeypatch.setattr(service, "ROOM_S", PATIENCE_S)

    async def scenario(session: RhapsodySession) -> None:
        for encoded in encode_batches([(f"t{number}", {"executable": "/bin/true"}) for number in range(10_000)]):
            await submitted(session, Raw(encoded.body))
        done: set[Any] = set()
        after = 0
        while len(done) < 10_000:
            portion = Portion.decode(await session.fetch("c", after, wait_s=PATIENCE_S))
            after = portion.after
            done.update(record["uid"] for record in portion.records)

    with_session(scenario)
