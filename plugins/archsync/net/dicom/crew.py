"""Sends a workload over as many associations at a time as the job's share allows and as pay.

The caller's own thread sends on the first association. Where most of its time goes into waiting for answers (a long
way, or an archive that works on each instance by itself), a second one in a thread of its own takes from the same
workload, or three where it does next to nothing else, and so on, as long as that makes the whole faster. The first
refusal ("local limit exceeded") ends that growth. Those opened last that brought nothing (the archive's disk does what
it can, or the way) are let go again. Where the share gets smaller, what is too many ends with the instance in hand.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue

from archsync.core.contexts import ProposedContext
from archsync.core.transfer import Endpoint, StoreOutcome
from archsync.errors import ArchsyncError
from archsync.net.dicom.association import PeerAssociation
from archsync.net.dicom.opening import Opening, associate
from archsync.net.dicom.sending import Sender
from archsync.net.dicom.workload import Workload

_MIN_INSTANCES = 8
_MIN_WINDOW_S = 0.1
"""A rate is taken over so many instances and this long."""
_MIN_WAITING_SHARE = 0.5
_IDLE_SHARE = 0.8
"""Waiting this much, four times as many will hardly get in one another's way."""
_MIN_GAIN = 1.2
_MIN_KEPT_GAIN = 1.1
"""What more associations have to bring to stay: else the archive, its disk or the way does no more than it did."""
_STOP_WAIT_S = 2.0


def send_workload(
    endpoint: Endpoint, contexts: Sequence[ProposedContext], workload: Workload
) -> Iterator[StoreOutcome]:
    """Send until the workload is empty or an association ends; what was not sent is left in it.

    Raises as ``store_instances``, after what others had in hand is done.
    """
    with workload.pace.association():
        yield from _send_together(endpoint, contexts, workload)


def _send_together(
    endpoint: Endpoint, contexts: Sequence[ProposedContext], workload: Workload
) -> Iterator[StoreOutcome]:
    crew = _Crew(endpoint, contexts, workload)
    peer = associate(endpoint, contexts)
    failure: Exception | None = None
    try:
        sender = Sender(endpoint, peer, workload)
        try:
            for outcome in sender.outcomes():
                crew.note_outcome()
                yield outcome
                yield from crew.outcomes_so_far()
                crew.grow_if_it_pays(sender)
        except ArchsyncError as exc:
            failure = exc
            workload.waiting.clear()
        yield from crew.remaining_outcomes()
        if failure := failure or crew.failure:
            raise failure
    finally:
        crew.stop()
        peer.close()


class _Crew:
    """The associations besides the first, each with a thread."""

    def __init__(self, endpoint: Endpoint, contexts: Sequence[ProposedContext], workload: Workload) -> None:
        self._endpoint = endpoint
        self._contexts = contexts
        self._workload = workload
        self._done: SimpleQueue[StoreOutcome | threading.Thread] = SimpleQueue()
        self._threads: set[threading.Thread] = set()
        self._peers: list[PeerAssociation] = []
        self._openings: dict[threading.Thread, Opening] = {}
        self._is_growing = True
        self._is_stopped = False
        self._begun = 0
        self._has_shrunk = False
        self._best_rate = 0.0
        self._size_before: int | None = None  # of a growth that is still to be judged
        self._has_doubts = False
        self._too_many = SimpleQueue[None]()
        self._window_from, self._window_count, self._window_waited_s = time.monotonic(), 0, 0.0
        self.failure: Exception | None = None
        """What went wrong on one of them."""

    def note_outcome(self) -> None:
        """Count an outcome of the first association."""
        self._window_count += 1

    def grow_if_it_pays(self, first: Sender) -> None:
        """Open more associations, if there is enough to do and reason to hope that it helps."""
        if not self._is_growing or self._window_count < _MIN_INSTANCES:
            return
        now = time.monotonic()
        # A rate is that of so many associations: the youngest is still being negotiated, or one has ended.
        if len(self._peers) < self._begun or self._has_shrunk:
            self._window_from, self._window_count, self._window_waited_s = now, 0, first.waited_s
            self._has_shrunk = False
            return
        elapsed_s = now - self._window_from
        if elapsed_s < _MIN_WINDOW_S:
            return
        rate = self._window_count / elapsed_s
        waiting_share = (first.waited_s - self._window_waited_s) / elapsed_s
        self._window_from, self._window_count, self._window_waited_s = now, 0, first.waited_s
        size, allowed = len(self._threads) + 1, self._workload.pace.share.associations
        if self._size_before is not None:
            if rate < self._best_rate * _MIN_GAIN:
                if self._has_doubts:  # twice running: no hiccup
                    self._is_growing = False
                    if rate < self._best_rate * _MIN_KEPT_GAIN:
                        self._let_go(size - self._size_before)
                self._has_doubts = True
                return
            self._size_before = None
        if size >= allowed or len(self._workload.waiting) < 2 * size or waiting_share < _MIN_WAITING_SHARE:
            return
        self._best_rate, self._size_before, self._has_doubts = rate, size, False
        more = 3 * size if waiting_share > _IDLE_SHARE else size
        for _ in range(min(more, allowed - size)):
            opening = Opening()
            thread = threading.Thread(target=self._work, args=(opening,), name="archsync-association", daemon=True)
            self._threads.add(thread)
            self._openings[thread] = opening
            self._begun += 1
            thread.start()

    def _let_go(self, count: int) -> None:
        for _ in range(count):
            self._too_many.put(None)

    def _is_let_go(self) -> bool:
        """Tell a thread, once, whether it is one of those too many."""
        with suppress(Empty):
            self._too_many.get_nowait()
            return True
        return False

    def outcomes_so_far(self) -> Iterator[StoreOutcome]:
        """Outcomes that are there; none for the first association once another has failed."""
        while self._threads:
            try:
                yield from self._taken(self._done.get_nowait())
            except Empty:
                return

    def remaining_outcomes(self) -> Iterator[StoreOutcome]:
        """Outcomes until every thread has ended that has an association.

        An archive that takes one association at a time leaves the others unanswered until that ends.
        """
        self._call_off()
        while self._threads:
            yield from self._taken(self._done.get())

    def _taken(self, done: StoreOutcome | threading.Thread) -> list[StoreOutcome]:
        if isinstance(done, threading.Thread):
            done.join()
            self._threads.discard(done)
            self._has_shrunk, self._best_rate = True, 0.0
            return []
        self._window_count += 1
        return [done]

    def _call_off(self) -> None:
        """Do without associations that are not there yet, and not wait for those that TCP has not connected yet."""
        for thread, opening in self._openings.items():
            if opening.call_off() and not opening.is_connected:
                self._threads.discard(thread)
        self._openings.clear()

    def _work(self, opening: Opening) -> None:
        """Send on one more association until nothing is left."""
        try:
            with self._workload.pace.association() as is_surplus:
                self._work_until(is_surplus, opening)
        except Exception as exc:  # noqa: BLE001 - raised again by the thread that asked for the work
            self.failure = self.failure or exc
            self._workload.waiting.clear()
        finally:
            self._done.put(threading.current_thread())

    def _work_until(self, is_surplus: Callable[[], bool], opening: Opening) -> None:
        try:
            peer = associate(self._endpoint, self._contexts, opening)
        except ArchsyncError:
            self._is_growing = False  # it allows no more; the first goes on
            return
        self._peers.append(peer)
        try:
            if self._is_stopped:
                return
            sender, is_leaving = Sender(self._endpoint, peer, self._workload), False
            for outcome in sender.outcomes():
                self._done.put(outcome)
                if not is_leaving and (is_surplus() or self._is_let_go()):
                    is_leaving = True
                    sender.dismiss()
        finally:
            peer.close()

    def stop(self) -> None:
        """End what is still going on, at once."""
        if not self._threads:
            return
        self._is_stopped = True
        self._workload.waiting.clear()
        self._call_off()
        for peer in self._peers:
            with suppress(OSError):
                peer.interrupt()
        for thread in self._threads:
            thread.join(_STOP_WAIT_S)
