"""Withdrawals: what is left over at an archive after each kind of change, under which title it goes, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from archsync.core.comparison import Desired, Held, HeldInstance, Related
from archsync.core.destination import Destination, Verification
from archsync.core.destination_iocm import NoteOrder, WithoutIocm
from archsync.core.job import FAR_FUTURE, JobStatus, JobType, KnownJob, WaitReason
from archsync.core.placing import Decision, Placed
from archsync.core.planning import missing_instances
from archsync.core.profiles import ArchiveProfile
from archsync.core.rejection import RejectionTitle
from archsync.core.study import Facility, Instance, Patient, Priority, RemovalReason, Study
from archsync.core.uid_map import InstanceUids
from archsync.core.withdrawal import WithdrawalPlan, find_leftovers, former_copies, plan_withdrawal

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
LATER = NOON + timedelta(hours=1)
CITY = Facility("CITY", "City Hospital", "metro")
SOUTH = Facility("SOUTH", "South Clinic", "region")
JANE, ANN = Patient("p1", "MRN1", None, "Doe^Jane"), Patient("p2", "MRN2", None, "Roe^Ann")


def make_destination(**values) -> Destination:
    facts = {"profile": ArchiveProfile.DCM4CHEE, "settle_s": 0.0}
    return Destination(name="vna", called_ae_title="VNA", host="vna.example", port=104, **{**facts, **values})


VNA = make_destination()


def make_instance(number: int, study_key: str = "s1", **values) -> Instance:
    facts = {
        "instance_key": f"i{number}",
        "study_key": study_key,
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


def removed(number: int, reason: RemovalReason | None = None, **values) -> Instance:
    return make_instance(number, removed_at=LATER, removal_reason=reason, **values)


def make_study(*instances: Instance, key: str = "s1", uid: str = "1.2", patient: Patient = JANE, **values) -> Study:
    facts = {"facility": CITY, "exam_status": "Completed"}
    return Study(key, uid, patient, instances=instances, **{**facts, **values})


def place(number: int, placement_id: int | None = None, study: Study | None = None, **values) -> Placed:
    """A placement of instance ``number``, by default its first in study s1 of Jane, with number ``number``."""
    study = study or make_study()
    instance = make_instance(number)
    facts = {
        "placement_id": placement_id or number,
        "placement_no": 1,
        "instance_key": instance.instance_key,
        "content_version": 1,
        "study_key": study.study_key,
        "patient_key": study.patient.patient_key,
        "uids": InstanceUids(study.study_instance_uid, "1.2.3", instance.sop_instance_uid),
        "source_series_instance_uid": "1.2.3",
        "source_sop_instance_uid": instance.sop_instance_uid,
        "sop_class_uid": instance.sop_class_uid,
        "placed_at": NOON,
    }
    return Placed(**{**facts, **values})


def replacement(number: int, study: Study | None = None, **values) -> Placed:
    """The second placement of instance ``number``: with a UID of ours, and a number of its own."""
    uids = InstanceUids((study or make_study()).study_instance_uid, "2.25.3", f"2.25.{number}")
    return place(number, placement_id=100 + number, study=study, placement_no=2, uids=uids, **values)


def hold(*placed: Placed | HeldInstance, jobs=(), archived_at=NOON) -> Held:
    found = (p if isinstance(p, HeldInstance) else HeldInstance(p) for p in placed)
    return Held(archived_at=archived_at, instances={h.placed.placement_id: h for h in found}, jobs=tuple(jobs))


def desire(study: Study, held: Held, *placed: Placed, related=(), replacements=None) -> Desired:
    """What the platform says; placements are those held and ``placed``, the last of an instance counts."""
    known = sorted((*(h.placed for h in held.instances.values()), *placed), key=lambda p: p.placement_no)
    return Desired(
        study,
        latest={p.instance_key: p for p in known},
        related={i.instance_key: Related(s, i) for s, i in related},
        replacements=replacements or {},
    )


def decide(desired: Desired, held: Held, destination: Destination = VNA, at: datetime = NOON) -> WithdrawalPlan:
    return plan_withdrawal(desired, held, destination, observed_at=at)


def kos(job_id: int, status: JobStatus, digest: str = "of something else", **values) -> KnownJob:
    facts = {"wait_reason": None, "not_before": NOON, "created_at": NOON}
    return KnownJob(job_id, JobType.KOS, status, digest, Priority.ROUTINE, **{**facts, **values})


# -- what is left over -------------------------------------------------------------------------------------------------


def test_nothing_is_left_over_while_the_archive_holds_what_is_shown():
    held = hold(place(1), place(2))

    outcome = decide(desire(make_study(make_instance(1), make_instance(2)), held), held)

    assert (outcome.leftovers, outcome.new_job, outcome.why) == ((), None, "nothing is to be withdrawn")


@pytest.mark.parametrize(
    ("reason", "title"),
    [
        (RemovalReason.QUALITY, RejectionTitle.QUALITY),
        (RemovalReason.PATIENT_SAFETY, RejectionTitle.PATIENT_SAFETY),
        (RemovalReason.WRONG_WORKLIST_ENTRY, RejectionTitle.WRONG_WORKLIST_ENTRY),
        (RemovalReason.RETENTION_EXPIRED, None),
        (RemovalReason.UNSPECIFIED, RejectionTitle.PATIENT_SAFETY),
        (None, RejectionTitle.PATIENT_SAFETY),
    ],
)
def test_a_removed_instance_goes_under_the_title_of_its_reason(reason, title):
    held = hold(place(1), place(2))

    (leftover,) = find_leftovers(desire(make_study(make_instance(1), removed(2, reason)), held), held, VNA)

    assert (leftover.held.placed.placement_id, leftover.title) == (2, title)
    assert leftover.may_go is (title is not None)


def test_an_instance_whose_row_is_gone_counts_as_removed_without_a_reason():
    held = hold(place(1))

    (leftover,) = find_leftovers(desire(make_study(), held), held, VNA)

    assert (leftover.reason, leftover.title) == (RemovalReason.UNSPECIFIED, RejectionTitle.PATIENT_SAFETY)


def test_all_of_a_vanished_study_is_left_over():
    held = hold(place(1), place(2), place(3))
    ghost = make_study(patient=Patient("p1", "", None, ""), facility=Facility("", "", ""), exam_status="")

    outcome = decide(desire(ghost, held), held)

    assert outcome.new_job.instances == 3
    assert outcome.new_job.not_before == NOON


def test_a_removed_series_leaves_only_its_instances_over():
    held = hold(place(1), place(2), place(3))
    study = make_study(
        make_instance(1), removed(2, series_instance_uid="1.2.4"), removed(3, series_instance_uid="1.2.4")
    )

    assert [x.held.placed.instance_key for x in find_leftovers(desire(study, held), held, VNA)] == ["i2", "i3"]


def test_an_instance_moved_to_another_study_waits_for_its_copy_there():
    held = hold(place(1), place(2))
    target = make_study(make_instance(2, "s2"), key="s2", uid="1.9")
    desired = desire(make_study(make_instance(1)), held, related=[(target, target.instances[0])])

    (leftover,) = find_leftovers(desired, held, VNA)

    assert leftover.reason is RemovalReason.WRONG_WORKLIST_ENTRY
    assert [r.study.study_key for r in leftover.missing] == ["s2"]
    assert not leftover.may_go
    assert decide(desired, held).new_job.waits_for == {"s2"}


def test_a_moved_instance_may_go_once_its_copy_is_stored():
    target = make_study(make_instance(2, "s2"), key="s2", uid="1.9")
    held = hold(place(1), place(2), replacement(2, target))
    desired = desire(make_study(make_instance(1)), held, related=[(target, target.instances[0])])

    (leftover,) = find_leftovers(desired, held, VNA)

    assert leftover.may_go
    assert leftover.successors
    assert not leftover.missing


@pytest.mark.parametrize(("is_verified", "may_go"), [(False, False), (True, True)])
def test_where_the_archive_is_asked_a_copy_counts_once_it_is_listed(is_verified, may_go):
    target = make_study(make_instance(2, "s2"), key="s2", uid="1.9")
    held = hold(place(2), HeldInstance(replacement(2, target), is_verified=is_verified))
    desired = desire(make_study(), held, related=[(target, target.instances[0])])

    (leftover,) = find_leftovers(desired, held, make_destination(verification=Verification.C_FIND))

    assert leftover.may_go is may_go


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_copy_whose_answer_was_lost_does_not_count(is_stored):
    target = make_study(make_instance(2, "s2"), key="s2", uid="1.9")
    held = hold(place(2), HeldInstance(replacement(2, target), is_stored=is_stored))
    desired = desire(make_study(), held, related=[(target, target.instances[0])])

    assert find_leftovers(desired, held, VNA)[0].may_go is is_stored


def test_an_instance_whose_answer_was_lost_is_left_over_too_once_it_is_removed():
    held = hold(HeldInstance(place(1), is_stored=False))

    assert len(find_leftovers(desire(make_study(removed(1)), held), held, VNA)) == 1


def test_content_changed_in_place_leaves_its_former_version_over():
    study = make_study(make_instance(1, content_version=2))
    held = hold(place(1))

    before = decide(desire(study, held), held)
    assert (before.new_job.waits_for, before.leftovers[0].title) == ({"s1"}, RejectionTitle.WRONG_WORKLIST_ENTRY)

    held = hold(place(1), replacement(1, content_version=2))
    assert decide(desire(study, held), held).leftovers[0].may_go


def test_a_study_moved_to_another_patient_leaves_all_its_instances_over():
    study = make_study(make_instance(1), make_instance(2), patient=ANN)
    held = hold(place(1), place(2))

    work = decide(desire(study, held), held).new_job

    assert (work.instances, work.waits_for, work.prior_patient_key) == (2, {"s1"}, "p1")


def test_patients_that_were_merged_leave_nothing_over():
    study = make_study(make_instance(1), patient=ANN)
    held = hold(place(1))
    desired = replace(desire(study, held), survivors={"p1": "p2"})

    assert find_leftovers(desired, held, VNA) == ()


def test_what_the_platform_replaced_itself_waits_for_the_new_row():
    study = make_study(removed(1, RemovalReason.QUALITY), make_instance(2, replaces_instance_key="i1"))
    held = hold(place(1))

    (leftover,) = find_leftovers(desire(study, held, replacements={"i1": ("i2",)}), held, VNA)
    assert (leftover.title, leftover.may_go) == (RejectionTitle.QUALITY, False)

    held = hold(place(1), place(2))
    (leftover,) = find_leftovers(desire(study, held, replacements={"i1": ("i2",)}), held, VNA)
    assert leftover.may_go


def test_a_replacement_of_a_replacement_is_what_is_waited_for():
    study = make_study(removed(1), removed(2, replaces_instance_key="i1"), make_instance(3, replaces_instance_key="i2"))
    held = hold(place(1))
    chain = {"i1": ("i2",), "i2": ("i3",)}

    (leftover,) = find_leftovers(desire(study, held, replacements=chain), held, VNA)

    assert [r.instance.instance_key for r in leftover.missing] == ["i3"]


def test_a_circle_of_replacements_ends():
    study = make_study(removed(1, replaces_instance_key="i2"), removed(2, replaces_instance_key="i1"))
    held = hold(place(1))

    (leftover,) = find_leftovers(desire(study, held, replacements={"i1": ("i2",), "i2": ("i1",)}), held, VNA)

    assert leftover.successors == ()


def test_an_instance_withdrawn_with_what_it_points_at_is_left_over_without_a_successor():
    held = hold(place(1, decision=Decision.WITHDRAW))

    (leftover,) = find_leftovers(desire(make_study(make_instance(1)), held), held, VNA)

    assert (leftover.successors, leftover.may_go) == ((), True)


def test_what_a_note_names_already_is_not_left_over_again():
    held = hold(HeldInstance(place(1, is_burnt=True), rejected_by=5), jobs=[kos(7, JobStatus.RUNNING)])

    outcome = decide(desire(make_study(removed(1)), held), held)

    assert (outcome.leftovers, outcome.changes_nothing) == ((), True)


def test_a_note_that_was_built_and_has_no_job_gets_one_that_delivers_it():
    held = hold(HeldInstance(place(1, is_burnt=True), rejected_by=5))

    work = decide(desire(make_study(removed(1)), held), held).new_job

    assert (work.instances, work.waits_for) == (1, frozenset())


def test_a_failed_note_job_covers_what_it_failed_for_whether_its_note_was_built_or_not():
    left_over = hold(place(1))
    digest = decide(desire(make_study(removed(1)), left_over), left_over).new_job.content_digest
    built = hold(HeldInstance(place(1, is_burnt=True), rejected_by=5), jobs=[kos(7, JobStatus.FAILED, digest)])

    assert decide(desire(make_study(removed(1)), built), built).changes_nothing


def test_a_note_that_was_taken_closes_its_job():
    taken = hold(HeldInstance(place(1, is_burnt=True), rejected_by=5, is_hidden=True), jobs=[kos(7, JobStatus.FAILED)])

    assert decide(desire(make_study(removed(1)), taken), taken).closes == (7,)


def test_a_copy_that_this_destination_does_not_get_is_not_waited_for():
    elsewhere = make_study(make_instance(2, "s2"), key="s2", uid="1.9", facility=SOUTH)
    held = hold(place(2))
    desired = desire(make_study(), held, related=[(elsewhere, elsewhere.instances[0])])

    (leftover,) = find_leftovers(desired, held, make_destination(facilities=("CITY",)))

    assert leftover.may_go
    assert leftover.title is RejectionTitle.WRONG_WORKLIST_ENTRY


def test_each_study_is_answerable_for_what_lies_under_it_alone():
    target = make_study(make_instance(2, "s2"), key="s2", uid="1.9")
    held = hold(place(2), replacement(2, target))

    assert find_leftovers(desire(target, held), held, VNA) == ()


def test_two_studies_that_swap_an_instance_wait_for_each_other_s_copy_only():
    here = make_study(make_instance(2))
    there = make_study(make_instance(1, "s2"), key="s2", uid="1.9")
    in_there = place(2, study=there)
    held = hold(place(1), in_there)
    left_here = desire(here, held, related=[(there, there.instances[0])])
    left_there = desire(there, held, related=[(here, here.instances[0])])

    assert decide(left_here, held).new_job.waits_for == {"s2"}
    assert decide(left_there, held).new_job.waits_for == {"s1"}


def test_former_copies_are_those_of_the_row_and_of_the_one_it_replaces():
    target = make_study(make_instance(2, "s2", replaces_instance_key="i1"), key="s2", uid="1.9")
    held = hold(place(1), place(2), replacement(2, target))
    desired = desire(target, held)

    copies = former_copies(target.instances[0], desired, held)

    assert {c.placed.placement_id for c in copies} == {1, 2}


def test_former_copies_are_those_of_every_row_in_a_chain_of_replacements():
    target = make_study(make_instance(3, "s2", replaces_instance_key="i2"), key="s2", uid="1.9")
    between = removed(2, replaces_instance_key="i1")
    held = hold(place(1))

    copies = former_copies(target.instances[0], desire(target, held, related=[(make_study(between), between)]), held)

    assert [c.placed.instance_key for c in copies] == ["i1"]


# -- the note first ----------------------------------------------------------------------------------------------------

MOVED_TO_ANN = make_study(make_instance(1), patient=ANN)


@pytest.mark.parametrize(
    ("order", "is_first"),
    [(NoteOrder.REPLACEMENTS_FIRST, False), (NoteOrder.SAFETY_FIRST, False), (NoteOrder.WRONG_PATIENT_FIRST, True)],
)
def test_images_of_the_wrong_patient_are_hidden_first_where_the_setting_says_so(order, is_first):
    destination, held = make_destination(note_order=order), hold(place(1))
    desired = desire(MOVED_TO_ANN, held)

    assert find_leftovers(desired, held, destination)[0].note_first is is_first
    assert (missing_instances(desired, held, destination) == ()) is is_first


@pytest.mark.parametrize(
    ("order", "is_first"),
    [(NoteOrder.REPLACEMENTS_FIRST, False), (NoteOrder.SAFETY_FIRST, True), (NoteOrder.WRONG_PATIENT_FIRST, True)],
)
def test_what_does_harm_is_hidden_before_its_replacement_comes(order, is_first):
    study = make_study(removed(1, RemovalReason.PATIENT_SAFETY), make_instance(2, replaces_instance_key="i1"))
    destination, held = make_destination(note_order=order), hold(place(1))
    desired = desire(study, held, replacements={"i1": ("i2",)})

    outcome = decide(desired, held, destination)

    assert outcome.new_job.waits_for == (frozenset() if is_first else {"s1"})
    assert (missing_instances(desired, held, destination) == ()) is is_first


def test_no_copy_waits_for_a_note_that_never_goes():
    held = hold(place(1))
    for destination in (
        make_destination(note_order=NoteOrder.WRONG_PATIENT_FIRST, supports_iocm=False),
        make_destination(note_order=NoteOrder.WRONG_PATIENT_FIRST, rejection_titles=("wrong_worklist_entry=none",)),
    ):
        assert missing_instances(desire(MOVED_TO_ANN, held), held, destination) != ()


def test_a_note_that_goes_first_is_not_kept_back_by_what_goes_later():
    study = make_study(removed(1, RemovalReason.PATIENT_SAFETY), make_instance(2, content_version=2))
    held = hold(place(1), place(2))

    assert decide(desire(study, held), held, make_destination(settle_s=30)).new_job.waits_for == frozenset()


# -- when --------------------------------------------------------------------------------------------------------------


def test_a_removal_settles_before_its_note_goes():
    held = hold(place(1))

    work = decide(
        desire(make_study(removed(1, RemovalReason.QUALITY)), held), held, make_destination(settle_s=30)
    ).new_job

    assert (work.not_before, work.wait_reason) == (NOON + timedelta(seconds=30), WaitReason.SETTLING)


@pytest.mark.parametrize(
    ("reason", "priority"),
    [(RemovalReason.PATIENT_SAFETY, Priority.ROUTINE), (RemovalReason.QUALITY, Priority.STAT)],
)
def test_what_is_urgent_does_not_settle(reason, priority):
    held = hold(place(1))

    work = decide(
        desire(make_study(removed(1, reason), priority=priority), held), held, make_destination(settle_s=30)
    ).new_job

    assert (work.not_before, work.wait_reason) == (NOON, None)


def test_a_study_on_hold_gets_no_note_until_it_is_released():
    held = hold(place(1))
    on_hold = make_study(removed(1), on_hold=True)
    work = decide(desire(on_hold, held), held).new_job
    assert (work.not_before, work.wait_reason) == (FAR_FUTURE, WaitReason.HOLD)

    queued = kos(7, JobStatus.WAITING, work.content_digest, not_before=FAR_FUTURE, wait_reason=WaitReason.HOLD)
    held = hold(place(1), jobs=[queued])
    assert decide(desire(on_hold, held), held).changes_nothing
    job_id, refreshed = decide(desire(make_study(removed(1)), held), held).refresh
    assert (job_id, refreshed.not_before, refreshed.wait_reason) == (7, NOON, None)


# -- earlier jobs ------------------------------------------------------------------------------------------------------


def planned(study: Study, *jobs: KnownJob, **values) -> WithdrawalPlan:
    held = hold(place(1), place(2), jobs=jobs)
    return decide(desire(study, held), held, **values)


ONE_REMOVED = make_study(removed(1), make_instance(2))
DIGEST = planned(ONE_REMOVED).new_job.content_digest


@pytest.mark.parametrize("status", [JobStatus.WAITING, JobStatus.READY, JobStatus.RUNNING, JobStatus.RETRYING])
def test_an_open_note_job_covers_whatever_is_left_over(status):
    assert planned(ONE_REMOVED, kos(7, status)).changes_nothing


def test_a_failed_note_job_covers_what_it_failed_for():
    assert planned(ONE_REMOVED, kos(7, JobStatus.FAILED, DIGEST)).changes_nothing


def test_a_failed_note_job_is_superseded_once_more_is_left_over():
    outcome = planned(make_study(removed(1), removed(2)), kos(7, JobStatus.FAILED, DIGEST))

    assert outcome.new_job.instances == 2
    assert outcome.supersedes == (7,)


def test_a_cancelled_note_job_stays_cancelled_until_more_is_left_over():
    cancelled = kos(7, JobStatus.CANCELLED, DIGEST)

    assert planned(ONE_REMOVED, cancelled).changes_nothing
    assert planned(make_study(removed(1), removed(2)), cancelled).new_job is not None


def test_a_removal_that_is_taken_back_closes_its_job():
    back = make_study(make_instance(1), make_instance(2))

    assert planned(back, kos(7, JobStatus.WAITING, DIGEST), kos(8, JobStatus.FAILED)).closes == (7, 8)
    assert planned(back, kos(7, JobStatus.RUNNING, DIGEST)).closes == ()


def test_a_note_job_is_planned_again_when_what_it_waits_for_arrived():
    study = make_study(make_instance(1, content_version=2))
    before, after = hold(place(1)), hold(place(1), replacement(1, content_version=2))

    digests = {decide(desire(study, held), held).new_job.content_digest for held in (before, after)}

    assert len(digests) == 2


def test_store_jobs_do_not_cover_a_withdrawal():
    store = replace(kos(7, JobStatus.WAITING, DIGEST), job_type=JobType.DICOM)

    assert planned(ONE_REMOVED, store).new_job is not None


# -- rules under which nothing is sent ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "settings", "code"),
    [
        (RemovalReason.RETENTION_EXPIRED, {}, "iocm-retention-disabled"),
        (RemovalReason.QUALITY, {"rejection_titles": ("quality=none",)}, "iocm-title-disabled"),
        (RemovalReason.QUALITY, {"supports_iocm": False}, "iocm-not-supported"),
        (RemovalReason.PATIENT_SAFETY, {"profile": ArchiveProfile.ORTHANC}, "iocm-not-supported"),
        (RemovalReason.PATIENT_SAFETY, {"profile": ArchiveProfile.GENERIC}, "iocm-not-supported"),
    ],
)
def test_a_rule_keeps_the_note_back_and_is_named(reason, settings, code):
    held = hold(place(1))

    outcome = decide(desire(make_study(removed(1, reason)), held), held, make_destination(**settings))

    ((rule, digest, instances),) = outcome.suppressed
    assert (rule.code, instances, outcome.new_job) == (code, 1, None)
    assert rule.why.endswith(".")
    assert "vna" in rule.why
    assert digest


@pytest.mark.parametrize(
    ("reason", "settings"),
    [
        (RemovalReason.RETENTION_EXPIRED, {"rejection_titles": ("retention_expired=113039",)}),
        (RemovalReason.QUALITY, {"profile": ArchiveProfile.GENERIC, "supports_iocm": True}),
        # An operator is to do it by hand: a job that fails, not one that is suppressed.
        (RemovalReason.QUALITY, {"supports_iocm": False, "without_iocm": WithoutIocm.OPERATOR}),
    ],
)
def test_a_destination_that_is_to_be_told_gets_a_job(reason, settings):
    held = hold(place(1))

    outcome = decide(desire(make_study(removed(1, reason)), held), held, make_destination(**settings))

    assert (outcome.suppressed, outcome.new_job.instances) == ((), 1)


def test_what_a_rule_keeps_back_does_not_keep_back_the_rest():
    held = hold(place(1), place(2))
    study = make_study(removed(1, RemovalReason.RETENTION_EXPIRED), removed(2, RemovalReason.QUALITY))

    outcome = decide(desire(study, held), held)

    assert [rule.code for rule, _, _ in outcome.suppressed] == ["iocm-retention-disabled"]
    assert outcome.new_job.instances == 1


def test_a_rule_is_recorded_once_for_the_same_instances():
    held, destination = hold(place(1), place(2)), make_destination(supports_iocm=False)
    ((_, digest, _),) = decide(desire(ONE_REMOVED, held), held, destination).suppressed
    recorded = replace(kos(7, JobStatus.SUPPRESSED, digest), job_type=JobType.IOCM)
    held = replace(held, jobs=(recorded,))

    assert decide(desire(ONE_REMOVED, held), held, destination).changes_nothing
    assert decide(desire(make_study(removed(1), removed(2)), held), held, destination).suppressed != ()


def test_what_was_removed_before_it_was_sent_is_recorded_as_never_archived():
    held = hold(place(1))
    study = make_study(make_instance(1), removed(2))

    ((rule, digest, instances),) = decide(desire(study, held), held).suppressed
    assert (rule.code, instances) == ("iocm-never-archived", 1)

    recorded = replace(kos(7, JobStatus.SUPPRESSED, digest), job_type=JobType.IOCM)
    held = replace(held, jobs=(recorded,))
    assert decide(desire(study, held), held).changes_nothing


@pytest.mark.parametrize("archived_at", [None, LATER])
def test_what_was_removed_before_the_study_was_archived_is_not_worth_a_word(archived_at):
    held = hold(place(1), archived_at=archived_at)

    assert decide(desire(make_study(make_instance(1), removed(2)), held), held).changes_nothing
