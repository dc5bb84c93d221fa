-- Pages of jobs by status and type alone, at any destination: one probe for each pair instead of one for each destination.
create index job_page_kind on job (status, job_type, created_at, job_id);

-- A page asks on a new connection what blocks each of its waiting jobs. PostgreSQL 18 would plan that anew for each of the
-- first five, which takes longer than all the rest of the page; the plan never depends on the job.
alter function blocked_by(job) set plan_cache_mode = 'force_generic_plan';
