-- Forks, ledgers, faults and corrected times. SQLite cannot change a constraint: tables whose keys
-- grow are made anew. Foreign keys are off while migrations run.

alter table agents add column current integer;        -- the branch (epochs) of the last delivery

-- One row a branch: an epoch's main history, or a fork of it.
create table epochs_v2 (
    epoch_key           integer primary key autoincrement,
    agent               integer not null references agents,
    epoch               blob    not null,
    fork                integer not null default 0,     -- 0: main; else counted up over the agent
    parent              integer references epochs,      -- the branch a fork left
    forked_at           integer not null default 0,     -- lower sequences are booked in the parent,
    forked_revision     integer not null default 0,     -- so are dictionary entries up to this one
    forked_gaps         integer not null default 0,     -- and gaps up to this one
    committed           blob    not null default x'',   -- ranges of sequences, see committed.rs
    dictionary_revision integer not null default 0,
    gaps_known          integer not null default 0,
    newest              integer not null default 0,     -- highest sequence that came with readings
    stored              integer not null default 0,     -- readings, quarantine included
    set_aside_readings  integer not null default 0,
    inherited           integer not null default 0,     -- both, of the history shared with the parent
    uncounted           integer not null default 0,     -- from before there were such counts
    report              blob,                           -- the last forebay.v1.Report
    reported            integer,                        -- when it came
    stored_at_report    integer not null default 0,
    backlog             integer not null default 0,     -- readings that waited in the gateway then
    drained             integer not null default 0,     -- when nothing of a former report waited any more
    refilling           integer not null default 0,     -- the gateway was told of more than is here
    wiped               integer not null default 0,     -- the gateway came back with another buffer
    last_seen           integer not null default 0,
    unique (agent, epoch, fork)
) strict;
-- Which epoch an agent's readings came by was not written down: they count for its first one.
insert into epochs_v2 (epoch_key, agent, epoch, committed, dictionary_revision, gaps_known,
                       stored, uncounted, drained, last_seen)
    select e.epoch_key, e.agent, e.epoch, e.committed, e.dictionary_revision, e.gaps_known,
           case when e.epoch_key = (select min(epoch_key) from epochs f where f.agent = e.agent)
                then a.stored else 0 end,
           1, coalesce(a.last_seen, a.joined),
           case when e.epoch = a.epoch then coalesce(a.last_seen, a.joined) else a.joined end
    from epochs e join agents a on a.agent = e.agent;
drop table epochs;
alter table epochs_v2 rename to epochs;
update agents set current =
    (select epoch_key from epochs e where e.agent = agents.agent and e.epoch = agents.epoch);

create table points_v2 (
    point     integer primary key autoincrement,
    agent     integer not null references agents,
    device    text    not null,
    name      text    not null,
    unit      text    not null,
    kind      text    not null,
    data_type text    not null,
    search    text    not null,                       -- "device/name unit" in lower case
    fork      integer not null default 0,
    unique (agent, device, name, fork)
) strict;
insert into points_v2 (point, agent, device, name, unit, kind, data_type, search)
    select point, agent, device, name, unit, kind, data_type, search from points;
drop table points;
alter table points_v2 rename to points;

-- One sequence may be there several times, with different content.
create table set_aside_v2 (
    epoch_key integer not null references epochs,
    sequence  integer not null,
    checksum  integer not null default 0,             -- CRC32C of the batch as it came; 0: not known
    bytes     blob    not null,
    reason    text    not null,
    received  integer not null,
    primary key (epoch_key, sequence, checksum)
) strict;
insert into set_aside_v2 (epoch_key, sequence, bytes, reason, received)
    select epoch_key, sequence, bytes, reason, received from set_aside;
drop table set_aside;
alter table set_aside_v2 rename to set_aside;

-- Numbers below zero are the server's own records.
alter table gaps add column device text not null default '';

-- What buffers said they follow.
create table openings (
    epoch_key      integer not null references epochs,
    id             blob    not null,
    parent         blob,                              -- the opening it followed
    first          integer not null,                  -- lowest sequence it may append
    revision       integer not null,
    gaps           integer not null,
    blind          integer not null,
    until_first    integer,                           -- where the next one of this branch begins
    until_revision integer,
    until_gaps     integer,
    primary key (epoch_key, id)
) strict, without rowid;

-- CRC32C of the newest batches stored as readings. No foreign key: one row a batch, on the hot path.
create table fingerprints (
    epoch_key integer not null,
    sequence  integer not null,
    checksum  integer not null,
    readings  integer not null,
    primary key (epoch_key, sequence)
) strict, without rowid;

create table faults (
    fault   integer primary key autoincrement,
    agent   integer not null references agents,
    kind    text    not null,
    subject text    not null,
    words   text    not null,
    remedy  text    not null,
    at      integer not null,
    last    integer not null,
    over    integer
) strict;
create unique index faults_standing on faults (agent, kind, subject) where over is null;
create index faults_over on faults (over);

-- Readings whose times were corrected or laid between the neighbouring boots.
create table time_marks (
    epoch_key    integer not null references epochs,
    boot_counter integer not null,
    clock        integer not null,                    -- forebay.v1.SentBatch.Clock
    from_time    integer not null,
    to_time      integer not null,
    readings     integer not null,
    correction   integer not null,                    -- the last one, microseconds
    primary key (epoch_key, boot_counter, clock)
) strict, without rowid;
