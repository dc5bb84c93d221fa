-- The lane rule as before, and more: a running job holds back an earlier one too, which comes back into the lane when an
-- administrator retries what was cancelled.
create or replace function blocked_by(j job) returns bigint language sql stable parallel safe as $$
    select min(found.job_id) from (
        select e.job_id from job e
        where e.destination_id = j.destination_id and e.study_key = j.study_key
          and (e.job_id < j.job_id or e.job_id > j.job_id and e.status = 'running')
          and e.job_type <> 'iocm' and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
        union all
        select e.job_id from job e
        where e.destination_id = j.destination_id and e.patient_key in (j.patient_key, j.prior_patient_key)
          and (e.job_id < j.job_id or e.job_id > j.job_id and e.status = 'running')
          and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
          and (e.job_type = 'adt' or j.job_type = 'adt') and e.job_type <> 'iocm'
        union all
        select e.job_id from job e
        where e.destination_id = j.destination_id and e.prior_patient_key in (j.patient_key, j.prior_patient_key)
          and (e.job_id < j.job_id or e.job_id > j.job_id and e.status = 'running')
          and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
          and (e.job_type = 'adt' or j.job_type = 'adt') and e.job_type <> 'iocm'
        union all
        select e.job_id from job_dependency d join job e on e.job_id = d.depends_on_job_id
        where d.job_id = j.job_id and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')) found
    where j.job_type <> 'iocm'
$$;
