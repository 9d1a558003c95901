-- An alarm is a tenant's. Those from before were all told to the main one.

alter table alarms add column tenant bigint not null default 1;
drop index alarms_standing;
create unique index alarms_standing on alarms (tenant, rule, subject) where cleared is null;

alter table alarms_pending add column tenant bigint not null default 1;
alter table alarms_pending drop constraint alarms_pending_pkey;
alter table alarms_pending add primary key (tenant, rule, member);

alter table alarm_events add column tenant bigint not null default 1;
create index alarm_events_tenant on alarm_events (tenant, event);
