-- The hot functions: the only SQL that a message meets. Each is called in autocommit, once per
-- batch. A change of any of them is a new function with the next number in its name; a release
-- keeps the numbers of the one before, so that nodes of both can run side by side.
--
-- Three rules hold for all of them.
-- * READ COMMITTED only: they lock and then read, which is right only if each statement has a
--   snapshot of its own. A role's default could change that, so each function checks.
-- * No join and no subquery on a live table: plans are made while tables are empty. Rows are met
--   by equality on a whole key, in a loop, or by a range that is bounded on both sides.
-- * Locks are taken in the order of docs/adr/0001-storage-engine.md; at most one statement waits.

create function towpath.assert_read_committed() returns void
    language plpgsql volatile
    as $$
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'transaction isolation is %, Towpath needs read committed',
            current_setting('transaction_isolation')
            using errcode = 'TW002';
    end if;
end
$$;

-- Advisory keys of lanes have these six high bits, so that no other user of the database meets them.
create function towpath.lane_key(p_lane bigint) returns bigint
    language sql immutable
    as 'select p_lane | (21::bigint << 57)';

create type towpath.appended as (
    lane_ix int,
    -- 0 appended, 1 stale tail: nothing inserted in this lane, 2 the queue is gone
    status smallint,
    -- The number the next message gets, and the newest chunk's number.
    tail bigint,
    last_chunk bigint,
    -- Running totals at the tail.
    bytes_total bigint,
    live_total bigint,
    enq timestamptz
);

-- Appends chunks to many lanes. The caller says for each lane the tail that it knows (-1: none
-- yet), the number of the newest chunk it knows there, the salt of its opening and its running
-- totals. A lane whose tail is another gets nothing; the answer says the true one. Lanes are sorted:
-- a rival in one of them is waited for.
create function towpath.append_1(
    p_lanes bigint[],
    p_tails bigint[],
    p_last_chunks bigint[],
    p_salts int[],
    p_bytes_totals bigint[],
    p_live_totals bigint[],
    p_chunk_lanes int[],
    p_chunk_sizes int[],
    p_chunks bytea[]
) returns setof towpath.appended
    language plpgsql volatile
    as $$
declare
    -- A message's id has 41 bits for its number.
    c_numbers constant bigint := 1::bigint << 41;
    v_now constant timestamptz := towpath.clock();
    v_out towpath.appended;
    v_chunk int := 1;
    v_queue int;
    v_from bigint;
    v_freed bigint;
    v_found record;
    v_first bigint;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        v_out.lane_ix := v_ix;
        v_out.enq := v_now;
        v_out.tail := p_tails[v_ix];
        v_out.last_chunk := p_last_chunks[v_ix];
        v_out.bytes_total := p_bytes_totals[v_ix];
        v_out.live_total := p_live_totals[v_ix];
        v_out.status := 0;

        v_queue := (p_lanes[v_ix] >> 26)::int;
        perform 1 from towpath.queue t where t.queue_id = v_queue and t.deleted_at is null;
        if not found then
            v_out.status := 2;
        else
            -- The probe must have a lower bound: behind it may lie every chunk that was freed
            -- since somebody's old snapshot began.
            v_from := p_last_chunks[v_ix];
            if p_tails[v_ix] < 0 then
                select c.pos into v_freed
                from towpath.cur c
                where c.lane_id = p_lanes[v_ix] and c.sub_id = 0
                order by c.epoch desc, c.pos desc, c.floor desc
                limit 1;
                v_freed := coalesce(v_freed, 0);
                v_from := v_freed - 61;
                v_out.tail := v_freed;
                v_out.last_chunk := v_freed - 61;
                v_out.bytes_total := 0;
                v_out.live_total := 0;
                v_out.status := 1;
            end if;
            select l.seq, l.seq + l.n as tail, l.bytes_before + octet_length(l.body) as bytes,
                l.live_before + l.live as live
            into v_found
            from towpath.log l
            where l.lane_id = p_lanes[v_ix] and l.seq >= v_from
            order by l.seq desc
            limit 1;
            if found and v_found.tail >= v_out.tail then
                if v_found.tail > v_out.tail then
                    v_out.status := 1;
                end if;
                v_out.tail := v_found.tail;
                v_out.last_chunk := v_found.seq;
                v_out.bytes_total := v_found.bytes;
                v_out.live_total := v_found.live;
            elsif v_out.status = 0 then
                -- Nothing of what the caller knows is there. That is right if it was freed, and
                -- then the log's own cursor is at the tail or past it; else numbers were lost.
                select c.pos into v_freed
                from towpath.cur c
                where c.lane_id = p_lanes[v_ix] and c.sub_id = 0
                order by c.epoch desc, c.pos desc, c.floor desc
                limit 1;
                v_freed := coalesce(v_freed, 0);
                if v_freed <> v_out.tail then
                    v_out.tail := greatest(v_freed, v_found.tail);
                    v_out.last_chunk := v_out.tail - 61;
                    v_out.bytes_total := 0;
                    v_out.live_total := 0;
                    v_out.status := 1;
                end if;
            end if;
        end if;

        if v_out.status <> 0 then
            while v_chunk <= cardinality(p_chunks) and p_chunk_lanes[v_chunk] = v_ix loop
                v_chunk := v_chunk + 1;
            end loop;
            return next v_out;
            continue;
        end if;

        if v_out.tail = 0 then
            insert into towpath.lane (lane_id, queue_id)
            values (p_lanes[v_ix], v_queue)
            on conflict (lane_id) do nothing;
        end if;
        v_first := v_out.tail;
        while v_chunk <= cardinality(p_chunks) and p_chunk_lanes[v_chunk] = v_ix loop
            v_out.last_chunk := v_out.tail;
            insert into towpath.log
                (lane_id, seq, n, live, salt, enq, bytes_before, live_before, body)
            values (
                p_lanes[v_ix], v_out.tail, p_chunk_sizes[v_chunk], p_chunk_sizes[v_chunk],
                p_salts[v_ix], v_now, v_out.bytes_total, v_out.live_total, p_chunks[v_chunk]
            );
            v_out.tail := v_out.tail + p_chunk_sizes[v_chunk];
            if v_out.tail > c_numbers then
                raise exception 'lane % has no numbers left', p_lanes[v_ix] using errcode = 'TW003';
            end if;
            v_out.bytes_total := v_out.bytes_total + octet_length(p_chunks[v_chunk]);
            v_out.live_total := v_out.live_total + p_chunk_sizes[v_chunk];
            v_chunk := v_chunk + 1;
        end loop;

        -- The second look. A rival that merely committed has collided on the key. One that
        -- committed, was received, deleted and freed since the probe has left nothing to collide
        -- with but this: our numbers lie below what was freed, where no receiver looks.
        select c.pos into v_freed
        from towpath.cur c
        where c.lane_id = p_lanes[v_ix] and c.sub_id = 0
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if v_freed > v_first then
            raise exception 'lane % was freed up to % while appending at %',
                p_lanes[v_ix], v_freed, v_first
                using errcode = 'TW001';
        end if;
        return next v_out;
    end loop;
end
$$;

create type towpath.claimed as (
    -- 0 a delivery, 1 a chunk that deliveries point into, 2 a lane's report, 3 a queue's report
    kind smallint,
    -- 0: the slot. 3: the queue. Both count from 1.
    ix int,
    lane_id bigint,
    -- 0: the message. 1: the chunk's first message.
    seq bigint,
    -- 0: the receive count. 3: lanes that another claim held.
    n int,
    -- 0: the lease's token. 1: the salt. 3: 0 looked at; 1 there may be more, a limit of the call
    -- ended the claim; 2 the queue is gone; 3 not all lanes were looked at, the call's locks or
    -- bytes ran out.
    code int,
    epoch int,
    -- 0: visible again. 1: sent. 2: expired leases before this were all seen. 3: the clock.
    at timestamptz,
    -- 0: first received.
    first_at timestamptz,
    body bytea
);

-- Hands out messages of many queues into slots, a message each. Slots are sorted by queue; p_firsts
-- says at which of them each queue's begin. p_low_lanes and p_low_times: expired leases up to then
-- were seen before. Never waits for a lock, except with p_wait: then for all lanes of its one
-- queue, in ascending order, before anything else.
create function towpath.claim_1(
    p_sub int,
    p_queues int[],
    p_firsts int[],
    p_toks int[],
    p_windows_ms int[],
    p_byte_budget bigint,
    p_low_lanes bigint[],
    p_low_times timestamptz[],
    p_wait boolean
) returns setof towpath.claimed
    language plpgsql volatile
    as $$
declare
    -- Locks are shared memory of the whole server.
    c_lanes_per_call constant int := 256;
    -- Dead leases (purged, or of another epoch) that one call clears away in a queue.
    c_dead_per_call constant int := 1000;
    -- How many queues' byte budgets one call may use up. Queues beyond it are not looked at.
    c_budgets_per_call constant int := 8;
    v_now timestamptz;
    v_out towpath.claimed;
    v_none towpath.claimed;
    v_report towpath.claimed;
    v_locked int := 0;
    -- Slots of the queue: the next free one, the end of what this pass may fill, the end of all.
    v_slot int;
    v_stop int;
    v_end int;
    v_share int;
    v_bytes bigint;
    v_total bigint := 0;
    v_byte_stop bigint;
    v_ix int;
    v_lanes bigint[];
    v_epochs int[];
    v_positions bigint[];
    v_floors bigint[];
    v_heads timestamptz[];
    -- Per lane: from where on expired leases were not seen yet, and whether all were.
    v_sinces timestamptz[];
    v_scanned boolean[];
    v_order int[];
    v_order_expired int[];
    v_lane bigint;
    v_cur record;
    v_head timestamptz;
    v_lease record;
    v_chunk record;
    -- The chunk that was returned last for an expired lease: messages v_from to v_to of lane v_in.
    v_in bigint;
    v_from bigint;
    v_to bigint;
    v_since timestamptz;
    v_page int;
    v_seen int;
    v_dead int;
    v_position bigint;
    v_next bigint;
    v_first_slot int;
    v_los bigint[];
begin
    perform towpath.assert_read_committed();
    if p_wait then
        -- Whoever holds a lane for longer than a commit takes is stuck, and others wait for us.
        perform set_config('lock_timeout', '100', true);
        for v_lane in
            select l.lane_id from towpath.lane l
            where l.queue_id = p_queues[1]
            order by l.lane_id
        loop
            perform pg_advisory_xact_lock(towpath.lane_key(v_lane));
        end loop;
    end if;
    v_now := towpath.clock();

    for v_queue in 1 .. cardinality(p_queues) loop
        v_report := v_none;
        v_report.kind := 3;
        v_report.ix := v_queue;
        v_report.n := 0;
        v_report.code := 0;
        v_report.at := v_now;
        perform 1 from towpath.queue t where t.queue_id = p_queues[v_queue] and t.deleted_at is null;
        if not found then
            v_report.code := 2;
            return next v_report;
            continue;
        end if;
        if v_total >= c_budgets_per_call * p_byte_budget then
            v_report.code := 3;
            return next v_report;
            continue;
        end if;
        v_slot := p_firsts[v_queue];
        v_end := coalesce(p_firsts[v_queue + 1], cardinality(p_toks) + 1);
        v_bytes := 0;
        v_dead := 0;

        v_lanes := '{}';
        v_epochs := '{}';
        v_positions := '{}';
        v_floors := '{}';
        v_heads := '{}';
        v_sinces := '{}';
        v_scanned := '{}';
        for v_lane in
            select l.lane_id from towpath.lane l
            where l.queue_id = p_queues[v_queue]
            order by l.lane_id
        loop
            if v_locked = c_lanes_per_call then
                v_report.code := 3;
                exit;
            end if;
            if not pg_try_advisory_xact_lock(towpath.lane_key(v_lane)) then
                v_report.n := v_report.n + 1;
                continue;
            end if;
            v_locked := v_locked + 1;
            select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
            from towpath.cur c
            where c.lane_id = v_lane and c.sub_id = p_sub
            order by c.epoch desc, c.pos desc, c.floor desc
            limit 1;
            if not found then
                select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
            end if;
            select g.enq into v_head
            from towpath.log g
            where g.lane_id = v_lane and g.seq > v_cur.pos - 62 and g.seq + g.n > v_cur.pos
            order by g.seq
            limit 1;
            v_lanes := v_lanes || v_lane;
            v_epochs := v_epochs || v_cur.epoch;
            v_positions := v_positions || v_cur.pos;
            v_floors := v_floors || v_cur.floor;
            v_heads := v_heads || v_head;
            v_sinces := v_sinces || coalesce(
                p_low_times[array_position(p_low_lanes, v_lane)], '-infinity'::timestamptz);
            v_scanned := v_scanned || false;
        end loop;
        -- New messages: the oldest head first, or a lane whose node has no receivers would starve.
        -- Expired leases: by dice, or one lane's would hide all others'.
        if cardinality(v_lanes) > 1 then
            select array_agg(u.ix order by u.head nulls last, u.ix), array_agg(u.ix order by random())
            into v_order, v_order_expired
            from unnest(v_heads) with ordinality as u (head, ix);
        elsif cardinality(v_lanes) = 1 then
            v_order := '{1}';
            v_order_expired := '{1}';
        else
            v_order := '{}';
            v_order_expired := '{}';
        end if;

        -- Expired leases may fill half of the slots and of the bytes before new messages have
        -- their turn, and the rest after; or messages that come back at once would starve the
        -- others. Dice decide who has the odd slot.
        v_share := v_slot + (v_end - v_slot + (random() < 0.5)::int) / 2;
        v_in := null;
        for v_pass in 1 .. 3 loop
            v_stop := case v_pass when 1 then v_share else v_end end;
            v_byte_stop := case v_pass when 1 then p_byte_budget / 2 else p_byte_budget end;
            if v_pass = 2 then
                -- One chunk fits always, however large what came before it.
                v_bytes := least(v_bytes, v_byte_stop - 1);
            end if;
            foreach v_ix in array case v_pass when 2 then v_order else v_order_expired end loop
                exit when v_slot = v_stop or v_bytes >= v_byte_stop;
                v_lane := v_lanes[v_ix];
                if v_pass = 2 then
                    v_position := v_positions[v_ix];
                    v_next := v_position;
                    v_first_slot := v_slot;
                    v_los := '{}';
                    for v_chunk in
                        select g.seq, g.n, g.salt, g.enq, g.body
                        from towpath.log g
                        where g.lane_id = v_lane and g.seq > v_position - 62
                            and g.seq + g.n > v_position
                        order by g.seq
                        limit v_end - v_slot
                    loop
                        v_out := v_none;
                        v_out.kind := 1;
                        v_out.lane_id := v_lane;
                        v_out.seq := v_chunk.seq;
                        v_out.code := v_chunk.salt;
                        v_out.at := v_chunk.enq;
                        v_out.body := v_chunk.body;
                        return next v_out;
                        v_bytes := v_bytes + octet_length(v_chunk.body);
                        v_total := v_total + octet_length(v_chunk.body);
                        v_out := v_none;
                        v_out.kind := 0;
                        v_out.lane_id := v_lane;
                        v_out.n := 1;
                        v_out.epoch := v_epochs[v_ix];
                        v_out.first_at := v_now;
                        v_next := greatest(v_chunk.seq, v_position);
                        while v_next < v_chunk.seq + v_chunk.n and v_slot < v_end loop
                            v_los := v_los || v_next;
                            v_out.ix := v_slot;
                            v_out.seq := v_next;
                            v_out.code := p_toks[v_slot];
                            v_out.at := v_now + p_windows_ms[v_slot] * interval '1 millisecond';
                            return next v_out;
                            v_next := v_next + 1;
                            v_slot := v_slot + 1;
                        end loop;
                        exit when v_slot = v_end or v_bytes >= v_byte_stop;
                    end loop;
                    if v_next > v_position then
                        insert into towpath.lease (
                            lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state,
                            first_received_at, received_at
                        )
                        select v_lane, p_sub, u.lo, u.tok, v_epochs[v_ix], 1,
                            v_now + u.window_ms * interval '1 millisecond', 1, 0, v_now, v_now
                        from unnest(
                            v_los, p_toks[v_first_slot:v_slot - 1],
                            p_windows_ms[v_first_slot:v_slot - 1]
                        ) as u (lo, tok, window_ms);
                        insert into towpath.cur (lane_id, sub_id, epoch, pos, floor)
                        values (v_lane, p_sub, v_epochs[v_ix], v_next, v_floors[v_ix]);
                    end if;
                    continue;
                end if;

                continue when v_scanned[v_ix] or v_dead >= c_dead_per_call;
                v_since := v_sinces[v_ix];
                v_page := v_stop - v_slot;
                loop
                    v_seen := 0;
                    -- SKIP LOCKED passes over what a delete holds at this moment. What ends at
                    -- this very moment was given out by this call, with a window of zero.
                    for v_lease in
                        select e.lo, e.tok, e.epoch, e.rc, e.first_received_at, e.vt
                        from towpath.lease e
                        where (e.lane_id + 0) = v_lane and (e.sub_id + 0) = p_sub
                            and e.vt >= v_since and e.vt < v_now
                        order by e.vt
                        limit v_page
                        for update skip locked
                    loop
                        v_seen := v_seen + 1;
                        v_since := v_lease.vt;
                        if v_lease.epoch <> v_epochs[v_ix] or v_lease.lo < v_floors[v_ix] then
                            delete from towpath.lease e
                            where e.lane_id = v_lane and e.sub_id = p_sub
                                and e.lo = v_lease.lo and e.tok = v_lease.tok;
                            v_dead := v_dead + 1;
                            continue;
                        end if;
                        if v_in is distinct from v_lane or v_lease.lo not between v_from and v_to
                        then
                            select g.seq, g.n, g.salt, g.enq, g.body into v_chunk
                            from towpath.log g
                            where g.lane_id = v_lane and g.seq <= v_lease.lo
                                and g.seq > v_lease.lo - 62
                            order by g.seq desc
                            limit 1;
                            if not found or v_lease.lo >= v_chunk.seq + v_chunk.n then
                                -- Cannot be; but were it so, the queue must go on.
                                raise warning 'dropped a lease without a chunk: message % of lane %',
                                    v_lease.lo, v_lane;
                                delete from towpath.lease e
                                where e.lane_id = v_lane and e.sub_id = p_sub
                                    and e.lo = v_lease.lo and e.tok = v_lease.tok;
                                v_dead := v_dead + 1;
                                continue;
                            end if;
                            v_in := v_lane;
                            v_from := v_chunk.seq;
                            v_to := v_chunk.seq + v_chunk.n - 1;
                            v_out := v_none;
                            v_out.kind := 1;
                            v_out.lane_id := v_lane;
                            v_out.seq := v_chunk.seq;
                            v_out.code := v_chunk.salt;
                            v_out.at := v_chunk.enq;
                            v_out.body := v_chunk.body;
                            return next v_out;
                            v_bytes := v_bytes + octet_length(v_chunk.body);
                            v_total := v_total + octet_length(v_chunk.body);
                        end if;
                        v_out := v_none;
                        v_out.kind := 0;
                        v_out.ix := v_slot;
                        v_out.lane_id := v_lane;
                        v_out.seq := v_lease.lo;
                        v_out.n := v_lease.rc + 1;
                        -- A new delivery has a new token, whatever the dice say.
                        v_out.code := p_toks[v_slot] + (p_toks[v_slot] = v_lease.tok)::int;
                        v_out.epoch := v_lease.epoch;
                        v_out.at := v_now + p_windows_ms[v_slot] * interval '1 millisecond';
                        v_out.first_at := coalesce(v_lease.first_received_at, v_now);
                        update towpath.lease e
                        set tok = v_out.code, vt = v_out.at, rc = v_out.n,
                            first_received_at = v_out.first_at, received_at = v_now
                        where e.lane_id = v_lane and e.sub_id = p_sub
                            and e.lo = v_lease.lo and e.tok = v_lease.tok;
                        return next v_out;
                        v_slot := v_slot + 1;
                        exit when v_slot = v_stop or v_bytes >= v_byte_stop;
                    end loop;
                    exit when v_slot = v_stop or v_bytes >= v_byte_stop;
                    v_scanned[v_ix] := v_seen < v_page;
                    exit when v_scanned[v_ix];
                    -- The page was full of dead ones. More of them than this are for the next
                    -- call, so that this one ends in time and keeps what it has cleared.
                    if v_dead >= c_dead_per_call then
                        v_report.code := 1;
                        exit;
                    end if;
                    v_page := c_dead_per_call;
                end loop;
                v_sinces[v_ix] := v_since;
            end loop;
        end loop;

        for v_ix in 1 .. cardinality(v_lanes) loop
            if v_scanned[v_ix] then
                v_out := v_none;
                v_out.kind := 2;
                v_out.lane_id := v_lanes[v_ix];
                v_out.at := v_now;
                return next v_out;
            end if;
        end loop;
        if v_report.code = 0 and v_slot < v_end and v_bytes >= p_byte_budget then
            v_report.code := 1;
        end if;
        return next v_report;
    end loop;
end
$$;

-- Deletes messages by their leases, which must be sorted by (lane, lo). Says for each:
-- 0 deleted, 1 deleted although a newer receiver held it, 2 was gone already, 3 stale.
create function towpath.ack_1(
    p_sub int,
    p_lanes bigint[],
    p_los bigint[],
    p_toks int[],
    p_epochs int[],
    p_salts int[]
) returns smallint[]
    language plpgsql volatile
    as $$
declare
    v_out smallint[] := array_fill(0::smallint, array[cardinality(p_lanes)]);
    v_salt int;
    v_cur record;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        delete from towpath.lease e
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.tok = p_toks[v_ix];
        continue when found;
        -- A standard queue deletes by any receipt of the message; the salt says whether it is
        -- still that message, or another that got its number after a restore.
        select g.salt into v_salt
        from towpath.log g
        where g.lane_id = p_lanes[v_ix] and g.seq <= p_los[v_ix] and g.seq > p_los[v_ix] - 62
            and g.seq + g.n > p_los[v_ix]
        order by g.seq desc
        limit 1;
        if found and v_salt <> p_salts[v_ix] then
            v_out[v_ix] := 3;
            continue;
        end if;
        delete from towpath.lease e
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.epoch = p_epochs[v_ix];
        if found then
            v_out[v_ix] := 1;
            continue;
        end if;
        select c.epoch, greatest(c.pos, c.floor) as pos into v_cur
        from towpath.cur c
        where c.lane_id = p_lanes[v_ix] and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        -- Not claimed yet as far as this database knows: a receipt from before a restore.
        v_out[v_ix] := case
            when found and v_cur.epoch = p_epochs[v_ix] and p_los[v_ix] < v_cur.pos then 2
            else 3
        end;
    end loop;
    return v_out;
end
$$;

-- Moves the end of leases to p_windows_ms from now; zero makes a message visible at once. With
-- p_hand_back the delivery is also forgotten. Sorted by (lane, lo). Says the new end of each, or
-- null where the lease is not the newest, has ended, or lies below the floor.
create function towpath.extend_1(
    p_sub int,
    p_lanes bigint[],
    p_los bigint[],
    p_toks int[],
    p_epochs int[],
    p_windows_ms int[],
    p_hand_back boolean
) returns timestamptz[]
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_out timestamptz[] := array_fill(null::timestamptz, array[cardinality(p_lanes)]);
    v_cur record;
    v_vt timestamptz;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        select c.epoch, c.floor into v_cur
        from towpath.cur c
        where c.lane_id = p_lanes[v_ix] and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        continue when not found or v_cur.epoch <> p_epochs[v_ix] or p_los[v_ix] < v_cur.floor;
        v_vt := v_now + p_windows_ms[v_ix] * interval '1 millisecond';
        update towpath.lease e
        set vt = v_vt,
            rc = e.rc - p_hand_back::int,
            first_received_at = case when p_hand_back and e.rc = 1 then null else e.first_received_at end
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.tok = p_toks[v_ix] and e.vt > v_now;
        if found then
            v_out[v_ix] := v_vt;
        end if;
    end loop;
    return v_out;
end
$$;

-- Drops everything that a queue holds, in flight or not: a cursor row per lane, whatever the
-- backlog. Sends that run meanwhile may survive. Waits for lane locks, in ascending order.
create function towpath.floor_1(p_sub int, p_queue int) returns void
    language plpgsql volatile
    as $$
declare
    v_lanes bigint[];
    v_lane bigint;
    v_cur record;
    v_tail bigint;
begin
    perform towpath.assert_read_committed();
    select array_agg(l.lane_id order by l.lane_id) into v_lanes
    from towpath.lane l
    where l.queue_id = p_queue;
    foreach v_lane in array coalesce(v_lanes, '{}') loop
        perform pg_advisory_xact_lock(towpath.lane_key(v_lane));
    end loop;
    foreach v_lane in array coalesce(v_lanes, '{}') loop
        select c.epoch, greatest(c.pos, c.floor) as pos into v_cur
        from towpath.cur c
        where c.lane_id = v_lane and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as pos into v_cur;
        end if;
        select g.seq + g.n into v_tail
        from towpath.log g
        where g.lane_id = v_lane and g.seq > v_cur.pos - 62
        order by g.seq desc
        limit 1;
        v_tail := greatest(v_cur.pos, v_tail);
        insert into towpath.cur (lane_id, sub_id, epoch, pos, floor)
        values (v_lane, p_sub, v_cur.epoch, v_tail, v_tail)
        on conflict do nothing;
    end loop;
end
$$;

-- Which of these deduplication keys were accepted before: the message's id, or null.
create function towpath.dedup_probe_1(p_queues int[], p_hashes uuid[]) returns uuid[]
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_out uuid[] := array_fill(null::uuid, array[cardinality(p_queues)]);
    v_id uuid;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_queues) loop
        select d.message_id into v_id
        from towpath.dedup d
        where d.queue_id = p_queues[v_ix] and d.h = p_hashes[v_ix] and d.until > v_now;
        if found then
            v_out[v_ix] := v_id;
        end if;
    end loop;
    return v_out;
end
$$;
