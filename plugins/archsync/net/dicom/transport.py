"""TCP and TLS to a DICOM peer, one step at a time, so that a failure can be named: a refused connection, a failed
handshake (and whose certificate), a peer that hangs up. TLS follows PS3.15 B.12 (BCP 195): 1.2 or newer.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import replace
from pathlib import Path

from archsync.core.tls import TlsSettings
from archsync.core.transfer import Endpoint
from archsync.errors import ArchsyncError, ConfigurationError, DestinationMisconfigured, PeerUnavailable

_ALERT_WAIT_S = 1.0
"""How long a TLS 1.3 server gets to refuse our certificate, which it does after the handshake has ended for us."""
_QUESTION_S = 1.0
"""What a question may take that only serves to say more of a failure."""


def where(endpoint: Endpoint) -> str:
    """The endpoint in words, for messages."""
    return f"{endpoint.called_ae_title!r} at {endpoint.host} port {endpoint.port}"


def resolve(endpoint: Endpoint) -> str:
    """The address to connect to: the first IPv4 address of the host, else the first IPv6 one.

    Raises:
        PeerUnavailable: ``host-not-found``.
    """
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise PeerUnavailable(
            f"The host name {endpoint.host!r} can't be resolved ({exc})",
            code="host-not-found",
            next_step="Check the destination's host name and this machine's name service.",
        ) from exc
    addresses = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
    return str(addresses[0][4][0])


def connect(endpoint: Endpoint) -> socket.socket:
    """Open a TCP connection.

    Raises:
        PeerUnavailable: ``host-not-found``, ``connection-refused``, ``connection-timeout`` or ``connection-failed``.
    """
    address = resolve(endpoint)
    try:
        return socket.create_connection((address, endpoint.port), timeout=endpoint.connect_timeout_s)
    except ConnectionRefusedError as exc:
        raise PeerUnavailable(
            f"No service listens at {where(endpoint)}: the connection was refused",
            code="connection-refused",
            next_step="Check host and port, and whether the archive's DICOM service runs.",
        ) from exc
    except TimeoutError as exc:
        raise PeerUnavailable(
            f"No answer from {where(endpoint)} within {endpoint.connect_timeout_s:g} s",
            code="connection-timeout",
            next_step="Check host and port, and the firewall between this machine and the archive.",
        ) from exc
    except OSError as exc:
        raise PeerUnavailable(
            f"The connection to {where(endpoint)} failed ({exc.strerror or exc})",
            code="connection-failed",
            next_step="Check host and port, and the network between this machine and the archive.",
        ) from exc


def build_tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """The client's TLS context.

    Raises:
        ConfigurationError: ``tls-file``: a PEM file is missing, unreadable or does not fit; the message says which.
    """
    for name, given in (
        ("tls_ca_file", tls.ca_file),
        ("tls_certificate_file", tls.certificate_file),
        ("tls_private_key_file", tls.private_key_file),
    ):
        if given is not None and not Path(given).is_file():
            raise ConfigurationError(f"{name}: there is no file {given}", code="tls-file")
    try:
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=tls.ca_file)
    except OSError as exc:
        raise ConfigurationError(
            f"tls_ca_file: {tls.ca_file} holds no usable certificate ({exc.strerror or exc})", code="tls-file"
        ) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = tls.check_hostname
    if tls.certificate_file is not None:
        try:
            context.load_cert_chain(tls.certificate_file, tls.private_key_file, password=_no_password)
        except OSError as exc:
            raise ConfigurationError(
                f"tls_certificate_file and tls_private_key_file: {tls.certificate_file} and {tls.private_key_file} "
                f"can't be loaded as a pair ({exc.strerror or exc})",
                code="tls-file",
            ) from exc
    return context


def _no_password() -> str:
    """Instead of OpenSSL asking on the terminal."""
    raise ConfigurationError("tls_private_key_file: a key with a pass phrase can't be used", code="tls-file")


# OpenSSL's reason → our code, sentence, next step
TLS_FAILURES: dict[str, tuple[str, str, str]] = {
    "WRONG_VERSION_NUMBER": (
        "tls-not-spoken", "the peer does not speak TLS on this port",
        "Use the archive's TLS port, or switch TLS off for this destination.",
    ),
    "UNSUPPORTED_PROTOCOL": (
        "tls-version", "the peer offers only TLS versions older than 1.2", "Enable TLS 1.2 or 1.3 at the archive.",
    ),
    "TLSV1_ALERT_PROTOCOL_VERSION": (
        "tls-version", "the peer refuses TLS 1.2 and 1.3", "Enable TLS 1.2 or 1.3 at the archive.",
    ),
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": (
        "tls-client-certificate-required", "the peer asks for a client certificate and none is set",
        "Set tls_certificate_file and tls_private_key_file.",
    ),
    "TLSV1_ALERT_UNKNOWN_CA": (
        "tls-client-certificate-refused", "the peer does not trust the authority of our certificate",
        "Add the authority of our certificate to those the archive trusts.",
    ),
    "SSLV3_ALERT_HANDSHAKE_FAILURE": (
        "tls-handshake", "the peer found nothing in common or misses a client certificate",
        "Check whether the archive asks for a client certificate, and its cipher suites.",
    ),
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": (
        "tls-client-certificate-refused", "our certificate has expired", "Renew our certificate.",
    ),
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": (
        "tls-client-certificate-refused", "the peer does not accept our certificate",
        "Read the archive's log for what it misses in our certificate.",
    ),
    "SSLV3_ALERT_BAD_CERTIFICATE": (
        "tls-client-certificate-refused", "the peer calls our certificate bad",
        "Read the archive's log for what it misses in our certificate.",
    ),
    "TLSV1_ALERT_UNKNOWN_PSK_IDENTITY": (
        "tls-handshake", "the peer asks for a pre-shared key", "Configure the archive for certificates.",
    ),
}  # fmt: skip


def start_tls(
    endpoint: Endpoint, connection: socket.socket, context: ssl.SSLContext, *, wait_for_objections: bool = False
) -> ssl.SSLSocket:
    """Do the TLS handshake, which closes the connection if it fails.

    A TLS 1.3 peer objects to our certificate only after it; ``wait_for_objections`` gives it a moment to do so.

    Raises:
        DestinationMisconfigured: TLS or a certificate is refused by either side; the message says by whom and why.
        PeerUnavailable: the peer fell silent or hung up during the handshake.
    """
    secured = context.wrap_socket(connection, server_hostname=endpoint.host, do_handshake_on_connect=False)
    try:
        secured.do_handshake()
        if wait_for_objections:
            _wait_for_objections(endpoint, secured)
    except ssl.SSLCertVerificationError as exc:
        secured.close()
        raise _untrusted(endpoint, exc) from exc
    except ssl.SSLError as exc:
        secured.close()
        raise tls_failure(endpoint, exc) from exc
    except OSError as exc:
        secured.close()
        raise PeerUnavailable(
            f"{where(endpoint)} fell silent or hung up during the TLS handshake ({exc.strerror or exc})",
            code="tls-no-answer",
        ) from exc
    secured.settimeout(endpoint.connect_timeout_s)
    return secured


def _wait_for_objections(endpoint: Endpoint, secured: ssl.SSLSocket) -> None:
    """Let the peer refuse our certificate; silence means that it does not."""
    secured.settimeout(min(_ALERT_WAIT_S, endpoint.connect_timeout_s))
    try:
        hung_up = secured.recv(1) == b""
    except TimeoutError:
        return  # an SCP says nothing before our request
    if hung_up:
        raise ConnectionResetError("hung up right after it")


def _untrusted(endpoint: Endpoint, exc: ssl.SSLCertVerificationError) -> ArchsyncError:
    return DestinationMisconfigured(
        f"TLS to {where(endpoint)}: the archive's certificate is not accepted: {exc.verify_message}",
        code="tls-server-certificate",
        next_step="Check tls_ca_file (the authority of the archive's certificate), the certificate's expiry, and "
        "whether it names the host; tls_check_hostname can be switched off where it does not.",
    )


def tls_failure(endpoint: Endpoint, exc: ssl.SSLError) -> ArchsyncError:
    """What an error of TLS means, in the handshake or just after it."""
    if isinstance(exc, ssl.SSLEOFError):
        return PeerUnavailable(
            f"{where(endpoint)} hung up during the TLS handshake",
            code="tls-no-answer",
            next_step="Check that this port speaks TLS; if it does, the archive may be restarting.",
        )
    code, sentence, next_step = TLS_FAILURES.get(
        exc.reason or "", ("tls-handshake", f"the handshake failed ({exc.reason or 'unknown reason'})", None)
    )
    return DestinationMisconfigured(f"TLS to {where(endpoint)}: {sentence}", code=code, next_step=next_step)


def explain_failure(endpoint: Endpoint) -> ArchsyncError | None:
    """Repeat the connection step by step, for a moment; gives what fails, or None when all steps succeed now."""
    endpoint = _without_patience(endpoint)
    try:
        with connect(endpoint) as connection:
            if endpoint.tls is not None:
                context = build_tls_context(endpoint.tls)
                start_tls(endpoint, connection, context, wait_for_objections=True).close()
    except ArchsyncError as exc:
        return exc
    return None


def speaks_tls(endpoint: Endpoint) -> bool:
    """Tell whether the peer answers a TLS handshake; its certificate is not looked at and nothing is sent."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # only a question of protocol
    try:
        with connect(_without_patience(endpoint)) as connection, context.wrap_socket(connection):
            return True
    except ssl.SSLError as exc:
        return "ALERT" in (exc.reason or "")
    except (OSError, PeerUnavailable):
        return False


def _without_patience(endpoint: Endpoint) -> Endpoint:
    return replace(endpoint, connect_timeout_s=min(_QUESTION_S, endpoint.connect_timeout_s))
