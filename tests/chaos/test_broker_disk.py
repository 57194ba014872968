"""The broker is killed while it changes what it keeps on disk: keys that were admitted or revoked are so, and are audited."""

from __future__ import annotations

import json
import random
import threading
from functools import partial

import pytest
from chaoslab.world import World
from lab import wait_until

from orbit_zmq import Client

KILLS = 15
SEED = 4_711


class Admin:
    """Invites one after the other, and revokes every third."""

    def __init__(self, client: Client) -> None:
        self.admitted: set[str] = set()
        self.revoked: set[str] = set()
        self.failure: BaseException | None = None
        self.stop = threading.Event()
        self._client = client
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def has_gone_on(self, done: int) -> bool:
        return len(self.admitted) > done + 3 or self.failure is not None

    def _run(self) -> None:
        number = 0
        try:
            while not self.stop.is_set():
                number += 1
                self._client.invite(f"key{number}")
                if number % 3:
                    self.admitted.add(f"key{number}")
                    continue
                self._client.revoke(f"key{number}")
                self.revoked.add(f"key{number}")
        except BaseException as error:
            self.failure = error


@pytest.mark.timeout(400)
def test_what_was_answered_is_on_disk_wherever_the_broker_is_killed(world: World):
    chance = random.Random(SEED)
    world.start_broker()
    with Client(url=world.ipc) as client:
        admin = Admin(client)
        for _ in range(KILLS):
            done = len(admin.admitted)
            wait_until(partial(admin.has_gone_on, done), 60, "keys are admitted")
            threading.Event().wait(chance.random() * 0.05)  # where in its work it is hit is the seed's choice
            world.kill("broker")
            world.restart("broker")
        admin.stop.set()
        admin.thread.join(60)
        assert admin.failure is None
        found = client.keys()
        status = client.broker_status()
    listed = {entry["name"] for entry in found}
    assert admin.admitted <= listed
    assert not admin.revoked & listed
    assert status["security"]["key_list_damage"] == ""
    lines = [json.loads(line) for line in (world.place / "state" / "audit.log").read_text().splitlines()]
    if not any(line.get("suppressed") for line in lines):  # one peer writes a bounded number of lines
        told = json.dumps(lines)
        assert all(f'"{name}"' in told for name in admin.admitted | admin.revoked)
