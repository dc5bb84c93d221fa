-- name: counts
-- Jobs per destination, type and status, at most so many of each, with the earliest of them: one index probe a combination.
select d.destination_id, d.name as destination, t.job_type, s.status, n.jobs, n.oldest_at
from destination d cross join unnest(%(job_types)s::text[]) as t (job_type) cross join unnest(%(statuses)s::text[]) as s (status)
cross join lateral (
    select count(*) as jobs, min(found.created_at) as oldest_at
    from (select j.created_at from job j
          where j.status = s.status and j.job_type = t.job_type and j.destination_id = d.destination_id
          order by j.created_at, j.job_id limit %(most)s) as found) as n
where n.jobs > 0
order by d.name, t.job_type, s.status;

-- name: answered
-- The types of job that succeeded at each destination at least once.
select d.destination_id, t.job_type
from destination d cross join unnest(%(job_types)s::text[]) as t (job_type)
cross join lateral (
    select from job j
    where j.status = 'succeeded' and j.job_type = t.job_type and j.destination_id = d.destination_id
    order by j.created_at, j.job_id limit 1) as found;

-- name: holding
-- How many instances each destination holds, or may hold, as PostgreSQL estimates it; below zero: not yet estimated.
select d.destination_id, c.reltuples::bigint as instances
from destination d join pg_class c on c.oid = to_regclass('held_instance_' || d.destination_id);

-- name: finished_since
-- Jobs that ended since a moment, per destination.
select destination_id, count(*) filter (where status = 'succeeded') as succeeded, count(*) filter (where status = 'failed') as failed
from job where finished_at >= %(since)s group by destination_id;

-- name: sent_since
-- What attempts that ended since a moment brought to each destination.
select j.destination_id, sum(a.instances_done) as instances, sum(a.bytes_done) as bytes
from job_attempt a join job j using (job_id)
where a.finished_at >= %(since)s and a.instances_done > 0 group by j.destination_id;

-- name: sending
-- How fast each destination is sent to right now.
select destination_id, sum(bytes_per_s) as bytes_per_s from job where status = 'running' group by destination_id;

-- name: finished_per_hour
-- Jobs that ended in each hour (UTC) since a moment, by the status they have.
select date_trunc('hour', finished_at, 'UTC') as hour_at, status, count(*) as jobs
from job where finished_at >= %(since)s group by 1, 2;

-- name: made_per_hour
-- Jobs that were made in each hour (UTC) since a moment.
select date_trunc('hour', created_at, 'UTC') as hour_at, count(*) as jobs
from job where created_at >= %(since)s group by 1;
