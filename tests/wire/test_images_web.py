"""Images on web servers: copied whole or not at all, and nothing of the location told."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.errors import ConfigurationError, InvalidInput, PeerUnavailable
from archsync.net.images import image_size_bytes, open_image
from archsync.net.remote import access, copying, web
from archsync.net.remote.access import WebLogin
from archsync.net.remote.multipart import CutShort, NotOnePart, only_part
from archsync.simulate.image_server import ImageRudeness, SimulatedImageServer

UID = "1.2.3.4"
NAME = "DOE^JANE/1.dcm"
BIG = random.Random(1).randbytes(3_000_000)


@pytest.fixture
def server(tmp_path):
    (tmp_path / NAME).parent.mkdir()
    (tmp_path / NAME).write_bytes(BIG)
    with SimulatedImageServer(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Every pause is a short one, every silence a second."""
    monkeypatch.setattr(copying, "PAUSES_S", (0.0, 0.01, 0.01))
    monkeypatch.setattr(web, "SILENCE_TIMEOUT_S", 1.0)


@pytest.fixture
def logins():
    """Connections by name; while a test has them, this process reads images with them."""

    known: dict[str, WebLogin] = {}

    class Logins(access.NoAccess):
        def login(self, conn_id: str) -> WebLogin:
            if conn_id not in known:
                raise ConfigurationError(f"the connection {conn_id!r} is not defined", code="connection-missing")
            return known[conn_id]

    before = access.current()
    access.use(Logins())
    yield known
    access.use(before)


def read(location: str) -> bytes:
    """What is behind a location, by path and by descriptor; nothing may stay open."""
    before = open_copies()
    path, descriptor, _ = open_image(location, sop_instance_uid=UID)
    try:
        content = Path(path).read_bytes()
        assert os.pread(descriptor, len(content) + 1, 0) == content
        assert Path(path).stat().st_size == len(content)
    finally:
        os.close(descriptor)
    assert open_copies() == before
    return content


def open_copies() -> int:
    """How many files without a name this process has open."""
    descriptors = Path("/proc/self/fd").iterdir()
    return sum(path.is_symlink() and "(deleted)" in str(path.readlink()) for path in descriptors)


def failure(location: str, kind: type[InvalidInput] | type[PeerUnavailable] = InvalidInput) -> str:
    """The code that reading fails with; the error names the instance, and nothing of the location."""
    with pytest.raises((InvalidInput, PeerUnavailable)) as caught:
        open_image(location, sop_instance_uid=UID)
    error = caught.value
    assert type(error) is kind, error
    assert UID in error.message
    assert error.__cause__ is None
    assert error.__suppress_context__
    for personal in ("DOE", "JANE", "127.0.0.1", "secret"):
        assert personal not in f"{error.message} {error.next_step}"
    return error.code


# -- whole -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["files", "wado"])
def test_an_image_is_copied_to_the_byte(server, kind):
    assert read(server.url(NAME, kind=kind)) == BIG


@pytest.mark.parametrize("kind", ["files", "wado"])
def test_it_may_come_without_a_length(server, kind):
    server.states_length = False
    assert read(server.url(NAME, kind=kind)) == BIG


def test_a_server_is_asked_for_the_image_as_it_is_stored(server):
    read(server.url(NAME))
    _, headers = server.requests[0]
    assert headers["accept"] == 'multipart/related; type="application/dicom"; transfer-syntax=*'
    assert headers["accept-encoding"] == "identity"
    assert "authorization" not in headers


def test_an_empty_file_is_copied_as_it_is(server, tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert read(server.url("empty")) == b""


def test_connections_are_kept(server):
    for _ in range(20):
        read(server.url(NAME))
    assert server.connections == 1


def test_copies_have_no_name_that_a_killed_process_could_leave(server, tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    _, descriptor, _ = open_image(server.url(NAME), sop_instance_uid=UID)
    assert list(folder.iterdir()) == []
    assert os.fstat(descriptor).st_dev == folder.stat().st_dev
    os.close(descriptor)


def test_its_length_is_known_without_copying_it(server):
    server.behave(ImageRudeness(silent_after=1000))
    assert image_size_bytes(server.url(NAME), sop_instance_uid=UID) == len(BIG)
    assert image_size_bytes(server.url(NAME, kind="wado"), sop_instance_uid=UID) is None


# -- in several tries --------------------------------------------------------------------------------------------------


def test_a_copy_goes_on_where_the_connection_broke(server):
    server.behave(ImageRudeness(break_after=1_000_000, times=2))
    assert read(server.url(NAME)) == BIG
    assert [headers.get("range") for _, headers in server.requests] == [None, "bytes=1000000-", "bytes=2000000-"]


def test_a_copy_goes_on_after_silence(server, monkeypatch):
    monkeypatch.setattr(web, "SILENCE_TIMEOUT_S", 0.2)
    server.behave(ImageRudeness(silent_after=500_000, times=1))
    assert read(server.url(NAME)) == BIG


def test_a_copy_begins_again_where_the_server_knows_no_ranges(server):
    server.keeps_ranges = False
    server.behave(ImageRudeness(break_after=1_000_000, times=2))
    assert read(server.url(NAME)) == BIG


def test_a_multipart_answer_begins_again(server):
    server.behave(ImageRudeness(break_after=1_000_000, times=2))
    assert read(server.url(NAME, kind="wado")) == BIG
    assert all("range" not in headers for _, headers in server.requests)


def test_a_copy_never_mixes_two_versions(tmp_path):
    old, new = (random.Random(seed).randbytes(2_500_000) for seed in (2, 3))
    (tmp_path / "x").write_bytes(old)

    class ChangesMeanwhile(SimulatedImageServer):
        def take_rudeness(self) -> ImageRudeness:
            if len(self.requests) == 2:
                (tmp_path / "x").write_bytes(new)
            return super().take_rudeness()

    with ChangesMeanwhile(tmp_path) as server:
        server.behave(ImageRudeness(break_after=1_000_000, times=1))
        assert read(server.url("x")) == new
        assert [headers.get("range") for _, headers in server.requests] == [None, "bytes=1000000-"]


def test_a_source_that_gives_a_mebibyte_each_time_may_break_off_as_often_as_it_likes(server, tmp_path):
    (tmp_path / "long").write_bytes(BIG * 4)
    server.behave(ImageRudeness(break_after=(1 << 20) + 7))
    assert read(server.url("long")) == BIG * 4
    assert len(server.requests) == 12


def test_one_that_gives_less_is_given_up(server):
    server.behave(ImageRudeness(break_after=1000))
    assert failure(server.url(NAME), PeerUnavailable) == "image-incomplete"
    assert len(server.requests) == 4


def test_a_server_that_does_no_multipart_is_asked_for_the_image_alone(server):
    server.behave(ImageRudeness(status=406, times=1))
    assert read(server.url(NAME)) == BIG
    assert server.requests[1][1]["accept"] == "application/dicom; transfer-syntax=*"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 429])
def test_a_server_that_has_no_time_now_is_asked_again(server, status):
    server.behave(ImageRudeness(status=status, times=1))
    assert read(server.url(NAME)) == BIG


def test_its_wish_for_a_pause_is_heard(server, monkeypatch):
    monkeypatch.setattr(web, "_MAX_PAUSE_S", 0.3)
    waited = []
    wait = threading.Event.wait
    monkeypatch.setattr(threading.Event, "wait", lambda self, s=None: waited.append(s) or wait(self, s))
    server.behave(ImageRudeness(status=503, retry_after="3600", times=1))
    assert read(server.url(NAME)) == BIG
    assert 0.3 in waited


def test_a_redirect_is_followed(server):
    server.behave(ImageRudeness(status=302, location=server.url(NAME), times=2))
    assert read(server.url("elsewhere")) == BIG


# -- not at all --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "image-access-denied"), (403, "image-access-denied"), (404, "file-missing"), (410, "file-missing"),
     (400, "image-not-served"), (406, "image-not-served"), (204, "image-not-served")],
)  # fmt: skip
def test_an_answer_that_will_not_change_fails_the_instance_at_once(server, status, code):
    server.behave(ImageRudeness(status=status))
    assert failure(server.url(NAME)) == code
    assert len(server.requests) == (2 if status == 406 else 1)


def test_a_server_that_never_has_time_is_left_for_later(server):
    server.behave(ImageRudeness(status=503))
    assert failure(server.url(NAME), PeerUnavailable) == "image-source-unavailable"
    assert len(server.requests) == 4


def test_a_length_that_is_never_reached_is_told(server):
    server.behave(ImageRudeness(more_length=10))
    with pytest.raises(PeerUnavailable, match=f"{UID}: its source ended after 3000000 of 3000010 bytes") as caught:
        open_image(server.url(NAME), sop_instance_uid=UID)
    assert caught.value.code == "image-incomplete"
    assert caught.value.reached_peer, "it counts as an attempt, and says nothing of the archive"


def test_a_multipart_answer_that_never_ends_is_told(server):
    server.behave(ImageRudeness(break_after=len(BIG)))
    assert failure(server.url(NAME, kind="wado"), PeerUnavailable) == "image-incomplete"


def test_silence_is_told(server, monkeypatch):
    monkeypatch.setattr(web, "SILENCE_TIMEOUT_S", 0.1)
    server.behave(ImageRudeness(silent_after=10))
    assert failure(server.url(NAME), PeerUnavailable) == "image-source-unavailable"


def test_a_trickle_is_as_good_as_silence(server, monkeypatch):
    monkeypatch.setattr(web, "_SLOW_AFTER_S", 0.0)
    monkeypatch.setattr(web, "_MIN_BYTES_S", 1 << 40)
    assert failure(server.url(NAME), PeerUnavailable) == "image-source-unavailable"


def test_a_refused_connection_is_told():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert failure(f"http://127.0.0.1:{port}/DOE", PeerUnavailable) == "image-source-unavailable"


def test_a_host_that_has_no_address_is_told():
    assert failure("http://no-such-host.invalid/DOE", PeerUnavailable) == "image-source-unavailable"


def test_a_server_that_speaks_something_else_is_told(raw_peer):
    host, port = raw_peer(lambda connection: connection.sendall(b"220 mail.example DOE\r\n"))
    assert failure(f"http://{host}:{port}/DOE", PeerUnavailable) == "image-source-unavailable"


def test_redirects_end(server):
    server.behave(ImageRudeness(status=307, location=server.url(NAME)))
    assert failure(server.url(NAME)) == "image-not-served"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://example/DOE"])
def test_a_redirect_leads_nowhere_but_to_the_web(server, target):
    server.behave(ImageRudeness(status=302, location=target))
    assert failure(server.url(NAME)) == "image-not-served"


def test_a_full_disk_is_told_as_such(server, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", NAME)

    monkeypatch.setattr(os, "pwrite", full)
    assert failure(server.url(NAME), PeerUnavailable) == "no-room-for-copy"


@pytest.mark.parametrize("location", ["http:///DOE/1.dcm", "https://[DOE", "http://127.0.0.1:x/DOE"])
def test_what_is_no_url_is_told(location):
    assert failure(location) == "unknown-location-scheme"


# -- logins ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("login", "header"),
    [
        (WebLogin("127.0.0.1", None, None, "reader", "secret"), "Basic cmVhZGVyOnNlY3JldA=="),
        (WebLogin("127.0.0.1", "http", None, None, "secret"), "Bearer secret"),
    ],
)
def test_a_location_names_the_connection_that_has_its_login(server, logins, login, header):
    logins["pacs_web"] = login
    server.authorization = header
    assert read(server.url(NAME, userinfo="pacs_web@")) == BIG
    assert failure(server.url(NAME)) == "image-access-denied"


def test_a_login_is_shown_to_no_server_but_its_own(server, logins):
    logins["other"] = WebLogin("other.example", None, None, "reader", "secret")
    logins["other_port"] = WebLogin("127.0.0.1", None, 1, "reader", "secret")
    logins["secure"] = WebLogin("127.0.0.1", "https", None, "reader", "secret")
    for conn_id in ("other", "other_port", "secure"):
        assert failure(server.url(NAME, userinfo=f"{conn_id}@")) == "image-connection-mismatch"
    assert server.requests == []


def test_a_redirect_to_another_server_goes_without_the_login(server, logins, tmp_path):
    logins["pacs_web"] = WebLogin("127.0.0.1", None, server.port, None, "secret")
    with SimulatedImageServer(tmp_path) as other:
        server.behave(ImageRudeness(status=302, location=other.url(NAME)))
        assert read(server.url(NAME, userinfo="pacs_web@")) == BIG
        assert "authorization" in server.requests[0][1]
        assert "authorization" not in other.requests[0][1]


def test_a_connection_that_is_not_defined_fails_the_instance_and_not_the_destination(server, logins):
    assert failure(server.url(NAME, userinfo="nobody@")) == "connection-missing"


def test_a_password_in_a_location_is_refused(server):
    assert failure(server.url(NAME, userinfo="reader:secret@")) == "location-with-password"
    assert server.requests == []


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path, certificates):
    with SimulatedImageServer(tmp_path, tls=certificates) as server:
        assert failure(server.url("x")) == "image-source-tls"


def test_a_certificate_of_an_authority_that_this_machine_trusts_is_accepted(tmp_path, certificates, monkeypatch):
    (tmp_path / "x").write_bytes(BIG)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    web._pool.cache_clear()
    with SimulatedImageServer(tmp_path, tls=certificates) as server:
        assert read(server.url("x")) == BIG
        server.behave(ImageRudeness(status=302, location=server.url("x").replace("https", "http")))
        assert failure(server.url("x")) == "image-not-served", "it is not secure"
    web._pool.cache_clear()


@pytest.fixture
def certificates(tmp_path):
    """A server's side of TLS, with a certificate for 127.0.0.1 that signs itself."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "images")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca_file, key_file = tmp_path / "ca.pem", tmp_path / "key.pem"
    ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )

    class ServerContext(ssl.SSLContext):
        ca_file: Path

    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.ca_file = ca_file
    context.load_cert_chain(ca_file, key_file)
    return context


# -- multipart ---------------------------------------------------------------------------------------------------------


def pieces_of(body: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in cuts)})
    return [body[start:end] for start, end in pairwise(places)]


@given(
    content=st.binary(max_size=200) | st.sampled_from([b"\r\n--", b"\r\n--b\r\n-", b"\r\n\r\n--\r\n"]),
    cuts=st.lists(st.integers(0, 1000), max_size=40),
    preamble=st.sampled_from([b"", b"\r\n", b"ignore me\r\n"]),
    epilogue=st.sampled_from([b"", b"\r\n", b"\r\nignore me"]),
)
def test_the_part_of_a_multipart_answer_is_cut_out_wherever_the_pieces_end(content, cuts, preamble, epilogue):
    boundary = "bound-ary"
    body = (
        preamble + b"--bound-ary\r\nContent-Type: application/dicom\r\n\r\n" + content + b"\r\n--bound-ary--" + epilogue
    )
    assert b"".join(only_part(pieces_of(body, cuts), boundary)) == content


@given(length=st.integers(0, 60), cuts=st.lists(st.integers(0, 1000), max_size=10))
def test_an_answer_that_ends_early_is_noticed_wherever_it_ends(length, cuts):
    body = b"--b\r\nContent-Type: application/dicom\r\n\r\ncontent\r\n--b--"
    cut = body[: min(length, len(body) - 1)]
    with pytest.raises(CutShort):
        list(only_part(pieces_of(cut, cuts), "b"))


@pytest.mark.parametrize(
    "body",
    [b"--b\r\n\r\none\r\n--b\r\n\r\ntwo\r\n--b--", b"--b--", b"\r\n--b--\r\n", b"x" * 100_000],
)
def test_an_answer_with_several_parts_or_none_is_refused(body):
    with pytest.raises(NotOnePart):
        list(only_part([body], "b"))
