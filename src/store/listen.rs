//! What nodes tell each other, and what those who use the outbox tell them: hints, which may be lost.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Failure, Session, Store, query, session};
use crate::domain::lane::QueueId;

pub(super) const NOTIFY: &str = "select pg_notify('towpath', said) from unnest($1::text[]) as said";
const CHANNEL: &str = "towpath";

/// Queues in one notification: PostgreSQL refuses 8000 bytes, and a number has up to 10 digits.
const QUEUES_PER_PAYLOAD: usize = 700;

/// What another node says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// These queues may have something to receive.
    Wake(Vec<QueueId>),
    /// Queues were made, changed or deleted.
    Queues,
    /// Somebody left a message in the outbox.
    Outbox,
    /// The connection was lost: anything may have been said meanwhile.
    Missed,
}

impl Session {
    /// Tells other nodes about queues that may have something to receive.
    ///
    /// # Errors
    /// As every statement.
    pub async fn notify_wakes(&mut self, node: Uuid, queues: &[QueueId]) -> Result<(), Failure> {
        let payloads: Vec<String> = queues
            .chunks(QUEUES_PER_PAYLOAD)
            .map(|queues| {
                let mut payload = format!("{} w", node.simple());
                for queue in queues {
                    payload.push(' ');
                    payload.push_str(&queue.get().to_string());
                }
                payload
            })
            .collect();
        self.fetch_all(query(NOTIFY).bind(payloads)).await?;
        Ok(())
    }
}

/// A connection that hears what other nodes say.
#[derive(Debug)]
pub struct Listener {
    listener: PgListener,
    node: Uuid,
    quiet: Duration,
    deadline: Duration,
}

impl Store {
    /// Tells other nodes that queues were made, changed or deleted.
    ///
    /// # Errors
    /// As every statement.
    pub async fn notify_queues(&self, node: Uuid) -> Result<(), Failure> {
        let payload = format!("{} q", node.simple());
        self.write(query(NOTIFY).bind(vec![payload])).await?;
        Ok(())
    }

    /// Opens a connection that listens. Where nothing was heard for as long as `quiet`, it is asked
    /// whether it still is one: a peer that vanished would be listened to for ever.
    ///
    /// # Errors
    /// When the database cannot be reached within `deadline`.
    pub async fn listen(
        &self,
        node: Uuid,
        quiet: Duration,
        deadline: Duration,
    ) -> Result<Listener, Failure> {
        let open = async {
            // Of its own: it is held for as long as the node lives.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(deadline)
                .connect_lazy_with(PgConnectOptions::clone(&self.pool.connect_options()));
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.ignore_pool_close_event(true);
            listener.listen(CHANNEL).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        let listener = timeout(deadline, open)
            .await
            .map_err(|elapsed| Failure::Unreachable(elapsed.into()))?
            .map_err(|error| Failure::Unreachable(error.into()))?;
        Ok(Listener {
            listener,
            node,
            quiet,
            deadline,
        })
    }
}

impl Listener {
    /// The next thing that another node says.
    ///
    /// # Errors
    /// When the connection is lost and cannot be had again.
    pub async fn next(&mut self) -> Result<News, Failure> {
        loop {
            let Ok(heard) = timeout(self.quiet, self.listener.try_recv()).await else {
                self.check().await?;
                continue;
            };
            let heard = heard.map_err(|error| Failure::Unreachable(error.into()))?;
            let Some(notification) = heard else {
                return Ok(News::Missed);
            };
            if let Some(news) = parse(notification.payload(), self.node) {
                return Ok(news);
            }
        }
    }

    /// Whether somebody is there who could say something.
    async fn check(&mut self) -> Result<(), Failure> {
        let fit = timeout(self.deadline, session::is_fit(&mut self.listener));
        let fit = fit
            .await
            .map_err(|elapsed| Failure::Unreachable(elapsed.into()))?;
        if fit.map_err(|error| Failure::Unreachable(error.into()))? {
            Ok(())
        } else {
            Err(Failure::Unreachable("the server takes no writes".into()))
        }
    }
}

/// `None` for what this node said itself, and for what a newer release may say.
fn parse(payload: &str, node: Uuid) -> Option<News> {
    let mut words = payload.split(' ');
    if Uuid::try_parse(words.next()?).ok()? == node {
        return None;
    }
    match words.next()? {
        "w" => Some(News::Wake(
            words
                .filter_map(|word| QueueId::new(word.parse().ok()?))
                .collect(),
        )),
        "q" => Some(News::Queues),
        "o" => Some(News::Outbox),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_said_and_what_it_does_not_know_is_passed_over() {
        let (this, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
        let say = |node: Uuid, words: &str| parse(&format!("{} {words}", node.simple()), this);
        let queues = [3, 4].map(|raw| QueueId::new(raw).unwrap()).to_vec();
        assert_eq!(say(other, "w 3 4 x -1"), Some(News::Wake(queues)));
        assert_eq!(say(other, "q"), Some(News::Queues));
        assert_eq!(say(Uuid::nil(), "o"), Some(News::Outbox));
        assert_eq!(say(this, "q"), None);
        assert_eq!(say(other, "z 1"), None);
        assert_eq!(parse("nonsense", this), None);
        assert_eq!(parse("", this), None);
    }
}
