-- A role that reads one tenant's data, for Grafana and other tools that speak SQL:
--
--   psql --set=tenant=1 --set=role=grafana --set=password=... --file=reader.sql DATABASE
--
-- Made by the owner of the database, in PostgreSQL with TimescaleDB or without. It sees the views of a
-- schema of its own name, which hold that tenant's rows only, and nothing else; a role for each tenant.
-- Run it again after an upgrade of the server, or for another password. To take it away:
--   drop schema "grafana" cascade; drop role "grafana";
select set_config('forebay.tenant', :'tenant', false),
       set_config('forebay.role', :'role', false),
       set_config('forebay.password', :'password', false);

begin;

do $do$
declare
    reader text := current_setting('forebay.role');
begin
    if not exists (select from pg_roles where rolname = reader) then
        execute format('create role %I', reader);
    end if;
    execute format('alter role %I login noinherit nosuperuser nocreatedb nocreaterole password %L',
                   reader, current_setting('forebay.password'));
    -- A question that nobody waits for any more ends by itself.
    execute format('alter role %I set statement_timeout = ''60s''', reader);
    execute format('alter role %I set default_transaction_read_only = on', reader);
    execute format('alter role %I set search_path = %I', reader, reader);
    execute format('drop schema if exists %I cascade', reader);
    execute format('create schema %I', reader);
    execute format('grant usage on schema %I to %I', reader, reader);
    perform set_config('search_path', format('%I, public', reader), true);
end
$do$;

do $do$
declare
    tenant bigint := current_setting('forebay.tenant')::bigint;
    -- Whose numbers a reading is: text has none.
    number text := 'coalesce(value, whole::double precision, state::int::double precision)';
    grain  text;
begin
    -- security_barrier: no function of the reader's own sees rows of others before they are sorted out.
    execute format($view$
        create view gateways with (security_barrier) as
        select a.agent as gateway_id, a.site, a.gateway, a.site || '/' || a.gateway as name,
               a.joined, a.last_seen, a.revoked, a.stored as readings, a.set_aside as batches_set_aside,
               coalesce(e.backlog, 0) as backlog, c.valid_until as certificate_until
        from public.agents a
        left join public.epochs e on e.epoch_key = a.current
        left join lateral (select valid_until from public.certificates c where c.agent = a.agent
                           order by certificate desc limit 1) c on true
        where a.tenant = %s$view$, tenant);

    create view points with (security_barrier) as
        select p.point, g.gateway_id, g.site, g.gateway, p.device, p.name, p.unit, p.kind, p.fork,
               p.device || '/' || p.name || case when p.fork > 0 then ' (fork ' || p.fork || ')' else '' end
               as label
        from public.points p join gateways g on g.gateway_id = p.agent;

    -- Quality: 0 good, 64 and above uncertain, 128 and above bad.
    execute format($view$
        create view readings with (security_barrier) as
        select time, point, quality, %s as number, text from public.readings
        where point in (select point from points)$view$, number);
    execute format($view$
        create view latest with (security_barrier) as
        select point, time, quality, %s as number, text from public.latest
        where point in (select point from points)$view$, number);

    foreach grain in array array['minutes', 'hours', 'days'] loop
        execute format($view$
            create view %I with (security_barrier) as
            select time, point, count, good, numbers, sum, min, max, quality from public.%I
            where point in (select point from points)$view$, grain, 'rollup_' || grain);
    end loop;

    create view gaps with (security_barrier) as
        select g.gateway_id, g.name as gateway, x.device, x.from_time, x.to_time, x.count,
               (array['device silent', 'buffer full', 'damaged', 'agent down', 'clock', 'server lost',
                      'thinned', 'buffer wiped'])[x.reason] as reason
        from public.gaps x join public.epochs e using (epoch_key) join gateways g on g.gateway_id = e.agent;

    create view faults with (security_barrier) as
        select f.fault, g.gateway_id, g.name as gateway, f.kind, f.subject, f.words, f.remedy,
               f.at, f.last, f.over
        from public.faults f join gateways g on g.gateway_id = f.agent;

    -- How the server is. One row.
    create view server as
        select pg_database_size(current_database()) as database_bytes,
               (select count(*) from public.rollups_due d join gateways g on g.gateway_id = d.agent) as rollups_due,
               (select count(*) from public.readings_quarantine q join points p on p.point = q.point) as quarantined;

    -- A chart of at most (until - since) / step rows a point, from the coarsest rollup that the step is made
    -- of. Rollups hold what is over; the minute, hour or day that goes on is not in them yet.
    create function series(of_points int[], since timestamptz, until timestamptz, step interval)
        returns table ("time" timestamptz, point int, min double precision, mean double precision,
                       max double precision)
        language sql stable as $function$
        select date_bin(step, r.time, 'epoch'), r.point, min(number), avg(number), max(number)
        from readings r
        where step < '5 minutes' and r.point = any (of_points) and r.time >= since and r.time < until
              and r.quality < 128
        group by 1, 2
        union all
        select date_bin(step, r.time, 'epoch'), r.point, min(min), sum(sum) / nullif(sum(numbers), 0), max(max)
        from minutes r
        where step >= '5 minutes' and step < '2 hours' and r.point = any (of_points)
              and r.time >= since and r.time < until
        group by 1, 2
        union all
        select date_bin(step, r.time, 'epoch'), r.point, min(min), sum(sum) / nullif(sum(numbers), 0), max(max)
        from hours r
        where step >= '2 hours' and step < '2 days' and r.point = any (of_points)
              and r.time >= since and r.time < until
        group by 1, 2
        union all
        select date_bin(step, r.time, 'epoch'), r.point, min(min), sum(sum) / nullif(sum(numbers), 0), max(max)
        from days r
        where step >= '2 days' and r.point = any (of_points) and r.time >= since and r.time < until
        group by 1, 2
        order by 1
        $function$;

    execute format('grant select on all tables in schema %I to %I', current_setting('forebay.role'),
                   current_setting('forebay.role'));
    execute format('revoke execute on all functions in schema %I from public', current_setting('forebay.role'));
    execute format('grant execute on all functions in schema %I to %I', current_setting('forebay.role'),
                   current_setting('forebay.role'));
end
$do$;

commit;
