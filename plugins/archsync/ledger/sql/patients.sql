-- name: held
-- How destinations know some patients.
select destination_id, patient_key, patient_id, issuer_of_patient_id, name, birth_date, sex, merged_into,
       introduced_at is not null as is_introduced
from held_patient
where patient_key = any(%(patient_keys)s) and destination_id = any(%(destination_ids)s);

-- name: learn
-- A destination is about to get its first instance of a patient, and to know them by it.
insert into held_patient (destination_id, patient_key, patient_id, issuer_of_patient_id, name, birth_date, sex)
values (%(destination_id)s, %(patient_key)s, %(patient_id)s, %(issuer_of_patient_id)s, %(name)s, %(birth_date)s, %(sex)s)
on conflict do nothing;

-- name: tell
-- A destination acknowledged what it was told of a patient.
insert into held_patient (destination_id, patient_key, patient_id, issuer_of_patient_id, name, birth_date, sex,
                          introduced_at)
values (%(destination_id)s, %(patient_key)s, %(patient_id)s, %(issuer_of_patient_id)s, %(name)s, %(birth_date)s, %(sex)s,
        now())
on conflict (destination_id, patient_key) do update
set introduced_at = coalesce(held_patient.introduced_at, now()), patient_id = excluded.patient_id, issuer_of_patient_id = excluded.issuer_of_patient_id, name = excluded.name,
    birth_date = excluded.birth_date, sex = excluded.sex, merged_into = null, updated_at = now();

-- name: merge
-- A destination acknowledged that a patient gave way to another.
update held_patient set merged_into = %(merged_into)s, updated_at = now()
where destination_id = %(destination_id)s and patient_key = %(patient_key)s;

-- name: holders
-- Which patients a destination knows by an identifier.
select patient_key from held_patient
where destination_id = %(destination_id)s and patient_id = %(patient_id)s
  and issuer_of_patient_id is not distinct from %(issuer_of_patient_id)s and merged_into is null
  and introduced_at is not null;

-- name: known_by
-- Whom a destination knows by an identifier, or may know by it, since something of theirs was offered and not answered. Where
-- one of two says no issuer, an archive takes them for the same.
select p.patient_key, p.patient_id, p.issuer_of_patient_id, p.name, p.birth_date, p.sex, p.merged_into,
       p.introduced_at is not null as is_introduced
from held_patient p
where p.destination_id = %(destination_id)s and p.patient_id = %(patient_id)s and p.merged_into is null
  and (%(issuer_of_patient_id)s::text is null or coalesce(p.issuer_of_patient_id, %(issuer_of_patient_id)s) = %(issuer_of_patient_id)s)
  and (p.introduced_at is not null or exists (
      select from placed_series s join placement using (placed_series_id) join held_instance h using (placement_id)
      where s.patient_key = p.patient_key and h.destination_id = p.destination_id and h.stored_at is null
        and h.rejected_by is null));

-- name: retire
-- A message ended an identifier at a destination; it was this patient's.
insert into retired_identifier (destination_id, patient_id, issuer_of_patient_id, patient_key)
values (%(destination_id)s, %(patient_id)s, %(issuer_of_patient_id)s, %(patient_key)s)
on conflict (destination_id, patient_id, issuer_of_patient_id) do update
set patient_key = excluded.patient_key, retired_at = now();

-- name: revive
-- A destination took a message that gives an identifier to somebody: it is in use again.
delete from retired_identifier
where destination_id = %(destination_id)s and patient_id = %(patient_id)s
  and issuer_of_patient_id is not distinct from %(issuer_of_patient_id)s;

-- name: gave_up
-- Whose an identifier was at a destination before a message ended it there; issuers as in known_by.
select distinct patient_key from retired_identifier
where destination_id = %(destination_id)s and patient_id = %(patient_id)s
  and (%(issuer_of_patient_id)s::text is null or coalesce(issuer_of_patient_id, %(issuer_of_patient_id)s) = %(issuer_of_patient_id)s);

-- name: file
-- A study goes to a destination for the first time, as this patient's.
insert into filed_study (destination_id, study_instance_uid, patient_key)
values (%(destination_id)s, %(study_instance_uid)s, %(patient_key)s) on conflict do nothing;

-- name: filed_under
-- As whose a study first went to a destination.
select patient_key from filed_study
where destination_id = %(destination_id)s and study_instance_uid = %(study_instance_uid)s;

-- name: introduce
-- A destination acknowledged something of these studies: it knows their patients now.
update held_patient p set introduced_at = now(), updated_at = now()
from filed_study f
where f.destination_id = %(destination_id)s and f.study_instance_uid = any(%(study_instance_uids)s)
  and p.destination_id = f.destination_id and p.patient_key = f.patient_key and p.introduced_at is null;
