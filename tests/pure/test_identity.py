"""Patients as archives know them: which ADT message each difference needs, in which order, and when none goes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archsync.core.destination import Destination
from archsync.core.identity import AdtWork, HeldPatient, plan_identity
from archsync.core.job import AdtChange, JobStatus, JobType, KnownJob
from archsync.core.study import Patient, Priority

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
JANE = Patient("p1", "MRN1", "CITY", "Doe^Jane", date(1950, 1, 2), "F")


def make_destination(**values) -> Destination:
    facts = {"adt_host": "adt.example", "adt_receiving_application": "ARCHIVE"}
    return Destination(name="vna", called_ae_title="VNA", host="vna.example", port=104, **{**facts, **values})


def known(*patients: Patient | HeldPatient) -> dict[str, HeldPatient]:
    held = [p if isinstance(p, HeldPatient) else HeldPatient.of(p) for p in patients]
    return {p.patient_key: p for p in held}


def decide(patient: Patient, held, survivors=None, jobs=(), destination=None) -> tuple[AdtWork, ...]:
    return plan_identity(patient, held, survivors or {}, known=jobs, destination=destination or make_destination())


def changes(*args, **kwargs) -> list[AdtChange]:
    return [work.change for work in decide(*args, **kwargs)]


def job_of(work: AdtWork, status: JobStatus, job_id: int = 1) -> KnownJob:
    return KnownJob(
        job_id,
        JobType.ADT,
        status,
        work.content_digest,
        Priority.ROUTINE,
        None,
        NOON,
        NOON,
        adt_change=work.change,
        patient_key=work.patient_key,
        prior_patient_key=work.prior_patient_key,
    )


# -- which message -----------------------------------------------------------------------------------------------------


def test_an_archive_in_step_is_told_nothing():
    assert decide(JANE, known(JANE)) == ()


def test_an_archive_that_never_had_the_patient_is_told_nothing():
    assert decide(replace(JANE, name="Doe^Joan", patient_id="MRN9"), {}) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "Doe^Joan"},
        {"name": ""},
        {"birth_date": date(1950, 2, 1)},
        {"birth_date": None},
        {"sex": "M"},
        {"sex": None},
    ],
    ids=str,
)
def test_changed_demographics_are_an_update(change):
    (work,) = decide(replace(JANE, **change), known(JANE))

    assert (work.change, work.patient_key, work.prior_patient_key) == (AdtChange.DEMOGRAPHICS, "p1", None)


@pytest.mark.parametrize(
    ("before", "after"),
    [("Doe^Jane", "Doe^Jane^^^"), ("Doe^Jane ", "Doe^Jane"), ("Doe^Jane=", "Doe^Jane"), ("Doe^Jane==", "Doe^Jane^= =")],
)
def test_delimiters_at_the_end_of_a_name_are_no_change(before, after):
    assert decide(replace(JANE, name=after), known(replace(JANE, name=before))) == ()


def test_a_name_that_moves_to_another_component_group_is_a_change():
    assert changes(replace(JANE, name="=Doe^Jane"), known(JANE)) == [AdtChange.DEMOGRAPHICS]


@pytest.mark.parametrize(
    "change", [{"patient_id": "MRN9"}, {"issuer_of_patient_id": "SOUTH"}, {"issuer_of_patient_id": None}], ids=str
)
def test_another_identifier_is_a_merge_message(change):
    (work,) = decide(replace(JANE, **change), known(JANE))

    assert (work.change, work.patient_key, work.prior_patient_key) == (AdtChange.IDENTIFIER, "p1", None)


def test_an_empty_issuer_is_no_issuer():
    assert decide(replace(JANE, issuer_of_patient_id=""), known(replace(JANE, issuer_of_patient_id=None))) == ()


def test_the_identifier_goes_before_the_demographics():
    assert changes(replace(JANE, patient_id="MRN9", name="Doe^Joan"), known(JANE)) == [
        AdtChange.IDENTIFIER,
        AdtChange.DEMOGRAPHICS,
    ]


ANN = Patient("p2", "MRN2", "CITY", "Doe^Jane", date(1950, 1, 2), "F")
PRIOR = replace(JANE, merged_into_patient_key="p2")


def test_a_patient_who_gave_way_is_merged_into_the_one_who_stays():
    (work,) = decide(ANN, known(PRIOR, ANN), {"p1": "p2"})

    assert (work.change, work.patient_key, work.prior_patient_key) == (AdtChange.MERGE, "p2", "p1")


def test_a_merge_goes_out_even_where_only_the_one_who_gave_way_is_known():
    assert changes(ANN, known(PRIOR), {"p1": "p2"}) == [AdtChange.MERGE]


def test_everyone_of_a_chain_is_merged_into_its_end():
    end = replace(ANN, patient_key="p3", patient_id="MRN3")

    works = decide(end, known(JANE, ANN, end), {"p1": "p3", "p2": "p3"})

    assert [(w.patient_key, w.prior_patient_key) for w in works] == [("p3", "p1"), ("p3", "p2")]


def test_merges_go_between_the_new_identifier_and_the_demographics():
    now = replace(ANN, patient_id="MRN9", name="Doe^Joan")

    assert changes(now, known(JANE, ANN), {"p1": "p2"}) == [
        AdtChange.IDENTIFIER,
        AdtChange.MERGE,
        AdtChange.DEMOGRAPHICS,
    ]


def test_a_merge_that_was_acknowledged_is_not_said_again():
    gone = replace(HeldPatient.of(JANE), merged_into="p2")

    assert decide(ANN, known(gone, ANN), {"p1": "p2"}) == ()


def test_other_patients_are_left_alone():
    assert decide(ANN, known(JANE, ANN), {}) == ()


# -- earlier jobs ------------------------------------------------------------------------------------------------------

JOAN = replace(JANE, name="Doe^Joan")
(TO_JOAN,) = decide(JOAN, known(JANE))


@pytest.mark.parametrize("status", [JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING])
def test_an_open_job_covers_whatever_is_to_be_said(status):
    assert decide(replace(JANE, name="Doe^Jo"), known(JANE), jobs=[job_of(TO_JOAN, status)]) == ()


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED])
def test_a_job_that_ended_covers_only_what_it_was_about(status):
    ended = job_of(TO_JOAN, status, job_id=7)

    assert decide(JOAN, known(JANE), jobs=[ended]) == ()
    (work,) = decide(replace(JANE, name="Doe^Jo"), known(JANE), jobs=[ended])
    assert work.supersedes == ((7,) if status is JobStatus.FAILED else ())


def test_a_job_about_the_demographics_does_not_cover_a_new_identifier():
    jobs = [job_of(TO_JOAN, JobStatus.WAITING)]

    assert changes(replace(JOAN, patient_id="MRN9"), known(JANE), jobs=jobs) == [AdtChange.IDENTIFIER]


def test_a_merge_of_one_does_not_cover_that_of_another():
    end = replace(ANN, patient_key="p3", patient_id="MRN3")
    survivors = {"p1": "p3", "p2": "p3"}
    first, _ = decide(end, known(JANE, ANN, end), survivors)

    (work,) = decide(end, known(JANE, ANN, end), survivors, jobs=[job_of(first, JobStatus.WAITING)])

    assert work.prior_patient_key == "p2"


# -- rules -------------------------------------------------------------------------------------------------------------


def test_a_destination_without_a_receiver_is_told_nothing_and_that_is_recorded():
    destination = make_destination(adt_host=None)

    (work,) = decide(JOAN, known(JANE), destination=destination)
    assert work.suppressed.code == "adt-not-configured"
    assert "vna" in work.suppressed.why

    recorded = job_of(work, JobStatus.SUPPRESSED)
    assert decide(JOAN, known(JANE), jobs=[recorded], destination=destination) == ()


def test_what_a_rule_kept_back_goes_once_the_rule_falls():
    (work,) = decide(JOAN, known(JANE), destination=make_destination(adt_host=None))

    (sent,) = decide(JOAN, known(JANE), jobs=[job_of(work, JobStatus.SUPPRESSED)])

    assert sent.suppressed is None


def test_records_with_one_identifier_are_merged_too_for_the_ledger_has_to_note_it():
    twin = replace(JANE, patient_key="p2")

    (work,) = decide(twin, known(JANE), {"p1": "p2"})

    assert (work.change, work.suppressed) == (AdtChange.MERGE, None)


def test_no_rule_and_no_digest_shows_a_patient():
    for work in decide(replace(JOAN, patient_id="MRN9"), known(JANE), destination=make_destination(adt_host=None)):
        for word in ("Doe", "Jane", "Joan", "MRN1", "MRN9"):
            assert word not in work.suppressed.why
            assert word not in work.content_digest
            assert word not in repr(HeldPatient.of(JANE))


# -- laws --------------------------------------------------------------------------------------------------------------

patients = st.builds(
    Patient,
    st.sampled_from(["p1", "p2", "p3"]),
    st.sampled_from(["MRN1", "MRN2"]),
    st.sampled_from([None, "CITY"]),
    st.sampled_from(["Doe^Jane", "Roe^Ann", ""]),
    st.sampled_from([None, date(1950, 1, 2)]),
    st.sampled_from([None, "F", "M"]),
)
survivors = st.sampled_from([{}, {"p1": "p2"}, {"p1": "p3", "p2": "p3"}])
destinations = st.sampled_from([make_destination(), make_destination(adt_host=None)])


@given(patients, st.lists(patients), survivors, destinations)
def test_planning_twice_plans_nothing_new(patient, others, survivors, destination):
    held = known(*others)
    works = decide(patient, held, survivors, destination=destination)
    jobs = [job_of(w, JobStatus.SUPPRESSED if w.suppressed else JobStatus.WAITING, n) for n, w in enumerate(works)]

    assert decide(patient, held, survivors, jobs, destination) == ()


@given(patients, st.lists(patients), survivors)
def test_an_archive_that_acknowledges_every_message_is_in_step(patient, others, survivors):
    if patient.patient_key in survivors:
        return  # one who gave way has no study any more
    held = known(*others)
    for work in decide(patient, held, survivors):
        held[patient.patient_key] = HeldPatient.of(patient)
        if work.prior_patient_key is not None:
            held[work.prior_patient_key] = replace(held[work.prior_patient_key], merged_into=patient.patient_key)

    assert decide(patient, held, survivors) == ()
