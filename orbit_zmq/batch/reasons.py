"""Why a job waits, in words for people: what the reasons of Slurm mean. Other schedulers say it in sentences. Data alone."""

from __future__ import annotations

SLURM: dict[str, str] = {
    "Resources": "it is its turn, and the nodes that it needs are not free yet",
    "Priority": "jobs of higher priority wait before it",
    "Dependency": "it waits for a job that it depends on",
    "DependencyNeverSatisfied": "the job that it depends on has not ended as it should have: it will never start",
    "BeginTime": "it is not to be started before its begin time",
    "JobHeldUser": "its user holds it; `scontrol release` lets it go",
    "JobHeldAdmin": "an administrator holds it",
    "JobArrayTaskLimit": "as many members of its array run as may at once",
    "ReqNodeNotAvail": "a node that it asks for is down, drained, or reserved",
    "Reservation": "its reservation has not begun",
    "ReservationDeleted": "its reservation is gone",
    "Licenses": "a licence that it asks for is not free",
    "PartitionDown": "its partition is down",
    "PartitionInactive": "its partition starts no jobs at present",
    "PartitionNodeLimit": "it asks for more or fewer nodes than its partition allows",
    "PartitionTimeLimit": "its time limit is longer than its partition allows",
    "AccountNotAllowed": "its account may not use this partition or QOS",
    "InvalidAccount": "there is no such account",
    "InvalidQOS": "there is no such QOS",
    "BadConstraints": "no node is as it asks for",
    "NodeDown": "a node that it asks for is down",
    "Cleaning": "its last run is being cleaned up",
    "Prolog": "its nodes are being prepared",
    "DeadLine": "it cannot end before its deadline",
}
# Of many that begin so; the rest of the word names the limit.
SLURM_LIMITS: dict[str, str] = {
    "Assoc": "a limit of its account is reached",
    "QOS": "a limit of its QOS is reached",
    "Max": "a limit of the cluster is reached",
}


def slurm_meaning(reason: str) -> str:
    """What a reason means, as a clause; empty for a word that says it itself, or that we do not know."""
    word = reason.strip("()").partition(",")[0].partition(":")[0].strip()
    if word in SLURM:
        return SLURM[word]
    return next((meaning for beginning, meaning in SLURM_LIMITS.items() if word.startswith(beginning)), "")
