//! What budgets count, made anew from the entries: of each counter the newest intents, in their order.

use super::admitted::{Before, SpentRow};
use crate::ledger::admission::Mark;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

/// The newest intents of a counter, by number and time.
#[derive(Default)]
struct Newest {
    /// As they are counted in the order of the log, and the ordinal of the last one.
    rows: VecDeque<(i64, i64)>,
    last: i64,
    /// The same where what is given back is given back at the end of the transaction, which no entry tells the end of:
    /// when the time is another one at the latest.
    late: VecDeque<i64>,
}

/// See the module.
pub(super) struct Counters<'t> {
    listed: BTreeMap<Mark, Vec<&'t SpentRow>>,
    /// Rows by their intents, for those intents that do not say which counters they were added to.
    by_seq: HashMap<i64, Vec<&'t SpentRow>>,
    in_log_order: bool,
    counters: HashMap<Mark, Newest>,
    given_back: Vec<(Mark, i64)>,
    /// What such intents were added to, as far as it is listed.
    older: HashSet<(Mark, i64)>,
    has_older: bool,
    /// Whether one of them came after one that does say it: then others, which no entry tells of, may have taken places.
    is_mixed: bool,
}

impl<'t> Counters<'t> {
    pub(super) fn new(rows: &'t [SpentRow], in_log_order: bool) -> Self {
        let (mut listed, mut by_seq) = (BTreeMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for row in rows {
            listed.entry(row.counter).or_default().push(row);
            by_seq.entry(row.seq).or_default().push(row);
        }
        listed.values_mut().for_each(|rows| rows.sort_unstable());
        let (counters, older) = (HashMap::new(), HashSet::new());
        Self {
            listed,
            by_seq,
            in_log_order,
            counters,
            given_back: Vec::new(),
            older,
            has_older: false,
            is_mixed: false,
        }
    }

    /// Counts an intent; only the newest `most` are remembered.
    pub(super) fn spend(&mut self, counter: Mark, most: u32, seq: i64, time_us: i64) -> Mark {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let newest = self.counters.entry(counter).or_default();
        newest.rows.push_back((seq, time_us));
        newest.last += 1;
        let forgotten = newest.rows.len().saturating_sub(most);
        newest.rows.drain(..forgotten);
        if !self.in_log_order {
            newest.late.push_back(seq);
            let forgotten = newest.late.len().saturating_sub(most);
            newest.late.drain(..forgotten);
        }
        counter
    }

    /// Takes an intent out of a counter; those behind it move up.
    pub(super) fn give_back(&mut self, counter: Mark, seq: i64) {
        self.older.remove(&(counter, seq));
        let Some(newest) = self.counters.get_mut(&counter) else { return };
        if let Ok(at) = newest.rows.binary_search_by_key(&seq, |(seq, _)| *seq) {
            newest.rows.remove(at);
            newest.last = if newest.rows.is_empty() { 0 } else { newest.last - 1 };
        }
        if !self.in_log_order {
            self.given_back.push((counter, seq));
        }
    }

    /// The next entry has another time: it is of another transaction.
    pub(super) fn time_passes(&mut self) {
        for (counter, seq) in self.given_back.drain(..) {
            if let Some(newest) = self.counters.get_mut(&counter) {
                newest.late.retain(|late| *late != seq);
            }
        }
    }

    /// An intent that does not say what it was added to: where it is listed, it may be. Returns those counters.
    pub(super) fn older(&mut self, seq: i64, time_us: i64, may_be: &[Mark]) -> Vec<Mark> {
        self.is_mixed |= !self.counters.is_empty();
        self.has_older = true;
        let listed = self.by_seq.get(&seq).into_iter().flatten();
        let fits = listed.filter(|row| row.time_us == time_us && may_be.contains(&row.counter));
        let fits: Vec<Mark> = fits.map(|row| row.counter).collect();
        self.older.extend(fits.iter().map(|counter| (*counter, seq)));
        fits
    }

    /// Holds the rows against the entries. Returns how many are about what those do not say.
    pub(super) fn compare(mut self, before: &Before) -> Result<u64, String> {
        self.time_passes();
        let mut beyond = 0;
        for (counter, newest) in &self.counters {
            let rows = self.listed.remove(counter).unwrap_or_default();
            beyond += self.compare_one(&rows, newest, before)?;
        }
        let nothing = Newest::default();
        for rows in self.listed.values() {
            beyond += self.compare_one(rows, &nothing, before)?;
        }
        Ok(beyond)
    }

    fn compare_one(&self, rows: &[&SpentRow], newest: &Newest, before: &Before) -> Result<u64, String> {
        let is_beyond =
            |row: &SpentRow| before.may_have(row.seq, row.time_us) || self.older.contains(&(row.counter, row.seq));
        let (beyond, told): (Vec<&SpentRow>, Vec<&SpentRow>) = rows.iter().partition(|row| is_beyond(row));
        let at_least = if !self.in_log_order {
            newest.late.len()
        } else if self.is_mixed {
            0
        } else {
            newest.rows.len()
        };
        let meant = newest.rows.range(newest.rows.len().saturating_sub(told.len())..);
        for (row, meant) in told.iter().zip(meant) {
            if (row.seq, row.time_us) != *meant {
                let words =
                    format!("entry {} is listed as counted by a budget, where it is entry {}", row.seq, meant.0);
                return Err(if row.seq == meant.0 { not_as_said(row.seq) } else { words });
            }
        }
        if let Some(extra) = told.get(newest.rows.len()..).and_then(<[_]>::last) {
            return Err(format!("entry {} is listed as counted by a budget, which does not count it", extra.seq));
        }
        if told.len() < at_least {
            let missing = newest.rows.get(newest.rows.len() - at_least).map_or(0, |(seq, _)| *seq);
            return Err(format!("entry {missing} is counted by a budget, but is not listed as counted"));
        }
        for (row, next) in rows.iter().zip(rows.iter().skip(1)) {
            if next.ordinal != row.ordinal + 1 || next.seq < row.seq || next.time_us < row.time_us {
                return Err(not_as_said(next.seq));
            }
        }
        let is_whole = self.in_log_order && !self.has_older && before.is_nothing();
        match rows.last().filter(|last| is_whole && last.ordinal != newest.last) {
            Some(last) => Err(not_as_said(last.seq)),
            None => Ok(beyond.len() as u64),
        }
    }
}

fn not_as_said(seq: i64) -> String {
    format!("entry {seq} is listed as counted by a budget, but with another time or in another place than it has")
}
