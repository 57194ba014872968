"""Arithmetic as a plugin: the smallest one that has everything, to learn from and to try a connection with.

`service` is the endpoint's side, `client` what a user's program imports. This file must stay empty, so that a client never
imports what only an endpoint needs.
"""
