"""Key images and presentation states that point at what the platform replaced itself, judged by an IOCM archive."""

from __future__ import annotations

from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from archsync.core.job import JobStatus
from archsync.core.study import RemovalReason
from archsync.launcher.postgres import free_port
from archsync.ledger import plan_queue
from archsync.simulate.archive import IocmRules, SimulatedArchive
from archsync.simulate.volumes import make_uid
from withdrawals import KOS, PRESENTATION_STATE, REPORT

IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def add_state(ws, study_key: str, targets: list[str], sop_class_uid: str = PRESENTATION_STATE) -> str:
    """Put an object that points at images, filed by study and series, into a study; gives its SOP Instance UID."""
    model = dcmread(next(ws.site.folder.glob(f"{ws.site.study_uid(study_key)}/*")))
    uid = make_uid(ws.site.folder, "state", *targets, sop_class_uid)
    for tag in [element.tag for element in model if element.tag.group in (0x0028, 0x7FE0)]:
        del model[tag]
    model.SOPClassUID = model.file_meta.MediaStorageSOPClassUID = sop_class_uid
    model.SOPInstanceUID = model.file_meta.MediaStorageSOPInstanceUID = uid
    model.SeriesInstanceUID = make_uid(uid, "series")
    model.Modality = "PR"
    model.CurrentRequestedProcedureEvidenceSequence = [
        sequence_item(StudyInstanceUID=study_uid, ReferencedSeriesSequence=[
            sequence_item(SeriesInstanceUID=series_uid, ReferencedSOPSequence=[reference(target)])
        ])
        for target, study_uid, series_uid in rows_of(ws, targets)
    ]  # fmt: skip
    model.GraphicAnnotationSequence = [sequence_item(ReferencedImageSequence=[reference(t) for t in targets])]
    path = ws.site.folder / f"{uid}.dcm"
    model.save_as(path, enforce_file_format=True)
    ws.pacs.add_instances(study_key, [path])
    return uid


def sequence_item(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item


def reference(uid: str) -> Dataset:
    return sequence_item(ReferencedSOPClassUID=IMAGE, ReferencedSOPInstanceUID=uid)


def rows_of(ws, uids: list[str]) -> list[tuple[str, str, str]]:
    """SOP, Study and Series Instance UIDs as the platform has them."""
    return ws.site.dba(
        "select i.sop_instance_uid, s.study_instance_uid, i.series_instance_uid"
        " from pacs.instance i join pacs.study s using (study_key) where i.sop_instance_uid = any(%s)",
        uids,
    )


def key_of(ws, uid: str) -> str:
    ((key,),) = ws.site.dba("select instance_key::text from pacs.instance where sop_instance_uid = %s", uid)
    return key


def replace(ws, study_key: str, *uids: str, reason: RemovalReason = RemovalReason.QUALITY) -> list[str]:
    """Let the platform make rows of its own to stand for instances; gives their SOP Instance UIDs."""
    before = set(ws.site.uids(study_key))
    ws.pacs.replace_instances(study_key, [key_of(ws, uid) for uid in uids], reason=reason)
    return [uid for uid in ws.site.uids(study_key) if uid not in before]


def named_in(dataset: Dataset) -> set[str]:
    """The SOP Instance UIDs that a data set names as pydicom sees it, history left out."""
    found = set()
    for element in dataset:
        if element.VR == "SQ" and element.keyword != "OriginalAttributesSequence":
            found |= {uid for item in element.value for uid in named_in(item)}
        elif element.keyword == "ReferencedSOPInstanceUID":
            found.add(str(element.value))
    return found


def shown_states(ws, sop_class_uid: str = PRESENTATION_STATE) -> dict[str, Dataset]:
    """What the archive shows of a class, as it arrived there."""
    stored = ws.archive.stored
    return {uid: dcmread(stored[uid].path) for uid in ws.images() if stored[uid].sop_class_uid == sop_class_uid}


def the_state(ws) -> Dataset:
    ((uid, dataset),) = shown_states(ws).items()
    assert dataset.SOPInstanceUID == dataset.file_meta.MediaStorageSOPInstanceUID == uid
    return dataset


def assert_right(ws, *study_keys: str, filed_by_us: bool = True) -> None:
    """Everything shown is what the platform shows, nothing shown points at what is not, and evidence is filed right.

    ``filed_by_us`` False: the platform wrote the evidence, and it went out as it is.
    """
    assert ws.is_in_step(*study_keys)
    shown = ws.archive.shown()
    for uid, dataset in shown_states(ws).items():
        assert named_in(dataset) <= shown.keys(), f"{uid} points at what is not shown"
        for study in dataset.CurrentRequestedProcedureEvidenceSequence if filed_by_us else ():
            for series in study.ReferencedSeriesSequence:
                for item in series.ReferencedSOPSequence:
                    there = shown[item.ReferencedSOPInstanceUID]
                    where = (there.study_instance_uid, there.series_instance_uid)
                    assert where == (study.StudyInstanceUID, series.SeriesInstanceUID)
    assert ws.settle() == []


def settled(ws) -> None:
    ended = ws.settle(30)
    assert all(e.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED) for e in ended), ended


@pytest.fixture
def pointing(ws):
    """A study of three images at the archive and a presentation state that points at the first two of them."""
    ws.add_destination()
    study_key = ws.archived(3)
    first, second, third = ws.site.uids(study_key)
    state = add_state(ws, study_key, [first, second])
    settled(ws)
    assert state in ws.archive.shown()
    return ws, study_key, first, second, third, state


def test_a_copy_that_points_at_the_platform_s_own_replacement_takes_the_place_of_the_old(pointing):
    ws, study_key, first, second, third, state = pointing
    (new,) = replace(ws, study_key, first)

    settled(ws)

    copy = the_state(ws)
    assert named_in(copy) == {new, second}
    assert set(ws.archive.rejected) == {first, state}
    assert ws.shown(study_key) == {new, second, third, copy.SOPInstanceUID}
    assert new == ws.site.uids(study_key)[-1], "the platform's own UID is kept"
    assert copy.OriginalAttributesSequence[0].ModifiedAttributesSequence[0].SOPInstanceUID == state
    kept = [a.uid for a in ws.archive.arrivals if a.is_kept]
    of_first, of_state = (next(n.SOPInstanceUID for n in ws.notes() if uid in named_in(n)) for uid in (first, state))
    assert kept.index(new) < kept.index(of_first)
    assert kept.index(copy.SOPInstanceUID) < kept.index(of_state)
    assert_right(ws, study_key)


@pytest.mark.parametrize("is_settled_between", [False, True], ids=["at once", "one by one"])
def test_a_chain_of_replacements_is_followed_to_its_end(pointing, is_settled_between):
    ws, study_key, first, second, _, state = pointing
    (between,) = replace(ws, study_key, first)
    if is_settled_between:
        settled(ws)
        assert named_in(the_state(ws)) == {between, second}
    (last,) = replace(ws, study_key, between)
    settled(ws)

    assert named_in(the_state(ws)) == {last, second}
    assert state in ws.archive.rejected
    assert (between in ws.archive.rejected) == is_settled_between
    assert_right(ws, study_key)


@pytest.mark.parametrize("all_of_it", [False, True], ids=["one image", "all it points at"])
def test_a_replacement_in_another_study_is_pointed_at_there(pointing, all_of_it):
    ws, study_key, first, second, _, state = pointing
    moved = [first, second] if all_of_it else [first]
    target = ws.pacs.split_study(study_key, instances=[key_of(ws, uid) for uid in moved], keep_uids=False)

    settled(ws)

    news = set(ws.site.uids(target))
    assert named_in(the_state(ws)) == news | ({first, second} - set(moved))
    assert ws.archive.shown()[the_state(ws).SOPInstanceUID].study_instance_uid == ws.site.study_uid(study_key)
    assert set(ws.archive.rejected) == {*moved, state}
    assert_right(ws, study_key, target)


def test_what_a_copy_points_at_in_another_study_may_be_replaced_again_there(pointing):
    ws, study_key, first, second, *_ = pointing
    target = ws.pacs.split_study(study_key, instances=[key_of(ws, first)], keep_uids=False)
    settled(ws)
    (between,) = ws.site.uids(target)
    (last,) = replace(ws, target, between)

    settled(ws)

    assert named_in(the_state(ws)) == {last, second}
    assert_right(ws, study_key, target)


def test_what_a_copy_points_at_in_another_study_may_vanish_there(pointing):
    ws, study_key, first, second, *_ = pointing
    target = ws.pacs.split_study(study_key, instances=[key_of(ws, first), key_of(ws, second)], keep_uids=False)
    settled(ws)
    ws.pacs.remove_instances(target, 2, reason=RemovalReason.PATIENT_SAFETY)

    settled(ws)

    assert shown_states(ws) == {}
    assert len(ws.shown(study_key)) == 1
    assert ws.settle() == []


@pytest.mark.parametrize("together", [True, False], ids=["together", "later"])
def test_the_platform_s_own_correction_of_the_object_wins(pointing, together):
    ws, study_key, first, second, _, state = pointing
    if together:
        replace(ws, study_key, first, state)
    else:
        (new,) = replace(ws, study_key, first)
        settled(ws)
        replace(ws, study_key, state)
        (row,) = [uid for uid in ws.site.uids(study_key) if uid not in ws.archive.stored]
        ((location,),) = ws.site.dba("select location from pacs.instance where sop_instance_uid = %s", row)
        rewrite_references(location.removeprefix("file://"), first, new)

    settled(ws)

    own = set(ws.site.uids(study_key))
    assert ws.shown(study_key) == own, "what is shown is the platform's, not a copy of ours"
    (new,) = named_in(the_state(ws)) - {second}
    assert new in own
    if together:
        sent = [s for s in ws.archive.stored.values() if s.sop_class_uid == PRESENTATION_STATE]
        assert len(sent) == 2, "the first one and the platform's correction, nothing of ours in between"
    assert_right(ws, study_key, filed_by_us=False)


def test_an_object_that_the_platform_shows_beside_its_correction_is_left_and_named(pointing):
    ws, study_key, first, _, _, state = pointing
    replace(ws, study_key, first, state)
    ws.site.dba("update pacs.instance set removed_at = null, removal_reason = null where sop_instance_uid = %s", state)

    ended = ws.settle()

    assert [e for e in ended if f"1 object still points at withdrawn instances: {state}." in e.message]
    assert set(shown_states(ws)) <= set(ws.site.uids(study_key)), "no copy of ours"
    assert set(ws.archive.rejected) == {first}
    assert ws.is_in_step(study_key)


def rewrite_references(path: str, old: str, new: str) -> None:
    """What a platform does that corrects an object in two steps."""
    dataset = dcmread(path)
    for element in dataset.iterall():
        if element.VR == "UI" and element.value == old:
            element.value = new
    dataset.save_as(path)


def test_an_object_that_comes_after_the_replacement_is_sent_pointing_at_it(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    first, second = ws.site.uids(study_key)
    (new,) = replace(ws, study_key, first)
    settled(ws)
    state = add_state(ws, study_key, [first, second])

    settled(ws)

    assert the_state(ws).SOPInstanceUID == state, "it was never sent before: its UID stays"
    assert named_in(the_state(ws)) == {new, second}
    assert_right(ws, study_key)


def test_an_object_that_came_before_the_replacement_of_what_was_never_sent_is_led_on_when_that_comes(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    (never_sent,) = ws.site.add_late_images(study_key, 1)
    key = key_of(ws, never_sent)
    state = add_state(ws, study_key, [ws.site.uids(study_key)[0], never_sent])
    ws.pacs.remove_instances(study_key, [key], reason=RemovalReason.QUALITY)
    settled(ws)
    assert state in ws.archive.shown()
    assert never_sent not in ws.archive.stored
    ws.site.dba("update pacs.instance set removed_at = null, removal_reason = null where instance_key::text = %s", key)
    (new,) = replace(ws, study_key, never_sent)

    settled(ws)

    assert named_in(the_state(ws)) == {ws.site.uids(study_key)[0], new}
    assert_right(ws, study_key)


def test_an_archive_that_never_had_the_old_image_gets_the_object_pointing_at_the_new_one(pointing, tmp_path):
    ws, study_key, first, second, *_ = pointing
    (new,) = replace(ws, study_key, first)
    settled(ws)
    late = SimulatedArchive(tmp_path / "late", free_port(), ae_title="LATE", iocm=IocmRules())
    late.start()
    ws.site.archives.append(late)
    ws.site.add_destination(late, name="late", profile="dcm4chee")
    plan_queue.queue(ws.site.ledger, [study_key])

    settled(ws)

    (state,) = [
        dcmread(stored.path) for uid, stored in late.stored.items() if stored.sop_class_uid == PRESENTATION_STATE
    ]
    assert named_in(state) == {new, second}
    assert state.SOPInstanceUID == the_state(ws).SOPInstanceUID
    assert_right(ws, study_key)


@pytest.mark.parametrize("only", [True, False], ids=["all it points at", "some of it"])
def test_a_replacement_that_comes_after_the_withdrawal_is_pointed_at_too(pointing, only):
    ws, study_key, first, second, *_ = pointing
    gone = [first, second] if only else [first]
    keys = [key_of(ws, uid) for uid in gone]
    ws.pacs.remove_instances(study_key, keys, reason=RemovalReason.QUALITY)
    settled(ws)
    assert bool(shown_states(ws)) is not only
    ws.site.dba(
        "update pacs.instance set removed_at = null, removal_reason = null where instance_key::text = any(%s)", keys
    )
    news = replace(ws, study_key, *gone)

    settled(ws)

    assert named_in(the_state(ws)) == {*news} | ({first, second} - {*gone})
    assert_right(ws, study_key)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same study", "other patient"])
def test_what_is_hidden_before_its_replacement_comes_is_followed_when_it_came(pointing, elsewhere):
    ws, study_key, first, second, *_ = pointing
    studies = [study_key]
    if elsewhere:
        studies.append(
            ws.pacs.split_study(
                study_key, instances=[key_of(ws, first)], keep_uids=False, patient_key=ws.pacs.new_patient()
            )
        )
    else:
        replace(ws, study_key, first, reason=RemovalReason.PATIENT_SAFETY)

    settled(ws)

    (new,) = named_in(the_state(ws)) - {second}
    assert new in ws.site.uids(studies[-1])
    assert_right(ws, *studies)


def test_an_image_for_which_several_stand_leaves_the_object_and_names_it(pointing):
    ws, study_key, first, second, _, state = pointing
    replace(ws, study_key, first)
    (other,) = ws.site.add_late_images(study_key, 1)
    ws.site.dba(
        "update pacs.instance set replaces_instance_key = %s where sop_instance_uid = %s", key_of(ws, first), other
    )

    ended = ws.settle()

    assert [e for e in ended if f"1 object still points at withdrawn instances: {state}." in e.message]
    assert named_in(the_state(ws)) == {first, second}
    assert set(ws.archive.rejected) == {first}
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_a_report_stays_as_it_was_signed(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    first, _ = ws.site.uids(study_key)
    report = add_state(ws, study_key, [first], REPORT)
    settled(ws)
    replace(ws, study_key, first)

    ended = ws.settle()

    assert [e for e in ended if f"1 object still points at withdrawn instances: {report}." in e.message]
    assert named_in(shown_states(ws, REPORT)[report]) == {first}
    assert set(ws.archive.rejected) == {first}


def test_key_images_are_led_on_like_presentation_states(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    first, second = ws.site.uids(study_key)
    key_images = add_state(ws, study_key, [first, second], KOS)
    settled(ws)
    (new,) = replace(ws, study_key, first)

    settled(ws)

    assert {first, key_images} == set(ws.archive.rejected)
    notes = {n.SOPInstanceUID for n in ws.notes()}
    (copy,) = [
        dcmread(s.path)
        for uid, s in ws.archive.stored.items()
        if s.sop_class_uid == KOS and uid in ws.archive.shown() and uid not in notes
    ]
    assert named_in(copy) == {new, second}
