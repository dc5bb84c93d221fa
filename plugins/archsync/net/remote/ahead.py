"""Has the next remote images copied while others are sent, so that the wire need not wait for them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Event, Lock

from archsync.core.transfer import OutgoingInstance
from archsync.errors import ArchsyncError
from archsync.net.images import OpenFile, copy_remote, is_remote, open_image, opened_copy
from archsync.net.remote.copying import Stopped

COPIES_AT_A_TIME = 8
MAX_FILES = 16
MAX_BYTES = 256 << 20
"""As many, and of that size by what the platform says, are copied before they are asked for; one may always be."""


class ImagesAhead:
    """Copies, made ahead of need. For any number of threads; whoever makes it closes it."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(COPIES_AT_A_TIME, thread_name_prefix="archsync-images")
        self._stopped = Event()
        self._lock = Lock()
        self._copies: dict[tuple[str, str], Future[int]] = {}
        self._bytes: dict[tuple[str, str], int] = {}

    def expect(self, instances: Sequence[OutgoingInstance]) -> None:
        """Begin to copy what will be opened next, as far as there is room."""
        with self._lock:
            for instance in instances:
                if not self._begin(instance):
                    return

    def _begin(self, instance: OutgoingInstance) -> bool:
        """False: there is no room for more."""
        key = (instance.location, instance.uid_in_file)
        if key in self._copies or not is_remote(instance.location):
            return True
        used = sum(self._bytes.values())
        is_full = len(self._copies) >= MAX_FILES or (used > 0 and used + instance.size_bytes > MAX_BYTES)
        if is_full or self._stopped.is_set():
            return False
        self._copies[key] = self._threads.submit(self._copy, instance)
        self._bytes[key] = max(1, instance.size_bytes)
        return True

    def _copy(self, instance: OutgoingInstance) -> int:
        return copy_remote(instance.location, sop_instance_uid=instance.uid_in_file, stopped=self._stopped)

    def open(self, instance: OutgoingInstance) -> OpenFile:
        """What :func:`~archsync.net.images.open_image` gives, and raises."""
        key = (instance.location, instance.uid_in_file)
        with self._lock:
            copy = self._copies.pop(key, None)
            self._bytes.pop(key, None)
        if copy is None:
            return open_image(instance.location, sop_instance_uid=instance.uid_in_file)
        return opened_copy(copy.result())

    def close(self) -> None:
        """Drop what nobody asked for. What is being copied ends at its next piece."""
        self._stopped.set()
        with self._lock:
            copies, self._copies = list(self._copies.values()), {}
        self._threads.shutdown(wait=False, cancel_futures=True)
        for copy in copies:
            copy.add_done_callback(_drop)


def _drop(copy: Future[int]) -> None:
    with suppress(CancelledError, ArchsyncError, Stopped):
        os.close(copy.result())
