"""The fast reader of files against the slow one, and both against pydicom: same facts or none."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_files
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from sample_instances import random_data_set

from archsync.errors import InvalidInput
from archsync.net.dicom.part10 import FileFacts, read_facts
from archsync.net.dicom.scan import scan_facts
from archsync.net.images import OpenFile


def scan(path: Path) -> FileFacts | None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return scan_facts(OpenFile(str(path), descriptor, os.fstat(descriptor)))
    finally:
        os.close(descriptor)


def read(path: Path) -> FileFacts | None:
    try:
        return read_facts(path, sop_instance_uid="1.2")
    except InvalidInput:
        return None


def bundled_files() -> list[Path]:
    return sorted(Path(path) for path in get_testdata_files("**/*") if Path(path).is_file())


def test_every_bundled_file_gives_the_same_as_by_the_slow_reader_or_is_left_to_it():
    files = bundled_files()
    understood = 0
    for path in files:
        fast = scan(path)
        if fast is not None:
            understood += 1
            assert fast == read(path), path
    assert understood > len(files) // 2


def test_what_the_fast_reader_understands_pydicom_reads_alike():
    for path in bundled_files():
        facts = scan(path)
        if facts is None:
            continue
        data_set = dcmread(path, stop_before_pixels=True)
        assert facts.transfer_syntax_uid == data_set.file_meta.TransferSyntaxUID
        assert (facts.sop_class_uid, facts.sop_instance_uid) == (data_set.SOPClassUID, data_set.SOPInstanceUID)
        assert facts.study_instance_uid == data_set.get("StudyInstanceUID", "")
        assert facts.series_instance_uid == data_set.get("SeriesInstanceUID", "")
        whole = dcmread(path)
        if "PixelData" in whole and not whole["PixelData"].is_undefined_length:
            assert path.read_bytes().endswith(whole.PixelData) or "DataSetTrailingPadding" in whole, path


@pytest.mark.parametrize(
    "name", ["CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "SC_rgb_rle_2frame.dcm", "reportsi.dcm"]
)
def test_a_file_cut_anywhere_is_never_called_whole(tmp_path, sample, name):
    whole = sample(name).read_bytes()
    assert scan(sample(name)) is not None
    cut = tmp_path / "cut.dcm"
    pixels_at = whole.rfind(b"\xe0\x7f\x10\x00")
    for size in sorted({*range(0, len(whole), 1 + len(whole) // 400), *range(len(whole) - 40, len(whole))}):
        cut.write_bytes(whole[:size])
        facts = scan(cut)
        # Before an image says that it is one, an end between two elements can't be told from the real one.
        assert facts is None or facts == read(cut), size
        assert facts is None or not 0 < pixels_at < size, size


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["CT_small.dcm", "MR_small_implicit.dcm", "liver_1frame.dcm", "SC_rgb_rle_2frame.dcm"]),
    damage=st.lists(st.tuples(st.integers(128, 6000), st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.none() | st.integers(132, 6000),
)
def test_a_damaged_file_gives_the_same_as_by_the_slow_reader_or_is_left_to_it(tmp_path, sample, name, damage, cut):
    data = bytearray(sample(name).read_bytes())
    for position, value in damage:
        data[position % len(data)] = value
    path = tmp_path / "damaged.dcm"
    path.write_bytes(data[:cut])
    fast = scan(path)
    assert fast is None or fast == read(path)


@pytest.mark.parametrize("seed", range(60))
def test_random_data_sets_are_understood_and_give_the_same(tmp_path, seed):
    dice = random.Random(seed)
    data_set = random_data_set(dice)
    data_set.SOPClassUID, data_set.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "2.25.77"
    data_set.StudyInstanceUID, data_set.PatientName = "2.25.1", "A^B"
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = dice.choice([ExplicitVRLittleEndian, ImplicitVRLittleEndian])
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    path = tmp_path / "random.dcm"
    data_set.save_as(path, enforce_file_format=True)
    facts = scan(path)
    assert facts is not None
    assert facts == read(path)


def test_pixel_data_longer_than_the_file_or_shorter_than_its_rest_is_left_to_the_slow_reader(tmp_path, sample):
    whole = bytearray(sample("CT_small.dcm").read_bytes())
    start = whole.index(b"\xe0\x7f\x10\x00OW\0\0") + 8
    length = struct.unpack_from("<L", whole, start)[0]
    path = tmp_path / "lie.dcm"
    for lie in (length + 2, 0xFFFFFFFE, length - 4):
        struct.pack_into("<L", whole, start, lie)
        path.write_bytes(whole)
        assert scan(path) is None


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_files_that_are_alike_give_the_same_as_by_the_slow_reader_however_they_differ(tmp_path, sample, syntax):
    # What was learnt of one file is tried on the next: values, lengths, missing and added elements, other pixels.
    dice = random.Random(5)
    data_set = dcmread(sample("CT_small.dcm"))
    data_set.file_meta.TransferSyntaxUID = syntax
    path = tmp_path / "next.dcm"
    for number in range(400):
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = f"2.25.{dice.randrange(10**12)}"
        data_set.PatientName = "N" * dice.choice([4, 4, 4, 5, 9])
        data_set.InstanceNumber = number
        if dice.random() < 0.2:
            data_set.StudyDescription = "d" * dice.randrange(60)
        if dice.random() < 0.1:
            data_set.PixelData = bytes(2 * dice.randrange(1, 9000))
        if dice.random() < 0.1:
            data_set.add_new(0x00181030, "LO", "p" * dice.randrange(1, 60))
        if dice.random() < 0.1 and "ProtocolName" in data_set:
            del data_set.ProtocolName
        data_set.save_as(path, implicit_vr=syntax.is_implicit_VR, little_endian=True)
        facts = scan(path)
        assert facts is not None
        assert facts == read(path)
        assert facts.sop_instance_uid == data_set.SOPInstanceUID
        cut = dice.randrange(200, path.stat().st_size)
        path.write_bytes(path.read_bytes()[:cut])
        assert scan(path) in (None, read(path))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["CT_small.dcm", "MR_small_implicit.dcm", "liver_1frame.dcm", "SC_rgb_rle_2frame.dcm"]),
    damage=st.lists(st.tuples(st.integers(132, 6000), st.integers(0, 255)), min_size=1, max_size=3),
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_file_that_the_fast_reader_understands_pydicom_reads_alike(tmp_path, sample, name, damage):
    data = bytearray(sample(name).read_bytes())
    for position, value in damage:
        data[position % len(data)] = value
    path = tmp_path / "damaged.dcm"
    path.write_bytes(data)
    facts = scan(path)
    if facts is None:
        return
    by_pydicom = dcmread(path)
    for tag, found in (
        (0x00080016, facts.sop_class_uid),
        (0x00080018, facts.sop_instance_uid),
        (0x0020000D, facts.study_instance_uid),
        (0x0020000E, facts.series_instance_uid),
    ):
        raw = by_pydicom.get_item(tag)
        value = b"" if raw is None else raw.value
        read_by_pydicom = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
        assert found == read_by_pydicom.strip("\0 "), hex(tag)
