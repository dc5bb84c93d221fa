-- The ledger: what every archive provably holds, and the jobs that close the difference to the platform.

create table gateway (
    gateway_id        int generated always as identity primary key,
    name              text not null unique,
    facility_group    text not null,
    queue             text not null,
    state             text not null default 'pending' check (state in ('pending', 'online', 'degraded', 'offline')),
    last_heartbeat_at timestamptz,
    version           text,
    created_at        timestamptz not null default now()
);

-- One column per field of archsync.core.destination.Destination, same name.
create table destination (
    destination_id       int generated always as identity primary key,
    name                 text not null unique,
    called_ae_title      text not null,
    host                 text not null,
    port                 int not null,
    calling_ae_title     text not null,
    gateway              text references gateway (name) on update cascade,
    enabled              boolean not null,
    trigger_status       text not null check (trigger_status in ('Pending', 'Inflight', 'Completed')),
    facilities           text[] not null,
    facility_groups      text[] not null,
    max_attempts         int not null,
    retry_delay_s        double precision not null,
    retry_multiplier     double precision not null,
    retry_cap_s          double precision not null,
    retry_jitter         double precision not null,
    give_up_after_s      double precision not null,
    settle_s             double precision not null,
    settle_max_s         double precision not null,
    send_window          text,
    time_zone            text not null,
    concurrency          int not null,
    verification         text not null check (verification in ('none', 'c-find')),
    connect_timeout_s    double precision not null,
    acse_timeout_s       double precision not null,
    dimse_timeout_s      double precision not null,
    network_timeout_s    double precision not null,
    breaker_threshold    int not null,
    probe_delay_s        double precision not null,
    probe_cap_s          double precision not null,
    tls                  boolean not null,
    tls_ca_file          text,
    tls_certificate_file text,
    tls_private_key_file text,
    tls_check_hostname   boolean not null,
    profile              text not null,
    supports_iocm        boolean,
    rejection_titles     text[] not null,
    without_iocm         text not null,
    note_order           text not null,
    max_note_references  int not null,
    quality_modifier     text,
    adt_host                    text,
    adt_port                    int not null,
    adt_concurrency             int not null,
    adt_connect_timeout_s       double precision not null,
    adt_idle_close_s            double precision not null,
    adt_tls                     boolean not null,
    adt_tls_ca_file             text,
    adt_tls_certificate_file    text,
    adt_tls_private_key_file    text,
    adt_tls_check_hostname      boolean not null,
    adt_receiving_application   text,
    adt_receiving_facility      text,
    adt_sending_application     text not null,
    adt_sending_facility        text,
    adt_version                 text not null,
    adt_character_set           text not null,
    adt_update_trigger          text not null,
    adt_merge_trigger           text not null,
    adt_processing_id           text not null,
    adt_patient_class           text not null,
    adt_identifier_type         text not null,
    adt_wants_commit_ack        boolean not null,
    adt_ack_timeout_s           double precision not null,
    adt_ack_overrides           text[] not null,
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now()
);

-- Per destination and kind of job (the DAG that runs it): the circuit breaker (archive and iocm share the one of archive: it is
-- the same DICOM peer), whether its DAG was seen paused, and when the dispatcher looks at it again after it found it closed
-- (paused, outside its send window, disabled). Created with the destination.
create table destination_health (
    destination_id int not null references destination on delete cascade,
    kind           text not null check (kind in ('archive', 'iocm', 'adt')),
    failures       int not null default 0,
    down_since     timestamptz,
    probe_at       timestamptz,
    reason_code    text,
    reason         text,
    is_suspended   boolean not null default false,
    look_again_at  timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    primary key (destination_id, kind)
);

-- Where instances lie: said once per series, patient and SOP class, which keeps placement narrow. UIDs are those that
-- archives get; source_series_instance_uid is the platform's where it differs.
create table placed_series (
    placed_series_id           bigint generated always as identity primary key,
    study_key                  text not null collate "C",
    patient_key                text not null collate "C",
    study_instance_uid         text not null collate "C",
    series_instance_uid        text not null collate "C",
    source_series_instance_uid text collate "C",
    sop_class_uid              text not null collate "C",
    unique nulls not distinct (study_key, series_instance_uid, study_instance_uid, patient_key, source_series_instance_uid, sop_class_uid)
);
-- Under which patient a study's UID, and in which study a series' UID, went out first.
create index placed_series_study_uid on placed_series (study_instance_uid);
create index placed_series_patient on placed_series (patient_key);
create index placed_series_series_uid on placed_series (series_instance_uid);

-- One content of an instance in one place (patient, study, series): what a SOP Instance UID stands for, at every archive.
-- Written before it is first offered to any. A SOP Instance UID never names two of them.
create table placement (
    placement_id            bigint generated always as identity primary key,
    placed_series_id        bigint not null references placed_series,
    placed_at               timestamptz not null default now(),
    content_version         int not null,
    placement_no            smallint not null,
    instance_key            text not null collate "C",
    sop_instance_uid        text not null collate "C",
    source_sop_instance_uid text collate "C",
    unique (instance_key, placement_no),
    exclude using hash (sop_instance_uid with =)
);
create index placement_series on placement (placed_series_id);

-- One row per placement that was offered to an archive. stored_at: it acknowledged it (C-STORE 0000 or Bxxx), which is the
-- answer to "what does archive X hold?"; without, it may or may not have it. rejected_by: the note that withdraws it.
-- Sized for 10^9 rows: fixed-width columns only, one index, one partition per destination.
create table held_instance (
    destination_id int not null,
    store_status   int,
    placement_id   bigint not null,
    rejected_by    bigint,
    stored_at      timestamptz,
    verified_at    timestamptz,
    primary key (placement_id, destination_id)
) partition by list (destination_id);
-- A SOP Instance UID that a note withdrew anywhere is burnt everywhere.
create index held_instance_rejected on held_instance (placement_id) where rejected_by is not null;

-- Key images, presentation states and the like that point at withdrawn instances: what is to become of them.
create table dependant (
    placement_id bigint primary key references placement,
    decision     text not null check (decision in ('replace', 'withdraw')),
    decided_at   timestamptz not null default now()
);

-- A patient as a destination knows it: as it was in the first instance offered there, then as in the last ADT message that was
-- acknowledged. introduced_at: it acknowledged something of theirs. merged_into: they gave way to another there.
create table held_patient (
    destination_id       int not null references destination on delete cascade,
    patient_key          text not null collate "C",
    patient_id           text not null,
    issuer_of_patient_id text,
    name                 text not null,
    birth_date           date,
    sex                  text,
    merged_into          text collate "C",
    introduced_at        timestamptz,
    updated_at           timestamptz not null default now(),
    primary key (destination_id, patient_key)
);
-- Whether an identifier is somebody else's there already.
create index held_patient_id on held_patient (destination_id, patient_id) where merged_into is null;

-- As whose a study first went to a destination, by its UID there: a study is one patient's.
create table filed_study (
    destination_id     int not null references destination on delete cascade,
    study_instance_uid text not null collate "C",
    patient_key        text not null collate "C",
    primary key (destination_id, study_instance_uid)
);

-- When a study was first wholly archived at a destination.
create table held_study (
    destination_id int not null,
    study_key      text not null collate "C",
    archived_at    timestamptz not null,
    primary key (destination_id, study_key)
);

create table job (
    job_id             bigint generated always as identity primary key,
    job_type           text not null check (job_type in ('archive', 'dicom', 'iocm', 'kos', 'adt')),
    status             text not null default 'waiting'
        check (status in ('waiting', 'ready', 'running', 'retrying', 'succeeded', 'failed', 'suppressed', 'cancelled')),
    destination_id     int not null references destination,
    priority           smallint not null,
    patient_key        text not null collate "C",
    prior_patient_key  text collate "C",
    study_key          text collate "C",
    study_instance_uid text collate "C",
    parent_job_id      bigint references job,
    facility_id        text,
    content_digest     text,
    adt_change         text check (adt_change in ('merge', 'identifier', 'demographics')),
    wait_reason        text,
    not_before         timestamptz not null default now(),
    reason_code        text,
    reason             text,
    instances_total    int not null default 0,
    instances_done     int not null default 0,
    instances_failed   int not null default 0,
    bytes_total        bigint not null default 0,
    bytes_done         bigint not null default 0,
    attempts           int not null default 0,
    created_at         timestamptz not null default now(),
    updated_at         timestamptz not null default now(),
    first_attempt_at   timestamptz,
    started_at         timestamptz,
    finished_at        timestamptz,
    next_attempt_at    timestamptz,
    dispatched_at      timestamptz,
    dag_id             text,
    run_id             text,
    try_number         int,
    attempt_id         bigint,
    lease_until        timestamptz,
    requested_by       text,
    decided_by         text,
    superseded_by      bigint references job
);
-- Work on one study at one destination coalesces in a single queued job.
create unique index job_one_queued on job (destination_id, study_key)
    where status in ('waiting', 'ready') and job_type in ('archive', 'dicom');
-- The dispatcher's order: most urgent, then oldest.
create index job_waiting on job (destination_id, job_type, priority, job_id) where status = 'waiting';
-- What falls due next.
create index job_due on job (not_before) where status = 'waiting' and job_type <> 'iocm';
-- The lane rule, the planner and the sweeper look at jobs that are not done.
create index job_undone_lane on job (destination_id, patient_key, job_id)
    where status in ('waiting', 'ready', 'running', 'retrying', 'failed');
create index job_in_hand on job (status, dispatched_at) where status in ('ready', 'running', 'retrying');
create index job_study on job (study_key, destination_id, job_id);
create index job_steps on job (parent_job_id) where parent_job_id is not null;
create index job_superseded on job (superseded_by) where superseded_by is not null;
create index job_undone_prior on job (destination_id, prior_patient_key, job_id)
    where prior_patient_key is not null and status in ('waiting', 'ready', 'running', 'retrying', 'failed');
create index job_undone_study on job (destination_id, study_key, job_id)
    where status in ('waiting', 'ready', 'running', 'retrying', 'failed');
create index job_run on job (run_id);
create index job_newest on job (created_at desc, job_id desc);

-- A step that waits for another, also of another study: a rejection note for the replacements of what it rejects.
create table job_dependency (
    job_id            bigint not null references job on delete cascade,
    depends_on_job_id bigint not null references job on delete cascade,
    primary key (job_id, depends_on_job_id)
);
create index job_dependency_of on job_dependency (depends_on_job_id);

create table job_attempt (
    attempt_id     bigint generated always as identity primary key,
    job_id         bigint not null references job,
    dag_id         text not null,
    run_id         text not null,
    try_number     int not null,
    started_at     timestamptz not null default now(),
    finished_at    timestamptz,
    outcome        text,
    reason_code    text,
    reason         text,
    counted        boolean not null default false,
    instances_done int not null default 0,
    bytes_done     bigint not null default 0
);
create index job_attempt_job on job_attempt (job_id, attempt_id);

-- Instances that could not be sent in a job's latest attempt, each with its reason.
create table job_failure (
    job_id           bigint not null references job,
    instance_key     text not null collate "C",
    sop_instance_uid text not null,
    store_status     int,
    code             text not null,
    message          text not null,
    at               timestamptz not null default now(),
    primary key (job_id, instance_key)
);

-- Rejection notes: encoded once, before they are first sent, and resent byte for byte. `encoded` is purged after success.
create table rejection_note (
    note_id            bigint generated always as identity primary key,
    job_id             bigint not null references job,
    destination_id     int not null references destination,
    study_key          text not null collate "C",
    study_instance_uid text not null,
    sop_instance_uid   text not null unique,
    title              text not null,
    scope              smallint not null,
    part               smallint not null,
    instances          int not null,
    encoded            bytea,
    built_at           timestamptz not null default now(),
    sent_at            timestamptz,
    stored_at          timestamptz,
    store_status       int,
    abandoned_at       timestamptz
);
create index rejection_note_job on rejection_note (job_id);
create index rejection_note_kept on rejection_note (stored_at) where encoded is not null;
create index rejection_note_open on rejection_note (destination_id, study_key) where stored_at is null and abandoned_at is null;

-- ADT messages: encoded once and resent byte for byte with the same control id. `encoded` is purged after success. What the
-- archive knows of the patient once it acknowledged stands beside it.
create table adt_message (
    message_id           bigint generated always as identity primary key,
    job_id               bigint not null references job,
    trigger_event        text not null,
    control_id           text not null unique,
    encoded              bytea,
    patient_key          text not null collate "C",
    prior_patient_key    text collate "C",
    patient_id           text not null,
    issuer_of_patient_id text,
    name                 text not null,
    birth_date           date,
    sex                  text,
    built_at             timestamptz not null default now(),
    first_sent_at        timestamptz,
    unanswered           int not null default 0,
    acknowledged_at      timestamptz,
    ack_code             text
);
create index adt_message_job on adt_message (job_id);
create index adt_message_in_doubt on adt_message (patient_key) where acknowledged_at is null and unanswered > 0;
create index adt_message_kept on adt_message (acknowledged_at) where encoded is not null;

-- Studies that an administrator holds back: nothing of them is sent anywhere until they are released.
create table study_hold (
    study_key          text primary key collate "C",
    study_instance_uid text not null,
    held_by            text not null,
    reason             text not null,
    held_at            timestamptz not null default now()
);

-- Studies to look at again, filled in the same transaction as the platform's watermark moves.
create table study_queue (
    study_key text primary key collate "C",
    queued_at timestamptz not null default now()
);
create index study_queue_oldest on study_queue (queued_at);

-- Studies the planner can't read, with the reason: shown, and tried again when the study changes.
create table study_problem (
    study_key text primary key collate "C",
    code      text not null,
    message   text not null,
    at        timestamptz not null default now()
);

-- Up to where the platform was read; null: not at all. A reset must not be lost to a reader that is under way: it is
-- counted, and the reader compares.
create table platform_watermark (
    only_one  boolean primary key default true check (only_one),
    watermark text,
    resets    bigint not null default 0,
    read_at   timestamptz not null default now()
);

create table audit_event (
    audit_event_id bigint generated always as identity primary key,
    at             timestamptz not null default now(),
    actor          text not null,
    action         text not null,
    subject        text not null,
    detail         text not null default ''
);

-- The lane rule (core.waiting.blocks): the earliest undone job that holds back job j at its destination: on the same study,
-- across an ADT message of the same patient (a merge has two), or one that j depends on. The parent of steps holds back
-- nobody. The one place that says it in SQL.
create function blocked_by(j job) returns bigint language sql stable parallel safe as $$
    select min(found.job_id) from (
        select e.job_id from job e
        where e.destination_id = j.destination_id and e.study_key = j.study_key and e.job_id < j.job_id
          and e.job_type <> 'iocm' and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
        union all
        select e.job_id from job e
        where e.destination_id = j.destination_id and e.patient_key in (j.patient_key, j.prior_patient_key)
          and e.job_id < j.job_id and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
          and (e.job_type = 'adt' or j.job_type = 'adt') and e.job_type <> 'iocm'
        union all
        select e.job_id from job e
        where e.destination_id = j.destination_id and e.prior_patient_key in (j.patient_key, j.prior_patient_key)
          and e.job_id < j.job_id and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')
          and (e.job_type = 'adt' or j.job_type = 'adt') and e.job_type <> 'iocm'
        union all
        select e.job_id from job_dependency d join job e on e.job_id = d.depends_on_job_id
        where d.job_id = j.job_id and e.status in ('waiting', 'ready', 'running', 'retrying', 'failed')) found
    where j.job_type <> 'iocm'
$$;

-- The status of an iocm job follows its steps: failed while one of them is, done when all are.
create function follow_steps() returns trigger language plpgsql as $$
declare
    step record;
    became text;
begin
    select bool_or(status = 'failed') as any_failed, bool_or(status = 'running') as any_running,
           bool_or(status = 'retrying') as any_retrying, bool_or(status = 'succeeded') as any_succeeded,
           bool_or(status = 'ready') as any_ready,
           bool_and(status in ('succeeded', 'suppressed', 'cancelled')) as all_done,
           bool_and(status = 'cancelled') as all_cancelled, bool_and(status in ('suppressed', 'cancelled')) as none_ran,
           max(attempts) as attempts, min(started_at) as started_at, min(first_attempt_at) as first_attempt_at,
           max(next_attempt_at) as next_attempt_at
    into step from job where parent_job_id = new.parent_job_id;
    became := case when step.any_failed then 'failed' when step.all_cancelled then 'cancelled'
                   when step.all_done and step.none_ran then 'suppressed' when step.all_done then 'succeeded'
                   when step.any_running then 'running' when step.any_retrying then 'retrying'
                   when step.any_succeeded then 'running' when step.any_ready then 'ready' else 'waiting' end;
    update job p
    set status = became, updated_at = now(), attempts = step.attempts, started_at = step.started_at,
        first_attempt_at = step.first_attempt_at, next_attempt_at = step.next_attempt_at,
        finished_at = case when became in ('succeeded', 'failed', 'suppressed', 'cancelled') then now() end,
        wait_reason = case when became = 'waiting' then new.wait_reason end,
        reason_code = coalesce((select s.reason_code from job s where s.parent_job_id = p.job_id and s.status = became
                                order by s.job_id desc limit 1), new.reason_code),
        reason = coalesce((select s.reason from job s where s.parent_job_id = p.job_id and s.status = became
                           order by s.job_id desc limit 1), new.reason)
    where p.job_id = new.parent_job_id and p.job_type = 'iocm';
    return null;
end $$;
create trigger job_step_moved after update of status, parent_job_id on job for each row
    when (new.parent_job_id is not null) execute function follow_steps();

-- NOTIFY is a hint that the dispatcher may find something to do; it looks for itself.
create function notify_work() returns trigger language plpgsql as $$
begin
    perform pg_notify('archsync_work', '');
    return null;
end $$;
create trigger job_made after insert on job for each statement execute function notify_work();
create trigger job_moved after update of status on job for each row
    when (old.status is distinct from new.status and new.status in ('waiting', 'succeeded', 'failed', 'suppressed', 'cancelled'))
    execute function notify_work();
create trigger study_queued after insert on study_queue for each statement execute function notify_work();

-- A destination's partitions are made with it and dropped with it.
create function add_holdings(new_destination_id int) returns void language plpgsql as $$
begin
    execute format('create table held_instance_%s partition of held_instance for values in (%s)', new_destination_id, new_destination_id);
end $$;
