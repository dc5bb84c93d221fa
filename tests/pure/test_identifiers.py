"""Whose an identifier is at an archive, and who waits for whom."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from archsync.core.identifiers import (
    Holder,
    Standing,
    Undecided,
    check_ends_alone,
    find_other_record,
    job_before_images,
    job_before_message,
)
from archsync.core.identity import HeldPatient
from archsync.core.job import AdtChange, JobStatus, JobType, KnownJob
from archsync.core.study import Patient, Priority
from archsync.errors import InvalidInput

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
OTTO = Patient("otto", "MRN1", "CITY", "Otto")
MARIA = Patient("maria", "MRN1", "CITY", "Maria")
CORRECTED = replace(MARIA, patient_id="MRN9")


def job(job_id: int, job_type: JobType = JobType.ADT, **values) -> KnownJob:
    return KnownJob(job_id, job_type, JobStatus.WAITING, None, Priority.ROUTINE, None, NOON, NOON, **values)


def holder(patient: Patient, now: Patient | None, *jobs: KnownJob, survivor: str | None = None, **values) -> Holder:
    known = replace(HeldPatient.of(patient), **values)
    return Holder(known, survivor or patient.patient_key, now, jobs)


def at(**standings: Standing):
    """An archive: who goes by MRN1 and others there."""
    return lambda identifier: standings.get(identifier[0], Standing())


GETS_ANOTHER = job(7, adt_change=AdtChange.IDENTIFIER, patient_key="maria")
GIVES_WAY = job(8, adt_change=AdtChange.MERGE, patient_key="ida", prior_patient_key="maria")


def code_of(call, *args) -> str:
    with pytest.raises(InvalidInput) as refused:
        call(*args)
    return refused.value.code


def test_images_go_out_under_an_identifier_that_nobody_has():
    assert job_before_images(OTTO, at()) is None
    assert job_before_images(OTTO, at(MRN1=Standing((holder(OTTO, OTTO),)))) is None


def test_images_wait_for_the_message_that_ends_the_others_identifier():
    assert job_before_images(OTTO, at(MRN1=Standing((holder(MARIA, CORRECTED, GETS_ANOTHER),)))) == 7
    ida = replace(MARIA, patient_key="ida", patient_id="MRN3")
    assert job_before_images(OTTO, at(MRN1=Standing((holder(MARIA, ida, GIVES_WAY, survivor="ida"),)))) == 8


def test_a_message_about_something_else_frees_nothing():
    renamed = job(7, adt_change=AdtChange.DEMOGRAPHICS, patient_key="maria")
    into_maria = job(8, adt_change=AdtChange.MERGE, patient_key="maria", prior_patient_key="ida")
    look = at(MRN1=Standing((holder(MARIA, CORRECTED, renamed, into_maria),)))
    assert code_of(job_before_images, OTTO, look) == "identifier-taken"


def test_where_holders_are_still_to_be_planned_nothing_is_decided():
    with pytest.raises(Undecided) as undecided:
        job_before_images(OTTO, at(MRN1=Standing((holder(MARIA, CORRECTED),), is_unsettled=True)))
    assert undecided.value.patient_keys == ["maria"]


def test_two_who_have_it_on_the_platform_are_refused_whatever_is_planned():
    look = at(MRN1=Standing((holder(MARIA, MARIA, GETS_ANOTHER),), is_unsettled=True))
    assert code_of(job_before_images, OTTO, look) == "identifier-taken"


def test_one_whose_images_were_never_answered_is_waited_for_by_the_job_that_sends_them():
    sends = job(5, JobType.ARCHIVE, patient_key="maria")
    look = at(MRN1=Standing((holder(MARIA, CORRECTED, sends, is_introduced=False),)))
    assert job_before_images(OTTO, look) == 5
    look = at(MRN1=Standing((holder(MARIA, CORRECTED, sends),)))
    assert code_of(job_before_images, OTTO, look) == "identifier-taken"


def test_an_identifier_that_gave_way_stays_whose_it_was():
    look = at(MRN1=Standing(gave_up={"maria": HeldPatient.of(CORRECTED)}))
    assert code_of(job_before_images, OTTO, look) == "identifier-retired"
    assert code_of(job_before_message, OTTO, look) == "adt-identifier-taken"
    assert job_before_images(MARIA, look) is None
    assert job_before_message(MARIA, look) is None


def test_an_archive_may_know_a_person_by_another_record():
    same = replace(HeldPatient.of(MARIA), patient_key="otto2")
    assert find_other_record(OTTO, at(MRN1=Standing((Holder(same, "otto", OTTO),)))) == same
    assert find_other_record(OTTO, at(MRN1=Standing((holder(MARIA, MARIA),)))) is None
    assert find_other_record(OTTO, at(MRN1=Standing(gave_up={"otto": same}))) == same


def test_a_message_waits_for_the_first_of_a_chain():
    ida = Patient("ida", "MRN9", "CITY", "Ida")
    free = replace(ida, patient_id="MRN5")
    ida_moves = job(9, adt_change=AdtChange.IDENTIFIER, patient_key="ida")
    look = at(MRN1=Standing((holder(MARIA, CORRECTED, GETS_ANOTHER),)), MRN9=Standing((holder(ida, free, ida_moves),)))
    assert job_before_message(OTTO, look) == 7


def test_a_circle_has_no_order():
    otto_before = Patient("otto", "MRN9", "CITY", "Otto")
    look = at(MRN1=Standing((holder(MARIA, CORRECTED, GETS_ANOTHER),)), MRN9=Standing((holder(otto_before, OTTO),)))
    assert code_of(job_before_message, OTTO, look) == "adt-identifier-swap"


def test_an_identifier_is_not_ended_for_one_of_two():
    look = at(MRN1=Standing((holder(MARIA, CORRECTED), holder(OTTO, OTTO))))
    assert code_of(check_ends_alone, MARIA, CORRECTED, look) == "adt-identifier-shared"
    check_ends_alone(MARIA, CORRECTED, at(MRN1=Standing((holder(MARIA, CORRECTED),))))


def test_no_refusal_names_the_patient():
    look = at(MRN1=Standing((holder(MARIA, MARIA), holder(OTTO, OTTO))))
    for call in (job_before_images, job_before_message):
        with pytest.raises(InvalidInput) as refused:
            call(OTTO, look)
        assert not {"MRN1", "Otto", "Maria"} & set(f"{refused.value.message} {refused.value.next_step}".split())
