"""Keeps what is sent below a rate."""

from __future__ import annotations

import threading
import time


class Pace:
    """At most so many bytes a second, over any number of threads."""

    def __init__(self, bytes_per_s: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    @property
    def chunk_bytes(self) -> int:
        """What to send at a time, so that the peer hears of us four times a second."""
        return max(1, self._bytes_per_s // 4)

    def wait_for(self, count: int) -> None:
        """Wait until ``count`` bytes may be sent."""
        with self._lock:
            now = time.monotonic()
            start = max(now, self._free_at)
            self._free_at = start + count / self._bytes_per_s
        if start > now:
            time.sleep(start - now)
