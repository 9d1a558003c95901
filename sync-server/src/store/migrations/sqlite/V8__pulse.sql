-- How the readings of a gateway come: the newest, the bytes of a day, and how its backlog changes.

alter table epochs add column came real;                        -- readings a second, by the last reports
alter table epochs add column shrank real;                      -- by so many readings a second the backlog shrank

alter table agents add column waiting integer not null default 0; -- readings that waited by the last report and have not come since
alter table agents add column newest integer;                   -- of the readings stored, none later than it came
alter table agents add column bytes integer not null default 0; -- bodies of requests, on the day of the last of them
alter table agents add column bytes_day integer not null default 0; -- days since 1970, UTC
alter table agents add column came real;                        -- as the current branch has them
alter table agents add column shrank real;
update agents set newest = min(last_seen, (select max(l.time) from points p join latest l on l.point = p.point
                                           where p.agent = agents.agent));
