"""Real archives at their limits: small PDUs, long pauses, aborts in the middle; and every bundled file as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pynetdicom.dsutils import split_dataset

from archsync.core.transfer import OutgoingInstance, StoreResult
from archsync.errors import OutcomeUnknown
from archsync.net.dicom.store import store_instances

PDU_SIZES = (4096, 16384, 28672, 131072)


def data_set_bytes(path: Path) -> bytes:
    data_set = path.read_bytes()[split_dataset(path)[1] :]
    return data_set + b"\0" * (len(data_set) % 2)


def sendable() -> dict[str, OutgoingInstance]:
    """The bundled files that hold what a C-STORE needs, one for each SOP Instance UID."""
    found = {}
    for name in sorted(map(str, get_testdata_files("**/*.dcm"))):
        try:
            header = dcmread(name, stop_before_pixels=True)
            uid, sop_class = str(header.SOPInstanceUID), str(header.SOPClassUID)
            syntax = str(header.file_meta.TransferSyntaxUID)
        except Exception:  # noqa: BLE001 - broken on purpose
            continue
        found[uid] = OutgoingInstance(
            name, sop_class, uid, syntax, Path(name).as_uri(),
            study_instance_uid=header.get("StudyInstanceUID"), series_instance_uid=header.get("SeriesInstanceUID"),
        )  # fmt: skip
    return found


@pytest.fixture
def storescp(program, start, free_port, tmp_path):
    """Runs storescp with options; gives its port and the folder it writes to."""

    def run(*options):
        port, folder = free_port(), tmp_path / "storescp"
        folder.mkdir()
        start([program("storescp"), *options, "-od", str(folder), str(port)], port)
        return port, folder

    return run


@pytest.mark.timeout(100)
@pytest.mark.parametrize("max_length", PDU_SIZES)
def test_storescp_gets_every_bundled_file_byte_for_byte_at_any_pdu_size(storescp, peer_at, max_length):
    port, folder = storescp("+B", "+xa", "--promiscuous", "-pdu", str(max_length))
    files = sendable()
    outcomes = list(store_instances(peer_at(port, "STORESCP"), list(files.values())))
    stored = [o for o in outcomes if o.result is StoreResult.STORED]
    assert {o.code for o in outcomes if o not in stored} <= {"file-truncated", "uid-mismatch"}
    by_uid = {dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in folder.iterdir()}
    compared = 0
    for outcome in stored:
        if outcome.sent_transfer_syntax_uid != outcome.instance.transfer_syntax_uid:
            continue  # storescp knows no HTJ2K: sent uncompressed
        source = Path(outcome.instance.instance_key)
        assert data_set_bytes(by_uid[outcome.instance.sop_instance_uid]) == data_set_bytes(source), source.name
        compared += 1
    assert compared > 30


@pytest.mark.timeout(60)
def test_storescp_that_sleeps_longer_than_the_time_out_leaves_the_outcome_unknown(storescp, peer_at, sample, outgoing):
    port, _ = storescp("--sleep-during", "4")
    impatient = replace(peer_at(port, "STORESCP"), dimse_timeout_s=1)
    sending = store_instances(impatient, [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small.dcm"))])
    assert next(sending).result is StoreResult.UNKNOWN
    with pytest.raises(OutcomeUnknown, match="no answer came in time"):
        next(sending)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("option", ["--sleep-after", "--sleep-during"])
def test_storescp_that_takes_its_time_is_waited_for(storescp, peer_at, sample, outgoing, option):
    port, _ = storescp(option, "1")
    instances = [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small.dcm"))]
    outcomes = list(store_instances(peer_at(port, "STORESCP"), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * 2


def test_dcmqrscp_holds_what_it_was_sent(dcmqrscp, peer_at, sample, outgoing):
    names = ("CT_small.dcm", "MR_small_implicit.dcm", "SC_rgb_rle_2frame.dcm", "JPEG2000.dcm", "reportsi.dcm")
    instances = [outgoing(sample(name)) for name in names]
    outcomes = list(store_instances(peer_at(dcmqrscp.dicom_port, "DCMQRSCP"), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * len(names)
    held = dcmqrscp.held()
    for name, instance in zip(names, instances, strict=True):
        sent = dcmread(sample(name))
        assert held[instance.sop_instance_uid].get("PixelData") == sent.get("PixelData") or (
            held[instance.sop_instance_uid].file_meta.TransferSyntaxUID != sent.file_meta.TransferSyntaxUID
        ), name


def test_orthanc_that_takes_small_pdus_gets_everything(program, start, free_port, peer_at, sample, outgoing, tmp_path):
    port, http_port = free_port(), free_port()
    configuration = tmp_path / "orthanc.json"
    settings = {
        "DicomAet": "SMALL", "DicomPort": port, "HttpPort": http_port, "MaximumPduLength": 4096, "Plugins": [],
        "StorageDirectory": str(tmp_path / "storage"), "IndexDirectory": str(tmp_path / "storage"),
        "DicomAlwaysAllowStore": True, "AuthenticationEnabled": False,
    }  # fmt: skip
    configuration.write_text(json.dumps(settings))
    start([program("Orthanc"), str(configuration)], port, http_port)
    instances = [outgoing(sample(n)) for n in ("CT_small.dcm", "MR_small_implicit.dcm", "examples_ybr_color.dcm")]
    outcomes = list(store_instances(peer_at(port, "SMALL"), instances))
    assert [o.result for o in outcomes] == [StoreResult.STORED] * len(instances)
