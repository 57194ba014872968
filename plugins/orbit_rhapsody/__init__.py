"""Rhapsody as a plugin: streams of tasks (Python functions and executables) run by a Rhapsody backend.

`service` is the endpoint's side, `client` what a user's program imports; `codec` and `values` are what both share. `backend` is
the way round: endpoints as a backend of Rhapsody, which knows it by the name `orbit_zmq` once this package is imported. This
file must import nothing else, so that a client never imports what only an endpoint needs.
"""

from __future__ import annotations

from orbit_rhapsody.registration import register

register()
