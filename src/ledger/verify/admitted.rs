//! What a store keeps to decide about intents, made anew from the entries: the idempotency keys of the last day.
//!
//! What entries of this ledger do not say is let pass, and counted: rows about entries that were pruned, about the log
//! before this one, and about intents of a version that did not say what was kept of them.

use super::counters::Counters;
use super::order::Members;
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::admission::{KEPT, Mark};
use crate::ledger::glance::bare;
use crate::ledger::prune::Pruned;
use std::collections::{HashMap, VecDeque};

/// A kept key, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // the columns
pub struct KeyRow {
    pub key: Mark,
    pub since_us: i64,
    pub seq: i64,
    pub target: Mark,
    pub request_id: String,
    /// Of the answer's text.
    pub answered: Option<Mark>,
}

/// One intent in a counter, as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs)] // the columns
pub struct SpentRow {
    pub counter: Mark,
    pub ordinal: i64,
    pub time_us: i64,
    pub seq: i64,
}

/// What the store keeps beside the entries to decide about intents.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tables {
    /// The kept keys.
    pub keys: Vec<KeyRow>,
    /// Since when each key is kept, where the store lists that by itself.
    pub ages: Option<Vec<(i64, Mark)>>,
    /// What budgets count.
    pub spent: Vec<SpentRow>,
    /// What is given back to a counter is given back before the next intent is counted. Otherwise with the end of the
    /// transaction: so a counter may have forgotten more of its oldest intents, which no budget looks at.
    pub in_log_order: bool,
}

/// What came before the entries that are read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Before {
    /// The first entry that is kept, and a time after all that went.
    pruned: Option<(i64, i64)>,
    /// When this log took over what is kept from the log before it, whose numbers mean nothing here.
    taken_over: Option<i64>,
}

impl Before {
    /// Whether a row may be about something that came before. The entry that says what was taken over is a log's first:
    /// it goes with the first that are pruned.
    pub(super) fn may_have(&self, seq: i64, time_us: i64) -> bool {
        let pruned = self.pruned.is_some_and(|(first, before)| (-1..first).contains(&seq) && time_us < before);
        pruned || (seq == -1 && self.taken_over.is_some_and(|time| time_us <= time))
    }

    /// Whether nothing came before.
    pub(super) fn is_nothing(&self) -> bool {
        self.pruned.is_none() && self.taken_over.is_none()
    }

    fn reaches(&self, time_us: i64) -> bool {
        self.pruned.is_some_and(|(_, before)| time_us < before) || self.taken_over.is_some_and(|time| time_us <= time)
    }
}

/// What is known of a listed key.
enum Standing {
    /// No entry speaks of it.
    Untold,
    /// As its entries say.
    Right,
    /// Its intent is of a version that did not say what was kept.
    Older,
    Wrong(String),
}

/// An intent without an outcome.
struct Open {
    seq: i64,
    key: Option<Mark>,
    counters: Vec<Mark>,
}

/// An intent that brought a key, as long as that is kept.
struct Keyed {
    time_us: i64,
    seq: i64,
    key: Mark,
    has_age: bool,
}

/// See the module. Takes the entries in, one after the other, and holds the rows against them.
pub(super) struct Admitted<'t> {
    keys: HashMap<Mark, (&'t KeyRow, Standing)>,
    /// Keys by their intents, for those intents that do not name theirs.
    by_seq: HashMap<i64, Mark>,
    twice: Option<Mark>,
    ages: Option<HashMap<(i64, Mark), bool>>,
    /// Every keyed intent of the last day, and the newest of each key, unless it gave it back.
    window: VecDeque<Keyed>,
    expected: HashMap<Mark, i64>,
    counters: Counters<'t>,
    open: HashMap<RequestId, Open>,
    before: Before,
    /// When the last intent was that does not say what was kept of it.
    untold_until: Option<i64>,
    latest: String,
}

fn micros(time: &str) -> i64 {
    Timestamp::parse(time).map_or(0, Timestamp::as_micros)
}

impl<'t> Admitted<'t> {
    /// Of a log whose beginning was pruned or not.
    pub(super) fn new(tables: &'t Tables, pruned: Option<&Pruned>) -> Self {
        let mut keys = HashMap::with_capacity(tables.keys.len());
        let twice = tables.keys.iter().find(|row| keys.insert(row.key, (*row, Standing::Untold)).is_some());
        let pruned = pruned.map(|pruned| (pruned.first.cast_signed(), micros(&pruned.before)));
        Self {
            twice: twice.map(|row| row.key),
            keys,
            by_seq: tables.keys.iter().map(|row| (row.seq, row.key)).collect(),
            ages: tables.ages.as_ref().map(|ages| ages.iter().map(|age| (*age, false)).collect()),
            window: VecDeque::new(),
            expected: HashMap::new(),
            counters: Counters::new(&tables.spent, tables.in_log_order),
            open: HashMap::new(),
            before: Before { pruned, taken_over: None },
            untold_until: None,
            latest: String::new(),
        }
    }

    /// Takes the next entry in.
    pub(super) fn see(&mut self, entry: &Members<'_>) -> Result<(), String> {
        if *self.latest != *entry.time {
            self.latest.clear();
            self.latest.push_str(&entry.time);
            self.counters.time_passes();
        }
        match &*entry.kind {
            "intent" if !entry.is_carried => return self.intent(entry),
            "outcome" if !self.open.is_empty() => {
                let open = RequestId::parse(&entry.request_id).and_then(|id| self.open.remove(&id));
                open.map_or(Ok(()), |open| self.land(&open, entry))?;
            }
            "gap" if entry.previous.is_some() => self.before.taken_over = Some(micros(&entry.time)),
            _ => {}
        }
        Ok(())
    }

    fn intent(&mut self, entry: &Members<'_>) -> Result<(), String> {
        let seq = entry.seq.cast_signed();
        let Some(budgets) = entry.budgets else { return self.older(seq, entry) };
        let key =
            (!entry.key.is_empty()).then(|| Mark::parse(&entry.key).ok_or("has a key that is none")).transpose()?;
        if key.is_none() && budgets.caller.is_none() && budgets.session.is_none() {
            return Ok(());
        }
        let (id, time_us) = (RequestId::parse(&entry.request_id).ok_or("has no request id")?, micros(&entry.time));
        if let Some(key) = key {
            self.take(key, seq, time_us, entry);
        }
        let per = [(budgets.caller, None), (budgets.session, Some(&*entry.session))];
        let counted = per.into_iter().filter_map(|(most, session)| Some((most?, session)));
        let counted = counted.map(|(most, session)| (Mark::of_counter(&entry.caller, session), most));
        let counters = counted.map(|(counter, most)| self.counters.spend(counter, most, seq, time_us)).collect();
        self.open.insert(id, Open { seq, key, counters });
        Ok(())
    }

    /// An intent that does not say what was kept of it.
    fn older(&mut self, seq: i64, entry: &Members<'_>) -> Result<(), String> {
        let time_us = micros(&entry.time);
        self.untold_until = Some(time_us);
        let counters = [None, Some(&*entry.session)].map(|session| Mark::of_counter(&entry.caller, session));
        let counters = self.counters.older(seq, time_us, &counters);
        let key = self.by_seq.get(&seq).copied();
        if let Some((row, standing)) = key.and_then(|key| self.keys.get_mut(&key)) {
            let fits = row.since_us == time_us && is_of(row, entry);
            *standing = if fits { Standing::Older } else { otherwise(seq) };
        }
        if key.is_some() || !counters.is_empty() {
            let id = RequestId::parse(&entry.request_id).ok_or("has no request id")?;
            self.open.insert(id, Open { seq, key, counters });
        }
        Ok(())
    }

    /// An intent takes its key.
    fn take(&mut self, key: Mark, seq: i64, time_us: i64, entry: &Members<'_>) {
        if let Some((row, standing)) = self.keys.get_mut(&key) {
            if row.seq < seq {
                let words = format!("a key is listed for entry {}, but entry {seq} has used it since", row.seq);
                *standing = Standing::Wrong(words);
            } else if row.seq == seq {
                let fits = row.since_us == time_us && is_of(row, entry);
                *standing = if fits { Standing::Right } else { otherwise(seq) };
            }
        }
        let has_age = self.ages.as_mut().is_none_or(|ages| {
            let age = ages.get_mut(&(time_us, key));
            age.is_some_and(|seen| {
                *seen = true;
                true
            })
        });
        self.expected.insert(key, seq);
        self.window.push_back(Keyed { time_us, seq, key, has_age });
        self.age_out(time_us);
    }

    /// Keys are kept for a day.
    fn age_out(&mut self, now_us: i64) {
        let cut = Timestamp::from_micros(now_us).before(KEPT).as_micros();
        while let Some(keyed) = self.window.pop_front_if(|keyed| keyed.time_us <= cut) {
            if self.expected.get(&keyed.key) == Some(&keyed.seq) {
                self.expected.remove(&keyed.key);
            }
        }
    }

    /// What is kept of an intent once it has its outcome.
    fn land(&mut self, open: &Open, entry: &Members<'_>) -> Result<(), String> {
        let not_sent = &*entry.outcome == "not-sent";
        if not_sent {
            open.counters.iter().for_each(|counter| self.counters.give_back(*counter, open.seq));
        }
        let Some(key) = open.key else { return Ok(()) };
        if not_sent && self.expected.get(&key) == Some(&open.seq) {
            self.expected.remove(&key);
        }
        let kept = (!entry.answer.is_empty()).then(|| Mark::parse(&entry.answer).ok_or("has an answer that is none"));
        let kept = kept.transpose()?;
        let Some((row, standing)) = self.keys.get_mut(&key).filter(|(row, _)| row.seq == open.seq) else {
            return Ok(());
        };
        if not_sent {
            *standing = Standing::Wrong(format!(
                "a key is listed for entry {}, which gave it back: nothing was sent",
                open.seq
            ));
        } else if matches!(standing, Standing::Right) && row.answered != kept {
            *standing = Standing::Wrong(format!(
                "the answer that is kept for the key of entry {} is not the one of its outcome, entry {}",
                open.seq, entry.seq
            ));
        }
        Ok(())
    }

    /// Holds the rows against the entries, all of which were taken in. Returns how many rows are about what they do not
    /// say.
    pub(super) fn compare(mut self) -> Result<u64, String> {
        self.age_out(micros(&self.latest));
        if self.twice.is_some() {
            return Err("a key is listed twice".to_owned());
        }
        for open in self.open.values() {
            let row = open.key.and_then(|key| self.keys.get(&key)).filter(|(row, _)| row.seq == open.seq);
            if row.is_some_and(|(row, _)| row.answered.is_some()) {
                return Err(format!("an answer is kept for the key of entry {}, which has no outcome", open.seq));
            }
        }
        let mut beyond = 0;
        let mut rows: Vec<_> = self.keys.values().collect();
        rows.sort_unstable_by_key(|(row, _)| row.seq);
        for (row, standing) in rows {
            match standing {
                Standing::Right => {}
                Standing::Older => beyond += 1,
                Standing::Untold if self.before.may_have(row.seq, row.since_us) => beyond += 1,
                Standing::Untold => {
                    return Err(format!("a key is listed for entry {}, which is no intent that brought it", row.seq));
                }
                Standing::Wrong(words) => return Err(words.clone()),
            }
        }
        if let Some(seq) =
            self.expected.iter().filter(|(key, _)| !self.keys.contains_key(key)).map(|(_, seq)| seq).min()
        {
            return Err(format!(
                "entry {seq} brought a key less than a day before the last entry, but it is not listed"
            ));
        }
        if let Some(keyed) = self.window.iter().find(|keyed| !keyed.has_age) {
            return Err(format!("the key of entry {} is not listed among those that will be forgotten", keyed.seq));
        }
        for (since_us, _) in self.ages.iter().flatten().filter(|(_, seen)| !**seen).map(|(age, _)| age) {
            if !self.before.reaches(*since_us) && self.untold_until.is_none_or(|until| *since_us > until) {
                let time = Timestamp::from_micros(*since_us);
                return Err(format!("a key of {time} is listed to be forgotten, but no intent brought one then"));
            }
            beyond += 1;
        }
        self.counters.compare(&self.before).map(|more| beyond + more)
    }
}

fn is_of(row: &KeyRow, entry: &Members<'_>) -> bool {
    row.request_id == *entry.request_id && row.target == Mark::of_target(&entry.session, bare(&entry.group))
}

fn otherwise(seq: i64) -> Standing {
    Standing::Wrong(format!("the key of entry {seq} is listed otherwise than that entry says it"))
}
