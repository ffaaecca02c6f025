-- The hot functions, second edition: delays, times to live, leases that cover several messages,
-- dead letters, deduplication keys. The rules at the head of 0002_hot_functions.sql hold here too.

-- What a lane holds: 0 ready messages, 1 delayed ones.
create function towpath.lane_kind(p_lane bigint) returns int
    language sql immutable
    as 'select ((p_lane >> 14) & 3)::int';

-- One past the highest number of a lane that was ever freed.
create function towpath.freed(p_lane bigint) returns bigint
    language plpgsql volatile
    as $$
declare
    v_pos bigint;
begin
    select c.pos into v_pos
    from towpath.cur c
    where c.lane_id = p_lane and c.sub_id = 0
    order by c.epoch desc, c.pos desc, c.floor desc
    limit 1;
    return coalesce(v_pos, 0);
end
$$;

-- As append_1. A chunk may have a time to live (0: none), a time at which its messages were first
-- sent (null: now), and in a lane of delayed messages it has a delay. The lanes that got something
-- are noted in wake, for whoever gives space back. p_now is null, but where another function has read the
-- clock already.
create function towpath.append_2(
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
    p_chunks bytea[],
    p_now timestamptz
) returns setof towpath.appended
    language plpgsql volatile
    as $$
declare
    -- A message's id has 41 bits for its number.
    c_numbers constant bigint := 1::bigint << 41;
    v_now constant timestamptz := coalesce(p_now, towpath.clock());
    v_out towpath.appended;
    v_chunk int := 1;
    v_queue int;
    v_from bigint;
    v_freed bigint;
    v_found record;
    v_first bigint;
    v_written bigint[] := '{}';
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
                v_freed := towpath.freed(p_lanes[v_ix]);
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
                v_freed := towpath.freed(p_lanes[v_ix]);
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
            insert into towpath.log (
                lane_id, seq, n, live, salt, enq, expires_at, bytes_before, live_before, body,
                sent_at
            )
            values (
                p_lanes[v_ix], v_out.tail, p_chunk_sizes[v_chunk], p_chunk_sizes[v_chunk],
                p_salts[v_ix], v_now,
                case when p_chunk_lives_ms[v_chunk] > 0
                    then v_now + p_chunk_lives_ms[v_chunk] * interval '1 millisecond' end,
                v_out.bytes_total, v_out.live_total, p_chunks[v_chunk], p_chunk_sent_at[v_chunk]
            );
            -- Nobody seeks in a lane of delayed messages: its epoch is 0 for ever.
            if towpath.lane_kind(p_lanes[v_ix]) = 1 then
                insert into towpath.lease (
                    lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state, received_at
                )
                values (
                    p_lanes[v_ix], 1, v_out.tail, 0, 0,
                    (1::bigint << p_chunk_sizes[v_chunk]) - 1,
                    v_now + p_chunk_delays_ms[v_chunk] * interval '1 millisecond', 0, 1, v_now
                );
            end if;
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
        if towpath.freed(p_lanes[v_ix]) > v_first then
            raise exception 'lane % was freed past % while appending', p_lanes[v_ix], v_first
                using errcode = 'TW001';
        end if;
        if v_out.tail > v_first then
            v_written := v_written || p_lanes[v_ix];
        end if;
        return next v_out;
    end loop;
    if v_written <> '{}' then
        insert into towpath.wake (lane_ids) values (v_written);
    end if;
end
$$;

create type towpath.claimed_2 as (
    -- 0 a lease that a receiver got again, 1 a chunk that leases point into, 2 a lane's report, 3 a
    -- queue's report, 4 a lease that was received too often and is the mover's now, 5 the leases of a
    -- lane that are new
    kind smallint,
    -- 0: the receiver. 3: the queue. Both count from 1.
    ix int,
    lane_id bigint,
    -- 0, 4: the first message that the mask can name. 1: the chunk's first message.
    seq bigint,
    -- 0: the messages, a bit each, counted from seq.
    mask bigint,
    -- 0: the receive count. 1: the number of messages. 3: lanes that another claim held.
    n int,
    -- 0, 4: the lease's token. 1: the salt. 3: 0 looked at; 1 there may be more, a limit of the call
    -- ended the claim; 2 the queue is gone; 3 not all lanes were looked at, the call's locks or
    -- bytes ran out.
    code int,
    epoch int,
    -- 0: visible again. 1: first sent. 2: expired leases before this were all seen. 3, 5: the clock.
    at timestamptz,
    -- 0: first received.
    first_at timestamptz,
    body bytea,
    -- 5: of each lease its beginning, its messages, its token and its receiver. In one row: a row for each
    -- was a third of what a claim of single messages cost.
    los bigint[],
    masks bigint[],
    toks int[],
    receivers int[]
);

-- The p_k lowest bits of a mask.
create function towpath.lowest_bits(p_mask bigint, p_k int) returns bigint
    language plpgsql immutable
    as $$
declare
    v_rest bigint := p_mask;
begin
    for v_i in 1 .. p_k loop
        v_rest := v_rest & (v_rest - 1);
    end loop;
    return p_mask & ~v_rest;
end
$$;

-- As claim_1, for receivers that each take up to so many messages (p_sizes), under leases that cover
-- up to p_run messages of a chunk. Leases get tokens of their own, from p_tok on in steps of two: two that
-- begin at one message are told apart by nothing else.
create function towpath.claim_2(
    p_sub int,
    p_queues int[],
    p_firsts int[],
    p_sizes int[],
    p_windows_ms bigint[],
    p_tok int,
    p_run int,
    p_byte_budget bigint,
    p_low_lanes bigint[],
    p_low_times timestamptz[],
    p_wait boolean
) returns setof towpath.claimed_2
    language plpgsql volatile
    as $$
declare
    -- Locks are shared memory of the whole server. A queue can have as many lanes: two kinds for each
    -- of 256 writers. With fewer, those behind them would never be looked at.
    c_lanes_per_call constant int := 512;
    -- Dead leases (purged, expired or of another epoch) that one call clears away in a queue.
    c_dead_per_call constant int := 1000;
    -- Expired chunks that one call passes over in a queue.
    c_passed_per_call constant int := 1000;
    -- Leases that one call hands to the mover, per queue, and for how long.
    c_moves_per_call constant int := 100;
    c_move_window constant interval := interval '30 seconds';
    -- How many queues' byte budgets one call may use up. Queues beyond it are not looked at.
    c_budgets_per_call constant int := 8;
    v_now timestamptz;
    v_out towpath.claimed_2;
    v_none towpath.claimed_2;
    v_report towpath.claimed_2;
    v_locked int := 0;
    -- The receiver who is served, the last one of the queue, and how many more it takes.
    v_receiver int;
    v_last int;
    v_wants int;
    -- The next lease's token.
    v_tok int := p_tok;
    -- Messages that the queue's receivers still take, and where this pass stops.
    v_open int;
    v_stop int;
    v_share int;
    v_take int;
    v_bytes bigint;
    v_total bigint := 0;
    v_byte_stop bigint;
    v_settings record;
    -- After how many deliveries a message is the mover's; 0: never.
    v_max_receives int;
    v_since_enq timestamptz;
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
    -- The chunk that was looked at last for an expired lease: messages v_from to v_to of lane v_in,
    -- whether they have expired, and whether it was returned.
    v_in bigint;
    v_from bigint;
    v_to bigint;
    v_expired boolean;
    v_returned boolean;
    v_mask bigint;
    v_bits bigint;
    v_since timestamptz;
    v_page int;
    v_seen int;
    v_dead int;
    v_moves int;
    v_passed int;
    v_rest boolean;
    v_position bigint;
    v_next bigint;
    v_los bigint[];
    v_masks bigint[];
    v_who int[];
    v_toks int[];
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
        -- What a node knows of a queue may be as old as the receivers that wait.
        select t.retention_seconds, t.max_receive_count, t.dead_letter_queue_id into v_settings
        from towpath.queue t
        where t.queue_id = p_queues[v_queue] and t.deleted_at is null;
        if not found then
            v_report.code := 2;
            return next v_report;
            continue;
        end if;
        v_max_receives := 0;
        if v_settings.dead_letter_queue_id is not null then
            perform 1 from towpath.queue t
            where t.queue_id = v_settings.dead_letter_queue_id and t.deleted_at is null;
            if found then
                v_max_receives := v_settings.max_receive_count;
            end if;
        end if;
        if v_total >= c_budgets_per_call * p_byte_budget then
            v_report.code := 3;
            return next v_report;
            continue;
        end if;
        v_receiver := p_firsts[v_queue];
        v_last := coalesce(p_firsts[v_queue + 1], cardinality(p_sizes) + 1) - 1;
        v_wants := p_sizes[v_receiver];
        v_open := 0;
        for v_ix in v_receiver .. v_last loop
            v_open := v_open + p_sizes[v_ix];
        end loop;
        v_since_enq := v_now - v_settings.retention_seconds * interval '1 second';
        v_bytes := 0;
        v_dead := 0;
        v_moves := 0;
        v_passed := 0;
        v_rest := false;

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
            v_head := null;
            -- What is delayed has leases from the beginning: nothing lies ahead of a cursor.
            if towpath.lane_kind(v_lane) = 0 then
                select g.enq into v_head
                from towpath.log g
                where g.lane_id = v_lane and g.seq > v_cur.pos - 62 and g.seq + g.n > v_cur.pos
                order by g.seq
                limit 1;
            end if;
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

        -- Expired leases may fill half of the room and of the bytes before new messages have
        -- their turn, and the rest after; or messages that come back at once would starve the
        -- others. Dice decide who has the odd message. With nothing new they have it all: no lease
        -- is split for nobody's sake.
        v_share := case
            when cardinality(array_remove(v_heads, null)) = 0 then v_open
            else (v_open + (random() < 0.5)::int) / 2
        end;
        for v_pass in 1 .. 3 loop
            v_in := null;
            v_stop := case v_pass when 1 then v_open - v_share else 0 end;
            v_byte_stop := case v_pass when 1 then p_byte_budget / 2 else p_byte_budget end;
            if v_pass = 2 then
                -- One chunk fits always, however large what came before it.
                v_bytes := least(v_bytes, v_byte_stop - 1);
            end if;
            foreach v_ix in array case v_pass when 2 then v_order else v_order_expired end loop
                exit when v_open <= v_stop or v_bytes >= v_byte_stop;
                v_lane := v_lanes[v_ix];
                if v_pass = 2 then
                    continue when v_heads[v_ix] is null;
                    v_position := v_positions[v_ix];
                    v_next := v_position;
                    v_los := '{}';
                    v_masks := '{}';
                    v_who := '{}';
                    v_toks := '{}';
                    for v_chunk in
                        select g.seq, g.n, g.salt, coalesce(g.sent_at, g.enq) as sent_at, g.body,
                            g.expires_at
                        from towpath.log g
                        where g.lane_id = v_lane and g.seq > v_position - 62
                            and g.seq + g.n > v_position
                        order by g.seq
                        limit v_open + c_passed_per_call
                    loop
                        if v_chunk.sent_at <= v_since_enq or v_chunk.expires_at <= v_now then
                            v_next := v_chunk.seq + v_chunk.n;
                            v_passed := v_passed + 1;
                            exit when v_passed >= c_passed_per_call;
                            continue;
                        end if;
                        v_out := v_none;
                        v_out.kind := 1;
                        v_out.lane_id := v_lane;
                        v_out.seq := v_chunk.seq;
                        v_out.n := v_chunk.n;
                        v_out.code := v_chunk.salt;
                        v_out.at := v_chunk.sent_at;
                        v_out.body := v_chunk.body;
                        return next v_out;
                        v_bytes := v_bytes + octet_length(v_chunk.body);
                        v_total := v_total + octet_length(v_chunk.body);
                        v_next := greatest(v_chunk.seq, v_position);
                        while v_next < v_chunk.seq + v_chunk.n and v_open > 0 loop
                            v_take := least(v_wants, v_chunk.seq + v_chunk.n - v_next, p_run);
                            v_toks := v_toks || v_tok;
                            v_tok := v_tok + 2;
                            v_los := v_los || v_next;
                            v_masks := v_masks || ((1::bigint << v_take) - 1);
                            v_who := v_who || v_receiver;
                            v_next := v_next + v_take;
                            v_open := v_open - v_take;
                            v_wants := v_wants - v_take;
                            if v_wants = 0 and v_receiver < v_last then
                                v_receiver := v_receiver + 1;
                                v_wants := p_sizes[v_receiver];
                            end if;
                        end loop;
                        exit when v_open = 0 or v_bytes >= v_byte_stop;
                    end loop;
                    if v_next > v_position then
                        insert into towpath.lease (
                            lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state,
                            first_received_at, received_at
                        )
                        select v_lane, p_sub, u.lo, u.tok, v_epochs[v_ix], u.mask,
                            v_now + p_windows_ms[u.who] * interval '1 millisecond', 1, 0, v_now,
                            v_now
                        from unnest(v_los, v_toks, v_masks, v_who) as u (lo, tok, mask, who);
                        v_out := v_none;
                        v_out.kind := 5;
                        v_out.lane_id := v_lane;
                        v_out.epoch := v_epochs[v_ix];
                        v_out.at := v_now;
                        v_out.los := v_los;
                        v_out.masks := v_masks;
                        v_out.toks := v_toks;
                        v_out.receivers := v_who;
                        return next v_out;
                        insert into towpath.cur (lane_id, sub_id, epoch, pos, floor)
                        values (v_lane, p_sub, v_epochs[v_ix], v_next, v_floors[v_ix]);
                        v_positions[v_ix] := v_next;
                    end if;
                    if v_passed >= c_passed_per_call then
                        v_rest := true;
                    end if;
                    continue;
                end if;

                continue when v_scanned[v_ix];
                if v_dead >= c_dead_per_call then
                    v_rest := true;
                    continue;
                end if;
                v_since := v_sinces[v_ix];
                v_page := v_open - v_stop;
                loop
                    v_seen := 0;
                    -- SKIP LOCKED passes over what a delete holds at this moment. What ends at
                    -- this very moment was given out by this call, with a window of zero.
                    for v_lease in
                        select e.lo, e.tok, e.epoch, e.mask, e.rc, e.first_received_at, e.vt,
                            e.reason
                        from towpath.lease e
                        where (e.lane_id + 0) = v_lane and (e.sub_id + 0) = p_sub
                            and e.vt >= v_since and e.vt < v_now
                        order by e.vt
                        limit v_page
                        for update skip locked
                    loop
                        v_seen := v_seen + 1;
                        v_since := v_lease.vt;
                        if v_in is distinct from v_lane or v_lease.lo not between v_from and v_to
                        then
                            select g.seq, g.n, g.salt, coalesce(g.sent_at, g.enq) as sent_at,
                                g.body, g.expires_at
                            into v_chunk
                            from towpath.log g
                            where g.lane_id = v_lane and g.seq <= v_lease.lo
                                and g.seq > v_lease.lo - 62
                            order by g.seq desc
                            limit 1;
                            if found and v_lease.lo < v_chunk.seq + v_chunk.n then
                                v_in := v_lane;
                                v_from := v_chunk.seq;
                                v_to := v_chunk.seq + v_chunk.n - 1;
                                v_expired := v_chunk.sent_at <= v_since_enq
                                    or coalesce(v_chunk.expires_at <= v_now, false);
                                v_returned := false;
                            else
                                v_in := null;
                            end if;
                        end if;
                        if v_lease.epoch <> v_epochs[v_ix] or v_lease.lo < v_floors[v_ix]
                            or v_in is null or v_expired
                        then
                            if v_in is null and v_lease.lo >= v_floors[v_ix] then
                                -- Cannot be; but were it so, the queue must go on.
                                raise warning 'dropped a lease without a chunk: message % of lane %',
                                    v_lease.lo, v_lane;
                            end if;
                            delete from towpath.lease e
                            where e.lane_id = v_lane and e.sub_id = p_sub
                                and e.lo = v_lease.lo and e.tok = v_lease.tok;
                            v_dead := v_dead + 1;
                            continue;
                        end if;
                        if v_max_receives > 0 and v_lease.rc >= v_max_receives then
                            -- It must leave the head of the list, or those like it would fill
                            -- every scan.
                            v_out := v_none;
                            v_out.kind := 4;
                            v_out.lane_id := v_lane;
                            v_out.seq := v_lease.lo;
                            v_out.code := v_tok + (v_tok = v_lease.tok)::int;
                            v_tok := v_tok + 2;
                            update towpath.lease e
                            set tok = v_out.code, vt = v_now + c_move_window, state = 2
                            where e.lane_id = v_lane and e.sub_id = p_sub
                                and e.lo = v_lease.lo and e.tok = v_lease.tok;
                            return next v_out;
                            v_moves := v_moves + 1;
                            if v_moves >= c_moves_per_call then
                                v_rest := true;
                                exit;
                            end if;
                            continue;
                        end if;
                        if not v_returned then
                            v_out := v_none;
                            v_out.kind := 1;
                            v_out.lane_id := v_lane;
                            v_out.seq := v_chunk.seq;
                            v_out.n := v_chunk.n;
                            v_out.code := v_chunk.salt;
                            v_out.at := v_chunk.sent_at;
                            v_out.body := v_chunk.body;
                            return next v_out;
                            v_returned := true;
                            v_bytes := v_bytes + octet_length(v_chunk.body);
                            v_total := v_total + octet_length(v_chunk.body);
                        end if;
                        v_out := v_none;
                        v_out.kind := 0;
                        v_out.lane_id := v_lane;
                        v_out.seq := v_lease.lo;
                        v_out.n := v_lease.rc + 1;
                        v_out.epoch := v_lease.epoch;
                        v_out.first_at := coalesce(v_lease.first_received_at, v_now);
                        v_mask := v_lease.mask;
                        while v_mask <> 0 and v_open > v_stop loop
                            v_take := least(v_wants, v_open - v_stop, p_run);
                            v_bits := towpath.lowest_bits(v_mask, v_take);
                            v_mask := v_mask & ~v_bits;
                            v_take := bit_count(v_bits::bit(64));
                            v_out.ix := v_receiver;
                            v_out.mask := v_bits;
                            -- A new delivery has a new token, whatever the dice say.
                            v_out.code := v_tok + (v_tok = v_lease.tok)::int;
                            v_tok := v_tok + 2;
                            v_out.at := v_now + p_windows_ms[v_receiver] * interval '1 millisecond';
                            if v_bits = v_lease.mask then
                                update towpath.lease e
                                set tok = v_out.code, vt = v_out.at, rc = v_out.n, state = 0,
                                    first_received_at = v_out.first_at, received_at = v_now
                                where e.lane_id = v_lane and e.sub_id = p_sub
                                    and e.lo = v_lease.lo and e.tok = v_lease.tok;
                            else
                                insert into towpath.lease (
                                    lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state,
                                    first_received_at, received_at, reason
                                )
                                values (
                                    v_lane, p_sub, v_lease.lo, v_out.code, v_lease.epoch, v_bits,
                                    v_out.at, v_out.n, 0, v_out.first_at, v_now, v_lease.reason
                                );
                            end if;
                            return next v_out;
                            v_open := v_open - v_take;
                            v_wants := v_wants - v_take;
                            if v_wants = 0 and v_receiver < v_last then
                                v_receiver := v_receiver + 1;
                                v_wants := p_sizes[v_receiver];
                            end if;
                        end loop;
                        if v_mask = 0 and v_bits <> v_lease.mask then
                            delete from towpath.lease e
                            where e.lane_id = v_lane and e.sub_id = p_sub
                                and e.lo = v_lease.lo and e.tok = v_lease.tok;
                        elsif v_mask <> 0 then
                            -- Other nodes may have scanned past its old end. Just before now: the
                            -- last pass of this call finds it too.
                            update towpath.lease e
                            set mask = v_mask, vt = v_now - interval '1 microsecond'
                            where e.lane_id = v_lane and e.sub_id = p_sub
                                and e.lo = v_lease.lo and e.tok = v_lease.tok;
                        end if;
                        exit when v_open <= v_stop or v_bytes >= v_byte_stop;
                    end loop;
                    exit when v_open <= v_stop or v_bytes >= v_byte_stop
                        or v_moves >= c_moves_per_call;
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
        if v_report.code = 0 and v_open > 0 and (v_bytes >= p_byte_budget or v_rest) then
            v_report.code := 1;
        end if;
        return next v_report;
    end loop;
end
$$;

-- Deletes messages by their leases: from each those that p_masks names, counted from p_los. Sorted by
-- (lane, lo, tok), each lease once, so that rows are waited for in one order. p_wholes says that a
-- mask names all that the lease was given out with. Says for each which messages it deleted; the others
-- are for ack_rest_1, in a transaction of their own.
create function towpath.ack_2(
    p_sub int,
    p_lanes bigint[],
    p_los bigint[],
    p_toks int[],
    p_masks bigint[],
    p_wholes boolean[]
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
        if p_wholes[v_ix] then
            delete from towpath.lease e
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
                and e.tok = p_toks[v_ix]
            returning e.mask into v_mask;
            if found then
                v_out[v_ix] := v_mask;
            end if;
            continue;
        end if;
        select e.mask into v_mask
        from towpath.lease e
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.tok = p_toks[v_ix]
        for update;
        continue when not found or v_mask & p_masks[v_ix] = 0;
        v_out[v_ix] := v_mask & p_masks[v_ix];
        if v_mask & ~p_masks[v_ix] = 0 then
            delete from towpath.lease e
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
                and e.tok = p_toks[v_ix];
        else
            -- Claims may have passed over it, ended, because it was locked: see claim_2.
            update towpath.lease e
            set mask = v_mask & ~p_masks[v_ix], vt = greatest(e.vt, v_now)
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
                and e.tok = p_toks[v_ix];
        end if;
    end loop;
    return v_out;
end
$$;

-- Deletes messages that are no longer in the lease that their receipts name. p_ids names the same places
-- as they stand in moved. Waits for nobody. Says for each: 0 deleted, 1 deleted although a newer
-- receiver held it, 2 was gone already, 3 stale, 4 somebody is at it: ask again.
--
-- What is read first matters. The salt and the cursor before the leases: after a crash that lost commits,
-- a claim between the two could make an old receipt look like one of this life. moved after them: the
-- mover could be done between the two.
create function towpath.ack_rest_1(
    p_sub int,
    p_lanes bigint[],
    p_seqs bigint[],
    p_toks int[],
    p_epochs int[],
    p_salts int[],
    p_ids uuid[]
) returns smallint[]
    language plpgsql volatile
    as $$
declare
    -- What an extend splits off a lease has the lease's token with this bit.
    c_split constant int := -2147483648;
    v_now constant timestamptz := towpath.clock();
    v_out smallint[] := array_fill(0::smallint, array[cardinality(p_lanes)]);
    v_salt int;
    v_cur record;
    v_lease record;
    v_bit bigint;
    v_is_here boolean;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        -- A standard queue deletes by any receipt of the message; the salt says whether it is
        -- still that message, or another that got its number after a restore.
        select g.salt into v_salt
        from towpath.log g
        where g.lane_id = p_lanes[v_ix] and g.seq <= p_seqs[v_ix] and g.seq > p_seqs[v_ix] - 62
            and g.seq + g.n > p_seqs[v_ix]
        order by g.seq desc
        limit 1;
        v_is_here := found;
        if v_is_here and v_salt <> p_salts[v_ix] then
            v_out[v_ix] := 3;
            continue;
        end if;
        select c.epoch, greatest(c.pos, c.floor) as pos into v_cur
        from towpath.cur c
        where c.lane_id = p_lanes[v_ix] and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as pos into v_cur;
        end if;
        if towpath.lane_kind(p_lanes[v_ix]) <> 0 then
            v_cur.pos := 9223372036854775807;
        end if;
        -- Not claimed yet as far as this database knows: a receipt from before a restore.
        if v_cur.epoch <> p_epochs[v_ix] or p_seqs[v_ix] >= v_cur.pos then
            v_out[v_ix] := 3;
            continue;
        end if;
        v_out[v_ix] := 2;
        -- The split-off row, if there is one, else whatever lease names the message now.
        for v_lease in
            select e.lo, e.tok
            from towpath.lease e
            where v_is_here and e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub
                and e.lo > p_seqs[v_ix] - 62 and e.lo <= p_seqs[v_ix]
                and e.epoch = p_epochs[v_ix]
                and e.mask & (1::bigint << (p_seqs[v_ix] - e.lo)::int) <> 0
            order by e.lo
            limit 1
        loop
            select e.lo, e.tok, e.mask into v_lease
            from towpath.lease e
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = v_lease.lo
                and e.tok = v_lease.tok
            for update skip locked;
            -- Locked by somebody, or just gone or changed under another's commit.
            v_out[v_ix] := 4;
            exit when not found;
            v_bit := 1::bigint << (p_seqs[v_ix] - v_lease.lo)::int;
            exit when v_lease.mask & v_bit = 0;
            if v_lease.mask = v_bit then
                delete from towpath.lease e
                where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = v_lease.lo
                    and e.tok = v_lease.tok;
            else
                -- Claims may have passed over it, ended, because it was locked: see claim_2.
                update towpath.lease e
                set mask = v_lease.mask & ~v_bit, vt = greatest(e.vt, v_now)
                where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = v_lease.lo
                    and e.tok = v_lease.tok;
            end if;
            v_out[v_ix] := (v_lease.tok not in (p_toks[v_ix], p_toks[v_ix] | c_split))::int;
        end loop;
        if v_out[v_ix] = 2 then
            perform 1 from towpath.moved m where m.id = p_ids[v_ix];
            if found then
                v_out[v_ix] := 3;
            end if;
        end if;
    end loop;
    return v_out;
end
$$;

create type towpath.extended as (
    ix int,
    -- Those of the messages asked for whose end was moved, those that somebody is at (ask again), and
    -- those that were received often enough and are the mover's now.
    moved bigint,
    busy bigint,
    exhausted bigint,
    -- The new end.
    at timestamptz,
    -- Not null: no report on an entry, but a lease that is the mover's now.
    lane_id bigint,
    lo bigint,
    tok int
);

-- Moves the end of leases to p_windows_ms from now, for the messages that p_masks names, counted from
-- p_los; zero makes them visible at once. With p_hand_back the delivery is forgotten too. A message
-- that was received p_max_receives times (0: no limit) is given up: it is the mover's. p_reasons is
-- kept with the lease, unless null. Waits for nobody.
create function towpath.extend_2(
    p_sub int,
    p_lanes bigint[],
    p_los bigint[],
    p_toks int[],
    p_epochs int[],
    p_masks bigint[],
    p_windows_ms bigint[],
    p_max_receives int[],
    p_reasons text[],
    p_hand_back boolean
) returns setof towpath.extended
    language plpgsql volatile
    as $$
declare
    c_split constant int := -2147483648;
    c_move_window constant interval := interval '30 seconds';
    v_now constant timestamptz := towpath.clock();
    v_out towpath.extended;
    v_move towpath.extended;
    v_cur record;
    v_lease record;
    v_left bigint;
    v_taken bigint;
    v_vt timestamptz;
    v_state smallint;
    v_first timestamptz;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        v_out.ix := v_ix;
        v_out.moved := 0;
        v_out.busy := 0;
        v_out.exhausted := 0;
        v_out.at := v_now + p_windows_ms[v_ix] * interval '1 millisecond';
        select c.epoch, c.floor into v_cur
        from towpath.cur c
        where c.lane_id = p_lanes[v_ix] and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as floor into v_cur;
        end if;
        if v_cur.epoch <> p_epochs[v_ix] or p_los[v_ix] < v_cur.floor then
            return next v_out;
            continue;
        end if;
        -- Those still in the lease itself, then those that were split off it before.
        v_left := p_masks[v_ix];
        for v_offset in -1 .. 61 loop
            exit when v_left = 0;
            continue when v_offset >= 0 and v_left & (1::bigint << v_offset) = 0;
            select e.lo, e.tok, e.mask, e.rc, e.state, e.first_received_at, e.received_at, e.reason
            into v_lease
            from towpath.lease e
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub
                and e.lo = p_los[v_ix] + greatest(v_offset, 0)
                and e.tok = case when v_offset < 0 then p_toks[v_ix] else p_toks[v_ix] | c_split end
                -- One that has ended is stale; locked, a claim would pass over it.
                and e.vt > v_now
            for update skip locked;
            if not found then
                perform 1 from towpath.lease e
                where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub
                    and e.lo = p_los[v_ix] + greatest(v_offset, 0)
                    and e.tok = case when v_offset < 0 then p_toks[v_ix] else p_toks[v_ix] | c_split end
                    and e.vt > v_now;
                if found then
                    v_taken := case when v_offset < 0 then v_left else 1::bigint << v_offset end;
                    v_out.busy := v_out.busy | v_taken;
                    v_left := v_left & ~v_taken;
                end if;
                continue;
            end if;
            -- As bits of the lease that was asked for.
            v_taken := v_left & case when v_offset < 0 then v_lease.mask else 1::bigint << v_offset end;
            v_left := v_left & ~v_taken;
            continue when v_taken = 0;
            if v_lease.state = 2 then
                -- Given up before: it is the mover's, under this very token. Whoever gives it up
                -- once more hears the same; nobody else has it any more.
                if p_max_receives[v_ix] > 0 then
                    v_out.moved := v_out.moved | v_taken;
                    v_out.exhausted := v_out.exhausted | v_taken;
                    v_move.lane_id := p_lanes[v_ix];
                    v_move.lo := v_lease.lo;
                    v_move.tok := v_lease.tok;
                    return next v_move;
                end if;
                continue;
            end if;
            v_vt := v_out.at;
            v_state := 0;
            if p_max_receives[v_ix] > 0 and v_lease.rc >= p_max_receives[v_ix] then
                v_vt := v_now + c_move_window;
                v_state := 2;
                v_out.exhausted := v_out.exhausted | v_taken;
            end if;
            v_first := case
                when p_hand_back and v_lease.rc = 1 then null else v_lease.first_received_at
            end;
            v_out.moved := v_out.moved | v_taken;
            if v_offset >= 0 or v_taken = v_lease.mask then
                update towpath.lease e
                set vt = v_vt, state = v_state, rc = e.rc - p_hand_back::int,
                    first_received_at = v_first, reason = coalesce(p_reasons[v_ix], e.reason)
                where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = v_lease.lo
                    and e.tok = v_lease.tok;
                if v_state = 2 then
                    v_move.lane_id := p_lanes[v_ix];
                    v_move.lo := v_lease.lo;
                    v_move.tok := v_lease.tok;
                    return next v_move;
                end if;
                continue;
            end if;
            update towpath.lease e
            set mask = v_lease.mask & ~v_taken
            where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = v_lease.lo
                and e.tok = v_lease.tok;
            for v_bit in 0 .. 61 loop
                continue when v_taken & (1::bigint << v_bit) = 0;
                insert into towpath.lease (
                    lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state, first_received_at,
                    received_at, reason
                )
                values (
                    p_lanes[v_ix], p_sub, v_lease.lo + v_bit, v_lease.tok | c_split, v_cur.epoch, 1,
                    v_vt, v_lease.rc - p_hand_back::int, v_state, v_first, v_lease.received_at,
                    coalesce(p_reasons[v_ix], v_lease.reason)
                );
                if v_state = 2 then
                    v_move.lane_id := p_lanes[v_ix];
                    v_move.lo := v_lease.lo + v_bit;
                    v_move.tok := v_lease.tok | c_split;
                    return next v_move;
                end if;
            end loop;
        end loop;
        return next v_out;
    end loop;
end
$$;

-- As floor_1, for lanes of delayed messages too.
create function towpath.floor_2(p_sub int, p_queue int) returns void
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
        v_cur.pos := greatest(v_cur.pos, towpath.freed(v_lane));
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
    if v_lanes <> '{}' then
        insert into towpath.wake (lane_ids) values (v_lanes);
    end if;
end
$$;

create type towpath.moving as (
    ix int,
    -- The dead-letter queue, if it lives.
    target int,
    mask bigint,
    epoch int,
    rc int,
    first_at timestamptz,
    reason text,
    seq bigint,
    salt int,
    sent_at timestamptz,
    body bytea
);

-- What the mover's leases hold. Nothing for a lease that is no longer there.
create function towpath.moving_1(p_sub int, p_lanes bigint[], p_los bigint[], p_toks int[])
    returns setof towpath.moving
    language plpgsql volatile
    as $$
declare
    v_out towpath.moving;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_lanes) loop
        v_out.ix := v_ix;
        select t.dead_letter_queue_id into v_out.target
        from towpath.queue t
        where t.queue_id = (p_lanes[v_ix] >> 26)::int;
        select t.queue_id into v_out.target
        from towpath.queue t
        where t.queue_id = v_out.target and t.deleted_at is null;
        select e.mask, e.epoch, e.rc, e.first_received_at, e.reason
        into v_out.mask, v_out.epoch, v_out.rc, v_out.first_at, v_out.reason
        from towpath.lease e
        where e.lane_id = p_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_los[v_ix]
            and e.tok = p_toks[v_ix] and e.state = 2;
        continue when not found;
        select g.seq, g.salt, coalesce(g.sent_at, g.enq), g.body
        into v_out.seq, v_out.salt, v_out.sent_at, v_out.body
        from towpath.log g
        where g.lane_id = p_lanes[v_ix] and g.seq <= p_los[v_ix] and g.seq > p_los[v_ix] - 62
            and g.seq + g.n > p_los[v_ix]
        order by g.seq desc
        limit 1;
        continue when not found;
        return next v_out;
    end loop;
end
$$;

-- As append_2, all or nothing, and in the same transaction: the messages of the leases p_src_* are
-- gone from there (the lease, its token and its messages must be as given), the keys p_key_* are taken, and p_moved_*
-- says where messages went. Sources are sorted by (lane, lo, tok), keys by (queue, hash). Raises TW004
-- when a key is taken already, TW005 when a source is not there any more, TW006 when a tail is
-- another or a queue is gone.
create function towpath.append_careful_1(
    p_sub int,
    p_src_lanes bigint[],
    p_src_los bigint[],
    p_src_toks int[],
    p_src_masks bigint[],
    p_key_queues int[],
    p_key_hashes uuid[],
    p_key_windows_s bigint[],
    p_key_digests bytea[],
    p_key_answers bytea[],
    p_key_ids uuid[],
    p_moved_ids uuid[],
    p_moved_lanes bigint[],
    p_moved_seqs bigint[],
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
    v_now constant timestamptz := towpath.clock();
    v_epoch int;
    v_epoch_now int;
    v_floor bigint;
    v_lives_s bigint;
    v_out towpath.appended;
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_src_lanes) loop
        delete from towpath.lease e
        where e.lane_id = p_src_lanes[v_ix] and e.sub_id = p_sub and e.lo = p_src_los[v_ix]
            and e.tok = p_src_toks[v_ix] and e.mask = p_src_masks[v_ix] and e.state = 2
        returning e.epoch into v_epoch;
        select c.epoch, c.floor into v_epoch_now, v_floor
        from towpath.cur c
        where c.lane_id = p_src_lanes[v_ix] and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if v_epoch is null or v_epoch <> coalesce(v_epoch_now, 0)
            or p_src_los[v_ix] < coalesce(v_floor, 0)
        then
            raise exception 'message % of lane % is not there to be moved',
                p_src_los[v_ix], p_src_lanes[v_ix]
                using errcode = 'TW005';
        end if;
    end loop;
    for v_ix in 1 .. cardinality(p_key_queues) loop
        insert into towpath.dedup as d (queue_id, h, until, message_id, digest, answer, sent_at)
        values (
            p_key_queues[v_ix], p_key_hashes[v_ix],
            v_now + p_key_windows_s[v_ix] * interval '1 second', p_key_ids[v_ix],
            p_key_digests[v_ix], p_key_answers[v_ix], v_now
        )
        on conflict (queue_id, h) do update
        set until = excluded.until, message_id = excluded.message_id, digest = excluded.digest,
            answer = excluded.answer, sent_at = excluded.sent_at
        where d.until <= v_now;
        if not found then
            raise exception 'a deduplication key was taken meanwhile' using errcode = 'TW004';
        end if;
    end loop;
    for v_out in
        select *
        from towpath.append_2(
            p_lanes, p_tails, p_last_chunks, p_salts, p_bytes_totals, p_live_totals, p_chunk_lanes,
            p_chunk_sizes, p_chunk_delays_ms, p_chunk_lives_ms, p_chunk_sent_at, p_chunks, v_now
        )
    loop
        if v_out.status <> 0 then
            raise exception 'lane % has another tail, or no queue', p_lanes[v_out.lane_ix]
                using errcode = 'TW006';
        end if;
        return next v_out;
    end loop;
    for v_ix in 1 .. cardinality(p_moved_ids) loop
        select t.retention_seconds into v_lives_s
        from towpath.queue t
        where t.queue_id = (p_moved_lanes[v_ix] >> 26)::int;
        insert into towpath.moved as m (id, lane_id, seq, expires_at)
        values (
            p_moved_ids[v_ix], p_moved_lanes[v_ix], p_moved_seqs[v_ix],
            v_now + v_lives_s * interval '1 second'
        )
        on conflict (id) do update
        set lane_id = excluded.lane_id, seq = excluded.seq, expires_at = excluded.expires_at;
    end loop;
end
$$;

-- What was sent under deduplication keys that still hold.
create function towpath.dedup_probe_2(p_queues int[], p_hashes uuid[])
    returns table (ix int, digest bytea, answer bytea, sent_at timestamptz)
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
begin
    perform towpath.assert_read_committed();
    for v_ix in 1 .. cardinality(p_queues) loop
        select v_ix, d.digest, d.answer, d.sent_at
        into ix, digest, answer, sent_at
        from towpath.dedup d
        where d.queue_id = p_queues[v_ix] and d.h = p_hashes[v_ix] and d.until > v_now;
        if found then
            return next;
        end if;
    end loop;
end
$$;

-- How many messages of a queue are visible, in flight and delayed, and since when the oldest one
-- that is still there was first sent. Probes the log; counts leases.
create function towpath.counts_1(
    p_sub int,
    p_queue int,
    out visible bigint,
    out in_flight bigint,
    out delayed bigint,
    out oldest_at timestamptz,
    out at timestamptz
)
    language plpgsql volatile
    as $$
declare
    v_lane bigint;
    v_cur record;
    v_found record;
    v_total bigint;
    v_oldest timestamptz;
begin
    perform towpath.assert_read_committed();
    at := towpath.clock();
    visible := 0;
    in_flight := 0;
    delayed := 0;
    for v_lane in select l.lane_id from towpath.lane l where l.queue_id = p_queue loop
        select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
        from towpath.cur c
        where c.lane_id = v_lane and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
        end if;
        v_oldest := null;
        if towpath.lane_kind(v_lane) = 0 then
            -- What lies ahead: the difference of the running totals at the cursor and at the end.
            select g.live_before + g.live as total into v_total
            from towpath.log g
            where g.lane_id = v_lane and g.seq > v_cur.pos - 62
            order by g.seq desc
            limit 1;
            if found then
                select g.live_before + greatest(v_cur.pos - g.seq, 0) as before,
                    coalesce(g.sent_at, g.enq) as sent_at
                into v_found
                from towpath.log g
                where g.lane_id = v_lane and g.seq > v_cur.pos - 62 and g.seq + g.n > v_cur.pos
                order by g.seq
                limit 1;
                if found then
                    visible := visible + v_total - v_found.before;
                    v_oldest := v_found.sent_at;
                end if;
            end if;
        end if;
        select
            coalesce(sum(bit_count(e.mask::bit(64))) filter (where e.vt <= counts_1.at), 0)
                as visible,
            coalesce(sum(bit_count(e.mask::bit(64)))
                filter (where e.vt > counts_1.at and e.state <> 1), 0) as in_flight,
            coalesce(sum(bit_count(e.mask::bit(64)))
                filter (where e.vt > counts_1.at and e.state = 1), 0) as delayed,
            min(e.lo) as lo
        into v_found
        from towpath.lease e
        where e.lane_id = v_lane and e.sub_id = p_sub and e.lo >= v_cur.floor
            and e.epoch = v_cur.epoch;
        visible := visible + v_found.visible;
        in_flight := in_flight + v_found.in_flight;
        delayed := delayed + v_found.delayed;
        oldest_at := least(oldest_at, v_oldest);
        if v_found.lo is not null then
            select coalesce(g.sent_at, g.enq) into v_oldest
            from towpath.log g
            where g.lane_id = v_lane and g.seq <= v_found.lo and g.seq > v_found.lo - 62
            order by g.seq desc
            limit 1;
            oldest_at := least(oldest_at, v_oldest);
        end if;
    end loop;
end
$$;

-- The first edition, which no release had, takes a lease of many messages for one.
drop function towpath.append_1(
    bigint[], bigint[], bigint[], int[], bigint[], bigint[], int[], int[], bytea[]);
drop function towpath.claim_1(
    int, int[], int[], int[], int[], bigint, bigint[], timestamptz[], boolean);
drop type towpath.claimed;
drop function towpath.ack_1(int, bigint[], bigint[], int[], int[], int[]);
drop function towpath.extend_1(int, bigint[], bigint[], int[], int[], int[], boolean);
drop function towpath.floor_1(int, int);
drop function towpath.dedup_probe_1(int[], uuid[]);
