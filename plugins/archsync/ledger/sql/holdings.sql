-- name: upsert_series
-- The series under which instances are held, with the identity that was sent; returns its id, old or new.
insert into held_series (destination_id, study_key, patient_key, study_instance_uid, series_instance_uid, patient_id,
                         issuer_of_patient_id)
values (%(destination_id)s, %(study_key)s, %(patient_key)s, %(study_instance_uid)s, %(series_instance_uid)s,
        %(patient_id)s, %(issuer_of_patient_id)s)
on conflict (destination_id, study_key, series_instance_uid, study_instance_uid, patient_key, patient_id, issuer_of_patient_id)
do update set study_key = excluded.study_key
returning held_series_id;

-- name: record_stored
-- An archive acknowledged instances: the only way a row gets here.
insert into held_instance (destination_id, content_version, held_series_id, stored_at, store_status, instance_key,
                           sop_instance_uid)
select %(destination_id)s, unnest(%(content_versions)s::int[]), unnest(%(held_series_ids)s::bigint[]), now(),
       unnest(%(store_statuses)s::int[]), unnest(%(instance_keys)s::text[]), unnest(%(sop_instance_uids)s::text[])
on conflict (destination_id, instance_key) do update
set content_version = excluded.content_version, held_series_id = excluded.held_series_id,
    stored_at = excluded.stored_at, verified_at = null, store_status = excluded.store_status,
    sop_instance_uid = excluded.sop_instance_uid;

-- name: mark_verified
-- Instances that the archive itself listed.
update held_instance set verified_at = now()
where destination_id = %(destination_id)s and instance_key = any(%(instance_keys)s);

-- name: forget
-- The archive does not list these after all: they are missing again.
delete from held_instance where destination_id = %(destination_id)s and instance_key = any(%(instance_keys)s);

-- name: of_studies
-- What a destination holds of some studies, instance by instance.
select s.study_key, i.instance_key, i.sop_instance_uid, i.content_version, i.verified_at is not null as is_verified,
       i.rejected_by is not null as is_rejected
from held_series s join held_instance i on i.destination_id = s.destination_id and i.held_series_id = s.held_series_id
where s.destination_id = %(destination_id)s and i.destination_id = %(destination_id)s and s.study_key = any(%(study_keys)s);

-- name: archived_studies
-- Which of some studies were wholly archived at a destination once.
select study_key from held_study where destination_id = %(destination_id)s and study_key = any(%(study_keys)s);

-- name: set_archived
-- A study was wholly archived at a destination for the first time.
insert into held_study (destination_id, study_key, archived_at) values (%(destination_id)s, %(study_key)s, now())
on conflict do nothing;

-- name: listing
-- What a destination holds, per study: instances, verified ones, last stored.
select s.study_instance_uid, s.study_key, count(distinct s.series_instance_uid) as series, count(*) as instances,
       count(i.verified_at) as verified, count(i.rejected_by) as rejected, max(i.stored_at) as last_stored_at
from held_series s join held_instance i on i.destination_id = s.destination_id and i.held_series_id = s.held_series_id
where s.destination_id = %(destination_id)s and i.destination_id = %(destination_id)s
  and (%(study_instance_uid)s::text is null or s.study_instance_uid = %(study_instance_uid)s)
group by s.study_instance_uid, s.study_key
order by last_stored_at desc
limit %(limit)s;

-- name: instances_of_study
-- What a destination holds of one study, instance by instance.
select s.series_instance_uid, i.sop_instance_uid, i.content_version, i.store_status, i.stored_at, i.verified_at, i.rejected_by
from held_series s join held_instance i on i.destination_id = s.destination_id and i.held_series_id = s.held_series_id
where s.destination_id = %(destination_id)s and i.destination_id = %(destination_id)s
  and s.study_instance_uid = %(study_instance_uid)s
order by s.series_instance_uid, i.sop_instance_uid;

-- name: holds_anything
-- Tell whether a destination holds at least one instance.
select exists (select from held_instance where destination_id = %(destination_id)s) as holds;
