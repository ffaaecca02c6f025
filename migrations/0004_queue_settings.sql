-- What a queue can be told, and what is remembered of a message beside its frame.

alter table towpath.queue
    add column delay_seconds int not null default 0,
    add column retention_seconds int not null default 345600,
    -- The queue's number, since names are used again. It may be of a queue that is deleted.
    add column dead_letter_queue_id int,
    add column max_receive_count int,
    -- 0 strict, 1 relaxed, 2 async
    add column durability smallint not null default 0,
    add column deduplication_window_seconds int not null default 300,
    add constraint queue_dead_letter_check
        check ((dead_letter_queue_id is null) = (max_receive_count is null));
create index queue_dead_letter on towpath.queue (dead_letter_queue_id)
    where dead_letter_queue_id is not null and deleted_at is null;

-- When the messages of a chunk were sent first, where they came from another queue: retention
-- counts from then.
alter table towpath.log add column sent_at timestamptz;

-- What the last receiver said when it gave up.
alter table towpath.lease add column reason text;

-- digest: what was sent under the key, so that something else is refused. answer: where it went.
-- Without an answer the key is of an older release, which wrote none.
alter table towpath.dedup
    add column digest bytea,
    add column answer bytea,
    add column sent_at timestamptz;
create index dedup_until on towpath.dedup (until);
create index moved_expires on towpath.moved (expires_at);

alter table towpath.wake set (autovacuum_vacuum_scale_factor = 0.02);
alter table towpath.moved set (autovacuum_vacuum_scale_factor = 0.02);
alter table towpath.dedup set (autovacuum_vacuum_scale_factor = 0.02);
