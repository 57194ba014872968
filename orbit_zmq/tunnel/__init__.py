"""Tunnels: how an endpoint reaches the broker from a machine whose network does not lead there.

`ssh` runs OpenSSH, `keeping` opens a tunnel anew when it dies, `forward` is the way from the machine itself to one that reaches
the broker, and `reverse` the way back, which the other side opens once it is asked to by a file in `rendezvous`.
"""

from pathlib import Path

WRAPPER = Path(__file__).with_name("orbit-endpoint-wrapper.sh")  # what a job runs
