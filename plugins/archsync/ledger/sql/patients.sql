-- name: held
-- How destinations know some patients.
select destination_id, patient_key, patient_id, issuer_of_patient_id, name, birth_date, sex, merged_into from held_patient
where patient_key = any(%(patient_keys)s) and destination_id = any(%(destination_ids)s);

-- name: learn
-- A destination gets its first instance of a patient, and knows them by it.
insert into held_patient (destination_id, patient_key, patient_id, issuer_of_patient_id, name, birth_date, sex)
values (%(destination_id)s, %(patient_key)s, %(patient_id)s, %(issuer_of_patient_id)s, %(name)s, %(birth_date)s, %(sex)s)
on conflict do nothing;

-- name: tell
-- A destination acknowledged what it was told of a patient.
insert into held_patient (destination_id, patient_key, patient_id, issuer_of_patient_id, name, birth_date, sex)
values (%(destination_id)s, %(patient_key)s, %(patient_id)s, %(issuer_of_patient_id)s, %(name)s, %(birth_date)s, %(sex)s)
on conflict (destination_id, patient_key) do update
set patient_id = excluded.patient_id, issuer_of_patient_id = excluded.issuer_of_patient_id, name = excluded.name,
    birth_date = excluded.birth_date, sex = excluded.sex, merged_into = null, updated_at = now();

-- name: merge
-- A destination acknowledged that a patient gave way to another.
update held_patient set merged_into = %(merged_into)s, updated_at = now()
where destination_id = %(destination_id)s and patient_key = %(patient_key)s;

-- name: holders
-- Which patients a destination knows by an identifier.
select patient_key from held_patient
where destination_id = %(destination_id)s and patient_id = %(patient_id)s
  and issuer_of_patient_id is not distinct from %(issuer_of_patient_id)s and merged_into is null;
