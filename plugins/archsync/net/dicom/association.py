"""One association with a peer: proposed, used, released.

Everything happens in the caller's thread: no reactor, no queue, no polling. What comes in is read by
``messages/dimse.py``, which knows nothing of sockets; what goes out is laid out by ``fragments.py``; ``wire.py`` keeps
the time-outs. The rules kept here:

- A request is preceded by a look at what the peer said meanwhile, so an association that ended between two exchanges
  is told from one that ended within (the outcome of the request is then unknown).
- The time-out for a response (DIMSE) starts when the request has left; while it leaves, the network time-out counts
  from the last byte that the peer's side took.
- A peer may answer or abort before it has the whole request (PS3.7 9.1.1). An abort is seen within a fraction of a
  second. An early answer counts if it is a refusal; one that claims success for half a data set does not.
- Requests wait for their answers one at a time, unless the peer has agreed to a window (PS3.7 D.3.3.3); then answers
  may come in any order and are told by their message id.
- A response to no waiting message, or bytes that are no message, end the association: A-ABORT.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from archsync.core.transfer import Endpoint
from archsync.errors import PeerUnavailable
from archsync.messages.association import describe_abort
from archsync.messages.dimse import C_STORE_RQ, Message, MessageReader, encode_request
from archsync.messages.dul import (
    RELEASE_RP,
    RELEASE_RQ,
    UNEXPECTED_PDU,
    Aborted,
    Event,
    ProtocolError,
    ReleaseAgreed,
    ReleaseRequested,
    encode_abort,
    encode_fragments,
    max_fragment_bytes,
)
from archsync.net.dicom.fragments import CHUNK_BYTES, FragmentBuffer, SourceFailed
from archsync.net.dicom.negotiation import Negotiated
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.transport import (
    where,
)
from archsync.net.dicom.wire import Wire

_WARNING = 0xB
_RELEASE_WAIT_S = 10.0
_ABORT_WAIT_S = 0.5
"""How long a peer gets to close the connection after our A-ABORT (ARTIM, PS3.8 9.1.5)."""
_SHORT_PDU_BYTES = 1 << 14


class Response(NamedTuple):
    """A peer's response to our request ``message_id``."""

    message_id: int
    status: int
    data_set: bytes


class PeerAssociation:
    """An established association. Not for several threads, but for :meth:`interrupt`."""

    def __init__(self, endpoint: Endpoint, wire: Wire, reader: MessageReader, negotiated: Negotiated) -> None:
        self._endpoint = endpoint
        self._wire = wire
        self._reader = reader
        self._negotiated = negotiated
        self._loss: str | None = None
        self._message_id = 0
        self._kind = 0
        self._waiting: dict[int, float] = {}  # message id → when it had left; the answers may be in the making
        self._is_torn = False  # within a PDU of ours
        self._is_complete = True  # our last request has left as a whole
        self._pace: Pace | None = None
        self._ended_by_us = False
        self._is_closed = False

    def context_id(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """The accepted presentation context for exactly this pair, or None."""
        return self._negotiated.accepted.get(sop_class_uid, {}).get(transfer_syntax_uid)

    def refuses_class(self, sop_class_uid: str) -> bool:
        """True when the peer takes this SOP class in no transfer syntax because it does not support the class."""
        negotiated = self._negotiated
        return sop_class_uid in negotiated.refused_classes and sop_class_uid not in negotiated.accepted

    def new_buffer(self, pace: Pace) -> FragmentBuffer:
        """Memory that data sets for this peer go out of, from now on at the pace given."""
        self._pace = pace
        return FragmentBuffer(self._negotiated.maximum_length, chunk_bytes=pace.chunk_bytes(CHUNK_BYTES))

    @property
    def window(self) -> int:
        """How many requests may wait for their answers at a time."""
        return self._negotiated.window

    @property
    def is_usable(self) -> bool:
        """False once either side has ended the association."""
        if self._loss is None:
            self._look()
        return self._loss is None

    @property
    def was_ended_by_us(self) -> bool:
        """True when the association is over for a reason that lies in one instance: the others go on another."""
        return self._ended_by_us

    @property
    def is_whole(self) -> bool:
        """True when the last request has left as a whole."""
        return self._is_complete

    def describe_loss(self) -> str:
        """Say in words how the association came to be unusable or silent."""
        return self._loss or "no answer came in time"

    # -- requests ----------------------------------------------------------------------------------------------------

    def send(self, kind: int, sop_class_uid: str, context_id: int, data_set: bytes = b"") -> None:
        """Send a request with or without a small data set. Follow with :meth:`receive`.

        Raises:
            PeerUnavailable: ``association-lost``: the peer ended the association before.
        """
        self._begin(kind)
        command = encode_request(kind, self._message_id, sop_class_uid, with_data_set=bool(data_set))
        length = self._negotiated.maximum_length
        fragment_bytes = max_fragment_bytes(length, at_most=_SHORT_PDU_BYTES)
        pdus = encode_fragments(context_id, command, is_command=True, fragment_bytes=fragment_bytes)
        if data_set:
            pdus += encode_fragments(context_id, data_set, is_command=False, fragment_bytes=fragment_bytes)
        self._send_all(iter([memoryview(pdus)]))

    def store(self, sop_class_uid: str, sop_instance_uid: str, buffer: FragmentBuffer) -> int:
        """Send a C-STORE request with the data set that ``buffer`` has begun; gives its message id.

        :meth:`receive` gives the answer. Not more than ``window`` may wait for theirs.

        Raises:
            PeerUnavailable: ``association-lost``: the peer ended the association before.
            SourceFailed, OSError: the data set can't be read to its end. The association is over: A-ABORT.
        """
        self._begin(C_STORE_RQ)
        command = encode_request(
            C_STORE_RQ, self._message_id, sop_class_uid, with_data_set=True, sop_instance_uid=sop_instance_uid
        )
        self._send_all(buffer.chunks(command))
        self._waiting[self._message_id] = time.monotonic()
        return self._message_id

    def _begin(self, kind: int) -> None:
        if not self.is_usable:
            raise PeerUnavailable(
                f"{where(self._endpoint)} ended the association between two requests ({self.describe_loss()})",
                reached_peer=True,
                code="association-lost",
            )
        self._message_id = self._message_id % 0xFFFF + 1
        self._kind = kind
        self._waiting[self._message_id] = time.monotonic()

    def _send_all(self, chunks: Iterator[memoryview]) -> None:
        """Send pieces of a request, each some whole PDUs."""
        self._is_complete = False
        chunk = next(chunks, None)
        while chunk is not None and self._loss is None:
            if self._pace is not None:
                self._pace.wait_for(len(chunk))
            self._is_torn = True
            try:
                self._wire.send(
                    chunk, timeout_s=self._endpoint.network_timeout_s, while_waiting=self._look_while_sending
                )
            except TimeoutError:
                self._loss = "it stopped reading"
                return
            except _Ended:
                return
            except OSError:
                self._look()  # what it said before it hung up
                self._lose("the connection was closed")
                return
            self._is_torn = False
            try:
                chunk = next(chunks, None)
            except (SourceFailed, OSError):
                self._loss, self._ended_by_us = "the data set could not be read to its end", True
                self.close()
                raise
            if chunk is not None:
                self._look()
        self._is_complete = chunk is None
        if self._loss is None:
            with suppress(OSError):  # the next read finds it
                self._wire.acknowledge()

    def _look_while_sending(self) -> None:
        self._look()
        if self._loss is not None:
            raise _Ended

    # -- responses ---------------------------------------------------------------------------------------------------

    def receive(self, *, is_last: bool = True) -> Response | None:
        """The next response, or None when the peer gave no valid one; then the association is over.

        ``is_last=False`` announces that more responses to the same request follow (C-FIND, pending).
        """
        try:
            message = self._next_message()
        except TimeoutError:
            self._loss = "no answer came in time"
            return None
        if message is None:
            return None
        command = message.command
        message_id = command.responded_to
        if (
            message_id is None
            or message_id not in self._waiting
            or command.status is None
            or not command.answers(self._kind, message_id)
        ):
            self._loss = "it answered another message"
            return None
        if not self._is_complete and message_id == self._message_id:
            self._lose("it answered before it had everything")
            if command.status == 0 or command.status >> 12 == _WARNING:
                return None
            self._ended_by_us = True
        if is_last:
            del self._waiting[message_id]
        return Response(message_id, command.status, message.data_set)

    def mark_answered(self) -> None:
        """Note that no more responses are expected, after a series of ``receive(is_last=False)``."""
        self._waiting.clear()

    def _next_message(self) -> Message | None:
        """The next message; None when the association ended before. Raises TimeoutError."""
        # With several under way, one that is never answered must not hide behind the others.
        are_several = len(self._waiting) > 1
        since = next(iter(self._waiting.values())) if are_several else time.monotonic()
        deadline = since + self._endpoint.dimse_timeout_s
        while True:
            try:
                event = self._reader.next_event()
            except ProtocolError as exc:
                self._end_for(exc)
                return None
            if isinstance(event, Message):
                return event
            if event is not None:
                self._note(event)
            elif self._loss is not None:
                return None
            elif are_several and time.monotonic() >= deadline:
                if not self._look():
                    raise TimeoutError
            else:
                self._take(self._receive(deadline))

    def _receive(self, deadline: float) -> memoryview:
        try:
            return self._wire.receive(deadline)
        except TimeoutError:
            raise
        except OSError:
            return memoryview(b"")

    def _lose(self, how: str) -> None:
        """Note that the association is over, unless that is known already with a better reason."""
        if self._loss is None:
            self._loss = how

    def _take(self, received: memoryview) -> None:
        if received:
            self._reader.feed(received)
        else:
            self._lose("the connection was closed")

    def _look(self) -> bool:
        """Take what the peer said unasked; False if that was nothing. A message stays for :meth:`receive`."""
        try:
            received = self._wire.receive_now()
        except OSError:
            received = memoryview(b"")
        if received is not None:
            self._take(received)
        try:
            # Also what came together with the last answer.
            while (event := self._reader.peek_event()) is not None and not isinstance(event, Message):
                self._note(event)
                self._reader.next_event()
        except ProtocolError as exc:
            self._end_for(exc)
        return received is not None

    def _note(self, event: Event) -> None:
        """The association ends with anything but a message."""
        if isinstance(event, Aborted):
            self._loss = describe_abort(event.source, event.reason)
        elif isinstance(event, ReleaseRequested):
            self._loss = "it released the association"
            if not self._is_torn:
                self._wire.send_now(RELEASE_RP)
        else:
            self._end_for(ProtocolError("a PDU out of place", reason=UNEXPECTED_PDU))

    def _end_for(self, error: ProtocolError) -> None:
        self._loss = f"it sent {error}, which is not DICOM"
        if not self._is_torn:
            self._wire.send_now(encode_abort(error.reason))

    # -- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Release the association, or abort it when an answer is outstanding or the peer has gone. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._is_torn:
            self._wire.hang_up()  # an A-ABORT would be taken for data
            return
        try:
            if self._loss is None and not self._waiting:
                self._release()
            else:
                self._wire.send_now(encode_abort())
                self._wire.wait_for_end(_ABORT_WAIT_S)
        finally:
            self._wire.close()

    def interrupt(self) -> None:
        """End the association from another thread; what its own thread waits for fails."""
        self._wire.interrupt()

    def _release(self) -> None:
        """Ask for the release and wait for it (PS3.8 7.2); a peer that does not answer is left."""
        deadline = time.monotonic() + min(_RELEASE_WAIT_S, self._endpoint.acse_timeout_s)
        release = memoryview(RELEASE_RQ)
        with suppress(OSError, ProtocolError):
            self._wire.send(release, timeout_s=self._endpoint.network_timeout_s, while_waiting=lambda: None)
            while not isinstance(event := self._reader.next_event(), (ReleaseAgreed, Aborted)):
                if isinstance(event, ReleaseRequested):
                    self._wire.send_now(RELEASE_RP)  # both at once (PS3.8 7.2.2)
                elif event is None:
                    received = self._wire.receive(deadline)
                    if not received:
                        return
                    self._reader.feed(received)


class _Ended(Exception):
    """The peer ended the association while something was being sent to it."""
