"""Keeps a job within its share of the destination, and tells how fast it sends.

Several jobs may send to one archive at the same time, from different machines. Each gets a share of the rate and of the
associations that the archive is to bear, which changes as others begin and end: whoever knows of that sets ``share``,
from any thread, and what is being sent goes on accordingly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from archsync.core.transfer import Share

_CHUNKS_PER_S = 4
_MEASURED_S = 1.0
"""A rate is taken over this long at least."""


class Pace:
    """The pace of one job, over any number of associations, each with a thread."""

    def __init__(
        self,
        share: Share,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.share = share
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._sent_bytes = 0
        self._measured_at = 0.0
        self._measured_bytes = 0
        self._bytes_per_s = 0
        self._associations = self._leaving = 0

    # -- bytes -------------------------------------------------------------------------------------------------------

    def chunk_bytes(self, at_most: int) -> int:
        """What to send at a time, so that the peer hears of us several times a second."""
        rate = self.share.bytes_per_s
        return at_most if rate is None else max(1, min(at_most, int(rate / _CHUNKS_PER_S)))

    def wait_for(self, count: int) -> None:
        """Wait until ``count`` bytes may be sent, and count them as sent."""
        with self._lock:
            if not self._sent_bytes:
                self._measured_at = self._clock()
            self._sent_bytes += count
            rate = self.share.bytes_per_s
            if rate is None:
                return
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + count / rate
        if start > now:
            self._sleep(start - now)

    def bytes_per_s(self) -> int:
        """How fast it sent since this was last asked; asked again within a second, the same answer."""
        with self._lock:
            now = self._clock()
            elapsed_s = now - self._measured_at
            if self._sent_bytes and elapsed_s >= _MEASURED_S:
                self._bytes_per_s = round((self._sent_bytes - self._measured_bytes) / elapsed_s)
                self._measured_at, self._measured_bytes = now, self._sent_bytes
            return self._bytes_per_s

    # -- associations ------------------------------------------------------------------------------------------------

    @property
    def associations(self) -> int:
        """How many are open or being opened or released."""
        return self._associations

    @contextmanager
    def association(self) -> Iterator[Callable[[], bool]]:
        """Count an association while the block runs; gives the question whether it is one too many and has to end.

        Of several that ask, as many are told to end as exceed the share.
        """
        is_leaving = False

        def is_surplus() -> bool:
            nonlocal is_leaving
            with self._lock:
                if not is_leaving and self._associations - self._leaving > self.share.associations:
                    is_leaving = True
                    self._leaving += 1
            return is_leaving

        with self._lock:
            self._associations += 1
        try:
            yield is_surplus
        finally:
            with self._lock:
                self._associations -= 1
                self._leaving -= is_leaving
