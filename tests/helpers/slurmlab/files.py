"""The configuration of a lab's Slurm, as texts: two nodes, six partitions, GPUs that are none. It opens nothing.

SlurmUser is root and there are no cgroups, so that it runs in a container; the nodes are this machine twice.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2")
CLUSTER = "lab"


@dataclass(frozen=True, slots=True)
class Ports:
    """Of the daemons that listen on TCP; the database and munge have sockets in the lab's directory."""

    controller: int
    accounting: int
    nodes: tuple[int, int]


def slurm_conf(place: Path, ports: Ports, accounting: bool) -> str:
    """What `sinfo` and `squeue` show is made to differ: limits, states, weights, typed GPUs, features."""
    host = short_host_name()
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=4000"
        f" Gres=gpu:a100:2 Feature={name},fast State=UNKNOWN Weight={weight}"
        for weight, (name, port) in enumerate(zip(NODES, ports.nodes, strict=True), 1)
    )
    storage = (
        f"AccountingStorageType=accounting_storage/slurmdbd\nAccountingStorageHost=127.0.0.1\n"
        f"AccountingStoragePort={ports.accounting}\nAccountingStoragePass={place}/munge.socket\nAccountingStorageTRES=gres/gpu\n"
        if accounting
        else ""
    )
    return f"""\
ClusterName={CLUSTER}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports.controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,bf_resolution=60,sched_interval=2,bf_max_job_test=1000
GresTypes=gpu
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=2
OverTimeLimit=0
MessageTimeout=30
MaxJobCount=20000
MinJobAge=3600
SlurmctldTimeout=300
SlurmdTimeout=300
StateSaveLocation={place}/state
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/%n.pid
SlurmdSpoolDir={place}/spool.%n
SlurmctldLogFile={place}/slurmctld.log
SlurmdLogFile={place}/%n.log
Epilog={place}/epilog
SlurmctldDebug=info
SlurmdDebug=info
{storage}{nodes}
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=00:30:00 DefaultTime=00:10:00 State=UP PriorityTier=2
PartitionName=long Nodes=n2 MaxTime=INFINITE DefaultTime=1-00:00:00 State=UP
PartitionName=gpu Nodes=n1 MaxTime=2-12:00:00 DefaultTime=01:00:00 MaxNodes=1 State=UP
PartitionName=drained Nodes=n1,n2 MaxTime=01:00:00 State=DRAIN
PartitionName=stopped Nodes=n1 MaxTime=01:00:00 State=DOWN
PartitionName=closed Nodes=n1,n2 MaxTime=01:00:00 AllowAccounts=chemistry State=UP
"""


def short_host_name() -> str:
    return socket.gethostname().partition(".")[0]


def gres_conf() -> str:
    """Files stand for the GPUs: Slurm wants one for each, and never opens them without cgroups."""
    return "NodeName=n[1-2] Name=gpu Type=a100 File=/dev/null,/dev/zero\n"


def epilog(place: Path) -> str:
    """What runs after each job: one that has left a file here goes on completing until that is taken away."""
    return f"#!/bin/sh\nwhile [ -e {place}/state/completing.$SLURM_JOB_ID ]; do sleep 0.1; done\n"


def slurmdbd_conf(place: Path, ports: Ports) -> str:
    return f"""\
DbdHost={short_host_name()}
DbdAddr=127.0.0.1
DbdPort={ports.accounting}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge.socket
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm_acct_db
LogFile={place}/slurmdbd.log
PidFile={place}/slurmdbd.pid
DebugLevel=info
"""
