-- Redrives: tasks that take messages out of a queue and back to where they came from, or to another queue.

create table towpath.redrive (
    redrive_id uuid not null,
    -- The queue that messages are taken out of.
    queue_id int not null,
    -- Where they go; null: each to the queue that it came from last.
    target_queue_id int,
    -- What is asked of a message; null: nothing.
    attribute text,
    attribute_value text,
    older_than_seconds bigint,
    reason_contains text,
    message_ids uuid[],
    max_messages_per_second int,
    -- 0 running, 1 completed, 2 cancelled, 3 failed
    state smallint not null default 0,
    moved bigint not null default 0,
    skipped bigint not null default 0,
    failed bigint not null default 0,
    error text,
    -- What was there at the start: the lanes of the queue, and where each of them ended. What came later is
    -- not taken, or what is given up again at once would go round for ever.
    lanes bigint[] not null,
    ends bigint[] not null,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    ended_at timestamptz,
    -- Which node does it, until when. It stays when the task has ended, until all that the node held is
    -- given back.
    holder uuid,
    until timestamptz,
    -- Before then a node that died may hold messages of the task: it does not complete.
    unsettled_until timestamptz,
    constraint redrive_pkey primary key (redrive_id),
    constraint redrive_state_check check ((state = 0) = (ended_at is null))
);
-- Decides who starts the one that runs.
create unique index redrive_running on towpath.redrive (queue_id) where state = 0;
create index redrive_queue on towpath.redrive (queue_id, created_at desc, redrive_id desc);
create index redrive_ended on towpath.redrive (ended_at) where state <> 0;

-- Starts a redrive of a queue, unless one runs. redrive_id: the one that runs now; null when one that kept
-- this one from starting has ended meanwhile: ask again.
create function towpath.start_redrive_1(
    p_sub int,
    p_id uuid,
    p_queue int,
    p_target int,
    p_attribute text,
    p_attribute_value text,
    p_older_than_seconds bigint,
    p_reason_contains text,
    p_message_ids uuid[],
    p_max_messages_per_second int
) returns uuid
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_lane bigint;
    v_pos bigint;
    v_end bigint;
    v_lanes bigint[] := '{}';
    v_ends bigint[] := '{}';
    v_id uuid;
begin
    perform towpath.assert_read_committed();
    for v_lane in
        select l.lane_id from towpath.lane l where l.queue_id = p_queue order by l.lane_id
    loop
        select greatest(c.pos, c.floor) into v_pos
        from towpath.cur c
        where c.lane_id = v_lane and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        v_pos := greatest(coalesce(v_pos, 0), towpath.freed(v_lane));
        select g.seq + g.n into v_end
        from towpath.log g
        where g.lane_id = v_lane and g.seq > v_pos - 62
        order by g.seq desc
        limit 1;
        v_lanes := v_lanes || v_lane;
        v_ends := v_ends || greatest(v_pos, v_end);
    end loop;
    insert into towpath.redrive (
        redrive_id, queue_id, target_queue_id, attribute, attribute_value, older_than_seconds,
        reason_contains, message_ids, max_messages_per_second, lanes, ends, created_at, updated_at
    )
    values (
        p_id, p_queue, p_target, p_attribute, p_attribute_value, p_older_than_seconds,
        p_reason_contains, p_message_ids, p_max_messages_per_second, v_lanes, v_ends, v_now, v_now
    )
    on conflict (queue_id) where state = 0 do nothing
    returning redrive_id into v_id;
    if not found then
        select r.redrive_id into v_id
        from towpath.redrive r
        where r.queue_id = p_queue and r.state = 0;
    end if;
    return v_id;
end
$$;

-- Makes a node the holder of up to p_limit redrives that run and that nobody holds, for p_term. What a holder
-- that died had in hand comes back within p_window: until then the redrive does not complete.
create function towpath.take_redrives_1(p_node uuid, p_limit int, p_term interval, p_window interval)
    returns setof uuid
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_row record;
begin
    perform towpath.assert_read_committed();
    for v_row in
        select r.redrive_id, r.holder is not null as lapsed
        from towpath.redrive r
        where r.state = 0 and (r.holder is null or r.until < v_now)
        order by r.created_at
        limit p_limit
        for update skip locked
    loop
        -- Of one that was given back in order, all that it met is met again.
        update towpath.redrive r
        set holder = p_node, until = v_now + p_term,
            unsettled_until = case when v_row.lapsed then v_now + p_window else r.unsettled_until end,
            skipped = case when v_row.lapsed then r.skipped else 0 end,
            failed = case when v_row.lapsed then r.failed else 0 end
        where r.redrive_id = v_row.redrive_id;
        return next v_row.redrive_id;
    end loop;
end
$$;

-- Takes messages over from claims that were made for a mover. Each entry names a lease by its whole key, and
-- messages of it; sorted by (lane, lo, tok). One with another new token gets a lease of its own under it; the
-- last entry of a lease keeps its row with whatever is left in it. The delivery is forgotten. p_to_move says
-- which are the mover's; p_windows_ms how long each stays hidden. Says for each which messages it holds now.
create function towpath.redrive_hold_1(
    p_sub int,
    p_lanes bigint[],
    p_los bigint[],
    p_toks int[],
    p_masks bigint[],
    p_new_toks int[],
    p_to_move boolean[],
    p_windows_ms bigint[]
) returns bigint[]
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_out bigint[] := array_fill(0::bigint, array[cardinality(p_lanes)]);
    v_lease record;
    v_mask bigint;
    v_vt timestamptz;
    v_state smallint;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        select e.epoch, e.mask, e.rc, e.first_received_at, e.received_at, e.reason into v_lease
        from towpath.lease e
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.tok = p_toks[v_ix] and e.vt > v_now
        for update;
        continue when not found;
        v_mask := v_lease.mask & p_masks[v_ix];
        v_vt := v_now + p_windows_ms[v_ix] * interval '1 millisecond';
        v_state := case when p_to_move[v_ix] then 2 else 0 end;
        if p_new_toks[v_ix] = p_toks[v_ix] then
            update towpath.lease e
            set vt = v_vt, state = v_state, rc = v_lease.rc - 1,
                first_received_at = case when v_lease.rc > 1 then v_lease.first_received_at end
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
                and e.tok = p_toks[v_ix];
            v_out[v_ix] := v_lease.mask;
            continue;
        end if;
        continue when v_mask = 0;
        if v_mask = v_lease.mask then
            delete from towpath.lease e
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
                and e.tok = p_toks[v_ix];
        else
            update towpath.lease e
            set mask = v_lease.mask & ~v_mask
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
                and e.tok = p_toks[v_ix];
        end if;
        insert into towpath.lease (
            lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state, first_received_at, received_at,
            reason
        )
        values (
            p_lanes[v_ix], p_sub, p_los[v_ix], p_new_toks[v_ix], v_lease.epoch, v_mask, v_vt,
            v_lease.rc - 1, v_state,
            case when v_lease.rc > 1 then v_lease.first_received_at end, v_lease.received_at,
            v_lease.reason
        );
        v_out[v_ix] := v_mask;
    end loop;
    return v_out;
end
$$;

-- Moves the ends of leases that redrive_hold_1 made to p_window_ms from now: zero gives them back. Sorted by (lane,
-- lo, tok). Says for each which messages it holds; 0: it is no longer there.
create function towpath.redrive_keep_1(
    p_sub int, p_lanes bigint[], p_los bigint[], p_toks int[], p_window_ms bigint
) returns bigint[]
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_out bigint[] := array_fill(0::bigint, array[cardinality(p_lanes)]);
    v_mask bigint;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        update towpath.lease e
        set vt = v_now + p_window_ms * interval '1 millisecond', state = 0
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.tok = p_toks[v_ix] and e.vt > v_now
        returning e.mask into v_mask;
        if found then
            v_out[v_ix] := v_mask;
        end if;
    end loop;
    return v_out;
end
$$;

create type towpath.redrive_visible as (
    -- The chunk's first message.
    seq bigint,
    -- Those of its messages that can be received, a bit each, counted from seq.
    mask bigint,
    salt int,
    sent_at timestamptz,
    body bytea
);

-- Those chunks among the p_limit of a lane from number p_from on that hold messages which can be received, and at
-- the end a row without a body that says where to go on (null: nowhere). Takes nothing and waits for nobody.
create function towpath.redrive_visible_1(
    p_sub int, p_lane bigint, p_from bigint, p_limit int, p_bytes bigint
) returns setof towpath.redrive_visible
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_since timestamptz;
    v_cur record;
    v_from bigint;
    v_chunk record;
    v_lease record;
    v_out towpath.redrive_visible;
    v_seen int := 0;
    v_bytes bigint := 0;
    v_next bigint;
begin
    perform towpath.assert_read_committed();
    select v_now - t.retention_seconds * interval '1 second' into v_since
    from towpath.queue t
    where t.queue_id = (p_lane >> 26)::int and t.deleted_at is null;
    if not found then
        return next v_out;
        return;
    end if;
    select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
    from towpath.cur c
    where c.lane_id = p_lane and c.sub_id = p_sub
    order by c.epoch desc, c.pos desc, c.floor desc
    limit 1;
    if not found then
        select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
    end if;
    if towpath.lane_kind(p_lane) <> 0 then
        v_cur.pos := 9223372036854775807;
    end if;
    v_from := greatest(p_from, v_cur.floor - 61);
    for v_chunk in
        select g.seq, g.n, g.salt, coalesce(g.sent_at, g.enq) as sent_at, g.expires_at, g.body
        from towpath.log g
        where g.lane_id = p_lane and g.seq >= v_from
        order by g.seq
        limit p_limit
    loop
        v_seen := v_seen + 1;
        v_next := v_chunk.seq + v_chunk.n;
        continue when v_chunk.sent_at <= v_since or v_chunk.expires_at <= v_now
            or v_next <= v_cur.floor;
        v_out.mask := 0;
        if v_next > v_cur.pos then
            v_out.mask := (1::bigint << v_chunk.n) - 1;
            v_out.mask := v_out.mask
                & ~((1::bigint << greatest(v_cur.pos - v_chunk.seq, 0)::int) - 1);
        end if;
        for v_lease in
            select e.lo, e.mask
            from towpath.lease e
            where v_chunk.seq < v_cur.pos and e.lane_id = p_lane and e.sub_id = p_sub
                and e.lo >= v_chunk.seq and e.lo < v_next
                and e.vt <= v_now and e.epoch = v_cur.epoch and e.lo >= v_cur.floor
        loop
            v_out.mask := v_out.mask | (v_lease.mask << (v_lease.lo - v_chunk.seq)::int);
        end loop;
        if v_out.mask <> 0 then
            v_out.seq := v_chunk.seq;
            v_out.salt := v_chunk.salt;
            v_out.sent_at := v_chunk.sent_at;
            v_out.body := v_chunk.body;
            return next v_out;
            v_bytes := v_bytes + octet_length(v_chunk.body);
        end if;
        exit when v_bytes >= p_bytes;
    end loop;
    v_out := null;
    if v_seen = p_limit or v_bytes >= p_bytes then
        v_out.seq := v_next;
    end if;
    return next v_out;
end
$$;

-- Forgets up to p_limit redrives that ended longer than p_keep ago, or that p_newest of the same queue are newer
-- than; how many.
create function towpath.forget_redrives_1(p_limit int, p_keep interval, p_newest int) returns int
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_row record;
    v_gone int := 0;
begin
    perform towpath.assert_read_committed();
    for v_row in
        select u.redrive_id
        from (
            select r.redrive_id, r.ended_at, r.holder, r.until,
                row_number() over (
                    partition by r.queue_id order by r.created_at desc, r.redrive_id desc
                ) as place
            from towpath.redrive r
            where r.state <> 0
        ) u
        where (u.ended_at < v_now - p_keep or u.place > p_newest)
            and (u.holder is null or u.until < v_now)
        limit p_limit
    loop
        delete from towpath.redrive r where r.redrive_id = v_row.redrive_id and r.state <> 0;
        v_gone := v_gone + 1;
    end loop;
    return v_gone;
end
$$;
