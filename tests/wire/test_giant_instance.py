"""An instance of 4 GB: it leaves in bounded memory, to a fast reader and to one that takes its time."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import dcmread

PLUGINS = Path(__file__).parents[2] / "plugins"
MAX_GROWTH_MB = 24
GIANT_BYTES = (1 << 32) - (1 << 20)
"""About as much as an explicit length can say (PS3.5 7.1.2): 4 GB."""

# Takes an association of one instance without looking at it: `take_bytes` at a time, a pause between.
RECEIVER = """
import socket, struct, sys, time
from io import BytesIO
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
take_bytes, pause_s = int(sys.argv[1]), float(sys.argv[2])
server = socket.socket()
if pause_s:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
server.bind(("127.0.0.1", 0))
server.listen()
print(server.getsockname()[1], flush=True)
peer, _ = server.accept()
head = peer.recv(6, socket.MSG_WAITALL)
request = A_ASSOCIATE_RQ()
request.decode(head + peer.recv(struct.unpack(">L", head[2:])[0], socket.MSG_WAITALL))
primitive = request.to_primitive()
contexts = primitive.presentation_context_definition_list
for context in contexts:
    context.transfer_syntax, context.result = [context.transfer_syntax[0]], 0
primitive.presentation_context_definition_results_list = contexts
primitive.presentation_context_definition_list = []
primitive.result, primitive.result_source = 0, 1
primitive.user_information[0].maximum_length_received = 131072
peer.sendall(A_ASSOCIATE_AC(primitive).encode())
buffer = bytearray(max(take_bytes, 1 << 17))
view = memoryview(buffer)
received = 0
def take(count):
    global received
    peer.recv_into(view[:count], count, socket.MSG_WAITALL)
    received += count
    if pause_s:
        time.sleep(pause_s)
while True:
    take(12)
    length, context, control = struct.unpack_from(">L4xBB", buffer, 2)
    left = length - 6
    while left:
        take(min(left, take_bytes))
        left -= min(left, take_bytes)
    if control == 2:
        body = b"".join(struct.pack("<HHLH", 0, t, 2, v)
                        for t, v in ((0x0100, 0x8001), (0x0120, 1), (0x0800, 0x0101), (0x0900, 0)))
        body = struct.pack("<HHLL", 0, 0, 4, len(body)) + body
        peer.sendall(struct.pack(">BBLLBB", 4, 0, len(body) + 6, len(body) + 2, context, 3) + body)
        peer.settimeout(60)
        assert peer.recv(10, socket.MSG_WAITALL)[0] == 5
        peer.sendall(bytes([6, 0, 0, 0, 0, 4, 0, 0, 0, 0]))
        break
"""

SENDER = """
import sys
from pathlib import Path
from archsync.core.transfer import Endpoint, OutgoingInstance
from archsync.net.dicom import store
def peak_kb():
    return int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmHWM")).split()[1])
port, path, uid, sop_class = sys.argv[1:]
instance = OutgoingInstance(uid, sop_class, uid, "1.2.840.10008.1.2.1", Path(path).as_uri())
before = peak_kb()
(outcome,) = store.store_instances(Endpoint("127.0.0.1", int(port), "NULL"), [instance])
assert outcome.result.is_stored, outcome
print(outcome.bytes_sent, (peak_kb() - before) // 1024)
"""


def make_sparse_instance(path: Path, source: Path, pixel_bytes: int) -> tuple[str, str]:
    """An instance whose pixel data are a hole in the file; gives its UID and SOP class."""
    data_set = dcmread(source)
    del data_set["DataSetTrailingPadding"], data_set.StudyInstanceUID, data_set.SeriesInstanceUID
    data_set.PixelData = b"\0\0"
    data_set.save_as(path)
    with path.open("r+b") as stream:
        stream.seek(-6, os.SEEK_END)
        stream.write(struct.pack("<L", pixel_bytes))
        stream.truncate(stream.tell() + pixel_bytes)
    return data_set.SOPInstanceUID, data_set.SOPClassUID


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("pixel_bytes", "take_bytes", "pause_s"),
    [
        pytest.param(GIANT_BYTES, 1 << 17, 0, id="4 GB", marks=pytest.mark.slow),
        pytest.param(64 << 20, 1 << 16, 0.002, id="64 MB to a slow reader"),
    ],
)
def test_memory_stays_flat(sample, tmp_path, pixel_bytes, take_bytes, pause_s):
    path = tmp_path / "giant.dcm"
    uid, sop_class = make_sparse_instance(path, sample("CT_small.dcm"), pixel_bytes)
    assert path.stat().st_blocks * 512 < 1 << 20, "the file system knows holes"
    receiver = subprocess.Popen(
        [sys.executable, "-c", RECEIVER, str(take_bytes), str(pause_s)], stdout=subprocess.PIPE, text=True
    )
    try:
        port = receiver.stdout.readline().strip()
        environment = {**os.environ, "PYTHONPATH": str(PLUGINS)}
        command = [sys.executable, "-c", SENDER, port, str(path), uid, sop_class]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
        assert done.returncode == 0, done.stderr
        sent_bytes, growth_mb = map(int, done.stdout.split())
    finally:
        receiver.kill()
        receiver.communicate()
    assert sent_bytes > pixel_bytes
    print(f"{growth_mb} MB more")
    assert growth_mb <= MAX_GROWTH_MB
