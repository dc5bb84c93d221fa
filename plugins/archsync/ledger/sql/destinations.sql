-- name: all
-- Every destination, by name, with the queue of its gateway.
select d.*, g.queue from destination d left join gateway g on g.name = d.gateway order by d.name;

-- name: some
-- Some destinations by id.
select d.* from destination d where d.destination_id = any(%(destination_ids)s);

-- name: get
-- One destination by name.
select d.* from destination d where d.name = %(name)s;

-- name: get_by_id
-- One destination by id.
select d.* from destination d where d.destination_id = %(destination_id)s;

-- name: add_holdings
-- Make the partitions for what a new destination holds.
select add_holdings(%(destination_id)s);

-- name: lock
-- Keep everybody else from making jobs for a destination, or changing it, until the transaction ends.
select from destination where destination_id = %(destination_id)s for update;

-- name: use
-- What ties a destination to the archive it names: what was offered there, acknowledged or not, its jobs, running ones.
-- Asked status by status, which an index answers: a destination without jobs would have all jobs looked at.
select exists (select from held_instance where destination_id = %(destination_id)s) as holds_instances,
       exists (select from unnest(%(job_types)s::text[]) as t (job_type)
               cross join unnest(%(statuses)s::text[]) as s (status)
               cross join lateral (
                   select from job j
                   where j.status = s.status and j.job_type = t.job_type and j.destination_id = %(destination_id)s
                   order by j.created_at, j.job_id limit 1) as found) as has_jobs,
       exists (select from job where destination_id = %(destination_id)s and status = 'running') as has_running_jobs;

-- name: delete_notes
-- Forget the rejection notes of a destination.
delete from rejection_note where destination_id = %(destination_id)s;

-- name: delete_adt_messages
-- Forget the ADT messages of a destination.
delete from adt_message where job_id in (select job_id from job where destination_id = %(destination_id)s);

-- name: delete_failures
-- Forget which instances jobs of a destination could not send.
delete from job_failure where job_id in (select job_id from job where destination_id = %(destination_id)s);

-- name: delete_attempts
-- Forget the attempts of a destination's jobs.
delete from job_attempt where job_id in (select job_id from job where destination_id = %(destination_id)s);

-- name: delete_jobs
-- Forget the jobs of a destination.
delete from job where destination_id = %(destination_id)s;

-- name: delete_held_studies
-- Forget which studies were wholly archived at a destination.
delete from held_study where destination_id = %(destination_id)s;

-- name: delete
-- Forget a destination; its health and its patients go with it.
delete from destination where destination_id = %(destination_id)s;

-- name: add_health
-- A new destination counts as healthy, for jobs of every kind.
insert into destination_health (destination_id, kind) values (%(destination_id)s, %(kind)s);

-- name: health
-- The circuit breakers of some destinations, or of all.
select * from destination_health
where %(destination_ids)s::int[] is null or destination_id = any(%(destination_ids)s);

-- name: health_of
-- The circuit breaker of one peer of a destination, locked until the transaction ends.
select * from destination_health where destination_id = %(destination_id)s and kind = %(kind)s for update;

-- name: set_health
-- Set the circuit breaker of one peer of a destination.
update destination_health set failures = %(failures)s, down_since = %(down_since)s, probe_at = %(probe_at)s,
    reason_code = %(reason_code)s, reason = %(reason)s, updated_at = now()
where destination_id = %(destination_id)s and kind = %(kind)s;

-- name: set_suspended
-- Whether the destination's DAG was seen paused in Airflow.
update destination_health set is_suspended = %(is_suspended)s, updated_at = now()
where destination_id = %(destination_id)s and kind = %(kind)s and is_suspended <> %(is_suspended)s;

-- name: look_again
-- The dispatcher found a destination closed for some kinds of job: when to look at it again.
update destination_health set look_again_at = %(at)s where destination_id = %(destination_id)s and kind = any(%(kinds)s);

-- name: notify_work
-- Wake the dispatcher.
select pg_notify('archsync_work', '');

-- name: gateways
-- Every gateway, by name.
select * from gateway order by name;

-- name: insert_gateway
-- Make a gateway.
insert into gateway (name, facility_group, queue) values (%(name)s, %(facility_group)s, %(queue)s)
on conflict (name) do nothing returning gateway_id;

-- name: update_gateway
-- Give a gateway another facility group or queue.
update gateway set facility_group = %(facility_group)s, queue = %(queue)s where name = %(name)s;
