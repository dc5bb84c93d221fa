"""TLS: it works with the right certificates, and each wrong one is named."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from archsync.core.tls import TlsSettings
from archsync.core.transfer import Endpoint, StoreResult
from archsync.errors import ConfigurationError, DestinationMisconfigured, PeerUnavailable
from archsync.net.dicom.echo import diagnose, echo
from archsync.net.dicom.store import store_instances
from archsync.net.dicom.wire import TlsWire
from archsync.simulate.archive import SimulatedArchive

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority of the tests' own."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        certificate = (
            self._builder(self._name, self._key, NOW + DAY)
            .add_extension(constraints, critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False,
                    key_encipherment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        self.file = self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, until: datetime.datetime = NOW + DAY) -> tuple[str, str]:
        """Certificate and key files for 127.0.0.1."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        certificate = (
            self._builder(subject, key, until)
            .add_extension(x509.SubjectAlternativeName([address]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return (
            self._write(f"{name}.pem", certificate.public_bytes(serialization.Encoding.PEM)),
            self._write(f"{name}.key", private),
        )

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime.datetime):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - 2 * DAY)
            .not_valid_after(until)
        )

    def _write(self, name: str, content: bytes) -> str:
        path = self._folder / name
        path.write_bytes(content)
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return Authority("hospital", tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> Authority:
    return Authority("stranger", tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def serve(authority, tmp_path) -> Callable[..., Iterator[SimulatedArchive]]:
    """Runs an archive that wants certificates of the hospital's authority."""

    @contextmanager
    def start(
        *, certificate: tuple[str, str] | None = None, mutual: bool = True, newest: ssl.TLSVersion | None = None
    ) -> Iterator[SimulatedArchive]:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
        context.load_cert_chain(*(certificate or authority.issue("archive")))
        context.verify_mode = ssl.CERT_REQUIRED if mutual else ssl.CERT_NONE
        if newest is not None:
            context.maximum_version = newest
        with SimulatedArchive(tmp_path / "archive", ssl_context=context) as archive:
            yield archive

    return start


def tls_endpoint(archive, authority, certificate=None, **tls):
    files = dict(zip(("certificate_file", "private_key_file"), certificate, strict=True)) if certificate else {}
    return Endpoint(
        *archive.address,
        called_ae_title=archive.ae_title,
        connect_timeout_s=10,
        tls=TlsSettings(ca_file=authority.file, **files, **tls),
    )


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_instances_are_stored_with_certificates_on_both_sides(serve, authority, sample, outgoing, newest):
    with serve(newest=newest) as archive:
        endpoint = tls_endpoint(archive, authority, authority.issue("archsync"))
        outcomes = list(store_instances(endpoint, [outgoing(sample("CT_small.dcm")), outgoing(sample("JPEG2000.dcm"))]))
        assert [outcome.result for outcome in outcomes] == [StoreResult.STORED] * 2
        assert len(archive.stored) == 2
        assert [step.name for step in diagnose(endpoint) if step.ok] == [
            *("tcp", "tls", "association", "echo", "storage", "notes", "find")
        ]


def test_a_piece_that_stops_on_its_way_goes_on_where_it_was(authority):
    sent, taken = random.Random(5).randbytes(3_000_001), bytearray()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(*authority.issue("slow"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

        def read_with_pauses() -> None:
            with server.wrap_socket(listener.accept()[0], server_side=True) as peer:
                count = 0
                while len(taken) < len(sent) and (piece := peer.recv(1 << 16)):
                    taken.extend(piece)
                    if count % 32 == 0:
                        time.sleep(0.7)  # longer than one call into OpenSSL may take
                    count += 1
                peer.sendall(b"all")

        reader = threading.Thread(target=read_with_pauses)
        reader.start()
        client = ssl.create_default_context(cafile=authority.file)
        plain = socket.create_connection(listener.getsockname())
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        wire, waits = TlsWire(client.wrap_socket(plain, server_hostname="127.0.0.1")), []
        for start in range(0, len(sent), 1 << 20):
            piece = memoryview(sent)[start : start + (1 << 20)]
            wire.send(piece, timeout_s=30, while_waiting=lambda: waits.append(time.monotonic()))
        answer = bytes(wire.receive(time.monotonic() + 30))
        wire.close()
        reader.join()
    assert answer == b"all"
    assert hashlib.sha256(taken).digest() == hashlib.sha256(sent).digest()
    assert len(waits) > len(sent) // (1 << 17)  # some calls took nothing


def test_without_a_client_certificate_where_none_is_asked_for(serve, authority):
    with serve(mutual=False) as archive:
        echo(tls_endpoint(archive, authority))


def refused(endpoint):
    with pytest.raises(DestinationMisconfigured) as caught:
        echo(endpoint)
    *good, bad = diagnose(endpoint)
    assert [step.name for step in good] == ["tcp"]
    assert (bad.name, bad.ok, bad.code) == ("tls", False, caught.value.code)
    return caught.value


def test_an_archive_whose_authority_we_do_not_know(serve, stranger):
    with serve(mutual=False) as archive:
        error = refused(tls_endpoint(archive, stranger))
    assert error.code == "tls-server-certificate"
    assert "archive's certificate is not accepted" in error.message


def test_an_archive_with_an_expired_certificate(serve, authority):
    with serve(mutual=False, certificate=authority.issue("expired", until=NOW - DAY)) as archive:
        assert "expired" in refused(tls_endpoint(archive, authority)).message


def test_an_archive_whose_certificate_names_another_host(serve, authority):
    with serve(mutual=False) as archive:
        endpoint = replace(tls_endpoint(archive, authority), host="localhost")
        assert "localhost" in refused(endpoint).message
        echo(replace(endpoint, tls=TlsSettings(ca_file=authority.file, check_hostname=False)))


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_asked_for_and_none_is_set(serve, authority, newest):
    with serve(newest=newest) as archive:
        error = refused(tls_endpoint(archive, authority))
    assert "client certificate" in error.message


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_archive_does_not_know_our_authority(serve, authority, stranger, newest):
    with serve(newest=newest) as archive:
        error = refused(tls_endpoint(archive, authority, stranger.issue("archsync")))
    assert error.code == "tls-client-certificate-refused"


def test_the_archive_speaks_tls_and_we_do_not(serve, authority):
    with serve() as archive:
        endpoint = replace(tls_endpoint(archive, authority), tls=None)
        with pytest.raises(DestinationMisconfigured) as caught:
            echo(endpoint)
    assert caught.value.code == "tls-required"


def test_we_speak_tls_and_the_archive_does_not(archive, authority):
    with pytest.raises((DestinationMisconfigured, PeerUnavailable)) as caught:
        echo(tls_endpoint(archive, authority))
    assert caught.value.code in ("tls-not-spoken", "tls-no-answer")


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"ca_file": "/no/such/ca.pem"}, "tls_ca_file"),
        ({"certificate_file": "/no/such/cert.pem", "private_key_file": "/no/such/key.pem"}, "tls_certificate_file"),
    ],
)
def test_a_missing_certificate_file_is_named(endpoint, files, name):
    with pytest.raises(ConfigurationError, match=name) as caught:
        echo(replace(endpoint, tls=TlsSettings(**files)))
    assert caught.value.code == "tls-file"


def test_files_that_do_not_fit_are_named(endpoint, authority, tmp_path):
    certificate, _ = authority.issue("one")
    _, key = authority.issue("other")
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    for tls in (
        TlsSettings(ca_file=str(text)),
        TlsSettings(ca_file=authority.file, certificate_file=certificate, private_key_file=key),
        TlsSettings(ca_file=authority.file, certificate_file=str(text), private_key_file=key),
    ):
        with pytest.raises(ConfigurationError) as caught:
            echo(replace(endpoint, tls=tls))
        assert caught.value.code == "tls-file"
