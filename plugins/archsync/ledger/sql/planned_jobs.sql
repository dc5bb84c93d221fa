-- name: insert_queued
-- Make a waiting store job for a study at a destination; returns nothing when another planner just did.
insert into job (job_type, destination_id, priority, patient_key, prior_patient_key, study_key, study_instance_uid, facility_id,
                 content_digest, wait_reason, not_before, instances_total, bytes_total, requested_by)
values (%(job_type)s, %(destination_id)s, %(priority)s, %(patient_key)s, %(prior_patient_key)s, %(study_key)s,
        %(study_instance_uid)s, %(facility_id)s, %(content_digest)s, %(wait_reason)s, %(not_before)s, %(instances_total)s,
        %(bytes_total)s, %(requested_by)s)
on conflict (destination_id, study_key) where status in ('waiting', 'ready') and job_type in ('archive', 'dicom')
do nothing
returning job_id;

-- name: insert_job
-- Make a job of another type: the parent of a change, the delivery of notes or of an ADT message, or the record of a rule
-- under which nothing is sent.
insert into job (job_type, status, destination_id, priority, patient_key, prior_patient_key, study_key, study_instance_uid,
                 facility_id, parent_job_id, content_digest, adt_change, wait_reason, not_before, instances_total, reason_code,
                 reason, finished_at, decided_by)
values (%(job_type)s, %(status)s, %(destination_id)s, %(priority)s, %(patient_key)s, %(prior_patient_key)s, %(study_key)s,
        %(study_instance_uid)s, %(facility_id)s, %(parent_job_id)s, %(content_digest)s, %(adt_change)s, %(wait_reason)s,
        %(not_before)s, %(instances_total)s, %(reason_code)s, %(reason)s,
        case when %(status)s = 'suppressed' then now() end, case when %(status)s = 'suppressed' then 'archsync' end)
returning job_id;

-- name: depend
-- A job waits for others.
insert into job_dependency (job_id, depends_on_job_id) select %(job_id)s, unnest(%(depends_on)s::bigint[])
on conflict do nothing;

-- name: adopt
-- Store jobs become steps of the change that needs their replacements, unless they are steps of another.
update job set parent_job_id = %(parent_job_id)s where job_id = any(%(job_ids)s) and parent_job_id is null;

-- name: refresh_queued
-- The study moved on while its job was queued: new content, priority and earliest start.
update job set content_digest = %(content_digest)s, priority = %(priority)s, instances_total = %(instances_total)s,
               bytes_total = %(bytes_total)s, not_before = %(not_before)s, wait_reason = %(wait_reason)s,
               updated_at = now()
where job_id = %(job_id)s and status in ('waiting', 'ready');

-- name: supersede_failed
-- A newer job takes over the intent of failed ones, and with it who asked for it.
with superseded as (
    update job set status = 'cancelled', superseded_by = %(by)s, decided_by = 'archsync', finished_at = now(),
                   updated_at = now(), lease_until = null
    where job_id = any(%(job_ids)s) and status = 'failed'
    returning requested_by)
update job set requested_by = (select max(requested_by) from superseded)
where job_id = %(by)s and requested_by is null and exists (select from superseded where requested_by is not null);

-- name: close_idle
-- Open jobs for which nothing is left to do; a running one finds that out by itself.
update job set status = 'cancelled', decided_by = 'archsync', reason_code = 'nothing-to-do', reason = %(reason)s,
               finished_at = now(), updated_at = now(), lease_until = null
where job_id = any(%(job_ids)s) and status in ('waiting', 'ready', 'failed');

-- name: undone_store_jobs
-- The open jobs that store something of some studies at a destination.
select job_id, study_key from job
where destination_id = %(destination_id)s and study_key = any(%(study_keys)s) and job_type in ('archive', 'dicom')
  and status in ('waiting', 'ready', 'running', 'retrying', 'failed');

-- name: known_jobs
-- For planning: the undone store and kos jobs of studies and, where it is the latest of its kind, the one that an administrator
-- cancelled (one that we cancelled was superseded, or had nothing to do); and those that a rule suppressed.
select job_id, destination_id, study_key, job_type, status, content_digest, priority, wait_reason, not_before, created_at,
       requested_by, adt_change, patient_key, prior_patient_key
from job j
where destination_id = any(%(destination_ids)s) and study_key = any(%(study_keys)s)
  and (job_type in ('archive', 'dicom', 'kos') and status in ('waiting', 'ready', 'running', 'retrying', 'failed')
       or job_type in ('archive', 'dicom', 'kos') and status = 'cancelled' and superseded_by is null
          and reason_code is distinct from 'nothing-to-do'
          and not exists (select from job l where l.destination_id = j.destination_id and l.study_key = j.study_key
                          and (l.job_type = 'kos') = (j.job_type = 'kos') and l.job_type in ('archive', 'dicom', 'kos')
                          and l.job_id > j.job_id)
       or job_type in ('iocm', 'kos') and status = 'suppressed' and content_digest is not null)
order by job_id;

-- name: open_store_jobs
-- The open jobs that store something of patients at a destination.
select job_id, destination_id, study_key, job_type, status, content_digest, priority, wait_reason, not_before, created_at,
       requested_by, adt_change, patient_key, prior_patient_key
from job
where destination_id = %(destination_id)s and patient_key = any(%(patient_keys)s) and job_type in ('archive', 'dicom')
  and status in ('waiting', 'ready', 'running', 'retrying', 'failed')
order by job_id;

-- name: known_patient_jobs
-- For planning: the undone ADT jobs of patients, and those that an administrator cancelled or a rule suppressed.
select job_id, destination_id, study_key, job_type, status, content_digest, priority, wait_reason, not_before, created_at,
       requested_by, adt_change, patient_key, prior_patient_key
from job
where destination_id = any(%(destination_ids)s) and patient_key = any(%(patient_keys)s) and job_type = 'adt'
  and (status in ('waiting', 'ready', 'running', 'retrying', 'failed', 'suppressed')
       or status = 'cancelled' and superseded_by is null and reason_code is distinct from 'nothing-to-do')
order by job_id;
