-- name: add
-- Hold a study back.
insert into study_hold (study_key, study_instance_uid, held_by, reason)
values (%(study_key)s, %(study_instance_uid)s, %(held_by)s, %(reason)s) on conflict do nothing;

-- name: remove
-- Release a study.
delete from study_hold where study_key = %(study_key)s;

-- name: listing
-- All holds, newest first.
select study_key, study_instance_uid, held_by, reason, held_at from study_hold order by held_at desc, study_key;

-- name: held_back
-- Which of some studies are held back.
select study_key from study_hold where study_key = any(%(study_keys)s);
