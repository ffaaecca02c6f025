//! Redrives: tasks that take messages out of a queue and back to where they came from, and what they
//! ask of a message.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;
use uuid::Uuid;

use super::attribute::{AttributeName, AttributeValue};
use super::chunk::Frame;
use super::lane::{LaneId, QueueId};
use super::queue::{QueueName, Tenant};

/// What is asked of the messages that a redrive takes: all that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RedriveFilter {
    /// The message has an attribute of this name.
    pub attribute: Option<AttributeName>,
    /// The attribute has this value: its text, or base64 of its bytes.
    pub attribute_value: Option<String>,
    /// The message was first sent so long ago, in whole seconds.
    pub older_than: Option<Duration>,
    /// The text of its newest death has this in it.
    pub reason_contains: Option<String>,
    /// It is one of these.
    pub message_ids: Option<BTreeSet<Uuid>>,
}

/// A message that a redrive has met.
#[derive(Debug, Clone, Copy)]
pub struct Candidate<'a> {
    /// Its id.
    pub message_id: Uuid,
    /// How long ago it was first sent.
    pub age: Duration,
    /// The rest.
    pub frame: &'a Frame,
}

impl RedriveFilter {
    /// Whether a message is one of those that are meant.
    pub fn matches(&self, message: Candidate<'_>) -> bool {
        let Candidate {
            message_id,
            age,
            frame,
        } = message;
        let ids = self.message_ids.as_ref();
        ids.is_none_or(|ids| ids.contains(&message_id))
            && self.older_than.is_none_or(|least| age >= least)
            && self
                .reason_contains
                .as_ref()
                .is_none_or(|part| reason(frame).is_some_and(|text| text.contains(part)))
            && self.attribute_matches(frame)
    }

    fn attribute_matches(&self, frame: &Frame) -> bool {
        let Some(name) = &self.attribute else {
            return true;
        };
        let mut attributes = frame.content.attributes.iter();
        let found = attributes.find(|attribute| attribute.name() == name.as_str());
        found.is_some_and(|attribute| {
            self.attribute_value
                .as_ref()
                .is_none_or(|wanted| match attribute.value() {
                    AttributeValue::Text(text) => text == wanted,
                    AttributeValue::Bytes(bytes) => STANDARD.encode(bytes) == *wanted,
                })
        })
    }
}

/// What the last receiver said when it gave the message up for the last time.
fn reason(frame: &Frame) -> Option<&str> {
    frame.deaths.last()?.text.as_deref()
}

/// How far a redrive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedriveState {
    /// It takes messages out.
    Running,
    /// All that it was to move has moved, but for what it skipped.
    Completed,
    /// Somebody ended it. What has moved stays where it is.
    Cancelled,
    /// It could not go on.
    Failed,
}

/// A redrive to be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRedrive {
    /// Where messages go; `None`: each to the queue that it came from last.
    pub to: Option<QueueName>,
    /// Which messages.
    pub filter: RedriveFilter,
    /// Most messages that move within a second, 1 to [`super::limits::MAX_REDRIVE_RATE`].
    pub max_per_second: Option<u32>,
}

/// A redrive as its starter sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redrive {
    /// Its id.
    pub id: Uuid,
    /// Where messages go, unless each goes to the queue that it came from last.
    pub to: Option<QueueName>,
    /// How far it is.
    pub state: RedriveState,
    /// Messages that moved. What a node had moved when it died may be missing.
    pub moved: u64,
    /// Messages that were meant and stayed, since they have nowhere to go.
    pub skipped: u64,
    /// Messages that were meant and could not be moved.
    pub failed: u64,
    /// Why it could not go on.
    pub error: Option<String>,
    /// When it was started, on the database's clock.
    pub created_at: OffsetDateTime,
    /// When something was last said of it.
    pub updated_at: OffsetDateTime,
    /// When it ended.
    pub ended_at: Option<OffsetDateTime>,
}

/// A redrive as the node that does it sees it.
#[derive(Debug, Clone)]
pub struct RedriveTask {
    /// Its id.
    pub id: Uuid,
    /// Whose queues it is about.
    pub tenant: Tenant,
    /// The queue that messages are taken out of.
    pub source: (QueueId, QueueName),
    /// Where they go, unless each goes to the queue that it came from last.
    pub to: Option<(QueueId, QueueName)>,
    /// Which messages.
    pub filter: RedriveFilter,
    /// Most messages that move within a second.
    pub max_per_second: Option<u32>,
    /// Where the lanes of the queue ended when the redrive was started.
    pub ends: HashMap<LaneId, i64>,
}

impl RedriveTask {
    /// Whether a message was there when the redrive was started.
    pub fn was_there(&self, lane: LaneId, seq: i64) -> bool {
        self.ends.get(&lane).is_some_and(|end| seq < *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::attribute::{Attribute, AttributeType, Attributes};
    use crate::domain::message::{Body, Content, Death, DeathCause};

    fn death(text: Option<&str>) -> Death {
        Death {
            queue: "orders".to_owned(),
            cause: DeathCause::MaxReceiveCount,
            text: text.map(str::to_owned),
            at: OffsetDateTime::UNIX_EPOCH,
            receive_count: 1,
        }
    }

    fn name(name: &str) -> AttributeName {
        AttributeName::parse("name", name.to_owned()).unwrap()
    }

    fn message(deaths: Vec<Death>) -> Frame {
        let text = AttributeValue::Text("eu".to_owned());
        let bytes = AttributeValue::base64("value", "AAE=").unwrap();
        let binary = AttributeType::parse("type", "Binary").unwrap();
        let attributes = vec![
            Attribute::new("region", name("region"), AttributeType::STRING, text).unwrap(),
            Attribute::new("mark", name("mark"), binary, bytes).unwrap(),
        ];
        let mut frame = Frame::from(Content::from(
            Body::text("body", "hello".to_owned()).unwrap(),
        ));
        frame.content.attributes = Attributes::new("attributes", attributes).unwrap();
        frame.deaths = deaths;
        frame
    }

    #[test]
    fn a_filter_takes_those_messages_for_which_all_of_it_holds() {
        let frame = message(vec![death(Some("timeout")), death(Some("no paper"))]);
        let id = Uuid::from_u128(7);
        let candidate = Candidate {
            message_id: id,
            age: Duration::from_secs(60),
            frame: &frame,
        };
        let with = |change: fn(&mut RedriveFilter)| {
            let mut filter = RedriveFilter::default();
            change(&mut filter);
            filter.matches(candidate)
        };
        assert!(with(|_| {}));
        assert!(with(|filter| filter.attribute = Some(name("region"))));
        assert!(!with(|filter| filter.attribute = Some(name("Region"))));
        let valued = |attribute: &str, value: &str| {
            let filter = RedriveFilter {
                attribute: Some(name(attribute)),
                attribute_value: Some(value.to_owned()),
                ..RedriveFilter::default()
            };
            filter.matches(candidate)
        };
        assert!(valued("region", "eu"));
        assert!(!valued("region", "e"));
        assert!(valued("mark", "AAE="));
        assert!(with(
            |filter| filter.older_than = Some(Duration::from_secs(60))
        ));
        assert!(!with(
            |filter| filter.older_than = Some(Duration::from_secs(61))
        ));
        assert!(with(
            |filter| filter.reason_contains = Some("paper".to_owned())
        ));
        assert!(!with(
            |filter| filter.reason_contains = Some("timeout".to_owned())
        ));
        let ids = |ids: &[u128]| RedriveFilter {
            message_ids: Some(ids.iter().copied().map(Uuid::from_u128).collect()),
            older_than: Some(Duration::from_secs(1)),
            ..RedriveFilter::default()
        };
        assert!(ids(&[1, 7]).matches(candidate));
        assert!(!ids(&[1]).matches(candidate));
    }

    #[test]
    fn a_message_that_never_died_has_no_reason_to_be_found_by() {
        let frame = message(vec![]);
        let candidate = Candidate {
            message_id: Uuid::nil(),
            age: Duration::ZERO,
            frame: &frame,
        };
        let filter = RedriveFilter {
            reason_contains: Some("e".to_owned()),
            ..RedriveFilter::default()
        };
        assert!(!filter.matches(candidate));
    }
}
