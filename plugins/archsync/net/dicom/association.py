"""One association with a peer: proposed, used for one exchange at a time, released.

Stands on pynetdicom's protocol machine and avoids three of its habits. (1) Its reactor thread may take a response off
the queue before the sender sees it (3.0.4: 10 of 400 studies lost under load, then a stall until the DIMSE time-out):
here the reactor stays paused for the life of the association and is kept from the queue. (2) An abort by the peer
or a hung-up connection is seen within a fraction of a second, not at the time-out. (3) The DIMSE time-out starts when
the request has left, so a large instance on a slow line is not given up while it is still travelling.
"""

from __future__ import annotations

import logging
import queue
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pynetdicom import AE, _config, build_context, evt
from pynetdicom.association import Association
from pynetdicom.pdu import A_ABORT_RQ
from pynetdicom.pdu_primitives import A_P_ABORT, A_RELEASE
from pynetdicom.transport import T_CONNECT, AssociationSocket

from archsync.core.contexts import ProposedContext
from archsync.core.destination import check_ae_title
from archsync.core.transfer import Endpoint
from archsync.errors import ArchsyncError, ConfigurationError, DestinationMisconfigured, PeerUnavailable
from archsync.messages.association import describe_abort, negotiation_abort_error, rejection_error
from archsync.net.dicom.transport import build_tls_context, explain_failure, resolve, speaks_tls, where

VERIFICATION = "1.2.840.10008.1.1"
_POLL_S = 0.05
_ABSTRACT_SYNTAX_REFUSED = 3
_INVALID_PDU = 5

# Identifiers and data sets are patient data. pynetdicom logs them up to INFO, pydicom quotes odd values in warnings.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"
logging.getLogger("pynetdicom").setLevel(logging.WARNING)
logging.getLogger("pydicom").setLevel(logging.ERROR)


class PeerAssociation:
    """An established association. Not for several threads."""

    def __init__(self, endpoint: Endpoint, association: Association, notes: _Notes) -> None:
        self._endpoint = endpoint
        self._association = association
        self._notes = notes
        self._message_id = 0
        self._is_waiting = False
        self._accepted: dict[str, dict[str, int]] = {}
        for context in association.accepted_contexts:
            by_syntax = self._accepted.setdefault(str(context.abstract_syntax), {})
            by_syntax.setdefault(str(context.transfer_syntax[0]), int(context.context_id or 0))
        self._refused_classes = {
            str(context.abstract_syntax)
            for context in association.rejected_contexts
            if context.result == _ABSTRACT_SYNTAX_REFUSED
        }
        # From here on the reactor neither takes messages nor reacts to time-outs: see the module's docstring.
        association.dimse.get_msg = lambda block=False: (None, None)  # noqa: ARG005
        association._reactor_checkpoint.clear()

    def context_id(self, sop_class_uid: str, transfer_syntax_uid: str) -> int | None:
        """The accepted presentation context for exactly this pair, or None."""
        return self._accepted.get(sop_class_uid, {}).get(transfer_syntax_uid)

    def refuses_class(self, sop_class_uid: str) -> bool:
        """True when the peer takes this SOP class in no transfer syntax because it does not support the class."""
        return sop_class_uid in self._refused_classes and sop_class_uid not in self._accepted

    @property
    def is_usable(self) -> bool:
        """False once either side has ended the association."""
        association = self._association
        ended = association.acse.is_aborted() or isinstance(association.dul.peek_next_pdu(), A_RELEASE)
        return association.dul.is_alive() and association.is_established and not ended

    def describe_loss(self) -> str:
        """Say in words how the association came to be unusable or silent."""
        if self._notes.abort is not None:
            return describe_abort(*self._notes.abort)
        if not self.is_usable:
            return "the connection was closed"
        return "no answer came in time"

    def send(self, request: Any, context_id: int) -> None:
        """Send a request primitive; its MessageID is set here. Follow with :meth:`receive`."""
        if not self.is_usable:
            raise PeerUnavailable(
                f"{where(self._endpoint)} ended the association between two requests ({self.describe_loss()})",
                reached_peer=True,
                code="association-lost",
            )
        self._message_id = self._message_id % 0xFFFF + 1
        request.MessageID = self._message_id
        self._is_waiting = True
        self._association.dimse.send_msg(request, context_id)

    def receive(self, *, is_last: bool = True) -> Any | None:
        """The response to the last request, or None when the peer gave no valid one; then the association is over.

        ``is_last=False`` announces that more responses to the same request follow (C-FIND, pending).
        """
        response = self._next_message()
        if response is None or not response.is_valid_response or response.MessageIDBeingRespondedTo != self._message_id:
            return None
        self._is_waiting = not is_last
        return response

    def mark_answered(self) -> None:
        """Note that no more responses are expected, after a series of ``receive(is_last=False)``."""
        self._is_waiting = False

    def _next_message(self) -> Any | None:
        """Wait for a message: as long as the request is still leaving, then for the DIMSE time-out."""
        messages, outgoing = self._association.dimse.msg_queue, self._association.dul.to_provider_queue
        backlog, quiet_since = outgoing.qsize(), time.monotonic()
        while True:
            is_usable = self.is_usable  # before looking: a response and a hang-up may arrive together
            try:
                return messages.get(timeout=_POLL_S)[1]
            except queue.Empty:
                if not is_usable:
                    return None
            if outgoing.qsize() != backlog:
                backlog, quiet_since = outgoing.qsize(), time.monotonic()
            limit_s = self._endpoint.network_timeout_s if backlog else self._endpoint.dimse_timeout_s
            if time.monotonic() - quiet_since > limit_s:
                return None

    def close(self) -> None:
        """Release the association, or abort it when an answer is outstanding or the peer has gone. Idempotent."""
        association = self._association
        if self.is_usable and not self._is_waiting:
            association.release()
            return
        if association.dul.to_provider_queue.qsize():
            # An A-ABORT would queue behind data the peer does not read: hang up instead.
            _hang_up(association)
        association.abort()
        association.is_established = False


def _hang_up(association: Association) -> None:
    wrapper = association.dul.socket
    if wrapper is not None and wrapper.socket is not None:
        with suppress(OSError):  # closed already
            wrapper.socket.shutdown(socket.SHUT_RDWR)


class _Notes:
    """What happened on the wire, noted by event handlers (in pynetdicom's threads)."""

    def __init__(self) -> None:
        self.is_connected = False
        self.abort: tuple[int, int] | None = None
        self.last_primitive: Any = None

    def handlers(self) -> list[Any]:
        return [
            (evt.EVT_CONN_OPEN, self._on_open),
            (evt.EVT_PDU_RECV, self._on_pdu),
            (evt.EVT_ACSE_RECV, self._on_primitive),
        ]

    def _on_open(self, _: evt.Event) -> None:
        self.is_connected = True

    def _on_pdu(self, event: evt.Event) -> None:
        if isinstance(event.pdu, A_ABORT_RQ):
            self.abort = (int(event.pdu.source), int(event.pdu.reason_diagnostic or 0))

    def _on_primitive(self, event: evt.Event) -> None:
        self.last_primitive = event.primitive


class _Socket(AssociationSocket):
    """pynetdicom's socket, tuned, with a time-out, and closed for certain."""

    def connect(self, primitive: T_CONNECT) -> None:
        super().connect(primitive)
        if self.socket is None:
            return
        # pynetdicom leaves none: a peer that stops reading would hold its thread, and our process, for ever.
        self.socket.settimeout(self.assoc.network_timeout)
        with suppress(OSError):  # the peer has hung up already, which the next read finds
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def recv(self, nr_bytes: int) -> bytearray:
        # Nagle at the peer (DCMTK's default) waits for our kernel's delayed ACK: 40 ms for each instance. Linux forgets
        # this option, so it is set before each read; other systems lack it.
        if self.socket is not None and hasattr(socket, "TCP_QUICKACK"):
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return super().recv(nr_bytes)

    def _shutdown_socket(self) -> None:
        super()._shutdown_socket()
        if self.socket is not None:
            self.socket.close()  # theirs stays open when shutdown() fails, as it does on a socket not connected


class _Entity(AE):
    """An AE that makes :class:`_Socket`."""

    def _create_socket(self, assoc: Association, address: Any, tls_args: Any) -> AssociationSocket:
        wrapper = _Socket(assoc, address=address)
        wrapper.tls_args = tls_args
        return wrapper


@contextmanager
def open_association(endpoint: Endpoint, contexts: Sequence[ProposedContext]) -> Iterator[PeerAssociation]:
    """Associate with the peer for the length of a ``with`` block; released at its end, aborted if an answer is open.

    Raises:
        PeerUnavailable: not reachable, or refused for now.
        DestinationMisconfigured: refused for good, TLS does not come about, or no context is accepted.
        ConfigurationError: an AE title or a TLS file can't be used.
    """
    for setting, title in (
        ("calling_ae_title", endpoint.calling_ae_title),
        ("called_ae_title", endpoint.called_ae_title),
    ):
        if problem := check_ae_title(title):
            raise ConfigurationError(f"{setting}: {problem} (got {title!r})", code="bad-setting")
    tls_args = (build_tls_context(endpoint.tls), endpoint.host) if endpoint.tls else None
    entity = _Entity(ae_title=endpoint.calling_ae_title)
    entity.connection_timeout = endpoint.connect_timeout_s
    entity.acse_timeout = endpoint.acse_timeout_s
    entity.dimse_timeout = endpoint.dimse_timeout_s
    entity.network_timeout = endpoint.network_timeout_s
    notes = _Notes()
    association = entity.associate(
        resolve(endpoint),
        endpoint.port,
        contexts=[build_context(c.sop_class_uid, list(c.transfer_syntax_uids)) for c in contexts],
        ae_title=endpoint.called_ae_title,
        tls_args=tls_args,
        evt_handlers=notes.handlers(),
    )
    if not association.is_established:
        if association.dul.socket is not None:
            association.dul.socket._shutdown_socket()  # some refusals leave it open
        raise _negotiation_error(endpoint, association, notes)
    peer = PeerAssociation(endpoint, association, notes)
    try:
        yield peer
    finally:
        peer.close()


def _negotiation_error(endpoint: Endpoint, association: Association, notes: _Notes) -> ArchsyncError:
    """Why ``association`` was not established."""
    answer = association.acceptor.primitive
    if not notes.is_connected:
        return explain_failure(endpoint) or PeerUnavailable(
            f"The connection to {where(endpoint)} failed; a second one, a moment later, succeeded",
            code="connection-failed",
        )
    if answer is not None and answer.result == 0:
        return DestinationMisconfigured(
            f"{where(endpoint)} accepted the association but none of the SOP classes and transfer syntaxes proposed",
            code="no-common-context",
            next_step="Enable storage (and the transfer syntaxes) for our AE title at the archive.",
        )
    if answer is not None:
        return rejection_error(
            answer.result,
            answer.result_source,
            answer.diagnostic,
            called_ae_title=endpoint.called_ae_title,
            calling_ae_title=endpoint.calling_ae_title,
        )
    if notes.abort is not None:
        return negotiation_abort_error(*notes.abort)
    if notes.last_primitive is None:
        return PeerUnavailable(
            f"{where(endpoint)} took the connection but did not answer the association request within "
            f"{endpoint.acse_timeout_s:g} s",
            code="association-timeout",
        )
    return _no_dicom_answer(endpoint, notes)


def _no_dicom_answer(endpoint: Endpoint, notes: _Notes) -> ArchsyncError:
    """The peer took the connection, then hung up or sent something that is not DICOM."""
    if endpoint.tls is not None:
        # A TLS 1.3 peer refuses our certificate only after the handshake, which looks like hanging up.
        failure = explain_failure(endpoint)
        if isinstance(failure, DestinationMisconfigured):
            return failure
    elif speaks_tls(endpoint):
        return DestinationMisconfigured(
            f"{where(endpoint)} speaks TLS, and TLS is off for this destination",
            code="tls-required",
            next_step="Switch TLS on for this destination, or use the archive's port without TLS.",
        )
    primitive = notes.last_primitive
    if isinstance(primitive, A_P_ABORT) and primitive.provider_reason == _INVALID_PDU:
        return DestinationMisconfigured(
            f"{where(endpoint)} answers with something that is not DICOM",
            code="not-dicom",
            next_step="Check host and port: another service listens there.",
        )
    return PeerUnavailable(
        f"{where(endpoint)} took the connection and closed it without an answer", code="association-no-answer"
    )
