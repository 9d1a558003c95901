-- Who may look and who may change: tenants, users, sessions, keys, and the audit of every change. Times are
-- microseconds since 1970, in PostgreSQL too, because one set of statements serves both (see access.rs).

create table tenants (
    tenant  integer primary key autoincrement,
    name    text    not null unique,
    created integer not null
) strict;
-- All that was here before there were tenants is its own.
insert into tenants (tenant, name, created) values (1, 'main', 0);

alter table join_tokens add column tenant integer not null default 1;

create table users (
    user_key integer primary key autoincrement,
    tenant   integer not null references tenants,
    name     text    not null unique,                 -- lower case; of the whole server, as one logs in by it
    role     text    not null,
    password text    not null,                        -- Argon2id, as a PHC string
    created  integer not null,
    seen     integer                                  -- when it last logged in
) strict;
create index users_tenant on users (tenant);

create table sessions (
    hash     blob    primary key,                     -- SHA-256 of the cookie, which is nowhere
    user_key integer not null references users on delete cascade,
    created  integer not null,
    seen     integer not null,
    expires  integer not null
) strict;
create index sessions_user on sessions (user_key);

create table api_keys (
    key_key integer primary key autoincrement,
    tenant  integer not null references tenants,
    hash    blob    not null unique,                  -- SHA-256 of the key, which was shown once
    hint    text    not null,                         -- its first letters, to know it by
    name    text    not null,
    rights  text    not null,                         -- words, separated by spaces
    maker   text    not null,
    created integer not null,
    expires integer not null,
    seen    integer,                                  -- when it was last used
    unique (tenant, name)
) strict;

create table audit (
    entry   integer primary key autoincrement,
    tenant  integer not null,
    at      integer not null,
    who     text    not null,
    origin  text    not null,                         -- an address, or empty
    action  text    not null,
    subject text    not null,
    was     text    not null,
    became  text    not null
) strict;
create index audit_tenant on audit (tenant, entry);
