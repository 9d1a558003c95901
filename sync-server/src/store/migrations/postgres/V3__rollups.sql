-- Rollups, what is due of them, and up to where retention has been.

-- One of first_… and one of last_… is set, as in readings; none where nothing was measured.
create table rollup_minutes (
    time        timestamptz not null,
    point       integer     not null,
    count       bigint      not null,
    good        bigint      not null,
    numbers     bigint      not null,                 -- those in sum, min and max
    quality     smallint    not null,                 -- the worst
    sum         double precision not null,
    min         double precision,
    max         double precision,
    first_value double precision,
    first_whole bigint,
    first_state boolean,
    first_text  text,
    last_value  double precision,
    last_whole  bigint,
    last_state  boolean,
    last_text   text,
    primary key (point, time)
);
create table rollup_hours (like rollup_minutes including all);
create table rollup_days (like rollup_minutes including all);

-- Buckets to be made anew. Written by every transaction that stores readings: no foreign key.
create table rollups_due (
    due    bigint generated always as identity primary key,
    agent  bigint   not null,
    grain  smallint not null,                         -- 0 minutes, 1 hours, 2 days
    first  bigint   not null,                         -- bucket since 1970
    last   bigint   not null,
    points bytea    not null,                         -- see rollups.rs; empty: all of the agent
    noted  bigint   not null                          -- microseconds since 1970
);
create index rollups_due_agent on rollups_due (agent);

-- Microseconds since 1970, before which a point's rows are rolled up and gone.
create table horizons (
    point    integer primary key,
    readings bigint not null default 0,
    minutes  bigint not null default 0,
    hours    bigint not null default 0
);

-- What the books count of a batch set aside, and what is added to the offset it states, microseconds.
alter table set_aside add column readings   bigint  not null default 0;
alter table set_aside add column correction bigint  not null default 0;

-- What is here already.
insert into rollups_due (agent, grain, first, last, points, noted)
    select agent, 0, min(extract(epoch from first) / 60)::bigint - 1,
           max(extract(epoch from last) / 60)::bigint, '', 0
    from (select p.agent, (select min(time) from readings r where r.point = p.point) as first,
                 (select max(time) from readings r where r.point = p.point) as last from points p) found
    where first is not null group by agent;
