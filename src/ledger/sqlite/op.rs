//! What the writer is asked, and how it answers: after the commit, and never before.

use super::Queue;
use crate::clock::Timestamp;
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::entry::{Body, Encoded, End, Outcome};
use crate::ledger::{Abandoned, Intended, NotRecorded, Recorded, Unresolved};
use std::sync::{Arc, Weak};
use tokio::sync::oneshot;

/// Where it is said whether something is recorded.
pub(super) type Receipt = oneshot::Sender<Result<(), NotRecorded>>;

/// One thing that the writer is asked to do.
pub(super) enum Op {
    Intend(RequestId, Encoded, oneshot::Sender<Intended>),
    /// The outcome of the intent with this number. Without a receipt nobody waits for it.
    Conclude(u64, Concluding, Option<Receipt>),
    Resolve(Unresolved, Encoded, Receipt),
    Postpone(Unresolved, Timestamp, Receipt),
    /// Writes nothing, so it needs no commit.
    Unresolved(Timestamp, oneshot::Sender<Option<Unresolved>>),
    Note(Encoded),
    Close,
}

/// An outcome to be recorded.
pub(super) struct Concluding {
    pub(super) body: Encoded,
    /// It leaves open what happened, so that the picture is to be looked at.
    pub(super) is_unknown: bool,
}

impl Concluding {
    pub(super) fn new(outcome: Outcome) -> serde_json::Result<Self> {
        let is_unknown = outcome.outcome == End::Unknown;
        Ok(Self { body: Encoded::new(&Body::Outcome(outcome))?, is_unknown })
    }
}

/// What an intent is owed once it is durable: the proof, which exists only from then on.
pub(super) struct Owed {
    pub(super) seq: u64,
    pub(super) request_id: RequestId,
    pub(super) time: Timestamp,
}

/// Tells everybody that it is durable.
pub(super) fn answer(ops: Vec<Op>, owed: Vec<Option<Owed>>, abandoned: &Weak<Queue>) {
    for (op, owed) in ops.into_iter().zip(owed) {
        match (op, owed) {
            (Op::Intend(_, _, answer), Some(Owed { seq, request_id, time })) => {
                let store = abandoned.upgrade().map(|queue| queue as Arc<dyn Abandoned>);
                let recorded = Recorded { seq, request_id, time, store };
                // Nobody waits for it any more: then nobody sends it either.
                if let Err(Intended::Recorded(recorded)) = answer.send(Intended::Recorded(recorded)) {
                    recorded.never_sent();
                }
            }
            (Op::Intend(_, _, answer), None) => drop(answer.send(Intended::Unavailable)),
            (Op::Conclude(_, _, receipt), _) => drop(receipt.map(|receipt| receipt.send(Ok(())))),
            (Op::Resolve(_, _, receipt) | Op::Postpone(_, _, receipt), _) => drop(receipt.send(Ok(()))),
            (Op::Note(_) | Op::Unresolved(..) | Op::Close, _) => {}
        }
    }
}

/// Tells everybody that nothing of theirs is recorded.
pub(super) fn refuse(ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Intend(_, _, answer) => drop(answer.send(Intended::Unavailable)),
            Op::Conclude(_, _, receipt) => drop(receipt.map(|receipt| receipt.send(Err(NotRecorded)))),
            Op::Resolve(_, _, receipt) | Op::Postpone(_, _, receipt) => drop(receipt.send(Err(NotRecorded))),
            Op::Note(_) | Op::Unresolved(..) | Op::Close => {}
        }
    }
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
