//! The SQL of pruning. A row is made with the entry that says from where on the log is kept, and leads to it: the row
//! alone is believed nowhere. A later row takes the place of an earlier one once it is signed.

use super::batch::Batch;
use super::database::{self, BUSY};
use super::standing;
use crate::clock::Timestamp;
use crate::ledger::OpenError;
use crate::ledger::entry::Encoded;
use crate::ledger::prune::{Edge, Pruned};
use crate::ledger::verify::misfit;
use rusqlite::{Connection, OptionalExtension, Result as Sql};
use std::time::Duration;

/// The entries of one transaction: deletions of pictures wait for it no longer than for some commits.
const DELETED_AT_MOST: i64 = 1_024;

/// The same for keys.
const FORGOTTEN_AT_MOST: u32 = 256;

/// How far a prune has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Its entry is durable, and perhaps not signed yet: nothing has gone.
    Recorded,
    /// Its entry is signed: the log begins there, whatever rows are left.
    Begun,
    /// No byte is left.
    Ended,
}

impl State {
    fn number(self) -> i64 {
        match self {
            State::Recorded => 0,
            State::Begun => 1,
            State::Ended => 2,
        }
    }
}

/// What the writer is asked to do in a transaction.
pub(super) enum Step {
    /// The entry, and its row: if nothing before its edge must stay.
    Record { body: Encoded, edge: Edge },
    /// From now on the log begins there.
    Begin { seq: u64 },
    /// Some of the idempotency keys that were used until then.
    Forget { until: Timestamp },
    /// Some of the entries before `first`.
    Delete { first: u64 },
    /// Nothing is left to do.
    End { seq: u64 },
}

/// A row: its entry, where the log begins, and the edge of the tree there.
pub(super) struct Row {
    pub(super) seq: u64,
    pub(super) state: State,
    pub(super) edge: Edge,
}

impl Row {
    /// What its entry says.
    pub(super) fn pruned(&self, db: &Connection) -> Result<Pruned, OpenError> {
        let seq = self.seq;
        let bytes = database::entry(db, seq)?;
        let bytes = bytes.ok_or_else(|| damaged(&format!("entry {seq}, which is to say so, is missing")))?;
        Pruned::read(seq, &bytes)
    }
}

fn damaged(what: &dyn std::fmt::Display) -> OpenError {
    OpenError::Damaged(format!("where the log begins cannot be read: {what}"))
}

pub(super) fn set_up(db: &Connection) -> Sql<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS pruned (
             seq INTEGER PRIMARY KEY, first INTEGER NOT NULL, state INTEGER NOT NULL, edge BLOB NOT NULL
         ) STRICT;",
    )
}

/// The rows, newest first; none in a ledger of a version that could not prune.
fn rows(db: &Connection) -> Sql<Vec<Row>> {
    let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'pruned'";
    if db.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(Vec::new());
    }
    let mut statement = db.prepare_cached("SELECT seq, first, state, edge FROM pruned ORDER BY seq DESC")?;
    let rows = statement.query_map([], |row| {
        let state = match row.get::<_, i64>(2)? {
            0 => State::Recorded,
            1 => State::Begun,
            _ => State::Ended,
        };
        let first = row.get::<_, i64>(1)?.cast_unsigned();
        Ok(Row { seq: row.get::<_, i64>(0)?.cast_unsigned(), state, edge: Edge::new(first, row.get(3)?) })
    })?;
    rows.collect()
}

/// Where the log begins. `None`: at 0.
pub(super) fn beginning(db: &Connection) -> Result<Option<(Pruned, Edge)>, OpenError> {
    let rows = rows(db).map_err(|e| damaged(&e))?;
    let Some(row) = rows.into_iter().find(|row| row.state != State::Recorded) else { return Ok(None) };
    let pruned = row.pruned(db)?;
    if pruned.first != row.edge.size() {
        return Err(damaged(&format!("entry {} says {}, and the row {}", row.seq, pruned.first, row.edge.size())));
    }
    Ok(Some((pruned, row.edge)))
}

/// What does not fit where the log begins, see [`misfit`].
pub(super) fn check(db: &Connection) -> Result<Option<String>, OpenError> {
    let sql = "SELECT min(seq) FROM entry";
    let lowest = db.query_row(sql, [], |row| row.get::<_, Option<i64>>(0)).map_err(|e| damaged(&e))?;
    Ok(misfit(beginning(db)?.as_ref(), lowest, pending(db)?.is_some()))
}

/// The number of the first entry.
pub(super) fn first(db: &Connection) -> Result<u64, OpenError> {
    Ok(beginning(db)?.map_or(0, |(pruned, _)| pruned.first))
}

/// The prune that is not at its end.
pub(super) fn pending(db: &Connection) -> Result<Option<Row>, OpenError> {
    let rows = rows(db).map_err(|e| damaged(&e))?;
    Ok(rows.into_iter().find(|row| row.state != State::Ended))
}

/// The first entry whose row is still there.
pub(super) fn lowest(db: &Connection) -> Sql<u64> {
    let lowest = db.query_row("SELECT min(seq) FROM entry", [], |row| row.get::<_, Option<i64>>(0))?;
    Ok(lowest.unwrap_or(0).cast_unsigned())
}

/// Whether there are idempotency keys that were used until then.
pub(super) fn has_keys(db: &Connection, until: Timestamp) -> Sql<bool> {
    let sql = "SELECT EXISTS (SELECT 1 FROM idempotency_age WHERE since_us <= ?1)";
    db.query_row(sql, [until.as_micros()], |row| row.get(0))
}

/// What among the entries before `first` must stay, in words.
pub(super) fn kept_back(db: &Connection, first: u64) -> Sql<Option<String>> {
    let smallest = |sql: &str| -> Sql<Option<i64>> {
        db.prepare_cached(sql)?.query_row([first.cast_signed()], |row| row.get(0)).optional().map(Option::flatten)
    };
    if let Some(seq) = smallest("SELECT min(seq) FROM in_flight WHERE seq < ?1")? {
        return Ok(Some(format!(
            "entry {seq} is an intent without an outcome: it stays until it has one, and everything after it"
        )));
    }
    let waiting = smallest("SELECT min(seq) FROM unresolved WHERE seq < ?1")?;
    Ok(waiting.map(|seq| {
        format!(
            "entry {seq} is an intent whose outcome is unknown, and its picture has not been looked at: it stays until it \
             has a resolution, and everything after it; [resolver] makes one"
        )
    }))
}

impl Batch<'_> {
    /// Does a step.
    pub(super) fn prune(&mut self, step: &Step) -> Sql<()> {
        match step {
            Step::Record { body, edge } => {
                let first = edge.size();
                if kept_back(self.db, first)?.is_some() {
                    return Ok(());
                }
                let (seq, _) = self.append(body)?;
                let mut statement = self.db.prepare_cached("INSERT INTO pruned VALUES (?1, ?2, ?3, ?4)")?;
                let state = State::Recorded.number();
                statement.execute((seq.cast_signed(), first.cast_signed(), state, edge.bytes())).map(drop)
            }
            Step::Begin { seq } => {
                self.db.prepare_cached("DELETE FROM pruned WHERE seq < ?1")?.execute([seq.cast_signed()])?;
                advance(self.db, *seq, State::Begun)
            }
            Step::Forget { until } => standing::forget(self.db, *until, FORGOTTEN_AT_MOST),
            Step::Delete { first } => {
                let sql = "DELETE FROM entry WHERE seq < (SELECT min(?1, min(seq) + ?2) FROM entry)";
                self.db.prepare_cached(sql)?.execute((first.cast_signed(), DELETED_AT_MOST)).map(drop)
            }
            Step::End { seq } => advance(self.db, *seq, State::Ended),
        }
    }
}

fn advance(db: &Connection, seq: u64, state: State) -> Sql<()> {
    let mut statement = db.prepare_cached("UPDATE pruned SET state = ?2 WHERE seq = ?1")?;
    statement.execute((seq.cast_signed(), state.number())).map(drop)
}

/// Copies the write-ahead log into the database and cuts it off at 0 bytes: deleted pages are zeroed in both then.
/// `false`: a reader keeps it. Waits for nobody: it would hold up the commits.
pub(super) fn empty(db: &Connection, patience: Duration) -> Sql<bool> {
    db.busy_timeout(Duration::ZERO)?;
    let emptied = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
    db.busy_timeout(patience)?;
    emptied.map(|busy| busy == 0)
}

/// Empties the write-ahead log between two transactions. `false`: a reader keeps it, or it failed; it is tried again.
pub(super) fn emptied(db: &Connection) -> bool {
    let emptied = empty(db, BUSY);
    emptied.inspect_err(|error| tracing::error!(%error, "the write-ahead log was not emptied")).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_no_outcome_or_no_resolution_keeps_everything_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let db = database::open_to_write(folder.path()).unwrap();
        let because = |first| kept_back(&db, first).unwrap();
        assert_eq!(because(512), None);
        db.execute("INSERT INTO unresolved VALUES (1, 300, 0)", []).unwrap();
        assert!(because(512).is_some_and(|words| words.contains("entry 300 is an intent whose outcome is unknown")));
        assert_eq!(because(256), None, "it is not among them");
        db.execute("INSERT INTO in_flight VALUES (400, 'x')", []).unwrap();
        assert!(because(512).is_some_and(|words| words.contains("entry 400 is an intent without an outcome")));
    }
}
