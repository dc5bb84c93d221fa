-- The audit trail by who, what and what to, newest first, however long it grows.
create index audit_event_newest on audit_event (at, audit_event_id);
create index audit_event_actor on audit_event (actor, at, audit_event_id);
create index audit_event_action on audit_event (action, at, audit_event_id);
create index audit_event_subject on audit_event (subject, at, audit_event_id);
