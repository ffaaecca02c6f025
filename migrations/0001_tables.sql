-- The tables of the storage engine. What stands where, and why, is told in
-- ARCHITECTURE.md and docs/adr/0001-storage-engine.md.

-- Every promise about time is kept on this clock. Tests replace it in their own database.
create function towpath.clock() returns timestamptz
    language sql volatile
    as 'select clock_timestamp()';

create table towpath.queue (
    queue_id int generated always as identity (maxvalue 2147483647),
    tenant text not null,
    name text not null,
    kind smallint not null default 0,
    visibility_timeout_seconds int not null,
    receive_wait_seconds int not null,
    version bigint not null default 1,
    created_at timestamptz not null,
    deleted_at timestamptz,
    constraint queue_pkey primary key (queue_id)
);
-- A name is free again as soon as its queue is deleted; the number never is.
create unique index queue_tenant_name_key on towpath.queue (tenant, name) where deleted_at is null;
create index queue_deleted on towpath.queue (deleted_at) where deleted_at is not null;

-- Which lanes a queue has: written by a lane's first append, in its transaction.
create table towpath.lane (
    lane_id bigint not null,
    queue_id int not null,
    constraint lane_pkey primary key (lane_id)
);
create index lane_queue on towpath.lane (queue_id, lane_id);

-- Who appends under which number.
create table towpath.node (
    writer smallint not null,
    node_id uuid not null,
    seen_at timestamptz not null,
    constraint node_pkey primary key (writer),
    constraint node_writer_range check (writer between 0 and 255)
);

-- Who runs which background task, until when.
create table towpath.task (
    name text not null,
    holder uuid not null,
    until timestamptz not null,
    constraint task_pkey primary key (name)
);

-- Keys that all nodes share.
create table towpath.secret (
    name text not null,
    key_id int not null,
    value bytea not null,
    created_at timestamptz not null,
    constraint secret_pkey primary key (name, key_id)
);

-- The log: a row holds a chunk of up to 62 messages, numbered seq to seq + n - 1.
-- bytes_before and live_before are running totals of the lane, so that a backlog is measured by
-- two probes. expires_at comes from a message's own time to live; retention counts from enq.
create table towpath.log (
    lane_id bigint not null,
    seq bigint not null,
    n int not null,
    live int not null,
    salt int not null,
    enq timestamptz not null,
    expires_at timestamptz,
    bytes_before bigint not null,
    live_before bigint not null,
    body bytea not null,
    constraint log_pkey primary key (lane_id, seq)
) with (
    -- A full chunk must stay in its page: the default target would send it to TOAST.
    toast_tuple_target = 8160,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    toast.autovacuum_vacuum_scale_factor = 0.02
);
alter table towpath.log alter column body set storage external;

-- Cursors, insert only: the newest row of (lane, sub) is the greatest (epoch, pos, floor); none
-- means position 0. Subscription 0 is the log's own: its pos is one past the highest number ever
-- freed. Subscription 1 is the queue's. Whatever lies below floor is dead.
create table towpath.cur (
    lane_id bigint not null,
    sub_id int not null,
    epoch int not null,
    pos bigint not null,
    floor bigint not null,
    constraint cur_pkey primary key (lane_id, sub_id, epoch, pos, floor)
) with (autovacuum_vacuum_scale_factor = 0.02);

-- What is in flight. Keyed by position, since every question is "which lease covers this message".
create table towpath.lease (
    lane_id bigint not null,
    sub_id int not null,
    lo bigint not null,
    tok int not null,
    epoch int not null,
    mask bigint not null,
    vt timestamptz not null,
    rc int not null,
    state smallint not null,
    first_received_at timestamptz,
    received_at timestamptz not null,
    constraint lease_pkey primary key (lane_id, sub_id, lo, tok)
) with (autovacuum_vacuum_scale_factor = 0.02);
-- By expressions, so that no statement can choose between this index and the key: a plan made
-- while the table was empty walked the wrong one at 100 to 200 microseconds a row.
create index lease_vt on towpath.lease ((lane_id + 0), (sub_id + 0), vt);

-- Where a message went that has left the place its id names.
create table towpath.moved (
    id uuid not null,
    lane_id bigint not null,
    seq bigint not null,
    expires_at timestamptz not null,
    constraint moved_pkey primary key (id)
);

-- Hints between nodes: lanes that have something to receive.
create table towpath.wake (
    id bigint generated always as identity,
    lane_ids bigint[] not null,
    constraint wake_pkey primary key (id)
);

-- Which sends were accepted under which deduplication key.
create table towpath.dedup (
    queue_id int not null,
    h uuid not null,
    until timestamptz not null,
    message_id uuid not null,
    constraint dedup_pkey primary key (queue_id, h)
);
