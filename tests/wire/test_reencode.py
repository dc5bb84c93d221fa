"""Re-encoding as a stream: the same bytes as by pydicom in one piece, in bounded memory, ahead of the wire, and what
happens when it breaks off."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.data import get_testdata_files
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from archsync.core.transfer import StoreResult
from archsync.errors import InvalidInput
from archsync.net.dicom import reencode as module
from archsync.net.dicom.inflated import CutShort, open_inflated
from archsync.net.dicom.part10 import read_facts
from archsync.net.dicom.reencode import NotReencodable, reencode
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import Rudeness

PLUGINS = Path(__file__).parents[2] / "plugins"


def reencoded(path: Path, target: str) -> bytes | None:
    facts = read_facts(path, sop_instance_uid="1.2")
    with path.open("rb") as stream:
        try:
            result = reencode(stream, facts.data_set_offset, facts.transfer_syntax_uid, target)
            data_set = b"".join(result.pieces)
        except NotReencodable:
            return None
    assert len(data_set) == result.size_bytes
    return data_set


def by_pydicom(path: Path, target: str) -> bytes | None:
    """The same by pydicom, all in memory."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data_set = dcmread(path, force=True)
            if "TransferSyntaxUID" not in data_set.file_meta:
                data_set.file_meta = FileMetaDataset()
                data_set.file_meta.TransferSyntaxUID = read_facts(path, sop_instance_uid="1.2").transfer_syntax_uid
            if data_set.file_meta.TransferSyntaxUID.is_encapsulated:
                data_set.decompress(generate_instance_uid=False)
            stream = DicomBytesIO()
            stream.is_little_endian, stream.is_implicit_VR = True, target == ImplicitVRLittleEndian
            write_dataset(stream, data_set)
        except Exception:  # noqa: BLE001 - pydicom raises nearly anything on what it can't handle
            return None
        return stream.getvalue()


# Big endian is for a test of its own: pydicom leaves its words as they are.
def little_endian_files() -> list[Path]:
    found = []
    for path in sorted({Path(name) for name in get_testdata_files("**/*.dcm")}):
        try:
            syntax = read_facts(path, sop_instance_uid="1.2").transfer_syntax_uid
        except InvalidInput:
            continue
        if syntax != ExplicitVRBigEndian:
            found.append(path)
    return found


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
@pytest.mark.parametrize("target", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize("large_bytes", [module._LARGE_BYTES, 400])
def test_every_bundled_file_comes_out_as_pydicom_writes_it(monkeypatch, large_bytes, target):
    monkeypatch.setattr(module, "_LARGE_BYTES", large_bytes)
    monkeypatch.setattr(module, "_PIECE_BYTES", 4096)
    done = 0
    for path in little_endian_files():
        expected = by_pydicom(path, target)
        if expected is not None:  # (what says a wrong transfer syntax is too much for the oracle)
            assert reencoded(path, target) == expected, path.name
            done += 1
    assert done > 50


@pytest.mark.parametrize("large_bytes", [module._LARGE_BYTES, 400])
@pytest.mark.parametrize(
    ("big", "little"),
    [
        ("liver_expb_1frame.dcm", "liver_1frame.dcm"),
        ("rtdose_expb_1frame.dcm", "rtdose_1frame.dcm"),
        ("SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
    ],
)
def test_big_endian_files_come_out_as_their_little_endian_twins(
    monkeypatch, sample, tmp_path, big, little, large_bytes
):
    monkeypatch.setattr(module, "_LARGE_BYTES", large_bytes)
    monkeypatch.setattr(module, "_PIECE_BYTES", 4096)
    path = tmp_path / "out.dcm"
    path.write_bytes(reencoded(sample(big), ImplicitVRLittleEndian))
    assert dcmread(path, force=True).PixelData == dcmread(sample(little)).PixelData


def test_a_compressed_icon_is_decompressed_too(tmp_path, sample):
    data_set = dcmread(sample("MR_small_RLE.dcm"))
    icon = dcmread(sample("MR_small_RLE.dcm"))
    for element in list(icon):
        if element.tag.group not in (0x28, 0x7FE0):
            del icon[element.tag]
    del icon.file_meta
    data_set.IconImageSequence = [icon]
    path = tmp_path / "icon.dcm"
    data_set.save_as(path)
    out = tmp_path / "out.dcm"
    out.write_bytes(reencoded(path, ImplicitVRLittleEndian))
    sent = dcmread(out, force=True)
    original = dcmread(sample("MR_small.dcm")).PixelData
    assert (sent.PixelData, sent.IconImageSequence[0].PixelData) == (original, original)


def test_offset_tables_of_fragments_go_with_the_fragments(tmp_path, sample):
    data_set = dcmread(sample("MR_small_RLE.dcm"))
    (frame,) = generate_frames(data_set.PixelData, number_of_frames=1)
    data_set.ExtendedOffsetTable, data_set.ExtendedOffsetTableLengths = bytes(8), len(frame).to_bytes(8, "little")
    path = tmp_path / "table.dcm"
    data_set.save_as(path)
    out = tmp_path / "out.dcm"
    out.write_bytes(reencoded(path, ImplicitVRLittleEndian))
    sent = dcmread(out, force=True)
    assert "ExtendedOffsetTable" not in sent
    assert sent.PixelData == dcmread(sample("MR_small.dcm")).PixelData


@pytest.mark.parametrize("frames", [1, 3])
def test_another_number_of_frames_than_announced_is_never_passed_on(tmp_path, sample, frames):
    data_set = dcmread(sample("SC_rgb_rle_2frame.dcm"))
    data_set.NumberOfFrames = frames
    path = tmp_path / "odd.dcm"
    data_set.save_as(path)
    assert reencoded(path, ExplicitVRLittleEndian) is None


# -- inflating -------------------------------------------------------------------------------------------------------


def test_an_inflated_stream_reads_and_seeks_like_the_original():
    dice = random.Random(1)
    original = dice.randbytes(150_000) + bytes(400_000) + dice.randbytes(50_000)
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    stream = BytesIO(b"head" + deflater.compress(original) + deflater.flush() + b"trailer")
    inflated, plain = open_inflated(stream, 4), BytesIO(original)
    for _ in range(200):
        count = dice.choice([0, 1, 7, 4096, 70_000, 300_000])
        if dice.random() < 0.5:
            position = dice.randrange(len(original) + 1000)
            assert inflated.seek(position) == plain.seek(position)
        assert inflated.read(count) == plain.read(count)
        assert inflated.tell() == plain.tell()
    assert inflated.seek(0, os.SEEK_END) == len(original)


@pytest.mark.parametrize("kept", [0, 1, 100, -1])
def test_a_deflated_stream_that_ends_early_is_found_out(kept):
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    deflated = deflater.compress(random.Random(1).randbytes(5000)) + deflater.flush()
    with pytest.raises(CutShort):
        open_inflated(BytesIO(deflated[:kept]), 0).seek(0, os.SEEK_END)


# -- the process -----------------------------------------------------------------------------------------------------


def instance_of_many_frames(path: Path, sample, outgoing, frames: int, damaged: int | None = None):
    """A compressed image of 512 KiB frames, which all look alike; one of them may be damaged."""
    data_set = dcmread(sample("MR_small.dcm"))
    data_set.Rows = data_set.Columns = 512
    data_set.PixelData = random.Random(1).randbytes(1 << 19)
    data_set.compress(RLELossless, generate_instance_uid=False)
    (frame,) = generate_frames(data_set.PixelData, number_of_frames=1)
    encoded = [frame] * frames
    if damaged is not None:
        encoded[damaged] = b"\1\0\0\0\xff\xff\xff\xff" + bytes(64)
    data_set.NumberOfFrames = frames
    data_set.PixelData = encapsulate(encoded)
    data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"2.25.{frames}"
    data_set.save_as(path)
    return outgoing(path)


def children() -> set[int]:
    return {int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


def files_of(process: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{process}/fd").iterdir():
        try:
            found.add(str(link.readlink()))
        except FileNotFoundError:
            continue
    return found


def test_the_next_is_being_decoded_while_the_peer_works_on_the_one_before(
    archive, endpoint, sample, outgoing, tmp_path
):
    paths = [tmp_path / "2.dcm", tmp_path / "3.dcm"]
    instances = [instance_of_many_frames(path, sample, outgoing, int(path.stem)) for path in paths]
    archive.behave(Rudeness(accept_transfer_syntaxes=(ExplicitVRLittleEndian,), stall_at_store=1, stall_s=60))
    sending = store_instances(replace(endpoint, dimse_timeout_s=0.01), instances)
    before = children()
    assert next(sending).result is StoreResult.UNKNOWN
    (worker,) = children() - before
    assert str(paths[1]) in files_of(worker)
    sending.close()
    assert children() == before


@pytest.mark.timeout(60)
@pytest.mark.parametrize("damaged", [0, 20])
def test_an_instance_that_does_not_decode_to_the_end_is_refused_and_the_rest_goes_on(
    archive, endpoint, sample, outgoing, tmp_path, damaged
):
    archive.behave(Rudeness(accept_transfer_syntaxes=(ImplicitVRLittleEndian,)))
    bad = instance_of_many_frames(tmp_path / "bad.dcm", sample, outgoing, 24, damaged)
    good = [outgoing(sample("CT_small.dcm")), outgoing(sample("MR_small_RLE.dcm"))]
    outcomes = list(store_instances(endpoint, [good[0], bad, good[1]]))
    assert [(o.result, o.code) for o in outcomes] == [
        (StoreResult.STORED, "stored"),
        (StoreResult.REFUSED, "transfer-syntax-not-accepted"),
        (StoreResult.STORED, "stored"),
    ]
    assert set(archive.stored) == {instance.sop_instance_uid for instance in good}


@pytest.mark.timeout(60)
def test_a_decoder_that_crashes_takes_only_its_instance_along(archive, endpoint, sample, outgoing, tmp_path):
    archive.behave(Rudeness(accept_transfer_syntaxes=(ImplicitVRLittleEndian,)))
    instances = [outgoing(sample("MR_small_RLE.dcm"))]
    instances += [instance_of_many_frames(tmp_path / f"{n}.dcm", sample, outgoing, n) for n in (60, 2)]
    before = children()
    sending = store_instances(endpoint, instances)
    outcomes = [next(sending)]
    (worker,) = children() - before
    os.kill(worker, signal.SIGKILL)
    outcomes += sending
    assert [o.result for o in outcomes] == [StoreResult.STORED, StoreResult.REFUSED, StoreResult.STORED]
    assert "crashed" in outcomes[1].message or "to the end" in outcomes[1].message
    assert children() == before


SEND_ELSEWHERE = """
import resource, sys
from pathlib import Path
from archsync.core.transfer import Endpoint, OutgoingInstance
from archsync.net.dicom.store import store_instances
port, *paths = sys.argv[1:]
for path in paths:
    syntax = "1.2.840.10008.1.2.1"  # the file's wins
    instance = OutgoingInstance(path, "1.2.840.10008.5.1.4.1.1.4", Path(path).stem, syntax, Path(path).as_uri())
    (outcome,) = store_instances(Endpoint("127.0.0.1", int(port), "SIMARCHIVE"), [instance])
    assert outcome.result.is_stored, outcome
    used = (resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(*used)
"""


@pytest.mark.parametrize(
    ("syntax", "target"),
    [
        (RLELossless, ExplicitVRLittleEndian),
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ExplicitVRBigEndian, ExplicitVRLittleEndian),
        (DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian),
    ],
)
def test_memory_does_not_grow_with_what_is_reencoded(archive, sample, outgoing, tmp_path, syntax, target):
    archive.behave(Rudeness(accept_transfer_syntaxes=(target,)))
    paths = []
    for frames in (1, 100):
        path = tmp_path / f"2.25.{frames}.dcm"
        instance_of_many_frames(path, sample, outgoing, frames)
        if syntax != RLELossless:
            data_set = dcmread(path)
            data_set.file_meta.TransferSyntaxUID = syntax
            data_set.PixelData = bytes(frames << 19)
            data_set["PixelData"].is_undefined_length = False
            data_set["PixelData"].VR = "OW"
            is_little = syntax != ExplicitVRBigEndian
            dcmwrite(path, data_set, implicit_vr=False, little_endian=is_little, force_encoding=not is_little)
        paths.append(str(path))
    command = [sys.executable, "-c", SEND_ELSEWHERE, str(archive.address[1]), *paths]
    environment = {**os.environ, "PYTHONPATH": str(PLUGINS)}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=100).stdout
    (small, small_worker), (large, large_worker) = (map(int, line.split()) for line in output.splitlines())
    assert large - small <= 8
    assert large_worker - small_worker <= 16
