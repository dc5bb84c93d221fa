-- name: placements
-- Every placement under some studies, and every placement of some instances.
with wanted as (
    select p.* from placed_series s join placement p using (placed_series_id) where s.study_key = any(%(study_keys)s)
    union
    select p.* from placement p where p.instance_key = any(%(instance_keys)s))
select p.placement_id, p.placement_no, p.instance_key, p.content_version, s.study_key, s.patient_key,
       s.study_instance_uid, s.series_instance_uid, p.sop_instance_uid,
       coalesce(s.source_series_instance_uid, s.series_instance_uid) as source_series_instance_uid,
       coalesce(p.source_sop_instance_uid, p.sop_instance_uid) as source_sop_instance_uid,
       s.sop_class_uid, p.placed_at, d.decision,
       exists (select from held_instance h where h.placement_id = p.placement_id and h.rejected_by is not null) as is_burnt
from wanted p join placed_series s using (placed_series_id)
left join dependant d using (placement_id)
order by p.instance_key, p.placement_no;

-- name: lock_placing
-- One at a time decides which UIDs instances go out with; until the transaction ends.
select pg_advisory_xact_lock(hashtext('archsync placement'));

-- name: bound_studies
-- The patient under whom each Study Instance UID was first sent.
select distinct on (study_instance_uid) study_instance_uid, patient_key from placed_series
where study_instance_uid = any(%(uids)s) order by study_instance_uid, placed_series_id;

-- name: bound_series
-- The study in which each Series Instance UID was first sent.
select distinct on (series_instance_uid) series_instance_uid, study_instance_uid from placed_series
where series_instance_uid = any(%(uids)s) order by series_instance_uid, placed_series_id;

-- name: used_sop_uids
-- Which SOP Instance UIDs stand for a placement already.
select p.sop_instance_uid from unnest(%(uids)s::text[]) as wanted (uid) join placement p on p.sop_instance_uid = wanted.uid;

-- name: upsert_series
-- The series in which instances are placed; returns its id, old or new.
insert into placed_series (study_key, patient_key, study_instance_uid, series_instance_uid, source_series_instance_uid,
                           sop_class_uid)
values (%(study_key)s, %(patient_key)s, %(study_instance_uid)s, %(series_instance_uid)s, %(source_series_instance_uid)s,
        %(sop_class_uid)s)
on conflict (study_key, series_instance_uid, study_instance_uid, patient_key, source_series_instance_uid, sop_class_uid)
do update set study_key = excluded.study_key
returning placed_series_id;

-- name: insert_placements
-- What new UIDs stand for.
insert into placement (placed_series_id, content_version, placement_no, instance_key, sop_instance_uid, source_sop_instance_uid)
select * from unnest(%(placed_series_ids)s::bigint[], %(content_versions)s::int[], %(placement_nos)s::smallint[],
                     %(instance_keys)s::text[], %(sop_instance_uids)s::text[], %(source_sop_instance_uids)s::text[]);

-- name: offer
-- About to be sent: from now on the archive may hold them.
insert into held_instance (destination_id, placement_id)
select %(destination_id)s, unnest(%(placement_ids)s::bigint[])
on conflict do nothing;

-- name: record_stored
-- An archive acknowledged instances.
update held_instance h set stored_at = now(), verified_at = null, store_status = a.store_status
from unnest(%(placement_ids)s::bigint[], %(store_statuses)s::int[]) as a (placement_id, store_status)
where h.destination_id = %(destination_id)s and h.placement_id = a.placement_id;

-- name: mark_verified
-- Instances that the archive itself listed; one whose answer was lost is stored by that.
update held_instance set verified_at = now(), stored_at = coalesce(stored_at, now())
where destination_id = %(destination_id)s and placement_id = any(%(placement_ids)s);

-- name: forget
-- The archive does not have these: they are missing.
delete from held_instance
where destination_id = %(destination_id)s and placement_id = any(%(placement_ids)s) and rejected_by is null;

-- name: doubt
-- An administrator wants these sent again: the archive may have them or not.
update held_instance set stored_at = null, verified_at = null
where destination_id = %(destination_id)s and placement_id = any(%(placement_ids)s) and rejected_by is null;

-- name: claim
-- A rejection note names these; from now on their UIDs are burnt.
update held_instance set rejected_by = %(note_id)s
where destination_id = %(destination_id)s and placement_id = any(%(placement_ids)s);

-- name: release
-- A rejection note that was given up names them no more.
update held_instance set rejected_by = null
where destination_id = %(destination_id)s and rejected_by = %(note_id)s
  and (%(placement_ids)s::bigint[] is null or placement_id = any(%(placement_ids)s));

-- name: held
-- What destinations have of some placements.
select h.destination_id, h.placement_id, h.stored_at is not null as is_stored, h.verified_at is not null as is_verified,
       h.rejected_by, n.stored_at is not null as is_hidden
from held_instance h left join rejection_note n on n.note_id = h.rejected_by
where h.placement_id = any(%(placement_ids)s) and h.destination_id = any(%(destination_ids)s);

-- name: archived_studies
-- Which of some studies were wholly archived once, where and when.
select destination_id, study_key, archived_at from held_study
where study_key = any(%(study_keys)s) and destination_id = any(%(destination_ids)s);

-- name: set_archived
-- A study was wholly archived at a destination for the first time.
insert into held_study (destination_id, study_key, archived_at) values (%(destination_id)s, %(study_key)s, now())
on conflict do nothing;

-- name: decide_dependants
-- What becomes of instances that point at withdrawn ones.
insert into dependant (placement_id, decision) select unnest(%(placement_ids)s::bigint[]), %(decision)s
on conflict (placement_id) do update set decision = excluded.decision, decided_at = now();

-- name: latest_studies
-- Up to so many studies that a destination holds something of, or of which a note withdrew something there: those first in
-- whose last instance was last given its place, before a placement where one is given. One step a study, along the placements.
with recursive walk as (
    (select h.placement_id, s.study_instance_uid, s.study_key, 1 as step
     from held_instance h join placement p using (placement_id) join placed_series s using (placed_series_id)
     where h.destination_id = %(destination_id)s and h.stored_at is not null
       and (%(before)s::bigint is null or h.placement_id < %(before)s)
       and (not %(rejected_only)s or h.rejected_by is not null)
     order by h.placement_id desc limit 1)
    union all
    select next.placement_id, next.study_instance_uid, next.study_key, walk.step + 1
    from walk cross join lateral (
        select h.placement_id, s.study_instance_uid, s.study_key
        from held_instance h join placement p using (placement_id) join placed_series s using (placed_series_id)
        where h.destination_id = %(destination_id)s and h.stored_at is not null and h.placement_id < walk.placement_id
          and (s.study_instance_uid, s.study_key) <> (walk.study_instance_uid, walk.study_key)
          and (not %(rejected_only)s or h.rejected_by is not null)
        order by h.placement_id desc limit 1) as next
    where walk.step < %(limit)s)
select placement_id, study_instance_uid, study_key from walk order by step;

-- name: totals
-- What a destination holds of some studies, per study: instances, verified ones, those that a note withdrew, last stored.
select s.study_instance_uid, s.study_key, count(distinct s.series_instance_uid) as series, count(h.stored_at) as instances,
       count(h.verified_at) as verified, count(n.stored_at) as rejected, max(h.stored_at) as last_stored_at
from placed_series s join placement p using (placed_series_id) join held_instance h using (placement_id)
left join rejection_note n on n.note_id = h.rejected_by
where h.destination_id = %(destination_id)s and h.stored_at is not null and s.study_key = any(%(study_keys)s)
group by s.study_instance_uid, s.study_key;

-- name: study_keys
-- The studies that ever went out under a Study Instance UID.
select distinct study_key from placed_series where study_instance_uid = %(study_instance_uid)s order by study_key;

-- name: instances_of_study
-- What a destination holds of one study, instance by instance.
select s.series_instance_uid, p.sop_instance_uid, p.content_version, h.store_status, h.stored_at, h.verified_at,
       n.sop_instance_uid as rejected_by, n.title as rejected_as, n.stored_at as rejected_at
from placed_series s join placement p using (placed_series_id) join held_instance h using (placement_id)
left join rejection_note n on n.note_id = h.rejected_by
where h.destination_id = %(destination_id)s and h.stored_at is not null and s.study_instance_uid = %(study_instance_uid)s
order by s.series_instance_uid, p.sop_instance_uid;

-- name: series
-- Every series in which a destination ever got anything.
select distinct s.study_instance_uid, s.series_instance_uid
from held_instance h join placement p using (placement_id) join placed_series s using (placed_series_id)
where h.destination_id = %(destination_id)s
order by s.study_instance_uid, s.series_instance_uid;

-- name: holds_anything
-- Tell whether a destination holds at least one instance.
select exists (select from held_instance where destination_id = %(destination_id)s) as holds;
