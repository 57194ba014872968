"""Jobs of batch systems as a plugin: submitted through PSI/J, followed, canceled, and asked for by any session of their user.

`models` is what a job is, `rendering` the script that is handed over, `schedulers` hands it over, `states` asks what has become
of all jobs at once, `following` keeps what is known, `output` reads what they print, `service` is the endpoint's side, `client`
what a user's program imports. This file must stay empty, so that a client never imports what only an endpoint needs.
"""
