"""DCMTK on the other side: storescp receives from us, its clients talk to the simulated archive."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from pydicom import dcmread
from pynetdicom.dsutils import split_dataset

from archsync.core.transfer import StoreResult
from archsync.errors import OutcomeUnknown, PeerUnavailable
from archsync.net.dicom.echo import diagnose, echo
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import SimulatedArchive

IMPLICIT = "1.2.840.10008.1.2"
IMAGES = (
    *("CT_small.dcm", "MR_small_implicit.dcm", "ExplVR_BigEnd.dcm", "image_dfl.dcm", "SC_rgb_rle_2frame.dcm"),
    *("JPEG2000.dcm", "GDCMJ2K_TextGBR.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm"),
    "MR_small_jpeg_ls_lossless.dcm",
)
DOCUMENTS = ("waveform_ecg.dcm", "reportsi.dcm", "liver_1frame.dcm", "examples_ybr_color.dcm")


def data_set_bytes(path):
    """The data set as it lies in the file; an odd one (deflated, unpadded) with the byte that makes it even."""
    data_set = path.read_bytes()[split_dataset(path)[1] :]
    return data_set + b"\0" * (len(data_set) % 2)


@pytest.fixture
def storescp(program, start, free_port, tmp_path):
    """Runs storescp with options; gives its port and the folder it writes to."""

    def run(*options):
        command = program("storescp")
        port, folder = free_port(), tmp_path / "storescp"
        folder.mkdir()
        start([command, *options, "-od", str(folder), str(port)], port)
        return port, folder

    return run


def received(folder):
    """What storescp wrote, by SOP Instance UID."""
    return {dcmread(path, stop_before_pixels=True).SOPInstanceUID: path for path in folder.iterdir()}


def test_storescp_gets_every_data_set_byte_for_byte(storescp, peer_at, sample, outgoing):
    port, folder = storescp("+B", "+xa")
    sources = {}
    for name in (*IMAGES, *DOCUMENTS):
        instance = outgoing(sample(name))
        sources.setdefault(instance.sop_instance_uid, (sample(name), instance))
    outcomes = list(store_instances(peer_at(port, "STORESCP"), [instance for _, instance in sources.values()]))
    assert [outcome.result for outcome in outcomes] == [StoreResult.STORED] * len(sources)
    by_uid = received(folder)
    for outcome in outcomes:
        source, instance = sources[outcome.instance.sop_instance_uid]
        assert outcome.sent_transfer_syntax_uid == instance.transfer_syntax_uid, source.name
        assert data_set_bytes(by_uid[instance.sop_instance_uid]) == data_set_bytes(source), source.name


def test_storescp_that_takes_only_implicit_gets_the_same_pixels(storescp, peer_at, sample, outgoing, program):
    port, folder = storescp("+xi")
    decodable = [n for n in IMAGES if n not in ("SC_rgb_jpeg_gdcm.dcm", "JPGExtended.dcm", "GDCMJ2K_TextGBR.dcm")]
    sources = {}
    for name in decodable:
        instance = outgoing(sample(name))
        sources.setdefault(instance.sop_instance_uid, (sample(name), instance))
    outcomes = list(store_instances(peer_at(port, "STORESCP"), [instance for _, instance in sources.values()]))
    assert {(o.result, o.sent_transfer_syntax_uid) for o in outcomes} == {(StoreResult.STORED, IMPLICIT)}
    for uid, path in received(folder).items():
        assert dcmread(path).file_meta.TransferSyntaxUID == IMPLICIT
        assert np.array_equal(dcmread(path).pixel_array, dcmread(sources[uid][0]).pixel_array), path.name
        subprocess.run([program("dcmdump"), "-q", str(path)], check=True, capture_output=True)  # reads it to the end


def test_what_can_not_be_decoded_is_refused_and_the_rest_reaches_storescp(storescp, peer_at, sample, outgoing):
    port, folder = storescp("+xi")
    instances = [outgoing(sample("SC_rgb_jpeg_gdcm.dcm")), outgoing(sample("CT_small.dcm"))]
    outcomes = list(store_instances(peer_at(port, "STORESCP"), instances))
    assert [outcome.result for outcome in outcomes] == [StoreResult.REFUSED, StoreResult.STORED]
    assert set(received(folder)) == {instances[1].sop_instance_uid}


def test_storescp_that_refuses_every_association_is_tried_again(storescp, peer_at):
    port, _ = storescp("--refuse")
    # storescp serves one connection at a time: the one that waited for its port may still be in the way.
    for _ in range(3):
        with pytest.raises(PeerUnavailable) as caught:
            echo(peer_at(port, "STORESCP"))
        if caught.value.code != "association-timeout":
            break
    assert (caught.value.code, caught.value.reached_peer) == ("association-rejected", True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("option", ["--abort-during", "--abort-after"])
def test_storescp_that_aborts_leaves_the_outcome_unknown(storescp, peer_at, sample, outgoing, option):
    port, _ = storescp(option)
    instance = outgoing(sample("CT_small.dcm"))
    sending = store_instances(peer_at(port, "STORESCP"), [instance])
    first = next(sending)
    if first.result is StoreResult.STORED:  # it may abort after the response is out
        assert option == "--abort-after"
        return
    assert first.result is StoreResult.UNKNOWN
    with pytest.raises(OutcomeUnknown, match=instance.sop_instance_uid):
        next(sending)


def test_storescp_passes_the_diagnosis_but_for_c_find(storescp, peer_at):
    port, _ = storescp()
    assert {step.name: step.ok for step in diagnose(peer_at(port, "STORESCP"))} == {
        **dict.fromkeys(("tcp", "association", "echo", "storage", "notes"), True),
        "find": False,
    }


# DCMTK's clients against the simulated archive


@pytest.fixture
def archive(tmp_path):
    with SimulatedArchive(tmp_path / "archive") as archive:
        yield archive


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_echoscu_and_storescu_and_dcmsend_are_served(program, archive, sample):
    host, port = archive.address
    run(program("echoscu"), "-aec", archive.ae_title, host, port)
    ct, j2k, mr = (sample(name) for name in ("CT_small.dcm", "JPEG2000.dcm", "MR_small.dcm"))
    run(program("storescu"), "-aec", archive.ae_title, host, port, ct)
    run(program("storescu"), "-xw", "-aec", archive.ae_title, host, port, j2k)  # JPEG 2000, lossy too
    run(program("dcmsend"), "-aec", archive.ae_title, host, port, mr)
    for path in (ct, j2k, mr):
        stored = archive.stored[dcmread(path).SOPInstanceUID].path
        assert dcmread(stored).PixelData == dcmread(path).PixelData
        run(program("dcmdump"), "-q", stored)


def test_findscu_finds_what_was_sent(program, archive, sample):
    host, port = archive.address
    run(program("storescu"), host, port, sample("CT_small.dcm"), sample("MR_small.dcm"))
    ct = dcmread(sample("CT_small.dcm"))
    study = run(
        program("findscu"), "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=CompressedSamples^CT*",
        "-k", "StudyInstanceUID", "-k", "NumberOfStudyRelatedInstances", host, port,
    )  # fmt: skip
    assert ct.StudyInstanceUID in study
    assert dcmread(sample("MR_small.dcm")).StudyInstanceUID not in study
    image = run(
        program("findscu"), "-S", "-k", "QueryRetrieveLevel=IMAGE", "-k", f"StudyInstanceUID={ct.StudyInstanceUID}",
        "-k", f"SeriesInstanceUID={ct.SeriesInstanceUID}", "-k", "SOPInstanceUID", host, port,
    )  # fmt: skip
    assert ct.SOPInstanceUID in image
