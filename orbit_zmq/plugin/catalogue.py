"""The catalogue: what an endpoint's plugins can do, as bytes that are known by their hash.

The same plugins give the same bytes in every process, so that the broker keeps one copy for many endpoints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from orbit_zmq.errors import TooLarge
from orbit_zmq.plugin.plugin import Plugin
from orbit_zmq.wire.body import pack_body
from orbit_zmq.wire.limits import CATALOGUE_BYTES


def catalogue_of(plugins: Iterable[Plugin]) -> tuple[bytes, bytes]:
    """The packed catalogue and its SHA-256."""
    entries = {
        plugin.instance_name: {
            "plugin": plugin.plugin_name,
            "version": plugin.version,
            "operations": [operation.describe() for operation in plugin.operations.values()],
        }
        for plugin in sorted(plugins, key=lambda plugin: plugin.instance_name)
    }
    packed, _ = pack_body(entries)
    if len(packed) > CATALOGUE_BYTES:
        largest = max(entries, key=lambda name: len(pack_body(entries[name])[0]))
        raise TooLarge(
            f"the catalogue has {len(packed)} bytes, the limit is {CATALOGUE_BYTES}; most of it is plugin {largest}",
            hint="Load fewer plugins in one endpoint, or give large models shorter descriptions.",
        )
    return packed, hashlib.sha256(packed).digest()
