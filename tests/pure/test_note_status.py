"""Answers to rejection notes, row by row, and how profiles differ."""

from __future__ import annotations

import pytest

from archsync.core.archive_answers import ANSWERS
from archsync.core.profiles import PROFILES, ArchiveProfile, NoteAnswer
from archsync.core.transfer import StoreResult
from archsync.messages.note_status import NOT_ACCEPTED, explain_note_status
from archsync.messages.store_status import explain_store_status

DCM4CHEE, GENERIC, ORTHANC = ArchiveProfile.DCM4CHEE, ArchiveProfile.GENERIC, ArchiveProfile.ORTHANC


@pytest.mark.parametrize("profile", [DCM4CHEE, GENERIC])
@pytest.mark.parametrize(
    ("status", "answer", "code"),
    [
        (0x0000, NoteAnswer.STORED, "stored"),
        (0xB000, NoteAnswer.STORED, "stored-coerced"),
        (0xB007, NoteAnswer.STORED, "stored-sop-class-mismatch"),
        (0xBFFF, NoteAnswer.STORED, "stored-with-warning"),
        (0x0111, NoteAnswer.STORED, "duplicate-instance"),
        (0xA770, NoteAnswer.BUG_OTHER_BYTES, "note-bytes-differ"),
        (0xA771, NoteAnswer.INSTANCE_REJECTED, "instance-rejected-there"),
        (0xA772, NoteAnswer.NAMES_UNKNOWN, "note-names-unknown-instance"),
        (0xA773, NoteAnswer.PERMANENT, "class-instance-conflict"),
        (0xA774, NoteAnswer.ALREADY_REJECTED_OTHER_TITLE, "rejected-under-other-title"),
        (0xA775, NoteAnswer.PERMANENT, "retention-not-allowed"),
        (0xA776, NoteAnswer.PERMANENT, "retention-not-allowed"),
        (0xA777, NoteAnswer.PATIENT_MISMATCH, "patient-differs"),
        (0xA778, NoteAnswer.PATIENT_MISMATCH, "patient-differs"),
        (0xA779, NoteAnswer.PATIENT_MISMATCH, "patient-differs"),
        (0xA77A, NoteAnswer.BEING_DELETED, "study-being-deleted"),
        (0xA77B, NoteAnswer.PERMANENT, "instance-in-other-study"),
        (0x0124, NoteAnswer.NOT_AUTHORISED, "not-authorized"),
        (0x0110, NoteAnswer.LIMITED, "processing-failure"),
        (0x0122, NoteAnswer.NOT_ACCEPTED, "notes-not-accepted"),
        (0xA700, NoteAnswer.BUSY, "out-of-resources"),
        (0xA76F, NoteAnswer.BUSY, "out-of-resources"),
        (0xA77C, NoteAnswer.BUSY, "out-of-resources"),
        (0x0213, NoteAnswer.BUSY, "resource-limitation"),
        (0xA900, NoteAnswer.PERMANENT, "sop-class-mismatch"),
        (0xC000, NoteAnswer.PERMANENT, "cannot-understand"),
        (0xFE00, NoteAnswer.LIMITED, "unknown-status"),
        (None, NoteAnswer.UNKNOWN, "outcome-unknown"),
    ],
)
def test_each_answer_to_a_note_has_its_meaning(profile, status, answer, code) -> None:
    verdict = explain_note_status(status, profile)
    assert (verdict.answer, verdict.code) == (answer, code)


@pytest.mark.parametrize(
    ("status", "result", "code"),
    [
        (0xA770, StoreResult.REFUSED, "different-object-same-uid"),
        (0xA771, StoreResult.REFUSED, "instance-rejected-there"),
        (0xA77A, StoreResult.BUSY, "study-being-deleted"),
        (0xA77B, StoreResult.REFUSED, "instance-in-other-study"),
    ],
)
def test_an_image_with_such_a_status_is_not_called_a_note(status, result, code) -> None:
    meaning = explain_store_status(status, DCM4CHEE)
    assert (meaning.result, meaning.code) == (result, code)
    assert "note" not in meaning.message


def test_no_status_of_dcm4chee_except_a_running_deletion_is_worth_a_repetition() -> None:
    worth_it = {s for s in range(0xA770, 0xA77C) if explain_store_status(s, DCM4CHEE).result is not StoreResult.REFUSED}
    assert worth_it == {0xA77A}


def test_orthanc_gives_a700_to_any_failure_so_it_is_tried_a_few_times_only() -> None:
    assert explain_store_status(0xA700, ORTHANC).result is StoreResult.LIMITED
    assert explain_store_status(0xA700, GENERIC).result is StoreResult.BUSY
    assert explain_note_status(0xA700, ORTHANC).answer is NoteAnswer.LIMITED
    assert explain_note_status(0xA700, ORTHANC).code == "store-failed"


@pytest.mark.parametrize("profile", ArchiveProfile)
def test_a_note_counts_as_stored_exactly_where_an_instance_does(profile) -> None:
    for status in range(0x10000):
        is_stored = explain_store_status(status, profile).result.is_stored
        assert (explain_note_status(status, profile).answer is NoteAnswer.STORED) == is_stored, hex(status)


@pytest.mark.parametrize("profile", ArchiveProfile)
def test_a_profile_changes_statuses_of_the_out_of_resources_range_only(profile) -> None:
    assert all(0xA700 <= row.first <= row.last <= 0xA7FF for row in ANSWERS[profile])
    assert profile in PROFILES


def test_the_sentence_shows_the_status_as_archives_log_it() -> None:
    assert explain_note_status(0xA772, DCM4CHEE).message.endswith("(status A772)")
    assert "status" not in explain_note_status(None, DCM4CHEE).message


def test_status_0122_and_a_refused_context_mean_the_same() -> None:
    verdict = explain_note_status(0x0122, GENERIC)
    assert (verdict.answer, verdict.code, verdict.next_step) == (
        NOT_ACCEPTED.answer, NOT_ACCEPTED.code, NOT_ACCEPTED.next_step,
    )  # fmt: skip


def test_every_verdict_tells_what_to_do() -> None:
    for profile in ArchiveProfile:
        for row in ANSWERS[profile]:
            for said in (row.explanation, row.for_note):
                assert said.message.endswith("."), hex(row.first)
                assert said.next_step.endswith("."), hex(row.first)
