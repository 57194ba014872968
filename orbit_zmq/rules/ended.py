"""Which requests are over, though nothing else is known of them any more: a copy of one may come late, from a slow line.

A caller's ids rise, and it says below which all have ended; so one number for each caller stands for most of them.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

CALLERS = 2_048  # that are remembered; who has called last counts
ABOVE = 64  # so many more ids, and it is looked which of them the number stands for by now
BELOW, HIGHEST, FIRST = 0, 1, 2  # where in an array they are: Python's collector does not look at arrays


class EndedRequests:
    """By caller and id."""

    def __init__(self) -> None:
        self._callers: OrderedDict[bytes, array[int]] = OrderedDict()

    def add(self, caller: bytes, call_id: int) -> None:
        """This one is over."""
        ids = self._callers.get(caller)
        if ids is None:
            self._callers[caller] = array("Q", (0, call_id, call_id))
            if len(self._callers) > CALLERS:
                self._callers.popitem(last=False)
            return
        self._callers.move_to_end(caller)
        ids.append(call_id)
        ids[HIGHEST] = max(ids[HIGHEST], call_id)
        if len(ids) % ABOVE == 0:
            ids[FIRST:] = array("Q", [one for one in ids[FIRST:] if one >= ids[BELOW]])

    def settle(self, caller: bytes, below: int) -> None:
        """All requests of this caller with an id below this one are over."""
        ids = self._callers.get(caller)
        if ids is not None and below > ids[BELOW]:
            ids[BELOW] = below

    def has(self, caller: bytes, call_id: int) -> bool:
        ids = self._callers.get(caller)
        return ids is not None and (call_id < ids[BELOW] or (call_id <= ids[HIGHEST] and call_id in ids[FIRST:]))
