"""An endpoint that may run for so long only: it says so in time, takes no more work, and what runs ends as canceled by it."""

from __future__ import annotations

import pytest
from lab import running_lab, wait_until

from orbit_zmq.errors import ShuttingDown

PATIENCE_S = 90.0
WALL_S = 24.0
# Half of the time between the notice and the end, as of one of two minutes: who tests must not come too late on a slow machine.
MUCH_NOTICE = """
from orbit_zmq.endpoint import wall_time
from orbit_zmq.plugin import Plugin, PluginSession

class Nothing(Plugin):
    plugin_name = "nothing"
    session_class = PluginSession

wall_time.NOTICE_SHARE, wall_time.CANCEL_SHARE = 0.5, 0.12
"""
pytestmark = pytest.mark.timeout(400)


def test_a_worker_whose_time_is_over_takes_no_more_tasks_and_tells_which_it_could_not_finish() -> None:
    with running_lab() as lab:
        (lab.place / "much_notice.py").write_text(MUCH_NOTICE)
        lab.environment["PYTHONPATH"] += f":{lab.place}"
        options = ["--plugin-module", "much_notice", "--wall-time", f"{WALL_S:g}s"]
        child = lab.start_endpoint("hpc1.1", plugins="rhapsody", options=options)
        client = lab.client()
        told: list[str] = []
        subscription = client.subscribe(lambda endpoint, plugin, topic, data: told.append(topic), topic="endpoint_ending")
        session = client.get_plugin("hpc1.1", "rhapsody", backends=["concurrent"])
        quick, slow = session.submit_tasks([{"executable": "/bin/true"}, {"executable": "sleep", "arguments": ["600"]}])
        assert session.wait_tasks([quick], timeout=PATIENCE_S)[0]["state"] == "DONE"

        wait_until(lambda: told, PATIENCE_S, what="the end is told of")
        with pytest.raises(ShuttingDown, match=r"takes no more work: its wall time is over"):
            session.submit_tasks([{"executable": "/bin/true"}])
        with pytest.raises(ShuttingDown, match=r"takes no more work"):
            client.get_plugin("hpc1.1", "rhapsody")
        (result,) = session.wait_tasks([slow], timeout=PATIENCE_S)

        assert result["state"] == "CANCELED"
        assert result["reason"] == "the wall time of endpoint hpc1.1 is over"
        wait_until(lambda: child.exit_code() == 0, PATIENCE_S, what="it has ended by itself, in order")
        subscription.unsubscribe()
