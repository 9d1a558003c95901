-- Gateways that ask to be let in and wait for an operator; who has left; when a certificate was revoked.

alter table join_tokens add column approval boolean not null default false; -- does a join wait for an operator?
alter table agents add column left_at timestamptz;                          -- it has left, and is revoked
alter table certificates add column revoked_at timestamptz;
create index on certificates (revoked_at) where revoked_at is not null;

create table applications (
    application bigint generated always as identity primary key,
    secret_hash bytea       not null,                 -- of the token
    key_hash    bytea       not null,                 -- SHA-256 of the gateway's public key
    site        text        not null,
    gateway     text        not null,
    peer        text        not null,                 -- the address it came from last
    version     text        not null,
    asked       timestamptz not null,
    last_asked  timestamptz not null,
    stage       text        not null,                 -- pending, approved, rejected, joined
    decided     timestamptz,
    words       text        not null default '',      -- why it was rejected
    agent       bigint      references agents,        -- whom it became
    unique (secret_hash, key_hash)
);
