-- name: unsaid
-- The job's message that was not acknowledged: its last one.
select * from adt_message where job_id = %(job_id)s and acknowledged_at is null order by message_id desc limit 1;

-- name: in_doubt
-- The oldest message about a patient that a destination may have applied, for no valid answer came: of the job itself, or of a
-- failed one whose intent another took over. What an administrator cancelled is not sent again.
select m.* from adt_message m join job j using (job_id)
where m.acknowledged_at is null and m.unanswered > 0 and m.encoded is not null
  and (m.patient_key = any(%(patient_keys)s) or m.prior_patient_key = any(%(patient_keys)s))
  and j.destination_id = %(destination_id)s and (j.job_id = %(job_id)s or j.superseded_by is not null)
order by m.message_id
limit 1;

-- name: insert
-- A message, complete, before it is first sent.
insert into adt_message (job_id, trigger_event, control_id, encoded, patient_key, prior_patient_key, prior_patient_id,
                         prior_issuer_of_patient_id, patient_id, issuer_of_patient_id, name, birth_date, sex, built_at)
values (%(job_id)s, %(trigger_event)s, %(control_id)s, %(encoded)s, %(patient_key)s, %(prior_patient_key)s,
        %(prior_patient_id)s, %(prior_issuer_of_patient_id)s, %(patient_id)s, %(issuer_of_patient_id)s, %(name)s,
        %(birth_date)s, %(sex)s, %(built_at)s)
returning *;

-- name: discard
-- Forget a message that was never sent: what it says is no longer so.
delete from adt_message where message_id = %(message_id)s and first_sent_at is null;

-- name: mark_sending
-- About to be sent: until an answer comes, it may have been applied.
update adt_message set first_sent_at = coalesce(first_sent_at, now()), unanswered = unanswered + 1
where message_id = %(message_id)s;

-- name: mark_busy
-- This sending was answered, and not applied; what came of earlier ones is as unknown as it was.
update adt_message set unanswered = unanswered - 1 where message_id = %(message_id)s;

-- name: mark_refused
-- Refused as it stands: no earlier sending was applied either.
update adt_message set unanswered = 0 where message_id = %(message_id)s;

-- name: acknowledge
-- The receiver took it.
update adt_message set acknowledged_at = now(), ack_code = %(ack_code)s, unanswered = 0 where message_id = %(message_id)s;

-- name: of_job
-- The messages of a job, oldest first.
select * from adt_message where job_id = %(job_id)s order by message_id;

-- name: facility
-- The facility at which a patient's latest job at a destination arose.
select facility_id from job
where destination_id = %(destination_id)s and facility_id is not null and study_key = any(
    select study_key from placed_series where patient_key = %(patient_key)s)
order by job_id desc
limit 1;

-- name: purge
-- Forget what messages said of patients, once nobody will ask any more: of those acknowledged, and of those that a job left
-- behind which ended without them. One that may have been applied, of a job whose intent another took over, is kept while an
-- open job has yet to find out about it (in_doubt).
with forgotten as (
    select message_id from adt_message where acknowledged_at < %(older_than)s and encoded is not null
    union all
    select m.message_id from adt_message m join job j using (job_id)
    where m.acknowledged_at is null and m.encoded is not null
      and j.status in ('succeeded', 'suppressed', 'cancelled') and j.finished_at < %(older_than)s
      and not (m.unanswered > 0 and j.superseded_by is not null and exists (
          select from job open
          where open.job_type = 'adt' and open.destination_id = j.destination_id
            and (open.patient_key in (m.patient_key, m.prior_patient_key)
                 or open.prior_patient_key in (m.patient_key, m.prior_patient_key))
            and open.status in ('waiting', 'ready', 'running', 'retrying', 'failed'))))
update adt_message
set encoded = null, patient_id = '', issuer_of_patient_id = null, name = '', birth_date = null, sex = null,
    prior_patient_id = null, prior_issuer_of_patient_id = null
where message_id in (select message_id from forgotten);
