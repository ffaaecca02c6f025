//! A verdict, for who has to find the reason.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use time::OffsetDateTime;
use uuid::Uuid;

use super::{History, Mark, Violation};

/// How many violations are told from the beginning.
const STORIES: usize = 3;

impl Violation {
    /// Its kind, and which message it is about.
    fn about(&self) -> (String, Option<Mark>, Option<Uuid>) {
        let (mark, id) = match self {
            Self::Lost(mark) | Self::Doubled(mark) | Self::KeyReused(mark) => (Some(*mark), None),
            Self::Invented(id)
            | Self::HeldTwice(id)
            | Self::Unfenced(id)
            | Self::Undeleted(id)
            | Self::Unpurged(id)
            | Self::Early(id)
            | Self::Miscounted(id)
            | Self::Overdelivered(id)
            | Self::DiedEarly(id)
            | Self::Resurrected(id) => (None, Some(*id)),
        };
        let name = format!("{self:?}");
        let kind = name.split('(').next().unwrap_or_default().to_owned();
        (kind, mark, id)
    }
}

impl History {
    /// How many promises of each kind are broken, and all that is known of a few messages.
    pub(in crate::chaos) fn tell(&self, violations: &[Violation]) -> String {
        let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
        for violation in violations {
            *kinds.entry(violation.about().0).or_default() += 1;
        }
        let mut text = format!("{kinds:?}\n");
        for violation in violations.iter().take(STORIES) {
            let (_, mark, id) = violation.about();
            writeln!(text, "{violation:?}").expect("memory takes it");
            for (at, event) in self.events(mark, id) {
                writeln!(text, "  {} {event}", at.time()).expect("memory takes it");
            }
        }
        text
    }

    /// What was done with a message, in the order of its answers.
    fn events(&self, mark: Option<Mark>, id: Option<Uuid>) -> Vec<(OffsetDateTime, String)> {
        let sends = self.sends.iter();
        let sent = sends
            .clone()
            .filter(|send| id.is_some() && send.message_id == id);
        let mark = mark.or_else(|| sent.map(|send| send.mark).next());
        let sends = sends.filter(|send| Some(send.mark) == mark);
        let ids: Vec<_> = sends
            .clone()
            .filter_map(|send| send.message_id)
            .chain(id)
            .collect();
        let mut events: Vec<_> = sends
            .map(|send| (send.answered, format!("{send:?}")))
            .collect();
        let deliveries = self.deliveries.iter();
        let deliveries = deliveries.filter(|delivery| {
            ids.contains(&delivery.message_id) || (mark.is_some() && delivery.mark == mark)
        });
        events.extend(deliveries.map(|event| (event.delivered, format!("{event:?}"))));
        let deletes = self
            .deletes
            .iter()
            .filter(|delete| ids.contains(&delete.message_id));
        events.extend(deletes.map(|event| (event.answered, format!("{event:?}"))));
        let changes = self
            .changes
            .iter()
            .filter(|change| ids.contains(&change.message_id));
        events.extend(changes.map(|event| (event.asked, format!("{event:?}"))));
        events.sort();
        events
    }
}
