-- name: watermark
-- Up to where the platform was read.
select watermark, resets from platform_watermark;

-- name: set_watermark
-- Remember up to where the platform was read, unless that was reset meanwhile; written with the studies found, in one
-- transaction.
insert into platform_watermark as known (watermark) values (%(watermark)s)
on conflict (only_one) do update set watermark = excluded.watermark, read_at = now()
where %(resets)s::bigint is null or known.resets = %(resets)s;

-- name: queue_studies
-- Look at these studies (again); in order, so that two who do can't wait for each other.
insert into study_queue (study_key) select distinct key from unnest(%(study_keys)s::text[]) as key order by key
on conflict (study_key) do nothing;

-- name: queue_patients
-- Look again at all studies that were filed under these patients.
insert into study_queue (study_key)
select distinct study_key from placed_series where patient_key = any(%(patient_keys)s) order by study_key
on conflict (study_key) do nothing;

-- name: has_patients
-- Whether a study that was filed under one of these patients is still to be looked at.
select exists (
    select from study_queue q join placed_series s using (study_key) where s.patient_key = any(%(patient_keys)s)) as found;

-- name: take_queued
-- Take some studies to plan; they leave the queue when the transaction commits.
delete from study_queue where study_key in (
    select study_key from study_queue order by queued_at limit %(limit)s for update skip locked)
returning study_key;

-- name: take_these
-- Take these studies to plan; who wants to plan them too waits until the transaction commits.
delete from study_queue where study_key = any(%(study_keys)s);

-- name: sent_as
-- Which studies ever went out under a Study Instance UID.
select distinct study_key from placed_series where study_instance_uid = %(study_instance_uid)s order by study_key;

-- name: record_problem
-- A study the platform describes in a way that can't be used.
insert into study_problem (study_key, code, message) values (%(study_key)s, %(code)s, %(message)s)
on conflict (study_key) do update set code = excluded.code, message = excluded.message, at = now();

-- name: clear_problems
-- These studies could be read.
delete from study_problem where study_key = any(%(study_keys)s);

-- name: problems
-- Studies that can't be planned, newest first.
select * from study_problem order by at desc limit %(limit)s;

-- name: reset_watermark
-- Read the whole platform again: a destination was added, or its trigger or scope changed.
insert into platform_watermark as known (watermark, resets) values (null, 1)
on conflict (only_one) do update set watermark = null, resets = known.resets + 1, read_at = now();
