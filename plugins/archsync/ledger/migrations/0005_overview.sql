-- The overview, the destinations and what they hold, in the time of what is looked at and not of all that there is.

-- What ended lately, for the charts. A job ends once; what it may become after a retry is entered anew.
create index job_finished on job (finished_at, destination_id, status) where finished_at is not null;
create index job_attempt_sent on job_attempt (finished_at) include (job_id, instances_done, bytes_done) where instances_done > 0;
-- Holds, newest first, and by the UID that administrators know.
create index study_hold_newest on study_hold (held_at desc, study_key);
create index study_hold_study on study_hold (study_instance_uid);
