-- Alarms, what happened to them, and how far each webhook has been told. Intervals in which an agent was
-- not heard.

create table alarms (
    alarm        integer primary key autoincrement,
    rule         text    not null,
    kind         text    not null,
    priority     integer not null,
    site         text    not null,
    subject      text    not null,
    words        text    not null,
    remedy       text    not null,
    members      text    not null,                    -- JSON, see alarms.rs
    raised       integer not null,
    changed      integer not null,
    acknowledged integer,
    by_whom      text    not null default '',
    note         text    not null default '',
    cleared      integer,
    version      integer not null default 1
) strict;
create unique index alarms_standing on alarms (rule, subject) where cleared is null;
create index alarms_cleared on alarms (cleared);

-- What is so, and not for long enough yet.
create table alarms_pending (
    rule   text    not null,
    member text    not null,
    since  integer not null,
    base   real    not null,
    primary key (rule, member)
) strict, without rowid;

create table alarm_events (
    event    integer primary key autoincrement,
    kind     text    not null,
    priority integer not null,
    at       integer not null,
    alarm    text    not null                         -- JSON of the alarm as it was then
) strict;

create table webhooks (
    name     text    primary key,
    position integer not null,                        -- the last event that needs no telling any more
    attempts integer not null default 0,              -- of the next one
    due      integer not null default 0,
    error    text    not null default ''
) strict;

create table silences (
    agent     integer not null references agents,
    from_time integer not null,                       -- when it was heard last
    to_time   integer not null,                       -- when it was heard again
    primary key (agent, from_time)
) strict, without rowid;
