"""What `squeue`, `scontrol`, `sacct`, `sacctmgr` and `sinfo` print as text, as the fields of the plugin `queue_info`.

Written from Slurm's manual pages and without the plugin: this is what it is measured against. Never import it here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

Run = Callable[..., str]
Record = dict[str, Any]

BETWEEN = "\x1f"
HOW_JOBS_END = ("NonZeroExitCode", "RaisedSignal", "TimeLimit", "OutOfMemory", "NodeDown", "JobLaunchFailure", "DeadLine")
SECONDS = {"SLURM_TIME_FORMAT": "%s"}  # points in time as seconds since 1970
SQUEUE = {
    "job_id": "%A", "job_name": "%j", "user": "%u", "partition": "%P", "raw_state": "%T", "reason": "%r", "nodes": "%D",
    "cpus": "%C", "time_limit": "%l", "time_used": "%M", "submit_time": "%V", "start": "%S", "priority": "%Q", "account": "%a",
    "qos": "%q", "node_list": "%N", "features": "%f", "reservation": "%v", "dependency": "%E", "work_dir": "%Z",
    "command": "%o", "array_job_id": "%F", "array_task": "%K",
}  # fmt: skip
ACCOUNTED = ("sacct", "--allusers", "--allocations", "--noheader", "--parsable2", "--starttime=now-1day")
OUTPUTS = "JobID:.12,StdOut:.300,StdErr:.300"
SACCT = (
    "JobIDRaw", "JobName", "User", "Partition", "State", "Reason", "AllocNodes", "AllocCPUS", "ReqCPUS", "TimelimitRaw",
    "ElapsedRaw", "Submit", "Eligible", "Start", "End", "Priority", "Account", "QOS", "NodeList", "Reservation", "WorkDir",
    "ExitCode", "JobID", "ReqTRES", "AllocTRES",
)  # fmt: skip
STATES = {
    "PENDING": "PENDING", "CONFIGURING": "PENDING", "RUNNING": "RUNNING", "COMPLETING": "RUNNING", "COMPLETED": "DONE",
    "FAILED": "FAILED", "TIMEOUT": "FAILED", "NODE_FAIL": "FAILED", "CANCELLED": "CANCELLED", "SUSPENDED": "HELD",
}  # fmt: skip
ENDED = ("DONE", "FAILED", "CANCELLED")
HELD = ("JobHeldUser", "JobHeldAdmin")
NO_NUMBER = "4294967294"  # what `scontrol` fills in for the number of a member that has none yet
NOTHING = ("", "(null)", "N/A", "Unknown", "None", "NONE", "None assigned", "n/a")


def said(text: str) -> str | None:
    return None if text in NOTHING else text


def whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def moment(text: str) -> float | None:
    return float(text) if text.isdigit() and int(text) > 0 else None


def limit(text: str) -> int | str | None:
    return "unlimited" if text.upper() in ("UNLIMITED", "INFINITE") else whole(text)


def duration(text: str) -> int | str | None:
    """[days-][[hours:]minutes:]seconds; hours:minutes:seconds where there are days."""
    if limit(text) == "unlimited":
        return "unlimited"
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def memory(text: str) -> int | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGT]?)", text)
    return int(float(found[1]) * 1024 ** (" KMGT".index(found[2] or "M"))) if found else None


def tres(text: str) -> dict[str, str]:
    """`cpu=1,mem=4000M,gres/gpu=1`."""
    return dict(part.split("=", 1) for part in text.split(",") if "=" in part)


def facts(line: str) -> dict[str, str]:
    """One line of `scontrol --oneliner`: values may have spaces and =, keys begin with a capital after a space."""
    parts = re.split(r"(?:^| )([A-Z][A-Za-z/:&*]*)=", line)
    found: dict[str, str] = {}
    for key, value in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(key, value.strip())
    return found


def shown(run: Run, what: str) -> list[dict[str, str]]:
    """`scontrol show`, every record."""
    lines = run("scontrol", "show", what, "--all", "--oneliner", more=SECONDS).splitlines()
    return [facts(line) for line in lines if "=" in line]


def jobs(run: Run) -> dict[str, Record]:
    """Every job that the controller knows, by id."""
    words = ("squeue", "--noheader", "--all", "--states=all", f"--format={BETWEEN.join(SQUEUE.values())}")
    lines = [line.split(BETWEEN) for line in run(*words, more=SECONDS).splitlines()]
    rows = [dict(zip(SQUEUE, line, strict=True)) for line in lines]
    details = {one["JobId"]: one for one in shown(run, "job")}
    places, asked, outputs = _places(rows), _asked_for(run), _outputs(run)
    found = {row["job_id"]: _job(row, details[row["job_id"]], asked) for row in rows if row["job_id"] in details}
    for job_id, record in found.items():
        record["queue_position"] = places.get(job_id) if record["state"] == "PENDING" else None
        for key, as_given in outputs[job_id].items():
            record[key] = Either({record[key], as_given})
    return found


class Either(frozenset[str | None]):
    """Where commands print different things: one of them."""


def _asked_for(run: Run) -> dict[str, str]:
    """The TRES that each job has asked for, by id; of a job that runs `scontrol` shows what it got."""
    states = "--state=BF,CA,CD,DL,F,NF,OOM,PD,PR,R,S,TO"
    lines = run(*ACCOUNTED, "--endtime=now+9days", states, "--format=JobIDRaw,ReqTRES").splitlines()
    return dict(line.split("|") for line in lines)


def _outputs(run: Run) -> dict[str, dict[str, str]]:
    """Where each job writes, by id, as it was given: `scontrol` fills in the patterns."""
    lines = run("squeue", "--noheader", "--all", "--states=all", f"--Format={OUTPUTS}").splitlines()
    rows = [line.split() for line in lines]
    return {job_id: {"std_out": std_out, "std_err": std_err} for job_id, std_out, std_err in rows}


def _job(row: dict[str, str], more: dict[str, str], asked: dict[str, str]) -> Record:
    raw, reason = row["raw_state"], row["reason"]
    state = "HELD" if raw == "PENDING" and (reason in HELD or row["priority"] == "0") else STATES[raw]
    waits = raw == "PENDING"
    code, _, by_signal = more["ExitCode"].partition(":")
    wanted = tres(more["TRES"])
    each = re.search(r"gpu(?::\w+)?:(\d+)", more.get("TresPerNode", ""))
    is_array = "ArrayJobId" in more
    task = more.get("ArrayTaskId", "")
    return {
        **{
            key: said(row[key])
            for key in ("job_id", "job_name", "user", "partition", "account", "qos", "node_list", "work_dir")
        },
        **{key: said(row[key]) for key in ("features", "reservation", "dependency", "command")},
        "state": state,
        "raw_state": raw,
        "reason": _reason(raw, reason, code),
        "nodes": whole(row["nodes"]),
        "cpus": whole(row["cpus"]),
        "gpus": whole(wanted["gres/gpu"]) if "gres/gpu" in wanted else int(each[1]) * int(row["nodes"]) if each else None,
        "mem_bytes": memory(wanted.get("mem", "") or tres(asked.get(row["job_id"], "")).get("mem", "")),
        "time_limit": duration(row["time_limit"]),
        "time_used": duration(row["time_used"]),
        "submit_time": moment(row["submit_time"]),
        "eligible_time": moment(more["EligibleTime"]),
        "start_time": None if waits else moment(row["start"]),
        "end_time": None if waits else moment(more["EndTime"]),
        "estimated_start": moment(row["start"]) if waits else None,
        "priority": whole(row["priority"]),
        "std_out": said(more["StdOut"].replace(NO_NUMBER, "%a")),
        "std_err": said(more["StdErr"].replace(NO_NUMBER, "%a")),
        "exit_code": whole(code) if state in ENDED else None,
        "exit_signal": (whole(by_signal) or None) if state in ENDED else None,
        "array_job_id": more.get("ArrayJobId"),
        "array_task_id": whole(task),
        "array_tasks": row["array_task"] if is_array and whole(task) is None else None,
        "tres_req": more["TRES"] if waits else said(asked.get(row["job_id"], "")),
        "tres_alloc": None if waits or wanted == tres(asked.get(row["job_id"], "")) else said(more["TRES"]),
        "restart_cnt": whole(more["Restarts"]),
    }


def _reason(raw: str, reason: str, exit_code: str) -> str | None:
    """Why it waits; of one that has failed how: what it waited for is past."""
    if STATES.get(raw.split()[0]) in ("PENDING", "HELD", "UNKNOWN") or reason.startswith(HOW_JOBS_END):
        return said(reason)
    known = {"TIMEOUT": "TimeLimit", "OUT_OF_MEMORY": "OutOfMemory", "NODE_FAIL": "NodeDown", "DEADLINE": "DeadLine"}
    return known.get(raw.split()[0]) or ("NonZeroExitCode" if raw == "FAILED" and exit_code != "0" else None)


def _places(rows: list[dict[str, str]]) -> dict[str, int]:
    """Of each job that waits and is not held: how many of its partition are as far as it, or before it."""
    waiting = [row for row in rows if row["raw_state"] == "PENDING" and row["priority"] != "0"]
    waiting.sort(key=lambda row: (-int(row["priority"]), int(row["job_id"])))
    passed: dict[str, int] = {}
    found: dict[str, int] = {}
    for row in waiting:
        for partition in row["partition"].split(","):
            passed[partition] = passed.get(partition, 0) + 1
            found[row["job_id"]] = min(passed[partition], found.get(row["job_id"], passed[partition]))
    return found


def finished_jobs(run: Run) -> dict[str, Record]:
    """Every job that has ended, by id, as the accounting has it."""
    fields = (f"--delimiter={BETWEEN}", f"--format={','.join(SACCT)}")
    lines = run(*ACCOUNTED, "--endtime=now", "--state=BF,CA,CD,DL,F,NF,OOM,PR,TO", *fields, more=SECONDS).splitlines()
    rows = [dict(zip(SACCT, line.split(BETWEEN), strict=True)) for line in lines]
    found = {row["JobIDRaw"]: _finished(row) for row in rows}
    return {job_id: record for job_id, record in found.items() if record["state"] in ENDED}


def _finished(row: dict[str, str]) -> Record:
    raw = row["State"]
    code, _, by_signal = row["ExitCode"].partition(":")
    array, _, task = row["JobID"].partition("_")
    return {
        "job_id": row["JobIDRaw"],
        "job_name": row["JobName"],
        "user": row["User"],
        "partition": row["Partition"],
        "state": STATES.get(raw.split()[0], "UNKNOWN"),
        "raw_state": raw,
        "reason": _reason(raw, row["Reason"], code),
        "nodes": whole(row["AllocNodes"]),
        "cpus": whole(row["AllocCPUS"]) or whole(row["ReqCPUS"]),
        "time_limit": limit(row["TimelimitRaw"]) if whole(row["TimelimitRaw"]) is None else int(row["TimelimitRaw"]) * 60,
        "time_used": whole(row["ElapsedRaw"]),
        **{key: moment(row[word]) for key, word in {
            "submit_time": "Submit", "eligible_time": "Eligible", "start_time": "Start", "end_time": "End",
        }.items()},
        "priority": whole(row["Priority"]),
        "account": said(row["Account"]),
        "qos": said(row["QOS"]),
        "node_list": said(row["NodeList"]),
        "reservation": said(row["Reservation"]),
        "work_dir": said(row["WorkDir"]),
        "exit_code": whole(code),
        "exit_signal": whole(by_signal) or None,
        "array_job_id": array if task else None,
        "array_task_id": whole(task),
        "tres_req": said(row["ReqTRES"]),
        "tres_alloc": said(row["AllocTRES"]),
    }  # fmt: skip


def queues(run: Run) -> dict[str, Record]:
    """Every partition, by name, with what its nodes are and do."""
    nodes = shown(run, "node")
    return {one["PartitionName"]: _queue(one, [node for node in nodes if _is_in(node, one)]) for one in shown(run, "partition")}


def _is_in(node: dict[str, str], partition: dict[str, str]) -> bool:
    return partition["PartitionName"] in node["Partitions"].split(",")


def _queue(one: dict[str, str], nodes: list[dict[str, str]]) -> Record:
    states = [set(re.split(r"\+", node["State"].rstrip("*"))) for node in nodes]
    usable = [not state & {"DOWN", "DRAIN", "FAIL", "MAINTENANCE", "NOT_RESPONDING"} for state in states]
    gpus = [re.fullmatch(r"gpu:(\w+):(\d+)(?:\(.*\))?", node["Gres"]) for node in nodes]
    return {
        "name": one["PartitionName"],
        "state": one["State"],
        "default": one["Default"] == "YES",
        "hidden": one["Hidden"] == "YES",
        "time_limit": duration(one["MaxTime"]),
        "default_time_limit": duration(one["DefaultTime"]),
        "nodes_total": whole(one["TotalNodes"]),
        "nodes_available": sum(usable),
        "nodes_idle": sum(ok and "IDLE" in state for ok, state in zip(usable, states, strict=True)),
        "min_nodes": whole(one["MinNodes"]),
        "max_nodes": limit(one["MaxNodes"]),
        "cpus_per_node": max(int(node["CPUTot"]) for node in nodes),
        "mem_per_node_bytes": max(int(node["RealMemory"]) << 20 for node in nodes),
        "gpus_per_node": max(int(found[2]) if found else 0 for found in gpus),
        "gpu_types": {found[1]: int(found[2]) for found in gpus if found},
        "features": list(dict.fromkeys(feature for node in nodes for feature in node["AvailableFeatures"].split(","))),
        "max_cpus_per_node": limit(one["MaxCPUsPerNode"]),
        "max_mem_per_node_bytes": limit(one["MaxMemPerNode"]),
        "qos": said(one["QoS"]),
        "accounts": None if one["AllowAccounts"] == "ALL" else one["AllowAccounts"].split(","),
        "groups": None if one["AllowGroups"] == "ALL" else one["AllowGroups"].split(","),
    }


ASSOCIATION = {
    "account": "Account", "user": "User", "partition": "Partition", "cluster": "Cluster", "fairshare": "Share", "qos": "QOS",
    "default_qos": "DefaultQOS", "max_jobs": "MaxJobs", "max_submit": "MaxSubmit", "max_wall": "MaxWall", "max_tres": "MaxTRES",
    "grp_tres": "GrpTRES",
}  # fmt: skip


def allocations(run: Run) -> list[Record]:
    """Every association of a user."""
    words = ("sacctmgr", "--noheader", "--parsable2", "show", "associations", f"format={','.join(ASSOCIATION.values())}")
    rows = [dict(zip(ASSOCIATION, line.split("|"), strict=True)) for line in run(*words).splitlines()]
    return [
        {
            **{key: said(value) for key, value in row.items()},
            "fairshare": whole(row["fairshare"]),
            "qos": [name for name in row["qos"].split(",") if name],
            "max_jobs": whole(row["max_jobs"]) if row["max_jobs"] else "unlimited",
            "max_submit": whole(row["max_submit"]) if row["max_submit"] else "unlimited",
            "max_wall": duration(row["max_wall"]) if row["max_wall"] else "unlimited",
        }
        for row in rows
        if row["user"]
    ]


def reservations(run: Run) -> dict[str, Record]:
    """Every reservation, by name."""
    return {
        one["ReservationName"]: {
            "name": one["ReservationName"],
            "state": one["State"],
            "start_time": moment(one["StartTime"]),
            "end_time": moment(one["EndTime"]),
            "partition": said(one["PartitionName"]),
            "nodes": whole(one["NodeCnt"]),
            "node_list": said(one["Nodes"]),
            "flags": one["Flags"].split(","),
            "users": one["Users"].split(",") if said(one["Users"]) else [],
            "accounts": one["Accounts"].split(",") if said(one["Accounts"]) else [],
        }
        for one in shown(run, "reservation")
    }
