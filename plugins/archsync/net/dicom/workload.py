"""What there is to send over associations that propose the same contexts, for any number of threads."""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from archsync.core.transfer import OutgoingInstance
from archsync.net.dicom.opened import OpenInstance, open_instance
from archsync.net.dicom.pace import Pace
from archsync.net.remote.ahead import MAX_FILES, ImagesAhead

Pair = tuple[str, str]
"""SOP class and transfer syntax."""


@dataclass(slots=True)
class Workload:
    """Instances for associations that propose ``pairs``. Those that turn out to need another pair are put aside.

    ``first`` is one of them that is open already. ``ahead`` copies remote images; None: there are none.
    """

    pairs: frozenset[Pair]
    waiting: deque[OutgoingInstance]
    pace: Pace
    first: OpenInstance | None = None
    ahead: ImagesAhead | None = None
    put_aside: list[OutgoingInstance] = field(default_factory=list)
    read_slowly: list[OutgoingInstance] = field(default_factory=list)
    """Those whose files were not for the fast reader."""

    def take(self) -> OutgoingInstance | None:
        """The next one, or None; for any thread."""
        try:
            instance = self.waiting.popleft()
        except IndexError:
            return None
        if self.ahead is not None:
            self.ahead.expect(next_ones(self.waiting))
        return instance

    def open(self, instance: OutgoingInstance) -> OpenInstance:
        """Open one that was taken. Raises as :func:`open_instance`."""
        if (first := self.first) is not None and first.instance is instance:
            self.first = None
            opened = first
        else:
            opened = open_instance(instance, self.ahead)
        if opened.was_read_slowly:
            self.read_slowly.append(instance)
        return opened

    def close(self) -> None:
        """Close what nobody took."""
        if self.first is not None:
            self.first.close()


def next_ones(waiting: deque[OutgoingInstance]) -> list[OutgoingInstance]:
    """Those worth copying ahead, while other threads may take some."""
    found: list[OutgoingInstance] = []
    with suppress(IndexError):
        found.extend(waiting[place] for place in range(MAX_FILES))
    return found
