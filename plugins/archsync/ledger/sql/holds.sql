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

-- name: get
-- The hold of one study.
select study_key, study_instance_uid, held_by, reason, held_at from study_hold where study_key = %(study_key)s;

-- name: by_study
-- The holds on studies with a Study Instance UID.
select study_key, study_instance_uid, held_by, reason, held_at from study_hold
where study_instance_uid = %(study_instance_uid)s;

-- name: page
-- So many holds, newest first, after where the last page ended.
select study_key, study_instance_uid, held_by, reason, held_at from study_hold
where held_at <= %(held_at)s and (held_at < %(held_at)s or study_key > %(study_key)s)
order by held_at desc, study_key limit %(limit)s;

-- name: held_back
-- Which of some studies are held back.
select study_key from study_hold where study_key = any(%(study_keys)s);
