"""Queues, jobs and allocations of a batch system as a plugin, in one shape for all schedulers.

`queue_info` is the base of a backend and keeps what it has found, `slurm` and `pbs` are backends, `service` is the endpoint's
side, `client` what a user's program imports. This file must stay empty, so that a client never imports what only an endpoint
needs.
"""
