"""Rules: the operations on the list of keys: invite, list_keys, renew, revoke.

They are an admin's. An endpoint may mint, renew and revoke keys for children of its own name, never with more rights, farther
reach, or a later expiry than its own. The secret of a key is made by whoever invites and never comes here.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from orbit_broker.keyring import Keyring
from orbit_zmq.errors import Busy, Conflict, InvalidArgument, NotFound, NotPermitted
from orbit_zmq.security.keylist import DEFAULT_RIGHTS, KeyEntry, check_entry
from orbit_zmq.wire.header import RESENT

if TYPE_CHECKING:
    from orbit_broker.operations import Call

WILD = "*?["  # what makes a text a pattern
CHILDREN = 1_000  # keys that one key has minted, theirs included
PATTERNS = 64  # in one list of an entry


def invite(call: Call) -> dict[str, Any]:
    """List a key that the caller has made; answers what a join string needs beside it."""
    keys, state = _keys_of(call), call.state
    if not state.facts["tcp"]:
        raise Conflict("this broker does not listen on TCP", hint="Start it with --port, so that others can reach it.")
    entry = keys.add(_entry_of(call))
    return {
        "entry": keys.describe(entry, _connections(call, entry)),
        "broker_key": state.public_key,
        "requests": state.reachable(state.facts["tcp"]),
        "events": state.reachable(state.facts["events_tcp"]),
        "hostname": state.facts["hostname"],
    }


def list_keys(call: Call) -> list[dict[str, Any]]:
    """What is listed, with the connections of each."""
    keys, name = _keys_of(call), call.arguments.get("name")
    seen = keys.entries() if is_admin(call) else keys.with_children(_own_entry(call))
    if name is not None:
        seen = [entry for entry in seen if entry.name == name]
        if not seen:
            raise NotFound(f"No key of the name {name} is listed.", hint="`orbit key list` shows what is.")
    return [keys.describe(entry, _connections(call, entry)) for entry in seen]


def renew(call: Call) -> dict[str, Any]:
    """Put off the expiry of a key: it is not before `expires_s` from now, or that of the key that has minted it."""
    keys, name, expires = _keys_of(call), _text(call, "name"), _expiry(call)
    if expires is None:
        raise InvalidArgument("expires_s is missing", details={"field": "expires_s"})
    if not is_admin(call):
        expires = min(expires, _minter_of(call, name).expires or expires)
    entry = keys.renew(name, expires)
    return keys.describe(entry, _connections(call, entry))


def revoke(call: Call) -> dict[str, Any]:
    """Strike a key. Its connections are cut and what it could hear is sealed anew before this is answered."""
    keys, name = _keys_of(call), _text(call, "name")
    if not is_admin(call):
        _minter_of(call, name)
    try:
        struck = keys.revoke(name)
    except NotFound:
        if call.header.flags & RESENT:  # it was struck when this was said first
            return {"revoked": [], "connections": 0}
        raise
    return {
        "revoked": [entry.name for entry in struck],
        "connections": sum(_connections(call, entry) for entry in struck),
    }


def is_admin(call: Call) -> bool:
    """An admin acts for itself only: who acts for others has their rights."""
    identity = call.caller.identity
    return identity.role == "admin" and call.header.user == identity.user


def _entry_of(call: Call) -> KeyEntry:
    """The entry that the arguments ask for; InvalidArgument or NotPermitted."""
    name, role = _text(call, "name"), _text(call, "role")
    names = _texts(call, "names", (name, f"{name}.*") if role == "endpoint" else ())
    endpoints, plugins = _texts(call, "endpoints", ("*",)), _texts(call, "plugins", ("*",))
    rights = _texts(call, "rights", DEFAULT_RIGHTS.get(role, ()))
    user, expires = _text(call, "user", call.header.user), _expiry(call)
    key, created = _text(call, "key"), time.time()
    entry = KeyEntry(key, name, user, role, names, endpoints, plugins, rights, "", created, None, expires)
    check_entry(entry)
    return entry if is_admin(call) else _as_child(call, entry)


def _as_child(call: Call, entry: KeyEntry) -> KeyEntry:
    """The entry as one of a child of the calling endpoint; NotPermitted where it would be more than its parent."""
    own, parent = _own_entry(call), call.caller.name
    expires = own.expires if entry.expires is None else entry.expires
    below = (entry.name, f"{entry.name}.*")
    allowed = {
        f"a name below {parent}": entry.name.startswith(f"{parent}.") and own.may_take(entry.name),
        "the role endpoint": entry.role == "endpoint",
        f"the user {own.user}": entry.user == own.user,
        f"names within {entry.name}": _within(entry.names, below) and _within(entry.names, own.names),
        "the endpoints of its parent": _within(entry.endpoints, own.endpoints),
        "the plugins of its parent": _within(entry.plugins, own.plugins),
        "the rights of its parent": set(entry.rights) <= set(own.rights),
        "an expiry no later than its parent's": own.expires is None or (expires is not None and expires <= own.expires),
    }
    if len(_keys_of(call).with_children(own)) > CHILDREN:
        raise Busy(f"{parent} has minted {CHILDREN} keys", hint="Revoke those that are not needed any more.")
    for what, is_so in allowed.items():
        if not is_so:
            raise NotPermitted(f"a key that {parent} mints has {what}", hint="Ask an admin for a key of its own.")
    return KeyEntry(
        entry.key, entry.name, entry.user, entry.role, entry.names, entry.endpoints, entry.plugins, entry.rights,
        own.name, entry.created, None, expires,
    )  # fmt: skip


def _own_entry(call: Call) -> KeyEntry:
    """The entry of an endpoint's own key; NotPermitted for everybody else."""
    caller = call.caller
    entry = _keys_of(call).entry_of(caller.identity.user_id)
    if entry is None or not caller.is_endpoint or call.header.user != entry.user:
        raise NotPermitted("only an admin may do this", hint="Use a key with the role admin, or ask who has one.")
    return entry


def _minter_of(call: Call, name: str) -> KeyEntry:
    """The caller's own entry, where it has minted the key of that name; else NotPermitted."""
    own = _own_entry(call)
    if all(entry.name != name for entry in _keys_of(call).with_children(own)[1:]):
        raise NotPermitted(f"{call.caller.name} has minted no key of the name {name}")
    return own


def _keys_of(call: Call) -> Keyring:
    if call.state.keys is None:
        raise NotFound("this broker has no list of keys")
    return call.state.keys


def _connections(call: Call, entry: KeyEntry) -> int:
    party = call.state.parties.get(entry.key)
    return 0 if party is None else sum(bool(participant.routing_id) for participant in party.participants)


def _within(patterns: tuple[str, ...], bounds: tuple[str, ...]) -> bool:
    """Whether all that the patterns match is matched by the bounds. Says no where that is not plain to see."""
    return all(any(_is_within(pattern, bound) for bound in bounds) for pattern in patterns)


def _is_within(pattern: str, bound: str) -> bool:
    if pattern == bound:
        return True
    stem = _literal(bound)
    if stem != bound:
        return bound == f"{stem}*" and _literal(pattern).startswith(stem)
    return False


def _literal(pattern: str) -> str:
    """The part before the first wild character."""
    return next((pattern[:at] for at, character in enumerate(pattern) if character in WILD), pattern)


def _expiry(call: Call) -> float | None:
    seconds = call.arguments.get("expires_s")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < 1e10:
        raise InvalidArgument("expires_s is a number of seconds above zero", details={"field": "expires_s"})
    return time.time() + seconds


def _text(call: Call, field: str, default: str = "") -> str:
    value = call.arguments.get(field, default)
    if value is None:
        value = default
    if not isinstance(value, str) or not value:
        raise InvalidArgument(f"{field} is text, and has to be given", details={"field": field})
    return value


def _texts(call: Call, field: str, default: tuple[str, ...]) -> tuple[str, ...]:
    value = call.arguments.get(field)
    if value is None:
        return default
    if not isinstance(value, list) or len(value) > PATTERNS or not all(isinstance(one, str) and one for one in value):
        raise InvalidArgument(f"{field} is a list of at most {PATTERNS} texts", details={"field": field})
    return tuple(value)
