//! The ack batcher: gathers deletes into one sorted statement.

use std::collections::HashMap;

use tokio::sync::{mpsc, oneshot};

use crate::domain::lane::SubscriptionId;
use crate::domain::{Error, Result};
use crate::store::{Ack, Failure, LeaseKey, Session};

/// The deletes of one request.
#[derive(Debug)]
pub(super) struct Item {
    /// With the salts of their messages' numbers.
    pub(super) leases: Vec<(LeaseKey, u32)>,
    pub(super) reply: oneshot::Sender<Result<Vec<Ack>>>,
}

pub(super) async fn run(
    mut session: Session,
    max_messages: usize,
    mut items: mpsc::Receiver<Item>,
) {
    while let Some(first) = items.recv().await {
        let mut messages = first.leases.len();
        let mut batch = vec![first];
        while messages < max_messages {
            let Ok(item) = items.try_recv() else { break };
            messages += item.leases.len();
            batch.push(item);
        }
        ack(&mut session, batch).await;
    }
}

async fn ack(session: &mut Session, batch: Vec<Item>) {
    let mut leases: Vec<_> = batch
        .iter()
        .flat_map(|item| &item.leases)
        .copied()
        .collect();
    leases.sort_unstable();
    // Two requests with one receipt are both told what became of it.
    leases.dedup();
    match session.ack(SubscriptionId::QUEUE, &leases).await {
        Ok(outcomes) => {
            let outcomes: HashMap<_, _> = leases.into_iter().zip(outcomes).collect();
            for Item { leases, reply } in batch {
                let answer = leases
                    .iter()
                    .map(|lease| outcomes.get(lease).copied().ok_or_else(unanswered))
                    .collect();
                // Nobody listens any more: the messages are deleted all the same.
                let _gone = reply.send(answer);
            }
        }
        Err(failure) => refuse(batch, failure),
    }
}

fn unanswered() -> Error {
    Error::internal("ack_1 answered for fewer leases than it was asked")
}

fn refuse(batch: Vec<Item>, failure: Failure) {
    let error = Error::from(failure);
    tracing::error!(
        error = &error as &dyn std::error::Error,
        requests = batch.len(),
        "a delete failed"
    );
    for item in batch {
        let _gone = item.reply.send(Err(error.for_each_caller()));
    }
}
