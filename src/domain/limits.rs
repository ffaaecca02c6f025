//! Every limit a caller can meet, named once. Sizes are bytes, waits are `Duration`s.
//!
//! Limits of one machine (pools, batches, queues in memory) are configuration, not constants.

use std::time::Duration;

/// Largest message: its body, and the names, types and values of its attributes. SQS raised its own
/// limit to 1 MiB in August 2025.
pub const MAX_MESSAGE_BYTES: usize = 1024 * 1024;

/// Largest message body.
pub const MAX_BODY_BYTES: usize = MAX_MESSAGE_BYTES;

/// Deepest nesting of a body that is a JSON value. Common parsers stop at 128, and answers have some
/// levels around it.
pub const MAX_JSON_DEPTH: usize = 100;

/// Most attributes of a message (SQS: 10).
pub const MAX_ATTRIBUTES: usize = 64;

/// Longest name of an attribute, in characters (SQS: 256).
pub const MAX_ATTRIBUTE_NAME: usize = 256;

/// Longest type of an attribute, its label included, in bytes (SQS: 256).
pub const MAX_ATTRIBUTE_TYPE: usize = 256;

/// Most digits of an attribute that is a number, zeros at its ends apart (SQS: 38).
pub const MAX_NUMBER_DIGITS: usize = 38;

/// Longest `traceparent`, in bytes. Those of the version that there is have 55.
pub const MAX_TRACEPARENT: usize = 128;

/// Longest `tracestate`, in bytes: what W3C Trace Context wants to be carried at least.
pub const MAX_TRACESTATE: usize = 512;

/// Most messages in one request.
pub const MAX_BATCH: usize = 1000;

/// Largest request body the server reads, and about the largest answer it gives.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;

/// Longest visibility timeout (SQS: 12 hours). The shortest is zero: visible again at once.
pub const MAX_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(12 * 60 * 60);

/// Visibility timeout of a queue that does not set one (SQS: 30 seconds).
pub const DEFAULT_VISIBILITY_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest time a receive may wait for a message (SQS: 20 seconds).
pub const MAX_RECEIVE_WAIT: Duration = Duration::from_secs(20);

/// Longest delay of a message, and the longest time it lives: ten years.
pub const MAX_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Shortest time that a queue keeps messages (SQS: a minute).
pub const MIN_RETENTION: Duration = Duration::from_secs(60);

/// How long a queue keeps messages when it does not say (SQS: 4 days).
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(4 * 24 * 60 * 60);

/// Most deliveries before a message goes to the dead-letter queue (SQS: 1000).
pub const MAX_RECEIVE_COUNT: i32 = 1000;

/// For how long a repeated send is recognised when the queue does not say (SQS: 5 minutes).
pub const DEFAULT_DEDUPLICATION_WINDOW: Duration = Duration::from_secs(5 * 60);

/// Longest time for which a repeated send is recognised.
pub const MAX_DEDUPLICATION_WINDOW: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Longest key under which a send is recognised, in bytes.
pub const MAX_IDEMPOTENCY_KEY: usize = 255;

/// Longest text that a receiver gives a message up with, in bytes.
pub const MAX_REASON: usize = 1024;

/// Deaths that a message remembers; beyond them the oldest are forgotten.
pub const MAX_DEATHS: usize = 16;

/// Most delays of a retry policy: from the last one's delivery on a delay grows no further.
pub const MAX_RETRY_DELAYS: usize = 32;

/// By how much a delay of a retry policy may be longer than the one before.
pub const MAX_RETRY_FACTOR: f64 = 10.0;

/// Most tags of a queue (SQS advises 50).
pub const MAX_TAGS: usize = 50;

/// Longest key of a tag, in characters (SQS: 128).
pub const MAX_TAG_KEY: usize = 128;

/// Longest value of a tag, in characters (SQS: 256).
pub const MAX_TAG_VALUE: usize = 256;

/// Longest queue name, in characters (SQS: 80).
pub const MAX_QUEUE_NAME: usize = 80;

/// Longest receipt handle that is looked at, in bytes; ours are 71.
pub const MAX_RECEIPT_HANDLE: usize = 1024;

/// Most queues on one page of a listing (SQS: 1000).
pub const MAX_PAGE: usize = 1000;

/// Queues on a page when the caller does not say.
pub const DEFAULT_PAGE: usize = 100;

/// Most messages on one page of a peek.
pub const MAX_PEEK: usize = 100;

/// Messages on a page of a peek when the caller does not say.
pub const DEFAULT_PEEK: usize = 20;

/// Chunks of messages that one peek looks at: a page ends there, whatever it has.
pub const MAX_PEEK_CHUNKS: usize = 500;

/// Bytes of chunks that one peek reads: a page ends there, too.
pub const MAX_PEEK_BYTES: usize = MAX_REQUEST_BYTES;

/// Longest text that is looked for in bodies, in characters.
pub const MAX_PEEK_TEXT: usize = 1024;

/// Longest bearer token that is looked at, in bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Longest life a token of the local issuer may be given.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Longest subject of a token, in characters.
pub const MAX_SUBJECT: usize = 128;

/// Most messages that a redrive moves within a second, where it is held back at all.
pub const MAX_REDRIVE_RATE: u32 = 100_000;

/// Most message ids that a redrive may name.
pub const MAX_REDRIVE_IDS: usize = 1000;

/// Redrives of a queue that are remembered once they have ended: the newest.
pub const MAX_REDRIVES_KEPT: i32 = 100;

/// For how long those are remembered.
pub const REDRIVES_KEPT_FOR: Duration = Duration::from_secs(14 * 24 * 60 * 60);
