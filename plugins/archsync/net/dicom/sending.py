"""Sends instances over one association and says what came of each: one after the other, or several at a time.

While the peer works on an instance, the next file is opened, checked and its beginning read, so that it leaves as soon
as the answer is there, or its re-encoding is begun (reencoder.py). Corrected copies are not made ahead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

from archsync.core.transfer import Endpoint, StoreOutcome, StoreResult
from archsync.errors import DestinationMisconfigured, InvalidInput, OutcomeUnknown, PeerUnavailable
from archsync.messages.store_status import explain_store_status
from archsync.net.dicom.association import PeerAssociation, Response
from archsync.net.dicom.fragments import SourceChanged
from archsync.net.dicom.loading import Loaded, Loader, not_decodable
from archsync.net.dicom.opened import OpenInstance
from archsync.net.dicom.outcomes import answered, changed_meanwhile, not_sent
from archsync.net.dicom.reencoder import ReencodingFailed
from archsync.net.dicom.transport import where
from archsync.net.dicom.workload import Workload


class Sender:
    """Sends over ``peer``, which stays the caller's."""

    def __init__(self, endpoint: Endpoint, peer: PeerAssociation, workload: Workload) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._workload = workload
        self._buffer = peer.new_buffer(workload.pace)
        self._loader = Loader(peer, self._buffer, workload.ahead)
        self._ahead: OpenInstance | None = None
        self._loaded: Loaded | None = None  # what the buffer holds of the one ahead
        self._under_way: dict[int, tuple[OpenInstance, Loaded]] = {}
        """Sent within the window that the peer has agreed to, not answered yet: by message id."""
        self._refused: list[StoreOutcome] = []
        self._is_dismissed = False
        self.waited_s = 0.0
        """Time spent on nothing but waiting for answers."""

    def dismiss(self) -> None:
        """Take up nothing more: ``outcomes`` ends with what is in hand, and leaves the rest in the workload."""
        self._is_dismissed = True

    def outcomes(self) -> Iterator[StoreOutcome]:
        """Send until the workload is empty or the association can't be used any more, with nothing lost.

        Raises (after the outcome that is the reason, if there is one):
            OutcomeUnknown, DestinationMisconfigured, PeerUnavailable: as ``store_instances``.
        """
        try:
            self._open_next()
            while True:
                if self._refused:
                    yield from self._take_refused()
                if self._under_way:
                    yield from self._take_answers(at_most=self._room())
                if self._is_dismissed or self._peer.was_ended_by_us:
                    return
                current, self._ahead = self._ahead, None
                if current is None:
                    if not self._workload.waiting:
                        return
                    self._open_next()
                    continue
                if self._peer.window > 1 and self._loaded is not None and self._loaded.facts.is_unchanged:
                    yield from self._send_with_others(current, self._loaded)
                    continue
                try:
                    outcome = self._store(current)
                finally:
                    current.close()
                yield outcome
                if outcome.result in _HOPELESS:
                    raise self._hopeless(outcome)
        finally:
            self._loader.close()
            for current, _ in self._under_way.values():
                current.close()
            if self._ahead is not None:
                self._ahead.close()
                self._workload.waiting.appendleft(self._ahead.instance)

    # -- the next one ------------------------------------------------------------------------------------------------

    def _take_refused(self) -> list[StoreOutcome]:
        refused, self._refused = self._refused, []
        return refused

    def _open_next(self) -> None:
        """Open the next instance that can be sent on this association, and load what goes out as it is."""
        self._take_next()
        self._loaded = None if self._ahead is None else self._loader.load_as_it_is(self._ahead)

    def _take_next(self) -> None:
        """Open the next one, unless there is one, and have its re-encoding begun if it needs that."""
        while self._ahead is None and (instance := self._workload.take()) is not None:
            try:
                opened = self._workload.open(instance)
            except InvalidInput as exc:
                self._refused.append(not_sent(instance, exc))
                continue
            except PeerUnavailable as exc:
                self._refused.append(not_sent(instance, exc))
                return  # whether to try another is for the caller to say, who counts them
            pair = (opened.facts.sop_class_uid, opened.facts.transfer_syntax_uid)
            is_taken = self._peer.context_id(*pair) is not None
            if not is_taken and pair not in self._workload.pairs:
                opened.close()
                self._workload.put_aside.append(instance)
                continue
            self._ahead = opened
            if not is_taken:
                self._loader.begin_reencoding(opened)

    # -- one instance ------------------------------------------------------------------------------------------------

    def _store(self, current: OpenInstance) -> StoreOutcome:
        """Send one instance in the best form the peer takes, then open the next, then take the answer."""
        if (loaded := self._loaded) is not None and loaded.facts.is_unchanged:
            return self._exchange(current, loaded)
        with ExitStack() as until_answered:
            try:
                loaded = self._loader.prepare(current, until_answered)
            except InvalidInput as exc:
                self._open_next()
                return not_sent(current.instance, exc)
            if loaded.is_reencoded and self._loader.is_idle:
                self._take_next()  # decoded while this one leaves
            return self._exchange(current, loaded)

    def _exchange(self, current: OpenInstance, loaded: Loaded) -> StoreOutcome:
        instance, facts = current.instance, loaded.facts
        try:
            self._peer.store(facts.sop_class_uid, facts.sop_instance_uid, self._buffer)
        except ReencodingFailed:
            return not_sent(instance, not_decodable(facts, loaded.transfer_syntax_uid))
        except (SourceChanged, OSError):
            return changed_meanwhile(instance, loaded)
        if self._peer.is_whole:
            self._open_next()
        return self._answered(current, loaded, self._receive())

    def _receive(self) -> Response | None:
        asked_at = time.monotonic()
        response = self._peer.receive()
        self.waited_s += time.monotonic() - asked_at
        return response

    def _answered(self, current: OpenInstance, loaded: Loaded, response: Response | None) -> StoreOutcome:
        profile = self._endpoint.profile
        if response is None:
            return answered(current.instance, loaded, None, profile, self._peer.describe_loss())
        return answered(current.instance, loaded, response.status, profile)

    # -- several at a time, where the peer has agreed to it ----------------------------------------------------------

    def _room(self) -> int:
        """How many of those under way may stay so. What is made for sending, and may fail on the way, goes alone."""
        can_join = self._loaded is not None and not self._is_dismissed and self._peer.is_usable
        return self._peer.window - 1 if can_join else 0

    def _send_with_others(self, current: OpenInstance, loaded: Loaded) -> Iterator[StoreOutcome]:
        """Send one instance and open the next; the answer is for :meth:`_take_answers`."""
        self._loaded = None
        try:
            message_id = self._peer.store(loaded.facts.sop_class_uid, loaded.facts.sop_instance_uid, self._buffer)
        except (SourceChanged, OSError):
            current.close()
            yield changed_meanwhile(current.instance, loaded)
            yield from self._lose_those_under_way()
            return
        except BaseException:
            current.close()
            raise
        self._under_way[message_id] = current, loaded
        if self._peer.is_whole:
            self._open_next()

    def _take_answers(self, *, at_most: int) -> Iterator[StoreOutcome]:
        """Take answers until so many are under way."""
        stop: StoreOutcome | None = None
        while len(self._under_way) > (0 if stop else at_most):
            response = self._receive()
            if response is None:
                yield from self._lose_those_under_way()
                return
            current, loaded = self._under_way.pop(response.message_id)
            outcome = self._answered(current, loaded, response)
            current.close()
            yield outcome
            if outcome.result is StoreResult.STOP:
                stop = outcome
        if stop:
            raise self._hopeless(stop)

    def _lose_those_under_way(self) -> Iterator[StoreOutcome]:
        """Say of each that it was sent and not answered."""
        lost = list(self._under_way.values())
        self._under_way.clear()
        for current, loaded in lost:
            current.close()
            yield self._answered(current, loaded, None)
        if lost:
            raise self._unknown(", ".join(current.instance.sop_instance_uid for current, _ in lost))

    # -- errors ------------------------------------------------------------------------------------------------------

    def _hopeless(self, outcome: StoreOutcome) -> OutcomeUnknown | DestinationMisconfigured:
        """Why nothing more can be sent after this outcome."""
        uid = outcome.instance.sop_instance_uid
        if outcome.result is StoreResult.UNKNOWN:
            return self._unknown(uid)
        return DestinationMisconfigured(
            f"{where(self._endpoint)} refused instance {uid}: {outcome.message}",
            code=outcome.code,
            next_step=explain_store_status(outcome.status, self._endpoint.profile).next_step,
        )

    def _unknown(self, uids: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"Instance {uids} was sent to {where(self._endpoint)} and no valid answer came "
            f"({self._peer.describe_loss()})"
        )


_HOPELESS = frozenset({StoreResult.UNKNOWN, StoreResult.STOP})
"""Results after which nothing more can be sent."""
