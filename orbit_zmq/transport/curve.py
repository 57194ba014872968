"""New CURVE keys, made by libzmq itself, so that nothing else has to import zmq for one."""

from __future__ import annotations

import zmq

from orbit_zmq.security.keys import KeyPair


def make_keypair() -> KeyPair:
    """A fresh public and secret key."""
    public, secret = zmq.curve_keypair()
    return KeyPair(public=public.decode("ascii"), secret=secret.decode("ascii"))
