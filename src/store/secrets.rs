//! Keys that every node of a cluster shares.

use sqlx::Row as _;

use super::{Failure, Store, query};

/// The first node to come makes a key; all others find it.
pub(super) const CREATE: &str = "
    insert into towpath.secret (name, key_id, value, created_at)
    values ($1, 1, $2, towpath.clock())
    on conflict (name, key_id) do nothing";

pub(super) const GET: &str = "
    select key_id, value from towpath.secret
    where name = $1
    order by key_id desc
    limit 1";

impl Store {
    /// The newest key of a name with its number, made from `fresh` when there was none.
    ///
    /// # Errors
    /// As every statement.
    pub async fn secret<const N: usize>(
        &self,
        name: &str,
        fresh: [u8; N],
    ) -> Result<(i32, [u8; N]), Failure> {
        self.write(query(CREATE).bind(name.to_owned()).bind(fresh.to_vec()))
            .await?;
        let rows = self.read(query(GET).bind(name.to_owned())).await?;
        let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
        let value: Vec<u8> = row.try_get("value")?;
        let value = value.try_into().map_err(|other: Vec<u8>| {
            let found = format!("key {name} has {} bytes instead of {N}", other.len());
            sqlx::Error::Decode(found.into())
        })?;
        Ok((row.try_get("key_id")?, value))
    }
}
