"""What Slurm's commands print as text: what has no JSON in some release, or is the same in all of them.

Fields are separated by signs that no name has. A value that cannot be read is not known; a line of another kind is passed over.
"""

from __future__ import annotations

import re

from orbit_queue_info.models import Allocation, Job, Queue, Reservation
from orbit_queue_info.slurm_json import NodeGroup, gpus_in_tres, is_available
from orbit_zmq.batch.quantities import bytes_of, gpus_of, limit_of, number_of, seconds_of
from orbit_zmq.batch.states import ENDED, SLURM_WAITING, slurm_reason, slurm_state

BETWEEN, END = "\x1f", "\x1e"
PAIR = re.compile(r"([A-Za-z][\w/:]*)=(.*?)(?=\s+[A-Za-z][\w/:]*=|\s*$)")
NOTHING = ("", "(null)", "N/A", "None", "NONE", "n/a", "Unknown", "Invalid")

SQUEUE = [
    "%A",
    "%F",
    "%K",
    "%j",
    "%u",
    "%P",
    "%T",
    "%r",
    "%D",
    "%C",
    "%l",
    "%M",
    "%V",
    "%S",
    "%e",
    "%Q",
    "%a",
    "%q",
    "%N",
    "%f",
    "%v",
    "%E",
    "%Z",
    "%o",
    "%b",
]
PLACES = ["%A", "%P", "%Q"]
SACCT = [
    "JobIDRaw",
    "JobID",
    "JobName",
    "User",
    "Partition",
    "State",
    "Reason",
    "AllocNodes",
    "AllocCPUS",
    "ReqCPUS",
    "TimelimitRaw",
    "ElapsedRaw",
    "Submit",
    "Eligible",
    "Start",
    "End",
    "Priority",
    "Account",
    "QOS",
    "NodeList",
    "Reservation",
    "ExitCode",
    "WorkDir",
    "ReqTRES",
    "AllocTRES",
]
ASSOCIATION = [
    "Account",
    "User",
    "Partition",
    "Cluster",
    "Share",
    "QOS",
    "DefaultQOS",
    "MaxJobs",
    "MaxSubmit",
    "MaxWall",
    "MaxTRES",
    "GrpTRES",
]


def squeue_format(fields: list[str]) -> str:
    """The option of squeue for these fields."""
    return "--format=" + BETWEEN.join(fields) + END


def records(printed: str, count: int) -> list[list[str]]:
    """The records of that many fields; `squeue` ends them with a sign of their own, `sacct` with the line."""
    lines = printed.split(f"{END}\n") if END in printed else printed.splitlines()
    rows = ([field.strip() for field in line.split(BETWEEN)] for line in lines)
    return [row for row in rows if len(row) == count]


def pairs(line: str) -> dict[str, str]:
    """`Key=value Key=value`, where a value may have spaces in it."""
    return {key: value.strip() for key, value in PAIR.findall(line)}


def partitions(printed: str) -> list[Queue]:
    """`scontrol show partition --oneliner`."""
    found = (pairs(line) for line in printed.splitlines())
    return [_partition(facts) for facts in found if facts.get("PartitionName")]


def nodes(printed: str) -> list[NodeGroup]:
    """`scontrol show node --oneliner`."""
    found = (pairs(line) for line in printed.splitlines())
    return [_node(facts) for facts in found if facts.get("NodeName")]


def reservations(printed: str) -> list[Reservation]:
    """`scontrol show reservation --oneliner`."""
    found = (pairs(line) for line in printed.splitlines())
    return [_reservation(facts) for facts in found if facts.get("ReservationName")]


def jobs(printed: str) -> list[Job]:
    """`squeue` with the format of SQUEUE."""
    return [_job(dict(zip(SQUEUE, row, strict=True))) for row in records(printed, len(SQUEUE)) if row[0].isdecimal()]


def finished_jobs(printed: str) -> list[Job]:
    """`sacct` with the format of SACCT."""
    return [_finished(dict(zip(SACCT, row, strict=True))) for row in records(printed, len(SACCT)) if row[0].isdecimal()]


def associations(printed: str) -> list[Allocation]:
    """`sacctmgr show associations` with the format of ASSOCIATION; those of accounts themselves have no user."""
    rows = [line.split("|") for line in printed.splitlines()]
    return [_association(dict(zip(ASSOCIATION, row, strict=True))) for row in rows if len(row) == len(ASSOCIATION) and row[0]]


def places(printed: str) -> dict[tuple[str, str], int]:
    """The place of each waiting job in each of its partitions, by (job, partition), from `squeue` with the format of PLACES."""
    waiting = [(row[0], row[1], number_of(row[2]) or 0) for row in records(printed, len(PLACES))]
    return places_of(waiting)


def places_of(waiting: list[tuple[str, str, int]]) -> dict[tuple[str, str], int]:
    """The same of (job, partitions, priority); one of priority 0 is held and has no place."""
    found: dict[tuple[str, str], int] = {}
    taken: dict[str, int] = {}
    ordered = sorted(waiting, key=lambda one: (-one[2], number_of(one[0]) or 0))
    for job_id, named, priority in ordered:
        for partition in named.split(",") if priority > 0 else ():
            if (job_id, partition) not in found:
                taken[partition] = taken.get(partition, 0) + 1
                found[job_id, partition] = taken[partition]
    return found


def said(value: str | None) -> str | None:
    """A value, unless it is one of Slurm's words for none."""
    return None if value is None or value in NOTHING else value


def moment(value: str | None) -> float | None:
    """Seconds since 1970, as SLURM_TIME_FORMAT=%s has them printed."""
    seconds = number_of(value or "")
    return float(seconds) if seconds and seconds > 0 else None


def _listed(value: str | None) -> list[str]:
    return [word for word in (said(value) or "").split(",") if word]


def _or_all(value: str | None) -> list[str] | None:
    return None if value == "ALL" else _listed(value) or None


def _partition(facts: dict[str, str]) -> Queue:
    memory = facts.get("MaxMemPerNode", "")
    return Queue(
        name=facts["PartitionName"],
        state=facts.get("State", "UNKNOWN").upper(),
        default={"YES": True, "NO": False}.get(facts.get("Default", "")),
        hidden={"YES": True, "NO": False}.get(facts.get("Hidden", "")),
        time_limit=seconds_of(facts.get("MaxTime", "")),
        default_time_limit=seconds_of(facts.get("DefaultTime", "")),
        nodes_total=number_of(facts.get("TotalNodes", "")),
        min_nodes=number_of(facts.get("MinNodes", "")),
        max_nodes=limit_of(facts.get("MaxNodes", "")),
        max_cpus_per_node=limit_of(facts.get("MaxCPUsPerNode", "")),
        max_mem_per_node_bytes="unlimited" if limit_of(memory) == "unlimited" else bytes_of(memory, "M"),
        qos=said(facts.get("QoS")),
        accounts=_or_all(facts.get("AllowAccounts")),
        groups=_or_all(facts.get("AllowGroups")),
    )


def _node(facts: dict[str, str]) -> NodeGroup:
    states = facts.get("State", "UNKNOWN").upper().split("+")
    available = is_available(states)
    return NodeGroup(
        partitions=_listed(facts.get("Partitions")),
        idle=int(available and states[0].rstrip("*$~#!%@^-") == "IDLE" and "RESERVED" not in states),
        available=int(available),
        cpus=number_of(facts.get("CPUTot", "")),
        mem_bytes=bytes_of(facts.get("RealMemory", ""), "M") or None,
        gpus=gpus_of(said(facts.get("Gres")) or ""),
        features=_listed(facts.get("AvailableFeatures")),
    )


def _reservation(facts: dict[str, str]) -> Reservation:
    return Reservation(
        name=facts["ReservationName"],
        state=said(facts.get("State")),
        start_time=moment(facts.get("StartTime")),
        end_time=moment(facts.get("EndTime")),
        partition=said(facts.get("PartitionName")),
        nodes=number_of(facts.get("NodeCnt", "")),
        node_list=said(facts.get("Nodes")),
        flags=_listed(facts.get("Flags")),
        users=_listed(facts.get("Users")),
        accounts=_listed(facts.get("Accounts")),
    )


def _job(row: dict[str, str]) -> Job:
    raw, reason = row["%T"], said(row["%r"])
    state, waits = slurm_state(raw, reason or ""), raw in SLURM_WAITING
    nodes = number_of(row["%D"])
    task = said(row["%K"])
    began, ended, used = moment(row["%S"]), moment(row["%e"]), seconds_of(row["%M"])
    return Job(
        job_id=row["%A"],
        job_name=said(row["%j"]),
        user=said(row["%u"]),
        partition=said(row["%P"]),
        state=state,
        raw_state=raw,
        reason=slurm_reason(raw, reason),
        nodes=nodes,
        cpus=number_of(row["%C"]),
        gpus=gpus_in_tres(None, said(row["%b"]), nodes),
        time_limit=seconds_of(row["%l"]),
        time_used=used if isinstance(used, int) else None,
        submit_time=moment(row["%V"]),
        start_time=None if waits else began,
        end_time=None if waits else ended,
        estimated_start=began if waits else None,
        priority=number_of(row["%Q"]),
        account=said(row["%a"]),
        qos=said(row["%q"]),
        node_list=said(row["%N"]),
        features=said(row["%f"]),
        reservation=said(row["%v"]),
        dependency=said(row["%E"]),
        work_dir=said(row["%Z"]),
        command=said(row["%o"]),
        array_job_id=row["%F"] if task is not None else None,
        array_task_id=number_of(task or ""),
        array_tasks=task if task is not None and number_of(task) is None else None,
    )


def _finished(row: dict[str, str]) -> Job:
    raw = row["State"]
    code, _, by_signal = row["ExitCode"].partition(":")
    array, _, task = row["JobID"].partition("_")
    minutes = number_of(row["TimelimitRaw"])
    state = slurm_state(raw)
    nodes = number_of(row["AllocNodes"])
    return Job(
        job_id=row["JobIDRaw"],
        job_name=said(row["JobName"]),
        user=said(row["User"]),
        partition=said(row["Partition"]),
        state=state,
        raw_state=raw,
        reason=slurm_reason(raw, said(row["Reason"]), number_of(code)),
        nodes=nodes,
        cpus=number_of(row["AllocCPUS"]) or number_of(row["ReqCPUS"]),
        gpus=gpus_in_tres(said(row["AllocTRES"]) or said(row["ReqTRES"]), None, nodes),
        mem_bytes=next((bytes_of(part[4:], "M") for part in row["AllocTRES"].split(",") if part.startswith("mem=")), None),
        time_limit=minutes * 60 if minutes is not None else limit_of(row["TimelimitRaw"]),
        time_used=number_of(row["ElapsedRaw"]),
        submit_time=moment(row["Submit"]),
        eligible_time=moment(row["Eligible"]),
        start_time=moment(row["Start"]),
        end_time=moment(row["End"]),
        priority=number_of(row["Priority"]),
        account=said(row["Account"]),
        qos=said(row["QOS"]),
        node_list=said(row["NodeList"]) if row["NodeList"] != "None assigned" else None,
        reservation=said(row["Reservation"]),
        work_dir=said(row["WorkDir"]),
        exit_code=number_of(code) if state in ENDED else None,
        exit_signal=number_of(by_signal) or None if state in ENDED else None,
        array_job_id=array if task else None,
        array_task_id=number_of(task),
        tres_req=said(row["ReqTRES"]),
        tres_alloc=said(row["AllocTRES"]),
    )


def _association(row: dict[str, str]) -> Allocation:
    return Allocation(
        account=row["Account"],
        user=said(row["User"]),
        partition=said(row["Partition"]),
        cluster=said(row["Cluster"]),
        fairshare=number_of(row["Share"]),
        qos=_listed(row["QOS"]),
        default_qos=said(row["DefaultQOS"]),
        max_jobs=limit_of(row["MaxJobs"]) if row["MaxJobs"] else "unlimited",
        max_submit=limit_of(row["MaxSubmit"]) if row["MaxSubmit"] else "unlimited",
        max_wall=seconds_of(row["MaxWall"]) if row["MaxWall"] else "unlimited",
        max_tres=said(row["MaxTRES"]),
        grp_tres=said(row["GrpTRES"]),
    )
