"""Replacement instances made of real files: pixels stay, identity changes, history is kept, memory stays flat."""

from __future__ import annotations

import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, time
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom import dcmread
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.uid import UID

from archsync.core.fitting import Modification, RequestAttributes
from archsync.core.study import Facility, Patient, Study
from archsync.core.uid_map import InstanceUids, UidMap
from archsync.errors import InvalidInput
from archsync.net.dicom.replacement import WrittenReplacement, write_replacement

NEW = InstanceUids("2.25.1001", "2.25.1002", "2.25.1003")
PATIENT = Patient("p-9", "PID-9", "HOSP", "Moved^Maria^^Dr.", date(1961, 2, 3), "F")
FACILITY = Facility("f-1", "North", "NORTH", "HOSP", "1.2.999.1", "ISO")
STUDY = Study(
    "s-9", NEW.study_instance_uid, PATIENT, FACILITY, "Completed",
    accession_number="ACC-9", study_date=date(2024, 5, 6), study_time=time(7, 8, 9), description="Right study",
    referring_physician="Refer^Rita", study_id="SID9",
)  # fmt: skip
CHANGED = Modification(modified_at=datetime(2025, 1, 2, 3, 4, 5, 6, tzinfo=UTC), modifying_system="archsync at North")
TEST_FILES = Path(pydicom.__file__).parent / "data" / "test_files"
TRUNCATED = {"MR_truncated.dcm", "rtplan_truncated.dcm"}
ORIGINAL_ATTRIBUTES = 0x04000561


def read(source: Path | bytes, **how: object) -> Dataset:
    """Read a file as pydicom does, and keep its remarks on odd samples to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dcmread(BytesIO(source) if isinstance(source, bytes) else source, force=True, **how)


def old_uids(source: Path) -> InstanceUids:
    header = read(source, stop_before_pixels=True)
    return InstanceUids(
        str(header.get("StudyInstanceUID", "")), str(header.get("SeriesInstanceUID", "")), str(header.SOPInstanceUID)
    )


def write(
    source: Path, target: Path | BytesIO, *, new: InstanceUids = NEW, patient: Patient = PATIENT, **changes: object
) -> WrittenReplacement:
    old = old_uids(source)
    arguments: dict = {
        "sop_instance_uid": old.sop_instance_uid,
        "uids": new,
        "uid_map": UidMap.of([(old, new)]),
        "study": STUDY,
        "modification": CHANGED,
    }
    return write_replacement(source, target, patient=patient, **arguments | changes)


def replacement_of(source: Path, **changes: object) -> bytes:
    target = BytesIO()
    written = write(source, target, **changes)
    assert written.size_bytes == len(target.getvalue())
    return target.getvalue()


def suitable_samples() -> Iterator[Path]:
    for path in sorted(TEST_FILES.rglob("*")):
        if path.is_file() and path.name not in TRUNCATED:
            try:
                header = read(path, stop_before_pixels=True)
                if header.get("SOPInstanceUID") and header.get("SOPClassUID"):
                    yield path
            except Exception:  # noqa: BLE001 - whatever pydicom can't read is no sample
                continue


SAMPLES = list(suitable_samples())


def every_sample(test: Callable[[Path], None]) -> Callable[[Path], None]:
    """Run a test with every sample; remarks on odd values come when the test looks at them."""
    each = pytest.mark.parametrize("source", SAMPLES, ids=lambda path: str(path.relative_to(TEST_FILES)))
    return pytest.mark.filterwarnings("ignore:Invalid value for VR")(each(test))


def elements(dataset: Dataset) -> Iterator[DataElement]:
    """All elements at every depth, but for the history in Original Attributes."""
    for element in dataset:
        if element.tag == ORIGINAL_ATTRIBUTES:
            continue
        yield element
        if element.VR == "SQ":
            for item in element.value:
                yield from elements(item)


def from_the_pixels_on(content: bytes) -> bytes | None:
    """The bytes of the file from the header of its pixel element to the end, found by pydicom."""
    dataset = read(content)
    for tag in (0x7FE00008, 0x7FE00009, 0x7FE00010):
        if tag in dataset:
            raw = dataset.get_item(tag)
            return content[raw.value_tell - (8 if raw.is_implicit_VR else 12) :]
    return None


# -- pixels ----------------------------------------------------------------------------------------------------------


def test_enough_samples_are_tried() -> None:
    assert len(SAMPLES) > 140


@every_sample
def test_everything_from_the_pixels_on_stays_bit_for_bit(source: Path) -> None:
    content = source.read_bytes()
    if read(source).file_meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
        assert read(replacement_of(source)).PixelData == read(source).PixelData
        return
    before, after = from_the_pixels_on(content), from_the_pixels_on(replacement_of(source))
    assert after == before
    assert before is None or len(before) > 8


@every_sample
def test_a_replacement_names_the_target_and_none_of_the_old_uids(source: Path) -> None:
    old = old_uids(source)
    result = read(replacement_of(source))
    meta = result.file_meta
    assert (meta.MediaStorageSOPInstanceUID, meta.MediaStorageSOPClassUID) == (NEW.sop_instance_uid, result.SOPClassUID)
    assert (result.StudyInstanceUID, result.SeriesInstanceUID, result.SOPInstanceUID) == (
        NEW.study_instance_uid, NEW.series_instance_uid, NEW.sop_instance_uid,
    )  # fmt: skip
    stale = {
        element.keyword or str(element.tag)
        for element in elements(result)
        if element.VR == "UI"
        and {old.study_instance_uid, old.series_instance_uid, old.sop_instance_uid} & set(as_list(element.value))
    }
    if "StudiesContainingOtherReferencedInstancesSequence" in result:
        stale -= {"StudyInstanceUID"}  # its images stayed in the old study
    assert stale <= {"FrameOfReferenceUID", "ReferencedFrameOfReferenceUID"}
    assert (result.PatientName, result.PatientID, result.PatientBirthDate, result.PatientSex) == (
        "Moved^Maria^^Dr.", "PID-9", "19610203", "F",
    )  # fmt: skip
    assert result.IssuerOfPatientID == "HOSP"
    qualifiers = result.IssuerOfPatientIDQualifiersSequence[0]
    assert (qualifiers.UniversalEntityID, qualifiers.UniversalEntityIDType) == ("1.2.999.1", "ISO")
    assert (result.StudyDate, result.StudyTime, result.StudyID) == ("20240506", "070809", "SID9")
    assert (result.AccessionNumber, result.StudyDescription) == ("ACC-9", "Right study")
    assert result.ReferringPhysicianName == "Refer^Rita"
    assert "RequestAttributesSequence" not in result
    assert "OtherPatientIDs" not in result


def as_list(value: object) -> list[str]:
    return [str(v) for v in value] if isinstance(value, list) or hasattr(value, "append") else [str(value)]


@every_sample
def test_original_attributes_hold_what_was_there_before(source: Path) -> None:
    before = read(source)
    result = read(replacement_of(source))
    item = result.OriginalAttributesSequence[-1]
    assert item.AttributeModificationDateTime == "20250102030405.000006+0000"
    assert (item.ModifyingSystem, item.ReasonForTheAttributeModification) == ("archsync at North", "CORRECT")
    assert item.SourceOfPreviousValues == ""
    (modified,) = item.ModifiedAttributesSequence
    assert modified.SOPInstanceUID == before.SOPInstanceUID
    for element in modified:
        assert element.value == before[element.tag].value, element.tag
        assert element.tag not in result or result[element.tag].value != element.value
    for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID", "StudyDate", "OtherPatientIDs"):
        assert (keyword in modified) == (keyword in before), keyword


@every_sample
def test_what_is_not_identity_stays(source: Path) -> None:
    before, result = read(source), read(replacement_of(source))
    (modified,) = result.OriginalAttributesSequence[-1].ModifiedAttributesSequence
    for element in before:
        if element.tag.element == 0 or element.tag in modified or element.VR in ("SQ", "UI"):
            continue
        assert result[element.tag] == element


@every_sample
def test_same_arguments_give_the_same_bytes(source: Path) -> None:
    assert replacement_of(source) == replacement_of(source)


# -- the header ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "rtplan.dcm"])
def test_elements_that_do_not_change_keep_their_bytes(sample: Callable[[str], Path], name: str) -> None:
    before, result = read(sample(name)), read(replacement_of(sample(name)))
    (modified,) = result.OriginalAttributesSequence[-1].ModifiedAttributesSequence
    compared = 0
    for element in before.elements():
        kept = result.get_item(element.tag)
        if element.tag.element == 0 or element.tag in modified or not element.is_raw or not kept.is_raw:
            continue
        if element.VR != "SQ":
            assert (kept.value, kept.VR) == (element.value, element.VR), element.tag
            compared += 1
    assert compared > 20


def test_values_of_the_same_patient_and_study_that_the_platform_does_not_know_are_kept(tmp_path: Path) -> None:
    source = TEST_FILES / "CT_small.dcm"
    before = read(source)
    patient = replace(PATIENT, patient_id=before.PatientID, issuer_of_patient_id=None)
    uids = replace(NEW, study_instance_uid=str(before.StudyInstanceUID))
    study = replace(STUDY, study_date=None, study_time=None, study_id=None, description=None, referring_physician=None,
                    accession_number=None)  # fmt: skip
    result = read(replacement_of(source, new=uids, patient=patient, study=study))
    for keyword in ("StudyDate", "StudyTime", "StudyID", "StudyDescription", "PatientAge", "OtherPatientIDs"):
        assert result.get(keyword) == before.get(keyword), keyword
    (modified,) = result.OriginalAttributesSequence[0].ModifiedAttributesSequence
    assert "PatientID" not in modified
    assert "StudyInstanceUID" not in modified


def test_values_of_another_study_that_the_platform_does_not_know_are_emptied() -> None:
    study = replace(STUDY, study_date=None, study_time=None, study_id=None, description=None, referring_physician=None,
                    accession_number=None)  # fmt: skip
    result = read(replacement_of(TEST_FILES / "CT_small.dcm", study=study))
    for keyword in ("StudyDate", "StudyTime", "StudyID", "AccessionNumber"):
        assert result[keyword].is_empty, keyword
    assert "StudyDescription" not in result


def test_a_study_that_goes_to_another_patient_under_its_uid_loses_what_the_platform_does_not_know_of_it() -> None:
    source = TEST_FILES / "CT_small.dcm"
    uids = replace(NEW, study_instance_uid=old_uids(source).study_instance_uid)
    result = read(replacement_of(source, new=uids, study=replace(STUDY, study_id=None)))
    assert result["StudyID"].is_empty


@pytest.mark.parametrize(("accession_number", "is_kept"), [("ACC-1", True), ("ACC-2", False)])
def test_the_request_goes_when_the_order_is_another(tmp_path: Path, accession_number: str, is_kept: bool) -> None:
    dataset = read(TEST_FILES / "CT_small.dcm")
    order = Dataset()
    order.RequestedProcedureID = "RP-0"
    dataset.AccessionNumber, dataset.RequestAttributesSequence = "ACC-1", [order]
    source = tmp_path / "ordered.dcm"
    dataset.save_as(source)
    result = read(
        replacement_of(
            source,
            new=replace(NEW, study_instance_uid=str(dataset.StudyInstanceUID)),
            patient=replace(PATIENT, patient_id=dataset.PatientID),
            study=replace(STUDY, accession_number=accession_number),
        )
    )
    assert ("RequestAttributesSequence" in result) is is_kept


def test_request_attributes_are_set_when_the_order_is_known() -> None:
    request = RequestAttributes("RP-1", "SPS-1", "Chest", "PA")
    item = read(replacement_of(TEST_FILES / "CT_small.dcm", request=request)).RequestAttributesSequence[0]
    assert (item.RequestedProcedureID, item.ScheduledProcedureStepID) == ("RP-1", "SPS-1")
    assert (item.RequestedProcedureDescription, item.ScheduledProcedureStepDescription) == ("Chest", "PA")


def test_a_second_correction_adds_to_the_history(tmp_path: Path) -> None:
    once = tmp_path / "once.dcm"
    write(TEST_FILES / "CT_small.dcm", once)
    newer = InstanceUids("2.25.2001", "2.25.2002", "2.25.2003")
    history = read(
        replacement_of(once, new=newer, patient=replace(PATIENT, name="Moved^Twice"))
    ).OriginalAttributesSequence
    assert [item.ModifiedAttributesSequence[0].PatientName for item in history] == [
        "CompressedSamples^CT1", "Moved^Maria^^Dr.",
    ]  # fmt: skip
    assert (
        history[0].ModifiedAttributesSequence[0].SOPInstanceUID
        == old_uids(TEST_FILES / "CT_small.dcm").sop_instance_uid
    )


def test_trailing_padding_private_elements_and_group_lengths_are_handled(tmp_path: Path) -> None:
    dataset = read(TEST_FILES / "CT_small.dcm")
    block = dataset.private_block(0x7FE1, "VENDOR", create=True)
    block.add_new(1, "OB", b"raw data of the vendor..")
    dataset.add_new(0xFFFCFFFC, "OB", b"\0" * 100)
    source = tmp_path / "padded.dcm"
    dataset.save_as(source)
    content = source.read_bytes()
    with_group_length = content.replace(
        b"\x10\x00\x10\x00PN", b"\x10\x00\x00\x00UL\x04\x00\x44\x33\x00\x00\x10\x00\x10\x00PN", 1
    )
    assert len(with_group_length) == len(content) + 12
    source.write_bytes(with_group_length)
    result = replacement_of(source)
    assert from_the_pixels_on(result) == from_the_pixels_on(content)
    assert 0x00100000 not in read(result)
    assert read(result)[0x7FE11001].value == b"raw data of the vendor.."


# -- character sets --------------------------------------------------------------------------------------------------


def text_sample(folder: Path, character_set: str | list[str], texts: dict[str, str]) -> Path:
    """A file in a character set, with text at the top, in a sequence, and in a sequence with a set of its own."""
    dataset = read(TEST_FILES / "CT_small.dcm")
    dataset.SpecificCharacterSet = character_set
    for keyword, text in texts.items():
        setattr(dataset, keyword, text)
    nested = Dataset()
    nested.CodeMeaning = next(iter(texts.values()))
    foreign = Dataset()
    foreign.SpecificCharacterSet = "ISO_IR 144"
    foreign.CodeMeaning = "Диагноз"
    dataset.AnatomicRegionSequence = [nested, foreign]
    path = folder / "text.dcm"
    dataset.save_as(path)
    return path


def test_a_name_that_the_character_set_has_leaves_it_alone(tmp_path: Path) -> None:
    source = text_sample(tmp_path, "ISO_IR 100", {"InstitutionName": "Spital Zürich"})
    target = BytesIO()
    written = write(source, target, patient=replace(PATIENT, name="Müller^Jörg"))
    assert not written.became_unicode
    assert "Müller^Jörg".encode("latin-1") in target.getvalue()
    assert read(target.getvalue()).SpecificCharacterSet == "ISO_IR 100"


@pytest.mark.parametrize("name", ["Yamada^Tarou=山田^太郎", "Иванов^Иван", "Ångström^Åsa=王^小东"])
def test_a_name_that_it_has_not_makes_all_text_unicode(tmp_path: Path, name: str) -> None:
    source = text_sample(tmp_path, "ISO_IR 100", {"InstitutionName": "Spital Zürich"})
    target = BytesIO()
    written = write(source, target, patient=replace(PATIENT, name=name))
    result = read(target.getvalue())
    assert written.became_unicode
    assert (result.SpecificCharacterSet, str(result.PatientName)) == ("ISO_IR 192", name)
    assert result.InstitutionName == "Spital Zürich"
    assert [item.CodeMeaning for item in result.AnatomicRegionSequence] == ["Spital Zürich", "Диагноз"]
    assert "SpecificCharacterSet" not in result.AnatomicRegionSequence[1]
    assert "Spital Zürich".encode() in target.getvalue()


def test_a_letter_outside_ascii_makes_a_file_without_character_set_unicode(tmp_path: Path) -> None:
    source = tmp_path / "default.dcm"
    dataset = read(TEST_FILES / "CT_small.dcm")
    del dataset.SpecificCharacterSet
    dataset.save_as(source)
    target = BytesIO()
    assert write(source, target, patient=replace(PATIENT, name="Müller^Jörg")).became_unicode
    assert "Müller^Jörg".encode() in target.getvalue()


def test_a_japanese_name_stays_in_the_files_code_extensions(tmp_path: Path) -> None:
    source = text_sample(tmp_path, ["", "ISO 2022 IR 87"], {"InstitutionName": "病院"})
    target = BytesIO()
    written = write(source, target, patient=replace(PATIENT, name="Yamada^Tarou=山田^太郎"))
    assert not written.became_unicode
    assert str(read(target.getvalue()).PatientName) == "Yamada^Tarou=山田^太郎"
    assert read(target.getvalue()).InstitutionName == "病院"


def test_text_that_is_not_in_the_set_it_claims_is_refused_when_it_would_have_to_be_converted(tmp_path: Path) -> None:
    source = tmp_path / "mixed.dcm"
    dataset = read(TEST_FILES / "CT_small.dcm")
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.InstitutionName = "ZURICH"
    dataset.save_as(source)
    source.write_bytes(source.read_bytes().replace(b"ZURICH", b"Z\xfcRICH").replace(b"ISO_IR 192", b"ISO_IR 13 "))
    with pytest.raises(InvalidInput, match=old_uids(source).sop_instance_uid) as refusal:
        write(source, BytesIO(), patient=replace(PATIENT, name="Müller^Jörg"))
    assert refusal.value.code == "text-not-encodable"


@pytest.mark.parametrize("name", ["Back\\slash", "Line\nbreak", "Esc\x1bape"])
def test_a_name_that_dicom_can_not_carry_is_refused_without_quoting_it(name: str) -> None:
    with pytest.raises(InvalidInput, match="PatientName") as refusal:
        replacement_of(TEST_FILES / "CT_small.dcm", patient=replace(PATIENT, name=name))
    assert refusal.value.code == "text-not-encodable"
    assert name not in str(refusal.value)


# -- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(TRUNCATED))
def test_a_truncated_file_is_refused(sample: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=old_uids(sample(name)).sop_instance_uid) as refusal:
        write(sample(name), tmp_path / "out.dcm")
    assert refusal.value.code == "file-truncated"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small_implicit.dcm", "JPEG2000.dcm", "waveform_ecg.dcm"])
def test_a_file_cut_anywhere_is_refused_or_was_whole(sample: Callable[[str], Path], name: str, tmp_path: Path) -> None:
    content, old = sample(name).read_bytes(), old_uids(sample(name))
    source = tmp_path / "cut.dcm"
    for size in range(200, len(content), max(1, len(content) // 60)):
        source.write_bytes(content[:size])
        target = BytesIO()
        try:
            write_replacement(
                source, target, sop_instance_uid=old.sop_instance_uid, uids=NEW, uid_map=UidMap.of([(old, NEW)]),
                study=STUDY, patient=PATIENT, modification=CHANGED,
            )  # fmt: skip
        except InvalidInput as refusal:
            assert old.sop_instance_uid in refusal.message  # noqa: PT017 - some cuts leave a whole data set
            continue
        # cut between two elements behind all that a waveform or image needs: nothing can tell
        assert len(read(target.getvalue())) > 10


def test_a_file_that_holds_another_instance_is_refused() -> None:
    with pytest.raises(InvalidInput) as refusal:
        write(TEST_FILES / "CT_small.dcm", BytesIO(), sop_instance_uid="1.2.3")
    assert refusal.value.code == "uid-mismatch"


def test_a_new_uid_that_the_map_does_not_give_is_refused() -> None:
    old = old_uids(TEST_FILES / "CT_small.dcm")
    for uid_map in (UidMap(), UidMap.of([(old, old)])):
        with pytest.raises(InvalidInput) as refusal:
            write(TEST_FILES / "CT_small.dcm", BytesIO(), uid_map=uid_map)
        assert refusal.value.code == "uid-not-mapped"


def test_a_failed_write_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "out.dcm"
    target.write_bytes(b"earlier")
    source = tmp_path / "source.dcm"
    source.write_bytes((TEST_FILES / "CT_small.dcm").read_bytes()[:-100])
    with pytest.raises(InvalidInput):
        write(source, target)
    assert target.read_bytes() == b"earlier"
    write(TEST_FILES / "CT_small.dcm", target)
    assert read(target).PatientID == "PID-9"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.dcm", "source.dcm"]


def test_a_disk_that_fills_up_leaves_no_half_file(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write(TEST_FILES / "CT_small.dcm", tmp_path / "out.dcm")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_changes_while_it_is_copied_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "source.dcm"
    source.write_bytes((TEST_FILES / "CT_small.dcm").read_bytes())

    class Meddler(BytesIO):
        def write(self, data: bytes) -> int:
            with source.open("ab") as stream:
                stream.write(b"x")
            return super().write(data)

    with pytest.raises(InvalidInput, match=old_uids(source).sop_instance_uid) as refusal:
        write(source, Meddler())
    assert refusal.value.code == "file-changed"


def test_a_file_that_breaks_off_inside_its_header_for_pydicom_is_refused(tmp_path: Path) -> None:
    content = (TEST_FILES / "CT_small.dcm").read_bytes()
    source = tmp_path / "stray.dcm"
    place = content.index(b"\x28\x00\x02\x00US")
    source.write_bytes(content[:place] + b"\xfe\xff\x0d\xe0\0\0\0\0" + content[place:])
    with pytest.raises(InvalidInput, match=old_uids(source).sop_instance_uid) as refusal:
        write(source, BytesIO())
    assert refusal.value.code == "file-not-dicom"


def test_a_moment_without_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        Modification(modified_at=datetime(2025, 1, 1), modifying_system="x")  # noqa: DTZ001


# -- memory ----------------------------------------------------------------------------------------------------------

MEASURE = """
import sys, tracemalloc
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from test_replacement_files import TEST_FILES, write
small, big, target = map(Path, sys.argv[3:6])
def most_resident_bytes():
    # getrusage would give what the parent had before it became this program
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
write(small, target)
before = most_resident_bytes()
write(big, target)
grown = most_resident_bytes() - before
tracemalloc.start()
write(big, target)
print(tracemalloc.get_traced_memory()[1], grown)
"""


@pytest.mark.parametrize("is_encapsulated", [False, True], ids=["native", "encapsulated"])
def test_memory_does_not_grow_with_the_pixels(tmp_path: Path, is_encapsulated: bool) -> None:
    big = big_file(tmp_path / "big.dcm", 300 << 20, is_encapsulated=is_encapsulated)
    target = tmp_path / "out.dcm"
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, here, here.parents[1] / "plugins", TEST_FILES / "CT_small.dcm", big, target],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    peak_bytes, grown_bytes = map(int, done.stdout.split())
    print(f"peak of Python's memory {peak_bytes / 1e6:.1f} MB, growth of the process {grown_bytes / 1e6:.1f} MB")
    assert max(peak_bytes, grown_bytes) < 16 << 20
    with big.open("rb") as before, target.open("rb") as after:
        for stream in (before, after):
            stream.seek(-(300 << 20) - (52 if is_encapsulated else 12), 2)
        while chunk := before.read(1 << 24):
            assert after.read(1 << 24) == chunk
        assert after.read(1) == b""


def big_file(path: Path, size_bytes: int, *, is_encapsulated: bool) -> Path:
    """A sparse file: a CT whose pixels are zeros with a few marks, in fragments of 100 MB if encapsulated."""
    dataset = read(TEST_FILES / "CT_small.dcm")
    del dataset.PixelData
    del dataset[0xFFFCFFFC:]
    dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2.4.90" if is_encapsulated else "1.2.840.10008.1.2.1")
    dataset.save_as(path)
    with path.open("r+b") as stream:
        stream.seek(0, 2)
        if not is_encapsulated:
            stream.write(b"\xe0\x7f\x10\x00OW\0\0" + size_bytes.to_bytes(4, "little"))
            stream.truncate(stream.tell() + size_bytes)
        else:
            stream.write(b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\0\0\0\0")
            for _ in range(3):
                stream.write(b"\xfe\xff\x00\xe0" + (size_bytes // 3).to_bytes(4, "little"))
                stream.seek(size_bytes // 3, 1)
            stream.write(b"\xfe\xff\xdd\xe0\0\0\0\0")
        end = stream.seek(0, 2)
        for share in (0.2, 0.5, 0.9):
            stream.seek(end - size_bytes + int(size_bytes * share) // 2 * 2)
            stream.write(b"mark")
    assert path.stat().st_blocks * 512 < 1 << 20, "the file is not sparse"
    return path


def test_a_file_without_preamble_and_meta_information_gets_both(tmp_path: Path) -> None:
    whole = (TEST_FILES / "MR_small_implicit.dcm").read_bytes()
    source = tmp_path / "bare.dcm"
    source.write_bytes(whole[132 + 12 + read(whole).file_meta.FileMetaInformationGroupLength :])
    result = read(replacement_of(source))
    assert result.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2"
    assert result.PixelData == read(whole).PixelData


def test_odd_values_are_not_quoted_in_warnings() -> None:
    source = TEST_FILES / "badVR.dcm"
    old = old_uids(source)
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always")
        write_replacement(
            source, BytesIO(), sop_instance_uid=old.sop_instance_uid, uids=NEW, uid_map=UidMap.of([(old, NEW)]),
            study=STUDY, patient=PATIENT, modification=CHANGED,
        )  # fmt: skip
    assert remarks == []
