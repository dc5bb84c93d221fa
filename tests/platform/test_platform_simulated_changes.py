"""What may befall studies and patients of the simulated platform: the rows it leaves, seen by the reader, and files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pydicom
import pydicom.data
import pytest
from pydicom.uid import UID

from archsync.core.study import Instance, RemovalReason, Study
from archsync.errors import InvalidInput
from archsync.platformdb.reader import Platform
from archsync.services.check_result import Level
from archsync.services.platform_check import check_platform
from archsync.simulate.platform import SimulatedPlatform


@pytest.fixture
def simulator(platform_dsn: str, tmp_path: Path) -> SimulatedPlatform:
    """A platform with two volumes, studies 1 and 2."""
    platform = SimulatedPlatform(platform_dsn, tmp_path / "images", slices=2, matrix=16)
    platform.install()
    for _ in range(2):
        platform.add_volume(facility_id="CITY", exam_status="Completed")
    return platform


@pytest.fixture
def read(platform: Platform) -> Callable[[str], Study]:
    """Reads one study."""

    def one(study_key: str) -> Study:
        batch = platform.fetch_studies([study_key])
        assert not batch.rejected
        return batch.studies[0]

    return one


@pytest.fixture
def seen_by(platform: Platform) -> Callable[[Callable[[], object]], set[str]]:
    """Tells which studies the reader finds changed by what is done."""

    def look(act: Callable[[], object]) -> set[str]:
        watermark = platform.fetch_changes(None).watermark
        act()
        return set(platform.fetch_changes(watermark).study_keys)

    return look


def file_of(instance: Instance) -> pydicom.FileDataset:
    return pydicom.dcmread(Path(unquote(urlsplit(instance.location).path)))


def keys(instances: tuple[Instance, ...]) -> set[str]:
    return {instance.instance_key for instance in instances}


def by_key(study: Study) -> dict[str, Instance]:
    return {instance.instance_key: instance for instance in study.instances}


def test_removed_instances_are_hidden_with_their_reason_and_can_be_shown_again(simulator, read, seen_by):
    before = read("1")
    removed: tuple[str, ...] = ()

    def remove() -> None:
        nonlocal removed
        removed = simulator.remove_instances("1", 1, reason=RemovalReason.PATIENT_SAFETY)

    assert seen_by(remove) == {"1"}
    (key,) = removed
    study = read("1")
    assert keys(study.present_instances) == keys(before.instances) - {key}
    assert by_key(study)[key].removal_reason is RemovalReason.PATIENT_SAFETY
    assert seen_by(lambda: simulator.restore_instances("1", [key])) == {"1"}
    restored = read("1")
    assert keys(restored.present_instances) == keys(before.instances)
    assert by_key(restored)[key].removal_reason is None


def test_named_instances_are_removed_and_no_other(simulator, read):
    first, *others = (instance.instance_key for instance in read("1").instances)
    assert simulator.remove_instances("1", [first]) == (first,)
    assert keys(read("1").present_instances) == set(others)
    assert by_key(read("1"))[first].removal_reason is RemovalReason.UNSPECIFIED


def test_a_hard_removal_leaves_no_row_and_is_seen_at_the_study(simulator, read, seen_by):
    (key, *_) = (instance.instance_key for instance in read("1").instances)
    assert seen_by(lambda: simulator.remove_instances("1", [key], hard=True)) == {"1"}
    assert key not in by_key(read("1"))


def test_a_whole_series_is_removed(simulator, read):
    simulator.add_late_series("1")
    series = read("1").instances[-1].series_instance_uid
    removed = simulator.remove_series("1", [series], reason=RemovalReason.QUALITY)
    study = read("1")
    assert set(removed) == {i.instance_key for i in study.instances if i.series_instance_uid == series}
    assert len(removed) == 2
    assert keys(study.present_instances) == keys(study.instances) - set(removed)


def test_what_was_moved_away_or_deleted_does_not_come_again_under_its_uids(simulator, read, platform):
    for away in (
        lambda: simulator.move_instances("1", "2", series=1),
        lambda: simulator.remove_series("1", 1, hard=True),
        lambda: None,
    ):
        simulator.add_late_series("1")
        away()
    uids = [i.sop_instance_uid for key in "12" for i in read(key).instances]
    assert len(uids) == len(set(uids))
    latest = read("1").instances[-1]
    assert latest.sop_instance_uid not in {i.sop_instance_uid for i in read("2").instances}
    assert latest.series_number == 1 + 3 * 900
    deleted = read("2").study_instance_uid
    simulator.remove_study("2", hard=True)
    assert read(simulator.add_volume()).study_instance_uid != deleted


def test_late_images_of_a_study_that_was_deleted_do_not_arrive(platform_dsn, tmp_path):
    simulator = SimulatedPlatform(platform_dsn, tmp_path, slices=2, matrix=16)
    simulator.install()
    simulator.fill(20, exam_status="Inflight")
    simulator.advance(exams=20)
    for study_key in range(1, 21):
        simulator.remove_study(str(study_key), hard=True)
    assert simulator.advance() == []


def test_a_study_is_removed_with_its_row_kept_or_gone(simulator, read, platform):
    simulator.remove_study("1", reason=RemovalReason.RETENTION_EXPIRED)
    assert read("1").present_instances == ()
    assert {i.removal_reason for i in read("1").instances} == {RemovalReason.RETENTION_EXPIRED}
    simulator.remove_study("1", hard=True)
    assert platform.fetch_studies(["1"]).missing == ("1",)


def test_a_split_that_keeps_uids_moves_rows_and_leaves_files_alone(simulator, read, seen_by):
    before = read("1")
    contents = {i.location: Path(urlsplit(i.location).path).read_bytes() for i in before.instances}
    chosen = before.instances[-1]
    new_keys: list[str] = []
    touched = seen_by(lambda: new_keys.append(simulator.split_study("1", instances=[chosen.instance_key])))
    (target_key,) = new_keys
    assert touched == {"1", target_key}
    source, target = read("1"), read(target_key)
    (moved,) = target.instances
    assert (moved.sop_instance_uid, moved.series_instance_uid) == (chosen.sop_instance_uid, chosen.series_instance_uid)
    assert (moved.location, moved.instance_key) == (chosen.location, chosen.instance_key)
    assert target.study_instance_uid != source.study_instance_uid
    assert UID(target.study_instance_uid).is_valid
    assert (target.patient, target.exam_status, target.description) == (
        source.patient,
        source.exam_status,
        source.description,
    )
    assert keys(source.instances) == keys(before.instances) - {chosen.instance_key}
    assert {location: Path(urlsplit(location).path).read_bytes() for location in contents} == contents


def check_replacement(old: Instance, new: Instance, target: Study) -> None:
    """The new row names the old one, and its file says what the row, the study and the patient say."""
    assert new.replaces_instance_key == old.instance_key
    assert old.removal_reason is not None
    assert new.removed_at is None
    assert len({old.sop_instance_uid, new.sop_instance_uid}) == len({old.location, new.location}) == 2
    before, after = file_of(old), file_of(new)
    assert (after.StudyInstanceUID, after.SeriesInstanceUID, after.SOPInstanceUID) == (
        target.study_instance_uid,
        new.series_instance_uid,
        new.sop_instance_uid,
    )
    assert after.file_meta.MediaStorageSOPInstanceUID == new.sop_instance_uid
    assert UID(new.sop_instance_uid).is_valid
    assert after.file_meta.TransferSyntaxUID == before.file_meta.TransferSyntaxUID
    assert after.get("PixelData") == before.get("PixelData")
    assert (after.PatientID, after.PatientName) == (target.patient.patient_id, target.patient.name)
    assert after.AccessionNumber == target.accession_number
    assert Path(urlsplit(new.location).path).stat().st_size == new.size_bytes


def test_a_split_under_new_uids_makes_files_that_replace_the_old_rows(simulator, read, platform):
    patient_key = simulator.new_patient()
    target_key = simulator.split_study("1", instances=1, keep_uids=False, patient_key=patient_key)
    (new,) = read(target_key).instances
    old = by_key(read("1"))[new.replaces_instance_key or ""]
    assert old.removal_reason is RemovalReason.WRONG_WORKLIST_ENTRY
    assert read(target_key).patient.patient_key == patient_key
    check_replacement(old, new, read(target_key))
    assert platform.find_replacements([old.instance_key]) == {old.instance_key: ((target_key, new.instance_key),)}


def test_a_study_merged_with_its_uids_stays_empty_or_goes(simulator, read, platform, seen_by):
    simulator.remove_instances("1", 1)
    both = keys(read("1").instances) | keys(read("2").instances)
    assert seen_by(lambda: simulator.merge_studies("1", "2")) == {"1", "2"}
    assert read("1").instances == ()
    assert keys(read("2").instances) == both
    simulator.merge_studies("2", "1", delete_source=True)
    assert platform.fetch_studies(["1", "2"]).missing == ("2",)
    assert keys(read("1").instances) == both


def test_a_study_merged_under_new_uids_keeps_its_removed_rows(simulator, read):
    own = keys(read("2").instances)
    simulator.merge_studies("1", "2", keep_uids=False)
    source, target = read("1"), read("2")
    assert source.present_instances == ()
    new = [instance for instance in target.instances if instance.instance_key not in own]
    assert len(new) == len(source.instances)
    assert len({instance.series_instance_uid for instance in new}) == 1
    for instance in new:
        check_replacement(by_key(source)[instance.replaces_instance_key or ""], instance, target)


def test_series_and_instances_move_to_another_study(simulator, read):
    simulator.add_late_series("1")
    late = [
        i.instance_key
        for i in read("1").instances
        if i.series_instance_uid == read("1").instances[-1].series_instance_uid
    ]
    simulator.move_instances("1", "2", series=1)
    assert set(late) <= keys(read("2").instances)
    simulator.move_instances("2", "1", instances=late, keep_uids=False)
    assert {i.replaces_instance_key for i in read("1").instances} >= set(late)


def test_an_instance_is_replaced_within_its_study(simulator, read):
    simulator.replace_instances("1", 1)
    study = read("1")
    new = study.instances[-1]
    old = by_key(study)[new.replaces_instance_key or ""]
    assert old.removal_reason is RemovalReason.QUALITY
    check_replacement(old, new, study)


def test_every_kind_of_sample_can_be_replaced_and_changed(platform_dsn, tmp_path, platform):
    simulator = SimulatedPlatform(platform_dsn, tmp_path, slices=2, matrix=16)
    simulator.install()
    simulator.fill(45)
    for study in everything(platform):
        simulator.replace_instances(study.study_key, len(study.instances))
        changed = simulator.change_content(study.study_key, 1)
        (after,) = platform.fetch_studies([study.study_key]).studies
        assert len(after.present_instances) == len(study.instances)
        for new in after.present_instances:
            if new.instance_key in changed:
                assert file_of(new).ImageComments == "Content version 2"
            else:
                check_replacement(by_key(after)[new.replaces_instance_key or ""], new, after)


def test_references_between_replaced_instances_follow(platform_dsn, tmp_path, platform):
    """A segmentation names the image it was drawn on."""
    image = pydicom.dcmread(pydicom.data.get_testdata_file("CT_small.dcm", download=False))
    mask = pydicom.dcmread(pydicom.data.get_testdata_file("liver_1frame.dcm", download=False))
    mask.StudyInstanceUID = image.StudyInstanceUID
    reference = mask.ReferencedSeriesSequence[0]
    reference.SeriesInstanceUID = image.SeriesInstanceUID
    reference.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID = image.SOPInstanceUID
    paths = [tmp_path / "image.dcm", tmp_path / "mask.dcm"]
    for dataset, path in zip((image, mask), paths, strict=True):
        dataset.save_as(path, enforce_file_format=True)
    simulator = SimulatedPlatform(platform_dsn, tmp_path / "images")
    simulator.install()
    key = simulator.add_study(paths)
    target_key = simulator.split_study(key, instances=2, keep_uids=False)
    new = {i.sop_class_uid: i for i in platform.fetch_studies([target_key]).studies[0].instances}
    rewritten = file_of(new[mask.SOPClassUID]).ReferencedSeriesSequence[0]
    assert rewritten.SeriesInstanceUID == new[image.SOPClassUID].series_instance_uid
    followed = rewritten.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    assert followed == new[image.SOPClassUID].sop_instance_uid
    assert file_of(new[mask.SOPClassUID]).FrameOfReferenceUID == mask.FrameOfReferenceUID


def test_changed_content_is_another_file_of_the_same_instance(simulator, read, seen_by):
    before = read("1").instances[0]
    old = file_of(before)
    assert seen_by(lambda: simulator.change_content("1", [before.instance_key])) == {"1"}
    simulator.change_content("1", [before.instance_key])
    after = by_key(read("1"))[before.instance_key]
    new = file_of(after)
    assert after.content_version == 3
    assert after.location != before.location
    assert new.SOPInstanceUID == after.sop_instance_uid == before.sop_instance_uid
    assert new.ImageComments == "Content version 3"
    simulator.change_content("1", [before.instance_key])
    assert file_of(by_key(read("1"))[before.instance_key]).PixelData != old.PixelData
    assert file_of(before) == old


def test_corrections_of_a_patient_change_the_row_and_touch_the_studies(simulator, read, seen_by):
    key = read("1").patient.patient_key
    mine = {study_key for study_key in "12" if read(study_key).patient.patient_key == key}
    assert seen_by(lambda: simulator.correct_name(key, "O'Neill^Zoë")) == mine
    assert seen_by(lambda: simulator.correct_demographics(key, birth_date=date(1960, 2, 29), sex="O")) == mine
    assert seen_by(lambda: simulator.change_mrn(key, "NEW1")) == mine
    assert seen_by(lambda: simulator.change_issuer(key, "OTHER")) == mine
    patient = read("1").patient
    assert (patient.patient_key, patient.name, patient.birth_date, patient.sex) == (
        key, "O'Neill^Zoë", date(1960, 2, 29), "O",
    )  # fmt: skip
    assert (patient.patient_id, patient.issuer_of_patient_id) == ("NEW1", "OTHER")
    simulator.correct_demographics(key, birth_date=None, sex=None)
    simulator.add_late_series("1")
    assert file_of(read("1").instances[-1]).PatientBirthDate == ""


def test_a_study_moves_to_another_patient(simulator, read, seen_by):
    other = simulator.new_patient()
    assert seen_by(lambda: simulator.move_study("1", other)) == {"1"}
    assert read("1").patient.patient_key == other
    assert read("1").patient.merged_into_patient_key is None


@pytest.mark.parametrize("repoint_studies", [True, False])
def test_merged_patients_leave_their_studies_to_the_last_of_the_chain(
    simulator, read, platform, dba, seen_by, repoint_studies
):
    first = read("1").patient.patient_key
    second, third = simulator.new_patient(), simulator.new_patient()
    assert "1" in seen_by(lambda: simulator.merge_patients(first, second, repoint_studies=repoint_studies))
    assert "1" in seen_by(lambda: simulator.merge_patients(second, third, repoint_studies=repoint_studies))
    assert platform.resolve_survivors([first, second]) == {first: third, second: third}
    assert read("1").patient.patient_key == third
    (named,) = dba.execute("select patient_key::text from pacs.study where study_key = 1").fetchone()
    assert named == (third if repoint_studies else first)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.remove_instances("9", 1), "study_key 9: there is no such study"),
        (lambda s: s.remove_instances("1", ["77"]), "study_key 1: 77 is none of its present instances"),
        (lambda s: s.remove_instances("1", 99), r"99 of its \d present instances can't be chosen"),
        (lambda s: s.remove_series("1", ["1.2.3"]), r"1\.2\.3 is none of its present series"),
        (lambda s: s.remove_study("9", hard=True), "study_key 9: there is no such study"),
        (lambda s: s.restore_instances("1", ["1"]), "1 is none of its removed instances"),
        (lambda s: s.split_study("1"), "name either instances or series"),
        (lambda s: s.move_instances("1", "9", instances=1), "study_key 9: there is no such study"),
        (lambda s: s.merge_studies("1", "1", delete_source=True), "study_key 1 can't be moved into itself"),
        (lambda s: s.merge_studies("1", "2", keep_uids=False, delete_source=True), "can't be deleted"),
        (lambda s: s.move_study("1", "99"), "patient_key 99: there is no such patient"),
        (lambda s: s.correct_name("99", "A^B"), "patient_key 99: there is no such patient"),
        (lambda s: s.merge_patients("1", "99"), "patient_key 99: there is no such patient"),
        (lambda s: s.merge_patients("1", "1"), "can't be merged into themselves"),
    ],
)
def test_what_is_not_possible_is_refused_and_changes_nothing(simulator, platform, act, message):
    watermark = platform.fetch_changes(None).watermark
    with pytest.raises(InvalidInput, match=message):
        act(simulator)
    assert platform.fetch_changes(watermark).study_keys == ()


def test_merges_in_a_circle_or_twice_are_refused(simulator):
    first, second, third = (simulator.new_patient() for _ in range(3))
    simulator.merge_patients(first, second)
    simulator.merge_patients(second, third)
    with pytest.raises(InvalidInput, match="can't be merged into themselves, round about or not"):
        simulator.merge_patients(third, first)
    with pytest.raises(InvalidInput, match="was merged into another patient already"):
        simulator.merge_patients(first, third)


def test_an_instance_whose_uid_is_shown_again_elsewhere_can_not_be_restored(simulator, read, dba):
    (key,) = simulator.remove_instances("1", 1)
    dba.execute(
        "insert into pacs.instance (study_key, series_instance_uid, sop_instance_uid, sop_class_uid,"
        " transfer_syntax_uid, location, size_bytes) select study_key, series_instance_uid, sop_instance_uid,"
        " sop_class_uid, transfer_syntax_uid, location, size_bytes from pacs.instance where instance_key = %s",
        [key],
    )
    with pytest.raises(InvalidInput, match="would share a UID") as refused:
        simulator.restore_instances("1")
    assert read("1").instances[0].sop_instance_uid not in str(refused.value)


def everything(platform: Platform) -> Iterator[Study]:
    batch = platform.fetch_studies([key for page in platform.walk_study_keys() for key in page])
    assert not batch.rejected
    yield from batch.studies


def live(dsn: str, folder: Path, *, seed: int, steps: int, changes: int) -> list[str]:
    simulator = SimulatedPlatform(dsn, folder, seed=seed, slices=2, matrix=16)
    simulator.install()
    simulator.fill(24, exam_status="Completed")
    return [event for _ in range(steps) for event in simulator.advance(changes=changes)]


def test_after_a_long_random_life_rows_and_files_still_fit(platform_dsn, tmp_path, platform):
    events = live(platform_dsn, tmp_path, seed=3, steps=30, changes=4)
    assert len(events) == 120
    words = Counter(event.partition(": ")[2].rstrip("0123456789").split("(")[0] for event in events)
    assert len(words) > 15, f"the dice made too few kinds of changes: {words}"
    assert [r for r in check_platform(platform) if r.level in (Level.WARNING, Level.ERROR)] == []
    studies = list(everything(platform))
    present = [instance for study in studies for instance in study.present_instances]
    assert any(instance.replaces_instance_key for instance in present)
    for instance in present:
        header = pydicom.dcmread(Path(unquote(urlsplit(instance.location).path)), stop_before_pixels=True)
        assert header.SOPInstanceUID == header.file_meta.MediaStorageSOPInstanceUID == instance.sop_instance_uid
        assert header.SeriesInstanceUID == instance.series_instance_uid
        assert header.file_meta.TransferSyntaxUID == instance.transfer_syntax_uid


def rows(dsn: str) -> list[tuple]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select s.study_key, s.study_instance_uid, s.on_hold, p.patient_id, p.name, p.birth_date,"
            " p.merged_into_patient_key, i.instance_key, i.sop_instance_uid, i.series_instance_uid, i.content_version,"
            " i.size_bytes, i.removed_at is null, i.removal_reason, i.replaces_instance_key"
            " from pacs.study s join pacs.patient p using (patient_key) left join pacs.instance i using (study_key)"
            " order by s.study_key, i.instance_key"
        ).fetchall()


def test_the_same_seed_gives_the_same_life(platform_dsn, empty_dsn, tmp_path):
    events = [
        live(dsn, tmp_path / str(number), seed=5, steps=5, changes=4)
        for number, dsn in enumerate((platform_dsn, empty_dsn))
    ]
    assert events[0] == events[1]
    assert rows(platform_dsn) == rows(empty_dsn)
    files = [
        {path.relative_to(tmp_path / str(n)): path.read_bytes() for path in (tmp_path / str(n)).rglob("*.dcm")}
        for n in range(2)
    ]
    assert files[0] == files[1]
