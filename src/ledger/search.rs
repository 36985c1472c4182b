//! Asking the ledger: requests, newest first, each with what came of it.

use super::{OpenError, READ_AT_MOST, Reader};
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
    pub group: Option<String>,
    pub request_id: Option<String>,
    /// An outcome, `refused-here` for refusals before the intent, or `dry-run`.
    pub outcome: Option<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
    /// Only entries before this sequence number: the next page.
    pub before: Option<u64>,
    /// How many rows at the most.
    pub limit: usize,
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
    /// `deleted`, `refused`, `not-sent`, `unknown`, `open`, `refused-here` or `dry-run`.
    pub outcome: String,
    pub status: Option<u64>,
    pub code: String,
    pub rule: String,
    /// What was seen of the picture after `unknown`: `absent`, `present` or `indeterminate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resolution: Option<String>,
}

fn text(entry: &Value, member: &str) -> String {
    entry.get(member).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// What was read of requests whose intents are still to come, reading backwards.
#[derive(Default)]
struct Later {
    outcomes: HashMap<String, Value>,
    resolutions: HashMap<String, String>,
}

fn row(seq: u64, entry: &Value, later: &mut Later) -> Option<Row> {
    let request_id = text(entry, "request_id");
    let mut resolution = None;
    let (outcome, told) = match entry.get("kind").and_then(Value::as_str)? {
        "resolution" => {
            later.resolutions.insert(request_id, text(entry, "resolution"));
            return None;
        }
        "intent" => match later.outcomes.remove(&request_id) {
            Some(end) => {
                resolution = later.resolutions.remove(&request_id);
                (text(&end, "outcome"), end)
            }
            None => ("open".to_owned(), Value::Null),
        },
        "refusal" => ("refused-here".to_owned(), entry.clone()),
        "dry-run" => ("dry-run".to_owned(), Value::Null),
        "outcome" => {
            later.outcomes.insert(request_id, entry.clone());
            return None;
        }
        _ => return None,
    };
    Some(Row {
        seq,
        time: text(entry, "time"),
        request_id,
        caller: text(entry, "caller"),
        session: text(entry, "session"),
        group: text(entry, "group"),
        outcome,
        status: told.get("status").and_then(Value::as_u64),
        code: text(&told, "code"),
        rule: text(entry, "rule"),
        resolution,
    })
}

impl Query {
    fn fits(&self, row: &Row) -> bool {
        let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
        let bare = |group: &str| group.strip_suffix("@g.us").unwrap_or(group).to_owned();
        let time = Timestamp::parse(&row.time);
        same(&self.caller, &row.caller)
            && same(&self.session, &row.session)
            && same(&self.group.as_deref().map(bare), &bare(&row.group))
            && same(&self.request_id, &row.request_id)
            && same(&self.outcome, &row.outcome)
            && self.since.is_none_or(|since| time >= Some(since))
            && self.until.is_none_or(|until| time < Some(until))
    }

    /// Walks back from the newest entry until the page is full or `since` is passed.
    ///
    /// # Errors
    /// When the ledger cannot be read, or holds something that is not an entry.
    pub fn run(&self, ledger: &dyn Reader) -> Result<Vec<Row>, OpenError> {
        let mut rows = Vec::new();
        let mut later = Later::default();
        let mut end = ledger.length()?;
        while end > 0 && rows.len() < self.limit {
            let start = end.saturating_sub(READ_AT_MOST);
            for (seq, bytes) in ledger.read(start, end)?.into_iter().rev() {
                let entry = decode(seq, &bytes)?;
                let Some(row) = row(seq, &entry, &mut later) else { continue };
                if self.since.is_some_and(|since| Timestamp::parse(&row.time) < Some(since)) {
                    return Ok(rows);
                }
                if self.before.is_none_or(|before| seq < before) && self.fits(&row) && rows.len() < self.limit {
                    rows.push(row);
                }
            }
            end = start;
        }
        Ok(rows)
    }
}

/// Reads an entry's bytes.
///
/// # Errors
/// Names the entry that is not JSON.
pub fn decode(seq: u64, bytes: &[u8]) -> Result<Value, OpenError> {
    serde_json::from_slice(bytes).map_err(|e| OpenError::Damaged(format!("entry {seq} is not JSON: {e}")))
}

/// All entries of one request, ascending.
///
/// # Errors
/// As [`Query::run`].
pub fn entries_of(ledger: &dyn Reader, request_id: &str) -> Result<Vec<Value>, OpenError> {
    let mut found = Vec::new();
    let length = ledger.length()?;
    let mut from = 0;
    while from < length {
        for (seq, bytes) in ledger.read(from, length)? {
            let entry = decode(seq, &bytes)?;
            if entry.get("request_id").and_then(Value::as_str) == Some(request_id) {
                found.push(entry);
            }
        }
        from += READ_AT_MOST;
    }
    Ok(found)
}
