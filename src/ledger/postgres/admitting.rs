//! What decides about an intent, as the locked database said it: freezes, targets in flight, keys and counters. It
//! changes as the batch goes on, and so does what has to be written for it. Pure.
//!
//! What the batch itself gives back to a counter counts from the next batch on: who waits for that answer cannot have
//! asked again yet.

use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::admission::{Answered, Decided, KEPT, Kept, Known, Mark, Question, Standing, decide};
use crate::ledger::entry::End;
use crate::ledger::freeze::Freezes;
use std::collections::{HashMap, HashSet};

/// An intent in flight: what it holds on to.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) target: Mark,
    pub(super) key: Option<Mark>,
    pub(super) counters: Vec<Mark>,
}

/// A kept key, the intent that took it, and since when.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) since_us: i64,
    pub(super) seq: u64,
    pub(super) kept: Kept,
}

/// The newest ordinal of a counter, and the times of those that a budget may look at.
#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) newest: i64,
    pub(super) times_us: HashMap<i64, i64>,
}

/// What the database said, and what this batch has made of it.
#[derive(Debug, Default)]
pub(super) struct Admitting {
    pub(super) freezes: Freezes,
    pub(super) targets: HashSet<Mark>,
    pub(super) keys: HashMap<Mark, Key>,
    pub(super) counters: HashMap<Mark, Counter>,
    pub(super) rows: Rows,
}

/// Marks as their bytes, a row each.
type Marks = Vec<Vec<u8>>;

type Off = (Vec<i64>, Vec<String>, Marks, Vec<Option<Vec<u8>>>, Marks);

/// What is to be written, column by column.
#[derive(Debug, Default)]
pub(super) struct Rows {
    /// Numbers, request ids, targets, keys and counters of intents that are in flight from now on.
    pub(super) off: Off,
    /// Keys that are kept from now on, since when, by which intent, for what, by which request.
    pub(super) kept: (Marks, Vec<i64>, Vec<i64>, Marks, Vec<String>),
    /// Keys whose intent was answered, by whom and how; and keys that are free again.
    pub(super) answered: (Marks, Vec<i64>, Vec<String>),
    pub(super) freed: (Marks, Vec<i64>),
    /// What is counted, and up to which ordinal a counter is forgotten.
    pub(super) spent: (Marks, Vec<i64>, Vec<i64>, Vec<i64>),
    pub(super) forgotten: (Marks, Vec<i64>),
    /// What is given back: counter and intent.
    pub(super) given_back: (Marks, Vec<i64>),
    /// The freezes are others than before.
    pub(super) freezes: Option<Freezes>,
}

fn bytes(mark: &Mark) -> Vec<u8> {
    mark.as_bytes().to_vec()
}

/// Marks one behind the other, as a row of `in_flight` has them.
pub(super) fn marks(bytes: &[u8]) -> Vec<Mark> {
    bytes.chunks(16).filter_map(|mark| mark.try_into().ok().map(Mark::from_bytes)).collect()
}

impl Admitting {
    /// Decides about an intent at the time that its entry would have; freezes end by `clock`.
    pub(super) fn decide(&self, asked: &Question, now: Timestamp, clock: Timestamp) -> Decided {
        let before = asked.budgets.iter().map(|budget| {
            let counter = self.counters.get(&asked.counter(budget))?;
            let ordinal = counter.newest + 1 - i64::from(budget.max);
            counter.times_us.get(&ordinal).copied().map(Timestamp::from_micros)
        });
        let kept = asked.key.and_then(|key| self.keys.get(&key));
        let kept = kept.filter(|key| key.since_us > now.before(KEPT).as_micros());
        let known = Known {
            freeze: self.freezes.covering(&asked.caller, &asked.session, clock),
            key: kept.map(|key| key.kept.clone()),
            in_flight: self.targets.contains(&asked.target),
            before: before.collect(),
        };
        decide(asked, known, now)
    }

    /// An admitted intent is in flight, counted, and its key is taken.
    pub(super) fn take_off(&mut self, seq: u64, asked: &Question, now: Timestamp) {
        let (number, id) = (seq.cast_signed(), asked.request_id.to_string());
        self.targets.insert(asked.target);
        if let Some(key) = asked.key {
            let kept = Kept { target: asked.target, request_id: asked.request_id, standing: Standing::InFlight };
            self.keys.insert(key, Key { since_us: now.as_micros(), seq, kept });
            let (keys, since, seqs, targets, ids) = &mut self.rows.kept;
            keys.push(bytes(&key));
            since.push(now.as_micros());
            seqs.push(number);
            targets.push(bytes(&asked.target));
            ids.push(id.clone());
        }
        let mut counters = Vec::new();
        for (mark, most) in asked.counters() {
            let counter = self.counters.entry(mark).or_default();
            counter.newest += 1;
            counter.times_us.insert(counter.newest, now.as_micros());
            let (marks, ordinals, times, seqs) = &mut self.rows.spent;
            marks.push(bytes(&mark));
            ordinals.push(counter.newest);
            times.push(now.as_micros());
            seqs.push(number);
            self.rows.forgotten.0.push(bytes(&mark));
            self.rows.forgotten.1.push(counter.newest - i64::from(most));
            counters.extend_from_slice(mark.as_bytes());
        }
        let (seqs, ids, targets, keys, counted) = &mut self.rows.off;
        seqs.push(number);
        ids.push(id);
        targets.push(bytes(&asked.target));
        keys.push(asked.key.as_ref().map(bytes));
        counted.push(counters);
    }

    /// An intent has its outcome. One that was not sent gives back what it was counted, and its key.
    pub(super) fn land(&mut self, seq: u64, held: &Held, end: End, answered: Option<&Answered>) {
        self.targets.remove(&held.target);
        let number = seq.cast_signed();
        if end == End::NotSent {
            for counter in &held.counters {
                self.rows.given_back.0.push(bytes(counter));
                self.rows.given_back.1.push(number);
            }
        }
        let Some(key) = held.key else { return };
        let text = answered.and_then(|answered| serde_json::to_string(answered).ok());
        let standing = match (end, answered, text) {
            (End::NotSent, ..) => {
                self.rows.freed.0.push(bytes(&key));
                self.rows.freed.1.push(number);
                self.keys.remove(&key);
                return;
            }
            (End::Deleted | End::Refused, Some(answered), Some(text)) => {
                self.rows.answered.0.push(bytes(&key));
                self.rows.answered.1.push(number);
                self.rows.answered.2.push(text);
                Standing::Answered(answered.clone())
            }
            (End::Deleted | End::Refused | End::Unknown, ..) => Standing::Unknown,
        };
        if let Some(known) = self.keys.get_mut(&key).filter(|known| known.seq == seq) {
            known.kept.standing = standing;
        }
    }

    /// The freezes are these from now on.
    pub(super) fn freeze(&mut self, freezes: Freezes) {
        self.rows.freezes = Some(freezes.clone());
        self.freezes = freezes;
    }
}

/// A key's standing, from its row: one without an answer whose intent is not in flight had an unknown outcome.
pub(super) fn standing(answered: Option<&str>, in_flight: bool) -> Standing {
    match answered.and_then(|text| serde_json::from_str(text).ok()) {
        Some(answered) => Standing::Answered(answered),
        None if in_flight => Standing::InFlight,
        None => Standing::Unknown,
    }
}

/// What has to be asked to decide about some intents.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) targets: Vec<Vec<u8>>,
    pub(super) keys: Vec<Vec<u8>>,
    /// Counters, and how far back a budget looks in them.
    pub(super) counters: (Marks, Vec<i64>),
    /// How many intents there are: so much further the last of them may look.
    pub(super) intents: i64,
}

impl Wanted {
    pub(super) fn see(&mut self, asked: &Question) {
        self.intents += 1;
        self.targets.push(bytes(&asked.target));
        self.keys.extend(asked.key.as_ref().map(bytes));
        for budget in asked.budgets.iter() {
            self.counters.0.push(bytes(&asked.counter(budget)));
            self.counters.1.push(i64::from(budget.max));
        }
    }
}

/// A request id as it was stored; it was one.
pub(super) fn request_id(text: &str) -> RequestId {
    RequestId::parse(text).unwrap_or_default()
}
