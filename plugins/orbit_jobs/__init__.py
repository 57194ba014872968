"""Jobs whose outcome is never a guess, as a library and as a plugin.

`models` is what a client and an endpoint share, `runner` the base of whatever runs jobs, `shell` and `batch` are runners,
`service` is the endpoint's side, `client` what a user's program imports. This file must stay empty, so that a client never
imports what only an endpoint needs.
"""
