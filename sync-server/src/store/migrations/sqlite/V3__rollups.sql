-- Rollups, what is due of them, and up to where retention has been.

create table rollup_minutes (
    point   integer not null,
    time    integer not null,
    count   integer not null,
    good    integer not null,
    numbers integer not null,                         -- those in sum, min and max
    quality integer not null,                         -- the worst
    sum     real,                                     -- null: infinities that cancel out
    min     real,
    max     real,
    first   any,                                      -- values as in readings
    last    any,
    primary key (point, time)
) strict, without rowid;
create table rollup_hours (
    point   integer not null,
    time    integer not null,
    count   integer not null,
    good    integer not null,
    numbers integer not null,
    quality integer not null,
    sum     real,
    min     real,
    max     real,
    first   any,
    last    any,
    primary key (point, time)
) strict, without rowid;
create table rollup_days (
    point   integer not null,
    time    integer not null,
    count   integer not null,
    good    integer not null,
    numbers integer not null,
    quality integer not null,
    sum     real,
    min     real,
    max     real,
    first   any,
    last    any,
    primary key (point, time)
) strict, without rowid;

-- Buckets to be made anew. Written by every transaction that stores readings.
create table rollups_due (
    due    integer primary key autoincrement,
    agent  integer not null,
    grain  integer not null,                          -- 0 minutes, 1 hours, 2 days
    first  integer not null,                          -- bucket since 1970
    last   integer not null,
    points blob    not null,                          -- see rollups.rs; empty: all of the agent
    noted  integer not null
) strict;
create index rollups_due_agent on rollups_due (agent);

-- Before which a point's rows are rolled up and gone.
create table horizons (
    point    integer primary key,
    readings integer not null default 0,
    minutes  integer not null default 0,
    hours    integer not null default 0
) strict;

-- What the books count of a batch set aside, and what is added to the offset it states, microseconds.
alter table set_aside add column readings   integer not null default 0;
alter table set_aside add column correction integer not null default 0;

-- What is here already.
insert into rollups_due (agent, grain, first, last, points, noted)
    select agent, 0, min(first) / 60000000, max(last) / 60000000, x'', 0
    from (select p.agent, (select min(time) from readings r where r.point = p.point) as first,
                 (select max(time) from readings r where r.point = p.point) as last from points p) found
    where first is not null group by agent;
