-- name: insert
-- A rejection note, encoded, before it is first sent.
insert into rejection_note (job_id, destination_id, study_key, study_instance_uid, sop_instance_uid, title, scope, part,
                            instances, encoded)
values (%(job_id)s, %(destination_id)s, %(study_key)s, %(study_instance_uid)s, %(sop_instance_uid)s, %(title)s, %(scope)s,
        %(part)s, %(instances)s, %(encoded)s)
returning note_id;

-- name: open
-- Notes about a study that a destination has not taken yet and that were not given up, oldest first, whichever job built them.
select note_id, sop_instance_uid, title, instances from rejection_note
where destination_id = %(destination_id)s and study_key = %(study_key)s and stored_at is null and abandoned_at is null
order by note_id;

-- name: stored_by
-- Which of some notes a destination took while a job worked on their study: those it built, and older ones it delivered.
select n.note_id, n.sop_instance_uid, n.title, n.instances from rejection_note n join job j on j.job_id = %(job_id)s
where n.note_id = any(%(note_ids)s) and n.stored_at is not null and (n.job_id = j.job_id or n.stored_at >= j.started_at)
order by n.note_id;

-- name: encoded
-- The bytes of a note.
select encoded from rejection_note where note_id = %(note_id)s;

-- name: last_scope
-- The highest scope of the notes that a job built.
select coalesce(max(scope), 0) as scope from rejection_note where job_id = %(job_id)s;

-- name: mark_sent
-- A note is about to be sent, for the first time or again.
update rejection_note set sent_at = coalesce(sent_at, now()) where note_id = %(note_id)s;

-- name: mark_stored
-- A destination took a note.
update rejection_note set stored_at = now(), store_status = %(store_status)s where note_id = %(note_id)s;

-- name: reopen
-- A destination took a note and does not do what it says: it has to be sent again.
update rejection_note set stored_at = null where note_id = %(note_id)s;

-- name: abandon
-- A note that is not sent any more: the destination refused it, and another one takes its place.
update rejection_note set abandoned_at = now(), store_status = %(store_status)s
where note_id = %(note_id)s and stored_at is null;

-- name: purge
-- Forget the bytes, which hold a patient's name, of notes that nobody will send again.
update rejection_note set encoded = null
where encoded is not null and coalesce(stored_at, abandoned_at) < %(older_than)s;

-- name: records
-- The notes that some jobs built, by job, oldest first, whole.
select * from rejection_note where job_id = any(%(job_ids)s) order by job_id, note_id;
