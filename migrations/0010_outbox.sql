-- Sends in a transaction of the user's own, on the same PostgreSQL: towpath.send() leaves the message in
-- outbox, and a relay takes it to its queue once that transaction has committed.

-- The queue's number, since names are used again: what was sent to a queue that is deleted goes with it.
create table towpath.outbox (
    outbox_id bigint generated always as identity,
    queue_id int not null,
    -- 0 text, 1 JSON, 2 bytes
    body_kind smallint not null,
    body bytea not null,
    -- names and texts
    attributes jsonb,
    delay_seconds int,
    time_to_live_seconds int,
    constraint outbox_pkey primary key (outbox_id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.2);
-- Bodies are written once and read once.
alter table towpath.outbox alter column body set storage external;

-- 1 while the relay looks by itself, 0 while it sleeps and must be told: senders notify only then, since
-- that takes a lock of the whole database when they commit. A sequence, because everybody sees at once
-- what it is set to, whatever the age of their snapshot.
create sequence towpath.outbox_relay minvalue 0 maxvalue 1 start 0;

-- Checks a message and leaves it in the outbox.
create function towpath.leave_1(
    p_queue text, p_kind int, p_body bytea, p_attributes jsonb, p_delay_seconds int,
    p_time_to_live_seconds int, p_tenant text
) returns void
    language plpgsql volatile
    as $$
declare
    c_most constant int := 315360000;
    v_queue int;
    v_paused boolean;
    v_bytes int := octet_length(p_body);
    v_name text;
    v_value jsonb;
begin
    select q.queue_id, q.sending_paused into v_queue, v_paused
    from towpath.queue q
    where q.tenant = p_tenant and q.name = p_queue and q.deleted_at is null;
    if v_queue is null then
        raise exception 'there is no queue named %; create it first', coalesce(quote_literal(p_queue), 'null')
            using errcode = 'undefined_object';
    end if;
    if v_paused then
        raise exception 'queue % takes no messages: sending to it is paused', quote_literal(p_queue)
            using errcode = 'object_not_in_prerequisite_state';
    end if;
    if coalesce(v_bytes, 0) = 0 then
        raise exception 'body is empty: 1 byte or more' using errcode = 'invalid_parameter_value';
    end if;
    if p_attributes is not null then
        if jsonb_typeof(p_attributes) <> 'object'
            or (select count(*) from jsonb_object_keys(p_attributes)) > 64
        then
            raise exception 'attributes is not a JSON object of up to 64 names and texts'
                using errcode = 'invalid_parameter_value';
        end if;
        for v_name, v_value in select a.key, a.value from jsonb_each(p_attributes) a loop
            if v_name !~ '^[A-Za-z0-9_.-]+$' or length(v_name) > 256 or v_name ~* '^(aws|amazon)\.'
                or v_name ~ '^\.|\.$|\.\.'
            then
                raise exception 'attributes has the name %: 1 to 256 letters, digits, underscores, hyphens and dots, no dot at its ends, no two in a row, not AWS. or Amazon. in front',
                    quote_literal(v_name)
                    using errcode = 'invalid_parameter_value';
            end if;
            if jsonb_typeof(v_value) <> 'string' or v_value = '""'::jsonb then
                raise exception 'attribute % is %: a text that is not empty', v_name, v_value
                    using errcode = 'invalid_parameter_value';
            end if;
            v_bytes := v_bytes + octet_length(v_name) + octet_length('String')
                + octet_length(v_value #>> '{}');
        end loop;
    end if;
    if v_bytes > 1048576 then
        raise exception 'body and attributes have % bytes: up to 1048576', v_bytes
            using errcode = 'invalid_parameter_value';
    end if;
    if p_delay_seconds not between 0 and c_most then
        raise exception 'delay_seconds is %: whole seconds from 0 to %', p_delay_seconds, c_most
            using errcode = 'invalid_parameter_value';
    end if;
    if p_time_to_live_seconds not between 1 and c_most then
        raise exception 'time_to_live_seconds is %: whole seconds from 1 to %',
            p_time_to_live_seconds, c_most
            using errcode = 'invalid_parameter_value';
    end if;
    -- Before the row gets its number and the relay's state is read: the relay tells by the transactions
    -- that are under way which numbers may still come, and who may still take it to be awake.
    perform pg_current_xact_id();
    insert into towpath.outbox (
        queue_id, body_kind, body, attributes, delay_seconds, time_to_live_seconds
    )
    values (
        v_queue, p_kind, p_body, nullif(p_attributes, '{}'), p_delay_seconds, p_time_to_live_seconds
    );
    if (select r.last_value = 0 from towpath.outbox_relay r) then
        perform pg_notify('towpath', '00000000000000000000000000000000 o');
    end if;
end
$$;

-- Sends a text when the transaction commits, with attributes of the type String. Without a delay the queue's holds; without a time to live,
-- the queue's retention. Both count from the moment at which the message comes to its queue.
create function towpath.send(
    queue text, body text, attributes jsonb default null, delay_seconds int default null,
    time_to_live_seconds int default null, tenant text default 'default'
) returns void
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
    as $$
    select towpath.leave_1($1, 0, convert_to($2, 'UTF8'), $3, $4, $5, $6)
$$;

-- As send, for a JSON value.
create function towpath.send_json(
    queue text, body jsonb, attributes jsonb default null, delay_seconds int default null,
    time_to_live_seconds int default null, tenant text default 'default'
) returns void
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
    as $$
    select towpath.leave_1($1, 1, convert_to($2::text, 'UTF8'), $3, $4, $5, $6)
$$;

-- As send, for bytes.
create function towpath.send_bytes(
    queue text, body bytea, attributes jsonb default null, delay_seconds int default null,
    time_to_live_seconds int default null, tenant text default 'default'
) returns void
    language sql volatile security definer
    set search_path = pg_catalog, pg_temp
    as $$
    select towpath.leave_1($1, 2, $2, $3, $4, $5, $6)
$$;

-- Nobody may send but those who are told to: docs/outbox.md.
revoke all on function
    towpath.leave_1(text, int, bytea, jsonb, int, int, text),
    towpath.send(text, text, jsonb, int, int, text),
    towpath.send_json(text, jsonb, jsonb, int, int, text),
    towpath.send_bytes(text, bytea, jsonb, int, int, text)
    from public;

-- Which numbers there are so far, and the oldest transaction that is under way. Where there are numbers
-- behind p_after, also a transaction that began after all of theirs: this one, since a snapshot tells only
-- of those that ended. A row's transaction has its number before the row has.
create function towpath.outbox_horizon_1(
    p_after bigint, out last_id bigint, out oldest_tx bigint, out next_tx bigint
)
    language plpgsql volatile
    as $$
begin
    perform towpath.assert_read_committed();
    select case when s.is_called then s.last_value else 0 end into last_id
    from towpath.outbox_outbox_id_seq s;
    if last_id > p_after then
        next_tx := pg_current_xact_id()::text::bigint;
    end if;
    oldest_tx := pg_snapshot_xmin(pg_current_snapshot())::text::bigint;
end
$$;

-- The oldest rows behind p_after, up to p_rows of them and, but for the first, p_bytes of bodies. Rows
-- before p_after may be dead by the million behind somebody's old snapshot.
create function towpath.outbox_next_1(p_after bigint, p_rows int, p_bytes bigint)
    returns table (
        outbox_id bigint, queue_id int, tenant text, name text, is_gone boolean, body_kind smallint,
        body bytea, attribute_names text[], attribute_values text[], delay_seconds int,
        time_to_live_seconds int
    )
    language plpgsql volatile
    as $$
declare
    v_bytes bigint := 0;
begin
    for outbox_id, queue_id, tenant, name, is_gone, body_kind, body, attribute_names,
        attribute_values, delay_seconds, time_to_live_seconds
    in
        select o.outbox_id, o.queue_id, q.tenant, q.name, q.deleted_at is not null, o.body_kind,
            o.body,
            array(select a.key from jsonb_each_text(o.attributes) a order by a.key),
            array(select a.value from jsonb_each_text(o.attributes) a order by a.key),
            o.delay_seconds, o.time_to_live_seconds
        from towpath.outbox o
        join towpath.queue q on q.queue_id = o.queue_id
        where o.outbox_id > p_after
        order by o.outbox_id
        limit p_rows
    loop
        v_bytes := v_bytes + octet_length(body);
        exit when v_bytes > p_bytes and v_bytes > octet_length(body);
        return next;
    end loop;
end
$$;

-- As append_2, all or nothing, and in the same transaction the rows p_ids leave the outbox. Raises TW005
-- when one of them is not there any more, TW006 when a tail is another or a queue is gone.
create function towpath.append_from_outbox_1(
    p_ids bigint[],
    p_lanes bigint[],
    p_tails bigint[],
    p_last_chunks bigint[],
    p_salts int[],
    p_bytes_totals bigint[],
    p_live_totals bigint[],
    p_chunk_lanes int[],
    p_chunk_sizes int[],
    p_chunk_delays_ms bigint[],
    p_chunk_lives_ms bigint[],
    p_chunk_sent_at timestamptz[],
    p_chunks bytea[]
) returns setof towpath.appended
    language plpgsql volatile
    as $$
declare
    v_out towpath.appended;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_ids) loop
        delete from towpath.outbox o where o.outbox_id = p_ids[v_ix];
        if not found then
            raise exception 'row % of the outbox was relayed already', p_ids[v_ix]
                using errcode = 'TW005';
        end if;
    end loop;
    for v_out in
        select *
        from towpath.append_2(
            p_lanes, p_tails, p_last_chunks, p_salts, p_bytes_totals, p_live_totals, p_chunk_lanes,
            p_chunk_sizes, p_chunk_delays_ms, p_chunk_lives_ms, p_chunk_sent_at, p_chunks, null
        )
    loop
        if v_out.status <> 0 then
            raise exception 'lane % has another tail, or no queue', p_lanes[v_out.lane_ix]
                using errcode = 'TW006';
        end if;
        return next v_out;
    end loop;
end
$$;
