-- Alarms, what happened to them, and how far each webhook has been told. Intervals in which an agent was
-- not heard.

create table alarms (
    alarm        bigint generated always as identity primary key,
    rule         text        not null,
    kind         text        not null,
    priority     smallint    not null,
    site         text        not null,
    subject      text        not null,
    words        text        not null,
    remedy       text        not null,
    members      text        not null,                -- JSON, see alarms.rs
    raised       timestamptz not null,
    changed      timestamptz not null,
    acknowledged timestamptz,
    by_whom      text        not null default '',
    note         text        not null default '',
    cleared      timestamptz,
    version      bigint      not null default 1
);
create unique index alarms_standing on alarms (rule, subject) where cleared is null;
create index alarms_cleared on alarms (cleared);

-- What is so, and not for long enough yet.
create table alarms_pending (
    rule   text             not null,
    member text             not null,
    since  timestamptz      not null,
    base   double precision not null,
    primary key (rule, member)
);

create table alarm_events (
    event    bigint generated always as identity primary key,
    kind     text        not null,
    priority smallint    not null,
    at       timestamptz not null,
    alarm    text        not null                     -- JSON of the alarm as it was then
);

create table webhooks (
    name     text        primary key,
    position bigint      not null,                    -- the last event that needs no telling any more
    attempts integer     not null default 0,          -- of the next one
    due      timestamptz not null default 'epoch',
    error    text        not null default ''
);

create table silences (
    agent     bigint      not null references agents,
    from_time timestamptz not null,                   -- when it was heard last
    to_time   timestamptz not null,                   -- when it was heard again
    primary key (agent, from_time)
);
