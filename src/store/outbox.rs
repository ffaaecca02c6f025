//! The outbox: messages that users left in transactions of their own.

use std::time::Duration;

use bytes::Bytes;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{Failure, Session, query};
use crate::domain::lane::QueueId;
use crate::domain::message::BodyKind;
use crate::domain::queue::{QueueName, Tenant};

pub(super) const HORIZON: &str =
    "select last_id, oldest_tx, next_tx from towpath.outbox_horizon_1($1)";
pub(super) const NEXT: &str = "
    select outbox_id, queue_id, tenant, name, is_gone, body_kind, body, attribute_names,
        attribute_values, delay_seconds, time_to_live_seconds
    from towpath.outbox_next_1($1, $2, $3)";
pub(super) const SET_AWAKE: &str = "select setval('towpath.outbox_relay', $1)";

/// Which rows there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Horizon {
    /// The last number that a row has so far.
    pub last: i64,
    /// The oldest transaction under way.
    pub oldest_tx: i64,
    /// Every row up to `last` is of a transaction before this one; `None` when there are no rows behind
    /// the number that was asked about.
    pub next_tx: Option<i64>,
}

/// A message in the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    /// Its number there.
    pub id: i64,
    /// Where it goes.
    pub queue: QueueId,
    /// Whose queue that is.
    pub tenant: Tenant,
    /// What it is called; `None` when it is deleted.
    pub name: Option<QueueName>,
    /// How its body was given.
    pub kind: BodyKind,
    /// Its body.
    pub body: Bytes,
    /// Names and values of its attributes, all of the type String.
    pub attributes: Vec<(String, String)>,
    /// How long it stays hidden, if not as the queue says.
    pub delay: Option<Duration>,
    /// How long it lives, if not for as long as the queue keeps messages.
    pub time_to_live: Option<Duration>,
}

impl Session {
    /// Which rows of the outbox there may be behind a number.
    ///
    /// # Errors
    /// As every statement.
    pub async fn outbox_horizon(&mut self, after: i64) -> Result<Horizon, Failure> {
        let rows = self.fetch_all(query(HORIZON).bind(after)).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        Ok(Horizon {
            last: row.try_get(0)?,
            oldest_tx: row.try_get(1)?,
            next_tx: row.try_get(2)?,
        })
    }

    /// The oldest rows behind a number, up to `rows` of them and about `bytes` of bodies.
    ///
    /// # Errors
    /// As every statement.
    pub async fn outbox_next(
        &mut self,
        after: i64,
        rows: i32,
        bytes: i64,
    ) -> Result<Vec<OutboxRow>, Failure> {
        let statement = query(NEXT).bind(after).bind(rows).bind(bytes);
        let rows = self.fetch_all(statement).await?;
        rows.iter()
            .map(|row| outbox_row(row).map_err(Failure::from))
            .collect()
    }

    /// Tells those who use the outbox whether they must say so.
    ///
    /// # Errors
    /// As every statement.
    pub async fn set_outbox_awake(&mut self, awake: bool) -> Result<(), Failure> {
        let statement = query(SET_AWAKE).bind(i64::from(awake));
        self.fetch_all(statement).await?;
        Ok(())
    }
}

fn outbox_row(row: &PgRow) -> Result<OutboxRow, sqlx::Error> {
    let seconds = |column| {
        let seconds: Option<i32> = row.try_get(column)?;
        let seconds = seconds.and_then(|seconds| u64::try_from(seconds).ok());
        Ok::<_, sqlx::Error>(seconds.map(Duration::from_secs))
    };
    let names: Vec<String> = row.try_get(7)?;
    let values: Vec<String> = row.try_get(8)?;
    let queue: i32 = row.try_get(1)?;
    let is_gone: bool = row.try_get(4)?;
    let name = QueueName::parse("name", row.try_get(3)?).ok();
    Ok(OutboxRow {
        id: row.try_get(0)?,
        queue: QueueId::new(queue)
            .ok_or_else(|| sqlx::Error::Decode(format!("{queue} is no queue's number").into()))?,
        tenant: Tenant(row.try_get(2)?),
        name: name.filter(|_| !is_gone),
        kind: match row.try_get::<i16, _>(5)? {
            0 => BodyKind::Text,
            1 => BodyKind::Json,
            _ => BodyKind::Bytes,
        },
        body: Bytes::from(row.try_get::<Vec<u8>, _>(6)?),
        attributes: names.into_iter().zip(values).collect(),
        delay: seconds(9)?,
        time_to_live: seconds(10)?,
    })
}
