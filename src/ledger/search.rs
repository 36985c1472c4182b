//! Asking the ledger: requests, newest first, each with what came of it. What a store does to find them
//! quickly is its own; what fits and how it reads stands here.

use super::OpenError;
use super::glance::{Glance, bare};
use crate::clock::Timestamp;
use serde::Serialize;
use serde_json::Value;
use std::collections::HashMap;

/// What to look for; everything that is given must fit.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)] // the members of an entry
pub struct Query {
    pub caller: Option<String>,
    pub session: Option<String>,
    /// With or without `@g.us`.
    pub group: Option<String>,
    pub request_id: Option<String>,
    /// An outcome, `open`, `refused-here` for refusals before the intent, or `dry-run`.
    pub outcome: Option<String>,
    /// `allowed`, `refused` or `dry-run`.
    pub decision: Option<String>,
    /// Only intents of which it is not known what became: see [`Row::is_open`].
    pub open: bool,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Only requests whose first entry is before this sequence number: the next page.
    pub before: Option<u64>,
    /// How many rows at the most.
    pub limit: usize,
}

/// Rows, newest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most [`Query::limit`].
    pub rows: Vec<Row>,
    /// [`Query::before`] of the next page; `None` when there is none.
    pub next: Option<u64>,
    /// How many entries no search data covers yet, so that they had to be read one by one.
    pub uncovered: u64,
}

/// One request as the ledger tells it.
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Row {
    pub seq: u64,
    pub time: String,
    pub request_id: String,
    pub caller: String,
    pub session: String,
    pub group: String,
    /// `allowed`, `refused` or `dry-run`.
    pub decision: String,
    /// `deleted`, `refused`, `not-sent`, `unknown`, `open`, `refused-here` or `dry-run`.
    pub outcome: String,
    /// What was found out later about an `unknown` one: `absent`, `present`, `indeterminate` or nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resolution: String,
    pub status: Option<u64>,
    pub code: String,
    pub rule: String,
}

impl Row {
    /// Whether it is not known what became of it: no outcome, or `unknown` and nothing found out since.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.outcome == "open"
            || (self.outcome == "unknown" && matches!(self.resolution.as_str(), "" | "indeterminate"))
    }
}

/// The members of an outcome that a row shows.
#[derive(Debug, Default, Clone)]
#[allow(missing_docs)]
pub struct Told {
    pub outcome: String,
    pub status: Option<u64>,
    pub code: String,
}

/// What came of an intent, as far as it has been read.
#[derive(Debug, Default, Clone)]
pub struct End {
    /// Its outcome.
    pub told: Option<Told>,
    /// The newest resolution.
    pub resolution: Option<String>,
}

impl End {
    /// Takes an entry in, when entries are read from the newest to the oldest.
    pub fn see_older(&mut self, entry: &Glance<'_>) {
        if &*entry.kind == "outcome" {
            let told = Told { outcome: entry.outcome.to_string(), status: entry.status, code: entry.code.to_string() };
            self.told = Some(told);
        } else if self.resolution.is_none() {
            self.resolution = Some(entry.resolution.to_string());
        }
    }

    /// What is known from here, and where it is silent, from what is older.
    #[must_use]
    pub fn over(self, older: End) -> Self {
        Self { told: older.told.or(self.told), resolution: self.resolution.or(older.resolution) }
    }
}

impl Query {
    /// Whether a request's first entry fits, as far as that one can say.
    #[must_use]
    pub fn fits_first(&self, entry: &Glance<'_>) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        same(&self.caller, &entry.caller)
            && same(&self.session, &entry.session)
            && self.group.as_deref().is_none_or(|wanted| bare(wanted) == entry.bare_group())
            && same(&self.request_id, &entry.request_id)
            && same(&self.decision, entry.decision().unwrap_or_default())
    }

    /// Whether the rest fits too.
    #[must_use]
    pub fn fits(&self, row: &Row) -> bool {
        self.outcome.as_ref().is_none_or(|wanted| *wanted == row.outcome) && (!self.open || row.is_open())
    }
}

/// A request's row, from its first entry and its end. `None` for an entry that begins no request.
#[must_use]
pub fn row(seq: u64, first: &Glance<'_>, end: End) -> Option<Row> {
    let decision = first.decision()?;
    let mut resolution = String::new();
    let told = match decision {
        "refused" => Told { outcome: "refused-here".to_owned(), status: first.status, code: first.code.to_string() },
        "dry-run" => Told { outcome: "dry-run".to_owned(), ..Told::default() },
        _ => end.told.unwrap_or_else(|| Told { outcome: "open".to_owned(), ..Told::default() }),
    };
    if told.outcome == "unknown" {
        resolution = end.resolution.unwrap_or_default();
    }
    Some(Row {
        seq,
        time: first.time.to_string(),
        request_id: first.request_id.to_string(),
        caller: first.caller.to_string(),
        session: first.session.to_string(),
        group: first.group.to_string(),
        decision: decision.to_owned(),
        outcome: told.outcome,
        resolution,
        status: told.status,
        code: told.code,
        rule: first.rule.to_string(),
    })
}

/// A page being filled by entries that come from the newest to the oldest.
pub struct Filling<'q> {
    query: &'q Query,
    /// Only first entries with these sequence numbers.
    within: std::ops::Range<u64>,
    ends: HashMap<String, End>,
    rows: Vec<Row>,
}

impl<'q> Filling<'q> {
    /// An empty page.
    #[must_use]
    pub fn new(query: &'q Query, within: std::ops::Range<u64>) -> Self {
        Self { query, within, ends: HashMap::new(), rows: Vec::new() }
    }

    /// Whether no more rows are wanted.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.rows.len() >= self.query.limit
    }

    /// What has been read of the ends of requests whose first entry has not been seen, by request id.
    #[must_use]
    pub fn ends(&self) -> &HashMap<String, End> {
        &self.ends
    }

    /// Takes the next older entry.
    ///
    /// # Errors
    /// When it is not an entry.
    pub fn see(&mut self, seq: u64, bytes: &[u8]) -> Result<(), OpenError> {
        let entry = Glance::at(seq, bytes)?;
        match &*entry.kind {
            "outcome" | "resolution" => {
                self.ends.entry(entry.request_id.to_string()).or_default().see_older(&entry);
            }
            _ if entry.decision().is_some() => {
                let end = self.ends.remove(&*entry.request_id).unwrap_or_default();
                self.judge(seq, &entry, |_| Ok(end))?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes a request's first entry; `end` is asked for what came of it where that matters.
    ///
    /// # Errors
    /// Those of `end`.
    pub fn judge(
        &mut self,
        seq: u64,
        first: &Glance<'_>,
        end: impl FnOnce(&HashMap<String, End>) -> Result<End, OpenError>,
    ) -> Result<(), OpenError> {
        if !self.is_full()
            && self.within.contains(&seq)
            && self.query.fits_first(first)
            && let Some(row) = row(seq, first, end(&self.ends)?)
            && self.query.fits(&row)
        {
            self.rows.push(row);
        }
        Ok(())
    }

    /// The page.
    #[must_use]
    pub fn done(self, uncovered: u64) -> Page {
        let next = self.rows.last().map(|row| row.seq).filter(|_| self.rows.len() == self.query.limit);
        Page { rows: self.rows, next, uncovered }
    }
}

/// Reads an entry's bytes whole.
///
/// # Errors
/// Names the entry that is not JSON.
pub fn decode(seq: u64, bytes: &[u8]) -> Result<Value, OpenError> {
    serde_json::from_slice(bytes).map_err(|e| OpenError::Damaged(format!("entry {seq} is not JSON: {e}")))
}
