-- An alarm is a tenant's. Those from before were all told to the main one.

alter table alarms add column tenant integer not null default 1;
drop index alarms_standing;
create unique index alarms_standing on alarms (tenant, rule, subject) where cleared is null;

create table alarms_waiting (
    tenant integer not null,
    rule   text    not null,
    member text    not null,
    since  integer not null,
    base   real    not null,
    primary key (tenant, rule, member)
) strict, without rowid;
insert into alarms_waiting (tenant, rule, member, since, base)
    select 1, rule, member, since, base from alarms_pending;
drop table alarms_pending;
alter table alarms_waiting rename to alarms_pending;

alter table alarm_events add column tenant integer not null default 1;
create index alarm_events_tenant on alarm_events (tenant, event);
