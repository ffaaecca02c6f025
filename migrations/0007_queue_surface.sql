-- What a queue can be told besides: tags, pauses, and when what is given up comes back. Two hot functions
-- go by it; the rules at the head of 0002_hot_functions.sql hold for them.

alter table towpath.queue
    -- Texts by names.
    add column tags jsonb not null default '{}',
    add column sending_paused boolean not null default false,
    add column receiving_paused boolean not null default false,
    -- 0 fixed, 1 ladder, 2 exponential; null: at once
    add column retry_kind smallint,
    -- The steps of a ladder; else the one or the first delay.
    add column retry_delays_seconds int[],
    add column retry_factor double precision,
    add column retry_max_delay_seconds int,
    -- By what part of itself a delay may be shorter.
    add column retry_jitter double precision,
    add constraint queue_retry_check check (
        (retry_kind is null) = (retry_delays_seconds is null)
        and (retry_kind is null) = (retry_jitter is null)
    );

-- As claim_2. A queue whose receiving is paused gives nothing to anybody, the mover neither.
create function towpath.claim_3(
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
        select t.retention_seconds, t.max_receive_count, t.dead_letter_queue_id, t.receiving_paused
        into v_settings
        from towpath.queue t
        where t.queue_id = p_queues[v_queue] and t.deleted_at is null;
        if not found then
            v_report.code := 2;
            return next v_report;
            continue;
        end if;
        if v_settings.receiving_paused then
            -- As if it were empty, and as if all of it had been looked at.
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

create type towpath.extended_3 as (
    ix int,
    -- Those of the messages asked for whose end was moved, those that somebody is at (ask again), and
    -- those that were received often enough and are the mover's now.
    moved bigint,
    busy bigint,
    exhausted bigint,
    -- The new end, and how far from now it is.
    at timestamptz,
    window_ms bigint,
    -- Not null: no report on an entry, but a lease that is the mover's now.
    lane_id bigint,
    lo bigint,
    tok int
);

-- As extend_2. An entry may have delays of its own, p_delay_counts of p_delays_ms from the one numbered
-- p_delay_firsts on: then its window is that of the receive count, the last one also for every higher.
create function towpath.extend_3(
    p_sub int,
    p_lanes bigint[],
    p_los bigint[],
    p_toks int[],
    p_epochs int[],
    p_masks bigint[],
    p_windows_ms bigint[],
    p_max_receives int[],
    p_reasons text[],
    p_hand_back boolean,
    p_delays_ms bigint[],
    p_delay_firsts int[],
    p_delay_counts int[]
) returns setof towpath.extended_3
    language plpgsql volatile
    as $$
declare
    c_split constant int := -2147483648;
    c_move_window constant interval := interval '30 seconds';
    v_now constant timestamptz := towpath.clock();
    v_out towpath.extended_3;
    v_move towpath.extended_3;
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
        v_out.window_ms := p_windows_ms[v_ix];
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
            if p_delay_counts[v_ix] > 0 then
                -- All that is left of a delivery was received as often.
                v_out.window_ms := p_delays_ms[
                    p_delay_firsts[v_ix] + least(greatest(v_lease.rc, 1), p_delay_counts[v_ix]) - 1];
                v_out.at := v_now + v_out.window_ms * interval '1 millisecond';
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
