-- Forks, ledgers, faults and corrected times.

alter table agents add column current bigint;           -- the branch (epochs) of the last delivery

-- One row a branch: an epoch's main history, or a fork of it.
alter table epochs
    add column fork               integer not null default 0,     -- 0: main; else counted up over the agent
    add column parent             bigint  references epochs,      -- the branch a fork left
    add column forked_at          bigint  not null default 0,     -- lower sequences are booked in the parent,
    add column forked_revision    integer not null default 0,     -- so are dictionary entries up to this one
    add column forked_gaps        bigint  not null default 0,     -- and gaps up to this one
    add column newest             bigint  not null default 0,     -- highest sequence that came with readings
    add column stored             bigint  not null default 0,     -- readings, quarantine included
    add column set_aside_readings bigint  not null default 0,
    add column inherited          bigint  not null default 0,     -- both, of the history shared with the parent
    add column uncounted          boolean not null default false, -- from before there were such counts
    add column report             bytea,                          -- the last forebay.v1.Report
    add column reported           timestamptz,                    -- when it came
    add column stored_at_report   bigint  not null default 0,
    add column backlog            bigint  not null default 0,     -- readings that waited in the gateway then
    add column drained            timestamptz not null default 'epoch', -- when nothing of a former report waited any more
    add column refilling          boolean not null default false, -- the gateway was told of more than is here
    add column wiped              boolean not null default false, -- the gateway came back with another buffer
    add column last_seen          timestamptz not null default 'epoch',
    drop constraint epochs_agent_epoch_key,
    add unique (agent, epoch, fork),
    set (fillfactor = 50);
-- Which epoch an agent's readings came by was not written down: they count for its first one.
update epochs e set
    uncounted = true,
    stored = case when e.epoch_key = (select min(epoch_key) from epochs f where f.agent = e.agent)
                  then a.stored else 0 end,
    drained = coalesce(a.last_seen, a.joined),
    last_seen = case when e.epoch = a.epoch then coalesce(a.last_seen, a.joined) else a.joined end
    from agents a where a.agent = e.agent;
update agents a set current = e.epoch_key from epochs e where e.agent = a.agent and e.epoch = a.epoch;

alter table points
    add column fork integer not null default 0,
    drop constraint points_agent_device_name_key,
    add unique (agent, device, name, fork);

-- One sequence may be there several times, with different content.
alter table set_aside
    add column checksum bigint not null default 0,      -- CRC32C of the batch as it came; 0: not known
    drop constraint set_aside_pkey,
    add primary key (epoch_key, sequence, checksum);

-- Numbers below zero are the server's own records.
alter table gaps add column device text not null default '';

-- What buffers said they follow.
create table openings (
    epoch_key      bigint  not null references epochs,
    id             bytea   not null,
    parent         bytea,                               -- the opening it followed
    first          bigint  not null,                    -- lowest sequence it may append
    revision       integer not null,
    gaps           bigint  not null,
    blind          boolean not null,
    until_first    bigint,                              -- where the next one of this branch begins
    until_revision integer,
    until_gaps     bigint,
    primary key (epoch_key, id)
);

-- CRC32C of the newest batches stored as readings. No foreign key: one row a batch, on the hot path.
create table fingerprints (
    epoch_key bigint  not null,
    sequence  bigint  not null,
    checksum  bigint  not null,
    readings  bigint  not null,
    primary key (epoch_key, sequence)
);

create table faults (
    fault   bigint generated always as identity primary key,
    agent   bigint      not null references agents,
    kind    text        not null,
    subject text        not null,
    words   text        not null,
    remedy  text        not null,
    at      timestamptz not null,
    last    timestamptz not null,
    over    timestamptz
);
create unique index faults_standing on faults (agent, kind, subject) where over is null;
create index faults_over on faults (over);

-- Readings whose times were corrected or laid between the neighbouring boots.
create table time_marks (
    epoch_key    bigint      not null references epochs,
    boot_counter bigint      not null,
    clock        integer     not null,                  -- forebay.v1.SentBatch.Clock
    from_time    timestamptz not null,
    to_time      timestamptz not null,
    readings     bigint      not null,
    correction   bigint      not null,                  -- the last one, microseconds
    primary key (epoch_key, boot_counter, clock)
);
