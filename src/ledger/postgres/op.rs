//! What the writer is asked, and how it answers: after the commit, and never before.

use super::Queue;
use super::plan::Owed;
use crate::clock::{Timestamp, Uptime};
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::admission::{Answered, Question};
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
    /// Writes nothing, so it needs no commit.
    Read(Reading),
    Close,
}

/// One thing that the writer is asked for.
pub(super) enum Reading {
    Unresolved(Timestamp, oneshot::Sender<Option<Unresolved>>),
    Covered(Covers, oneshot::Sender<Option<Vec<RequestId>>>),
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

/// Tells everybody that the commit has returned. Intents may be sent until `until`.
pub(super) fn answer(ops: Vec<Op>, owed: Vec<Owed>, abandoned: &Weak<Queue>, until: Uptime) {
    for (op, owed) in ops.into_iter().zip(owed) {
        let (answer, intended) = match (op, owed) {
            (Op::Intend(_, _, answer), Owed::Recorded { seq, request_id, time }) => {
                let store = abandoned.upgrade().map(|queue| queue as Arc<dyn Abandoned>);
                (answer, Intended::Recorded(Recorded { seq, request_id, time, store, until: Some(until) }))
            }
            (Op::Intend(_, _, answer), Owed::Declined(declined)) => (answer, Intended::Declined(declined)),
            (Op::Intend(_, _, answer), Owed::Replay(replay)) => (answer, Intended::Replay(replay)),
            (Op::Unfreeze(_, _, answer), Owed::Unfrozen(any)) => {
                let _ = answer.send(Ok(any));
                continue;
            }
            (op, owed) => {
                tell(op, if owed == Owed::Done { Ok(()) } else { Err(NotRecorded) });
                continue;
            }
        };
        // Nobody waits for it any more: then nobody sends it either.
        if let Err(Intended::Recorded(recorded)) = answer.send(intended) {
            recorded.never_sent();
        }
    }
}

/// Tells whoever waits for `op`.
fn tell(op: Op, is: Result<(), NotRecorded>) {
    match op {
        Op::Intend(_, _, answer) => drop(answer.send(Intended::Unavailable)),
        Op::Conclude(_, _, receipt) => drop(receipt.map(|receipt| receipt.send(is))),
        Op::Resolve(_, _, receipt) | Op::Postpone(_, _, receipt) | Op::Freeze(_, receipt) => {
            let _ = receipt.send(is);
        }
        Op::Unfreeze(_, _, answer) => drop(answer.send(Err(NotRecorded))),
        Op::Read(Reading::Unresolved(_, answer)) => drop(answer.send(None)),
        Op::Read(Reading::Covered(_, answer)) => drop(answer.send(None)),
        Op::Note(_) | Op::Close => {}
    }
}

/// Tells everybody that nothing of theirs is recorded.
pub(super) fn refuse(ops: Vec<Op>) {
    ops.into_iter().for_each(|op| tell(op, Err(NotRecorded)));
}

/// Keeps what has to be written in spite of everything, which are outcomes, and what nobody waits for. Who waits for an
/// outcome goes on waiting, as long as it likes. The rest hears that nothing is recorded.
pub(super) fn hold(ops: Vec<Op>) -> Vec<Op> {
    let (kept, rest) = ops.into_iter().partition(|op| matches!(op, Op::Conclude(..) | Op::Note(_)));
    refuse(rest);
    kept
}

/// A batch whose COMMIT had no answer: it is there as a whole, or not at all.
pub(super) struct Doubt {
    /// The number that its first entry would have, and the entries.
    pub(super) base: u64,
    pub(super) entries: Vec<Vec<u8>>,
    /// Whose callers have heard that nothing is sent.
    intents: Vec<(u64, RequestId)>,
    /// Outcomes and notes.
    ops: Vec<Op>,
}

impl Doubt {
    /// Intents are refused now, and never sent, whatever turns out. Outcomes wait until it is known.
    pub(super) fn new(base: u64, entries: Vec<Vec<u8>>, ops: Vec<Op>, owed: Vec<Owed>) -> Self {
        let mut doubt = Self { base, entries, intents: Vec::new(), ops: Vec::new() };
        for (op, owed) in ops.into_iter().zip(owed) {
            match (&op, owed) {
                (Op::Conclude(..) | Op::Note(_), Owed::Done) => doubt.ops.push(op),
                (_, Owed::Recorded { seq, request_id, .. }) => {
                    doubt.intents.push((seq, request_id));
                    tell(op, Err(NotRecorded));
                }
                (_, Owed::Done | Owed::Late | Owed::Declined(_) | Owed::Replay(_) | Owed::Unfrozen(_)) => {
                    tell(op, Err(NotRecorded));
                }
            }
        }
        doubt
    }

    /// What is to be written now that it is known whether the batch is there.
    pub(super) fn settled(self, is_there: bool) -> Vec<Op> {
        if !is_there {
            return self.ops;
        }
        self.ops.into_iter().for_each(|op| tell(op, Ok(())));
        let never_sent = |(seq, request_id)| {
            let outcome = Concluding::new(Outcome::never_sent(request_id), None).ok()?;
            Some(Op::Conclude(seq, outcome, None))
        };
        self.intents.into_iter().filter_map(never_sent).collect()
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
