"""Rejection notes sent for real to an archive that honours IOCM: what it hides, and how it answers what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.uid import ImplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from archsync.core.archive_answers import find_answer
from archsync.core.profiles import ArchiveProfile, NoteAnswer
from archsync.core.rejection import NoteIdentity, NoteSubject, RejectedInstance, RejectionTitle
from archsync.core.transfer import Endpoint, OutgoingInstance, StoreResult
from archsync.errors import DestinationMisconfigured, OutcomeUnknown, PeerUnavailable
from archsync.messages.rejection_note import build_rejection_note, encode_note
from archsync.net.dicom.find import find_instances
from archsync.net.dicom.store import store_instances
from archsync.simulate.archive import ArrivalKind, ChosenStatus, IocmRules, Rudeness, SimulatedArchive

QUALITY, SAFETY = RejectionTitle.QUALITY, RejectionTitle.PATIENT_SAFETY
WRONG_ENTRY, RETENTION = RejectionTitle.WRONG_WORKLIST_ENTRY, RejectionTitle.RETENTION_EXPIRED
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
KOS = "1.2.840.10008.5.1.4.1.1.88.59"


@pytest.fixture
def rules() -> IocmRules:
    return IocmRules()


@pytest.fixture
def archive(tmp_path: Path, rules: IocmRules) -> Iterator[SimulatedArchive]:
    """A polite archive that honours IOCM, empty."""
    with SimulatedArchive(tmp_path / "archive", iocm=rules) as archive:
        yield archive


def store(endpoint: Endpoint, *instances: OutgoingInstance) -> list[int | None]:
    return [outcome.status for outcome in store_instances(endpoint, instances)]


@pytest.fixture
def stored(endpoint, copies, outgoing) -> list[OutgoingInstance]:
    """Six stored instances of one study in two series, five and one."""
    paths = copies(6)
    alone = dcmread(paths[-1])
    alone.SeriesInstanceUID = generate_uid()
    alone.save_as(paths[-1])
    instances = [outgoing(path) for path in paths]
    assert store(endpoint, *instances) == [0x0000] * 6
    return instances


@pytest.fixture
def note(outgoing, tmp_path: Path) -> Callable[..., OutgoingInstance]:
    """Writes a note about stored instances; gives it as something to send."""
    written = 0

    def write(
        instances: list[OutgoingInstance],
        title: RejectionTitle = SAFETY,
        mutate: Callable[[Dataset], None] | None = None,
    ) -> OutgoingInstance:
        nonlocal written
        written += 1
        header = dcmread(Path(instances[0].location.removeprefix("file://")), stop_before_pixels=True)
        data_set = build_rejection_note(
            NoteSubject(
                study_instance_uid=instances[0].study_instance_uid,
                patient_id=header.PatientID,
                patient_name=str(header.PatientName),
            ),
            [
                RejectedInstance(i.study_instance_uid, i.series_instance_uid, i.sop_instance_uid, i.sop_class_uid)
                for i in instances
            ],
            title=title,
            identity=NoteIdentity(f"change-{written}", "vna1"),
            issued_at=datetime(2026, 3, 9, 14, 5, 6, tzinfo=UTC),
            time_zone=UTC,
        )
        path = tmp_path / f"note-{written}.dcm"
        path.write_bytes(encode_note(data_set, held=[i.sop_instance_uid for i in instances]))
        if mutate is not None:
            wrong = dcmread(path)
            mutate(wrong)
            wrong.save_as(path)
        return outgoing(path)

    return write


def uids(instances: list[OutgoingInstance]) -> set[str]:
    return {instance.sop_instance_uid for instance in instances}


def shown(endpoint: Endpoint, instances: list[OutgoingInstance]) -> set[str]:
    """What the archive answers of the instances' series."""
    series = {i.series_instance_uid: None for i in instances}
    return find_instances(endpoint, instances[0].study_instance_uid, series)


def study_answer(endpoint: Endpoint, study_instance_uid: str) -> Dataset | None:
    """The archive's answer about a study, with its counts, or None when it shows no such study."""
    query = Dataset()
    query.QueryRetrieveLevel = "STUDY"
    query.StudyInstanceUID = study_instance_uid
    query.NumberOfStudyRelatedInstances = query.NumberOfStudyRelatedSeries = ""
    entity = AE()
    entity.add_requested_context(STUDY_ROOT_FIND)
    association = entity.associate(endpoint.host, endpoint.port, ae_title=endpoint.called_ae_title)
    try:
        answers = [answer for _, answer in association.send_c_find(query, STUDY_ROOT_FIND) if answer is not None]
    finally:
        association.release()
    return answers[0] if answers else None


# -- hiding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", [QUALITY, SAFETY, WRONG_ENTRY, RETENTION])
def test_what_a_note_names_is_no_longer_shown_and_the_rest_is(endpoint, rules, stored, note, title) -> None:
    rejection = note([*stored[:2], stored[5]], title)
    assert store(endpoint, rejection) == [0x0000]
    assert shown(endpoint, stored) == uids(stored[2:5])
    assert rules.rejected == dict.fromkeys(uids([*stored[:2], stored[5]]), title.value)
    answer = study_answer(endpoint, stored[0].study_instance_uid)
    # three images, and the note in its own series; a note about retention is not shown
    notes = title is not RETENTION
    assert (answer.NumberOfStudyRelatedInstances, answer.NumberOfStudyRelatedSeries) == (3 + notes, 1 + notes)
    assert shown(endpoint, [rejection]) == (uids([rejection]) if notes else set())


def test_a_study_that_is_rejected_whole_under_retention_is_not_shown_at_all(endpoint, stored, note) -> None:
    assert store(endpoint, note(stored, RETENTION)) == [0x0000]
    assert study_answer(endpoint, stored[0].study_instance_uid) is None


def test_an_archive_may_go_on_showing_what_was_rejected_for_quality(tmp_path, copies, outgoing, note) -> None:
    rules = IocmRules(shows_quality_rejects=True)
    with SimulatedArchive(tmp_path / "lenient", iocm=rules) as archive:
        endpoint = Endpoint(*archive.address, called_ae_title=archive.ae_title)
        instances = [outgoing(path) for path in copies(2)]
        assert store(endpoint, *instances, note(instances, QUALITY)) == [0x0000] * 3
        assert shown(endpoint, instances) == uids(instances)
        assert rules.rejected == dict.fromkeys(uids(instances), "113001")
        assert store(endpoint, note(instances, SAFETY)) == [0x0000]
        assert shown(endpoint, instances) == set()


def test_a_title_that_rejects_nothing_hides_nothing(endpoint, rules, stored, note) -> None:
    def quality_issue(note: Dataset) -> None:
        note.ConceptNameCodeSequence[0].CodeValue, note.ConceptNameCodeSequence[0].CodeMeaning = (
            "113010", "Quality Issue",
        )  # fmt: skip

    assert store(endpoint, note(stored, QUALITY, quality_issue)) == [0x0000]
    assert shown(endpoint, stored) == uids(stored)
    assert rules.rejected == {}


def test_the_evidence_counts_and_not_the_content(endpoint, stored, note) -> None:
    def less_content(note: Dataset) -> None:
        del note.ContentSequence[1:]

    assert store(endpoint, note(stored, SAFETY, less_content)) == [0x0000]
    assert shown(endpoint, stored) == set()


def test_an_archive_without_iocm_takes_the_note_and_hides_nothing(tmp_path, copies, outgoing, note) -> None:
    with SimulatedArchive(tmp_path / "plain") as archive:
        endpoint = Endpoint(*archive.address, called_ae_title=archive.ae_title)
        instances = [outgoing(path) for path in copies(2)]
        assert store(endpoint, *instances, note(instances)) == [0x0000] * 3
        assert shown(endpoint, instances) == uids(instances)


def test_what_is_hidden_stays_hidden_after_a_restart(tmp_path, endpoint, archive, stored, note) -> None:
    assert store(endpoint, note(stored[:1], SAFETY), note(stored[1:2], RETENTION)) == [0x0000] * 2
    assert store(endpoint, stored[1]) == [0x0000]  # retention is over
    archive.stop()
    rules = IocmRules()
    with SimulatedArchive(tmp_path / "archive", iocm=rules) as again:
        endpoint = Endpoint(*again.address, called_ae_title=again.ae_title)
        assert rules.rejected == {stored[0].sop_instance_uid: "113037"}
        assert shown(endpoint, stored) == uids(stored[1:])
        assert store(endpoint, stored[0], stored[1], stored[2]) == [0xA771, 0x0000, 0x0000]


# -- the same instance again -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("title", [SAFETY, WRONG_ENTRY])
def test_a_rejected_instance_that_comes_again_is_refused(endpoint, stored, note, title) -> None:
    assert store(endpoint, note(stored[:1], title)) == [0x0000]
    (outcome,) = store_instances(endpoint, stored[:1])
    assert (outcome.result, outcome.status, outcome.code) == (
        StoreResult.REFUSED, 0xA771, "instance-rejected-there",
    )  # fmt: skip
    assert shown(endpoint, stored) == uids(stored[1:])


def test_after_a_rejection_for_quality_it_is_answered_with_success_and_ignored(endpoint, stored, note) -> None:
    assert store(endpoint, note(stored[:1], QUALITY), stored[0]) == [0x0000] * 2
    assert shown(endpoint, stored) == uids(stored[1:])


def test_after_retention_it_is_shown_again_and_can_be_rejected_again(endpoint, rules, stored, note) -> None:
    assert store(endpoint, note(stored[:1], RETENTION)) == [0x0000]
    assert store(endpoint, stored[0]) == [0x0000]
    assert shown(endpoint, stored) == uids(stored)
    assert rules.rejected == {}
    assert store(endpoint, note(stored[:1], SAFETY), stored[0]) == [0x0000, 0xA771]
    assert shown(endpoint, stored) == uids(stored[1:])


def test_the_same_bytes_again_change_nothing(endpoint, rules, stored, note) -> None:
    rejection = note(stored[:1])
    assert store(endpoint, rejection, rejection, stored[3]) == [0x0000] * 3
    assert rules.rejected == dict.fromkeys(uids(stored[:1]), "113037")
    assert shown(endpoint, stored) == uids(stored[1:])


# -- refusals --------------------------------------------------------------------------------------------------------


def changed(instance: OutgoingInstance, outgoing, change: Callable[[Dataset], None]) -> OutgoingInstance:
    """The instance with its file changed in place."""
    path = Path(instance.location.removeprefix("file://"))
    data_set = dcmread(path)
    change(data_set)
    data_set.save_as(path)
    return outgoing(path)


def assert_refused(endpoint, instance: OutgoingInstance, status: int, code: str) -> None:
    (outcome,) = store_instances(endpoint, [instance])
    assert (outcome.result, outcome.status, outcome.code) == (StoreResult.REFUSED, status, code)


def test_other_bytes_under_the_uid_of_a_note_are_refused(endpoint, stored, note, outgoing) -> None:
    rejection = note(stored[:1])
    assert store(endpoint, rejection) == [0x0000]
    later = changed(rejection, outgoing, lambda n: setattr(n, "ContentTime", "000000"))
    assert_refused(endpoint, later, 0xA770, "different-object-same-uid")


def test_a_note_that_comes_again_in_another_transfer_syntax_is_another_object(endpoint, stored, note, outgoing) -> None:
    rejection = note(stored[:1])
    assert store(endpoint, rejection) == [0x0000]
    path = Path(rejection.location.removeprefix("file://"))
    data_set = dcmread(path)
    data_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dcmwrite(path, data_set, implicit_vr=True, little_endian=True)
    assert_refused(endpoint, outgoing(path), 0xA770, "different-object-same-uid")


def test_an_image_that_comes_again_in_another_transfer_syntax_is_the_same_image(endpoint, stored, outgoing) -> None:
    path = Path(stored[0].location.removeprefix("file://"))
    data_set = dcmread(path)
    data_set.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    dcmwrite(path, data_set, implicit_vr=True, little_endian=True)
    assert store(endpoint, outgoing(path)) == [0x0000]


def test_other_bytes_under_the_uid_of_an_image_are_refused(endpoint, stored, outgoing) -> None:
    corrected = changed(stored[0], outgoing, lambda image: setattr(image, "ImageComments", "corrected"))
    assert_refused(endpoint, corrected, 0xA770, "different-object-same-uid")


def test_a_note_that_names_what_never_arrived_is_refused_and_hides_nothing(endpoint, rules, stored, note) -> None:
    never_sent = OutgoingInstance(**{**_fields(stored[0]), "sop_instance_uid": generate_uid()})
    assert_refused(endpoint, note([stored[0], never_sent]), 0xA772, "note-names-unknown-instance")
    assert rules.rejected == {}
    assert shown(endpoint, stored) == uids(stored)


def test_a_note_that_names_an_instance_in_another_series_is_refused(endpoint, stored, note) -> None:
    elsewhere = OutgoingInstance(**{**_fields(stored[0]), "series_instance_uid": stored[5].series_instance_uid})
    assert_refused(endpoint, note([elsewhere]), 0xA772, "note-names-unknown-instance")


def _fields(instance: OutgoingInstance) -> dict[str, object]:
    return {name: getattr(instance, name) for name in instance.__slots__}


def test_a_note_that_names_an_instance_with_another_class_is_refused(endpoint, stored, note) -> None:
    as_ct = OutgoingInstance(**{**_fields(stored[0]), "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2"})
    assert_refused(endpoint, note([as_ct]), 0xA773, "class-instance-conflict")


def test_an_instance_that_comes_again_with_another_class_is_refused(endpoint, stored, outgoing) -> None:
    def as_ct(image: Dataset) -> None:
        image.SOPClassUID = image.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"

    assert_refused(endpoint, changed(stored[0], outgoing, as_ct), 0xA773, "class-instance-conflict")


ALLOWED = {
    QUALITY: {QUALITY},
    SAFETY: {QUALITY, SAFETY},
    WRONG_ENTRY: {QUALITY, SAFETY, WRONG_ENTRY},
    RETENTION: {QUALITY, SAFETY, WRONG_ENTRY, RETENTION},
}


@pytest.mark.parametrize("first", ALLOWED)
def test_a_second_title_stands_or_is_refused_as_the_archive_ranks_them(endpoint, rules, stored, note, first) -> None:
    for second, image in zip(ALLOWED, stored, strict=False):
        assert store(endpoint, note([image], first)) == [0x0000]
        rejection = note([image], second)
        if first in ALLOWED[second]:
            assert store(endpoint, rejection) == [0x0000]
            assert rules.rejected[image.sop_instance_uid] == second.value
        else:
            assert_refused(endpoint, rejection, 0xA774, "rejected-under-other-title")
            assert rules.rejected[image.sop_instance_uid] == first.value
        assert image.sop_instance_uid not in shown(endpoint, [image])


@pytest.mark.parametrize("change", [{"PatientID": "other"}, {"PatientID": "other", "IssuerOfPatientID": "NORTH"}])
def test_a_note_about_another_patient_is_refused_and_so_is_an_image(
    endpoint, rules, stored, note, outgoing, change
) -> None:
    def of_another(data_set: Dataset) -> None:
        for keyword, value in change.items():
            setattr(data_set, keyword, value)

    assert_refused(endpoint, note(stored[:1], SAFETY, of_another), 0xA778, "patient-differs")
    assert rules.rejected == {}

    def new_of_another(data_set: Dataset) -> None:
        of_another(data_set)
        data_set.SOPInstanceUID = data_set.file_meta.MediaStorageSOPInstanceUID = generate_uid()

    assert_refused(endpoint, changed(stored[1], outgoing, new_of_another), 0xA778, "patient-differs")


def test_the_same_patient_id_of_another_issuer_is_another_patient(endpoint, copies, note, outgoing) -> None:
    (path,) = copies(1)
    image = changed(outgoing(path), outgoing, lambda i: setattr(i, "IssuerOfPatientID", "CITY"))
    assert store(endpoint, image) == [0x0000]
    of_north = note([image], SAFETY, lambda n: setattr(n, "IssuerOfPatientID", "NORTH"))
    assert_refused(endpoint, of_north, 0xA778, "patient-differs")
    assert store(endpoint, note([image], SAFETY, lambda n: setattr(n, "IssuerOfPatientID", "CITY"))) == [0x0000]


def test_an_issuer_that_the_archive_did_not_know_is_no_other_patient(endpoint, stored, note) -> None:
    rejection = note(stored[:1], SAFETY, lambda n: setattr(n, "IssuerOfPatientID", "CITY"))
    assert store(endpoint, rejection) == [0x0000]


@pytest.mark.parametrize("keyword", ["StudyInstanceUID", "SeriesInstanceUID"])
def test_an_instance_that_comes_again_in_another_study_or_series_is_refused(
    endpoint, stored, outgoing, keyword: str
) -> None:
    moved = changed(stored[0], outgoing, lambda image: setattr(image, keyword, generate_uid()))
    assert_refused(endpoint, moved, 0xA77B, "instance-in-other-study")
    assert study_answer(endpoint, stored[1].study_instance_uid).NumberOfStudyRelatedInstances == 6


def test_a_note_without_evidence_is_refused(endpoint, stored, note) -> None:
    empty = note(stored, SAFETY, lambda n: setattr(n, "CurrentRequestedProcedureEvidenceSequence", []))
    assert_refused(endpoint, empty, 0xA900, "sop-class-mismatch")


# -- answers that are an archive's policy, and archives that can do less ----------------------------------------------

POLICIES = {
    0x0110: (StoreResult.LIMITED, "processing-failure", None),
    0xA775: (StoreResult.REFUSED, "retention-not-allowed", NoteAnswer.PERMANENT),
    0xA776: (StoreResult.REFUSED, "retention-not-allowed", NoteAnswer.PERMANENT),
    0xA777: (StoreResult.REFUSED, "patient-differs", NoteAnswer.PATIENT_MISMATCH),
    0xA779: (StoreResult.REFUSED, "patient-differs", NoteAnswer.PATIENT_MISMATCH),
    0xA77A: (StoreResult.BUSY, "study-being-deleted", NoteAnswer.BEING_DELETED),
}


@pytest.mark.parametrize("status", POLICIES, ids="{:04X}".format)
def test_a_note_refused_by_policy_hides_nothing_and_is_taken_once_the_policy_is_gone(
    archive, endpoint, stored, note, status: int
) -> None:
    result, code, answer = POLICIES[status]
    rejection = note(stored[:1])
    archive.behave(Rudeness(statuses=(ChosenStatus(status=status, sop_instance_uid=rejection.sop_instance_uid),)))
    (refused,) = store_instances(endpoint, [rejection])
    assert (refused.result, refused.status, refused.code) == (result, status, code)
    row = find_answer(status, ArchiveProfile.DCM4CHEE)
    assert (row and row.note_answer) == answer
    assert (archive.rejected, shown(endpoint, stored)) == ({}, uids(stored))
    assert store(endpoint, rejection) == [0x0000]
    assert shown(endpoint, stored) == uids(stored[1:])


def test_an_archive_that_authorises_no_note_stops_the_destination(archive, endpoint, stored, note) -> None:
    rejection = note(stored[:1])
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0x0124, sop_instance_uid=rejection.sop_instance_uid),)))
    with pytest.raises(DestinationMisconfigured) as stopped:
        store(endpoint, rejection)
    assert stopped.value.code == "not-authorized"
    assert archive.rejected == {}


def test_a_note_taken_with_a_warning_hides_what_it_names(archive, endpoint, stored, note) -> None:
    rejection = note(stored[:1])
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0xB000, sop_instance_uid=rejection.sop_instance_uid),)))
    assert store(endpoint, rejection) == [0xB000]
    assert shown(endpoint, stored) == uids(stored[1:])


def test_a_refusal_stays_one_where_a_warning_was_to_be_given(archive, endpoint, stored, note) -> None:
    assert store(endpoint, note(stored[:1])) == [0x0000]
    archive.behave(Rudeness(statuses=(ChosenStatus(status=0xB000, nth=1),)))
    assert store(endpoint, stored[0]) == [0xA771]


def test_a_note_whose_answer_was_lost_is_answered_with_success_when_it_comes_again(
    archive, endpoint, stored, note
) -> None:
    rejection = note(stored[:1])
    archive.behave(Rudeness(lose_answer_of_store=1))
    with pytest.raises(OutcomeUnknown, match=rejection.sop_instance_uid):
        store(endpoint, rejection)
    assert shown(endpoint, stored) == uids(stored[1:])
    assert store(endpoint, rejection) == [0x0000]
    lost, again = archive.arrivals[-2:]
    assert (lost.kind, lost.status, lost.is_kept) == (ArrivalKind.NOTE, None, True)
    assert (again.status, again.is_kept, again.digest) == ("0000", False, lost.digest)


def test_an_archive_without_key_objects_refuses_notes_and_takes_images(
    archive, endpoint, stored, note, outgoing
) -> None:
    archive.behave(Rudeness(refuse_sop_classes=(KOS,)))
    path = Path(stored[1].location.removeprefix("file://"))
    another = dcmread(path)
    another.SOPInstanceUID = another.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    another.save_as(path)
    before = len(archive.arrivals)
    refused, taken = store_instances(endpoint, [note(stored[:1]), outgoing(path)])
    assert (refused.result, refused.status, refused.code) == (StoreResult.REFUSED, None, "sop-class-not-accepted")
    assert taken.status == 0x0000
    assert [arrival.kind for arrival in archive.arrivals[before:]] == [ArrivalKind.IMAGE]
    assert archive.rejected == {}


def test_an_archive_that_answers_a700_to_everything_keeps_nothing(archive, endpoint, copies, outgoing) -> None:
    archive.behave(Rudeness.from_json('{"answer_every_store": "A700"}'))
    instances = [outgoing(path) for path in copies(3)]
    with pytest.raises(PeerUnavailable):
        store(endpoint, *instances)
    assert [(arrival.status, arrival.is_kept) for arrival in archive.arrivals] == [("A700", False)] * 3
    assert archive.shown() == archive.stored == {}
    archive.behave()
    assert store(endpoint, *instances) == [0x0000] * 3


# -- split, as an archive sees it ------------------------------------------------------------------------------------


def test_a_split_leaves_the_rest_here_and_the_copies_there(endpoint, stored, note, outgoing, tmp_path) -> None:
    target, replacements = generate_uid(), []
    for number, moved in enumerate(stored[:2]):
        copy = dcmread(Path(moved.location.removeprefix("file://")))
        copy.StudyInstanceUID, copy.SeriesInstanceUID = target, f"{target}.1"
        copy.SOPInstanceUID = copy.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        copy.save_as(tmp_path / f"replacement-{number}.dcm")
        replacements.append(outgoing(tmp_path / f"replacement-{number}.dcm"))
    rejection = note(stored[:2], WRONG_ENTRY)
    assert store(endpoint, *replacements, rejection) == [0x0000] * 3
    assert shown(endpoint, stored) == uids(stored[2:])
    assert shown(endpoint, replacements) == uids(replacements)
    assert rejection.sop_class_uid == KOS
    assert study_answer(endpoint, target).NumberOfStudyRelatedInstances == 2


def test_after_a_restart_the_order_of_arrival_counts_and_not_that_of_the_files(
    tmp_path, endpoint, archive, copies, note, outgoing
) -> None:
    (path,) = copies(1)
    image = changed(outgoing(path), outgoing, lambda i: setattr(i, "SeriesInstanceUID", "3.1"))  # sorts behind notes
    assert store(endpoint, image, note([image])) == [0x0000] * 2
    archive.stop()
    for kept in (tmp_path / "archive").glob("*/*/*.dcm"):
        os.utime(kept, ns=(0, 0))
    with SimulatedArchive(tmp_path / "archive", iocm=IocmRules()) as again:
        assert again.rejected == {image.sop_instance_uid: "113037"}


def test_an_image_put_into_the_folder_by_hand_is_shown_beside_what_came(
    tmp_path, endpoint, archive, stored, note
) -> None:
    assert store(endpoint, note(stored[:1])) == [0x0000]
    archive.stop()
    by_hand = dcmread(archive.stored[stored[1].sop_instance_uid].path)
    by_hand.SOPInstanceUID = by_hand.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    folder = tmp_path / "archive" / stored[1].study_instance_uid / stored[1].series_instance_uid
    by_hand.save_as(folder / "by hand.dcm")
    with SimulatedArchive(tmp_path / "archive", iocm=IocmRules()) as again:
        assert again.rejected == {stored[0].sop_instance_uid: "113037"}
        assert {i.sop_instance_uid for i in stored[1:]} | {by_hand.SOPInstanceUID} <= again.shown().keys()
        assert stored[0].sop_instance_uid not in again.shown()
