"""Nothing is left behind: no thread, file, socket or memory, after thousands of associations and every kind of end."""

from __future__ import annotations

import contextlib
import datetime
import gc
import os
import socket
import ssl
import struct
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydicom import dcmread
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ

from archsync.core.tls import TlsSettings
from archsync.core.transfer import Endpoint
from archsync.errors import ArchsyncError
from archsync.net.dicom.store import store_instances

ASSOCIATIONS = 10_000
TIMES, TIMES_IF_SLOW = 40, 8
"""How often each failure is repeated; less often those in which somebody waits."""
RELEASED = bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0])
ABORT = bytes([7, 0, 0, 0, 0, 4, 0, 0, 2, 0])
GARBAGE = b"HTTP/1.1 500\r\n\r\n"

Talk = Callable[[socket.socket], None]


def read_pdu(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    if len(head) < 6:
        raise EOFError
    return head + connection.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL)


def is_end_of_data_set(pdu: bytes) -> bool:
    return pdu[0] == 4 and pdu[11] == 2


class NullArchive:
    """An archive in a thread that costs next to nothing, unless a script says something else for the connection."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._server.getsockname()[1]
        self.talk: Talk = self.take_all
        self._acceptances: dict[bytes, bytes] = {}
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError, EOFError, ssl.SSLError):
                self.talk(connection)

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(10)

    # -- scripts -----------------------------------------------------------------------------------------------------

    def accept(self, connection: socket.socket) -> None:
        """Accept the association with all contexts."""
        request = read_pdu(connection)
        if request[0] != 1:
            raise EOFError
        if request not in self._acceptances:
            decoded = A_ASSOCIATE_RQ()
            decoded.decode(request)
            primitive = decoded.to_primitive()
            contexts = primitive.presentation_context_definition_list
            for context in contexts:
                context.transfer_syntax, context.result = [context.transfer_syntax[0]], 0
            primitive.presentation_context_definition_results_list = contexts
            primitive.presentation_context_definition_list = []
            primitive.result, primitive.result_source = 0, 1
            self._acceptances[request] = A_ASSOCIATE_AC(primitive).encode()
        connection.sendall(self._acceptances[request])

    @staticmethod
    def read_instance(connection: socket.socket) -> bytes | None:
        """The response to an instance once it has come, None when a release came instead."""
        pdu = command = read_pdu(connection)
        if command[0] == 5:
            connection.sendall(RELEASED)
            return None
        while not is_end_of_data_set(pdu):
            if pdu[0] != 4:
                raise EOFError
            pdu = read_pdu(connection)
        at = command.index(b"\0\0\x10\1\2\0\0\0") + 8  # Message ID
        elements = [(0x0100, 0x8001), (0x0120, *struct.unpack_from("<H", command, at)), (0x0800, 0x0101), (0x0900, 0)]
        body = b"".join(struct.pack("<HHLH", 0, tag, 2, value) for tag, value in elements)
        body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
        return struct.pack(">BBLLBB", 4, 0, len(body) + 6, len(body) + 2, command[10], 3) + body

    def take_all(self, connection: socket.socket) -> None:
        self.accept(connection)
        while (response := self.read_instance(connection)) is not None:
            connection.sendall(response)

    def after_one(self, then: Callable[[socket.socket, bytes], object]) -> Talk:
        """A polite beginning: one instance is taken, in place of the second answer comes something else."""

        def talk(connection: socket.socket) -> None:
            self.accept(connection)
            connection.sendall(self.read_instance(connection) or b"")
            then(connection, self.read_instance(connection) or b"")

        return talk


@pytest.fixture
def null() -> Iterator[NullArchive]:
    archive = NullArchive()
    yield archive
    archive.stop()


@pytest.fixture
def endpoint(null) -> Endpoint:
    return Endpoint("127.0.0.1", null.port, called_ae_title="NULL")


def held() -> tuple[int, int, int]:
    """Open descriptors, threads, child processes."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return len(os.listdir("/proc/self/fd")), threading.active_count(), len(children)  # noqa: PTH208 - quicker


def is_all_gone(before: tuple[int, int, int]) -> bool:
    """True if no more is held than before, once the peer's side has followed, too."""
    deadline = time.monotonic() + 10
    while any(now > then for now, then in zip(held(), before, strict=True)):
        if time.monotonic() > deadline:
            return False
        threading.Event().wait(0.01)
    return True


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ten_thousand_associations_leave_nothing_behind(endpoint, sample, outgoing):
    instances = [outgoing(sample("MR_small.dcm"))]

    def associate(times: int) -> None:
        for _ in range(times):
            (outcome,) = store_instances(endpoint, instances)
            assert outcome.result.is_stored

    associate(500)
    gc.collect()
    before, memory_kb = held(), resident_kb()
    associate(ASSOCIATIONS - 500)
    gc.collect()
    assert is_all_gone(before), (held(), before)
    assert resident_kb() - memory_kb < 2048


# -- each kind of end ------------------------------------------------------------------------------------------------


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_close(connection: socket.socket, data: bytes = b"") -> None:
    connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(4096):
        pass


def say(connection: socket.socket, data: bytes) -> None:
    """Say something and hang up after what the other side has to say to that."""
    connection.sendall(data)
    connection.recv(4096)


# What the archive does when a connection comes.
AT_ONCE: dict[str, Callable[[NullArchive], Talk]] = {
    "hangs up": lambda null: lambda c: None,
    "resets": lambda null: reset,
    "rejects": lambda null: lambda c: (read_pdu(c), say(c, bytes([3, 0, 0, 0, 0, 4, 0, 2, 1, 1]))),
    "aborts the negotiation": lambda null: lambda c: (read_pdu(c), say(c, ABORT)),
    "is no archive": lambda null: lambda c: (read_pdu(c), say(c, GARBAGE)),
    "is silent": lambda null: lambda c: say(c, b""),
    "accepts half way": lambda null: lambda c: (read_pdu(c), half_close(c, b"\2\0\0\0\1\0")),
}
# What it does in place of the second answer.
IN_PLACE_OF_AN_ANSWER: dict[str, Callable[[socket.socket, bytes], object]] = {
    "aborts": lambda c, _: say(c, ABORT),
    "resets": lambda c, _: reset(c),
    "hangs up": lambda c, _: None,
    "half-closes": lambda c, _: half_close(c),
    "answers half": lambda c, response: half_close(c, response[:20]),
    "is silent": lambda c, _: say(c, b""),
    "talks nonsense": lambda c, _: say(c, GARBAGE),
    "releases": lambda c, _: say(c, bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0])),
    "answers another message": lambda c, response: say(c, response.replace(b"\x20\1\2\0\0\0", b"\x20\1\2\0\0\0\7")),
    "answers twice": lambda c, response: say(c, response + response),
}


def nothing_stays(attempt: Callable[[], None], times: int = TIMES) -> None:
    """Repeat what fails, and see that it leaves nothing."""
    for _ in range(3):
        attempt()
    before = held()
    tracemalloc.start()
    try:
        attempt()
        gc.collect()
        first = tracemalloc.take_snapshot()
        for _ in range(times):
            attempt()
        gc.collect()
        growth = sum(d.size_diff for d in tracemalloc.take_snapshot().compare_to(first, "filename") if d.size_diff > 0)
    finally:
        tracemalloc.stop()
    assert is_all_gone(before), (held(), before)
    assert growth < 16384 + times * 512, "half a KiB each time would be an object that stays"


@pytest.fixture
def fail(endpoint, sample, outgoing) -> Callable[..., Callable[[], None]]:
    """Makes an attempt to send three instances, which may not succeed as a whole."""
    names = ("CT_small.dcm", "MR_small.dcm", "MR_small_implicit.dcm")
    instances = [outgoing(sample(name)) for name in names]
    impatient = replace(
        endpoint, connect_timeout_s=0.2, acse_timeout_s=0.05, dimse_timeout_s=0.05, network_timeout_s=0.05
    )

    def make(instances=instances, **changes) -> Callable[[], None]:
        def attempt() -> None:
            with contextlib.suppress(ArchsyncError):
                outcomes = list(store_instances(replace(impatient, **changes), instances))
                assert not all(outcome.result.is_stored for outcome in outcomes)

        return attempt

    return make


@pytest.mark.parametrize("how", AT_ONCE)
def test_a_failed_negotiation_leaves_nothing(null, fail, how):
    null.talk = AT_ONCE[how](null)
    nothing_stays(fail(), TIMES_IF_SLOW if how in ("is silent", "is no archive", "accepts half way") else TIMES)


@pytest.mark.parametrize("how", IN_PLACE_OF_AN_ANSWER)
def test_a_lost_answer_leaves_nothing(null, fail, how):
    null.talk = null.after_one(IN_PLACE_OF_AN_ANSWER[how])
    nothing_stays(fail(), TIMES_IF_SLOW if how in ("is silent", "answers half") else TIMES)


def test_a_refused_connection_leaves_nothing(null, fail):
    null.stop()
    nothing_stays(fail())


def test_a_host_that_is_not_found_leaves_nothing(null, fail):
    nothing_stays(fail(host="no-such-host.invalid"))


def make_certificate(stem: Path) -> tuple[str, str]:
    """A certificate that nobody else trusts, and its key."""
    now = datetime.datetime.now(datetime.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, stem.name)])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    files = stem.with_suffix(".pem"), stem.with_suffix(".key")
    files[0].write_bytes(certificate.public_bytes(Encoding.PEM))
    files[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(files[0]), str(files[1])


def handshake(stem: Path) -> Talk:
    """An archive that speaks TLS, and hangs up after the handshake."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*make_certificate(stem))

    def talk(connection: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True):
            pass

    return talk


@pytest.mark.parametrize("server_speaks_tls", [True, False])
def test_a_failed_tls_handshake_leaves_nothing(null, fail, tmp_path, server_speaks_tls):
    if server_speaks_tls:
        null.talk = handshake(tmp_path / "theirs")
    nothing_stays(fail(tls=TlsSettings(ca_file=make_certificate(tmp_path / "ours")[0])))


def test_an_unexpected_tls_archive_leaves_nothing(null, fail, tmp_path):
    null.talk = handshake(tmp_path / "theirs")
    nothing_stays(fail())


def test_a_file_that_can_not_be_sent_leaves_nothing(null, fail, sample, outgoing, tmp_path):
    whole = sample("MR_small.dcm")
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(whole.read_bytes()[:-100])
    bad = [outgoing(whole, location=cut.as_uri()), outgoing(whole, study_instance_uid="1.2.3")]
    nothing_stays(fail([outgoing(sample("CT_small.dcm")), *bad], dimse_timeout_s=30, acse_timeout_s=30))


@pytest.mark.timeout(60)
def test_a_reader_that_stalls_leaves_nothing(null, fail, sample, outgoing, tmp_path):
    data_set = dcmread(sample("MR_small.dcm"))
    data_set.Rows = data_set.Columns = 2300
    data_set.PixelData = bytes(2300 * 2300 * 2)
    path = tmp_path / "big.dcm"
    data_set.save_as(path)

    def read_nothing(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        null.accept(connection)
        threading.Event().wait(0.4)

    null.talk = read_nothing
    nothing_stays(fail([outgoing(path)]), TIMES_IF_SLOW)
