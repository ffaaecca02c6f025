//! Messages as they are seen by somebody who does not receive them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use time::OffsetDateTime;
use uuid::Uuid;

use super::attribute::{AttributeName, AttributeValue, Attributes};
use super::chunk::Frame;
use super::error::{Error, Result};
use super::lane::{LaneId, QueueId};
use super::limits;
use super::message::{Body, Content};

/// What can happen to a message next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageState {
    /// A receive may get it.
    Visible,
    /// Somebody received it, or gave it up with a delay that has not passed.
    InFlight,
    /// It waits for a time that its sender or an operator chose.
    Delayed,
}

impl MessageState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Visible, Self::InFlight, Self::Delayed];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Visible => "visible",
            Self::InFlight => "in_flight",
            Self::Delayed => "delayed",
        }
    }

    /// The state that a caller named in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is none of that name.
    pub fn parse(field: &str, name: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|state| state.name() == name)
            .ok_or_else(|| Error::invalid(field, name, "one of visible, in_flight and delayed"))
    }
}

/// A message that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its id.
    pub message_id: Uuid,
    /// What is stored of it.
    pub frame: Frame,
    /// When it was first sent.
    pub sent_at: OffsetDateTime,
    /// When it was first received, if ever.
    pub first_received_at: Option<OffsetDateTime>,
    /// How often it was received, in all queues.
    pub receive_count: i32,
    /// What can happen to it next.
    pub state: MessageState,
    /// From when on others may receive it; `None` for one that is visible and was neither received nor
    /// delayed.
    pub visible_at: Option<OffsetDateTime>,
}

/// What a message must have to be shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentFilter {
    /// An attribute.
    pub attribute: Option<AttributeFilter>,
    /// A text in its body.
    pub text: Option<BodyText>,
}

/// An attribute of this name and, where one is given, this value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeFilter {
    /// Its name.
    pub name: AttributeName,
    /// Its value as JSON shows it: text, or base64.
    pub value: Option<String>,
}

/// A text that is looked for in bodies: 1 to [`limits::MAX_PEEK_TEXT`] characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodyText(String);

impl BodyText {
    /// Checks a text that a caller gave in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is empty or too long.
    pub fn parse(field: &str, text: String) -> Result<Self> {
        if text.is_empty() || text.chars().count() > limits::MAX_PEEK_TEXT {
            let rule = format!("a text of 1 to {} characters", limits::MAX_PEEK_TEXT);
            return Err(Error::invalid(field, text, rule));
        }
        Ok(Self(text))
    }

    /// Whether a body has it. One that is not text has none.
    fn is_in(&self, body: &Body) -> bool {
        std::str::from_utf8(&body.bytes).is_ok_and(|body| body.contains(&self.0))
    }
}

impl ContentFilter {
    /// Whether every message passes.
    pub fn is_empty(&self) -> bool {
        self.attribute.is_none() && self.text.is_none()
    }

    /// Whether a message is to be shown.
    pub fn matches(&self, frame: &Frame) -> bool {
        let attribute = self.attribute.as_ref();
        let Content {
            body, attributes, ..
        } = &frame.content;
        attribute.is_none_or(|filter| filter.matches(attributes))
            && self.text.as_ref().is_none_or(|text| text.is_in(body))
    }
}

impl AttributeFilter {
    fn matches(&self, attributes: &Attributes) -> bool {
        attributes.iter().any(|attribute| {
            attribute.name() == self.name.as_str()
                && self
                    .value
                    .as_ref()
                    .is_none_or(|value| match attribute.value() {
                        AttributeValue::Text(text) => text == value,
                        AttributeValue::Bytes(bytes) => STANDARD.encode(bytes) == *value,
                    })
        })
    }
}

/// A place in a queue: where the next page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeekCursor {
    /// The lane.
    pub lane: LaneId,
    /// The first number that is not on the page before.
    pub seq: i64,
}

impl PeekCursor {
    /// What a caller is given of it.
    pub fn text(self) -> String {
        let both = (i128::from(self.lane.raw()) << 64) | i128::from(self.seq);
        URL_SAFE_NO_PAD.encode(both.to_be_bytes())
    }

    /// The place in a queue that a caller gave back in `field`.
    ///
    /// # Errors
    /// [`Error::Invalid`] when it is none of this queue's.
    pub fn parse(field: &str, queue: QueueId, text: &str) -> Result<Self> {
        Self::read(text)
            .filter(|cursor| cursor.lane.queue() == queue && cursor.seq >= 0)
            .ok_or_else(|| Error::invalid(field, text, "the `next_cursor` of the page before"))
    }

    fn read(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (lane, seq) = bytes.split_first_chunk()?;
        Some(Self {
            lane: LaneId::from_raw(i64::from_be_bytes(*lane))?,
            seq: i64::from_be_bytes(seq.try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lane::{Class, Writer};

    #[test]
    fn a_cursor_leads_back_to_its_place_in_its_queue_and_in_no_other() {
        let [one, two] = [1, 2].map(|raw| QueueId::new(raw).unwrap());
        let cursor = PeekCursor {
            lane: LaneId::new(one, Class::DELAYED, Writer(7)),
            seq: 12_345,
        };
        let text = cursor.text();
        assert_eq!(PeekCursor::parse("cursor", one, &text).unwrap(), cursor);
        assert!(PeekCursor::parse("cursor", two, &text).is_err());
        let negative = PeekCursor { seq: -1, ..cursor };
        for bad in [
            "",
            "!",
            "AAAA",
            text.trim_start_matches('A'),
            &"_".repeat(22),
            &negative.text(),
        ] {
            assert!(PeekCursor::parse("cursor", one, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_text_is_found_anywhere_in_a_body_that_is_text() {
        let body =
            |text: &str| Frame::from(Content::from(Body::text("body", text.to_owned()).unwrap()));
        let filter = |text: &str| ContentFilter {
            text: Some(BodyText::parse("text", text.to_owned()).unwrap()),
            ..ContentFilter::default()
        };
        assert!(filter("käse").matches(&body("ein käsebrot")));
        assert!(!filter("Käse").matches(&body("ein käsebrot")));
        let mut bytes = body("ein käsebrot");
        bytes.content.body.bytes = b"\xffein".as_slice().into();
        assert!(!filter("ein").matches(&bytes));
        assert!(BodyText::parse("text", String::new()).is_err());
        assert!(BodyText::parse("text", "x".repeat(limits::MAX_PEEK_TEXT + 1)).is_err());
    }
}
