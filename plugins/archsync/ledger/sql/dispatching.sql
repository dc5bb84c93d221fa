-- name: most_urgent_due
-- Per destination and kind: the urgency of the most urgent due job whose lane is free, and how many jobs of the kind that are
-- as urgent or more are in Airflow's hands: less urgent ones do not count against it.
with kinds as (
    select * from unnest(%(job_types)s::text[], %(kinds)s::text[]) as k(job_type, kind)),
in_hand as materialized (
    select i.destination_id, k.kind, i.urgency, count(*) as jobs
    from job i join kinds k using (job_type) where i.status in ('ready', 'running')
    group by i.destination_id, k.kind, i.urgency),
due as (
    select d.destination_id, k.kind, min(top.urgency) as urgency
    from destination d cross join kinds k
    cross join lateral (
        select j.urgency from job j
        where j.destination_id = d.destination_id and j.job_type = k.job_type and j.status = 'waiting'
          and j.not_before <= now() and blocked_by(j) is null
        order by j.urgency, j.job_id
        limit 1) top
    group by d.destination_id, k.kind)
select due.destination_id, due.kind, due.urgency,
       (select coalesce(sum(h.jobs), 0)::int from in_hand h
        where h.destination_id = due.destination_id and h.kind = due.kind and h.urgency <= due.urgency) as handed_out
from due;

-- name: claim_due
-- Take up to %(limit)s due jobs of a destination, of some types and one urgency, to hand to Airflow: oldest first, never
-- one whose lane holds an earlier undone job (blocked_by).
with candidate as (
    select c.job_id from unnest(%(job_types)s::text[]) as t(job_type)
    cross join lateral (
        select j.job_id from job j
        where j.destination_id = %(destination_id)s and j.job_type = t.job_type and j.status = 'waiting'
          and j.urgency = %(urgency)s and j.not_before <= now() and blocked_by(j) is null
        order by j.job_id
        limit %(limit)s) c),
due as (
    select job_id from job where job_id in (select job_id from candidate) and status = 'waiting'
    order by job_id
    limit %(limit)s
    for update skip locked)
update job set status = 'ready', wait_reason = null, dispatched_at = now(), updated_at = now(), dag_id = null,
               run_id = null, try_number = null
from due where job.job_id = due.job_id
returning job.job_id;

-- name: work_is_waiting
-- Tell whether the dispatcher would find something to do: studies to plan, lost runs, due jobs where slots are free, as the
-- dispatcher hands them out: for each peer the most urgent ones of the kinds that are open.
with kinds as (
    select * from unnest(%(job_types)s::text[], %(kinds)s::text[], %(peers)s::text[]) as k(job_type, kind, peer)),
in_hand as materialized (
    select i.destination_id, k.kind, i.urgency, count(*) as jobs
    from job i join kinds k using (job_type) where i.status in ('ready', 'running')
    group by i.destination_id, k.kind, i.urgency),
due as (
    select d.destination_id, k.kind, min(top.urgency) as urgency,
           min(min(top.urgency)) over (partition by d.destination_id, k.peer) as most_urgent,
           case when bool_or(p.down_since is not null) then 1
                when k.peer = 'adt' then d.adt_concurrency * %(low_water)s
                else d.concurrency * %(low_water)s end as wanted
    from destination d
    cross join kinds k
    join destination_health h on h.destination_id = d.destination_id and h.kind = k.kind
    join destination_health p on p.destination_id = d.destination_id and p.kind = k.peer
    cross join lateral (
        select j.urgency from job j
        where j.destination_id = d.destination_id and j.job_type = k.job_type and j.status = 'waiting'
          and j.not_before <= now() and blocked_by(j) is null
        order by j.urgency, j.job_id
        limit 1) top
    where d.enabled and h.look_again_at <= now() and (p.down_since is null or p.probe_at <= now())
    group by d.destination_id, k.kind, k.peer)
select exists (select from study_queue)
    or exists (select from job where status = 'ready' and run_id is null
               and dispatched_at < now() - make_interval(secs => %(lost_after_s)s))
    or (select min(not_before) from job where status = 'waiting' and job_type <> 'iocm') <= now() and exists (
        select from due
        where due.urgency = due.most_urgent
          and (select coalesce(sum(i.jobs), 0) from in_hand i
               where i.destination_id = due.destination_id and i.kind = due.kind and i.urgency <= due.urgency)
              < due.wanted) as waiting;

-- name: more_urgent
-- A more urgent job for the same peer that is due and free to go, or was handed to Airflow just now: a less urgent one lets
-- it pass. Jobs of a kind whose DAG is paused do not count: they would be let pass for ever.
with kinds as (
    select k.job_type from unnest(%(job_types)s::text[], %(kinds)s::text[]) as k(job_type, kind)
    join destination_health h on h.destination_id = %(destination_id)s and h.kind = k.kind and not h.is_suspended
                          and h.look_again_at <= now())
(select u.job_id from job u join kinds using (job_type)
 where u.destination_id = %(destination_id)s and u.urgency < %(urgency)s and u.status = 'ready'
   and u.dispatched_at > now() - make_interval(secs => %(fresh_s)s)
 limit 1)
union all
(select top.job_id from kinds cross join lateral (
     select u.job_id, u.urgency from job u
     where u.destination_id = %(destination_id)s and u.job_type = kinds.job_type and u.status = 'waiting'
       and u.urgency < %(urgency)s and u.not_before <= now() and blocked_by(u) is null
     order by u.urgency, u.job_id
     limit 1) top
 order by top.urgency, top.job_id
 limit 1);

-- name: next_wake
-- When the next job, probe or closed destination falls due, if nothing happens before.
select least(
    (select min(not_before) from job where status = 'waiting' and job_type <> 'iocm' and not_before > now()),
    (select min(probe_at) from destination_health where down_since is not null and probe_at > now()),
    (select min(look_again_at) from destination_health where look_again_at > now())) as at;

-- name: seen_run
-- Airflow runs a job it was handed.
update job set dag_id = %(dag_id)s, run_id = %(run_id)s
where job_id = %(job_id)s and status = 'ready' and run_id is null;

-- name: unseen_ready
-- Jobs handed to Airflow for which no run ever began: their keys were lost.
update job set status = 'waiting', wait_reason = 'queue', updated_at = now()
where status = 'ready' and run_id is null and dispatched_at < now() - make_interval(secs => %(lost_after_s)s)
returning job_id;

-- name: overdue_in_hand
-- Jobs in Airflow's hands that may be lost: the lease ran out, or the next attempt is long overdue. An iocm job has no run.
select j.*, d.name as destination from job j join destination d using (destination_id)
where j.job_type <> 'iocm' and (
    (j.status = 'running' and j.lease_until < now() - make_interval(secs => %(grace_s)s))
    or (j.status = 'retrying'
        and coalesce(j.next_attempt_at, j.updated_at) < now() - make_interval(secs => %(grace_s)s))
    or (j.status = 'ready' and j.run_id is not null and j.dispatched_at < now() - make_interval(secs => %(grace_s)s)));
