-- Giving space back. One lane a call, in bounded batches, beside everything else: no message's lock
-- is waited for.

-- Frees what is dead in a lane: looks at up to p_limit chunks from number p_from on (fewer when they
-- are large), and at as many rows of each other kind. No chunk younger than p_min_age goes, so that a paused append
-- cannot miss it. survivor: the first chunk that was met and must stay. next: the number behind the
-- last chunk that was looked at. more: there was more to look at.
create function towpath.free_1(
    p_lane bigint,
    p_from bigint,
    p_limit int,
    p_min_age interval,
    out freed int,
    out survivor bigint,
    out next bigint,
    out more boolean
)
    language plpgsql volatile
    as $$
declare
    -- Bytes of chunks after which a call ends: it must be done well within its timeout.
    c_bytes constant bigint := 16 << 20;
    v_now constant timestamptz := towpath.clock();
    v_queue_gone boolean;
    v_cur record;
    v_row record;
    v_highest bigint := 0;
    v_seen int := 0;
    v_bytes bigint := 0;
    v_full boolean := false;
begin
    perform towpath.assert_read_committed();
    freed := 0;
    survivor := null;
    next := p_from;
    select q.deleted_at < v_now - p_min_age into v_queue_gone
    from towpath.queue q
    where q.queue_id = (p_lane >> 26)::int;
    v_queue_gone := coalesce(v_queue_gone, false);

    -- The cursor first, the leases second: a message that is claimed in between is met as leased.
    select c.epoch, greatest(c.pos, c.floor) as pos, c.floor into v_cur
    from towpath.cur c
    where c.lane_id = p_lane and c.sub_id = 1
    order by c.epoch desc, c.pos desc, c.floor desc
    limit 1;
    if not found then
        select 0 as epoch, 0::bigint as pos, 0::bigint as floor into v_cur;
    end if;
    if v_queue_gone then
        v_cur.pos := 9223372036854775807;
        v_cur.floor := 9223372036854775807;
    end if;

    for v_row in
        select e.lo, e.tok
        from towpath.lease e
        where e.lane_id = p_lane and e.sub_id = 1 and e.lo < v_cur.floor
        order by e.lo
        limit p_limit
        for update skip locked
    loop
        delete from towpath.lease e
        where e.lane_id = p_lane and e.sub_id = 1 and e.lo = v_row.lo and e.tok = v_row.tok;
        freed := freed + 1;
    end loop;

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

    if v_highest > 0 then
        select c.pos into v_row
        from towpath.cur c
        where c.lane_id = p_lane and c.sub_id = 0
        order by c.epoch desc, c.pos desc, c.floor desc
        limit 1;
        if not found or v_row.pos < v_highest then
            insert into towpath.cur (lane_id, sub_id, epoch, pos, floor)
            values (p_lane, 0, 0, v_highest, 0);
        end if;
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
    perform 1 from towpath.log g where g.lane_id = p_lane limit 1;
    if v_queue_gone and freed = 0 and not found then
        delete from towpath.cur c where c.lane_id = p_lane;
        delete from towpath.lane l where l.lane_id = p_lane;
    end if;
end
$$;
