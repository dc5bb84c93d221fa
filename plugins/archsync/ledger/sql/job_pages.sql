-- name: newest
-- The newest jobs of any kind (job_newest).
select job_id from job
where created_at >= %(since)s and (created_at, job_id) < (%(before_at)s, %(before_job_id)s)
order by created_at desc, job_id desc
limit %(limit)s;

-- name: by_kind
-- The newest jobs of some types and statuses (job_page_kind). Only combinations whose own newest job is among the newest of
-- all can have part in the page. Of those alone more is read, and the less the older their newest is.
with combination as materialized (
    select s.status, t.job_type, top.created_at, top.job_id,
           row_number() over (order by top.created_at desc, top.job_id desc) as place
    from unnest(%(job_types)s::text[]) t(job_type)
    cross join unnest(%(statuses)s::text[]) s(status)
    cross join lateral (
        select j.created_at, j.job_id from job j
        where j.status = s.status and j.job_type = t.job_type
          and j.created_at >= %(since)s and (j.created_at, j.job_id) < (%(before_at)s, %(before_job_id)s)
        order by j.created_at desc, j.job_id desc
        limit 1) top
    order by top.created_at desc, top.job_id desc
    limit %(limit)s)
select m.job_id from combination c
cross join lateral (
    select j.created_at, j.job_id from job j
    where j.status = c.status and j.job_type = c.job_type
      and j.created_at >= %(since)s and (j.created_at, j.job_id) <= (c.created_at, c.job_id)
    order by j.created_at desc, j.job_id desc
    limit %(limit)s - c.place + 1) m
order by m.created_at desc, m.job_id desc
limit %(limit)s;

-- name: by_destination
-- The same at some destinations (job_page).
with combination as materialized (
    select s.status, t.job_type, d.destination_id, top.created_at, top.job_id,
           row_number() over (order by top.created_at desc, top.job_id desc) as place
    from destination d
    cross join unnest(%(job_types)s::text[]) t(job_type)
    cross join unnest(%(statuses)s::text[]) s(status)
    cross join lateral (
        select j.created_at, j.job_id from job j
        where j.status = s.status and j.job_type = t.job_type and j.destination_id = d.destination_id
          and j.created_at >= %(since)s and (j.created_at, j.job_id) < (%(before_at)s, %(before_job_id)s)
        order by j.created_at desc, j.job_id desc
        limit 1) top
    where (%(destinations)s::text[] is null or d.name = any(%(destinations)s))
      and (%(gateways)s::text[] is null or d.gateway = any(%(gateways)s))
    order by top.created_at desc, top.job_id desc
    limit %(limit)s)
select m.job_id from combination c
cross join lateral (
    select j.created_at, j.job_id from job j
    where j.status = c.status and j.job_type = c.job_type and j.destination_id = c.destination_id
      and j.created_at >= %(since)s and (j.created_at, j.job_id) <= (c.created_at, c.job_id)
    order by j.created_at desc, j.job_id desc
    limit %(limit)s - c.place + 1) m
order by m.created_at desc, m.job_id desc
limit %(limit)s;

-- name: by_facility
-- The same for jobs of some facilities at any destination (job_page_facility).
with combination as materialized (
    select f.facility_id, s.status, t.job_type, top.created_at, top.job_id,
           row_number() over (order by top.created_at desc, top.job_id desc) as place
    from unnest(%(facilities)s::text[]) f(facility_id)
    cross join unnest(%(job_types)s::text[]) t(job_type)
    cross join unnest(%(statuses)s::text[]) s(status)
    cross join lateral (
        select j.created_at, j.job_id from job j
        where j.facility_id = f.facility_id and j.status = s.status and j.job_type = t.job_type
          and j.created_at >= %(since)s and (j.created_at, j.job_id) < (%(before_at)s, %(before_job_id)s)
        order by j.created_at desc, j.job_id desc
        limit 1) top
    order by top.created_at desc, top.job_id desc
    limit %(limit)s)
select m.job_id from combination c
cross join lateral (
    select j.created_at, j.job_id from job j
    where j.facility_id = c.facility_id and j.status = c.status and j.job_type = c.job_type
      and j.created_at >= %(since)s and (j.created_at, j.job_id) <= (c.created_at, c.job_id)
    order by j.created_at desc, j.job_id desc
    limit %(limit)s - c.place + 1) m
order by m.created_at desc, m.job_id desc
limit %(limit)s;

-- name: by_facility_destination
-- The same for jobs of some facilities at some destinations (job_page_facility_destination).
with combination as materialized (
    select f.facility_id, s.status, t.job_type, d.destination_id, top.created_at, top.job_id,
           row_number() over (order by top.created_at desc, top.job_id desc) as place
    from destination d
    cross join unnest(%(facilities)s::text[]) f(facility_id)
    cross join unnest(%(job_types)s::text[]) t(job_type)
    cross join unnest(%(statuses)s::text[]) s(status)
    cross join lateral (
        select j.created_at, j.job_id from job j
        where j.facility_id = f.facility_id and j.destination_id = d.destination_id and j.status = s.status
          and j.job_type = t.job_type
          and j.created_at >= %(since)s and (j.created_at, j.job_id) < (%(before_at)s, %(before_job_id)s)
        order by j.created_at desc, j.job_id desc
        limit 1) top
    where (%(destinations)s::text[] is null or d.name = any(%(destinations)s))
      and (%(gateways)s::text[] is null or d.gateway = any(%(gateways)s))
    order by top.created_at desc, top.job_id desc
    limit %(limit)s)
select m.job_id from combination c
cross join lateral (
    select j.created_at, j.job_id from job j
    where j.facility_id = c.facility_id and j.destination_id = c.destination_id and j.status = c.status
      and j.job_type = c.job_type
      and j.created_at >= %(since)s and (j.created_at, j.job_id) <= (c.created_at, c.job_id)
    order by j.created_at desc, j.job_id desc
    limit %(limit)s - c.place + 1) m
order by m.created_at desc, m.job_id desc
limit %(limit)s;

-- name: by_subject
-- The newest of the jobs with some numbers, or on a study: few, so all of them are read (job_pkey, job_page_study).
select j.job_id from job j join destination d using (destination_id)
where j.job_id in (select unnest(%(job_ids)s::bigint[])
                   union select s.job_id from job s where s.study_instance_uid = %(study_instance_uid)s)
  and (%(study_instance_uid)s::text is null or j.study_instance_uid = %(study_instance_uid)s)
  and (%(job_ids)s::bigint[] is null or j.job_id = any(%(job_ids)s))
  and j.status = any(%(statuses)s) and j.job_type = any(%(job_types)s)
  and (%(destinations)s::text[] is null or d.name = any(%(destinations)s))
  and (%(gateways)s::text[] is null or d.gateway = any(%(gateways)s))
  and (%(facilities)s::text[] is null or j.facility_id = any(%(facilities)s))
  and j.created_at >= %(since)s and (j.created_at, j.job_id) < (%(before_at)s, %(before_job_id)s)
order by j.created_at desc, j.job_id desc
limit %(limit)s;

-- name: place
-- Where a job stands in the order of the pages; of a number that no job has, where it would stand.
select created_at from job where job_id <= %(job_id)s order by job_id desc limit 1;

-- name: count_by_kind
-- How many jobs of some types are in each status, counted up to a cap (job_page_kind).
select s.status, (
    select count(*) from (
        select from unnest(%(job_types)s::text[]) t(job_type)
        cross join lateral (
            select from job j
            where j.status = s.status and j.job_type = t.job_type
              and j.created_at >= %(since)s and j.created_at < %(until)s
            limit %(cap)s) found
        limit %(cap)s) capped) as jobs
from unnest(%(statuses)s::text[]) s(status);

-- name: count_by_destination
-- The same at some destinations (job_page).
select s.status, (
    select count(*) from (
        select from destination d
        cross join unnest(%(job_types)s::text[]) t(job_type)
        cross join lateral (
            select from job j
            where j.status = s.status and j.job_type = t.job_type and j.destination_id = d.destination_id
              and j.created_at >= %(since)s and j.created_at < %(until)s
            limit %(cap)s) found
        where (%(destinations)s::text[] is null or d.name = any(%(destinations)s))
          and (%(gateways)s::text[] is null or d.gateway = any(%(gateways)s))
        limit %(cap)s) capped) as jobs
from unnest(%(statuses)s::text[]) s(status);

-- name: count_by_facility
-- The same for jobs of some facilities at any destination (job_page_facility).
select s.status, (
    select count(*) from (
        select from unnest(%(facilities)s::text[]) f(facility_id)
        cross join unnest(%(job_types)s::text[]) t(job_type)
        cross join lateral (
            select from job j
            where j.facility_id = f.facility_id and j.status = s.status and j.job_type = t.job_type
              and j.created_at >= %(since)s and j.created_at < %(until)s
            limit %(cap)s) found
        limit %(cap)s) capped) as jobs
from unnest(%(statuses)s::text[]) s(status);

-- name: count_by_facility_destination
-- The same for jobs of some facilities at some destinations (job_page_facility_destination).
select s.status, (
    select count(*) from (
        select from destination d
        cross join unnest(%(facilities)s::text[]) f(facility_id)
        cross join unnest(%(job_types)s::text[]) t(job_type)
        cross join lateral (
            select from job j
            where j.facility_id = f.facility_id and j.destination_id = d.destination_id and j.status = s.status
              and j.job_type = t.job_type and j.created_at >= %(since)s and j.created_at < %(until)s
            limit %(cap)s) found
        where (%(destinations)s::text[] is null or d.name = any(%(destinations)s))
          and (%(gateways)s::text[] is null or d.gateway = any(%(gateways)s))
        limit %(cap)s) capped) as jobs
from unnest(%(statuses)s::text[]) s(status);

-- name: count_by_subject
-- The same for the jobs with some numbers, or on a study (job_pkey, job_page_study).
select j.status, count(*) as jobs from job j join destination d using (destination_id)
where j.job_id in (select unnest(%(job_ids)s::bigint[])
                   union select s.job_id from job s where s.study_instance_uid = %(study_instance_uid)s)
  and (%(study_instance_uid)s::text is null or j.study_instance_uid = %(study_instance_uid)s)
  and (%(job_ids)s::bigint[] is null or j.job_id = any(%(job_ids)s))
  and j.status = any(%(statuses)s) and j.job_type = any(%(job_types)s)
  and (%(destinations)s::text[] is null or d.name = any(%(destinations)s))
  and (%(gateways)s::text[] is null or d.gateway = any(%(gateways)s))
  and (%(facilities)s::text[] is null or j.facility_id = any(%(facilities)s))
  and j.created_at >= %(since)s and j.created_at < %(until)s
group by j.status;

-- name: facilities
-- The facilities that jobs are of, one index probe for each (job_page_facility).
with recursive found(facility_id) as (
    (select facility_id from job where facility_id is not null order by facility_id limit 1)
    union all
    select (select j.facility_id from job j where j.facility_id > f.facility_id and j.facility_id is not null
            order by j.facility_id limit 1)
    from found f where f.facility_id is not null)
select facility_id from found where facility_id is not null;
