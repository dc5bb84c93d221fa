"""The senders that `benchmarks/send.py` compares, each run in a process of its own.

    python -m sending.senders NAME PORT FOLDER KIND [ASSOCIATIONS [CA_FILE]]

prints seconds from opening the first file to the end of the association, CPU seconds, and MB of memory that sending
added. Starting Python and importing are left out; that of the DCMTK programs takes a few milliseconds and is in.
"""

from __future__ import annotations

import json
import resource
import socket
import sys
import time
from pathlib import Path

from pynetdicom import AE, _config, evt

from archsync.core.contexts import ProposedContext
from archsync.core.tls import TlsSettings
from archsync.core.transfer import Endpoint, Share
from archsync.messages.dimse import C_STORE_RQ, encode_request
from archsync.messages.dul import IS_LAST, RELEASE_RQ, encode_fragments, encode_p_data_head
from archsync.net.dicom.negotiation import encode_association_request
from archsync.net.dicom.pace import Pace
from archsync.net.dicom.store import store_instances
from sending.corpus import KINDS, describe_corpus


def send_with_archsync(port: int, folder: Path, kind: str, associations: int, ca_file: str) -> int:
    """The product, from instances as the platform describes them."""
    instances = describe_corpus(folder, kind)
    tls = TlsSettings(ca_file=ca_file) if ca_file else None
    endpoint = Endpoint("127.0.0.1", port, called_ae_title="NULL", tls=tls)
    pace = Pace(Share(associations))
    begin()
    return sum(outcome.result.is_stored for outcome in store_instances(endpoint, instances, pace))


def send_with_pynetdicom(port: int, folder: Path, kind: str, _associations: int, _ca_file: str) -> int:
    """pynetdicom at its best: files streamed, no Nagle, no logging; its reactor paused, for it loses answers else."""

    def without_nagle(event: evt.Event) -> None:
        event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    _config.STORE_SEND_CHUNKED_DATASET = True
    _config.LOG_HANDLER_LEVEL = "none"
    entity = AE()
    entity.add_requested_context(KINDS[kind].sop_class_uid, KINDS[kind].transfer_syntax_uid)
    begin()
    association = entity.associate("127.0.0.1", port, evt_handlers=[(evt.EVT_CONN_OPEN, without_nagle)])
    association._reactor_checkpoint.clear()
    while not association._is_paused:
        time.sleep(0.0001)
    resume, association._reactor_checkpoint.set = association._reactor_checkpoint.set, lambda: None
    stored = 0
    for path in sorted(folder.glob("*.dcm")):
        stored += association.send_c_store(path).Status == 0
    association._reactor_checkpoint.set = resume
    association.release()
    return stored


def send_raw(port: int, folder: Path, kind: str, _associations: int, _ca_file: str) -> int:
    """The floor: the same bytes as one giant PDU each, by sendfile, waiting for each answer."""
    instances = describe_corpus(folder, kind)
    sop_class = KINDS[kind].sop_class_uid
    contexts = [ProposedContext(sop_class, (KINDS[kind].transfer_syntax_uid,))]
    offset = Path(folder, "00000.dcm").read_bytes().index(b"\x08\x00\x05\x00CS")
    begin()
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.sendall(encode_association_request(Endpoint("127.0.0.1", port, "NULL"), contexts))
        peer.recv(65536)
        for number, instance in enumerate(instances):
            with open(instance.location.removeprefix("file://"), "rb") as stream:  # noqa: PTH123 - as fast as it gets
                size = instance.size_bytes - offset
                command = encode_request(
                    C_STORE_RQ, number % 0xFFFF + 1, sop_class, with_data_set=True,
                    sop_instance_uid=instance.sop_instance_uid,
                )  # fmt: skip
                head = encode_fragments(1, command, is_command=True, fragment_bytes=4096)
                peer.send(head + encode_p_data_head(1, IS_LAST, size), socket.MSG_MORE)
                peer.sendfile(stream, offset)
            peer.recv(4096)
        peer.sendall(RELEASE_RQ)
        peer.recv(10)
    return len(instances)


SENDERS = {"archsync": send_with_archsync, "pynetdicom": send_with_pynetdicom, "floor": send_raw}
started: list[tuple[float, float, int]] = []


def begin() -> None:
    """The clock starts here."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    started.append((time.perf_counter(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss))


def report(stored: int) -> None:
    """The clock stops here; prints what it says."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    wall, cpu, memory = started[0]
    result = {
        "stored": stored,
        "seconds": time.perf_counter() - wall,
        "cpu_seconds": usage.ru_utime + usage.ru_stime - cpu,
        "memory_mb": (usage.ru_maxrss - memory) / 1024,
    }
    print(json.dumps(result))


def main() -> None:
    name, port, folder, kind, *more = sys.argv[1:]
    report(SENDERS[name](int(port), Path(folder), kind, int(more[0]) if more else 1, "".join(more[1:])))


if __name__ == "__main__":
    main()
