"""Sends instances over one association and says what came of each: one after the other, or several at a time.

While the peer works on an instance, the next file is opened, checked and its beginning read, so that it leaves as soon
as the answer is there, or its re-encoding is begun (reencoder.py). Corrected copies are not made ahead.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import lru_cache

from archsync.core.contexts import FALLBACK_SYNTAXES
from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome, StoreResult
from archsync.errors import DestinationMisconfigured, InvalidInput, OutcomeUnknown, PeerUnavailable
from archsync.messages.store_status import describe_store_status, explain_store_status
from archsync.net.dicom.association import PeerAssociation, Response
from archsync.net.dicom.fitting import corrected_copy, fits
from archsync.net.dicom.fragments import FileSource, SourceChanged
from archsync.net.dicom.opened import OpenInstance, open_instance, unreadable
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.part10 import FileFacts
from archsync.net.dicom.reencoder import Reencoder, ReencodingFailed, not_reencodable, uid_name
from archsync.net.dicom.transport import where
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
            return first
        return open_instance(instance, self.ahead)

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


@dataclass(slots=True)
class _Message:
    """A data set ready to leave, and what to say about it."""

    facts: FileFacts
    transfer_syntax_uid: str
    size_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def is_reencoded(self) -> bool:
        return self.transfer_syntax_uid != self.facts.transfer_syntax_uid


class Sender:
    """Sends over ``peer``, which stays the caller's."""

    def __init__(self, endpoint: Endpoint, peer: PeerAssociation, workload: Workload) -> None:
        self._endpoint = endpoint
        self._peer = peer
        self._workload = workload
        self._buffer = peer.new_buffer(workload.pace)
        self._ahead: OpenInstance | None = None
        self._loaded: _Message | None = None  # what the buffer holds of the one ahead
        self._reencoder = Reencoder()
        self._under_way: dict[int, tuple[OpenInstance, _Message]] = {}
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
                self._stop_if_hopeless(outcome)
        finally:
            self._reencoder.close()
            for current, _ in self._under_way.values():
                current.close()
            if self._ahead is not None:
                self._ahead.close()
                self._workload.waiting.appendleft(self._ahead.instance)

    def _take_refused(self) -> list[StoreOutcome]:
        refused, self._refused = self._refused, []
        return refused

    def _open_next(self) -> None:
        """Open the next instance that can be sent on this association, and load what goes out as it is."""
        self._take_next()
        self._loaded = None
        if self._ahead is None or not fits(self._ahead.instance, self._ahead.facts):
            return
        facts = self._ahead.facts
        context_id = self._peer.context_id(facts.sop_class_uid, facts.transfer_syntax_uid)
        if context_id is not None:
            try:
                self._loaded = self._load_file(facts, self._ahead.descriptor, context_id)
            except (SourceChanged, OSError):
                self._loaded = None  # looked at again when its turn comes

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
            context_id = self._peer.context_id(*pair)
            if context_id is None and pair not in self._workload.pairs:
                opened.close()
                self._workload.put_aside.append(instance)
                continue
            self._ahead = opened
            if context_id is None and fits(instance, opened.facts):
                with suppress(InvalidInput):  # said when its turn comes
                    self._reencoder.begin(opened.facts, opened.descriptor, self._fallback(opened.facts)[0])

    def _load_file(self, facts: FileFacts, descriptor: int, context_id: int) -> _Message:
        self._buffer.begin(FileSource(descriptor, facts.data_set_offset), facts.data_set_bytes, context_id)
        return _Message(facts, facts.transfer_syntax_uid, _even(facts.data_set_bytes))

    def _load_reencoded(self, facts: FileFacts, descriptor: int, syntax: str, context_id: int) -> _Message:
        source = self._reencoder.open(facts, descriptor, syntax)
        try:
            self._buffer.begin(source, source.size_bytes, context_id)
        except ReencodingFailed:
            raise not_reencodable(facts, syntax, _NOT_TO_THE_END) from None
        return _Message(facts, syntax, source.size_bytes)

    # -- one instance ------------------------------------------------------------------------------------------------

    def _store(self, current: OpenInstance) -> StoreOutcome:
        """Send one instance in the best form the peer takes, then open the next, then take the answer."""
        instance, message = current.instance, self._loaded
        with ExitStack() as until_answered:
            try:
                if message is None or not message.facts.is_unchanged:
                    message = self._prepare(current, until_answered)
            except InvalidInput as exc:
                self._open_next()
                return not_sent(instance, exc)
            facts = message.facts
            if message.is_reencoded and self._reencoder.is_idle:
                self._take_next()  # decoded while this one leaves
            try:
                self._peer.store(facts.sop_class_uid, facts.sop_instance_uid, self._buffer)
            except ReencodingFailed:
                return not_sent(instance, not_reencodable(facts, message.transfer_syntax_uid, _NOT_TO_THE_END))
            except (SourceChanged, OSError):
                return self._outcome(instance, message, StoreResult.LIMITED, None, _CHANGED_CODE, _CHANGED)
            if self._peer.is_whole:
                self._open_next()
            return self._answered(instance, message, self._receive())

    def _receive(self) -> Response | None:
        asked_at = time.monotonic()
        response = self._peer.receive()
        self.waited_s += time.monotonic() - asked_at
        return response

    def _answered(self, instance: OutgoingInstance, message: _Message, response: Response | None) -> StoreOutcome:
        status = None if response is None else response.status
        result, code, sentence = _meaning(status, self._endpoint.profile)
        if status is None:
            sentence = f"{sentence} ({self._peer.describe_loss()})"
        elif result.is_stored and not message.facts.is_unchanged:
            # What the peer holds now may be neither the old content nor the new.
            result, code, sentence = StoreResult.LIMITED, _CHANGED_CODE, _CHANGED
        return self._outcome(instance, message, result, status, code, sentence)

    @staticmethod
    def _outcome(
        instance: OutgoingInstance, message: _Message, result: StoreResult, status: int | None, code: str, sentence: str
    ) -> StoreOutcome:
        notes = message.notes
        if message.transfer_syntax_uid != instance.transfer_syntax_uid and not notes:
            notes = (_other_syntax(message.facts),)
        return StoreOutcome(
            instance,
            result,
            status,
            code,
            "; ".join((sentence, *notes)) if notes else sentence,
            message.size_bytes,
            message.transfer_syntax_uid,
        )

    # -- several at a time, where the peer has agreed to it ----------------------------------------------------------

    def _room(self) -> int:
        """How many of those under way may stay so. What is made for sending, and may fail on the way, goes alone."""
        can_join = self._loaded is not None and not self._is_dismissed and self._peer.is_usable
        return self._peer.window - 1 if can_join else 0

    def _send_with_others(self, current: OpenInstance, message: _Message) -> Iterator[StoreOutcome]:
        """Send one instance and open the next; the answer is for :meth:`_take_answers`."""
        self._loaded = None
        try:
            message_id = self._peer.store(message.facts.sop_class_uid, message.facts.sop_instance_uid, self._buffer)
        except (SourceChanged, OSError):
            current.close()
            yield self._outcome(current.instance, message, StoreResult.LIMITED, None, _CHANGED_CODE, _CHANGED)
            yield from self._lose_those_under_way()
            return
        except BaseException:
            current.close()
            raise
        self._under_way[message_id] = current, message
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
            current, message = self._under_way.pop(response.message_id)
            outcome = self._answered(current.instance, message, response)
            current.close()
            yield outcome
            if outcome.result is StoreResult.STOP:
                stop = outcome
        if stop:
            self._stop_if_hopeless(stop)

    def _lose_those_under_way(self) -> Iterator[StoreOutcome]:
        """Say of each that it was sent and not answered."""
        lost = list(self._under_way.values())
        self._under_way.clear()
        for current, message in lost:
            current.close()
            yield self._answered(current.instance, message, None)
        if lost:
            raise self._unknown(", ".join(current.instance.sop_instance_uid for current, _ in lost))

    # -- forms and errors --------------------------------------------------------------------------------------------

    def _prepare(self, current: OpenInstance, until_answered: ExitStack) -> _Message:
        """Load one instance: its file or a corrected copy, which ``until_answered`` deletes, or re-encoded.

        Raises:
            InvalidInput: the file has changed for the worse, or the peer takes it in no form we can make.
            PeerUnavailable: ``no-room-for-copy``.
        """
        instance = current.instance
        if not current.facts.is_unchanged:
            current.close()
            renewed = open_instance(instance, self._workload.ahead)
            current.facts, current.descriptor = renewed.facts, renewed.descriptor
        facts, descriptor, notes = current.facts, current.descriptor, []
        if facts.transfer_syntax_uid != instance.transfer_syntax_uid:
            notes.append(_other_syntax(facts))
        if not fits(instance, facts):
            facts, note = until_answered.enter_context(corrected_copy(instance, facts))
            notes.append(note)
            stream = until_answered.enter_context(facts.path.open("rb", buffering=0))
            descriptor = stream.fileno()
        context_id = self._peer.context_id(facts.sop_class_uid, facts.transfer_syntax_uid)
        try:
            if context_id is not None:
                message = self._load_file(facts, descriptor, context_id)
            else:
                syntax, context_id = self._fallback(facts)
                message = self._load_reencoded(facts, descriptor, syntax, context_id)
                notes.append(f"sent as {uid_name(syntax)}")
        except OSError as exc:
            raise unreadable(instance.uid_in_file, exc) from None  # the cause names the path
        except SourceChanged:
            raise InvalidInput(
                f"instance {instance.uid_in_file}: its file changed while it was being read", code=_CHANGED_CODE
            ) from None
        message.notes = tuple(notes)
        return message

    def _fallback(self, facts: FileFacts) -> tuple[str, int]:
        """The uncompressed syntax and context to fall back to.

        Raises:
            InvalidInput: ``sop-class-not-accepted`` or ``transfer-syntax-not-accepted``: there is none.
        """
        for syntax in FALLBACK_SYNTAXES:
            context_id = self._peer.context_id(facts.sop_class_uid, syntax)
            if context_id is not None:
                return syntax, context_id
        if self._peer.refuses_class(facts.sop_class_uid):
            raise InvalidInput(
                f"the archive does not take SOP class {uid_name(facts.sop_class_uid)}",
                code="sop-class-not-accepted",
                next_step="Enable the SOP class at the archive, then retry the job.",
            )
        raise InvalidInput(
            f"the archive takes neither {uid_name(facts.transfer_syntax_uid)} nor an uncompressed transfer syntax "
            f"for SOP class {uid_name(facts.sop_class_uid)}",
            code="transfer-syntax-not-accepted",
            next_step="Enable the transfer syntax at the archive, then retry the job.",
        )

    def _stop_if_hopeless(self, outcome: StoreOutcome) -> None:
        """Raise when nothing more can be sent after this outcome."""
        uid = outcome.instance.sop_instance_uid
        if outcome.result is StoreResult.UNKNOWN:
            raise self._unknown(uid)
        if outcome.result is StoreResult.STOP:
            raise DestinationMisconfigured(
                f"{where(self._endpoint)} refused instance {uid}: {outcome.message}",
                code=outcome.code,
                next_step=explain_store_status(outcome.status, self._endpoint.profile).next_step,
            )

    def _unknown(self, uids: str) -> OutcomeUnknown:
        return OutcomeUnknown(
            f"Instance {uids} was sent to {where(self._endpoint)} and no valid answer came "
            f"({self._peer.describe_loss()})"
        )


_NOT_TO_THE_END = "its pixel data can't be decoded to the end"
_CHANGED_CODE, _CHANGED = "file-changed", "The file changed while it was being sent"


def not_sent(instance: OutgoingInstance, reason: InvalidInput | PeerUnavailable) -> StoreOutcome:
    """The outcome of an instance that can't be sent, or not now."""
    result = StoreResult.BUSY if isinstance(reason, PeerUnavailable) else StoreResult.REFUSED
    return StoreOutcome(instance=instance, result=result, code=reason.code, message=reason.message)


def _other_syntax(facts: FileFacts) -> str:
    return f"its file is in {uid_name(facts.transfer_syntax_uid)}, not as the platform says"


def _even(size_bytes: int) -> int:
    """With the byte that makes an odd data set even: a deflated one in a file without the padding of PS3.5 A.5."""
    return size_bytes + size_bytes % 2


@lru_cache(maxsize=64)
def _meaning(status: int | None, profile: ArchiveProfile) -> tuple[StoreResult, str, str]:
    meaning = explain_store_status(status, profile)
    return meaning.result, meaning.code, describe_store_status(status, profile)
