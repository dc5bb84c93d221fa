-- The pages: jobs by any filter in the time of a few index probes however many there are, jobs moved to the front, and what
-- an attempt heard from whom.

-- How far ahead of its destination's other jobs somebody moved a job; 0: not at all. A later move goes further.
alter table job add column front int not null default 0;
-- The dispatcher's order, lowest first: three priorities (0, 1, 2) to each step ahead.
alter table job add column urgency int generated always as (priority - 3 * front) stored;
drop index job_waiting;
create index job_waiting on job (destination_id, job_type, urgency, job_id) where status = 'waiting';
create index job_in_front on job (destination_id, front) where front > 0 and status in ('waiting', 'ready');

-- A page reads the newest jobs of each combination of what it filters by.
create index job_page on job (status, job_type, destination_id, created_at, job_id);
create index job_page_facility on job (facility_id, status, job_type, created_at, job_id) where facility_id is not null;
create index job_page_facility_destination on job (facility_id, destination_id, status, job_type, created_at, job_id)
    where facility_id is not null;
create index job_page_study on job (study_instance_uid) where study_instance_uid is not null;

alter table job_attempt add column peer text;
alter table job_attempt add column status_code text;
