"""Presentation states and reports that point at withdrawn instances."""

from __future__ import annotations

from pydicom import dcmread
from pydicom.dataset import Dataset

from archsync.core.job import JobStatus
from archsync.simulate.volumes import make_uid
from withdrawals import PRESENTATION_STATE, REPORT


def add_pointer(ws, study_key: str, references: list[str], sop_class_uid: str = PRESENTATION_STATE) -> str:
    """Put an object that points at others into a study and archive it; gives its SOP Instance UID."""
    model = dcmread(next(ws.site.folder.glob(f"{ws.site.study_uid(study_key)}/*")))
    uid = make_uid(ws.site.folder, "pointer", *references, sop_class_uid)
    for tag in [element.tag for element in model if element.tag.group in (0x0028, 0x7FE0)]:
        del model[tag]
    model.SOPClassUID = model.file_meta.MediaStorageSOPClassUID = sop_class_uid
    model.SOPInstanceUID = model.file_meta.MediaStorageSOPInstanceUID = uid
    model.SeriesInstanceUID = make_uid(uid, "series")
    model.Modality = "PR"
    series = Dataset()
    series.SeriesInstanceUID = make_uid("any")
    series.ReferencedImageSequence = []
    for target in references:
        item = Dataset()
        item.ReferencedSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        item.ReferencedSOPInstanceUID = target
        series.ReferencedImageSequence.append(item)
    model.ReferencedSeriesSequence = [series]
    path = ws.site.folder / f"{uid}.dcm"
    model.save_as(path, enforce_file_format=True)
    ws.pacs.add_instances(study_key, [path])
    ended = ws.settle()
    assert uid in ws.archive.stored, ended
    return uid


def references_of(ws, uid: str) -> set[str]:
    (series,) = dcmread(ws.archive.stored[uid].path).ReferencedSeriesSequence
    return {str(item.ReferencedSOPInstanceUID) for item in series.ReferencedImageSequence}


def remove(ws, *uids: str, reason: str = "quality") -> None:
    ws.site.dba(
        "update pacs.instance set removed_at = now(), removal_reason = %s where sop_instance_uid = any(%s)",
        reason, list(uids),
    )  # fmt: skip


def test_what_points_at_withdrawn_images_only_goes_in_the_same_note(ws):
    ws.add_destination()
    study_key = ws.archived(3)
    first, second, _ = ws.site.uids(study_key)
    never_sent = "1.2.3.4"
    pointer = add_pointer(ws, study_key, [first, second, never_sent])
    remove(ws, first, second)

    (ended,) = ws.settle()

    assert ended.message == "3 instances withdrawn."
    (note,) = ws.notes()
    assert set(ws.archive.rejected) == {first, second, pointer}
    assert ws.titles() == {"113001"}
    assert {str(i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID) for i in note.ContentSequence} >= {pointer}
    assert ws.settle() == []


def test_what_went_with_its_images_comes_back_with_them(ws):
    ws.add_destination()
    study_key = ws.archived(3)
    first, second, other = ws.site.uids(study_key)
    pointer = add_pointer(ws, study_key, [first, second])
    remove(ws, first, second)
    ws.settle()
    assert pointer in ws.archive.rejected

    ws.site.dba("update pacs.instance set removed_at = null, removal_reason = null")
    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended), ended
    assert len(ws.shown(study_key)) == 4
    (copy,) = [u for u in ws.shown(study_key) if ws.archive.stored[u].sop_class_uid == PRESENTATION_STATE]
    assert references_of(ws, copy) == ws.shown(study_key) - {copy, other}
    assert not ws.shown(study_key) & {first, second, pointer}, "what was withdrawn never comes back itself"
    assert ws.settle() == []


def test_what_points_at_replaced_images_is_replaced_by_a_copy_that_points_at_the_new_ones(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    changed, kept = sorted(ws.site.uids(study_key))
    pointer = add_pointer(ws, study_key, [changed, kept])
    (instance_key,) = ws.site.dba("select instance_key::text from pacs.instance where sop_instance_uid = %s", changed)[
        0
    ]
    ws.pacs.change_content(study_key, [instance_key])

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert set(ws.archive.rejected) == {changed, pointer}
    (copy,) = [u for u in ws.shown(study_key) if ws.archive.stored[u].sop_class_uid == PRESENTATION_STATE]
    (new,) = ws.shown(study_key) - {kept, copy}
    assert references_of(ws, copy) == {new, kept}
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_what_points_at_withdrawn_and_at_other_images_stays_and_is_named(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    gone, kept = ws.site.uids(study_key)
    pointer = add_pointer(ws, study_key, [gone, kept])
    remove(ws, gone)

    (ended,) = ws.settle()

    assert ended.message == f"1 instance withdrawn. 1 object still points at withdrawn instances: {pointer}."
    assert ws.is_in_step(study_key)
    assert ws.settle() == []


def test_a_report_is_never_withdrawn_for_what_it_points_at(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    gone, _ = ws.site.uids(study_key)
    report = add_pointer(ws, study_key, [gone], REPORT)
    remove(ws, gone)

    (ended,) = ws.settle()

    assert f"still points at withdrawn instances: {report}." in ended.message
    assert set(ws.archive.rejected) == {gone}
    assert report in ws.archive.shown()


def test_what_can_not_be_read_is_left_and_named(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    gone, _ = ws.site.uids(study_key)
    pointer = add_pointer(ws, study_key, [gone])
    (ws.site.folder / f"{pointer}.dcm").unlink()
    remove(ws, gone)

    (ended,) = ws.settle()

    assert ended.status is JobStatus.SUCCEEDED
    assert f"1 object that may point at them can't be read: {pointer}." in ended.message
    assert set(ws.archive.rejected) == {gone}


def test_what_points_at_images_of_a_split_follows_them(ws):
    ws.add_destination()
    study_key = ws.archived(2)
    first, moved = ws.site.uids(study_key)
    add_pointer(ws, study_key, [first, moved])
    (instance_key,) = ws.site.dba("select instance_key::text from pacs.instance where sop_instance_uid = %s", moved)[0]
    target = ws.pacs.split_study(study_key, instances=[instance_key])

    ended = ws.settle()

    assert all(e.status is JobStatus.SUCCEEDED for e in ended)
    assert ws.is_in_step(study_key, target)
    (copy,) = [u for u in ws.shown(study_key) if ws.archive.stored[u].sop_class_uid == PRESENTATION_STATE]
    (new,) = ws.shown(target)
    series = dcmread(ws.archive.stored[copy].path).ReferencedSeriesSequence
    pointed = {str(i.ReferencedSOPInstanceUID) for item in series for i in item.ReferencedImageSequence}
    assert pointed == {first, new}
