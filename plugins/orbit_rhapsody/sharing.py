"""Large arguments that several tasks have: packed once, and sent to a session once, under the hash of their content.

In the task stands the hash, in the batch the packed argument, unless the endpoint has said that it keeps it. Plain values are
msgpack, others pickles. Each task is given an argument of its own, for functions may change them. This module must not send
anything.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any

import msgpack

from orbit_rhapsody.values import pickle_value, strict_packer, unpickle
from orbit_zmq.errors import InvalidArgument

SHARED_BYTES = 8 << 10  # a smaller one is not worth it
MOST_BYTES = 32 << 20  # a larger one travels by itself
PLAIN, PICKLED = "m", "p"
KEPT_BYTES = 64 << 20  # by a session, of all that was brought to it

Key = int | str  # the place of an argument, or its name
_SMALL = frozenset({int, float, bool, type(None)})


def packed_argument(value: object) -> tuple[str, bytes]:
    """The digest of an argument, whose first letter says how it is packed, and the bytes; InvalidArgument if there are none."""
    form, packed = PLAIN, b""
    try:
        packed = strict_packer().pack(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        form, packed = PICKLED, pickle_value(value)
    return form + hashlib.blake2b(packed, digest_size=16).hexdigest(), packed


class SharedArguments:
    """The large arguments of one call of `submit_tasks`, by identity: nobody changes them meanwhile."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, str, int]] = {}  # keeps the argument, so that its id stays its own
        self._fresh: dict[str, bytes] = {}

    def packed(self, digest: str, argument: object) -> bytes:
        """The bytes of an argument that `take` has answered."""
        fresh = self._fresh.pop(digest, None)
        return packed_argument(argument)[1] if fresh is None else fresh

    def has_any(self, args: object, kwargs: object) -> bool:
        """Whether one of these is known."""
        if not self._known or not isinstance(args, (list, tuple)) or not isinstance(kwargs, dict):
            return False
        return not self._known.keys().isdisjoint(map(id, (*args, *kwargs.values())))

    def take(self, args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any]) -> dict[Key, tuple[str, object]]:
        """The large ones among these: their digests, and the arguments themselves; not more than MOST_BYTES."""
        found: dict[Key, tuple[str, object]] = {}
        size_bytes = 0
        self._fresh.clear()  # those of the task before this one have been asked for
        places: list[tuple[Key, Any]] = [*enumerate(args), *kwargs.items()]
        for key, value in places:
            if type(value) in _SMALL:
                continue
            known = self._known.get(id(value))
            if known is None:
                known = self._known[id(value)] = self._look_at(value)
            if known[1] and size_bytes + known[2] <= MOST_BYTES:
                size_bytes += known[2]
                found[key] = (known[1], value)
        return found

    def _look_at(self, value: object) -> tuple[object, str, int]:
        digest, packed = packed_argument(value)
        if not SHARED_BYTES <= len(packed) <= MOST_BYTES:
            return value, "", 0
        self._fresh[digest] = packed
        return value, digest, len(packed)


def without(
    args: list[Any] | tuple[Any, ...], kwargs: dict[str, Any], keys: Mapping[Key, object]
) -> tuple[list[Any], dict[str, Any]]:
    """These arguments with nothing in the places of those that travel apart."""
    rest = [None if place in keys else value for place, value in enumerate(args)]
    return rest, {name: None if name in keys else value for name, value in kwargs.items()}


def filled(args: Any, kwargs: Any, shared: Mapping[Key, tuple[str, bytes]], python: str) -> tuple[list[Any], dict[str, Any]]:
    """The arguments with what travelled apart, by place or name; InvalidArgument where that cannot be loaded."""
    filled_args, filled_kwargs = list(args), dict(kwargs)
    for key, (digest, packed) in shared.items():
        is_plain = digest.startswith(PLAIN)
        value = msgpack.unpackb(packed, strict_map_key=False) if is_plain else unpickle(packed, "a task's argument", python)
        if isinstance(key, str):
            filled_kwargs[key] = value
        elif 0 <= key < len(filled_args):
            filled_args[key] = value
        else:
            raise InvalidArgument(f"a task has no argument number {key}")
    return filled_args, filled_kwargs


class Kept:
    """What a session keeps of the functions and arguments that were brought to it; nothing is thrown out to make room."""

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._bytes = 0
        self._brought: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def keep(self, brought: Mapping[str, bytes]) -> list[str]:
        """Those of these that are kept; the session has them for as long as it lasts."""
        with self._lock:
            for digest, packed in brought.items():
                if digest not in self._brought and self._bytes + len(packed) <= self._most_bytes:
                    self._brought[digest] = packed
                    self._bytes += len(packed)
            return [digest for digest in brought if digest in self._brought]

    def get(self, digest: str) -> bytes:
        """InvalidArgument for what is not kept."""
        packed = self._brought.get(digest)
        if packed is None:
            raise InvalidArgument(f"the session does not keep {digest!r}", hint="Bring it with the batch.")
        return packed
