"""Rules: who may call what. A key's reach and rights, whom an endpoint serves, and what effect an operation has.

An endpoint serves its own user, and others as far as it shares. What an operation does is read from the catalogue that the
endpoint's hello names; one that is not in it counts as running code. Answers are remembered with the caller, for as long as
nothing changes that they depend on.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgpack

from orbit_broker.state import Participant, State
from orbit_zmq.errors import NotFound, NotPermitted
from orbit_zmq.wire.header import ADMIN, ALL_RIGHTS, RIGHT_OF, RUN, Header

ANYBODY = "*"
REPLAY = "replay"  # the one operation of an endpoint itself: a user asks for events of that user
REMEMBERED = 4_096  # answers kept for one caller
MOST_IN_A_CATALOGUE = 10_000  # entries of one map or list


def check_call(state: State, caller: Participant, server: Participant, header: Header) -> bool:
    """Stamp the caller's rights on a request that is permitted; NotPermitted or NotFound for one that is not.

    False while it depends on a catalogue that the endpoint has not sent yet.
    """
    session = server.sessions.get(header.session) if header.session else None
    if session is not None:
        if session.user != header.user:
            raise NotFound(f"unknown session id: {header.session}", details={"session": header.session})
        if not header.plugin:
            header.plugin = session.plugin
    if caller.permitted_as_of != state.permissions_version or len(caller.permitted) >= REMEMBERED:
        caller.permitted.clear()
        caller.permitted_as_of = state.permissions_version
    call = (server, header.plugin, header.operation, header.user)
    rights = caller.permitted.get(call)
    if rights is None:
        rights = _judge(state, caller, server, header)
        if rights is None:
            return False
        if _is_admin(caller, header.user):
            rights |= ADMIN
        caller.permitted[call] = rights
    header.rights = rights
    return True


def rights_at(caller: Participant, server: Participant, plugin: str, user: str) -> int:
    """What a caller may do with a plugin of an endpoint on behalf of a user, as bits; 0 for nothing."""
    return rights_of_user(server, plugin, user) & rights_of_key(caller, server, plugin)


def rights_of_key(caller: Participant, server: Participant, plugin: str) -> int:
    """What the key alone lets its holder do there."""
    reaches = caller.identity.may_reach
    return caller.identity.rights if any(reaches(server.name, name) for name in _names_of(server, plugin)) else 0


def rights_of_user(server: Participant, plugin: str, user: str) -> int:
    """What an endpoint lets a user do with one of its plugins."""
    if user == server.identity.user:
        return ALL_RIGHTS
    rights = 0
    for share in (server.share.get(user), server.share.get(ANYBODY)):
        if share is not None and _matches(share.plugins, _names_of(server, plugin)):
            rights |= share.rights
    return rights


def serves(server: Participant, user: str) -> bool:
    """Whether an endpoint has anything for a user."""
    return user == server.identity.user or user in server.share or ANYBODY in server.share


def effects_of(state: State, digest: bytes) -> dict[tuple[str, str], int] | None:
    """The right that each operation needs, by plugin and name; None while nobody has sent that catalogue."""
    effects = state.effects.get(digest)
    if effects is None and digest in state.catalogues:
        effects = state.effects[digest] = read_effects(state.catalogues[digest])
    return effects


def read_effects(catalogue: bytes) -> dict[tuple[str, str], int]:
    """The same from a packed catalogue. What is not one has no operations, so that all of them need `run`."""
    try:
        limit = MOST_IN_A_CATALOGUE
        said = msgpack.unpackb(catalogue, strict_map_key=True, max_map_len=limit, max_array_len=limit)
        return {
            (plugin, operation["name"]): RIGHT_OF.get(operation["effect"], RUN)
            for plugin, facts in said.items()
            for operation in facts["operations"]
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, msgpack.UnpackException):
        return {}


def _judge(state: State, caller: Participant, server: Participant, header: Header) -> int | None:
    """The rights that a call has; None while it depends on a catalogue that is on its way."""
    plugin, user = header.plugin, header.user
    if header.operation == REPLAY and not plugin and not header.session:
        if not serves(server, user):
            raise _not_served(server, plugin, user)
        return 0
    allowed, reached = rights_of_user(server, plugin, user), rights_of_key(caller, server, plugin)
    if not allowed:
        raise _not_served(server, plugin, user)
    if not reached:
        raise NotPermitted(
            f"this key may not call {plugin or 'anything'} on {server.name}",
            hint="Ask for an invitation that names this endpoint and plugin.",
        )
    rights = allowed & reached
    if rights == ALL_RIGHTS:
        return rights  # whatever the operation does
    effects = effects_of(state, server.catalogue)
    if effects is None and server.catalogue:
        return None
    needed = (effects or {}).get((plugin, header.operation), RUN)
    if not rights & needed:
        raise _lacks(needed, rights, header, server)
    return rights


def _is_admin(caller: Participant, user: str) -> bool:
    """Whether the endpoint may show it what belongs to others: an admin's client, and not acting for somebody else."""
    identity = caller.identity
    return identity.role == "admin" and caller.role in ("admin", "client") and user == identity.user


def _lacks(needed: int, rights: int, header: Header, server: Participant) -> NotPermitted:
    names = {right: name for name, right in RIGHT_OF.items()}
    have = ", ".join(name for right, name in names.items() if rights & right) or "none"
    return NotPermitted(
        f"{header.operation} of {header.plugin} on {server.name} needs the right {names[needed]}; this caller has {have}",
        hint="Ask for a key, or for a share of the endpoint, with that right.",
        details={"needed": names[needed]},
    )


def _not_served(server: Participant, plugin: str, user: str) -> NotPermitted:
    return NotPermitted(
        f"{server.name} does not serve {plugin or 'anything'} to {user}",
        hint=f"Ask {server.identity.user}, whose endpoint it is, to share it with you.",
    )


def _names_of(server: Participant, plugin: str) -> tuple[str, ...]:
    """An instance, and the type that it is of."""
    kind = server.plugins.get(plugin, {}).get("plugin")
    return (plugin, kind) if isinstance(kind, str) and kind != plugin else (plugin,)


def _matches(patterns: tuple[str, ...], names: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)
