//! What the writer is asked, and how it answers: after the commit, and never before.

use super::Queue;
use super::prune::Step;
use crate::clock::Timestamp;
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::admission::{Answered, Declined, Question, Replay};
use crate::ledger::entry::{Body, Encoded, End, Outcome};
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::{Abandoned, Intended, NotRecorded, Recorded, Unresolved};
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// Where it is said whether something is recorded.
pub(super) type Receipt = oneshot::Sender<Result<(), NotRecorded>>;

/// One thing that the writer is asked to do.
pub(super) enum Op {
    Intend(Box<Question>, Encoded, oneshot::Sender<Intended>),
    /// The outcome of the intent with this number. Without a receipt nobody waits for it.
    Conclude(u64, Concluding, Option<Receipt>),
    Resolve(Unresolved, Encoded, Receipt),
    Postpone(Unresolved, Timestamp, Receipt),
    Freeze(Freeze, Receipt),
    Unfreeze(Covers, Encoded, oneshot::Sender<Result<bool, NotRecorded>>),
    Note(Encoded),
    Prune(Step, Receipt),
    /// Writes nothing, so it needs no commit.
    Read(Reading),
    Close,
}

/// One thing that the writer is asked for, and that it knows.
pub(super) enum Reading {
    Unresolved(Timestamp, oneshot::Sender<Option<Unresolved>>),
    Covered(Covers, oneshot::Sender<Option<Vec<RequestId>>>),
    /// Empties the write-ahead log. `false`: a reader keeps it.
    Empty(oneshot::Sender<bool>),
}

/// An outcome to be recorded.
pub(super) struct Concluding {
    pub(super) body: Encoded,
    pub(super) end: End,
    pub(super) answered: Option<Answered>,
}

impl Concluding {
    pub(super) fn new(outcome: Outcome, answered: Option<Answered>) -> serde_json::Result<Self> {
        let end = outcome.outcome;
        let outcome = Outcome { answer: Answered::mark(answered.as_ref(), end)?, ..outcome };
        Ok(Self { body: Encoded::new(&Body::Outcome(outcome))?, end, answered })
    }
}

/// What somebody is owed once it is durable. The proof of an intent exists only from then on.
pub(super) enum Owed {
    /// That it is recorded.
    Nothing,
    Recorded {
        seq: u64,
        request_id: RequestId,
        time: Timestamp,
    },
    Declined(Declined),
    Replay(Replay),
    Unfrozen(bool),
}

/// Tells everybody that it is durable.
pub(super) fn answer(ops: Vec<Op>, owed: Vec<Owed>, abandoned: &Weak<Queue>) {
    for (op, owed) in ops.into_iter().zip(owed) {
        match op {
            Op::Intend(_, _, answer) => {
                let intended = match owed {
                    Owed::Recorded { seq, request_id, time } => {
                        let store = abandoned.upgrade().map(|queue| queue as Arc<dyn Abandoned>);
                        Intended::Recorded(Recorded { seq, request_id, time, store, until: None })
                    }
                    Owed::Declined(declined) => Intended::Declined(declined),
                    Owed::Replay(replay) => Intended::Replay(replay),
                    Owed::Nothing | Owed::Unfrozen(_) => Intended::Unavailable,
                };
                // Nobody waits for it any more: then nobody sends it either.
                if let Err(Intended::Recorded(recorded)) = answer.send(intended) {
                    recorded.never_sent();
                }
            }
            Op::Conclude(_, _, receipt) => drop(receipt.map(|receipt| receipt.send(Ok(())))),
            Op::Resolve(_, _, receipt)
            | Op::Postpone(_, _, receipt)
            | Op::Freeze(_, receipt)
            | Op::Prune(_, receipt) => {
                let _ = receipt.send(Ok(()));
            }
            Op::Unfreeze(_, _, answer) => drop(answer.send(Ok(matches!(owed, Owed::Unfrozen(true))))),
            Op::Note(_) | Op::Read(_) | Op::Close => {}
        }
    }
}

/// Tells everybody that nothing of theirs is recorded.
pub(super) fn refuse(ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Intend(_, _, answer) => drop(answer.send(Intended::Unavailable)),
            Op::Conclude(_, _, receipt) => drop(receipt.map(|receipt| receipt.send(Err(NotRecorded)))),
            Op::Resolve(_, _, receipt)
            | Op::Postpone(_, _, receipt)
            | Op::Freeze(_, receipt)
            | Op::Prune(_, receipt) => {
                let _ = receipt.send(Err(NotRecorded));
            }
            Op::Unfreeze(_, _, answer) => drop(answer.send(Err(NotRecorded))),
            Op::Note(_) | Op::Read(_) | Op::Close => {}
        }
    }
}

/// What is kept until it can be written, and the rest.
pub(super) fn kept(ops: Vec<Op>) -> (Vec<Op>, Vec<Op>) {
    ops.into_iter().partition(|op| matches!(op, Op::Conclude(..) | Op::Note(_)))
}

/// Outcomes, and the rest.
pub(super) fn outcomes_first(ops: Vec<Op>) -> (Vec<Op>, Vec<Op>) {
    ops.into_iter().partition(|op| matches!(op, Op::Conclude(..)))
}

/// Which failpoints a transaction passes.
pub(super) struct Points {
    intents: bool,
    outcomes: bool,
}

impl Points {
    pub(super) fn of(ops: &[Op]) -> Self {
        let any = |is: fn(&Op) -> bool| failpoint::BUILT_IN && ops.iter().any(is);
        Self { intents: any(|op| matches!(op, Op::Intend(..))), outcomes: any(|op| matches!(op, Op::Conclude(..))) }
    }

    pub(super) fn reach(&self, intent: &'static str, outcome: &'static str) {
        if self.intents {
            failpoint::hit(intent);
        }
        if self.outcomes {
            failpoint::hit(outcome);
        }
    }
}
