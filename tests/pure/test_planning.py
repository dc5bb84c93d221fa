"""Planning what to store: what the rules say case by case, and the laws that hold for any history of a study.

What is withdrawn, said of patients and placed has tests of its own; ``test_model.py`` tries all of it together.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from archsync.core.comparison import Desired, Held, HeldInstance
from archsync.core.destination import Destination, Verification
from archsync.core.job import FAR_FUTURE, JobStatus, JobType, KnownJob, WaitReason, may_become
from archsync.core.placing import Bound, Placed, place
from archsync.core.planning import (
    Rule,
    StorePlan,
    gate,
    missing_instances,
    plan,
    plan_store,
    unverified_instances,
)
from archsync.core.profiles import ArchiveProfile
from archsync.core.study import ExamStatus, Facility, Instance, Patient, Priority, RemovalReason, Study
from archsync.core.uid_map import InstanceUids

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
CITY = Facility("CITY", "City Hospital", "metro")
SOUTH = Facility("SOUTH", "South Clinic", "region")
OPEN_STATUSES = [JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED]


def make_destination(**values) -> Destination:
    return Destination(name="vna", called_ae_title="VNA", host="vna.example", port=104, **{"settle_s": 0.0, **values})


def make_instance(number: int, **values) -> Instance:
    facts = {
        "instance_key": f"i{number}",
        "study_key": "s1",
        "series_instance_uid": "1.2.3",
        "series_number": 1,
        "modality": "CT",
        "sop_instance_uid": f"1.2.3.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "instance_number": number,
        "location": f"file:///images/{number}.dcm",
        "size_bytes": 1000,
    }
    return Instance(**{**facts, **values})


def make_study(instances=(1, 2, 3), **values) -> Study:
    facts = {
        "study_key": "s1",
        "study_instance_uid": "1.2",
        "patient": Patient("p1", "MRN", None, "Doe^Jane"),
        "facility": CITY,
        "exam_status": "Completed",
        "instances": tuple(i if isinstance(i, Instance) else make_instance(i) for i in instances),
    }
    return Study(**{**facts, **values})


def place_as_it_is(instance: Instance, study: Study | None = None, **values) -> Placed:
    """The first placement of an instance: with the platform's own UIDs."""
    study = study or make_study()
    facts = {
        "placement_id": int(instance.instance_key[1:]),
        "placement_no": 1,
        "instance_key": instance.instance_key,
        "content_version": instance.content_version,
        "study_key": study.study_key,
        "patient_key": study.patient.patient_key,
        "uids": InstanceUids(study.study_instance_uid, instance.series_instance_uid, instance.sop_instance_uid),
        "source_series_instance_uid": instance.series_instance_uid,
        "source_sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "placed_at": NOON,
    }
    return Placed(**{**facts, **values})


def held(*numbers: int, jobs=(), is_archived=False, verified=True, rejected=(), unanswered=()) -> Held:
    return Held(
        archived_at=NOON if is_archived else None,
        instances={
            n: HeldInstance(
                place_as_it_is(make_instance(n), is_burnt=n in rejected),
                is_stored=n not in unanswered,
                is_verified=verified,
                rejected_by=9 if n in rejected else None,
                is_hidden=n in rejected,
            )
            for n in numbers
        },
        jobs=tuple(jobs),
    )


def desire(study: Study, known: Held) -> Desired:
    """What the platform says, with the placements that the archive knows of."""
    return Desired(study, latest={h.placed.instance_key: h.placed for h in known.instances.values()})


def make_job(job_id: int, status: JobStatus, study: Study | None = None, **values) -> KnownJob:
    facts = {
        "job_type": JobType.ARCHIVE,
        "content_digest": study.content_digest() if study else "of another content",
        "priority": Priority.ROUTINE,
        "wait_reason": None,
        "not_before": NOON,
        "created_at": NOON,
    }
    return KnownJob(job_id=job_id, status=status, **{**facts, **values})


def decide(study: Study, known: Held, destination: Destination | None = None, at: datetime = NOON) -> StorePlan:
    return plan(desire(study, known), known, destination or make_destination(), observed_at=at).store


def missing(study: Study, known: Held, destination: Destination | None = None) -> list[str]:
    found = missing_instances(desire(study, known), known, destination or make_destination())
    return [i.instance_key for i in found]


# -- what a study needs ------------------------------------------------------------------------------------------------


def test_a_study_that_is_due_gets_an_archive_job_for_all_its_instances():
    outcome = decide(make_study(), held())

    assert outcome.rule is Rule.DUE
    job_type, work = outcome.new_job
    assert job_type is JobType.ARCHIVE
    assert [i.instance_key for i in work.instances] == ["i1", "i2", "i3"]
    assert work.bytes_total == 3000
    assert (work.not_before, work.wait_reason) == (NOON, None)


def test_late_images_of_an_archived_study_get_a_dicom_job_for_just_them():
    outcome = decide(make_study((1, 2, 3, 4)), held(1, 2, 3, is_archived=True))

    job_type, work = outcome.new_job
    assert job_type is JobType.DICOM
    assert [i.instance_key for i in work.instances] == ["i4"]


@pytest.mark.parametrize("exam_status", ["Pending", "Cancelled", "Completed"])
def test_late_images_go_whatever_became_of_the_exam(exam_status):
    outcome = decide(make_study((1, 2), exam_status=exam_status), held(1, is_archived=True))

    assert outcome.rule is Rule.DUE


@pytest.mark.parametrize(
    ("exam_status", "trigger", "is_due"),
    [
        ("Pending", ExamStatus.PENDING, True),
        ("Inflight", ExamStatus.PENDING, True),
        ("Completed", ExamStatus.PENDING, True),
        ("Pending", ExamStatus.INFLIGHT, False),
        ("Inflight", ExamStatus.INFLIGHT, True),
        ("Completed", ExamStatus.INFLIGHT, True),
        ("Pending", ExamStatus.COMPLETED, False),
        ("Inflight", ExamStatus.COMPLETED, False),
        ("Completed", ExamStatus.COMPLETED, True),
        ("Cancelled", ExamStatus.PENDING, False),
        ("completed", ExamStatus.PENDING, False),
        ("", ExamStatus.PENDING, False),
    ],
)
def test_a_trigger_fires_at_its_status_and_all_later_ones(exam_status, trigger, is_due):
    outcome = decide(make_study(exam_status=exam_status), held(), make_destination(trigger_status=trigger))

    assert outcome.rule is (Rule.DUE if is_due else Rule.NOT_REACHED)
    assert (outcome.new_job is not None) is is_due


@pytest.mark.parametrize(
    ("exam_status", "reason"),
    [
        ("Inflight", "exam status Inflight has not reached Completed"),
        ("Cancelled", "exam status Cancelled triggers nothing; Completed does"),
        ("completed", "exam status completed triggers nothing; Completed does"),
    ],
)
def test_a_study_that_is_not_due_says_whether_its_status_leads_there_at_all(exam_status, reason):
    assert decide(make_study(exam_status=exam_status), held(), make_destination()).why == reason


@pytest.mark.parametrize(
    ("scope", "is_in_scope"),
    [
        ({}, True),
        ({"facilities": ("CITY",)}, True),
        ({"facilities": ("SOUTH",)}, False),
        ({"facility_groups": ("metro",)}, True),
        ({"facility_groups": ("region",)}, False),
        ({"facilities": ("SOUTH",), "facility_groups": ("metro",)}, True),
    ],
)
def test_scope_is_the_named_facilities_and_groups_or_all(scope, is_in_scope):
    outcome = decide(make_study(), held(), make_destination(**scope))

    assert outcome.rule is (Rule.DUE if is_in_scope else Rule.OUT_OF_SCOPE)


def test_a_study_that_leaves_the_scope_closes_its_jobs_but_not_the_running_one():
    jobs = [make_job(n, status) for n, status in enumerate(OPEN_STATUSES)]

    outcome = decide(make_study(), held(jobs=jobs), make_destination(facilities=("SOUTH",)))

    closed = {JobStatus.WAITING, JobStatus.READY, JobStatus.FAILED}
    assert outcome.closes == tuple(j.job_id for j in jobs if j.status in closed)


def test_a_study_without_instances_has_nothing_to_send_and_closes_what_was_queued():
    removed = make_instance(1, removed_at=NOON)

    outcome = decide(make_study((removed,)), held(jobs=[make_job(7, JobStatus.WAITING)]))

    assert outcome == StorePlan(Rule.NO_INSTANCES, "the study has no instances", closes=(7,))


def test_a_removed_instance_is_not_sent():
    assert missing(make_study((1, make_instance(2, removed_at=NOON))), held()) == ["i1"]


def test_an_instance_whose_answer_was_lost_is_still_missing():
    assert missing(make_study((1, 2)), held(1, 2, unanswered=(2,))) == ["i2"]


def test_an_instance_that_is_shown_again_after_its_rejection_is_missing_under_a_new_uid():
    study, known = make_study((1, 2)), held(1, 2, rejected=(1,))

    assert missing(study, known) == ["i1"]
    assert desire(study, known).placement_of(study.present_instances[0]) is None


def test_content_that_changed_in_place_is_missing_under_a_new_uid():
    study, known = make_study((make_instance(1, content_version=2), 2)), held(1, 2)

    assert missing(study, known) == ["i1"]
    assert desire(study, known).placement_of(study.present_instances[0]) is None


@pytest.mark.parametrize(
    "changed",
    [
        {"study_instance_uid": "1.9"},
        {"patient": Patient("p2", "OTHER", None, "Roe^Ann")},
        {"instances": (make_instance(1, series_instance_uid="1.2.4"),)},
        {"instances": (make_instance(1, sop_instance_uid="1.2.3.77"),)},
        {"instances": (make_instance(1, sop_class_uid="1.2.840.10008.5.1.4.1.1.4"),)},
    ],
    ids=["study UID", "patient", "series", "SOP Instance UID", "SOP class"],
)
def test_an_instance_in_another_place_is_missing_there(changed):
    assert missing(replace(make_study((1,)), **changed), held(1)) == ["i1"]


def test_an_instance_that_comes_back_untouched_is_held_still():
    assert missing(make_study((1,)), held(1)) == []


def test_a_copy_waits_for_the_note_where_the_former_one_does_harm():
    harmful = make_instance(1, removed_at=NOON, removal_reason=RemovalReason.PATIENT_SAFETY)
    study = make_study((harmful, make_instance(2, replaces_instance_key="i1")))
    archive = make_destination(profile=ArchiveProfile.DCM4CHEE)

    assert missing(study, held(1), archive) == []
    claimed = HeldInstance(place_as_it_is(harmful, is_burnt=True), rejected_by=9)
    assert missing(study, Held(instances={1: claimed}), archive) == []
    assert missing(study, held(1, rejected=(1,)), archive) == ["i2"]


def test_what_an_archive_has_in_another_place_is_due_whatever_the_exam_says():
    study = make_study((make_instance(1, content_version=2),), exam_status="Pending")

    assert decide(study, held(1)).rule is Rule.DUE
    assert decide(study, held()).rule is Rule.NOT_REACHED


# -- gates -------------------------------------------------------------------------------------------------------------


def test_a_study_on_hold_gets_a_job_that_waits_until_it_is_released():
    outcome = decide(make_study(on_hold=True), held())
    _, work = outcome.new_job
    assert (work.not_before, work.wait_reason) == (FAR_FUTURE, WaitReason.HOLD)

    queued = make_job(1, JobStatus.WAITING, make_study(), wait_reason=WaitReason.HOLD, not_before=FAR_FUTURE)
    assert decide(make_study(on_hold=True), held(jobs=[queued])).changes_nothing

    job_id, work = decide(make_study(), held(jobs=[queued])).refresh
    assert (job_id, work.not_before, work.wait_reason) == (1, NOON, None)


def test_an_exam_that_is_reopened_pauses_its_queued_job_and_resumes_it():
    reopened = make_study(exam_status="Pending")
    queued = make_job(1, JobStatus.WAITING, reopened)

    job_id, work = decide(reopened, held(jobs=[queued])).refresh
    assert (job_id, work.wait_reason, work.not_before) == (1, WaitReason.EXAM_STATUS, FAR_FUTURE)

    paused = replace(queued, wait_reason=WaitReason.EXAM_STATUS, not_before=FAR_FUTURE)
    assert decide(reopened, held(jobs=[paused])).changes_nothing
    assert decide(make_study(), held(jobs=[paused])).refresh[1].wait_reason is None


@pytest.mark.parametrize("shown", [WaitReason.LANE, WaitReason.QUEUE, WaitReason.DESTINATION_DOWN, None])
def test_a_gated_job_that_was_put_back_for_another_reason_is_released_all_the_same(shown):
    queued = make_job(1, JobStatus.WAITING, make_study(), wait_reason=shown, not_before=FAR_FUTURE)

    job_id, work = decide(make_study(), held(jobs=[queued])).refresh

    assert (job_id, work.not_before) == (1, NOON)


def test_a_job_that_has_only_to_check_what_was_stored_is_released_from_hold_too():
    destination = make_destination(verification=Verification.C_FIND)
    queued = make_job(1, JobStatus.WAITING, make_study(), wait_reason=WaitReason.HOLD, not_before=FAR_FUTURE)

    outcome = decide(make_study(), held(1, 2, 3, verified=False, jobs=[queued]), destination)

    assert outcome.refresh is not None
    assert outcome.refresh[1].not_before == NOON


# -- settling ----------------------------------------------------------------------------------------------------------


def test_a_study_settles_before_it_is_sent():
    outcome = decide(make_study(), held(), make_destination(settle_s=30, settle_max_s=100))

    _, work = outcome.new_job
    assert (work.not_before, work.wait_reason) == (NOON + timedelta(seconds=30), WaitReason.SETTLING)


@pytest.mark.parametrize(("seconds_later", "starts_at_s"), [(10, 40), (69, 99), (71, 100), (90, 100), (500, 100)])
def test_arriving_images_move_the_start_but_not_beyond_the_longest_wait(seconds_later, starts_at_s):
    destination = make_destination(settle_s=30, settle_max_s=100)
    queued = make_job(1, JobStatus.WAITING, make_study((1,)), wait_reason=WaitReason.SETTLING)

    outcome = decide(make_study((1, 2)), held(jobs=[queued]), destination, NOON + timedelta(seconds=seconds_later))

    job_id, work = outcome.refresh
    assert (job_id, work.not_before) == (1, NOON + timedelta(seconds=starts_at_s))


def test_looking_again_at_an_unchanged_study_does_not_move_its_start():
    destination = make_destination(settle_s=30, settle_max_s=100)
    start = NOON + timedelta(seconds=30)
    queued = make_job(1, JobStatus.WAITING, make_study(), wait_reason=WaitReason.SETTLING, not_before=start)

    assert decide(make_study(), held(jobs=[queued]), destination, NOON + timedelta(seconds=20)).changes_nothing


def test_a_stat_study_does_not_settle_and_one_that_becomes_stat_stops_settling():
    destination = make_destination(settle_s=30, settle_max_s=100)
    stat = make_study(priority=Priority.STAT)
    _, work = decide(stat, held(), destination).new_job
    assert (work.not_before, work.priority) == (NOON, Priority.STAT)

    start = NOON + timedelta(seconds=30)
    queued = make_job(1, JobStatus.WAITING, stat, wait_reason=WaitReason.SETTLING, not_before=start)
    assert decide(stat, held(jobs=[queued]), destination).refresh[1].not_before == NOON


# -- earlier jobs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED])
def test_an_open_job_for_the_same_content_covers_it(status):
    outcome = decide(make_study(), held(1, jobs=[make_job(1, status, make_study())]))

    assert (outcome.rule, outcome.changes_nothing) == (Rule.COVERED, True)


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.RETRYING])
def test_content_that_changes_under_a_running_job_gets_a_follow_up(status):
    outcome = decide(make_study(), held(jobs=[make_job(1, status)]))

    assert outcome.new_job is not None
    assert outcome.supersedes == ()


def test_a_failed_job_is_superseded_when_the_study_changes():
    outcome = decide(make_study(), held(1, jobs=[make_job(1, JobStatus.FAILED)]))

    assert outcome.new_job is not None
    assert outcome.supersedes == (1,)


def test_a_follow_up_takes_over_from_the_job_that_failed_before_it():
    jobs = [make_job(1, JobStatus.FAILED), make_job(2, JobStatus.WAITING, make_study())]

    outcome = decide(make_study(), held(jobs=jobs))

    assert (outcome.new_job, outcome.refresh, outcome.supersedes) == (None, None, (1,))


def test_a_failed_job_is_closed_when_nothing_is_missing_any_more():
    outcome = decide(make_study((1,)), held(1, jobs=[make_job(4, JobStatus.FAILED)]))

    assert (outcome.rule, outcome.closes) == (Rule.UP_TO_DATE, (4,))


def test_what_an_administrator_cancelled_stays_cancelled_until_the_study_changes():
    cancelled = make_job(1, JobStatus.CANCELLED, make_study())

    outcome = decide(make_study(), held(jobs=[cancelled]))
    assert (outcome.rule, outcome.changes_nothing) == (Rule.CANCELLED, True)

    assert decide(make_study((1, 2, 3, 4)), held(jobs=[cancelled])).new_job is not None


def test_a_requested_study_ignores_trigger_scope_and_settling():
    destination = make_destination(facilities=("SOUTH",), settle_s=30, settle_max_s=100)
    study = make_study(exam_status="Pending")
    asked = make_job(1, JobStatus.WAITING, study, requested_by="somebody")

    assert decide(study, held(jobs=[asked]), destination).changes_nothing
    more = make_study((1, 2, 3, 4), exam_status="Pending")
    assert decide(more, held(jobs=[asked]), destination).refresh[1].not_before == NOON


def test_a_requested_study_on_hold_waits():
    asked = make_job(1, JobStatus.WAITING, make_study(), requested_by="somebody")

    assert decide(make_study(on_hold=True), held(jobs=[asked])).refresh[1].wait_reason is WaitReason.HOLD


def test_unverified_instances_are_those_stored_and_not_seen_where_checking_is_on():
    study, known = make_study((1, 2, 3)), held(1, 2, 3, verified=False, rejected=(2,), unanswered=(3,))
    said = desire(study, known)

    checked = unverified_instances(said, known, make_destination(verification=Verification.C_FIND))
    assert [h.placed.instance_key for h in checked] == ["i1"]
    assert unverified_instances(said, known, make_destination()) == ()


def test_a_failed_check_keeps_its_job_open():
    destination = make_destination(verification=Verification.C_FIND)
    failed = make_job(1, JobStatus.FAILED, make_study())

    assert decide(make_study(), held(1, 2, 3, verified=False, jobs=[failed]), destination).closes == ()


# -- laws --------------------------------------------------------------------------------------------------------------

destinations = st.builds(
    make_destination,
    trigger_status=st.sampled_from(ExamStatus),
    facilities=st.sampled_from([(), ("CITY",), ("SOUTH",)]),
    settle_s=st.sampled_from([0.0, 30.0]),
    settle_max_s=st.sampled_from([30.0, 600.0]),
    verification=st.sampled_from(Verification),
    profile=st.sampled_from(ArchiveProfile),
)


@st.composite
def studies(draw) -> Study:
    numbers = draw(st.lists(st.integers(1, 5), unique=True))
    instances = [
        make_instance(
            n, removed_at=draw(st.sampled_from([None, None, NOON])), content_version=draw(st.sampled_from([1, 1, 2]))
        )
        for n in numbers
    ]
    return make_study(
        instances,
        exam_status=draw(st.sampled_from([*ExamStatus, "Cancelled"])),
        on_hold=draw(st.booleans()),
        priority=draw(st.sampled_from(Priority)),
        facility=draw(st.sampled_from([CITY, SOUTH])),
    )


@st.composite
def known_states(draw) -> Held:
    """What a ledger may say: any instances held, any open jobs, at most one of them queued."""
    numbers = draw(st.lists(st.integers(1, 5), unique=True))
    instances = {}
    for n in numbers:
        is_rejected = draw(st.booleans())
        instances[n] = HeldInstance(
            place_as_it_is(make_instance(n), is_burnt=is_rejected),
            is_stored=is_rejected or draw(st.booleans()),
            is_verified=draw(st.booleans()),
            rejected_by=9 if is_rejected else None,
            is_hidden=is_rejected and draw(st.booleans()),
        )
    statuses = draw(st.lists(st.sampled_from([JobStatus.RUNNING, JobStatus.RETRYING, JobStatus.FAILED]), max_size=2))
    queued = draw(st.sampled_from([None, JobStatus.WAITING, JobStatus.READY]))
    if queued:
        statuses.insert(draw(st.integers(0, len(statuses))), queued)
    if draw(st.booleans()):
        statuses.append(JobStatus.CANCELLED)
    jobs = [
        make_job(
            number,
            status,
            draw(st.sampled_from([None, make_study((1, 2)), make_study((1, 2, 3))])),
            priority=draw(st.sampled_from(Priority)),
            wait_reason=draw(st.sampled_from([None, WaitReason.HOLD, WaitReason.EXAM_STATUS, WaitReason.QUEUE])),
            not_before=draw(st.sampled_from([NOON, FAR_FUTURE])),
            requested_by=draw(st.sampled_from([None, None, "somebody"])),
        )
        for number, status in enumerate(statuses, start=1)
    ]
    return Held(draw(st.sampled_from([None, NOON])), instances, tuple(jobs))


@given(studies(), known_states(), destinations)
def test_planning_twice_plans_nothing_new(study, known, destination):
    outcome = decide(study, known, destination)
    after = applied(known, outcome)

    again = decide(study, after, destination, NOON + timedelta(seconds=5))

    assert again.changes_nothing, again


@given(studies(), known_states(), destinations)
def test_nothing_held_or_rejected_is_ever_planned_to_be_sent(study, known, destination):
    outcome = decide(study, known, destination)
    said = desire(study, known)

    for _, work in filter(None, [outcome.new_job, outcome.refresh]):
        for instance in work.instances:
            placed = said.placement_of(instance)
            assert instance.removed_at is None
            assert placed is None or not (placed.is_burnt or known.instances[placed.placement_id].is_stored)


@given(studies(), known_states(), destinations)
def test_a_plan_names_only_changes_that_the_table_of_transitions_allows(study, known, destination):
    outcome = decide(study, known, destination)

    by_id = {job.job_id: job for job in known.jobs}
    assert not (outcome.new_job and outcome.refresh)
    assert not set(outcome.closes) & set(outcome.supersedes)
    for job_id in outcome.closes + outcome.supersedes:
        assert may_become(by_id[job_id].status, JobStatus.CANCELLED)
    assert all(by_id[job_id].status is JobStatus.FAILED for job_id in outcome.supersedes)
    if outcome.new_job:
        assert not any(j.status in (JobStatus.WAITING, JobStatus.READY) for j in known.jobs)


@given(studies(), known_states(), destinations)
def test_no_plan_lets_a_study_start_that_must_not_be_sent(study, known, destination):
    outcome = decide(study, known, destination)

    # While its first push runs, what came meanwhile counts as late images, which the exam's status does not stop.
    is_under_way = any(job.status is JobStatus.RUNNING for job in known.jobs)
    seen = replace(known, archived_at=NOON) if is_under_way else known
    for _, work in filter(None, [outcome.new_job, outcome.refresh]):
        is_gated = gate(desire(study, seen), seen, destination) is not None
        assert (work.not_before == FAR_FUTURE) is is_gated
        assert study.on_hold <= is_gated


@given(st.permutations(range(5)), studies(), known_states(), destinations)
def test_the_order_in_which_the_platform_lists_instances_changes_nothing(order, study, known, destination):
    instances = list(study.instances)
    shuffled = replace(study, instances=tuple(instances[i] for i in order if i < len(instances)))

    assert decide(shuffled, known, destination) == decide(study, known, destination)


def applied(known: Held, outcome: StorePlan) -> Held:
    """What the ledger says once a plan is written to it."""
    gone = set(outcome.closes) | set(outcome.supersedes)
    jobs = [job for job in known.jobs if job.job_id not in gone]
    if outcome.refresh:
        job_id, work = outcome.refresh
        jobs = [refreshed(job, work) if job.job_id == job_id else job for job in jobs]
    if outcome.supersedes and not outcome.new_job:
        # The queued job takes over the request too.
        asked = next((j.requested_by for j in known.jobs if j.job_id in outcome.supersedes and j.is_requested), None)
        jobs = [
            replace(j, requested_by=j.requested_by or asked) if j.status in (JobStatus.WAITING, JobStatus.READY) else j
            for j in jobs
        ]
    if outcome.new_job:
        job_type, work = outcome.new_job
        requested_by = next((j.requested_by for j in known.jobs if j.is_requested), None)
        made = make_job(1 + max((j.job_id for j in known.jobs), default=0), JobStatus.WAITING)
        made = replace(refreshed(made, work), job_type=job_type, requested_by=requested_by)
        jobs = [*(job for job in jobs if job.status is not JobStatus.CANCELLED), made]
    return replace(known, jobs=tuple(jobs))


def refreshed(job: KnownJob, work) -> KnownJob:
    return replace(
        job,
        content_digest=work.content_digest,
        priority=work.priority,
        not_before=work.not_before,
        wait_reason=work.wait_reason,
    )


# -- the whole loop ----------------------------------------------------------------------------------------------------


@dataclass
class Attempt:
    """A running attempt: what it saw of the platform when it began."""

    study: Study
    gate: WaitReason | None
    missing: list[Placed] = field(default_factory=list)


class Loop(RuleBasedStateMachine):
    """One study at one destination: the platform changes, plans are made, jobs run, fail, crash and are retried.

    The small ledger in here writes what the real one does. A study is planned only when something said "look here": the
    end state must not depend on how often, or when.
    """

    @initialize(destination=destinations, exam_status=st.sampled_from([ExamStatus.PENDING, ExamStatus.COMPLETED]))
    def begin(self, destination: Destination, exam_status: str) -> None:
        self.destination = destination
        self.now = NOON
        self.study = make_study((1, 2), exam_status=exam_status)
        self.instances: dict[int, HeldInstance] = {}
        self.placements: dict[str, list[Placed]] = {}
        self.archived_at: datetime | None = None
        self.jobs: list[KnownJob] = []
        self.attempts: dict[int, Attempt] = {}
        self.look_here = True
        self.next_number = 3
        self.rejected: set[str] = set()

    # the platform

    def change(self, **values) -> None:
        self.study = replace(self.study, **values)
        self.look_here = True

    @rule(count=st.integers(1, 3))
    def images_arrive(self, count: int) -> None:
        new = [make_instance(self.next_number + n) for n in range(count)]
        self.next_number += count
        self.change(instances=(*self.study.instances, *new))

    @rule(data=st.data())
    @precondition(lambda self: self.study.present_instances)
    def an_image_is_removed_or_comes_back(self, data) -> None:
        chosen = data.draw(st.sampled_from(self.study.instances))
        other = replace(chosen, removed_at=None if chosen.removed_at else self.now)
        self.change(instances=tuple(other if i is chosen else i for i in self.study.instances))

    @rule(exam_status=st.sampled_from([*ExamStatus, "Cancelled"]))
    def the_exam_moves(self, exam_status: str) -> None:
        self.change(exam_status=exam_status)

    @rule(on_hold=st.booleans())
    def the_study_is_held_or_released(self, on_hold: bool) -> None:
        self.change(on_hold=on_hold)

    @rule(priority=st.sampled_from(Priority))
    def the_priority_changes(self, priority: Priority) -> None:
        self.change(priority=priority)

    # planning

    def known(self) -> Held:
        latest = max((j.job_id for j in self.jobs), default=0)
        jobs = [
            j for j in self.jobs if not j.status.is_done or (j.status is JobStatus.CANCELLED and j.job_id == latest)
        ]
        return Held(self.archived_at, self.instances, tuple(jobs))

    def desired(self, study: Study | None = None) -> Desired:
        burnt = {n for n, h in self.instances.items() if h.rejected_by is not None}
        latest = {
            key: replace(found[-1], is_burnt=found[-1].placement_id in burnt) for key, found in self.placements.items()
        }
        return Desired(study or self.study, latest=latest)

    def place(self, study: Study, instances: list[Instance]) -> list[Placed]:
        """Give instances their placements and write down that they are offered, as an attempt does before it sends."""
        desired = self.desired(study)
        everything = [p for found in self.placements.values() for p in found]
        bound = Bound(
            patient_of_study={p.uids.study_instance_uid: p.patient_key for p in everything},
            study_of_series={p.uids.series_instance_uid: p.uids.study_instance_uid for p in everything},
            used_sop_uids=frozenset(p.uids.sop_instance_uid for p in everything),
        )
        unplaced = [i for i in instances if desired.placement_of(i) is None]
        for new in place(study, unplaced, desired.latest, bound, {}):
            number = 1 + sum(len(found) for found in self.placements.values())
            placed = place_as_it_is(
                new.instance, study, placement_id=number, placement_no=new.placement_no, uids=new.uids
            )
            self.placements.setdefault(placed.instance_key, []).append(placed)
        current = [self.placements[i.instance_key][-1] for i in instances]
        for placed in current:
            self.instances.setdefault(placed.placement_id, HeldInstance(placed, is_stored=False))
        return current

    @rule()
    def planner_looks(self) -> None:
        """Also where nobody said "look here": a repeated event."""
        self.look_here = False
        outcome = self.outcome()
        gone = set(outcome.closes) | set(outcome.supersedes)
        requested_by = next((j.requested_by for j in self.known().jobs if j.is_requested), None)
        if outcome.rule is Rule.UP_TO_DATE and not self.attempts and not self.unverified():
            self.archived_at = self.now
        # Our own cancellations are not an administrator's: the planner does not see them again.
        self.jobs = [j if j.job_id not in gone else replace(j, status=JobStatus.SUPPRESSED) for j in self.jobs]
        if outcome.refresh:
            job_id, work = outcome.refresh
            self.update(job_id, lambda job: refreshed(job, work))
        if outcome.supersedes and not outcome.new_job:
            asked = next((self.job(n).requested_by for n in outcome.supersedes if self.job(n).is_requested), None)
            for queued in self.in_status(JobStatus.WAITING, JobStatus.READY):
                self.update(queued.job_id, lambda job: replace(job, requested_by=job.requested_by or asked))
        if outcome.new_job:
            job_type, work = outcome.new_job
            job = make_job(len(self.jobs) + 1, JobStatus.WAITING, created_at=self.now, requested_by=requested_by)
            self.jobs.append(replace(refreshed(job, work), job_type=job_type))

    def outcome(self) -> StorePlan:
        return plan_store(self.desired(), self.known(), self.destination, observed_at=self.now)

    def unverified(self) -> tuple[HeldInstance, ...]:
        return unverified_instances(self.desired(), self.known(), self.destination)

    def update(self, job_id: int, change) -> None:
        self.jobs = [change(j) if j.job_id == job_id else j for j in self.jobs]

    def move(self, job_id: int, status: JobStatus, **values) -> None:
        def change(job: KnownJob) -> KnownJob:
            assert may_become(job.status, status), (job.status, status)
            return replace(job, status=status, **values)

        if status is JobStatus.WAITING:
            mover = self.job(job_id)
            for later in self.jobs:
                if later.job_id != job_id and later.status in (JobStatus.WAITING, JobStatus.READY):
                    self.update(later.job_id, lambda job: replace(job, status=JobStatus.SUPPRESSED))
                    values["priority"] = min(mover.priority, later.priority)
                    values["requested_by"] = mover.requested_by or later.requested_by
        self.update(job_id, change)

    def job(self, job_id: int) -> KnownJob:
        return next(j for j in self.jobs if j.job_id == job_id)

    def is_blocked(self, job: KnownJob) -> bool:
        return any(e.job_id < job.job_id and not e.status.is_done for e in self.jobs)

    def in_status(self, *statuses: JobStatus) -> list[KnownJob]:
        return [j for j in self.jobs if j.status in statuses]

    # running

    def due(self) -> list[KnownJob]:
        return [j for j in self.in_status(JobStatus.WAITING) if j.not_before <= self.now and not self.is_blocked(j)]

    @rule(seconds=st.sampled_from([1, 20, 700]), starts=st.booleans())
    def the_dispatcher_runs(self, seconds: int, starts: bool) -> None:
        self.now += timedelta(seconds=seconds)
        if self.look_here:
            self.planner_looks()
        for job in self.due():
            self.move(job.job_id, JobStatus.READY, wait_reason=None)
        for job in self.startable() if starts else ():
            self.start(job)

    @rule()
    @precondition(lambda self: self.in_status(JobStatus.READY))
    def a_run_is_lost_on_the_way(self) -> None:
        for job in self.in_status(JobStatus.READY):
            self.move(job.job_id, JobStatus.WAITING, wait_reason=WaitReason.QUEUE)

    @rule()
    @precondition(lambda self: self.in_status(JobStatus.READY))
    def the_study_is_held_while_its_run_is_on_the_way(self) -> None:
        self.change(on_hold=True)
        self.planner_looks()

    def startable(self) -> list[KnownJob]:
        return [j for j in self.in_status(JobStatus.READY, JobStatus.RETRYING) if not self.is_blocked(j)]

    @rule(data=st.data())
    @precondition(lambda self: self.startable())
    def a_run_begins(self, data) -> None:
        self.start(data.draw(st.sampled_from(self.startable())))

    def start(self, job: KnownJob) -> None:
        self.move(job.job_id, JobStatus.RUNNING, wait_reason=None)
        known, desired = self.known(), self.desired()
        reason = gate(desired, known, self.destination) if self.study.present_instances else None
        attempt = Attempt(self.study, reason)
        if reason is None:
            attempt.missing = self.place(self.study, list(missing_instances(desired, known, self.destination)))
            self.update(job.job_id, lambda j: replace(j, content_digest=attempt.study.content_digest()))
        self.attempts[job.job_id] = attempt

    def store(self, placed: list[Placed]) -> None:
        for one in placed:
            assert one.uids.sop_instance_uid not in self.rejected, "a rejected UID was sent again"
            self.instances[one.placement_id] = HeldInstance(one)

    def end(self, job_id: int, stored: int | None, failure: JobStatus | None) -> None:
        """End an attempt after ``stored`` instances (None: all) with ``failure``, or well."""
        attempt = self.attempts.pop(job_id)
        if not attempt.study.present_instances:
            self.look_here = True
            self.update(job_id, lambda job: replace(job, status=JobStatus.SUPPRESSED))
            return
        if attempt.gate is not None:
            self.look_here = True
            self.move(job_id, JobStatus.WAITING, wait_reason=attempt.gate, not_before=FAR_FUTURE)
            return
        self.store(attempt.missing if stored is None else attempt.missing[:stored])
        if failure is not None:
            self.look_here = self.look_here or failure is JobStatus.FAILED
            self.move(job_id, failure)
            return
        for unseen in unverified_instances(self.desired(attempt.study), self.known(), self.destination):
            self.instances[unseen.placed.placement_id] = replace(unseen, is_verified=True)
        self.archived_at = self.now
        self.move(job_id, JobStatus.SUCCEEDED)

    @rule(data=st.data(), stored=st.integers(0, 3), failure=st.sampled_from([JobStatus.RETRYING, JobStatus.FAILED]))
    @precondition(lambda self: self.attempts)
    def an_attempt_crashes_or_fails(self, data, stored: int, failure: JobStatus) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.attempts))), stored, failure)

    @rule(data=st.data())
    @precondition(lambda self: self.attempts)
    def an_attempt_succeeds(self, data) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.attempts))), None, None)

    @rule(data=st.data())
    @precondition(lambda self: self.instances)
    def the_archive_turns_out_not_to_list_an_instance(self, data) -> None:
        """A check in a job's attempt found it missing: the ledger forgets it, the job is tried again."""
        running = [n for n, a in self.attempts.items() if a.gate is None and a.study.present_instances]
        if not running:
            return
        lost = data.draw(st.sampled_from(sorted(self.instances)))
        desired = self.desired(self.attempts[running[0]].study)
        if self.instances[lost].placed in [desired.placement_of(i) for i in desired.instances]:
            del self.instances[lost]
            self.end(running[0], 0, JobStatus.RETRYING)

    # people

    @rule(data=st.data())
    @precondition(lambda self: any(h.is_stored for h in self.instances.values()) and not self.attempts)
    def an_instance_is_rejected(self, data) -> None:
        """By a note, which runs alone in its lane."""
        chosen = data.draw(st.sampled_from(sorted(n for n, h in self.instances.items() if h.is_stored)))
        self.instances[chosen] = replace(self.instances[chosen], rejected_by=9, is_hidden=True)
        self.rejected.add(self.instances[chosen].placed.uids.sop_instance_uid)
        self.look_here = True

    @rule(data=st.data())
    @precondition(lambda self: any(not j.status.is_done and j.job_id not in self.attempts for j in self.jobs))
    def an_administrator_cancels(self, data) -> None:
        chosen = [j for j in self.jobs if not j.status.is_done and j.job_id not in self.attempts]
        self.move(data.draw(st.sampled_from(chosen)).job_id, JobStatus.CANCELLED)

    @rule(data=st.data())
    @precondition(lambda self: self.in_status(JobStatus.FAILED))
    def an_administrator_retries(self, data) -> None:
        job = data.draw(st.sampled_from(self.in_status(JobStatus.FAILED)))
        self.move(job.job_id, JobStatus.WAITING, wait_reason=WaitReason.QUEUE, not_before=self.now)

    @rule()
    def somebody_asks_for_the_study(self) -> None:
        for job in self.in_status(JobStatus.WAITING, JobStatus.READY):
            self.update(job.job_id, lambda j: replace(j, requested_by="somebody", not_before=self.now))
            self.look_here = True

    # laws

    @invariant()
    def at_most_one_job_is_queued(self) -> None:
        if hasattr(self, "jobs"):
            assert len(self.in_status(JobStatus.WAITING, JobStatus.READY)) <= 1

    @invariant()
    def planning_twice_plans_nothing_new(self) -> None:
        if hasattr(self, "jobs"):
            after = applied(self.known(), self.outcome())
            assert plan_store(self.desired(), after, self.destination, observed_at=self.now).changes_nothing

    def teardown(self) -> None:
        """Once faults stop and the queue drains, the archive holds what the platform shows."""
        if not hasattr(self, "jobs"):
            return
        if self.study.on_hold:
            self.change(on_hold=False)
        for _ in range(30):
            if self.look_here:
                self.planner_looks()
            for job in self.in_status(JobStatus.FAILED):
                if not self.is_blocked(job):
                    self.move(job.job_id, JobStatus.WAITING, wait_reason=WaitReason.QUEUE, not_before=self.now)
            self.now += timedelta(seconds=700)
            for job in self.due():
                self.move(job.job_id, JobStatus.READY)
            for job in self.startable():
                self.start(job)
            for job_id in list(self.attempts):
                self.end(job_id, None, None)
        known, desired, outcome = self.known(), self.desired(), self.outcome()
        assert outcome.changes_nothing, outcome
        is_cancelled = outcome.rule is Rule.CANCELLED
        is_wanted = self.destination.covers(self.study.facility) and not is_cancelled
        if is_wanted and gate(desired, known, self.destination) is None:
            assert missing_instances(desired, known, self.destination) == (), outcome
            assert not self.in_status(*OPEN_STATUSES), outcome


TestLoop = Loop.TestCase
TestLoop.settings = settings(
    max_examples=300, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.mark.parametrize("seed", range(5))
def test_dropping_repeating_and_reordering_looks_ends_in_the_same_state(seed):
    """The same platform history, looked at at different moments, ends with the same instances held."""
    dice = random.Random(seed)
    history = [
        make_study(range(1, n + 1), exam_status=s) for n, s in [(1, "Pending"), (2, "Inflight"), (4, "Completed")]
    ]
    ends = []
    for _ in range(10):
        known = held()
        for study in history:
            for _ in range(dice.randrange(3)):
                known = applied(known, decide(study, known))
        known = applied(known, decide(history[-1], known))
        (job,) = known.jobs
        ends.append((job.content_digest, job.not_before, missing(history[-1], known)))
    assert all(end == ends[0] for end in ends)
