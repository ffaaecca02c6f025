//! How messages are laid out in a row of the log.
//!
//! A chunk is a header and a run of frames, a frame per message:
//!
//! ```text
//! chunk  = version (1), codec (1), key id (2), CRC-32 of what follows (4), frame*
//! frame  = length (varint), version (1), section*
//! section = type (varint), length (varint), bytes
//! ```
//!
//! Numbers are big-endian; varints are LEB128. Sections of a type that a reader does not know are
//! kept, so that a message moved by an older node loses nothing.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use time::OffsetDateTime;
use uuid::Uuid;

use super::attribute::{
    Attribute, AttributeKind, AttributeName, AttributeType, AttributeValue, Attributes,
};
use super::message::{Body, BodyKind, Content, Death, DeathCause, Origin};
use super::trace::{TraceContext, Traceparent, Tracestate};

/// Most messages in a chunk: a lease's mask has a bit for each of them below two spare ones.
pub const MAX_MESSAGES: usize = 62;

/// A chunk grows to about this many bytes, so that its row fits a page of PostgreSQL; a larger
/// message has a chunk of its own.
pub const TARGET_BYTES: usize = 8_000;

const VERSION: u8 = 1;
const FRAME_VERSION: u8 = 1;
const CODEC_NONE: u8 = 0;
const HEADER_BYTES: usize = 8;
const CRC_AT: usize = 4;

/// The types of sections are never given a second meaning.
const SECTION_TEXT: u64 = 1;
const SECTION_JSON: u64 = 2;
const SECTION_BYTES: u64 = 3;
const SECTION_ORIGIN: u64 = 4;
const SECTION_DEATH: u64 = 5;
const SECTION_ATTRIBUTES: u64 = 6;
const SECTION_TRACE: u64 = 7;
#[cfg(test)]
const FIRST_UNKNOWN_SECTION: u64 = 8;
const MICROSECOND_NANOS: i128 = 1_000;

/// What is stored of one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What it carries.
    pub content: Content,
    /// Where it was before, if it was moved.
    pub origin: Option<Origin>,
    /// How it came to be a dead letter, the newest last.
    pub deaths: Vec<Death>,
    /// Sections this version does not know, as they were found.
    pub unknown: Vec<(u64, Bytes)>,
}

impl From<Content> for Frame {
    fn from(content: Content) -> Self {
        Self {
            content,
            origin: None,
            deaths: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

/// A row that is no chunk of ours: torn, flipped, or from a newer release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored chunk cannot be read: {0}")]
pub struct Unreadable(&'static str);

/// Collects frames until the chunk is full.
#[derive(Debug, Default)]
pub struct ChunkWriter {
    frames: Vec<u8>,
    count: usize,
}

impl ChunkWriter {
    /// Whether a frame still fits beside what is there; an empty chunk takes any.
    pub fn has_room_for(&self, frame: &Frame) -> bool {
        self.count == 0
            || (self.count < MAX_MESSAGES
                && HEADER_BYTES + self.frames.len() + framed_len(frame) <= TARGET_BYTES)
    }

    /// Appends a frame.
    pub fn push(&mut self, frame: &Frame) {
        let Content {
            body,
            attributes,
            trace,
        } = &frame.content;
        let mut sections = Vec::with_capacity(framed_len(frame));
        sections.push(FRAME_VERSION);
        put_section(&mut sections, section_type(body.kind), &body.bytes);
        if !attributes.is_empty() {
            let bytes = attributes_bytes(attributes);
            put_section(&mut sections, SECTION_ATTRIBUTES, &bytes);
        }
        if let Some(trace) = trace {
            put_section(&mut sections, SECTION_TRACE, &trace_bytes(trace));
        }
        if let Some(origin) = &frame.origin {
            put_section(&mut sections, SECTION_ORIGIN, &origin_bytes(origin));
        }
        for death in &frame.deaths {
            put_section(&mut sections, SECTION_DEATH, &death_bytes(death));
        }
        for (kind, bytes) in &frame.unknown {
            put_section(&mut sections, *kind, bytes);
        }
        put_varint(&mut self.frames, sections.len() as u64);
        self.frames.extend_from_slice(&sections);
        self.count += 1;
    }

    /// Messages so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The chunk as it is stored.
    pub fn finish(self) -> Vec<u8> {
        let mut chunk = Vec::with_capacity(HEADER_BYTES + self.frames.len());
        chunk.extend_from_slice(&[VERSION, CODEC_NONE]);
        chunk.put_u16(0);
        chunk.put_u32(crc32fast::hash(&self.frames));
        chunk.extend_from_slice(&self.frames);
        chunk
    }
}

/// The frames of a stored chunk, without copying their bodies.
///
/// # Errors
/// [`Unreadable`] when the checksum does not hold or the layout is not one this version knows.
pub fn read(chunk: &Bytes) -> Result<Vec<Frame>, Unreadable> {
    if chunk.len() < HEADER_BYTES {
        return Err(Unreadable("shorter than its header"));
    }
    if chunk[0] != VERSION {
        return Err(Unreadable("of another version"));
    }
    if chunk[1] != CODEC_NONE || chunk[2] != 0 || chunk[3] != 0 {
        return Err(Unreadable("of an unknown codec or key"));
    }
    let mut frames = chunk.slice(HEADER_BYTES..);
    if chunk.slice(CRC_AT..HEADER_BYTES).get_u32() != crc32fast::hash(&frames) {
        return Err(Unreadable("its checksum does not hold"));
    }
    let mut read = Vec::new();
    while !frames.is_empty() {
        let frame = take_counted(&mut frames)?;
        read.push(read_frame(frame)?);
    }
    Ok(read)
}

fn read_frame(mut frame: Bytes) -> Result<Frame, Unreadable> {
    if frame.try_get_u8() != Ok(FRAME_VERSION) {
        return Err(Unreadable("a frame of another version"));
    }
    let mut body = None;
    let mut attributes = Attributes::default();
    let mut trace = None;
    let mut origin = None;
    let mut deaths = Vec::new();
    let mut unknown = Vec::new();
    while !frame.is_empty() {
        let kind = take_varint(&mut frame)?;
        let bytes = take_counted(&mut frame)?;
        match (body_kind(kind), kind) {
            (Some(kind), _) => body = Some(Body { kind, bytes }),
            (None, SECTION_ORIGIN) => origin = Some(read_origin(bytes)?),
            (None, SECTION_DEATH) => deaths.push(read_death(bytes)?),
            (None, SECTION_ATTRIBUTES) => attributes = read_attributes(bytes)?,
            (None, SECTION_TRACE) => trace = Some(Arc::new(read_trace(bytes)?)),
            (None, _) => unknown.push((kind, bytes)),
        }
    }
    let body = body.ok_or(Unreadable("a frame without a body"))?;
    Ok(Frame {
        content: Content {
            body,
            attributes,
            trace,
        },
        origin,
        deaths,
        unknown,
    })
}

/// (name, type, value)*, in the order of names, all of them counted
fn attributes_bytes(attributes: &Attributes) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(attributes_len(attributes));
    for attribute in attributes.iter() {
        put_counted(&mut bytes, attribute.name().as_bytes());
        put_counted(&mut bytes, attribute.data_type().as_str().as_bytes());
        put_counted(&mut bytes, attribute.value().as_bytes());
    }
    bytes
}

fn read_attributes(mut bytes: Bytes) -> Result<Attributes, Unreadable> {
    let mut attributes = Vec::new();
    while !bytes.is_empty() {
        let name = text(take_counted(&mut bytes)?)?;
        let data_type = text(take_counted(&mut bytes)?)?;
        let data_type = AttributeType::named(&data_type)
            .ok_or(Unreadable("an attribute of an unknown type"))?;
        let value = take_counted(&mut bytes)?;
        attributes.push(Attribute {
            name: AttributeName(name),
            value: match data_type.kind() {
                AttributeKind::Binary => AttributeValue::Bytes(value),
                AttributeKind::String | AttributeKind::Number => AttributeValue::Text(text(value)?),
            },
            data_type,
        });
    }
    Ok(Attributes::stored(attributes))
}

/// traceparent (counted), tracestate (the rest; none when empty)
fn trace_bytes(trace: &TraceContext) -> Vec<u8> {
    let tracestate = trace.tracestate.as_ref().map_or("", Tracestate::as_str);
    let mut bytes = Vec::with_capacity(trace_len(trace));
    put_counted(&mut bytes, trace.traceparent.as_str().as_bytes());
    bytes.extend_from_slice(tracestate.as_bytes());
    bytes
}

fn read_trace(mut bytes: Bytes) -> Result<TraceContext, Unreadable> {
    let traceparent = Traceparent(text(take_counted(&mut bytes)?)?);
    let tracestate = (!bytes.is_empty()).then(|| text(bytes)).transpose()?;
    Ok(TraceContext {
        traceparent,
        tracestate: tracestate.map(Tracestate),
    })
}

fn text(bytes: Bytes) -> Result<String, Unreadable> {
    String::from_utf8(bytes.into()).map_err(|_error| Unreadable("a text is not UTF-8"))
}

/// id (16), deliveries (4), whether a time follows (1), first received (8)
fn origin_bytes(origin: &Origin) -> Vec<u8> {
    let mut bytes = origin.message_id.as_bytes().to_vec();
    bytes.put_i32(origin.deliveries);
    bytes.put_u8(origin.first_received_at.is_some().into());
    bytes.put_i64(origin.first_received_at.map_or(0, microseconds));
    bytes
}

fn read_origin(mut bytes: Bytes) -> Result<Origin, Unreadable> {
    let cut = |_end| Unreadable("an origin is cut off");
    let id = bytes.try_get_u128().map_err(cut)?;
    let deliveries = bytes.try_get_i32().map_err(cut)?;
    let received = bytes.try_get_u8().map_err(cut)? != 0;
    let at = bytes.try_get_i64().map_err(cut)?;
    Ok(Origin {
        message_id: Uuid::from_u128(id),
        deliveries,
        first_received_at: received.then(|| moment(at)).transpose()?,
    })
}

/// at (8), receive count (4), cause (1), queue (counted), text (the rest; none when empty)
fn death_bytes(death: &Death) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_i64(microseconds(death.at));
    bytes.put_i32(death.receive_count);
    bytes.put_u8(match death.cause {
        DeathCause::MaxReceiveCount => 0,
    });
    put_counted(&mut bytes, death.queue.as_bytes());
    bytes.extend_from_slice(death.text.as_deref().unwrap_or_default().as_bytes());
    bytes
}

fn read_death(mut bytes: Bytes) -> Result<Death, Unreadable> {
    let cut = |_end| Unreadable("a death is cut off");
    let at = moment(bytes.try_get_i64().map_err(cut)?)?;
    let receive_count = bytes.try_get_i32().map_err(cut)?;
    let cause = match bytes.try_get_u8().map_err(cut)? {
        0 => DeathCause::MaxReceiveCount,
        _ => return Err(Unreadable("a death of an unknown cause")),
    };
    let queue = text(take_counted(&mut bytes)?)?;
    let text = text(bytes)?;
    Ok(Death {
        queue,
        cause,
        text: Some(text).filter(|text| !text.is_empty()),
        at,
        receive_count,
    })
}

fn microseconds(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / MICROSECOND_NANOS).unwrap_or_default()
}

fn moment(microseconds: i64) -> Result<OffsetDateTime, Unreadable> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(microseconds) * MICROSECOND_NANOS)
        .map_err(|_range| Unreadable("a time out of range"))
}

fn section_type(kind: BodyKind) -> u64 {
    match kind {
        BodyKind::Text => SECTION_TEXT,
        BodyKind::Json => SECTION_JSON,
        BodyKind::Bytes => SECTION_BYTES,
    }
}

fn body_kind(section: u64) -> Option<BodyKind> {
    [BodyKind::Text, BodyKind::Json, BodyKind::Bytes]
        .into_iter()
        .find(|kind| section_type(*kind) == section)
}

/// Most bytes of the type and the length of a section, or of two lengths.
const LENGTH_AND_TYPE: usize = 16;

/// An upper bound of what a frame takes.
fn framed_len(frame: &Frame) -> usize {
    let Content {
        body,
        attributes,
        trace,
    } = &frame.content;
    let trace = trace.as_ref().map_or(0, |trace| trace_len(trace));
    let unknown = frame
        .unknown
        .iter()
        .map(|(_, bytes)| bytes.len() + LENGTH_AND_TYPE);
    let origin = frame.origin.map_or(0, |_| 29 + LENGTH_AND_TYPE);
    let deaths = frame.deaths.iter().map(|death| {
        let text = death.text.as_ref().map_or(0, String::len);
        death.queue.len() + text + 2 * LENGTH_AND_TYPE
    });
    body.bytes.len()
        + LENGTH_AND_TYPE
        + attributes_len(attributes)
        + trace
        + origin
        + deaths.sum::<usize>()
        + unknown.sum::<usize>()
}

/// An upper bound of what a section of attributes takes; nothing for none.
fn attributes_len(attributes: &Attributes) -> usize {
    let lengths = attributes.iter().count() * 2 * LENGTH_AND_TYPE;
    attributes.size() + lengths + if lengths == 0 { 0 } else { LENGTH_AND_TYPE }
}

/// An upper bound of what a section of a trace takes.
fn trace_len(trace: &TraceContext) -> usize {
    let tracestate = trace.tracestate.as_ref().map_or("", Tracestate::as_str);
    trace.traceparent.as_str().len() + tracestate.len() + 2 * LENGTH_AND_TYPE
}

fn put_section(out: &mut Vec<u8>, kind: u64, bytes: &[u8]) {
    put_varint(out, kind);
    put_counted(out, bytes);
}

fn put_counted(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push((value & 0x7f) as u8);
}

fn take_varint(from: &mut Bytes) -> Result<u64, Unreadable> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = from
            .try_get_u8()
            .map_err(|_end| Unreadable("a number is cut off"))?;
        let bits = u64::from(byte & 0x7f);
        if bits << shift >> shift != bits {
            break;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Unreadable("a number is too long"))
}

fn take_counted(from: &mut Bytes) -> Result<Bytes, Unreadable> {
    let length = usize::try_from(take_varint(from)?).ok();
    match length.filter(|length| *length <= from.len()) {
        Some(length) => Ok(from.split_to(length)),
        None => Err(Unreadable("a part is cut off")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let kind = prop_oneof![
            Just(BodyKind::Text),
            Just(BodyKind::Json),
            Just(BodyKind::Bytes)
        ];
        let bytes = prop::collection::vec(any::<u8>(), 1..400);
        let unknown = prop::collection::vec(
            (
                FIRST_UNKNOWN_SECTION..u64::MAX,
                prop::collection::vec(any::<u8>(), 0..20),
            ),
            0..3,
        );
        let at = || (0..4_000_000_000_000_000_i64).prop_map(|at| moment(at).unwrap());
        let origin = (any::<u128>(), any::<i32>(), prop::option::of(at())).prop_map(
            |(id, deliveries, first_received_at)| Origin {
                message_id: Uuid::from_u128(id),
                deliveries,
                first_received_at,
            },
        );
        let death = (".{1,80}", prop::option::of(".{1,80}"), at(), any::<i32>()).prop_map(
            |(queue, text, at, receive_count)| Death {
                queue,
                cause: DeathCause::MaxReceiveCount,
                text,
                at,
                receive_count,
            },
        );
        let moved = (prop::option::of(origin), prop::collection::vec(death, 0..3));
        let content = (kind, bytes, attributes(), prop::option::of(traces())).prop_map(
            |(kind, bytes, attributes, trace)| Content {
                body: Body {
                    kind,
                    bytes: bytes.into(),
                },
                attributes,
                trace: trace.map(Arc::new),
            },
        );
        (content, moved, unknown).prop_map(|(content, (origin, deaths), unknown)| Frame {
            content,
            origin,
            deaths,
            unknown: unknown
                .into_iter()
                .map(|(kind, bytes)| (kind, bytes.into()))
                .collect(),
        })
    }

    fn attributes() -> impl Strategy<Value = Attributes> {
        let value = prop_oneof![
            ("String(\\.[a-z]{1,9})?", "[^\\x00]{1,200}")
                .prop_map(|(name, text)| (name, AttributeValue::Text(text))),
            ("Number(\\.int)?", "-?[0-9]{1,38}")
                .prop_map(|(name, text)| (name, AttributeValue::Text(text))),
            (
                "Binary(\\.[a-z]{1,9})?",
                prop::collection::vec(any::<u8>(), 1..200)
            )
                .prop_map(|(name, bytes)| (name, AttributeValue::Bytes(bytes.into()))),
        ];
        prop::collection::btree_map("[A-Za-z0-9_-]{1,256}", value, 0..4).prop_map(|named| {
            let attributes = named.into_iter().map(|(name, (data_type, value))| {
                let name = AttributeName::parse("name", name).unwrap();
                let data_type = AttributeType::parse("type", &data_type).unwrap();
                Attribute::new("value", name, data_type, value).unwrap()
            });
            Attributes::new("attributes", attributes.collect()).unwrap()
        })
    }

    fn traces() -> impl Strategy<Value = TraceContext> {
        let traceparent = "00-[0-9a-f]{31}1-[0-9a-f]{15}1-0[01]";
        let tracestate = prop::option::of("[a-z]{1,9}=[a-zA-Z0-9]{1,100}");
        (traceparent, tracestate).prop_map(|(traceparent, tracestate)| TraceContext {
            traceparent: Traceparent::parse("traceparent", &traceparent).unwrap(),
            tracestate: tracestate.map(|text| Tracestate::parse("tracestate", &text).unwrap()),
        })
    }

    fn text_of(text: String) -> Frame {
        Frame::from(Content::from(Body::text("body", text).unwrap()))
    }

    fn written(frames: &[Frame]) -> Bytes {
        let mut writer = ChunkWriter::default();
        for frame in frames {
            writer.push(frame);
        }
        assert_eq!(writer.count(), frames.len());
        writer.finish().into()
    }

    proptest! {
        #[test]
        fn a_chunk_gives_back_its_frames_unknown_sections_included(
            frames in prop::collection::vec(frames(), 0..MAX_MESSAGES),
        ) {
            prop_assert_eq!(read(&written(&frames)), Ok(frames));
        }

        #[test]
        fn no_frame_takes_more_than_it_is_thought_to(frame in frames()) {
            let taken = written(std::slice::from_ref(&frame)).len() - HEADER_BYTES;
            prop_assert!(taken <= framed_len(&frame));
        }

        #[test]
        fn one_flipped_bit_is_noticed(
            frames in prop::collection::vec(frames(), 1..5), at: prop::sample::Index,
        ) {
            let mut chunk = written(&frames).to_vec();
            let bit = at.index(chunk.len() * 8);
            chunk[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&chunk.into()).is_err());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut sealed = vec![VERSION, CODEC_NONE, 0, 0];
            sealed.put_u32(crc32fast::hash(&bytes));
            sealed.extend_from_slice(&bytes);
            let _frames = read(&sealed.into());
            let _frames = read(&bytes.into());
        }
    }

    #[test]
    fn a_chunk_of_before_there_were_attributes_is_read_and_written_as_it_was() {
        let stored: &[u8] = &[
            1, 0, 0, 0, 0x97, 0xf3, 0x7d, 0xb4, // header
            8, 1, 1, 5, b'h', b'e', b'l', b'l', b'o', // text
        ];
        let frames = read(&Bytes::from_static(stored)).unwrap();
        assert_eq!(frames, [text_of("hello".to_owned())]);
        assert_eq!(written(&frames), stored);
    }

    #[test]
    fn a_chunk_is_full_at_its_size_and_at_its_count() {
        let small = text_of("x".to_owned());
        let mut writer = ChunkWriter::default();
        while writer.has_room_for(&small) {
            writer.push(&small);
        }
        assert_eq!(writer.count(), MAX_MESSAGES);

        let large = text_of("x".repeat(3_000));
        let mut writer = ChunkWriter::default();
        while writer.has_room_for(&large) {
            writer.push(&large);
        }
        assert_eq!(writer.count(), 2);
        assert!(writer.finish().len() <= TARGET_BYTES);

        let huge = text_of("x".repeat(100_000));
        assert!(ChunkWriter::default().has_room_for(&huge));
    }
}
