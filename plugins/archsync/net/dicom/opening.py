"""Opens associations: connection, TLS, negotiation; and says, if one does not come about, why and what to do."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from archsync.core.contexts import ProposedContext
from archsync.core.destination import check_ae_title
from archsync.core.transfer import Endpoint
from archsync.errors import ArchsyncError, ConfigurationError, DestinationMisconfigured, PeerUnavailable
from archsync.messages.association import negotiation_abort_error, rejection_error
from archsync.messages.dimse import MessageReader
from archsync.messages.dul import (
    UNEXPECTED_PDU,
    Aborted,
    AssociateAccepted,
    AssociateRejected,
    ProtocolError,
    encode_abort,
)
from archsync.net.dicom.association import PeerAssociation
from archsync.net.dicom.fragments import MIN_PDU_BYTES
from archsync.net.dicom.negotiation import Negotiated, decode_acceptance, encode_association_request
from archsync.net.dicom.transport import (
    build_tls_context,
    connect,
    explain_failure,
    speaks_tls,
    start_tls,
    tls_failure,
    where,
)
from archsync.net.dicom.wire import PlainWire, TlsWire, Wire

VERIFICATION = "1.2.840.10008.1.1"


class Opening:
    """An association on its way, which another thread may call off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wire: Wire | None = None
        self._is_over = False
        self.is_called_off = False

    def call_off(self) -> bool:
        """Have :func:`associate` fail soon, or once TCP has connected; False if it has ended."""
        with self._lock:
            if self._is_over:
                return False
            self.is_called_off = True
            if self._wire is not None:
                self._wire.interrupt()
            return True

    @property
    def is_connected(self) -> bool:
        """True once there is a connection."""
        return self._wire is not None

    def use(self, wire: Wire) -> None:
        """Note the connection. Raises PeerUnavailable when called off."""
        with self._lock:
            self._wire = wire
            if self.is_called_off:
                raise _called_off()

    def end(self) -> None:
        """Note that the association is there. Raises PeerUnavailable when called off."""
        with self._lock:
            self._is_over = True
            if self.is_called_off:
                raise _called_off()


def _called_off() -> PeerUnavailable:
    return PeerUnavailable("the association was called off", code="association-no-answer")


@contextmanager
def open_association(endpoint: Endpoint, contexts: Sequence[ProposedContext]) -> Iterator[PeerAssociation]:
    """Associate with the peer for the length of a ``with`` block; released at its end, aborted if an answer is open.

    Raises as :func:`associate`.
    """
    peer = associate(endpoint, contexts)
    try:
        yield peer
    finally:
        peer.close()


def associate(
    endpoint: Endpoint, contexts: Sequence[ProposedContext], opening: Opening | None = None
) -> PeerAssociation:
    """Associate with the peer; the caller closes what comes. ``opening`` lets another thread call it off.

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
    request = encode_association_request(endpoint, contexts)
    opening = opening or Opening()
    wire = _open_wire(endpoint)
    try:
        opening.use(wire)
        reader = MessageReader()
        negotiated = _negotiate(endpoint, wire, reader, request, contexts, opening)
        opening.end()
    except BaseException:
        wire.close()
        raise
    peer = PeerAssociation(endpoint, wire, reader, negotiated)
    if (useless := _find_useless(endpoint, negotiated)) is not None:
        peer.close()
        raise useless
    return peer


def _open_wire(endpoint: Endpoint) -> Wire:
    context = build_tls_context(endpoint.tls) if endpoint.tls else None
    connection = connect(endpoint)
    try:
        if context is None:
            return PlainWire(connection)
        return TlsWire(start_tls(endpoint, connection, context))
    except OSError as exc:
        connection.close()
        raise PeerUnavailable(
            f"The connection to {where(endpoint)} failed ({exc.strerror or exc})", code="connection-failed"
        ) from exc
    except BaseException:
        connection.close()
        raise


def _negotiate(
    endpoint: Endpoint,
    wire: Wire,
    reader: MessageReader,
    request: bytes,
    contexts: Sequence[ProposedContext],
    opening: Opening,
) -> Negotiated:
    """Send the association request and read the answer."""
    deadline = time.monotonic() + endpoint.acse_timeout_s
    try:
        wire.send(memoryview(request), timeout_s=endpoint.acse_timeout_s, while_waiting=lambda: None)
        while (event := reader.next_event()) is None:
            received = wire.receive(deadline)
            if not received:
                raise _no_answer(endpoint, opening)
            reader.feed(received)
        if isinstance(event, AssociateAccepted):
            return decode_acceptance(event.pdu, contexts)
    except TimeoutError as exc:
        raise PeerUnavailable(
            f"{where(endpoint)} took the connection but did not answer the association request within "
            f"{endpoint.acse_timeout_s:g} s",
            code="association-timeout",
        ) from exc
    except OSError as exc:
        if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError):
            raise tls_failure(endpoint, exc) from exc
        raise _no_answer(endpoint, opening) from exc
    except ProtocolError as exc:
        wire.send_now(encode_abort(exc.reason))
        raise _no_dicom(endpoint) from exc
    if isinstance(event, AssociateRejected):
        raise rejection_error(
            event.result,
            event.source,
            event.reason,
            called_ae_title=endpoint.called_ae_title,
            calling_ae_title=endpoint.calling_ae_title,
        )
    if isinstance(event, Aborted):
        raise negotiation_abort_error(event.source, event.reason)
    wire.send_now(encode_abort(UNEXPECTED_PDU))
    raise _no_dicom(endpoint)


def _find_useless(endpoint: Endpoint, negotiated: Negotiated) -> ArchsyncError | None:
    """What stands against using an association that was accepted."""
    if not negotiated.accepted:
        return DestinationMisconfigured(
            f"{where(endpoint)} accepted the association but none of the SOP classes and transfer syntaxes proposed",
            code="no-common-context",
            next_step="Enable storage (and the transfer syntaxes) for our AE title at the archive.",
        )
    if 0 < negotiated.maximum_length < MIN_PDU_BYTES:
        return DestinationMisconfigured(
            f"{where(endpoint)} takes PDUs of no more than {negotiated.maximum_length} bytes, which is of no use",
            code="pdu-too-short",
            next_step="Raise the maximum PDU length at the archive; 16384 or more is usual.",
        )
    return None


def _no_answer(endpoint: Endpoint, opening: Opening) -> ArchsyncError:
    """The peer took the connection, then hung up; or we did."""
    if opening.is_called_off:
        return _called_off()
    return _tls_mix_up(endpoint) or PeerUnavailable(
        f"{where(endpoint)} took the connection and closed it without an answer", code="association-no-answer"
    )


def _no_dicom(endpoint: Endpoint) -> ArchsyncError:
    """The peer took the connection and answered something that is not DICOM."""
    return _tls_mix_up(endpoint) or DestinationMisconfigured(
        f"{where(endpoint)} answers with something that is not DICOM",
        code="not-dicom",
        next_step="Check host and port: another service listens there.",
    )


def _tls_mix_up(endpoint: Endpoint) -> ArchsyncError | None:
    if endpoint.tls is not None:
        # A TLS 1.3 peer refuses our certificate only after the handshake, which looks like hanging up.
        failure = explain_failure(endpoint)
        return failure if isinstance(failure, DestinationMisconfigured) else None
    if not speaks_tls(endpoint):
        return None
    return DestinationMisconfigured(
        f"{where(endpoint)} speaks TLS, and TLS is off for this destination",
        code="tls-required",
        next_step="Switch TLS on for this destination, or use the archive's port without TLS.",
    )
