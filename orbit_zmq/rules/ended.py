"""Which requests are over, though nothing else is known of them any more: a copy of one may come late, from a slow line.

A caller's ids rise, and it says below which all have ended; so one number for each caller stands for most of them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

CALLERS = 2_048  # that are remembered; who has called last counts
ABOVE = 64  # ids beside the number, before it is looked which of them it covers by now


@dataclass(slots=True)
class _Caller:
    below: int = 0  # these have ended
    above: set[int] = field(default_factory=set)  # and these
    tidy_at: int = ABOVE


class EndedRequests:
    """By caller and id."""

    def __init__(self) -> None:
        self._callers: OrderedDict[bytes, _Caller] = OrderedDict()

    def add(self, caller: bytes, call_id: int) -> None:
        """This one is over."""
        found = self._callers.get(caller)
        if found is None:
            found = self._callers[caller] = _Caller()
            if len(self._callers) > CALLERS:
                self._callers.popitem(last=False)
        else:
            self._callers.move_to_end(caller)
        found.above.add(call_id)
        if len(found.above) > found.tidy_at:
            found.above = {one for one in found.above if one >= found.below}
            found.tidy_at = 2 * len(found.above) + ABOVE

    def settle(self, caller: bytes, below: int) -> None:
        """All requests of this caller with an id below this one are over."""
        found = self._callers.get(caller)
        if found is not None and below > found.below:
            found.below = below

    def has(self, caller: bytes, call_id: int) -> bool:
        found = self._callers.get(caller)
        return found is not None and (call_id < found.below or call_id in found.above)
