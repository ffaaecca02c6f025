//! The closed list of what a caller can meet.
//!
//! An error carries data, never a status code or a protocol's name for it. Each protocol renders
//! the list by one exhaustive `match`, so a new variant does not build until every protocol can
//! say it.

use std::net::IpAddr;
use std::time::Duration;

use uuid::Uuid;

/// The result of an operation that a caller asked for.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One field that breaks one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Where: a JSON pointer into the body (`/messages/0/body`; empty for all of it) or the name of a
    /// parameter or a header. Without its middle beyond [`Violation::TOLD`] characters.
    pub field: String,
    /// The value that was sent, shortened to [`Violation::SHOWN`] characters; empty where showing
    /// it would leak a secret.
    pub value: String,
    /// What would be right, as a sentence without its full stop. Without its middle beyond
    /// [`Violation::TOLD`] characters: parsers quote what they found.
    pub rule: String,
}

impl Violation {
    /// Most characters of an offending value that are shown back.
    pub const SHOWN: usize = 64;

    /// Most characters of a field's place and of a rule.
    pub const TOLD: usize = 512;

    /// Names the field, the value found there (shortened) and the rule that it breaks.
    pub fn new(field: impl Into<String>, value: impl AsRef<str>, rule: impl Into<String>) -> Self {
        let value = value.as_ref();
        let mut shown: String = value.chars().take(Self::SHOWN).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self {
            field: without_middle(field.into(), Self::TOLD),
            value: shown,
            rule: without_middle(rule.into(), Self::TOLD),
        }
    }
}

fn without_middle(text: String, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text;
    }
    let first = text.chars().take(most / 2);
    let last = text.chars().skip(count - most / 2);
    first.chain(['…']).chain(last).collect()
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let field = match self.field.as_str() {
            "" => "the body",
            field => field,
        };
        if self.value.is_empty() {
            write!(f, "{field}: {}", self.rule)
        } else {
            write!(f, "{field} is {:?}: {}", self.value, self.rule)
        }
    }
}

fn list(violations: &[Violation]) -> String {
    violations
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

fn quoted(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn found(name: &str, version: Option<i64>) -> String {
    match version {
        Some(version) => format!("queue {name:?} has version {version}"),
        None => format!("there is no queue {name:?}"),
    }
}

/// What can go wrong for a caller. `Display` is the sentence that a caller may read: it never
/// holds SQL, a path, a secret, or its own source.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request could not be read at all: not JSON, not UTF-8, too deep.
    #[error("{detail}")]
    Malformed {
        /// What the parser met, and where.
        detail: String,
    },
    /// The request was read and breaks rules; nothing was done.
    #[error("{}", list(.0))]
    Invalid(Vec<Violation>),
    /// A request or a part of it is larger than a named limit; nothing was done.
    #[error("{field} is larger than {limit_bytes} bytes")]
    TooLarge {
        /// What is too large: `request body`, or the pointer of a field.
        field: String,
        /// The limit it breaks, in bytes.
        limit_bytes: usize,
    },
    /// The body's media type or content coding is not one that the operation reads.
    #[error("{header} is {found:?}: this operation reads {supported}, not compressed")]
    UnsupportedMediaType {
        /// The header that says so.
        header: &'static str,
        /// What it says; empty when there was none.
        found: String,
        /// What would be right.
        supported: &'static str,
    },
    /// No credentials, or credentials that do not hold.
    #[error("{reason}")]
    Unauthenticated {
        /// What a caller may know of the reason.
        reason: &'static str,
    },
    /// Good credentials that do not include the right.
    #[error("this token may not {right}; ask an administrator for one whose scope has `{right}`")]
    Forbidden {
        /// The right that is missing, as a scope names it.
        right: &'static str,
    },
    /// The client's address is not on the allowlist.
    #[error("address {address} is not on the allowlist of this server")]
    AddressNotAllowed {
        /// The address after trusted proxies were taken off.
        address: IpAddr,
    },
    /// No route has this path.
    #[error("there is nothing at {path}; the API is described at /v1/openapi.json")]
    NoSuchPath {
        /// The path asked for.
        path: String,
    },
    /// The path exists, the method does not.
    #[error("{method} is not a method of {path}")]
    MethodNotAllowed {
        /// The method asked for.
        method: String,
        /// The path asked for.
        path: String,
    },
    /// No living queue of the caller's tenant has this name.
    #[error("there is no queue {name:?}; create it with PUT /v1/queues/{name}")]
    QueueNotFound {
        /// The name asked for.
        name: String,
    },
    /// The queue cannot be deleted: others send their dead letters there. Nothing was done.
    #[error(
        "queue {name:?} is the dead-letter queue of {}; change them first, or delete it with ?force=true",
        quoted(sources)
    )]
    QueueInUse {
        /// The queue.
        name: String,
        /// Some of the others.
        sources: Vec<String>,
    },
    /// The queue has no such redrive, or it was forgotten.
    #[error("queue {name:?} has no redrive {id}; those that ended are forgotten in time")]
    RedriveNotFound {
        /// The queue.
        name: String,
        /// The id asked for.
        id: String,
    },
    /// Another redrive of the queue runs. Nothing was done.
    #[error("redrive {id} of queue {name:?} runs; wait for its end, or cancel it")]
    RedriveRunning {
        /// The queue.
        name: String,
        /// The one that runs.
        id: String,
    },
    /// Somebody paused sending to the queue; nothing was done.
    #[error(
        "sending to queue {name:?} is paused; send again when it is resumed, as by PATCH /v1/queues/{name} with {{\"sending_paused\":false}}"
    )]
    QueuePaused {
        /// The queue.
        name: String,
    },
    /// What the caller wanted to be so before the change was not. Nothing was done.
    #[error("{header} does not hold: {}; read it, and decide again", found(name, *version))]
    PreconditionFailed {
        /// The queue.
        name: String,
        /// Its version now; `None` when there is no such queue.
        version: Option<i64>,
        /// The header that said so.
        header: &'static str,
    },
    /// The key of a send belongs to another send. Nothing was done.
    #[error(
        "another request was sent under this Idempotency-Key; repeat that one, or use a new key"
    )]
    IdempotencyKeyReused,
    /// No message of this id is there: it was deleted, purged or has expired, or never was in this queue.
    #[error(
        "there is no message {message_id} that is or was in this queue: it was deleted, has expired, or never was"
    )]
    MessageNotFound {
        /// The id asked for.
        message_id: Uuid,
    },
    /// The message is somebody's just now; nothing was done.
    #[error(
        "message {message_id} is in flight: delete it by the receipt handle of its delivery, or wait until it is visible again"
    )]
    MessageInFlight {
        /// The message.
        message_id: Uuid,
    },
    /// The message is ready and was not received yet; nothing was done.
    #[error(
        "message {message_id} is ready and was never received: by its id only a message can be changed that is delayed or came back; receive it, and delete it or give it up"
    )]
    MessageNeverReceived {
        /// The message.
        message_id: Uuid,
    },
    /// No receipt handle of the request still belongs to a delivery.
    #[error("{}", list(.0))]
    ReceiptStale(Vec<Violation>),
    /// The request took longer than the server allows.
    #[error("the request took longer than {} s", limit.as_secs())]
    Timeout {
        /// The limit.
        limit: Duration,
    },
    /// The body did not arrive in time; nothing was done.
    #[error("the body did not arrive within {} s; nothing was done", limit.as_secs())]
    BodyTimeout {
        /// The limit.
        limit: Duration,
    },
    /// A bounded resource of this node is used up; nothing was done.
    #[error("this node is at its limit of {what}; try again")]
    Overloaded {
        /// The resource, in words for a caller.
        what: &'static str,
    },
    /// This node takes no new work; nothing was done.
    #[error("this node is shutting down; ask another one")]
    ShuttingDown,
    /// The database cannot be reached, or cannot do it just now; nothing was done.
    #[error("the database cannot do this just now; nothing was done, try again")]
    Unavailable(#[source] Option<BoxError>),
    /// The database's disk is full; nothing was done.
    #[error("the database's disk is full; nothing was done, try again when there is room")]
    StorageFull(#[source] Option<BoxError>),
    /// The connection to the database was lost while a change was under way.
    #[error(
        "the connection to the database was lost in the middle; the change may or may not have happened"
    )]
    UnknownOutcome(#[source] Option<BoxError>),
    /// A bug of ours.
    #[error("internal error")]
    Internal(#[source] BoxError),
}

/// The source of an error that callers never see and the log shows once.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

impl Error {
    /// A single broken rule.
    pub fn invalid(
        field: impl Into<String>,
        value: impl AsRef<str>,
        rule: impl Into<String>,
    ) -> Self {
        Self::Invalid(vec![Violation::new(field, value, rule)])
    }

    /// A bug of ours, from whatever revealed it.
    pub fn internal(source: impl Into<BoxError>) -> Self {
        Self::Internal(source.into())
    }

    /// The same error for several callers who shared one batch. The source goes to nobody: it was
    /// logged by whoever ran the batch.
    #[must_use]
    pub fn for_each_caller(&self) -> Self {
        match self {
            Self::Unavailable(_) => Self::Unavailable(None),
            Self::StorageFull(_) => Self::StorageFull(None),
            Self::UnknownOutcome(_) => Self::UnknownOutcome(None),
            Self::Overloaded { what } => Self::Overloaded { what },
            Self::ShuttingDown => Self::ShuttingDown,
            Self::QueueNotFound { name } => Self::QueueNotFound { name: name.clone() },
            other => Self::internal(other.to_string()),
        }
    }
}
