//! The other nodes: what they are told, and what is heard from them. Hints, which may be lost: who
//! waits looks again every few seconds anyway.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::waiters::Wakes;
use crate::store::{Failure, Listener, News, Session, Store};

/// The shortest time between two notifications: a commit with one takes a lock of the whole database.
const PAUSE: Duration = Duration::from_millis(10);
/// After how long without a word a connection that listens is asked whether it still is one.
const LISTEN_QUIET: Duration = Duration::from_secs(30);
/// How long such a connection may take to open or to answer, and the pause before another try.
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
const LISTEN_PAUSE: Duration = Duration::from_secs(1);

/// Tells other nodes about queues that have something new, until cancelled.
pub(super) async fn tell(
    mut session: Session,
    node: Uuid,
    wakes: Arc<Wakes>,
    cancel: CancellationToken,
) {
    while cancel
        .run_until_cancelled(wakes.others.some())
        .await
        .is_some()
    {
        let queues: Vec<_> = wakes.others.take().queues.into_iter().collect();
        if queues.is_empty() {
            continue;
        }
        if let Err(failure) = session.notify_wakes(node, &queues).await {
            tracing::debug!(
                error = &failure as &dyn std::error::Error,
                "other nodes were not told; they will look"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Hears what other nodes say, until cancelled. `outbox` is told when something is in the outbox;
/// `queues_changed` is bumped when queues may have changed.
pub(super) async fn hear(
    store: Store,
    node: Uuid,
    wakes: Arc<Wakes>,
    outbox: Arc<Notify>,
    queues_changed: watch::Sender<u64>,
    cancel: CancellationToken,
) {
    let listening = async {
        loop {
            let failure = match store.listen(node, LISTEN_QUIET, LISTEN_DEADLINE).await {
                Ok(listener) => {
                    hear_from(listener, &store, node, &wakes, &outbox, &queues_changed).await
                }
                Err(failure) => failure,
            };
            tracing::debug!(
                error = &failure as &dyn std::error::Error,
                "other nodes are not heard; queues with receivers are looked at"
            );
            tokio::time::sleep(LISTEN_PAUSE).await;
        }
    };
    let _ended: Option<()> = cancel.run_until_cancelled(listening).await;
}

/// Hears what is said on a connection, until it is lost.
async fn hear_from(
    mut listener: Listener,
    store: &Store,
    node: Uuid,
    wakes: &Wakes,
    outbox: &Notify,
    queues_changed: &watch::Sender<u64>,
) -> Failure {
    let changed = || queues_changed.send_modify(|version| *version += 1);
    wakes.hear_all();
    outbox.notify_one();
    changed();
    // Whoever was alone until now has nobody to tell: from this on there is somebody.
    if let Err(failure) = store.notify_queues(node).await {
        tracing::debug!(
            error = &failure as &dyn std::error::Error,
            "other nodes do not know of this one yet"
        );
    }
    loop {
        let news = match listener.next().await {
            Ok(news) => news,
            Err(failure) => return failure,
        };
        if news != News::Outbox {
            wakes.set_others(true);
        }
        match news {
            News::Wake(queues) => wakes.hear(&queues.into_iter().collect::<HashSet<_>>()),
            News::Queues => changed(),
            News::Outbox => outbox.notify_one(),
            News::Missed => {
                wakes.hear_all();
                outbox.notify_one();
                changed();
            }
        }
    }
}
