-- A reset of the watermark must not be lost to a reader that is under way: it is counted, and the reader compares.
alter table platform_watermark alter column watermark drop not null;
alter table platform_watermark add column resets bigint not null default 0;

-- Administrators ask what an archive holds of a study by its Study Instance UID.
create index held_series_study_uid on held_series (destination_id, study_instance_uid);
