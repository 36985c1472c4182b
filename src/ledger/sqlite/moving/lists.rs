//! What a ledger keeps beside its entries, read in pieces: both stores keep it in the same form.

use crate::ledger::copy::{KeptKey, Spent, Waiting};
use rusqlite::{Connection, Result};

/// The rows of one read.
const ROWS: u32 = 10_000;

/// What is frozen, as JSON.
pub(super) fn freezes(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare("SELECT freeze FROM freeze ORDER BY covers")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Some of the idempotency keys, behind the last one that was read.
pub(super) fn keys(db: &Connection, after: Option<&KeptKey>) -> Result<Vec<KeptKey>> {
    let sql =
        "SELECT key, since_us, seq, target, request_id, answered FROM idempotency WHERE key > ?1 ORDER BY key LIMIT ?2";
    let after = after.map(|key| key.0.as_slice()).unwrap_or_default();
    let mut statement = db.prepare_cached(sql)?;
    let key =
        |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?));
    statement.query_map((after, ROWS), key)?.collect()
}

/// Some of what is counted, behind the last one that was read.
pub(super) fn spent(db: &Connection, after: Option<&Spent>) -> Result<Vec<Spent>> {
    let sql = "SELECT counter, ordinal, time_us, seq FROM spent WHERE (counter, ordinal) > (?1, ?2)
        ORDER BY counter, ordinal LIMIT ?3";
    let (counter, ordinal) = after.map(|spent| (spent.0.as_slice(), spent.1)).unwrap_or_default();
    let mut statement = db.prepare_cached(sql)?;
    let spent = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    statement.query_map((counter, ordinal, ROWS), spent)?.collect()
}

/// Some of what waits for a look at its picture, behind the last one that was read.
pub(super) fn waiting(db: &Connection, after: Option<&Waiting>) -> Result<Vec<Waiting>> {
    let sql = "SELECT since_us, seq, attempts FROM unresolved WHERE (since_us, seq) > (?1, ?2)
        ORDER BY since_us, seq LIMIT ?3";
    let (since, seq) = after.map_or((i64::MIN, i64::MIN), |(since, seq, _)| (*since, *seq));
    let mut statement = db.prepare_cached(sql)?;
    statement.query_map((since, seq, ROWS), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?.collect()
}
