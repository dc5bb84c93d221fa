"""The sender's side of MLLP: one connection that is kept, one message at a time, each waiting for its acknowledgement.

What is certain decides which error is raised. Before the first byte of a message has left, a failure means that
nothing was sent. From then on only an acknowledgement that names the message's control id is an answer; anything else
leaves the outcome unknown, the connection is closed, and the same bytes are to be sent again.

Receivers close idle connections, and a write into one that is half closed succeeds. So a kept connection that
is lost before the first byte of an answer is opened once more and the same bytes are sent again, by itself.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import deque
from collections.abc import Sequence

from archsync.core.tls import TlsSettings
from archsync.errors import ArchsyncError, DestinationMisconfigured, InvalidInput, OutcomeUnknown, PeerUnavailable
from archsync.messages.hl7_ack import Ack, ack_error, explain_ack, parse_ack, parse_ack_overrides, read_header
from archsync.messages.mllp import FrameDecoder, encode_frame
from archsync.net.dicom.transport import TLS_FAILURES, build_tls_context

_RECEIVE_BYTES = 65536
_OBJECTION_WAIT_S = 1.0
_REMEMBERED_ANSWERS = 16


class _ConnectionLost(Exception):  # not an error yet: a kept connection is opened once more
    """The connection ended before the first byte of an answer."""


class MllpClient:
    """A connection to one HL7 receiver, opened when needed. Not for several threads: one message is in flight.

    Args:
        connect_timeout_s: For TCP and for the TLS handshake.
        ack_timeout_s: From the last byte sent to the last byte of the acknowledgement.
        idle_close_s: A connection that was not used for so long is closed and opened anew.
        ack_overrides: What this receiver means differently, see :func:`archsync.messages.hl7_ack.parse_ack_overrides`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: TlsSettings | None = None,
        connect_timeout_s: float = 10.0,
        ack_timeout_s: float = 30.0,
        idle_close_s: float = 60.0,
        ack_overrides: Sequence[str] = (),
    ) -> None:
        self._address = (host, port)
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._ack_timeout_s = ack_timeout_s
        self._idle_close_s = idle_close_s
        self._overrides = parse_ack_overrides(ack_overrides)
        self._socket: socket.socket | None = None
        self._decoder = FrameDecoder()
        self._used_at_s = 0.0
        self._is_kept = False
        self._answered: deque[str] = deque(maxlen=_REMEMBERED_ANSWERS)

    def __enter__(self) -> MllpClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def peer(self) -> str:
        """The receiver in words, for messages."""
        return f"{self._address[0]}:{self._address[1]}"

    @property
    def is_connected(self) -> bool:
        """True while a connection is open on our side."""
        return self._socket is not None

    def close(self) -> None:
        """Close the connection, if there is one; the next message opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def connect(self) -> None:
        """Open the connection, if there is none, or none that can be used any more.

        Raises:
            PeerUnavailable: the receiver can't be reached.
            DestinationMisconfigured: TLS or a certificate is refused by either side.
            ConfigurationError: a PEM file can't be used.
        """
        if self._socket is not None:
            if time.monotonic() - self._used_at_s < self._idle_close_s and not self._is_stale(self._socket):
                return
            self.close()
        connection = self._open()
        if self._tls is not None:
            connection = self._start_tls(connection, self._tls)
        self._socket = connection
        self._is_kept = False  # until it has served
        self._used_at_s = time.monotonic()
        self._decoder = FrameDecoder()
        self._answered.clear()

    def send(
        self,
        message: bytes,
        *,
        was_unanswered: bool = False,
        repeats_are_refused: bool = True,
        merge_is_pending: bool = False,
    ) -> Ack:
        """Send a message and wait until the receiver accepts it.

        Args:
            message: As built, with its control id; sent as it is.
            was_unanswered: An earlier attempt with these bytes got no valid answer: a refused repetition of a merge
                then means that the first one was applied.
            repeats_are_refused: A refused merge may be refused for being a repetition; False where the new identifier
                gave way before, for which it is refused in any case.
            merge_is_pending: A merge of the same patient is still to be sent.

        Raises:
            InvalidInput: the message has no control id, or holds bytes that delimit frames.
            PeerUnavailable: nothing was sent; or the receiver answered that it can't now (``reached_peer``).
            PeerRefused: the receiver answered and refused; ``code`` says why.
            DestinationMisconfigured: it would refuse every message.
            OutcomeUnknown: sent, and no valid acknowledgement of this message came.
        """
        header = read_header(message)
        if not header.control_id:
            raise InvalidInput("the message has no control id (MSH-10)", code="hl7-invalid-message")
        frame = encode_frame(message)
        self.connect()
        is_kept = self._is_kept
        try:
            try:
                ack = self._exchange(frame, header.control_id)
            except _ConnectionLost as exc:
                if not is_kept:
                    raise self._no_answer(self._tls_objection()) from exc
                was_unanswered = True
                ack = self._send_again(frame, header.control_id)
        except BaseException:  # whatever it is, what comes on this connection can't be trusted to be an answer
            self.close()
            raise
        self._used_at_s = time.monotonic()
        self._is_kept = True
        self._answered.append(header.control_id)
        rule = explain_ack(
            ack,
            header.trigger,
            was_unanswered=was_unanswered and repeats_are_refused,
            merge_is_pending=merge_is_pending,
            overrides=self._overrides,
        )
        error = ack_error(ack, rule, self.peer)
        if error is not None:
            raise error
        return ack

    def _send_again(self, frame: bytes, control_id: str) -> Ack:
        """Send the same bytes on a new connection; the first copy may have arrived, so no failure means "not sent"."""
        self.close()
        try:
            self.connect()
            return self._exchange(frame, control_id)
        except OutcomeUnknown:
            raise
        except (_ConnectionLost, ArchsyncError) as exc:
            raise self._no_answer() from exc

    def _exchange(self, frame: bytes, control_id: str) -> Ack:
        """Send a frame and wait for the acknowledgement that names ``control_id``."""
        connection = self._socket
        assert connection is not None, "connected by the caller"
        try:
            connection.settimeout(self._ack_timeout_s)
            connection.sendall(frame)
        except TimeoutError as exc:
            raise self._no_answer() from exc
        except OSError as exc:
            raise _ConnectionLost from exc
        deadline_s = time.monotonic() + self._ack_timeout_s
        while True:
            for answer in self._decoder.feed(self._receive(connection, deadline_s)):
                ack = parse_ack(answer)
                if ack.control_id == control_id:
                    return ack
                # Enhanced mode: the application's answer to an earlier message may come after its commit answer.
                if ack.control_id not in self._answered:
                    raise OutcomeUnknown(
                        f"{self.peer} acknowledged another message than the one that was sent", code="hl7-wrong-ack"
                    )

    def _receive(self, connection: socket.socket, deadline_s: float) -> bytes:
        """Bytes as they come, at least one."""
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise self._no_answer()
        try:
            connection.settimeout(remaining_s)
            data = connection.recv(_RECEIVE_BYTES)
        except TimeoutError as exc:
            raise self._no_answer() from exc
        except ssl.SSLError as exc:
            if exc.reason in TLS_FAILURES:  # TLS 1.3: our certificate is refused after the handshake has ended for us
                raise self._tls_failure(exc) from exc
            data = b""
        except OSError:
            data = b""
        if data:
            return data
        if self._decoder.has_partial_frame:
            raise OutcomeUnknown(f"{self.peer} hung up in the middle of its answer", code="hl7-truncated-ack")
        raise _ConnectionLost

    def _no_answer(self, objection: ArchsyncError | None = None) -> ArchsyncError:
        if objection is not None:
            return objection
        if self._decoder.has_partial_frame:
            return OutcomeUnknown(
                f"{self.peer} did not finish its answer within {self._ack_timeout_s:g} s", code="hl7-truncated-ack"
            )
        return OutcomeUnknown(
            f"the message was sent to {self.peer}, and no acknowledgement came within {self._ack_timeout_s:g} s"
            " or before the receiver hung up",
            code="hl7-no-ack",
        )

    def _is_stale(self, connection: socket.socket) -> bool:
        """Tell whether the receiver has hung up; what it said meanwhile was no answer to anything and is dropped."""
        try:
            connection.settimeout(0)
            while data := connection.recv(_RECEIVE_BYTES):
                self._decoder.feed(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except (OSError, OutcomeUnknown):
            return True
        return True

    # -- connecting --------------------------------------------------------------------------------------------------

    def _open(self) -> socket.socket:
        try:
            connection = socket.create_connection(self._address, timeout=self._connect_timeout_s)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except ConnectionRefusedError as exc:
            raise PeerUnavailable(
                f"No service listens at {self.peer}: the connection was refused",
                code="connection-refused",
                next_step="Check host and port, and whether the HL7 receiver runs.",
            ) from exc
        except TimeoutError as exc:
            raise PeerUnavailable(
                f"No answer from {self.peer} within {self._connect_timeout_s:g} s",
                code="connection-timeout",
                next_step="Check host and port, and the firewall between this machine and the HL7 receiver.",
            ) from exc
        except (socket.gaierror, UnicodeError) as exc:
            raise PeerUnavailable(
                f"The host name {self._address[0]!r} can't be resolved ({exc})",
                code="host-not-found",
                next_step="Check the host name and this machine's name service.",
            ) from exc
        except OSError as exc:
            raise PeerUnavailable(
                f"The connection to {self.peer} failed ({exc.strerror or exc})",
                code="connection-failed",
                next_step="Check host and port, and the network between this machine and the HL7 receiver.",
            ) from exc
        return connection

    def _start_tls(self, connection: socket.socket, tls: TlsSettings) -> ssl.SSLSocket:
        try:
            context = build_tls_context(tls)
            return context.wrap_socket(connection, server_hostname=self._address[0])
        except ssl.SSLError as exc:
            connection.close()
            raise self._tls_failure(exc) from exc
        except OSError as exc:
            connection.close()
            raise PeerUnavailable(
                f"{self.peer} fell silent or hung up during the TLS handshake ({exc.strerror or exc})",
                code="tls-no-answer",
            ) from exc
        except BaseException:
            connection.close()
            raise

    def _tls_failure(self, exc: ssl.SSLError) -> ArchsyncError:
        if isinstance(exc, ssl.SSLCertVerificationError):
            return DestinationMisconfigured(
                f"TLS to {self.peer}: the receiver's certificate is not accepted: {exc.verify_message}",
                code="tls-server-certificate",
                next_step="Check tls_ca_file (the authority of the receiver's certificate), the certificate's expiry,"
                " and whether it names the host.",
            )
        if isinstance(exc, ssl.SSLEOFError):
            return PeerUnavailable(f"{self.peer} hung up during the TLS handshake", code="tls-no-answer")
        code, sentence, next_step = TLS_FAILURES.get(
            exc.reason or "", ("tls-handshake", f"the handshake failed ({exc.reason or 'unknown reason'})", None)
        )
        return DestinationMisconfigured(f"TLS to {self.peer}: {sentence}", code=code, next_step=next_step)

    def _tls_objection(self) -> ArchsyncError | None:
        """Why the receiver may have hung up on a new connection with TLS: it refuses our certificate.

        With TLS 1.3 it does so after the handshake has ended for us, and what was sent meanwhile can wipe the reason
        out. So another connection asks for it and sends nothing. None: that is not the reason.
        """
        if self._tls is None:
            return None
        try:
            with self._start_tls(self._open(), self._tls) as secured:
                secured.settimeout(min(_OBJECTION_WAIT_S, self._connect_timeout_s))
                secured.recv(1)
        except DestinationMisconfigured as exc:
            return exc
        except ssl.SSLError as exc:
            return self._tls_failure(exc) if exc.reason in TLS_FAILURES else None
        except (OSError, ArchsyncError):
            pass
        return None
