//! What a batch comes to, decided in the order of the queue from what the locked database said: pure, and without a
//! statement that could fail for one request's sake.

use super::admitting::{Admitting, Held, Wanted};
use super::op::{Concluding, Op};
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::admission::{Decided, Declined, Mark, Question, Replay};
use crate::ledger::entry::{Body, Encoded, End};
use crate::ledger::freeze::Freeze;
use std::collections::{HashMap, HashSet};

/// About as long as an entry is.
const TRIAL_BYTES: usize = 512;

/// What the database said once the head row was locked: nobody else changes it before the commit.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// How many entries there are.
    pub(super) length: u64,
    /// The time of the last one, in microseconds.
    pub(super) latest_us: i64,
    /// The time by the database's clock, the one that all replicas go by: budgets of all are counted by it.
    pub(super) now_us: i64,
    /// Those of the intents to be concluded that are still in flight.
    pub(super) open: HashMap<u64, Held>,
    /// Those of the unknown outcomes to be resolved or postponed that still wait: since when, and the intent's number.
    pub(super) waiting: HashSet<(i64, u64)>,
    /// What decides about intents.
    pub(super) admitting: Admitting,
}

/// What an operation is owed once the commit has returned.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owed {
    Recorded {
        seq: u64,
        request_id: RequestId,
        time: Timestamp,
    },
    Declined(Declined),
    Replay(Replay),
    Unfrozen(bool),
    /// It is recorded, or was before.
    Done,
    /// The intent has its outcome already: another replica took this one for dead.
    Late,
}

/// The rows of one transaction, column by column. All its entries have one time, which never runs backwards in the log.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) base: u64,
    pub(super) entries: Vec<Vec<u8>>,
    pub(super) time: Timestamp,
    /// By when freezes end and waiting begins: the log's time stands still for as long as a clock was ahead.
    now: Timestamp,
    spelt: String,
    /// Intents that are not in flight any more.
    pub(super) landed: Vec<i64>,
    /// What waits from now on, and what does not any more.
    pub(super) waits: (Vec<i64>, Vec<i64>, Vec<i32>),
    pub(super) gone: (Vec<i64>, Vec<i64>),
    pub(super) admitting: Admitting,
    open: HashMap<u64, Held>,
    waiting: HashSet<(i64, u64)>,
}

impl Plan {
    /// An empty one, behind what there is, at the time of the database's clock.
    pub(super) fn behind(known: Known) -> Self {
        let time = Timestamp::from_micros(known.now_us.max(known.latest_us));
        Self {
            base: known.length,
            entries: Vec::new(),
            time,
            now: Timestamp::from_micros(known.now_us),
            spelt: time.to_string(),
            landed: Vec::new(),
            waits: Default::default(),
            gone: Default::default(),
            admitting: known.admitting,
            open: known.open,
            waiting: known.waiting,
        }
    }

    /// One that is only tried out, behind what there is: an intent with a key and a counter whose outcome is unknown, so
    /// that each table is written to.
    pub(super) fn trial(known: Known) -> Self {
        let mut plan = Self::behind(known);
        let (seq, time, mark) = (plan.base, plan.time.as_micros(), vec![0; size_of::<Mark>()]);
        let (number, id) = (seq.cast_signed(), RequestId::new().to_string());
        plan.entries.push(vec![b' '; TRIAL_BYTES]);
        let rows = &mut plan.admitting.rows;
        rows.off = (vec![number], vec![id.clone()], vec![mark.clone()], vec![Some(mark.clone())], vec![mark.clone()]);
        rows.kept = (vec![mark.clone()], vec![time], vec![number], vec![mark.clone()], vec![id]);
        rows.spent = (vec![mark], vec![1], vec![time], vec![number]);
        plan.landed.push(number);
        plan.wait(plan.now, seq, 0);
        plan
    }

    /// How many entries there are after it.
    pub(super) fn length(&self) -> u64 {
        self.base + self.entries.len() as u64
    }

    /// The numbers of the new entries.
    pub(super) fn seqs(&self) -> Vec<i64> {
        (self.base..self.length()).map(u64::cast_signed).collect()
    }

    /// Whether there is nothing to commit.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.gone.0.is_empty()
    }

    /// Takes a batch.
    pub(super) fn take(&mut self, ops: &[Op]) -> Vec<Owed> {
        ops.iter().map(|op| self.perform(op)).collect()
    }

    fn perform(&mut self, op: &Op) -> Owed {
        match op {
            Op::Intend(asked, body, _) => return self.intend(asked, body),
            Op::Conclude(seq, concluding, _) => {
                let Some(held) = self.open.remove(seq) else { return Owed::Late };
                self.admitting.land(*seq, &held, concluding.end, concluding.answered.as_ref());
                self.conclude(*seq, concluding);
            }
            Op::Resolve(waiting, body, _) => {
                // What does not wait any more has its resolution already, and gets no second one.
                if self.waiting.remove(&(waiting.since.as_micros(), waiting.seq)) {
                    self.append(body);
                    self.goes(waiting.since, waiting.seq);
                }
            }
            Op::Postpone(waiting, since, _) => {
                if self.waiting.remove(&(waiting.since.as_micros(), waiting.seq)) {
                    self.goes(waiting.since, waiting.seq);
                    self.wait(*since, waiting.seq, waiting.attempts.saturating_add(1));
                }
            }
            Op::Freeze(freeze, _) => self.freeze(freeze.clone()),
            Op::Unfreeze(covers, body, _) => {
                let any = self.admitting.freezes.has(covers, self.now);
                let freezes = self.admitting.freezes.without(covers);
                if freezes != self.admitting.freezes {
                    self.append(body);
                    self.admitting.freeze(freezes);
                }
                return Owed::Unfrozen(any);
            }
            Op::Note(body) => drop(self.append(body)),
            Op::Read(_) | Op::Close => {}
        }
        Owed::Done
    }

    /// Decides about an intent, and adds it where it is admitted.
    fn intend(&mut self, asked: &Question, body: &Encoded) -> Owed {
        match self.admitting.decide(asked, self.time, self.now) {
            Decided::Admit => {}
            Decided::Decline(declined) => {
                self.exhausted(asked, &declined);
                return Owed::Declined(declined);
            }
            Decided::Replay(replay) => return Owed::Replay(replay),
        }
        let seq = self.append(body);
        self.admitting.take_off(seq, asked, self.time);
        Owed::Recorded { seq, request_id: asked.request_id, time: self.time }
    }

    /// A used up budget may be one that freezes its caller.
    fn exhausted(&mut self, asked: &Question, declined: &Declined) {
        let Some(freeze) = declined.freezes(&asked.caller) else { return };
        tracing::warn!(caller = %asked.caller, reason = freeze.reason, "the caller is frozen until somebody unfreezes it");
        self.freeze(freeze);
    }

    /// Adds a freeze: from its entry on nothing that it covers is admitted.
    fn freeze(&mut self, freeze: Freeze) {
        let freeze = self.admitting.freezes.outlasting(freeze, self.now);
        match Encoded::new(&Body::Freeze(freeze.clone())) {
            Ok(body) => {
                self.append(&body);
                self.admitting.freeze(self.admitting.freezes.with(freeze));
            }
            Err(error) => tracing::error!(%error, "a freeze could not be written as JSON"),
        }
    }

    /// The outcome of the intent `seq`: it is not in flight any more, and its picture is looked at where nobody knows.
    pub(super) fn conclude(&mut self, seq: u64, concluding: &Concluding) {
        self.append(&concluding.body);
        self.landed.push(seq.cast_signed());
        if concluding.end == End::Unknown {
            self.wait(self.now, seq, 0);
        }
    }

    /// Adds an entry; returns its number.
    pub(super) fn append(&mut self, body: &Encoded) -> u64 {
        let seq = self.length();
        let mut bytes = Vec::with_capacity(512);
        body.write_entry(&mut bytes, seq, &self.spelt);
        self.entries.push(bytes);
        seq
    }

    fn wait(&mut self, since: Timestamp, seq: u64, attempts: u32) {
        self.waits.0.push(since.as_micros());
        self.waits.1.push(seq.cast_signed());
        self.waits.2.push(attempts.cast_signed());
    }

    fn goes(&mut self, since: Timestamp, seq: u64) {
        self.gone.0.push(since.as_micros());
        self.gone.1.push(seq.cast_signed());
    }
}

/// What has to be asked for a batch: the intents that it concludes, what it resolves or postpones, and what decides
/// about its intents.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) concluded: Vec<i64>,
    pub(super) waiting: (Vec<i64>, Vec<i64>),
    pub(super) wanted: Wanted,
}

impl Asked {
    pub(super) fn for_ops(ops: &[Op]) -> Self {
        let mut asked = Self::default();
        for op in ops {
            match op {
                Op::Intend(question, ..) => asked.wanted.see(question),
                Op::Conclude(seq, ..) => asked.concluded.push(seq.cast_signed()),
                Op::Resolve(waiting, ..) | Op::Postpone(waiting, ..) => {
                    asked.waiting.0.push(waiting.since.as_micros());
                    asked.waiting.1.push(waiting.seq.cast_signed());
                }
                Op::Freeze(..) | Op::Unfreeze(..) | Op::Note(_) | Op::Read(_) | Op::Close => {}
            }
        }
        asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::entry::Outcome;

    fn conclude(seq: u64) -> Op {
        Op::Conclude(seq, Concluding::new(Outcome::unknown(RequestId::new()), None).unwrap(), None)
    }

    fn held() -> Held {
        Held { target: crate::ledger::admission::Mark::from_bytes([1; 16]), key: None, counters: Vec::new() }
    }

    #[test]
    fn an_intent_is_concluded_once_and_only_while_it_is_in_flight() {
        let known = Known { length: 9, latest_us: 5, now_us: 7, open: [(3, held())].into(), ..Known::default() };
        let mut plan = Plan::behind(known);
        let owed = plan.take(&[conclude(3), conclude(3), conclude(4)]);
        assert_eq!(owed, [Owed::Done, Owed::Late, Owed::Late]);
        assert_eq!((plan.seqs(), plan.landed, plan.waits), (vec![9], vec![3], (vec![7], vec![3], vec![0])));
    }

    #[test]
    fn time_never_runs_backwards_whatever_the_databases_clock_says() {
        let known = Known { length: 0, latest_us: 1_000_000, now_us: 7, ..Known::default() };
        let mut plan = Plan::behind(known);
        let note = || Op::Note(Encoded::new(&Body::Stop {}).unwrap());
        plan.take(&[note(), note()]);
        let times: Vec<String> = plan.entries.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
        assert!(times.iter().all(|entry| entry.contains("1970-01-01T00:00:01.000000Z")), "{times:?}");
        assert_eq!((plan.time.as_micros(), plan.length()), (1_000_000, 2));
    }
}
