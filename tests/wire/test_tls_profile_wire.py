"""The BCP 195 profile of PS3.15 B.12, and steps of a connection told apart where there is TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import contextmanager, suppress

import pytest
from test_tls_wire import Authority, authority, serve, tls_endpoint  # noqa: F401 - fixtures

from archsync.core.tls import TlsSettings
from archsync.errors import DestinationMisconfigured, PeerUnavailable
from archsync.net.dicom.echo import diagnose, echo
from archsync.net.dicom.store import store_instances
from archsync.net.dicom.transport import build_tls_context
from archsync.simulate.archive import Rudeness


def test_only_suites_with_forward_secrecy_and_authentication_are_offered():
    context = build_tls_context(TlsSettings())
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert context.verify_mode is ssl.CERT_REQUIRED
    for suite in context.get_ciphers():
        assert suite["kea"] in ("kx-ecdhe", "kx-dhe", "kx-any"), suite["name"]  # any: TLS 1.3
        assert suite["strength_bits"] >= 128, suite["name"]
        assert suite["auth"] != "auth-null", suite["name"]
        assert not any(word in suite["name"] for word in ("RC4", "3DES", "NULL", "MD5", "EXPORT")), suite["name"]


@contextmanager
def handshakes(authority: Authority, *, newest: ssl.TLSVersion, suites: str):  # noqa: F811
    """A peer that does TLS handshakes in an old way and nothing else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("old"))
    context.set_ciphers(suites)
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = newest
    server = socket.create_server(("127.0.0.1", 0))

    def serve_all() -> None:
        with suppress(OSError):
            while True:
                connection, _ = server.accept()
                connection.settimeout(5)
                with suppress(OSError), context.wrap_socket(connection, server_side=True) as secure:
                    secure.recv(100)

    threading.Thread(target=serve_all, daemon=True).start()
    try:
        yield server.getsockname()
    finally:
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)
        server.close()


class At:
    """What :func:`tls_endpoint` asks of an archive."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address, self.ae_title = address, "OLD"


def test_an_archive_with_tls_1_1_is_refused_by_its_version(authority):  # noqa: F811
    with (
        pytest.warns(DeprecationWarning, match="TLSv1"),
        handshakes(authority, newest=ssl.TLSVersion.TLSv1_1, suites="ALL:@SECLEVEL=0") as address,
        pytest.raises(DestinationMisconfigured) as caught,
    ):
        echo(tls_endpoint(At(address), authority))
    assert caught.value.code == "tls-version"


def test_an_archive_without_forward_secrecy_is_refused_as_having_nothing_in_common(authority):  # noqa: F811
    # AES without an ephemeral key exchange needs an RSA certificate, so there is nothing to choose from either way.
    with (
        handshakes(authority, newest=ssl.TLSVersion.TLSv1_2, suites="AES256-GCM-SHA384") as address,
        pytest.raises(DestinationMisconfigured) as caught,
    ):
        echo(tls_endpoint(At(address), authority))
    assert caught.value.code == "tls-handshake"
    assert "nothing in common" in caught.value.message


def test_each_step_that_fails_behind_tls_is_named(serve, authority, sample, outgoing):  # noqa: F811
    def failed(endpoint):
        return [(step.name, step.code) for step in diagnose(endpoint) if not step.ok]

    instances = [outgoing(sample("CT_small.dcm"))]
    with serve() as archive:
        endpoint = tls_endpoint(archive, authority, authority.issue("archsync"))
        archive.behave(Rudeness(known_calling_ae_titles=("OTHER",)))
        assert failed(endpoint) == [("association", "calling-ae-title-refused")]
        with pytest.raises(DestinationMisconfigured) as rejected:
            list(store_instances(endpoint, instances))
        assert rejected.value.code == "calling-ae-title-refused"
        archive.behave(Rudeness(accept_sop_classes=("1.2.840.10008.5.1.4.1.1.4",)))
        (outcome,) = store_instances(endpoint, instances)
        assert outcome.code == "sop-class-not-accepted"
        assert "storage" in dict(failed(endpoint))
    assert failed(endpoint) == [("tcp", "connection-refused")]
    with pytest.raises(PeerUnavailable) as refused:
        list(store_instances(endpoint, instances))
    assert refused.value.code == "connection-refused"
