"""The simulated platform: real files, rows that match them, the same for the same seed, exams that move on."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pydicom
import pydicom.data
import pytest
from pydicom import uid

from archsync.core.study import ExamStatus, Priority
from archsync.errors import ConfigurationError, InvalidInput, PlatformUnavailable
from archsync.launcher.postgres import free_port
from archsync.platformdb.reader import Platform
from archsync.services.check_result import Level
from archsync.services.platform_check import check_platform
from archsync.simulate.platform import SimulatedPlatform, run_platform


def simulate(dsn: str, folder: Path, *, seed: int = 1) -> SimulatedPlatform:
    simulator = SimulatedPlatform(dsn, folder, seed=seed, slices=2, matrix=16)
    simulator.install()
    return simulator


@pytest.fixture
def simulator(empty_dsn, tmp_path) -> SimulatedPlatform:
    return simulate(empty_dsn, tmp_path / "images")


@pytest.fixture
def reader(empty_dsn):
    with Platform.from_dsn(empty_dsn) as platform:
        yield platform


@pytest.fixture(scope="module")
def filled(postgres, tmp_path_factory) -> Iterator[Platform]:
    """A platform with 45 studies, samples and volumes, that tests only read."""
    postgres.create_database("simulated")
    dsn = postgres.dsn("simulated")
    simulate(dsn, tmp_path_factory.mktemp("images")).fill(45)
    with Platform.from_dsn(dsn) as platform:
        yield platform
    postgres.drop_database("simulated")


def all_studies(reader: Platform):
    batch = reader.fetch_studies([key for keys in reader.walk_study_keys() for key in keys])
    assert not batch.rejected
    return batch.studies


def path_of(location: str) -> Path:
    return Path(unquote(urlsplit(location).path))


def test_every_row_says_what_its_file_says(filled):
    studies = all_studies(filled)
    assert len(studies) == 45
    for study in studies:
        assert study.instances
        for instance in study.instances:
            path = path_of(instance.location)
            file = pydicom.dcmread(path)
            assert instance.size_bytes == path.stat().st_size
            assert study.study_instance_uid == file.StudyInstanceUID
            assert instance.series_instance_uid == file.SeriesInstanceUID
            assert instance.sop_instance_uid == file.SOPInstanceUID == file.file_meta.MediaStorageSOPInstanceUID
            assert instance.sop_class_uid == file.SOPClassUID == file.file_meta.MediaStorageSOPClassUID
            assert instance.transfer_syntax_uid == file.file_meta.TransferSyntaxUID
            assert (instance.modality or "") == file.get("Modality", "")
            assert instance.instance_number == file.get("InstanceNumber")
            assert instance.series_number == file.get("SeriesNumber")


def test_the_samples_cover_the_kinds_and_syntaxes_archives_meet(filled):
    instances = [instance for study in all_studies(filled) for instance in study.instances]
    assert {instance.transfer_syntax_uid for instance in instances} >= {
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.RLELossless,
        uid.JPEGBaseline8Bit,
        uid.JPEGExtended12Bit,
        uid.JPEGLosslessSV1,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.JPEG2000,
    }
    assert {instance.sop_class_uid for instance in instances} >= {
        uid.CTImageStorage,
        uid.MRImageStorage,
        uid.ComputedRadiographyImageStorage,
        uid.RTPlanStorage,
        uid.RTDoseStorage,
        uid.ComprehensiveSRStorage,
        uid.SegmentationStorage,
        uid.TwelveLeadECGWaveformStorage,
        uid.UltrasoundMultiFrameImageStorage,
        uid.SecondaryCaptureImageStorage,
    }


def test_samples_are_copied_byte_for_byte(filled):
    """All but the RT Plan, whose file meta information names another instance than its data set."""
    root = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False))).parent
    known = {hashlib.sha256(path.read_bytes()).digest() for path in root.rglob("*") if path.is_file()}
    copies = [
        instance
        for study in all_studies(filled)
        for instance in study.instances
        if not instance.sop_instance_uid.startswith("2.25.")
    ]
    assert len(copies) > 50
    changed = [
        copy.modality for copy in copies
        if hashlib.sha256(path_of(copy.location).read_bytes()).digest() not in known
    ]  # fmt: skip
    assert changed == ["RTPLAN"]


def test_generated_images_belong_to_their_rows_patient_and_can_be_decoded(simulator, reader):
    simulator.add_volume(facility_id="NORTH", priority=Priority.STAT)
    (study,) = all_studies(reader)
    assert (study.facility.facility_id, study.priority, study.exam_status) == ("NORTH", Priority.STAT, "Pending")
    assert study.patient.issuer_of_patient_id == study.facility.authority_namespace == "NORTHMRN"
    for instance in study.instances:
        image = pydicom.dcmread(path_of(instance.location))
        assert image.PatientID == study.patient.patient_id
        assert image.PatientName == study.patient.name
        assert image.AccessionNumber == study.accession_number
        assert image.pixel_array.shape == (16, 16)
        assert uid.UID(instance.sop_instance_uid).is_valid


def content(dsn: str, folder: Path) -> tuple[list[tuple], dict[str, bytes]]:
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select s.study_key, s.study_instance_uid, s.facility_id, s.accession_number, s.exam_status, s.priority,"
            " p.patient_id, p.name, p.birth_date, i.instance_key, i.sop_instance_uid, i.size_bytes"
            " from pacs.study s join pacs.patient p using (patient_key) join pacs.instance i using (study_key)"
            " order by i.instance_key"
        ).fetchall()
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}
    return rows, files


def test_the_same_seed_gives_the_same_rows_files_and_events(empty_dsn, platform_dsn, tmp_path):
    contents = []
    events = []
    for number, dsn in enumerate((empty_dsn, platform_dsn)):
        folder = tmp_path / str(number)
        simulator = simulate(dsn, folder)
        simulator.fill(9)
        events.append([simulator.advance(exams=4, arrivals=True) for _ in range(12)])
        contents.append(content(dsn, folder))
    assert events[0] == events[1]
    assert contents[0] == contents[1]


def test_another_seed_gives_other_generated_studies(empty_dsn, platform_dsn, tmp_path):
    uids = []
    for seed, dsn in enumerate((empty_dsn, platform_dsn)):
        simulator = simulate(dsn, tmp_path / str(seed), seed=seed)
        simulator.add_volume()
        with Platform.from_dsn(dsn) as platform:
            uids.append(all_studies(platform)[0].study_instance_uid)
    assert uids[0] != uids[1]


def test_filling_again_adds_only_what_is_missing(simulator, reader):
    assert simulator.fill(6) == 6
    assert simulator.fill(6) == 0
    assert simulator.fill(9) == 3
    assert len(all_studies(reader)) == 9


def test_three_facilities_in_two_groups_share_the_studies(simulator, reader):
    simulator.fill(12)
    assert {f.facility_id: f.facility_group for f in reader.fetch_facilities()} == {
        "CITY": "metro",
        "NORTH": "region",
        "SOUTH": "region",
    }
    assert Counter(study.facility.facility_id for study in all_studies(reader)) == {"CITY": 4, "NORTH": 4, "SOUTH": 4}


def test_the_check_finds_nothing_wrong_with_it(filled):
    assert [r for r in check_platform(filled) if r.level in (Level.WARNING, Level.ERROR)] == []


def test_exams_go_through_their_statuses_in_order_until_all_are_completed(simulator, reader):
    simulator.fill(6)
    simulator.set_hold("3", True)
    seen = {study.study_key: [study.exam_status] for study in all_studies(reader)}
    for _ in range(40):
        if not simulator.advance(exams=2):
            break
        for study in all_studies(reader):
            if seen[study.study_key][-1] != study.exam_status:
                seen[study.study_key].append(study.exam_status)
    assert seen.pop("3") == ["Pending"], "a study on hold stays where it is"
    assert set(map(tuple, seen.values())) == {("Pending", "Inflight", "Completed")}


def test_late_images_arrive_for_some_completed_exams(simulator, reader):
    simulator.fill(20, exam_status=ExamStatus.INFLIGHT)
    before = {study.study_key: len(study.instances) for study in all_studies(reader)}
    watermark = reader.fetch_changes(None).watermark
    events = [event for _ in range(8) for event in simulator.advance(exams=20)]
    late = {event.split()[1].rstrip(":") for event in events if event.endswith("late images arrived")}
    assert late
    studies = {study.study_key: study for study in all_studies(reader)}
    assert {key for key, study in studies.items() if len(study.instances) > before[key]} == late
    for key in late:
        newest = studies[key].instances[-1]
        assert pydicom.dcmread(path_of(newest.location)).StudyInstanceUID == studies[key].study_instance_uid
    assert late <= set(reader.fetch_changes(watermark).study_keys)


def test_with_arrivals_a_new_exam_comes_when_none_is_left_to_move(simulator, reader):
    assert simulator.advance() == []
    (event,) = simulator.advance(arrivals=True)
    assert event == "study 1: a new exam, Pending"
    assert all_studies(reader)[0].exam_status == "Pending"


def test_the_loop_reports_each_event_and_ends_when_told(simulator):
    stop = threading.Event()
    events: list[str] = []

    def report(event: str) -> None:
        events.append(event)
        if len(events) == 3:
            stop.set()

    run_platform(simulator, interval_s=0.01, stop=stop, report=report)
    assert [event.partition(": ")[2] for event in events] == [
        "a new exam, Pending",
        "Pending → Inflight",
        "Inflight → Completed",
    ]


def test_a_study_of_ones_own_files_can_be_added_and_extended(simulator, reader, tmp_path):
    root = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False))).parent / "dicomdirtests/77654033"
    first, *rest = sorted(path for path in root.rglob("*") if path.is_file() and "CR" in path.parts[-2])
    key = simulator.add_study([first], facility_id="SOUTH", exam_status="Completed", priority=Priority.URGENT)
    simulator.add_instances(key, rest)
    (study,) = all_studies(reader)
    assert (study.study_key, study.facility.facility_id, study.exam_status) == (key, "SOUTH", "Completed")
    assert {path_of(instance.location) for instance in study.instances} == {first, *rest}


def test_wrong_use_is_refused_by_name(simulator, tmp_path):
    ct = Path(str(pydicom.data.get_testdata_file("CT_small.dcm", download=False)))
    us = Path(str(pydicom.data.get_testdata_file("examples_palette.dcm", download=False)))
    text = tmp_path / "notes.txt"
    text.write_text("not DICOM")
    with pytest.raises(InvalidInput, match="one Study Instance UID"):
        simulator.add_study([ct, us])
    with pytest.raises(InvalidInput, match=r"notes\.txt can't be read as a DICOM file"):
        simulator.add_study([text])
    with pytest.raises(InvalidInput, match="no facility 'WEST'; the simulated platform has CITY, NORTH, SOUTH"):
        simulator.add_study([ct], facility_id="WEST")
    key = simulator.add_study([ct])
    with pytest.raises(InvalidInput, match="a file belongs to another study"):
        simulator.add_instances(key, [us])
    with pytest.raises(InvalidInput, match="study_key 99: there is no such study"):
        simulator.set_status("99", "Completed")


def test_a_database_that_is_not_there_or_not_installed_is_named(empty_dsn, tmp_path):
    with pytest.raises(ConfigurationError, match="does not hold the reference platform"):
        SimulatedPlatform(empty_dsn, tmp_path).fill(1)
    with pytest.raises(PlatformUnavailable, match="does not answer"):
        SimulatedPlatform(f"postgresql://postgres@127.0.0.1:{free_port()}/x", tmp_path).install()


def test_installing_twice_and_at_the_same_moment_is_safe(empty_dsn, tmp_path):
    failures: list[BaseException] = []

    def install() -> None:
        try:
            simulate(empty_dsn, tmp_path)
        except BaseException as exc:  # noqa: BLE001  (shown by the assertion below)
            failures.append(exc)

    threads = [threading.Thread(target=install) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failures == []
    with Platform.from_dsn(empty_dsn) as platform:
        assert len(platform.fetch_facilities()) == 3
