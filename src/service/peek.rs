//! Operations on messages by somebody who does not receive them.

use std::time::Duration;

use time::OffsetDateTime;
use uuid::Uuid;

use super::Service;
use crate::domain::chunk::{self, Frame};
use crate::domain::lane::Position;
use crate::domain::peek::{ContentFilter, MessageState, PeekCursor, StoredMessage};
use crate::domain::queue::{Queue, QueueName, Tenant};
use crate::domain::{Error, Result, limits};
use crate::store::{Change, Peek, PeekedChunk, Standing};

/// What one statement of a peek looks at and reads at most.
const CHUNKS_PER_STATEMENT: usize = 100;
const BYTES_PER_STATEMENT: usize = 1024 * 1024;
/// How often a message that somebody else is at is tried, and the step by which the pauses between two
/// tries grow: whoever is at it is about to commit.
const MAX_ROUNDS: u32 = 16;
const PAUSE_STEP: Duration = Duration::from_millis(1);

/// What is to be seen of a queue.
#[derive(Debug, Clone)]
pub struct PeekRequest {
    /// Only messages in this state.
    pub state: Option<MessageState>,
    /// Only messages that have this.
    pub filter: ContentFilter,
    /// The `next` of the page before.
    pub cursor: Option<String>,
    /// Most messages, 1 to [`limits::MAX_PEEK`].
    pub limit: usize,
}

/// Some messages of a queue.
#[derive(Debug)]
pub struct PeekPage {
    /// The messages, by lane and number.
    pub items: Vec<StoredMessage>,
    /// Leads on, when there may be more.
    pub next: Option<String>,
}

/// A message, and where it is.
#[derive(Debug)]
pub struct LocatedMessage {
    /// The queue that it is in.
    pub queue: QueueName,
    /// The message.
    pub message: StoredMessage,
}

/// What is to become of a message that nobody holds.
#[derive(Debug, Clone, Copy)]
enum Wish {
    Delete,
    WaitFor(Duration),
}

impl Service {
    /// Shows messages of a queue, without receiving them. A page ends early where much was looked at.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a cursor of another queue; [`Error::QueueNotFound`],
    /// [`Error::Unavailable`].
    pub async fn peek_messages(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        request: PeekRequest,
    ) -> Result<PeekPage> {
        let living = self.queue(tenant, queue).await?;
        let cursor = request.cursor.as_deref();
        let from = cursor.map(|text| PeekCursor::parse("cursor", living.id, text));
        let from = from.transpose()?;
        let _place = self.peeks.acquire().await.map_err(Error::internal)?;
        let page = self.look(&living, &request, from).await;
        self.forget_if_gone(tenant, queue, page).await
    }

    /// A message by its id, wherever it is now. The queue is that one, or the one that it was sent to.
    ///
    /// # Errors
    /// [`Error::QueueNotFound`], [`Error::MessageNotFound`], [`Error::Unavailable`].
    pub async fn get_message(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        id: Uuid,
    ) -> Result<LocatedMessage> {
        let living = self.queue(tenant, queue).await?;
        let (_place, located) = self.find(tenant, &living, id).await?;
        Ok(located)
    }

    /// Deletes a message that nobody holds: one that is delayed, or visible again.
    ///
    /// # Errors
    /// As [`Service::get_message`]; [`Error::MessageInFlight`], [`Error::MessageNeverReceived`],
    /// [`Error::UnknownOutcome`].
    pub async fn cancel_message(&self, tenant: &Tenant, queue: &QueueName, id: Uuid) -> Result<()> {
        self.change(tenant, queue, id, Wish::Delete).await?;
        Ok(())
    }

    /// Has a message that nobody holds wait for so long from now; it is as it is after that.
    ///
    /// # Errors
    /// As [`Service::cancel_message`]; [`Error::Invalid`] when its life ends before.
    pub async fn reschedule_message(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        id: Uuid,
        delay: Duration,
    ) -> Result<LocatedMessage> {
        self.change(tenant, queue, id, Wish::WaitFor(delay)).await
    }
}

impl Service {
    async fn look(
        &self,
        queue: &Queue,
        request: &PeekRequest,
        mut from: Option<PeekCursor>,
    ) -> Result<PeekPage> {
        let mut found = Vec::new();
        let (mut chunks, mut bytes) = (0, 0);
        let next = loop {
            let peek = Peek {
                state: request.state,
                from,
                chunks: CHUNKS_PER_STATEMENT.min(limits::MAX_PEEK_CHUNKS - chunks),
                // One more than asked for says whether there is another page.
                messages: if request.filter.is_empty() {
                    request.limit + 1 - found.len()
                } else {
                    usize::MAX
                },
                bytes: BYTES_PER_STATEMENT,
            };
            let peeked = self.store.peek(queue.id, &peek).await?;
            let peeked = peeked.ok_or_else(|| Error::QueueNotFound {
                name: queue.name.as_str().to_owned(),
            })?;
            for chunk in &peeked.chunks {
                bytes += chunk.body.len();
                self.show(chunk, request, &mut found);
            }
            if let Some((place, _)) = found.get(request.limit) {
                break Some(*place);
            }
            chunks += peeked.looked_at;
            from = peeked.next;
            let is_much = chunks >= limits::MAX_PEEK_CHUNKS || bytes >= limits::MAX_PEEK_BYTES;
            if from.is_none() || is_much || peeked.is_slow {
                break from;
            }
        };
        found.truncate(request.limit);
        Ok(PeekPage {
            items: found.into_iter().map(|(_, message)| message).collect(),
            next: next.map(PeekCursor::text),
        })
    }

    /// Adds the messages of a chunk that are to be seen.
    fn show(
        &self,
        chunk: &PeekedChunk,
        request: &PeekRequest,
        found: &mut Vec<(PeekCursor, StoredMessage)>,
    ) {
        let frames = match chunk::read(&chunk.body) {
            Ok(frames) => frames,
            Err(unreadable) => {
                tracing::error!(
                    error = &unreadable as &dyn std::error::Error,
                    lane = chunk.lane.raw(),
                    seq = chunk.seq,
                    "messages cannot be shown"
                );
                return;
            }
        };
        for seq in chunk.seqs() {
            if found.len() > request.limit {
                return;
            }
            let Some(standing) = chunk.standing(seq) else {
                continue;
            };
            if request.state.is_some_and(|state| state != standing.state) {
                continue;
            }
            let frame = frame_of(&frames, chunk, seq);
            if let Some(frame) = frame.filter(|frame| request.filter.matches(frame)) {
                let lane = chunk.lane;
                let message = self.stored(chunk, seq, standing, frame);
                found.push((PeekCursor { lane, seq }, message));
            }
        }
    }

    fn stored(
        &self,
        chunk: &PeekedChunk,
        seq: i64,
        standing: Standing,
        frame: &Frame,
    ) -> StoredMessage {
        let before = frame.origin.as_ref();
        StoredMessage {
            message_id: before.map_or_else(
                || self.broker.seal_id(position(chunk, seq)),
                |before| before.message_id,
            ),
            frame: frame.clone(),
            sent_at: chunk.sent_at,
            first_received_at: before
                .and_then(|before| before.first_received_at)
                .or(standing.first_received_at),
            receive_count: before.map_or(0, |before| before.deliveries) + standing.receive_count,
            state: standing.state,
            visible_at: standing.visible_at,
        }
    }

    /// Where a message is that is in a queue now, or was sent to it.
    async fn find(
        &self,
        tenant: &Tenant,
        queue: &Queue,
        id: Uuid,
    ) -> Result<(Position, LocatedMessage)> {
        let gone = || Error::MessageNotFound { message_id: id };
        let sent_to = self.broker.open_id(id);
        let found = self.store.find_message(tenant, id, sent_to).await?;
        let found = found.ok_or_else(gone)?;
        let (chunk, seq) = (&found.chunk, found.chunk.first);
        let was_sent_here = sent_to.is_some_and(|place| place.lane.queue() == queue.id);
        if chunk.lane.queue() != queue.id && !was_sent_here {
            return Err(gone());
        }
        let standing = chunk.standing(seq).ok_or_else(gone)?;
        let frames = chunk::read(&chunk.body).map_err(Error::internal)?;
        let frame = frame_of(&frames, chunk, seq).ok_or_else(gone)?;
        let message = self.stored(chunk, seq, standing, frame);
        // Another got its number after a restore: its salt makes another id.
        if message.message_id != id {
            return Err(gone());
        }
        let located = LocatedMessage {
            queue: found.queue,
            message,
        };
        Ok((position(chunk, seq), located))
    }

    /// Changes a message that nobody holds, waiting a while for those who are at it.
    async fn change(
        &self,
        tenant: &Tenant,
        queue: &QueueName,
        id: Uuid,
        wish: Wish,
    ) -> Result<LocatedMessage> {
        let living = self.queue(tenant, queue).await?;
        for round in 1..=MAX_ROUNDS {
            let (place, mut located) = self.find(tenant, &living, id).await?;
            match self.change_at(place, wish).await? {
                Change::Done(visible_at) => {
                    self.counts.invalidate(&place.lane.queue()).await;
                    if let Some((state, at)) = visible_at {
                        located.message.state = state;
                        located.message.visible_at = Some(at);
                    }
                    return Ok(located);
                }
                Change::InFlight => return Err(Error::MessageInFlight { message_id: id }),
                Change::Ahead => return Err(Error::MessageNeverReceived { message_id: id }),
                Change::Expires(until) => return Err(too_late(wish, until)),
                // Or it has just been moved to another queue.
                Change::Busy | Change::Gone => {}
            }
            tokio::time::sleep(PAUSE_STEP * round).await;
        }
        Err(Error::Unavailable(None))
    }

    async fn change_at(
        &self,
        place: Position,
        wish: Wish,
    ) -> Result<Change<Option<(MessageState, OffsetDateTime)>>> {
        let queue = place.lane.queue();
        match wish {
            Wish::Delete => {
                let cancelled = self.store.cancel_message(place).await?;
                // Others of its lease may have been passed over meanwhile.
                self.broker.wake(queue);
                Ok(cancelled.map(|()| None))
            }
            Wish::WaitFor(delay) => {
                let token = rand::random_range(1..i32::MAX);
                let rescheduled = self.store.reschedule_message(place, delay, token).await;
                // Also where it may have happened, for all that is known.
                self.broker.wake_after(queue, delay);
                let state = if delay.is_zero() {
                    MessageState::Visible
                } else {
                    MessageState::Delayed
                };
                Ok(rescheduled?.map(|at| Some((state, at))))
            }
        }
    }
}

fn position(chunk: &PeekedChunk, seq: i64) -> Position {
    Position {
        lane: chunk.lane,
        seq,
        salt: chunk.salt,
    }
}

fn frame_of<'a>(frames: &'a [Frame], chunk: &PeekedChunk, seq: i64) -> Option<&'a Frame> {
    frames.get(usize::try_from(seq - chunk.seq).ok()?)
}

fn too_late(wish: Wish, until: OffsetDateTime) -> Error {
    let seconds = match wish {
        Wish::Delete => 0,
        Wish::WaitFor(delay) => delay.as_secs(),
    };
    let rule = format!("so short that the message is visible before its life ends, at {until}");
    Error::invalid("/delay_seconds", seconds.to_string(), rule)
}
