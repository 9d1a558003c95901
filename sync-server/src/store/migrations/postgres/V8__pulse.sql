-- How the readings of a gateway come: the newest, the bytes of a day, and how its backlog changes.

alter table epochs
    add column came   double precision,               -- readings a second, by the last reports
    add column shrank double precision;               -- by so many readings a second the backlog shrank

alter table agents
    add column waiting   bigint not null default 0,   -- readings that waited by the last report and have not come since
    add column newest    timestamptz,                 -- of the readings stored, none later than it came
    add column bytes     bigint not null default 0,   -- bodies of requests, on the day of the last of them
    add column bytes_day bigint not null default 0,   -- days since 1970, UTC
    add column came      double precision,            -- as the current branch has them
    add column shrank    double precision;
update agents a set newest = least(f.newest, a.last_seen)
    from (select p.agent, max(l.time) as newest from points p join latest l on l.point = p.point group by p.agent) f
    where f.agent = a.agent;
