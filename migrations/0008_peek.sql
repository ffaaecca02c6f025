-- Looking at messages without receiving them, and changing those that nobody holds by their ids. No lane
-- is locked, nothing is leased, nothing counted. The rules at the head of 0002_hot_functions.sql hold here
-- too; the cursor is read before the leases, so that a message that is claimed in between is met as ahead.

create type towpath.peeked as (
    -- 0 a chunk, 1 the report at the end
    kind smallint,
    -- 0: the chunk's lane. 1: where to go on; null when everything was looked at.
    lane_id bigint,
    -- 0: the number of the chunk's first message. 1: the first number that was not looked at.
    seq bigint,
    -- 0: the number of messages. 1: the number of chunks that were looked at.
    n int,
    -- 0: the salt. 1: 0 looked at, 1 it took too long to find nothing, 2 the queue is gone.
    code int,
    -- The first message of the chunk that was asked for.
    first bigint,
    -- Messages from this number on are ahead of the cursor: nobody has received them.
    ahead bigint,
    -- The clock.
    at timestamptz,
    -- When the messages were first sent.
    sent_at timestamptz,
    body bytea,
    -- The leases that point into the chunk: where each begins, its messages, its end, how often they were
    -- received, its state and when they were first received.
    los bigint[],
    masks bigint[],
    ends timestamptz[],
    counts int[],
    states smallint[],
    firsts timestamptz[],
    -- The name of the lane's queue, where one message was looked for.
    queue text
);

-- Fills in the leases of the chunk of messages p_chunk.seq to p_chunk.seq + p_chunk.n - 1. matching: how
-- many of their messages from p_chunk.first on are in the state p_state (null: any; 0 visible again, 1 in
-- flight, 2 delayed).
create function towpath.peek_leases_1(
    p_sub int,
    p_epoch int,
    p_state smallint,
    inout p_chunk towpath.peeked,
    out matching bigint
)
    language plpgsql volatile
    as $$
begin
    select array_agg(e.lo order by e.lo, e.tok),
        array_agg(e.mask order by e.lo, e.tok),
        array_agg(e.vt order by e.lo, e.tok),
        array_agg(e.rc order by e.lo, e.tok),
        array_agg(e.state order by e.lo, e.tok),
        array_agg(e.first_received_at order by e.lo, e.tok),
        coalesce(sum(bit_count((e.mask >> greatest(p_chunk.first - e.lo, 0)::int)::bit(64)))
            filter (where p_state is null or p_state = case
                when e.vt <= p_chunk.at then 0
                when e.state = 1 then 2
                else 1
            end), 0)
    into p_chunk.los, p_chunk.masks, p_chunk.ends, p_chunk.counts, p_chunk.states, p_chunk.firsts,
        matching
    from towpath.lease e
    where e.lane_id = p_chunk.lane_id and e.sub_id = p_sub and e.lo >= p_chunk.seq
        and e.lo < p_chunk.seq + p_chunk.n and e.epoch = p_epoch;
end
$$;

-- Where the messages of a lane end: one past the highest number that was ever given out, as far as it
-- matters to who reads. Bounded below by what was freed: before that may lie every dead chunk.
create function towpath.peek_tail_1(p_lane bigint) returns bigint
    language plpgsql volatile
    as $$
declare
    v_freed constant bigint := towpath.freed(p_lane);
    v_tail bigint;
begin
    select g.seq + g.n into v_tail
    from towpath.log g
    where g.lane_id = p_lane and g.seq >= v_freed - 61
    order by g.seq desc
    limit 1;
    return greatest(v_freed, v_tail);
end
$$;

-- Chunks of a queue with messages in the state p_state (as peek_leases_1; null: any), by lane and number,
-- from (p_lane, p_from) on. Ends when p_chunks chunks were looked at, or when those that it returned have
-- p_messages such messages or p_bytes bytes: the report says where to go on.
--
-- What nobody has received is read from the cursor on, everything else by its leases: chunks that are merely
-- not freed yet cost nothing.
create function towpath.peek_1(
    p_sub int,
    p_queue int,
    p_state smallint,
    p_lane bigint,
    p_from bigint,
    p_chunks int,
    p_messages bigint,
    p_bytes bigint
) returns setof towpath.peeked
    language plpgsql volatile
    as $$
declare
    -- Behind somebody's old snapshot lies every lease that was deleted meanwhile. So they are looked for in
    -- so many numbers at first, in twice as many where there are none, and not for longer than this.
    c_width constant bigint := 10000;
    c_patience constant interval := interval '100 milliseconds';
    v_now constant timestamptz := towpath.clock();
    v_none towpath.peeked;
    v_out towpath.peeked;
    v_report towpath.peeked;
    v_since timestamptz;
    v_lane bigint;
    v_cur record;
    v_row record;
    v_found record;
    -- The first number that was not looked at, and from where on leases were not.
    v_from bigint;
    v_low bigint;
    -- What has leases lies below.
    v_end bigint;
    v_width bigint;
    v_lo bigint;
    v_matching bigint;
    v_messages bigint := 0;
    v_bytes bigint := 0;
begin
    perform towpath.assert_read_committed();
    v_report.kind := 1;
    v_report.n := 0;
    v_report.code := 0;
    v_report.at := v_now;
    select v_now - q.retention_seconds * interval '1 second' into v_since
    from towpath.queue q
    where q.queue_id = p_queue and q.deleted_at is null;
    if not found then
        v_report.code := 2;
        return next v_report;
        return;
    end if;
    <<lanes>>
    for v_lane in
        select l.lane_id from towpath.lane l
        where l.queue_id = p_queue and l.lane_id >= p_lane
        order by l.lane_id
    loop
        select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
        from towpath.cur c
        where c.lane_id = v_lane and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
        end if;
        -- Nothing of a delayed lane lies ahead of a cursor.
        v_end := case
            when towpath.lane_kind(v_lane) = 0 then v_cur.pos else towpath.peek_tail_1(v_lane)
        end;
        v_from := greatest(v_cur.floor, case when v_lane = p_lane then p_from else 0 end);
        v_low := greatest(v_cur.floor, v_from - 61);
        v_width := c_width;
        while v_low < v_end loop
            select e.lo into v_lo
            from towpath.lease e
            where e.lane_id = v_lane and e.sub_id = p_sub and e.lo >= v_low
                and e.lo < least(v_low + v_width, v_end) and e.epoch = v_cur.epoch
            order by e.lo
            limit 1;
            if not found then
                v_low := least(v_low + v_width, v_end);
                v_from := greatest(v_from, v_low);
                v_width := v_width * 2;
                if v_low < v_end and towpath.clock() > v_now + c_patience then
                    v_report.lane_id := v_lane;
                    v_report.seq := v_from;
                    v_report.code := 1;
                    exit lanes;
                end if;
                continue;
            end if;
            v_width := c_width;
            select g.seq, g.n, g.salt, coalesce(g.sent_at, g.enq) as sent_at, g.expires_at
            into v_row
            from towpath.log g
            where g.lane_id = v_lane and g.seq <= v_lo and g.seq > v_lo - 62 and g.seq + g.n > v_lo
            order by g.seq desc
            limit 1;
            -- It was deleted and freed since.
            v_low := v_lo + 1;
            continue when not found;
            v_low := v_row.seq + v_row.n;
            continue when v_low <= v_from;
            v_out := v_none;
            v_out.kind := 0;
            v_out.lane_id := v_lane;
            v_out.seq := v_row.seq;
            v_out.n := v_row.n;
            v_out.code := v_row.salt;
            v_out.first := greatest(v_row.seq, v_from);
            v_out.ahead := case
                when towpath.lane_kind(v_lane) = 0 then greatest(v_cur.pos, v_row.seq) else v_low
            end;
            v_out.at := v_now;
            v_out.sent_at := v_row.sent_at;
            v_from := v_low;
            v_report.n := v_report.n + 1;
            if v_row.sent_at > v_since and coalesce(v_row.expires_at > v_now, true) then
                select l.p_chunk, l.matching into v_found
                from towpath.peek_leases_1(p_sub, v_cur.epoch, p_state, v_out) l;
                v_out := v_found.p_chunk;
                v_matching := v_found.matching;
                if coalesce(p_state, 0) = 0 then
                    v_matching := v_matching + greatest(v_low - greatest(v_out.ahead, v_out.first), 0);
                end if;
                if v_matching > 0 then
                    select g.body into v_out.body
                    from towpath.log g
                    where g.lane_id = v_lane and g.seq = v_row.seq;
                    if found then
                        return next v_out;
                        v_messages := v_messages + v_matching;
                        v_bytes := v_bytes + octet_length(v_out.body);
                    end if;
                end if;
            end if;
            if v_report.n >= p_chunks or v_messages >= p_messages or v_bytes >= p_bytes then
                v_report.lane_id := v_lane;
                v_report.seq := v_from;
                exit lanes;
            end if;
        end loop;

        continue when towpath.lane_kind(v_lane) <> 0 or coalesce(p_state, 0) <> 0;
        v_from := greatest(v_from, v_cur.pos);
        for v_row in
            select g.seq, g.n, g.salt, coalesce(g.sent_at, g.enq) as sent_at, g.expires_at
            from towpath.log g
            where g.lane_id = v_lane and g.seq > v_from - 62 and g.seq + g.n > v_from
            order by g.seq
            limit p_chunks
        loop
            v_out := v_none;
            v_out.kind := 0;
            v_out.lane_id := v_lane;
            v_out.seq := v_row.seq;
            v_out.n := v_row.n;
            v_out.code := v_row.salt;
            v_out.first := greatest(v_row.seq, v_from);
            v_out.ahead := v_out.first;
            v_out.at := v_now;
            v_out.sent_at := v_row.sent_at;
            v_from := v_row.seq + v_row.n;
            v_report.n := v_report.n + 1;
            if v_row.sent_at > v_since and coalesce(v_row.expires_at > v_now, true) then
                select g.body into v_out.body
                from towpath.log g
                where g.lane_id = v_lane and g.seq = v_row.seq;
                if found then
                    return next v_out;
                    v_messages := v_messages + v_from - v_out.first;
                    v_bytes := v_bytes + octet_length(v_out.body);
                end if;
            end if;
            if v_report.n >= p_chunks or v_messages >= p_messages or v_bytes >= p_bytes then
                v_report.lane_id := v_lane;
                v_report.seq := v_from;
                exit lanes;
            end if;
        end loop;
    end loop;
    return next v_report;
end
$$;

-- The message p_id of a tenant's, wherever it is now, with its chunk: in moved, else at (p_lane, p_seq), if
-- its id says so (null: it does not). No row when it is gone. Whether it is that message is for the caller
-- to see: its frame, its place and its salt make its id.
create function towpath.find_message_1(
    p_sub int,
    p_tenant text,
    p_id uuid,
    p_lane bigint,
    p_seq bigint
) returns setof towpath.peeked
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_out towpath.peeked;
    v_lane bigint;
    v_seq bigint;
    v_since timestamptz;
    v_cur record;
    v_row record;
    v_found record;
    v_queue text;
begin
    perform towpath.assert_read_committed();
    -- Twice: it may be moved between the look into moved and the look at its old place.
    for v_look in 1 .. 2 loop
        select m.lane_id, m.seq into v_lane, v_seq from towpath.moved m where m.id = p_id;
        if not found then
            v_lane := p_lane;
            v_seq := p_seq;
        end if;
        exit when v_lane is null;
        select q.name, v_now - q.retention_seconds * interval '1 second' into v_queue, v_since
        from towpath.queue q
        where q.queue_id = (v_lane >> 26)::int and q.tenant = p_tenant and q.deleted_at is null;
        continue when not found;
        select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
        from towpath.cur c
        where c.lane_id = v_lane and c.sub_id = p_sub
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
        end if;
        continue when v_seq < v_cur.floor;
        select g.seq, g.n, g.salt, coalesce(g.sent_at, g.enq) as sent_at, g.expires_at
        into v_row
        from towpath.log g
        where g.lane_id = v_lane and g.seq <= v_seq and g.seq > v_seq - 62 and g.seq + g.n > v_seq
        order by g.seq desc
        limit 1;
        continue when not found or v_row.sent_at <= v_since
            or coalesce(v_row.expires_at <= v_now, false);
        v_out.kind := 0;
        v_out.lane_id := v_lane;
        v_out.seq := v_row.seq;
        v_out.n := v_row.n;
        v_out.code := v_row.salt;
        v_out.first := v_seq;
        v_out.ahead := case
            when towpath.lane_kind(v_lane) = 0 then greatest(v_cur.pos, v_row.seq)
            else v_row.seq + v_row.n
        end;
        v_out.at := v_now;
        v_out.sent_at := v_row.sent_at;
        v_out.queue := v_queue;
        select l.p_chunk into v_found
        from towpath.peek_leases_1(p_sub, v_cur.epoch, null, v_out) l;
        v_out := v_found.p_chunk;
        select g.body into v_out.body
        from towpath.log g
        where g.lane_id = v_lane and g.seq = v_row.seq;
        continue when not found;
        return next v_out;
        return;
    end loop;
end
$$;

-- Finds and locks the lease of a message that nobody holds: one that is delayed, or visible again. Waits for
-- nobody. until: when its life ends. code: 0 locked, 2 the message is gone, 3 it is ahead of the cursor and
-- has no lease, 4 it is in flight, 5 somebody is at it: ask again, 6 its life ends before p_visible_at
-- (null: of no account).
create function towpath.lock_unheld_1(
    p_sub int,
    p_lane bigint,
    p_seq bigint,
    p_salt int,
    p_now timestamptz,
    p_visible_at timestamptz,
    out code smallint,
    out until timestamptz,
    out lo bigint,
    out tok int,
    out mask bigint
)
    language plpgsql volatile
    as $$
declare
    v_keeps interval;
    v_row record;
    v_cur record;
begin
    code := 2;
    select q.retention_seconds * interval '1 second' into v_keeps
    from towpath.queue q
    where q.queue_id = (p_lane >> 26)::int and q.deleted_at is null;
    if not found then
        return;
    end if;
    -- The salt and the cursor before the leases, as in ack_rest_1.
    select g.salt, least(coalesce(g.sent_at, g.enq) + v_keeps, g.expires_at) as until into v_row
    from towpath.log g
    where g.lane_id = p_lane and g.seq <= p_seq and g.seq > p_seq - 62 and g.seq + g.n > p_seq
    order by g.seq desc
    limit 1;
    if not found or v_row.salt <> p_salt or v_row.until <= p_now then
        return;
    end if;
    until := v_row.until;
    select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
    from towpath.cur c
    where c.lane_id = p_lane and c.sub_id = p_sub
    order by c.epoch desc, c.pos desc, c.floor desc
    limit 1;
    if not found then
        select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
    end if;
    if p_seq < v_cur.floor then
        return;
    end if;
    if towpath.lane_kind(p_lane) = 0 and p_seq >= v_cur.pos then
        code := 3;
        return;
    end if;
    select e.lo, e.tok, e.vt, e.state into v_row
    from towpath.lease e
    where e.lane_id = p_lane and e.sub_id = p_sub and e.lo > p_seq - 62 and e.lo <= p_seq
        and e.epoch = v_cur.epoch and e.mask & (1::bigint << (p_seq - e.lo)::int) <> 0
    order by e.lo
    limit 1;
    if not found then
        return;
    end if;
    if v_row.vt > p_now and v_row.state <> 1 then
        code := 4;
        return;
    end if;
    if p_visible_at >= until then
        code := 6;
        return;
    end if;
    -- Locked by somebody, or gone or received meanwhile.
    code := 5;
    select e.lo, e.tok, e.mask into lo, tok, mask
    from towpath.lease e
    where e.lane_id = p_lane and e.sub_id = p_sub and e.lo = v_row.lo and e.tok = v_row.tok
        and e.mask & (1::bigint << (p_seq - e.lo)::int) <> 0 and (e.vt <= p_now or e.state = 1)
    for update skip locked;
    if found then
        code := 0;
    end if;
end
$$;

-- Deletes a message that nobody holds. Codes as lock_unheld_1: 0 deleted.
create function towpath.cancel_1(p_sub int, p_lane bigint, p_seq bigint, p_salt int) returns smallint
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_lease record;
    v_bit bigint;
begin
    perform towpath.assert_read_committed();
    select * into v_lease
    from towpath.lock_unheld_1(p_sub, p_lane, p_seq, p_salt, v_now, null);
    if v_lease.code <> 0 then
        return v_lease.code;
    end if;
    v_bit := 1::bigint << (p_seq - v_lease.lo)::int;
    if v_lease.mask = v_bit then
        delete from towpath.lease e
        where e.lane_id = p_lane and e.sub_id = p_sub and e.lo = v_lease.lo and e.tok = v_lease.tok;
    else
        -- Claims may have passed over it, ended, because it was locked: see claim_2.
        update towpath.lease e
        set mask = v_lease.mask & ~v_bit, vt = greatest(e.vt, v_now)
        where e.lane_id = p_lane and e.sub_id = p_sub and e.lo = v_lease.lo and e.tok = v_lease.tok;
    end if;
    return 0;
end
$$;

-- Has a message that nobody holds wait until p_delay_ms from now; it is delayed then, however often it was
-- received. Its lease gets the token p_tok: receipts of earlier deliveries must not extend it. Codes as
-- lock_unheld_1: 0 done; at: when it is visible, for 6 when its life ends.
create function towpath.reschedule_1(
    p_sub int,
    p_lane bigint,
    p_seq bigint,
    p_salt int,
    p_delay_ms bigint,
    p_tok int,
    out code smallint,
    out at timestamptz
)
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_visible_at constant timestamptz := v_now + p_delay_ms * interval '1 millisecond';
    v_lease record;
    v_bit bigint;
    v_tok int;
begin
    perform towpath.assert_read_committed();
    select * into v_lease
    from towpath.lock_unheld_1(p_sub, p_lane, p_seq, p_salt, v_now, v_visible_at);
    code := v_lease.code;
    at := case code when 0 then v_visible_at when 6 then v_lease.until end;
    if code <> 0 then
        return;
    end if;
    v_bit := 1::bigint << (p_seq - v_lease.lo)::int;
    v_tok := p_tok + (p_tok = v_lease.tok)::int;
    if v_lease.mask = v_bit then
        update towpath.lease e
        set tok = v_tok, vt = v_visible_at, state = 1
        where e.lane_id = p_lane and e.sub_id = p_sub and e.lo = v_lease.lo and e.tok = v_lease.tok;
        return;
    end if;
    insert into towpath.lease (
        lane_id, sub_id, lo, tok, epoch, mask, vt, rc, state, first_received_at, received_at, reason
    )
    select p_lane, p_sub, p_seq, v_tok, e.epoch, 1, v_visible_at, e.rc, 1, e.first_received_at,
        e.received_at, e.reason
    from towpath.lease e
    where e.lane_id = p_lane and e.sub_id = p_sub and e.lo = v_lease.lo and e.tok = v_lease.tok;
    -- Claims may have passed over it, ended, because it was locked: see claim_2.
    update towpath.lease e
    set mask = v_lease.mask & ~v_bit, vt = greatest(e.vt, v_now)
    where e.lane_id = p_lane and e.sub_id = p_sub and e.lo = v_lease.lo and e.tok = v_lease.tok;
end
$$;
