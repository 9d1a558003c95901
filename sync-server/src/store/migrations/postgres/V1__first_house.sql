-- What the server keeps, first version. Works on plain PostgreSQL; where TimescaleDB is there, the
-- server makes `readings` a hypertable at start. Times are wall time.

create table agents (
    agent             bigint generated always as identity primary key,
    tenant            bigint      not null default 1,
    site              text        not null,
    gateway           text        not null,
    joined            timestamptz not null,
    last_seen         timestamptz,
    revoked           boolean     not null default false,
    report            bytea,                          -- the last forebay.v1.Report
    epoch             bytea,                          -- the epoch of the last delivery
    stored            bigint      not null default 0, -- readings
    committed_batches bigint      not null default 0,
    set_aside         bigint      not null default 0, -- batches
    unique (tenant, site, gateway)
);

create table certificates (
    certificate bigint generated always as identity primary key, -- the highest one is the current one
    agent       bigint      not null references agents,
    fingerprint bytea       not null unique,          -- SHA-256 of the DER
    valid_until timestamptz not null,
    revoked     boolean     not null default false
);
create index on certificates (agent);

create table join_tokens (
    secret_hash bytea       primary key,              -- SHA-256; the secret itself is nowhere
    expires     timestamptz not null,
    uses_left   bigint      not null,
    note        text        not null,
    created     timestamptz not null
);

create table epochs (
    epoch_key           bigint generated always as identity primary key,
    agent               bigint         not null references agents,
    epoch               bytea          not null,
    committed           int8multirange not null default '{}',
    dictionary_revision integer        not null default 0,
    gaps_known          bigint         not null default 0,
    unique (agent, epoch)
);

create table points (
    point     integer generated always as identity primary key,
    agent     bigint not null references agents,
    device    text   not null,
    name      text   not null,
    unit      text   not null,
    kind      text   not null,
    data_type text   not null,
    search    text   not null,                        -- "device/name unit" in lower case
    unique (agent, device, name)
);

create table dictionary (
    epoch_key bigint  not null references epochs,
    number    integer not null,
    point     integer not null references points,
    primary key (epoch_key, number)
);

-- One row a reading, and no unique index: exactly-once is kept per batch, by epochs.committed.
-- One of value, whole, state, text is set, by the type of the value; none where there is no value.
-- Quality: 0 good, 64.. uncertain, 128.. bad.
create table readings (
    time    timestamptz not null,
    point   integer     not null,
    quality smallint    not null,
    value   double precision,
    whole   bigint,
    state   boolean,
    text    text
);
create index readings_point_time on readings (point, time);

-- Readings whose time is outside reason. Plain, so that a clock in 2106 makes no chunk there.
create table readings_quarantine (
    time_us  bigint      not null,                    -- microseconds since 1970
    point    integer     not null,
    quality  smallint    not null,
    value    double precision,
    whole    bigint,
    state    boolean,
    text     text,
    received timestamptz not null
);

create table latest (
    point   integer     primary key,
    time    timestamptz not null,
    quality smallint    not null,
    value   double precision,
    whole   bigint,
    state   boolean,
    text    text
) with (fillfactor = 70);

create table gaps (
    epoch_key bigint      not null references epochs,
    number    bigint      not null,
    entry     integer     not null,                   -- dictionary number; 0: every point of the agent
    from_time timestamptz not null,
    to_time   timestamptz not null,
    count     bigint      not null,
    reason    integer     not null,
    primary key (epoch_key, number)
);
create index on gaps (from_time);

create table set_aside (
    epoch_key bigint      not null references epochs,
    sequence  bigint      not null,
    bytes     bytea       not null,
    reason    text        not null,
    received  timestamptz not null,
    primary key (epoch_key, sequence)
);
