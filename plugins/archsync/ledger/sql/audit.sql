-- name: record
-- Record who did what.
insert into audit_event (actor, action, subject, detail) values (%(actor)s, %(action)s, %(subject)s, %(detail)s);

-- name: place
-- When an event was.
select at from audit_event where audit_event_id = %(event_id)s;

-- name: page
-- So many events, newest first, before where the last page ended. Which index serves depends on what is asked for, so it is
-- planned anew each time; all end in the order of the page.
select audit_event_id as event_id, at, actor, action, subject, detail from audit_event
where at >= %(since)s and (at, audit_event_id) < (%(before_at)s, %(before_event_id)s)
  and (%(actors)s::text[] is null or actor = any(%(actors)s))
  and (%(actions)s::text[] is null or action = any(%(actions)s))
  and (%(subject)s::text is null or subject = %(subject)s)
order by at desc, audit_event_id desc limit %(limit)s;
