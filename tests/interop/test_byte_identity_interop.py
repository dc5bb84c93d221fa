"""What is sent arrives as it is, at any PDU size: at storescp, which keeps every byte, and at Orthanc, which does not.

Orthanc parses a data set and writes it anew, with lengths in place of undefined ones. It does that by DCMTK, so what
DCMTK's dcmconv makes of the file, byte for byte, is what it has to hold.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import threading
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread
from sample_instances import bundled_instances, data_set_bytes, random_instances

from archsync.core.profiles import ArchiveProfile
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreOutcome, StoreResult
from archsync.net.dicom.store import store_instances

PDU_SIZES = (4096, 16384, 28672, 131072, 0)
"""0: any. Neither archive says so of its own accord, so it is said in its place."""
LONGEST = 131072
DEFLATED = "1.2.840.10008.1.2.1.99"
NOT_SENT = {"file-truncated", "uid-mismatch"}
NOT_FOR_ORTHANC = {
    *("JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "SC_rgb_jls_lossy_line.dcm"),  # of no study
    *("SC_rgb_jls_lossy_sample.dcm", "rtdose_rle_1frame.dcm"),  # as before; the last one DCMTK can't read
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, OutgoingInstance]:
    return bundled_instances() | random_instances(tmp_path_factory.mktemp("random"), 48)


@pytest.fixture
def unlimited() -> Iterator[Callable[[int], int]]:
    """Gives the port of a relay to a port, which says in the archive's name that it takes PDUs of any length."""
    with contextlib.ExitStack() as stack:

        def start(port: int) -> int:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            threading.Thread(target=relay, args=(server, port), daemon=True).start()
            return server.getsockname()[1]

        yield start


def relay(server: socket.socket, port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            near, _ = server.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for connection in (near, far):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=pump, args=(near, far), daemon=True).start()
            threading.Thread(target=pump_unlimited, args=(far, near), daemon=True).start()


def pump(source: socket.socket, target: socket.socket, first: bytes = b"") -> None:
    with contextlib.suppress(OSError), source:
        target.sendall(first)
        while piece := source.recv(1 << 16):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


def pump_unlimited(source: socket.socket, target: socket.socket) -> None:
    """As :func:`pump`, with another Maximum Length Sub-item in the A-ASSOCIATE-AC (PS3.8 D.1)."""
    acceptance = source.recv(6, socket.MSG_WAITALL)
    acceptance += source.recv(struct.unpack(">2xL", acceptance)[0], socket.MSG_WAITALL)
    place = acceptance.index(b"\x51\0\0\4") + 4
    pump(source, target, acceptance[:place] + bytes(4) + acceptance[place + 4 :])


def send(endpoint: Endpoint, files: dict[str, OutgoingInstance]) -> list[StoreOutcome]:
    return list(store_instances(endpoint, list(files.values())))


def sent_as_they_are(outcomes: list[StoreOutcome]) -> dict[str, Path]:
    """The files of what was stored, by SOP Instance UID, but for those in a syntax that the archive does not take."""
    found = {
        o.instance.sop_instance_uid: Path(o.instance.instance_key)
        for o in outcomes
        if o.result is StoreResult.STORED and o.sent_transfer_syntax_uid == o.instance.transfer_syntax_uid
    }
    assert len([path for path in found.values() if path.parent.name != "random0"]) > 30
    assert len([path for path in found.values() if path.parent.name == "random0"]) >= 48
    return found


@pytest.mark.timeout(100)
@pytest.mark.parametrize("max_length", PDU_SIZES)
def test_storescp_gets_every_file_byte_for_byte(
    program, start, free_port, unlimited, peer_at, tmp_path, files, max_length
):
    port, folder = free_port(), tmp_path / "received"
    folder.mkdir()
    options = ["+B", "+xa", "--promiscuous", "-pdu", str(max_length or LONGEST)]
    start([program("storescp"), *options, "-od", str(folder), str(port)], port)
    outcomes = send(peer_at(port if max_length else unlimited(port), "STORESCP"), files)
    assert {o.code for o in outcomes if not o.result.is_stored} <= NOT_SENT
    received = {dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID: path for path in folder.iterdir()}
    for uid, path in sent_as_they_are(outcomes).items():
        assert data_set_bytes(received[uid]) == data_set_bytes(path), path.name


@pytest.fixture(scope="module")
def rewritten(program, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], bytes]:
    """Gives the data set of a file as DCMTK writes it anew, with explicit lengths."""
    target, known = tmp_path_factory.mktemp("dcmconv") / "rewritten.dcm", {}

    def rewrite(path: Path) -> bytes:
        if path not in known:
            subprocess.run([program("dcmconv"), "+e", str(path), str(target)], check=True, capture_output=True)
            known[path] = data_set_bytes(target)
        return known[path]

    return rewrite


def inflated(data_set: bytes) -> bytes:
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data_set)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("max_length", PDU_SIZES)
def test_orthanc_holds_every_file_byte_for_byte_as_dcmtk_writes_it(
    program, start, free_port, unlimited, tmp_path, files, rewritten, max_length
):
    port, http_port = free_port(), free_port()
    configuration = tmp_path / "orthanc.json"
    settings = {
        "DicomAet": "ORTHANC", "DicomPort": port, "HttpPort": http_port, "MaximumPduLength": max_length or LONGEST,
        "Plugins": [], "StorageDirectory": str(tmp_path / "storage"), "IndexDirectory": str(tmp_path / "storage"),
        "DicomAlwaysAllowStore": True, "AuthenticationEnabled": False, "UnknownSopClassAccepted": True,
    }  # fmt: skip
    configuration.write_text(json.dumps(settings))
    start([program("Orthanc"), str(configuration)], port, http_port)
    endpoint = Endpoint("127.0.0.1", port if max_length else unlimited(port), "ORTHANC", profile=ArchiveProfile.ORTHANC)
    outcomes = send(endpoint, files)
    rest = f"http://127.0.0.1:{http_port}/instances"
    held = {}
    with urllib.request.urlopen(rest, timeout=20) as answer:
        names = json.load(answer)
    for name in names:
        with urllib.request.urlopen(f"{rest}/{name}/file", timeout=20) as answer:
            content = answer.read()
        uid = str(dcmread(BytesIO(content), specific_tags=["SOPInstanceUID"]).SOPInstanceUID)
        held[uid] = tmp_path / f"{uid}.dcm"
        held[uid].write_bytes(content)
    as_it_is = 0
    for uid, path in sent_as_they_are(outcomes).items():
        arrived, source = data_set_bytes(held[uid]), data_set_bytes(path)
        as_it_is += arrived == source
        if files[uid].transfer_syntax_uid == DEFLATED:
            arrived, source = inflated(arrived), inflated(source)
        assert arrived == source or arrived in (rewritten(path), inflated_or_none(rewritten(path))), path.name
    assert as_it_is > 20
    refused = [o.instance for o in outcomes if not o.result.is_stored and o.code not in NOT_SENT]
    assert {Path(instance.instance_key).name for instance in refused} <= NOT_FOR_ORTHANC


def inflated_or_none(data_set: bytes) -> bytes | None:
    try:
        return inflated(data_set)
    except zlib.error:
        return None
