//! Which node runs a background task.

use std::time::Duration;

use uuid::Uuid;

use super::{Failure, Store, query};

/// Asked first, since to lose an election costs a transaction.
pub(super) const HELD: &str = "
    select 1 from towpath.task
    where name = $1 and holder <> $2 and until > towpath.clock()";

pub(super) const ELECT: &str = "
    insert into towpath.task as t (name, holder, until)
    values ($1, $2, towpath.clock() + make_interval(secs => $3))
    on conflict (name) do update
    set holder = excluded.holder, until = excluded.until
    where t.holder = excluded.holder or t.until < towpath.clock()
    returning t.name";

pub(super) const RESIGN: &str = "delete from towpath.task where name = $1 and holder = $2";

impl Store {
    /// Makes a node the holder of a task for a while, unless another one is.
    ///
    /// # Errors
    /// As every statement.
    pub async fn elect(&self, task: &str, node: Uuid, term: Duration) -> Result<bool, Failure> {
        let held = query(HELD).bind(task.to_owned()).bind(node);
        if !self.read(held).await?.is_empty() {
            return Ok(false);
        }
        let elect = query(ELECT)
            .bind(task.to_owned())
            .bind(node)
            .bind(term.as_secs_f64());
        Ok(!self.write(elect).await?.is_empty())
    }

    /// Lets another node have a task at once.
    ///
    /// # Errors
    /// As every statement.
    pub async fn resign(&self, task: &str, node: Uuid) -> Result<(), Failure> {
        self.write(query(RESIGN).bind(task.to_owned()).bind(node))
            .await?;
        Ok(())
    }
}
