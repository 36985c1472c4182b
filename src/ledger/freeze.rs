//! The brake: what an operator has stopped, until when, and why. Pure.

use crate::clock::Timestamp;
use crate::id::{CallerName, SessionId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a freeze covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "covers", rename_all = "lowercase")]
pub enum Covers {
    /// Every deletion.
    All,
    /// Those of one caller.
    Caller {
        /// Which.
        caller: CallerName,
    },
    /// Those in one session, whoever calls.
    Session {
        /// Which.
        session: SessionId,
    },
}

impl Covers {
    /// Whether it covers a deletion by this caller in this session.
    #[must_use]
    pub fn includes(&self, caller: &CallerName, session: &SessionId) -> bool {
        match self {
            Covers::All => true,
            Covers::Caller { caller: covered } => covered == caller,
            Covers::Session { session: covered } => covered == session,
        }
    }
}

impl fmt::Display for Covers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Covers::All => f.write_str("everything"),
            Covers::Caller { caller } => write!(f, "caller {caller}"),
            Covers::Session { session } => write!(f, "session {session}"),
        }
    }
}

/// One freeze: no intent that it covers is recorded while it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// What it covers.
    #[serde(flatten)]
    pub covers: Covers,
    /// From when on it covers nothing any more; `None`: until somebody unfreezes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<Timestamp>,
    /// Why, in the operator's words: callers are shown it.
    pub reason: String,
    /// Who.
    pub by: String,
}

impl Freeze {
    /// Whether it is in force.
    #[must_use]
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// All freezes that nobody has taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freezes(Vec<Freeze>);

impl Freezes {
    /// Of these.
    #[must_use]
    pub fn new(freezes: Vec<Freeze>) -> Self {
        Self(freezes)
    }

    /// The first one in force that covers a deletion by this caller in this session.
    #[must_use]
    pub fn covering(&self, caller: &CallerName, session: &SessionId, now: Timestamp) -> Option<&Freeze> {
        self.0.iter().find(|freeze| freeze.covers.includes(caller, session) && freeze.is_in_force(now))
    }

    /// Every one, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Freeze> {
        self.0.iter()
    }

    /// With this one, which takes the place of an earlier one that covers the same.
    #[must_use]
    pub fn with(&self, freeze: Freeze) -> Self {
        let mut all = self.without(&freeze.covers);
        all.0.push(freeze);
        all
    }

    /// Without what covers this.
    #[must_use]
    pub fn without(&self, covers: &Covers) -> Self {
        Self(self.0.iter().filter(|freeze| freeze.covers != *covers).cloned().collect())
    }
}
