"""A simulated archive, an endpoint to it, and rude peers that no archive software would be."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from pydicom.filereader import read_dataset
from pydicom.uid import generate_uid
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import AsynchronousOperationsWindowNegotiation, MaximumLengthNotification

from archsync.core.transfer import Endpoint
from archsync.simulate.archive import SimulatedArchive


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[SimulatedArchive]:
    """A polite archive, empty."""
    with SimulatedArchive(tmp_path / "archive") as archive:
        yield archive


@pytest.fixture
def endpoint(archive: SimulatedArchive) -> Endpoint:
    """How to reach the archive, with time-outs that no test waits for unless it means to."""
    return endpoint_for(archive.address, archive.ae_title)


def endpoint_for(address: tuple[str, int], ae_title: str = "SIMARCHIVE") -> Endpoint:
    return Endpoint(
        *address,
        called_ae_title=ae_title,
        connect_timeout_s=10,
        acse_timeout_s=30,
        dimse_timeout_s=60,
        network_timeout_s=60,
    )


@pytest.fixture
def copies(sample: Callable[[str], Path], tmp_path: Path) -> Callable[[int], list[Path]]:
    """Makes n small instances of one series, each with a SOP Instance UID of its own."""
    from pydicom import dcmread

    def make(count: int) -> list[Path]:
        data_set = dcmread(sample("MR_small.dcm"))
        data_set.StudyInstanceUID, data_set.SeriesInstanceUID = generate_uid(), generate_uid()
        folder = tmp_path / "platform"
        folder.mkdir(exist_ok=True)
        paths = []
        for number in range(count):
            data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            data_set.InstanceNumber = number + 1
            paths.append(folder / f"{number:04}.dcm")
            data_set.save_as(paths[-1])
        return paths

    return make


@pytest.fixture
def raw_peer() -> Iterator[Callable[[Callable[[socket.socket], None]], tuple[str, int]]]:
    """Starts a TCP server that hands each connection to a function; gives its address."""
    servers: list[socket.socket] = []
    threads: list[threading.Thread] = []
    connections: list[socket.socket] = []

    def serve(talk: Callable[[socket.socket], None]) -> tuple[str, int]:
        server = socket.create_server(("127.0.0.1", 0))

        def accept() -> None:
            with server:
                while True:
                    try:
                        connection, _ = server.accept()
                    except OSError:
                        return  # the test is over
                    connections.append(connection)
                    with connection, contextlib.suppress(OSError):  # the sender may hang up
                        talk(connection)

        servers.append(server)
        threads.append(threading.Thread(target=accept, daemon=True))
        threads[-1].start()
        return server.getsockname()

    yield serve
    for open_socket in (*servers, *connections):
        with contextlib.suppress(OSError):
            open_socket.shutdown(socket.SHUT_RDWR)
    for thread in threads:
        thread.join(timeout=10)


@dataclass
class Request:
    """A C-STORE request as it came over the wire."""

    connection: socket.socket
    message_id: int
    context_id: int
    sop_instance_uid: str
    data_set: bytes
    pdu_sizes: list[int]

    def response(self, status: int = 0, message_id: int | None = None) -> bytes:
        """A C-STORE-RSP made by hand (PS3.7 9.3.1.2, PS3.8 9.3.5)."""
        number = self.message_id if message_id is None else message_id
        elements = [(0x0100, 0x8001), (0x0120, number), (0x0800, 0x0101), (0x0900, status)]
        command = b"".join(struct.pack("<HHLH", 0, tag, 2, value) for tag, value in elements)
        command = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
        return struct.pack(">BBLLBB", 4, 0, len(command) + 6, len(command) + 2, self.context_id, 3) + command

    def respond(self, status: int = 0) -> None:
        self.connection.sendall(self.response(status))


class ScriptedArchive:
    """An archive that does to the byte what a test says; accepts every context, and a ``window`` if it is given one.

    Give ``answer`` a function of the request that has come, and ``read`` one of the connection and a response with
    ``early_status``: it is called when only the command has come. ``accept`` is given the connection and the
    A-ASSOCIATE-AC to send, ``release`` the connection and the A-RELEASE-RP.
    """

    def __init__(self, *, max_length: int = 16384, delay_s: float = 0, window: int | None = None) -> None:
        self.max_length = max_length
        self.window = window
        self.requests: list[Request] = []
        self.ends: list[bytes] = []
        """The PDU that ended each association; empty: the connection was closed."""
        self.open_associations = self.most_at_a_time = 0
        self.limit = 1000
        self.answer: Callable[[Request], None] = self._take_time_and_respond
        self.accept: Callable[[socket.socket, bytes], object] = socket.socket.sendall
        self.release: Callable[[socket.socket, bytes], object] = socket.socket.sendall
        self.early_status = 0
        self.read: Callable[[socket.socket, bytes], None] | None = None
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.endpoint = endpoint_for(self._server.getsockname(), "SCRIPTED")

    def __enter__(self) -> ScriptedArchive:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def stored(self) -> dict[str, bytes]:
        """Data sets by SOP Instance UID."""
        return {request.sop_instance_uid: request.data_set for request in self.requests}

    def _take_time_and_respond(self, request: Request) -> None:
        threading.Event().wait(self._delay_s)
        request.respond()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the test is over
            while True:
                connection, _ = self._server.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            request = A_ASSOCIATE_RQ()
            request.decode(read_pdu(connection))
            with self._lock:
                if self.open_associations >= self.limit:
                    connection.sendall(bytes([3, 0, 0, 0, 0, 4, 0, 2, 3, 2]))  # local limit exceeded
                    connection.recv(10)
                    return
                self.open_associations += 1
                self.most_at_a_time = max(self.most_at_a_time, self.open_associations)
            try:
                self.accept(connection, self._acceptance_of(request))
                self._converse(connection)
            finally:
                with self._lock:
                    self.open_associations -= 1

    def _acceptance_of(self, request: A_ASSOCIATE_RQ) -> bytes:
        primitive = request.to_primitive()
        accepted = primitive.presentation_context_definition_list
        for context in accepted:
            context.transfer_syntax = [context.transfer_syntax[0]]
            context.result = 0
        primitive.presentation_context_definition_results_list = accepted
        primitive.presentation_context_definition_list = []
        primitive.result, primitive.result_source = 0, 1
        for item in list(primitive.user_information):
            if isinstance(item, MaximumLengthNotification):
                item.maximum_length_received = self.max_length
            elif isinstance(item, AsynchronousOperationsWindowNegotiation):
                if self.window is None:
                    primitive.user_information.remove(item)
                else:
                    item.maximum_number_operations_invoked = self.window
        return A_ASSOCIATE_AC(primitive).encode()

    def _converse(self, connection: socket.socket) -> None:
        while True:
            try:
                request = self._read_request(connection)
            except EOFError:
                self.ends.append(b"")
                raise
            if request is None:
                self.release(connection, bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
                return
            with self._lock:
                self.requests.append(request)
            self.answer(request)

    def _read_instead(self, connection: socket.socket, command: bytes, context_id: int) -> None:
        assert self.read is not None
        message_id = read_dataset(BytesIO(command), is_implicit_VR=True, is_little_endian=True).MessageID
        early = Request(connection, message_id, context_id, "", b"", [])
        self.read(connection, early.response(self.early_status))

    def _read_request(self, connection: socket.socket) -> Request | None:
        parts = {1: bytearray(), 0: bytearray()}
        sizes = []
        while True:
            pdu = read_pdu(connection)
            if pdu[0] != 4:
                self.ends.append(pdu)
                if pdu[0] == 5:
                    return None
                raise EOFError
            sizes.append(len(pdu) - 6)
            size, context_id, control = struct.unpack_from(">LBB", pdu, 6)
            assert size == len(pdu) - 10, "one fragment in each PDU"
            parts[control & 1] += pdu[12:]
            if control == 3 and self.read is not None:
                self._read_instead(connection, bytes(parts[1]), context_id)
            if control == 2:
                break
        command = read_dataset(BytesIO(bytes(parts[1])), is_implicit_VR=True, is_little_endian=True)
        return Request(
            connection, command.MessageID, context_id, str(command.AffectedSOPInstanceUID), bytes(parts[0]), sizes
        )


def read_pdu(connection: socket.socket) -> bytes:
    head = connection.recv(6, socket.MSG_WAITALL)
    if len(head) < 6:
        raise EOFError
    length = struct.unpack(">L", head[2:])[0]
    body = connection.recv(length, socket.MSG_WAITALL)
    if len(body) < length:
        raise EOFError
    return head + body


@pytest.fixture
def scripted() -> Iterator[Callable[..., ScriptedArchive]]:
    """Starts archives that do what the test says; takes the arguments of :class:`ScriptedArchive`."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: stack.enter_context(ScriptedArchive(**options))
