-- Giving space back, second edition: what has expired, lanes of delayed messages, and the list of lanes
-- that were written to.

-- As free_1. With p_begin everything below p_from is freed already. Then what has expired ends too: while the first
-- messages that the lane holds have, the floor is moved past them, in flight or not. idle: nothing is left in
-- the lane that could ever be freed but by something new.
create function towpath.free_2(
    p_lane bigint,
    p_from bigint,
    p_limit int,
    p_min_age interval,
    p_begin boolean,
    out freed int,
    out survivor bigint,
    out next bigint,
    out more boolean,
    out idle boolean
)
    language plpgsql volatile
    as $$
declare
    -- Bytes of chunks after which a call ends: it must be done well within its timeout.
    c_bytes constant bigint := 16 << 20;
    c_end constant bigint := 9223372036854775807;
    v_now constant timestamptz := towpath.clock();
    v_queue_gone boolean;
    v_since timestamptz;
    v_cur record;
    v_row record;
    v_floor bigint;
    v_highest bigint := 0;
    v_seen int := 0;
    v_dead int := 0;
    v_bytes bigint := 0;
    v_full boolean := false;
begin
    perform towpath.assert_read_committed();
    freed := 0;
    survivor := null;
    next := p_from;
    select coalesce(q.deleted_at < v_now - p_min_age, false) as gone,
        v_now - q.retention_seconds * interval '1 second' as since
    into v_row
    from towpath.queue q
    where q.queue_id = (p_lane >> 26)::int;
    v_queue_gone := coalesce(v_row.gone, false);
    v_since := coalesce(v_row.since, '-infinity');

    -- The cursor first, the leases second: a message that is claimed in between is met as leased.
    select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
    from towpath.cur c
    where c.lane_id = p_lane and c.sub_id = 1
    order by c.epoch desc, c.pos desc, c.floor desc
    limit 1;
    if not found then
        select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
    end if;

    v_floor := v_cur.floor;
    for v_row in
        select g.seq + g.n as behind, coalesce(g.sent_at, g.enq) as sent_at, g.expires_at
        from towpath.log g
        where p_begin and g.lane_id = p_lane and g.seq >= greatest(p_from, v_cur.floor) - 61
            and g.seq + g.n > v_cur.floor
        order by g.seq
        limit p_limit
    loop
        exit when v_row.sent_at > v_since and coalesce(v_row.expires_at > v_now, true);
        v_floor := v_row.behind;
    end loop;
    -- Whoever claims just now goes first; the next call is soon.
    if v_floor > v_cur.floor and pg_try_advisory_xact_lock(towpath.lane_key(p_lane)) then
        select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
        from towpath.cur c
        where c.lane_id = p_lane and c.sub_id = 1
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found then
            select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
        end if;
        if v_floor > v_cur.floor then
            v_cur.pos := greatest(v_cur.pos, v_floor);
            v_cur.floor := v_floor;
            insert into towpath.cur (lane_id, sub_id, epoch, pos, floor)
            values (p_lane, 1, v_cur.epoch, v_cur.pos, v_cur.floor);
            freed := freed + 1;
        end if;
    end if;
    if towpath.lane_kind(p_lane) <> 0 then
        v_cur.pos := c_end;
    end if;
    if v_queue_gone then
        v_cur.pos := c_end;
        v_cur.floor := c_end;
    end if;

    -- No lease points below p_from, where all chunks are freed; but behind somebody's old snapshot
    -- lies every one that ever did.
    for v_row in
        select e.lo, e.tok
        from towpath.lease e
        where e.lane_id = p_lane and e.sub_id = 1 and e.lo >= p_from and e.lo < v_cur.floor
        order by e.lo
        limit p_limit
        for update skip locked
    loop
        delete from towpath.lease e
        where e.lane_id = p_lane and e.sub_id = 1 and e.lo = v_row.lo and e.tok = v_row.tok;
        freed := freed + 1;
        v_dead := v_dead + 1;
    end loop;
    if v_dead >= p_limit then
        -- All of them first: the next calls look only further on.
        more := true;
        idle := false;
        return;
    end if;

    for v_row in
        select g.seq, g.n, g.enq, octet_length(g.body) as bytes
        from towpath.log g
        where g.lane_id = p_lane and g.seq >= p_from and g.seq < v_cur.pos
            and g.seq + g.n <= v_cur.pos
        order by g.seq
        limit p_limit
    loop
        exit when v_row.enq >= v_now - p_min_age;
        v_full := v_bytes >= c_bytes;
        exit when v_full;
        v_seen := v_seen + 1;
        next := v_row.seq + v_row.n;
        perform 1 from towpath.lease e
        where e.lane_id = p_lane and e.sub_id = 1 and e.lo >= v_row.seq
            and e.lo < v_row.seq + v_row.n
        limit 1;
        if found then
            survivor := coalesce(survivor, v_row.seq);
            continue;
        end if;
        -- Another node that has just lost the task may still be at it.
        perform 1 from towpath.log g
        where g.lane_id = p_lane and g.seq = v_row.seq
        for update skip locked;
        if found then
            delete from towpath.log g where g.lane_id = p_lane and g.seq = v_row.seq;
            freed := freed + 1;
            v_bytes := v_bytes + v_row.bytes;
            v_highest := next;
        else
            survivor := coalesce(survivor, v_row.seq);
        end if;
    end loop;

    if v_highest > towpath.freed(p_lane) then
        insert into towpath.cur (lane_id, sub_id, epoch, pos, floor)
        values (p_lane, 0, 0, v_highest, 0);
    end if;

    -- Cursor rows below the newest of each subscription. The newest is never deleted while the
    -- queue lives.
    for v_row in
        select c.sub_id, c.epoch, c.pos, c.floor,
            lead(c.pos) over (partition by c.sub_id order by c.epoch, c.pos, c.floor) as newer
        from towpath.cur c
        where c.lane_id = p_lane
        order by c.sub_id, c.epoch, c.pos, c.floor
        limit p_limit
    loop
        continue when v_row.newer is null;
        delete from towpath.cur c
        where c.lane_id = p_lane and c.sub_id = v_row.sub_id and c.epoch = v_row.epoch
            and c.pos = v_row.pos and c.floor = v_row.floor;
        freed := freed + 1;
    end loop;

    more := v_full or v_seen = p_limit or freed >= p_limit;
    perform 1 from towpath.log g where g.lane_id = p_lane and g.seq >= p_from limit 1;
    idle := p_begin and freed = 0 and not found;
    if v_queue_gone and idle then
        delete from towpath.cur c where c.lane_id = p_lane;
        delete from towpath.lane l where l.lane_id = p_lane;
    end if;
end
$$;

-- Takes the oldest p_limit notes of lanes that were written to, from p_from on: the lanes, each once, and the
-- highest number taken. What is not committed yet is met by a later call, whatever its number.
create function towpath.take_wakes_1(
    p_from bigint, p_limit int, out lane_ids bigint[], out last bigint, out more boolean
)
    language plpgsql volatile
    as $$
declare
    v_row record;
    v_taken int := 0;
    v_full boolean := false;
begin
    perform towpath.assert_read_committed();
    lane_ids := '{}';
    last := p_from;
    for v_row in
        select w.id, w.lane_ids
        from towpath.wake w
        where w.id >= p_from
        order by w.id
        limit p_limit
        for update skip locked
    loop
        delete from towpath.wake w where w.id = v_row.id;
        lane_ids := lane_ids || v_row.lane_ids;
        last := v_row.id;
        v_taken := v_taken + 1;
        -- A note may name hundreds of lanes, and each is copied with every note behind it.
        v_full := cardinality(lane_ids) >= 10 * p_limit;
        exit when v_full;
    end loop;
    more := v_full or v_taken = p_limit;
    select coalesce(array_agg(distinct u.lane), '{}') into lane_ids from unnest(lane_ids) as u (lane);
end
$$;

-- Forgets keys and movements whose time is over, p_limit of each; whether there may be more.
create function towpath.forget_1(p_limit int) returns boolean
    language plpgsql volatile
    as $$
declare
    v_now constant timestamptz := towpath.clock();
    v_row record;
    v_keys int := 0;
    v_moves int := 0;
begin
    perform towpath.assert_read_committed();
    for v_row in
        select d.queue_id, d.h
        from towpath.dedup d
        where d.until < v_now
        order by d.until
        limit p_limit
        for update skip locked
    loop
        delete from towpath.dedup d where d.queue_id = v_row.queue_id and d.h = v_row.h;
        v_keys := v_keys + 1;
    end loop;
    for v_row in
        select m.id
        from towpath.moved m
        where m.expires_at < v_now
        order by m.expires_at
        limit p_limit
        for update skip locked
    loop
        delete from towpath.moved m where m.id = v_row.id;
        v_moves := v_moves + 1;
    end loop;
    return v_keys = p_limit or v_moves = p_limit;
end
$$;

drop function towpath.free_1(bigint, bigint, int, interval);
