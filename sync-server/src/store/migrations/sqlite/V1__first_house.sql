-- What the server keeps, first version: the same house as in PostgreSQL. Times are microseconds
-- since 1970 UTC.

create table agents (
    agent             integer primary key autoincrement,
    tenant            integer not null default 1,
    site              text    not null,
    gateway           text    not null,
    joined            integer not null,
    last_seen         integer,
    revoked           integer not null default 0,
    report            blob,                           -- the last forebay.v1.Report
    epoch             blob,                           -- the epoch of the last delivery
    stored            integer not null default 0,     -- readings
    committed_batches integer not null default 0,
    set_aside         integer not null default 0,     -- batches
    unique (tenant, site, gateway)
) strict;

create table certificates (
    certificate integer primary key autoincrement,    -- the highest one is the current one
    agent       integer not null references agents,
    fingerprint blob    not null unique,              -- SHA-256 of the DER
    valid_until integer not null,
    revoked     integer not null default 0
) strict;
create index certificates_agent on certificates (agent);

create table join_tokens (
    secret_hash blob    primary key,                  -- SHA-256; the secret itself is nowhere
    expires     integer not null,
    uses_left   integer not null,
    note        text    not null,
    created     integer not null
) strict;

create table epochs (
    epoch_key           integer primary key autoincrement,
    agent               integer not null references agents,
    epoch               blob    not null,
    committed           blob    not null default x'', -- ranges of sequences, see ranges.rs
    dictionary_revision integer not null default 0,
    gaps_known          integer not null default 0,
    unique (agent, epoch)
) strict;

create table points (
    point     integer primary key autoincrement,
    agent     integer not null references agents,
    device    text    not null,
    name      text    not null,
    unit      text    not null,
    kind      text    not null,
    data_type text    not null,
    search    text    not null,                       -- "device/name unit" in lower case
    unique (agent, device, name)
) strict;

create table dictionary (
    epoch_key integer not null references epochs,
    number    integer not null,
    point     integer not null references points,
    primary key (epoch_key, number)
) strict, without rowid;

-- One row a reading, and no unique index: exactly-once is kept per batch, by epochs.committed.
-- The value says its type: real, integer, text; a blob of 1 byte is a boolean, one of 8 bytes a
-- float that SQLite would not keep bit for bit (NaN, -0.0), big-endian.
create table readings (
    point   integer not null,
    time    integer not null,
    quality integer not null,                         -- 0 good, 64.. uncertain, 128.. bad
    value   any
) strict;
create index readings_point_time on readings (point, time);

-- Readings whose time is outside reason.
create table readings_quarantine (
    point    integer not null,
    time     integer not null,
    quality  integer not null,
    value    any,
    received integer not null
) strict;

create table latest (
    point   integer primary key,
    time    integer not null,
    quality integer not null,
    value   any
) strict;

create table gaps (
    epoch_key integer not null references epochs,
    number    integer not null,
    entry     integer not null,                       -- dictionary number; 0: every point of the agent
    from_time integer not null,
    to_time   integer not null,
    count     integer not null,
    reason    integer not null,
    primary key (epoch_key, number)
) strict, without rowid;
create index gaps_from on gaps (from_time);

create table set_aside (
    epoch_key integer not null references epochs,
    sequence  integer not null,
    bytes     blob    not null,
    reason    text    not null,
    received  integer not null,
    primary key (epoch_key, sequence)
) strict;
