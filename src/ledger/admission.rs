//! What is decided inside an intent's transaction, in the order of the queue and for all replicas at once: is it frozen,
//! was it asked before under the same key, is its target in flight, is there budget left. Pure: a store says what it
//! knows, and records what comes of it in the same transaction.

use super::entry::{End, Intention};
use super::freeze::{Covers, Freeze};
use crate::clock::Timestamp;
use crate::config::{Budget, OnExhausted, Per};
use crate::id::{CallerName, IdempotencyKey, RequestId, SessionId};
use sha2::{Digest, Sha256};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long an idempotency key is kept, from its intent on.
pub const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// So many intents are remembered of each counter, however few its budgets allow: one that is made larger finds them.
#[cfg(not(test))]
const REMEMBERED: u32 = 1_000;
/// So that tests come to where it ends.
#[cfg(test)]
const REMEMBERED: u32 = 8;

/// How many intents have to be remembered for a budget of `max`.
#[must_use]
pub fn remembered(max: u32) -> u32 {
    max.max(REMEMBERED)
}

/// A name by the first half of its SHA-256: what the tables beside the entries hold, so that no id stands there. Of a
/// target, where both spellings of a group are one; of a caller's idempotency key; of what counts for a budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark([u8; 16]);

impl Mark {
    fn of(kind: &str, parts: &[&str]) -> Self {
        let mut hash = Sha256::new_with_prefix(kind);
        for part in parts {
            // No part holds a NUL, so that two rows of parts never read the same.
            hash.update([0]);
            hash.update(part);
        }
        let mut mark = [0; 16];
        mark.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
        Self(mark)
    }

    /// What a caller's idempotency key is kept under.
    #[must_use]
    pub fn of_key(caller: &str, key: &str) -> Self {
        Self::of("key", &[caller, key])
    }

    /// A target, whose group is spelt without its suffix.
    #[must_use]
    pub fn of_target(session: &str, bare_group: &str) -> Self {
        Self::of("target", &[session, bare_group])
    }

    /// What counts the intents of a caller; in one session alone, where one is named.
    #[must_use]
    pub fn of_counter(caller: &str, session: Option<&str>) -> Self {
        session.map_or_else(|| Self::of("caller", &[caller]), |session| Self::of("session", &[caller, session]))
    }

    /// An answer as its text is kept.
    #[must_use]
    pub fn of_answer(text: &str) -> Self {
        Self::of("answer", &[text])
    }

    /// From 32 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let spelt = text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        spelt.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(|number| Self(number.to_be_bytes()))
    }

    /// From what is stored.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// As it is stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl serde::Serialize for Mark {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What is asked of a store: an intent, and what it is to be admitted by.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What is recorded when it is admitted.
    pub intention: Intention,
    /// The caller's key for this deletion.
    pub key: Option<IdempotencyKey>,
    /// The budgets that it counts against.
    pub budgets: Arc<[Budget]>,
    /// Whether it could be sent. What cannot is not admitted: it is asked whether its key was answered before.
    pub can_be_sent: bool,
}

impl From<Intention> for Asked {
    /// Without a key and without budgets.
    fn from(intention: Intention) -> Self {
        Self { intention, key: None, budgets: Arc::default(), can_be_sent: true }
    }
}

/// What decides about an intent.
#[derive(Debug, Clone)]
pub struct Question {
    /// Whose request.
    pub request_id: RequestId,
    /// Who calls.
    pub caller: CallerName,
    /// In which session.
    pub session: SessionId,
    /// What it is about.
    pub target: Mark,
    /// What its key is kept under.
    pub key: Option<Mark>,
    /// The budgets that it counts against.
    pub budgets: Arc<[Budget]>,
    /// Whether it could be sent.
    pub can_be_sent: bool,
}

impl From<&Asked> for Question {
    fn from(Asked { intention, key, budgets, can_be_sent }: &Asked) -> Self {
        let (caller, session) = (intention.caller.clone(), intention.session.clone());
        let target = Mark::of_target(session.as_str(), intention.group.bare());
        let key = key.as_ref().map(|key| Mark::of_key(caller.as_str(), key.as_str()));
        let (request_id, budgets, can_be_sent) = (intention.request_id, Arc::clone(budgets), *can_be_sent);
        Self { request_id, caller, session, target, key, budgets, can_be_sent }
    }
}

impl Question {
    /// What counts it for a budget.
    #[must_use]
    pub fn counter(&self, budget: &Budget) -> Mark {
        match budget.per {
            Per::Caller => Mark::of_counter(self.caller.as_str(), None),
            Per::Session => Mark::of_counter(self.caller.as_str(), Some(self.session.as_str())),
        }
    }

    /// Every counter that it adds to, once, with how many intents have to be remembered of it.
    #[must_use]
    pub fn counters(&self) -> Vec<(Mark, u32)> {
        let mut counters: Vec<(Mark, u32)> = Vec::new();
        for budget in self.budgets.iter() {
            let mark = self.counter(budget);
            match counters.iter_mut().find(|(known, _)| *known == mark) {
                Some((_, most)) => *most = remembered(budget.max).max(*most),
                None => counters.push((mark, remembered(budget.max))),
            }
        }
        counters
    }
}

/// An answer as the caller heard it, kept for its key.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Answered {
    /// The status.
    pub status: u16,
    /// Whether it is the provider's confirmation; else it is a problem document.
    pub confirmed: bool,
    /// The body.
    pub body: String,
    /// Its `Retry-After`, in seconds, where it had one. Without it the text is that of rows from before there was any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u64>,
}

impl Answered {
    /// The mark of it as its key keeps it. `None`: the key of an intent of that end keeps no answer.
    pub(super) fn mark(answered: Option<&Self>, end: End) -> serde_json::Result<Option<Mark>> {
        let is_known = matches!(end, End::Deleted | End::Refused);
        let text = answered.filter(|_| is_known).map(serde_json::to_string).transpose()?;
        Ok(text.as_deref().map(Mark::of_answer))
    }
}

/// What became of the intent that a key was first used with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has no outcome yet.
    InFlight,
    /// Nobody knows whether it happened, and whatever is found out later the key keeps that answer.
    Unknown,
    /// It was answered.
    Answered(Answered),
}

/// A key that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// The target that it was used for.
    pub target: Mark,
    /// The request that it was used by.
    pub request_id: RequestId,
    /// What became of that.
    pub standing: Standing,
}

/// What a store knows when it decides about one intent.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// A freeze that covers it.
    pub freeze: Option<&'a Freeze>,
    /// Its key, where that was used in the last [`KEPT`].
    pub key: Option<Kept>,
    /// Its target has an intent without an outcome.
    pub in_flight: bool,
    /// For each of its budgets in turn, the time of the intent `max` before this one, where there were so many.
    pub before: Vec<Option<Timestamp>>,
}

/// What is decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// It is recorded, and counted.
    Admit,
    /// It is not.
    Decline(Declined),
    /// It was recorded before: this is the answer.
    Replay(Replay),
}

/// Why an intent is not admitted. Nothing is recorded of it, and nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declined {
    /// An operator stopped it; the operator's reason.
    Frozen(String),
    /// Another intent for the same target, or with the same key, has no outcome yet.
    InFlight,
    /// The key was used for another target.
    KeyReused,
    /// It could not be sent.
    Unsendable,
    /// A budget is used up.
    BudgetExhausted {
        /// Which.
        budget: Budget,
        /// Whole seconds until one more is in it, at least 1.
        retry_after_s: u64,
    },
}

impl Declined {
    /// The freeze that comes with it: a used up budget may be one that freezes its caller.
    pub(super) fn freezes(&self, caller: &CallerName) -> Option<Freeze> {
        let Self::BudgetExhausted { budget, .. } = self else { return None };
        (budget.on_exhausted == OnExhausted::Freeze).then(|| Freeze {
            covers: Covers::Caller { caller: caller.clone() },
            until: None,
            reason: format!("the budget of {} deletions in {} s was used up", budget.max, budget.per_s),
            by: "the gateway".to_owned(),
        })
    }
}

/// An earlier answer under the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    /// The request that it was the answer to.
    pub request_id: RequestId,
    /// `None`: nobody knows whether it happened.
    pub answered: Option<Answered>,
}

/// Decides, at the time that the entry would have. A freeze comes first, since it is to be heard; then the key, since a
/// replay does nothing; then what would be done.
#[must_use]
pub fn decide(asked: &Question, known: Known<'_>, now: Timestamp) -> Decided {
    if let Some(freeze) = known.freeze {
        return Decided::Decline(Declined::Frozen(freeze.reason.clone()));
    }
    if let Some(Kept { target, request_id, standing }) = known.key {
        if target != asked.target {
            return Decided::Decline(Declined::KeyReused);
        }
        return match standing {
            Standing::InFlight => Decided::Decline(Declined::InFlight),
            Standing::Unknown => Decided::Replay(Replay { request_id, answered: None }),
            Standing::Answered(answered) => Decided::Replay(Replay { request_id, answered: Some(answered) }),
        };
    }
    if !asked.can_be_sent {
        return Decided::Decline(Declined::Unsendable);
    }
    if known.in_flight {
        return Decided::Decline(Declined::InFlight);
    }
    let exhausted = asked.budgets.iter().zip(known.before).filter_map(|(budget, before)| {
        let free_again = before?.after(Duration::from_secs(budget.per_s.into()));
        let micros = free_again.as_micros().saturating_sub(now.as_micros());
        let wait_us = u64::try_from(micros).ok().filter(|wait| *wait > 0)?;
        Some((budget, wait_us.div_ceil(1_000_000)))
    });
    // One that freezes does so whatever else is used up; of the others all have to be free again.
    match exhausted.max_by_key(|(budget, wait_s)| (budget.on_exhausted == OnExhausted::Freeze, *wait_s)) {
        Some((budget, retry_after_s)) => Decided::Decline(Declined::BudgetExhausted { budget: *budget, retry_after_s }),
        None => Decided::Admit,
    }
}

#[cfg(test)]
pub(in crate::ledger) mod tests;
