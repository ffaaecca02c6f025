//! Operations on messages.

use std::time::Duration;

use super::Service;
use crate::broker::Receive;
use crate::domain::lane::QueueId;
use crate::domain::message::{Deletion, NewMessage, ReceivedMessage, SentMessage};
use crate::domain::queue::{QueueName, QueueSettings, Tenant};
use crate::domain::receipt::Receipt;
use crate::domain::{Error, Result, Violation};
use crate::store::Ack;

/// What a receiver asks for; what it leaves out is the queue's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveRequest {
    /// Most messages, at least 1.
    pub max: usize,
    /// How long to wait for the first.
    pub wait: Option<Duration>,
    /// How long the receiver has for what it gets.
    pub visibility_timeout: Option<Duration>,
}

impl Service {
    /// Stores messages, all or none. When this returns they are durable.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Overloaded`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    pub async fn send_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        messages: Vec<NewMessage>,
    ) -> Result<Vec<SentMessage>> {
        let living = self.queue(tenant, queue).await?;
        let sent = self.broker.append(&living, messages).await;
        self.forget_if_gone(tenant, queue, sent).await
    }

    /// Hands out messages. An empty answer means that there was nothing to receive all the while.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Overloaded`], [`Error::Unavailable`].
    pub async fn receive_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        request: ReceiveRequest,
    ) -> Result<Vec<ReceivedMessage>> {
        let living = self.queue(tenant, queue).await?;
        let QueueSettings {
            visibility_timeout,
            receive_wait,
        } = living.settings;
        let receive = Receive {
            max: request.max,
            wait: request.wait.unwrap_or(receive_wait),
            window: request.visibility_timeout.unwrap_or(visibility_timeout),
        };
        let received = self.broker.claim(&living, receive).await;
        self.forget_if_gone(tenant, queue, received).await
    }

    /// Deletes messages by their receipt handles. When this returns the deletes are durable.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a handle is not of this queue: then nothing was deleted;
    /// [`Error::QueueNotFound`], [`Error::Overloaded`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    pub async fn delete_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        receipt_handles: Vec<String>,
    ) -> Result<Vec<Deletion>> {
        let living = self.queue(tenant, queue).await?;
        let mut opened = self.open_receipts(living.id, &receipt_handles);
        if opened.contains(&None) {
            // Or another node made the queue a moment ago, under a name that we remember.
            self.forget(tenant, queue).await;
            let living = self.queue(tenant, queue).await?;
            opened = self.open_receipts(living.id, &receipt_handles);
        }
        let receipts: Vec<Receipt> = opened.iter().copied().flatten().collect();
        if receipts.len() < opened.len() {
            let forged = opened.iter().zip(&receipt_handles).enumerate();
            return Err(Error::Invalid(
                forged
                    .filter(|(_, (receipt, _))| receipt.is_none())
                    .map(|(index, (_, handle))| {
                        let rule = "a receipt handle as a receive on this queue gave it out";
                        Violation::new(handle_field(index), handle, rule)
                    })
                    .collect(),
            ));
        }
        let acks = self.broker.ack(&receipts).await?;
        let deletions = acks.into_iter().zip(receipt_handles).enumerate();
        Ok(deletions
            .map(|(index, (ack, handle))| match ack {
                Ack::Deleted | Ack::DeletedUnderNewer | Ack::Gone => Deletion::Deleted,
                Ack::Stale => {
                    let rule =
                        "a receipt handle of a delivery that the queue knows of; receive again";
                    Deletion::Stale(Violation::new(handle_field(index), handle, rule))
                }
            })
            .collect())
    }
}

impl Service {
    /// What each handle says; `None` for one that no receive on this queue gave out.
    fn open_receipts(&self, queue: QueueId, handles: &[String]) -> Vec<Option<Receipt>> {
        let open = |handle: &String| {
            self.broker
                .open_receipt(handle)
                .filter(|receipt| receipt.position.lane.queue() == queue)
        };
        handles.iter().map(open).collect()
    }
}

fn handle_field(index: usize) -> String {
    format!("/messages/{index}/receipt_handle")
}
