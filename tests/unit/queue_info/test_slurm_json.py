"""What Slurm's JSON says beside the data."""

import pytest

from orbit_queue_info.slurm_json import parse_json
from orbit_zmq.errors import SchedulerFailed


def test_an_error_and_an_empty_list_are_a_failure_and_not_an_empty_queue():
    said = '{"errors": [{"error_number": 1, "error": "Unable to contact slurm controller (connect failure)"}], "jobs": []}'
    with pytest.raises(SchedulerFailed, match="Unable to contact slurm controller"):
        parse_json(said, "squeue")
    with pytest.raises(SchedulerFailed, match="does not say why"):
        parse_json('{"errors": "all", "jobs": []}', "squeue")
    assert parse_json('{"errors": [], "jobs": []}', "squeue")["jobs"] == []
