-- Gateways that ask to be let in and wait for an operator; who has left; when a certificate was revoked.

alter table join_tokens add column approval integer not null default 0; -- does a join wait for an operator?
alter table agents add column left_at integer;                          -- it has left, and is revoked
alter table certificates add column revoked_at integer;
create index certificates_revoked_at on certificates (revoked_at) where revoked_at is not null;

create table applications (
    application integer primary key autoincrement,
    secret_hash blob    not null,                     -- of the token
    key_hash    blob    not null,                     -- SHA-256 of the gateway's public key
    site        text    not null,
    gateway     text    not null,
    peer        text    not null,                     -- the address it came from last
    version     text    not null,
    asked       integer not null,
    last_asked  integer not null,
    stage       text    not null,                     -- pending, approved, rejected, joined
    decided     integer,
    words       text    not null default '',          -- why it was rejected
    agent       integer references agents,            -- whom it became
    unique (secret_hash, key_hash)
) strict;
