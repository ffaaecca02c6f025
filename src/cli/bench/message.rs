//! What a benchmark's message says: run, sender and sequence, then padding up to the asked size.
//!
//! Everything is of fixed width and needs no escapes in JSON, so that a request is made by writing
//! digits into a copy of a template.

use bytes::Bytes;
use rand::RngExt as _;
use rand::distr::Alphanumeric;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Bytes of a body before its padding: `rrrrrrrr-ssss-qqqqqqqq-`.
pub(super) const MARK_BYTES: usize = 23;

/// Which message of a run it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Mark {
    pub(super) sender: u16,
    pub(super) sequence: u32,
}

/// The form of one run's messages.
#[derive(Debug)]
pub(super) struct Form {
    run: String,
    padding: String,
}

impl Form {
    /// A form for bodies of `size` bytes, at least [`MARK_BYTES`]. The padding is random, so that
    /// neither a compressing disk nor an engine that compresses has it easy.
    pub(super) fn new(size: usize) -> Self {
        let mut random = rand::rng();
        let padding = size.saturating_sub(MARK_BYTES);
        Self {
            run: format!("{:08x}", random.random::<u32>()),
            padding: random
                .sample_iter(Alphanumeric)
                .take(padding)
                .map(char::from)
                .collect(),
        }
    }

    /// The run's name, unlike that of any other.
    pub(super) fn run(&self) -> &str {
        &self.run
    }

    /// Bytes of a body.
    pub(super) fn size(&self) -> usize {
        MARK_BYTES + self.padding.len()
    }

    fn body(&self, mark: Mark) -> String {
        let Mark { sender, sequence } = mark;
        format!("{}-{sender:04x}-{sequence:08x}-{}", self.run, self.padding)
    }

    /// The request that sends `batch` messages of one sender, with more members in each if `more`
    /// names them, each with a comma behind it.
    pub(super) fn request(&self, sender: u16, batch: usize, more: &str) -> SendRequest {
        let mut bytes = br#"{"messages":["#.to_vec();
        let mut sequences_at = Vec::with_capacity(batch);
        let sequence = 0;
        for entry in 0..batch {
            bytes.extend_from_slice(if entry > 0 { b"," } else { b"" });
            bytes.extend_from_slice(format!(r#"{{{more}"body":""#).as_bytes());
            sequences_at.push(bytes.len() + self.run.len() + "-ssss-".len());
            bytes.extend_from_slice(self.body(Mark { sender, sequence }).as_bytes());
            bytes.extend_from_slice(br#""}"#);
        }
        bytes.extend_from_slice(b"]}");
        SendRequest {
            bytes,
            sequences_at,
        }
    }

    /// Which message a body is; `None` when it is not one of this run, whole and unchanged.
    pub(super) fn read(&self, body: &str) -> Option<Mark> {
        let mark = body.strip_prefix(&self.run)?.strip_suffix(&self.padding)?;
        let mark = mark.strip_prefix('-')?.strip_suffix('-')?;
        let (sender, sequence) = mark.split_once('-')?;
        Some(Mark {
            sender: u16::from_str_radix(sender, 16).ok()?,
            sequence: u32::from_str_radix(sequence, 16).ok()?,
        })
    }
}

/// A request body of which only the sequences change.
pub(super) struct SendRequest {
    bytes: Vec<u8>,
    sequences_at: Vec<usize>,
}

impl SendRequest {
    /// The body for the messages from `first` on.
    pub(super) fn numbered_from(&mut self, first: u32) -> Bytes {
        for (at, sequence) in self.sequences_at.iter().zip(first..) {
            let template = self.bytes.iter_mut().skip(*at).take(8).rev();
            // By hand: formatting is what a batch would spend most of its time on.
            for (digit, place) in template.zip(0..) {
                let value = (sequence >> (4 * place)) & 0xf;
                *digit = DIGITS.get(value as usize).copied().unwrap_or_default();
            }
        }
        Bytes::copy_from_slice(&self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_holds_as_many_bodies_of_the_size_as_asked_for() {
        let form = Form::new(100);
        let mut request = form.request(7, 3, r#""delay_seconds":5,"#);
        for first in [0, 0x1234_abcd, u32::MAX - 3] {
            let body = request.numbered_from(first);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            let messages = body["messages"].as_array().unwrap();
            assert_eq!(messages.len(), 3);
            for (message, sequence) in messages.iter().zip(first..) {
                let body = message["body"].as_str().unwrap();
                assert_eq!(body.len(), 100);
                assert_eq!(message["delay_seconds"], 5);
                let expected = Mark {
                    sender: 7,
                    sequence,
                };
                assert_eq!(form.read(body), Some(expected));
            }
        }
    }

    #[test]
    fn a_changed_body_or_one_of_another_run_is_not_read() {
        let form = Form::new(100);
        let mark = Mark {
            sender: 1,
            sequence: 2,
        };
        let body = form.body(mark);
        assert_eq!(form.read(&body), Some(mark));
        assert_eq!(form.read(body.get(..99).unwrap()), None);
        assert_eq!(form.read(&format!("{body}x")), None);
        assert_eq!(form.read(&body.replacen('-', "+", 1)), None);
        assert_eq!(Form::new(100).read(&body), None);
    }
}
