-- name: failed_with
-- The failed jobs at a destination with one of some reasons, oldest first.
select job_id from job
where destination_id = %(destination_id)s and status = 'failed' and reason_code = any(%(reason_codes)s) order by job_id;

-- name: merge_later
-- A job is about to go back to the queue (the same conditions as in move): the follow-up queued behind it is merged into
-- it, with its urgency and who asked for it.
with mover as (
    select destination_id, study_key from job
    where job_id = %(job_id)s and status = any(%(allowed)s) and job_type in ('archive', 'dicom')
      and (%(attempt_id)s::bigint is null or attempt_id = %(attempt_id)s)
    for update),
merged as (
    update job set status = 'cancelled', superseded_by = %(job_id)s, decided_by = 'archsync', finished_at = now(),
                   updated_at = now()
    from mover
    where job.destination_id = mover.destination_id and job.study_key = mover.study_key
      and job.status in ('waiting', 'ready') and job.job_id <> %(job_id)s and job.job_type in ('archive', 'dicom')
    returning job.priority, job.front, job.requested_by)
update job set priority = least(job.priority, merged.priority), front = greatest(job.front, merged.front),
               requested_by = coalesce(job.requested_by, merged.requested_by)
from merged where job.job_id = %(job_id)s;

-- name: request_now
-- Somebody asks for a study at once: its queued job is due, whatever the settle delay and the trigger say.
update job set requested_by = %(requested_by)s, not_before = now(), updated_at = now(),
               wait_reason = case when wait_reason in ('settling', 'exam_status') then 'queue' else wait_reason end
where job_id = %(job_id)s and status in ('waiting', 'ready');

-- name: by_run
-- The job that a DAG run works on.
select job_id from job where run_id = %(run_id)s and dag_id = %(dag_id)s order by job_id desc limit 1;

-- name: get
-- One job with its destination's name.
select j.*, d.name as destination from job j join destination d using (destination_id) where j.job_id = %(job_id)s;

-- name: steps
-- The steps of a change, in their order.
select j.*, d.name as destination from job j join destination d using (destination_id)
where j.parent_job_id = %(job_id)s order by j.job_id;

-- name: related
-- The jobs around one: its steps; what it was told to wait for, done or not; and the waiting ones that it holds back in its
-- lane, which are found as blocked_by finds it.
(select 'step' as relation, job_id from job where parent_job_id = %(job_id)s order by job_id)
union all
(select 'dependency', depends_on_job_id from job_dependency where job_id = %(job_id)s order by depends_on_job_id)
union all
(select 'blocked', j.job_id
 from job j
 where j.job_id in (
           select s.job_id from job s
           where s.destination_id = %(destination_id)s and s.study_key = %(study_key)s
             and s.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
           union
           select p.job_id from job p
           where p.destination_id = %(destination_id)s and p.patient_key = any(%(patient_keys)s)
             and p.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
           union
           select p.job_id from job p
           where p.destination_id = %(destination_id)s and p.prior_patient_key = any(%(patient_keys)s)
             and p.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
           union
           select d.job_id from job_dependency d where d.depends_on_job_id = %(job_id)s)
   and j.status = 'waiting' and j.job_id <> %(job_id)s and blocked_by(j) = %(job_id)s
 order by j.job_id
 limit 50);

-- name: lock
-- One job with its destination's name, locked until the transaction ends.
select j.*, d.name as destination from job j join destination d using (destination_id)
where j.job_id = %(job_id)s for update of j;

-- name: blocker
-- The earliest undone job that holds back this one in its lane.
select blocked_by(j) as job_id from job j where j.job_id = %(job_id)s;

-- name: count_killed
-- How many attempts of a job ended without a word since it last waited; one that never reported its end counts.
select count(*) as killed from job j join job_attempt a using (job_id)
where j.job_id = %(job_id)s and a.started_at >= j.first_attempt_at
  and (a.finished_at is null or a.reason_code in ('task-killed', 'attempt-lost'));

-- name: insert_attempt
-- Begin an attempt: what Airflow runs, and which try.
insert into job_attempt (job_id, dag_id, run_id, try_number, peer)
values (%(job_id)s, %(dag_id)s, %(run_id)s, %(try_number)s, %(peer)s)
returning attempt_id;

-- name: close_lost_attempts
-- Attempts that never reported an end: another one takes over.
update job_attempt set finished_at = now(), outcome = 'lost', reason_code = coalesce(reason_code, 'attempt-lost'),
                       reason = coalesce(reason, 'The process ended without a word.')
where job_id = %(job_id)s and finished_at is null;

-- name: set_running
-- A job runs: the attempt holds a lease that it renews. A failed job that is run again (Clear in Airflow) starts afresh.
update job set status = 'running', attempt_id = %(attempt_id)s, dag_id = %(dag_id)s, run_id = %(run_id)s,
               try_number = %(try_number)s, started_at = coalesce(started_at, now()),
               attempts = case when status = 'failed' then 0 else attempts end,
               first_attempt_at = case when status = 'failed' then now() else coalesce(first_attempt_at, now()) end,
               lease_until = now() + make_interval(secs => %(lease_s)s),
               wait_reason = null, next_attempt_at = null, finished_at = null, superseded_by = null, bytes_per_s = 0,
               associations = 0, updated_at = now()
where job_id = %(job_id)s;

-- name: set_scope
-- What the running attempt found to do, after comparing again.
update job set content_digest = %(content_digest)s, instances_total = %(instances_total)s, bytes_total = %(bytes_total)s,
               instances_done = %(instances_done)s, bytes_done = %(bytes_done)s, instances_failed = 0, updated_at = now()
where job_id = %(job_id)s and attempt_id = %(attempt_id)s and status = 'running';

-- name: report
-- The running attempt is alive: what was acknowledged since its last report, how fast it sends, over how many associations.
-- Answers who else stores at the destination, where a job without an association counts with the one that it is about to
-- open; and whether an administrator holds its study back by now.
-- No row comes back when another attempt took over.
update job set instances_done = instances_done + %(instances)s, bytes_done = bytes_done + %(bytes)s,
               instances_failed = instances_failed + %(failed)s, bytes_per_s = %(bytes_per_s)s,
               associations = %(associations)s, updated_at = now(),
               lease_until = now() + make_interval(secs => %(lease_s)s)
from (select count(*) as other_jobs, coalesce(sum(greatest(o.associations, 1)), 0)::int as other_associations
      from job o
      where o.destination_id = (select destination_id from job where job_id = %(job_id)s) and o.job_id <> %(job_id)s
        and o.status = 'running' and o.job_type in ('archive', 'dicom', 'kos') and o.lease_until > now()) others
where job_id = %(job_id)s and attempt_id = %(attempt_id)s and status = 'running'
returning others.other_jobs, others.other_associations,
          exists (select from study_hold h where h.study_key = job.study_key) as is_on_hold;

-- name: finish_attempt
-- How an attempt ended.
update job_attempt set finished_at = now(), outcome = %(outcome)s, reason_code = %(reason_code)s, reason = %(reason)s,
                       counted = %(counted)s, instances_done = %(instances)s, bytes_done = %(bytes)s,
                       status_code = %(status_code)s
where attempt_id = %(attempt_id)s and finished_at is null;

-- name: move
-- Change a job's status from one of the allowed ones; touches no row when it is in another, or (with an attempt given)
-- when another attempt took over. first_attempt_at is the clock of "given up": a job that waits is not failing.
update job set status = %(status)s, reason_code = %(reason_code)s, reason = %(reason)s, wait_reason = %(wait_reason)s,
               not_before = coalesce(%(not_before)s, not_before), next_attempt_at = %(next_attempt_at)s,
               attempts = case when %(reset_attempts)s then 0 else attempts + %(counted)s end,
               first_attempt_at = case when %(status)s <> 'waiting' then first_attempt_at end,
               finished_at = case when %(status)s in ('succeeded', 'failed', 'suppressed', 'cancelled') then now() end,
               decided_by = coalesce(%(decided_by)s, decided_by), superseded_by = null, lease_until = null,
               bytes_per_s = 0, associations = 0, updated_at = now()
where job_id = %(job_id)s and status = any(%(allowed)s)
  and (%(attempt_id)s::bigint is null or attempt_id = %(attempt_id)s);

-- name: clear_failures
-- Forget the instance failures of earlier attempts.
delete from job_failure where job_id = %(job_id)s;

-- name: record_failure
-- Name an instance that could not be sent, and why.
insert into job_failure (job_id, instance_key, sop_instance_uid, store_status, code, message)
values (%(job_id)s, %(instance_key)s, %(sop_instance_uid)s, %(store_status)s, %(code)s, %(message)s)
on conflict (job_id, instance_key) do update
set store_status = excluded.store_status, code = excluded.code, message = excluded.message, at = now();

-- name: failures
-- The instances a job could not send, by SOP Instance UID.
select * from job_failure where job_id = %(job_id)s order by sop_instance_uid limit %(limit)s;

-- name: attempts
-- A job's attempts, oldest first.
select * from job_attempt where job_id = %(job_id)s order by attempt_id;

-- name: listed
-- Some jobs, each with its destination's gateway and, if it waits, with what blocks it.
select j.*, d.name as destination, d.gateway,
       case when j.status = 'waiting' then blocked_by(j) end as blocked_by
from job j join destination d using (destination_id)
where j.job_id = any(%(job_ids)s);

-- name: move_to_front
-- Waiting jobs of one destination go ahead of all its others, of what was moved there before too; settling ones are due at
-- once. Jobs that are ahead of all others already stay as they are; those moved together are level, the oldest goes first.
with ahead as (
    select coalesce(max(o.front), 0) + 1 as front from job o
    where o.destination_id = %(destination_id)s and o.front > 0 and o.status in ('waiting', 'ready')
      and o.job_id <> all(%(job_ids)s) and o.job_id <> all(%(together)s))
update job set front = ahead.front, updated_at = now(),
               not_before = case when wait_reason = 'settling' then now() else not_before end,
               wait_reason = case when wait_reason = 'settling' then 'queue' else wait_reason end
from ahead
where job.job_id = any(%(job_ids)s) and job.destination_id = %(destination_id)s and job.status = 'waiting'
  and job.front < ahead.front
returning job.job_id;
