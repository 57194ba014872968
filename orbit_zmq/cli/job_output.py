"""How jobs are shown: the columns of lists, and one job with the members of an array below it."""

from __future__ import annotations

from typing import Any

from orbit_zmq.cli.output import Column, Output, Section
from orbit_zmq.cli.places import Item

COLUMNS = (
    Column("JOB", "job_id"),
    Column("NAME", "metadata.name", rank=3),
    Column("STATUS", "status"),
    Column("EXIT", "detail.exit_code", rank=2),
    Column("REASON", "reason"),
    Column("ENDPOINT", "endpoint", rank=1),
    Column("TARGET", "target", rank=5),
    Column("NATIVE", "native_id", rank=4),
    Column("SUBMITTED", "submitted_at", lambda at: str(at)[:16], rank=6),
)
MEMBERS = (
    Column("MEMBER", "member"),
    Column("STATUS", "status"),
    Column("EXIT", "exit_code"),
    Column("SIGNAL", "signal"),
    Column("REASON", "reason"),
)


def row_of(job: Item, endpoint: str, plugin: str) -> Item:
    """A job with where it is, and why it waits or how it ended."""
    detail: dict[str, Any] = job.get("detail") or {}
    return {**job, "endpoint": endpoint, "plugin": plugin, "detail": detail, "reason": detail.get("reason")}


def show_job(output: Output, schema: str, job: Item) -> None:
    """All that is known of one; for programs as it came."""
    members = job["detail"].get("members") or {}
    rows = [{"member": name, **facts} for name, facts in members.items() if isinstance(facts, dict)]
    if not rows or output.is_json:
        output.item(schema, job, id_key="job_id")
        return
    facts = {name: value for name, value in job["detail"].items() if name != "members"}
    output.item(schema, {**job, "detail": facts}, id_key="job_id", sections=[Section("MEMBERS", MEMBERS, rows)])
