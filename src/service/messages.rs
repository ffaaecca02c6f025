//! Operations on messages.

use std::sync::Arc;
use std::time::Duration;

use super::Service;
use crate::broker::{NewWindow, OnceKey, Receive, Window};
use crate::domain::message::{
    Deletion, Extension, IdempotencyKey, NewMessage, ReceivedMessage, SentMessage,
};
use crate::domain::queue::{Queue, QueueName, Tenant};
use crate::domain::receipt::Receipt;
use crate::domain::{Error, Result, Violation};
use crate::store::Acked;

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

/// A message that is to stay hidden for another time than it would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WindowRequest {
    /// The handle of its newest delivery.
    pub receipt_handle: String,
    /// How long from now on it stays hidden; else as the queue's retry policy says, and without one it
    /// is visible at once.
    pub window: Option<Duration>,
    /// What the receiver says about it, when it gives the message up.
    pub reason: Option<String>,
}

impl Service {
    /// Stores messages, all or none. When this returns they are as durable as the queue wants. A send
    /// under a key that was used before is answered as then.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a delay is not shorter than the queue keeps messages;
    /// [`Error::QueuePaused`], [`Error::IdempotencyKeyReused`], [`Error::QueueNotFound`],
    /// [`Error::Overloaded`], [`Error::Unavailable`], [`Error::UnknownOutcome`].
    pub async fn send_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        messages: Vec<NewMessage>,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<SentMessage>> {
        let living = self.queue(tenant, queue).await?;
        check_delays(&living, &messages)?;
        if living.settings.sending_paused {
            let name = queue.as_str().to_owned();
            return Err(Error::QueuePaused { name });
        }
        let once = key.map(|key| OnceKey {
            hash: key.hash(),
            digest: NewMessage::digest(&messages),
        });
        let sent = self.broker.append(&living, messages, once).await;
        self.forget_if_gone(tenant, queue, sent).await
    }

    /// Hands out messages. An empty answer means that there was nothing to receive all the while.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::Overloaded`], [`Error::Unavailable`],
    /// [`Error::UnknownOutcome`].
    pub async fn receive_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        request: ReceiveRequest,
    ) -> Result<Vec<ReceivedMessage>> {
        let living = self.queue(tenant, queue).await?;
        let settings = &living.settings;
        let window = request.visibility_timeout;
        let receive = Receive {
            max: request.max,
            wait: request.wait.unwrap_or(settings.receive_wait),
            window: window.unwrap_or(settings.visibility_timeout),
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
        let (living, receipts) = self.receipts(tenant, queue, &receipt_handles).await?;
        let acks = self.broker.ack(&living, receipts).await?;
        let deletions = acks.into_iter().zip(receipt_handles).enumerate();
        Ok(deletions
            .map(|(index, (ack, handle))| match ack {
                Acked::Deleted | Acked::DeletedUnderNewer | Acked::Gone => Deletion::Deleted,
                // Busy ones are no answers of the broker's: it knows the outcome, or fails.
                Acked::Stale | Acked::Busy => {
                    let rule =
                        "a receipt handle of a delivery that the queue knows of; receive again";
                    Deletion::Stale(Violation::new(handle_field(index), handle, rule))
                }
            })
            .collect())
    }

    /// Gives messages that were received more time, or less: each for itself.
    ///
    /// # Errors
    /// As [`Service::delete_messages`].
    pub async fn extend_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        requests: Vec<WindowRequest>,
    ) -> Result<Vec<Extension>> {
        self.change_windows(tenant, queue, requests, false).await
    }

    /// Gives messages up that were received: others may receive them, or they go to the dead-letter
    /// queue if this was their last delivery. Each for itself.
    ///
    /// # Errors
    /// As [`Service::delete_messages`].
    pub async fn nack_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        requests: Vec<WindowRequest>,
    ) -> Result<Vec<Extension>> {
        self.change_windows(tenant, queue, requests, true).await
    }
}

impl Service {
    async fn change_windows(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        requests: Vec<WindowRequest>,
        gives_up: bool,
    ) -> Result<Vec<Extension>> {
        let handles: Vec<String> = requests
            .iter()
            .map(|request| request.receipt_handle.clone())
            .collect();
        let (living, receipts) = self.receipts(tenant, queue, &handles).await?;
        let windows = receipts
            .into_iter()
            .zip(requests)
            .map(|(receipt, request)| NewWindow {
                receipt,
                window: request.window,
                gives_up,
                reason: request.reason,
            })
            .collect();
        let changed = self.broker.extend(&living, windows).await?;
        let changed = changed.into_iter().zip(handles).enumerate();
        Ok(changed
            .map(|(index, (window, handle))| match window {
                Window::VisibleAt(at) => Extension::VisibleAt(at),
                Window::DeadLettered => Extension::DeadLettered,
                Window::Stale => {
                    let rule = "the receipt handle of the newest delivery, within its time";
                    Extension::Stale(Violation::new(handle_field(index), handle, rule))
                }
            })
            .collect())
    }

    /// A queue, and what handles of its receives say.
    async fn receipts(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        handles: &[String],
    ) -> Result<(Arc<Queue>, Vec<Receipt>)> {
        let mut living = self.queue(tenant, queue).await?;
        let opened: Vec<_> = handles
            .iter()
            .map(|handle| self.broker.open_receipt(handle))
            .collect();
        let is_of = |queue: &Queue, receipt: &Receipt| receipt.position.lane.queue() == queue.id;
        let genuine: Vec<Receipt> = opened.iter().copied().flatten().collect();
        let is_forged = genuine.len() < opened.len();
        if !is_forged && !genuine.iter().all(|receipt| is_of(&living, receipt)) {
            // Or another node made the queue a moment ago, under a name that we remember. Whoever
            // forges handles does not have the database asked.
            self.forget(tenant, queue).await;
            living = self.queue(tenant, queue).await?;
        }
        let violations: Vec<_> = opened
            .iter()
            .zip(handles)
            .enumerate()
            .filter(|(_, (receipt, _))| !receipt.is_some_and(|receipt| is_of(&living, &receipt)))
            .map(|(index, (_, handle))| {
                let rule = "a receipt handle as a receive on this queue gave it out";
                Violation::new(handle_field(index), handle, rule)
            })
            .collect();
        if violations.is_empty() {
            Ok((living, genuine))
        } else {
            Err(Error::Invalid(violations))
        }
    }
}

/// A message whose delay is as long as it lives would never be received.
fn check_delays(queue: &Queue, messages: &[NewMessage]) -> Result<()> {
    let settings = &queue.settings;
    for (index, message) in messages.iter().enumerate() {
        let delay = message.delay.unwrap_or(settings.delay);
        let seconds = |duration: Duration| duration.as_secs().to_string();
        if delay >= settings.retention {
            return Err(Error::invalid(
                format!("/messages/{index}/delay_seconds"),
                seconds(delay),
                format!(
                    "less than the {} s for which the queue keeps messages (its retention_seconds)",
                    seconds(settings.retention)
                ),
            ));
        }
        let time_to_live = message.time_to_live;
        if let Some(life) = time_to_live.filter(|life| *life <= delay) {
            return Err(Error::invalid(
                format!("/messages/{index}/time_to_live_seconds"),
                seconds(life),
                format!("more than the {} s of its delay", seconds(delay)),
            ));
        }
    }
    Ok(())
}

fn handle_field(index: usize) -> String {
    format!("/messages/{index}/receipt_handle")
}
