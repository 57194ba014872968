"""System information as a plugin: processors, memory, disks, network and GPUs of the machine that an endpoint runs on.

`provider` measures and needs no ORBIT at all; `service` is the endpoint's side, `client` what a user's program imports.
This file must stay empty, so that a client never imports what only an endpoint needs.
"""
