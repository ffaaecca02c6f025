//! Names those who keep dead rows from being removed, in the log, and says what ends them.
//!
//! Nothing is ended by itself: it may be somebody's backup.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use crate::metrics::SnapshotAge;
use crate::store::{Holder, HolderKind};

/// How long until somebody is named again.
const AGAIN_AFTER: Duration = Duration::from_secs(10 * 60);

/// Those that are there, and since when. As many as the store lists.
#[derive(Debug)]
pub(super) struct Culprits {
    warn_from: Duration,
    seen: HashMap<Identity, Seen>,
}

/// What is the same in the next look: of a transaction its beginning, of what has none that we can see the
/// transaction from which on it keeps everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    kind: HolderKind,
    pid: Option<i32>,
    name: Option<String>,
    since: Option<OffsetDateTime>,
    xmin: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    first: Instant,
    named_at: Option<Instant>,
}

impl Culprits {
    /// Names who is older than this.
    pub(super) fn new(warn_from: Duration) -> Self {
        Self {
            warn_from,
            seen: HashMap::new(),
        }
    }

    /// Looks at all who are there now: how old the oldest of each kind is.
    pub(super) fn look(&mut self, holders: Vec<Holder>, now: Instant) -> Vec<SnapshotAge> {
        let mut ages = KINDS.map(|(_, holder)| SnapshotAge {
            holder,
            age: Duration::ZERO,
        });
        for (holder, age, is_named) in self.judge(holders, now) {
            let place = KINDS.iter().position(|(kind, _)| *kind == holder.kind);
            if let Some(oldest) = place.and_then(|place| ages.get_mut(place)) {
                oldest.age = oldest.age.max(age);
            }
            if is_named {
                name(&holder, age);
            }
        }
        ages.to_vec()
    }

    /// How old each is, and whether it is to be named now.
    fn judge(&mut self, holders: Vec<Holder>, now: Instant) -> Vec<(Holder, Duration, bool)> {
        let before = std::mem::take(&mut self.seen);
        let judged = holders.into_iter().map(|holder| {
            let identity = identity(&holder);
            let new = Seen {
                first: now,
                named_at: None,
            };
            let mut seen = before.get(&identity).copied().unwrap_or(new);
            let here = now.saturating_duration_since(seen.first);
            let age = holder.age.unwrap_or(here);
            let is_due = |at: Instant| now.saturating_duration_since(at) >= AGAIN_AFTER;
            let is_named = age >= self.warn_from && seen.named_at.is_none_or(is_due);
            if is_named {
                seen.named_at = Some(now);
            }
            self.seen.insert(identity, seen);
            (holder, age, is_named)
        });
        judged.collect()
    }
}

const KINDS: [(HolderKind, &str); 4] = [
    (HolderKind::Session, "session"),
    (HolderKind::PreparedTransaction, "prepared_transaction"),
    (HolderKind::ReplicationSlot, "replication_slot"),
    (HolderKind::Standby, "standby"),
];

fn identity(holder: &Holder) -> Identity {
    let xmin = holder.xmin.clone().filter(|_| holder.since.is_none());
    Identity {
        kind: holder.kind,
        pid: holder.pid,
        name: holder.name.clone(),
        since: holder.since,
        xmin,
    }
}

fn name(holder: &Holder, age: Duration) {
    let kind = KINDS.iter().find(|(kind, _)| *kind == holder.kind);
    tracing::warn!(
        holder = kind.map(|(_, word)| *word),
        pid = holder.pid,
        name = holder.name.as_deref(),
        application_name = holder.application_name.as_deref(),
        user = holder.user.as_deref(),
        state = holder.state.as_deref(),
        since = holder.since.map(tracing::field::display),
        age_seconds = age.as_secs(),
        remedy = remedy(holder),
        "an old transaction keeps dead rows from being removed: the database grows until it ends"
    );
}

/// What ends it.
fn remedy(holder: &Holder) -> String {
    let name = holder.name.as_deref().unwrap_or_default();
    let quoted = format!("'{}'", name.replace('\'', "''"));
    match (holder.kind, holder.pid) {
        (HolderKind::Session, Some(pid)) => format!("select pg_terminate_backend({pid});"),
        (HolderKind::Session, None) => "end the session".to_owned(),
        (HolderKind::PreparedTransaction, _) => {
            format!("commit prepared {quoted}; or rollback prepared {quoted};")
        }
        (HolderKind::ReplicationSlot, None) => {
            format!("select pg_drop_replication_slot({quoted}); unless its standby comes back")
        }
        (HolderKind::ReplicationSlot, Some(_)) | (HolderKind::Standby, _) => {
            "end the long queries on the standby, or set hot_standby_feedback = off there"
                .to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    fn session(pid: i32, age: Option<u64>) -> Holder {
        let began = time::macros::datetime!(2026-11-20 12:00 UTC);
        Holder {
            kind: HolderKind::Session,
            pid: Some(pid),
            name: None,
            application_name: Some("report".to_owned()),
            user: Some("analyst".to_owned()),
            state: Some("idle in transaction".to_owned()),
            since: age.map(|_| began),
            age: age.map(Duration::from_secs),
            xmin: Some("700".to_owned()),
        }
    }

    fn slot(name: &str, pid: Option<i32>) -> Holder {
        Holder {
            kind: HolderKind::ReplicationSlot,
            pid,
            name: Some(name.to_owned()),
            ..session(0, None)
        }
    }

    fn named(culprits: &mut Culprits, holders: &[Holder], now: Instant) -> Vec<i32> {
        let judged = culprits.judge(holders.to_vec(), now).into_iter();
        let named = judged.filter(|(_, _, is_named)| *is_named);
        named.filter_map(|(holder, ..)| holder.pid).collect()
    }

    #[test]
    fn a_culprit_is_named_once_in_some_minutes() {
        let mut culprits = Culprits::new(Duration::from_secs(60));
        let now = Clock::default().instant();
        let young = [session(1, Some(59)), session(2, Some(60))];
        assert_eq!(named(&mut culprits, &young, now), [2]);
        let old = [session(1, Some(74)), session(2, Some(75))];
        let then = now + Duration::from_secs(15);
        assert_eq!(named(&mut culprits, &old, then), [1]);
        assert!(named(&mut culprits, &old, then + AGAIN_AFTER / 2).is_empty());
        assert_eq!(named(&mut culprits, &old, now + AGAIN_AFTER), [2]);
        assert!(named(&mut culprits, &[], now + AGAIN_AFTER).is_empty());
        assert!(culprits.seen.is_empty());
    }

    #[test]
    fn what_has_no_beginning_is_as_old_as_it_was_seen() {
        let mut culprits = Culprits::new(Duration::from_secs(60));
        let now = Clock::default().instant();
        let hidden = [session(7, None)];
        assert!(named(&mut culprits, &hidden, now).is_empty());
        let then = now + Duration::from_secs(60);
        assert_eq!(named(&mut culprits, &hidden, then), [7]);
        // Its transaction is another one meanwhile.
        let mut moved = hidden;
        moved[0].xmin = Some("701".to_owned());
        let ages = culprits.look(moved.to_vec(), then + AGAIN_AFTER);
        assert_eq!(ages[0].age, Duration::ZERO);
    }

    #[test]
    fn the_remedy_can_be_pasted() {
        assert_eq!(
            remedy(&session(17, None)),
            "select pg_terminate_backend(17);"
        );
        let dropped = remedy(&slot("it's", None));
        assert!(dropped.starts_with("select pg_drop_replication_slot('it''s');"));
        assert!(remedy(&slot("s", Some(3))).contains("hot_standby_feedback"));
    }
}
