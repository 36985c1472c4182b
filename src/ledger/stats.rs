//! Counting requests: how many of which end, per caller and day.

use super::glance::Glance;
use crate::clock::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};

const DAY_MICROS: i64 = 86_400_000_000;

/// The days to count, whole ones in UTC: each that the span touches.
#[derive(Debug, Default, Clone, Copy)]
#[allow(missing_docs)]
pub struct Span {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Span {
    /// The first and the last day, numbered from 1970-01-01.
    #[must_use]
    pub fn days(&self) -> (i64, i64) {
        let day = |time: Timestamp, earlier: i64| (time.as_micros() - earlier).div_euclid(DAY_MICROS);
        (self.since.map_or(i64::MIN, |time| day(time, 0)), self.until.map_or(i64::MAX, |time| day(time, 1)))
    }
}

/// What a caller's requests of one day came to. An intent counts on the day of its entry, whatever day its
/// outcome came on; what was only counted (`refusals-suppressed`) counts on the day of that entry.
#[derive(Debug, Clone, Default, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs)] // the outcomes' own words
pub struct Tally {
    pub day: String,
    /// Empty where no caller was known.
    pub caller: String,
    pub deleted: u64,
    pub refused: u64,
    pub not_sent: u64,
    pub unknown: u64,
    pub open: u64,
    pub refused_here: u64,
    pub dry_run: u64,
}

/// An intent that has no outcome so far.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Open {
    pub seq: u64,
    pub caller: String,
    pub day: i64,
}

/// Counts an entry, ascending. Intents wait in `open` by request id; the one that the entry ends is returned.
pub fn count(
    seq: u64,
    entry: &Glance<'_>,
    open: &mut HashMap<String, Open>,
    mut add: impl FnMut(i64, &str, &str, u64),
) -> Option<Open> {
    let day = || Timestamp::parse(&entry.time).map_or(0, |time| time.as_micros().div_euclid(DAY_MICROS));
    match &*entry.kind {
        "intent" => {
            open.insert(entry.request_id.to_string(), Open { seq, caller: entry.caller.to_string(), day: day() });
        }
        "outcome" => {
            let ended = open.remove(&*entry.request_id)?;
            add(ended.day, &ended.caller, &entry.outcome, 1);
            return Some(ended);
        }
        "refusal" => add(day(), &entry.caller, "refused-here", 1),
        "dry-run" => add(day(), &entry.caller, "dry-run", 1),
        "refusals-suppressed" => {
            for (code, count) in &entry.codes {
                add(day(), &entry.caller, if &**code == "dry-run" { "dry-run" } else { "refused-here" }, *count);
            }
        }
        _ => {}
    }
    None
}

/// Tallies being added up.
#[derive(Debug, Default)]
pub struct Sum(BTreeMap<(i64, String), Tally>);

impl Sum {
    /// Adds to one of them. A word that is none of [`Tally`]'s is not counted.
    pub fn add(&mut self, day: i64, caller: &str, outcome: &str, count: u64) {
        let tally = self.0.entry((day, caller.to_owned())).or_default();
        let number = match outcome {
            "deleted" => &mut tally.deleted,
            "refused" => &mut tally.refused,
            "not-sent" => &mut tally.not_sent,
            "unknown" => &mut tally.unknown,
            "open" => &mut tally.open,
            "refused-here" => &mut tally.refused_here,
            "dry-run" => &mut tally.dry_run,
            _ => return,
        };
        *number += count;
    }

    /// The tallies of some days, ascending by day and caller.
    #[must_use]
    pub fn of(self, (first, last): (i64, i64)) -> Vec<Tally> {
        let within = self.0.into_iter().filter(|((day, _), _)| (first..=last).contains(day));
        within
            .map(|((day, caller), tally)| {
                let date = Timestamp::from_micros(day.saturating_mul(DAY_MICROS)).to_string();
                Tally { day: date.get(..10).unwrap_or(&date).to_owned(), caller, ..tally }
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_covers_each_day_that_it_touches() {
        let at = |text| Timestamp::parse(text);
        let days = |since, until| Span { since: at(since), until: at(until) }.days();
        let (first, last) = days("2026-11-24T23:59:59Z", "2026-11-25T00:00:00.000001Z");
        assert_eq!(last, first + 1);
        assert_eq!(days("2026-11-24", "2026-11-25"), (first, first));
    }
}
