-- Whose an identifier was at a destination until a message ended it there. Most archives go on filing under whoever it gave
-- way to, so that nobody else may be sent under it.
create table retired_identifier (
    destination_id       int not null references destination on delete cascade,
    patient_id           text not null,
    issuer_of_patient_id text,
    patient_key          text not null collate "C",
    retired_at           timestamptz not null default now(),
    unique nulls not distinct (destination_id, patient_id, issuer_of_patient_id)
);

-- What becomes of it at the archive: kept (the default: nothing of another patient goes out under it), or freed.
alter table destination add column adt_prior_identifier text not null default 'kept';

-- The identifier that a message ends.
alter table adt_message add column prior_patient_id text, add column prior_issuer_of_patient_id text;
