-- The running jobs of a destination share its rate and its associations.

alter table destination add column max_bytes_per_s bigint;

-- How fast the running attempt sends, and over how many associations, at its last report; 0 otherwise.
alter table job add column bytes_per_s bigint not null default 0;
alter table job add column associations int not null default 0;
