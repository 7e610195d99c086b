"""Judges whether the processes that execute recorded runs are alive, by the leases that they renew.

No time that one machine wrote is compared with the clock of another: a clock that is wrong, or is set, fails no run.
"""

import time
from collections.abc import Callable, Collection
from typing import Final

from flowpod.storage.runs.records import Lease

LOOKS: Final = 3
"""How often a lease is renewed, and how often the others look at it, in the time after which it expires."""
_LONGEST_STEP: Final = 1.5  # of the time between two looks


class LeaseWatch:
    """Watches the leases of other processes: one that is not renewed for `lease_s` has expired.

    The time between two looks counts as half as long again as it should be, at most: when this process was stopped or
    the machine slept, the others may have been too, and get time to renew their leases. `clock` returns seconds and
    must not be set back.
    """

    def __init__(self, lease_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease_s = lease_s
        self._clock = clock
        self._last_look = clock()
        self._unchanged_s: dict[Lease, float] = {}

    def expired(self, leases: Collection[Lease]) -> list[Lease]:
        """Return those that have expired, given the leases of all active runs as they are now."""
        now = self._clock()
        step = min(now - self._last_look, _LONGEST_STEP * self._lease_s / LOOKS)
        self._last_look = now
        seen = self._unchanged_s
        self._unchanged_s = {lease: seen[lease] + step if lease in seen else 0.0 for lease in leases}
        return [lease for lease, seconds in self._unchanged_s.items() if seconds >= self._lease_s]

    def restart(self) -> None:
        """Give every lease its whole time again: nobody could renew one while the database was unavailable."""
        self._unchanged_s = {}
