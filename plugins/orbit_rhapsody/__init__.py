"""Rhapsody as a plugin: streams of tasks (Python functions and executables) run by a Rhapsody backend.

`service` is the endpoint's side, `client` what a user's program imports; `codec` and `values` are what both share. This
file must stay empty, so that a client never imports what only an endpoint needs.
"""
