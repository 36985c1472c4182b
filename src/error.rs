//! Everything that can keep a caller from hearing 200, each named once.
//!
//! [`Refused`] is a decision before the intent: nothing was sent. [`Failed`] comes after it and says
//! what is known about the sending. [`Withheld`] is the operators' port's no. `problem` turns each into an answer.

use crate::head::HeadFault;
use crate::id::CallerName;
use std::sync::Arc;

/// Whether bytes of the deletion have left for the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sent {
    /// Certainly not: calling again is safe.
    No,
    /// Yes, and the provider's answer is known.
    Yes,
    /// Perhaps: it may have happened.
    Unknown,
}

/// A refusal: decided before the intent, so nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// No, unknown, expired or more than one credential; the words say which.
    Unauthenticated(&'static str),
    /// The head breaks HTTP/1.1 or one of our limits.
    Head(HeadFault),
    /// The target has the route's shape, but is not one of ours; the words say why.
    BadTarget(String),
    /// A header field of ours has a value that we do not know.
    BadField(&'static str),
    /// Not the one route.
    NoSuchRoute,
    /// The one route, with another method than DELETE.
    MethodNotAllowed,
    /// No rule allows it, one denies it, or the peer's address is not the caller's.
    NotAllowed(NotAllowed),
    /// A rate is used up; whole seconds until it is not.
    RateLimited {
        /// Whose rate, in words.
        whose: String,
        /// Seconds, at least 1.
        retry_after_s: u64,
    },
    /// The provider asked to be left alone; whole seconds until that is over.
    UpstreamBackoff(u64),
    /// The ledger does not admit it, or would not.
    NotAdmitted(NotAdmitted),
    /// The ledger takes no entries.
    LedgerUnavailable,
    /// The shared rates cannot be asked, or did not answer surely and in time.
    LimitsUnavailable,
    /// There is no provider key to send with.
    KeyUnavailable,
    /// As many requests are under way as may be.
    Overloaded,
    /// As many connections are open as may be.
    TooManyConnections,
    /// The process is draining.
    ShuttingDown,
    /// A fault of ours: a panic, or a URL that is not what it should be.
    Internal,
}

/// Why policy says no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAllowed {
    /// No allow rule of this caller covers the target.
    NoRule(CallerName),
    /// This deny rule covers it.
    Denied(CallerName, Arc<str>),
    /// The peer's address is in none of the caller's `from` networks.
    From(CallerName),
}

impl NotAllowed {
    /// The rule that decided, where one did: a deny rule, or the caller's `from`.
    #[must_use]
    pub fn rule(&self) -> Option<Arc<str>> {
        match self {
            NotAllowed::NoRule(_) => None,
            NotAllowed::Denied(_, rule) => Some(Arc::clone(rule)),
            NotAllowed::From(caller) => Some(format!("{caller}.from").into()),
        }
    }
}

/// Why an intent is not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdmitted {
    /// An operator stopped it; the operator's reason.
    Frozen(String),
    /// Another request for the same target, or with the same idempotency key, is under way.
    InFlight,
    /// The idempotency key was used for another target.
    KeyReused,
    /// A budget is used up.
    BudgetExhausted {
        /// Whose budget, in words.
        whose: String,
        /// Seconds, at least 1.
        retry_after_s: u64,
    },
}

/// What went wrong after the intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// DNS, connect or TLS failed: no request byte left.
    UpstreamUnreachable,
    /// There was no time left to start: no request byte left.
    TooLateToSend,
    /// An operator stopped it after it was recorded, and before it was sent; the operator's reason.
    Frozen(String),
    /// The provider said no with 400, 403, 404 or 429.
    UpstreamRefused {
        /// The provider's status.
        status: u16,
        /// The provider's message: bounded, plain text.
        message: Option<String>,
        /// For how many seconds a 429 asks to be left alone: clamped, and 1 where it does not say.
        retry_after_s: Option<u64>,
    },
    /// The provider does not accept our key.
    UpstreamCredentialsRefused,
    /// The provider answered this 5xx.
    UpstreamFailed {
        /// The provider's status.
        status: u16,
    },
    /// The provider answered something that confirms nothing.
    UpstreamNotConfirmed {
        /// The provider's status, where one could be read.
        status: Option<u16>,
        /// What is wrong with it.
        why: &'static str,
    },
    /// No whole answer came; the words say why.
    OutcomeUnknown(&'static str),
}

/// Why the operators' port does not give what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    /// No, an unknown or more than one credential; the words say which.
    Unauthenticated(&'static str),
    /// An auditor reads; this acts.
    NotAnOperator,
    /// The method is none of these.
    MethodNotAllowed(&'static str),
    /// What was asked for cannot be understood, in these words.
    BadRequest(String),
    /// The request was begun, but not finished in time.
    TooSlow,
    /// There is no such thing, or not yet; the words say what there is.
    NotFound(&'static str),
    /// It cannot be read from the ledger now.
    Unreadable,
    /// It could not be recorded, or it is not known whether it was.
    NotRecorded,
}

impl From<HeadFault> for Refused {
    fn from(fault: HeadFault) -> Self {
        Refused::Head(fault)
    }
}

impl From<NotAdmitted> for Refused {
    fn from(reason: NotAdmitted) -> Self {
        Refused::NotAdmitted(reason)
    }
}

impl From<NotAllowed> for Refused {
    fn from(reason: NotAllowed) -> Self {
        Refused::NotAllowed(reason)
    }
}
