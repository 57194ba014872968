"""How long each step towards a tunnel may take, in seconds. Both sides and the caller wait for each other, so it is said once.

Who waits for somebody has more time than that one: the worker more than the login endpoint, the caller more than the worker.
"""

from __future__ import annotations

LOOK_S = 1.0  # between two looks of the login endpoint for a request
REACH_S = 3.0  # for a direct connection to one address of the broker
SPEAKS_S = 10.0  # for the broker to speak through an open tunnel

PROBE_S = 12.0  # `auto`, to find out by one attempt whether a forward tunnel can be opened
PROBE_SPEAKS_S = 3.0  # and whether the broker speaks through it
FORWARD_S = 40.0  # to open a forward tunnel, in several attempts

OPEN_S = 120.0  # the login endpoint's, to open a reverse tunnel: some machines let ssh in only some time after the job's start
HEARD_S = 90.0  # the worker's, for a sign that its request was read: NFS may show a directory as it was a minute ago
ANSWER_S = 150.0  # the worker's, from then on: OPEN_S, and until it can read the answer

WAY_S = 5 * REACH_S + PROBE_S + PROBE_SPEAKS_S + HEARD_S + ANSWER_S + SPEAKS_S  # the worker's at most, when it tries all of it
THROUGH_S = 30.0  # for the broker to take the worker in, through an open tunnel
JOIN_S = 360.0  # the caller's, from the start of the job; a slow file system takes some of it
