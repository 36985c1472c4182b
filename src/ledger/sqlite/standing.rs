//! What the writer knows when it decides about an intent. In memory: freezes, and what is in flight. In tables: the
//! freezes again, the idempotency keys of the last day, and when the newest intents of each counter were.
//!
//! What is in memory changes with the transaction: it is settled by its commit, and taken back with it.

use super::database::not_encoded;
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::OpenError;
use crate::ledger::admission::{Answered, Decided, KEPT, Kept, Known, Mark, Question, Standing as Stands, decide};
use crate::ledger::entry::End;
use crate::ledger::freeze::{Covers, Freeze, Freezes};
use crate::ledger::verify::{KeyRow, SpentRow, Tables};
use rusqlite::{Connection, OptionalExtension, Result};
use std::collections::HashMap;

/// At most so many keys that are no longer kept go with each one that comes.
const FORGET_AT_MOST: u32 = 2;

/// Makes the tables where they are not there yet.
pub(super) fn set_up(db: &Connection) -> Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS freeze (covers TEXT PRIMARY KEY, freeze TEXT NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS idempotency (
             key BLOB PRIMARY KEY, since_us INTEGER NOT NULL, seq INTEGER NOT NULL, target BLOB NOT NULL,
             request_id TEXT NOT NULL, answered TEXT
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS idempotency_age (
             since_us INTEGER NOT NULL, key BLOB NOT NULL, PRIMARY KEY (since_us, key)
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS spent (
             counter BLOB NOT NULL, ordinal INTEGER NOT NULL, time_us INTEGER NOT NULL, seq INTEGER NOT NULL,
             PRIMARY KEY (counter, ordinal)
         ) STRICT, WITHOUT ROWID;",
    )
}

/// What is frozen, each row as it has to be spelt.
pub(super) fn freezes(db: &Connection) -> std::result::Result<Vec<Freeze>, OpenError> {
    let read = || -> Result<Vec<(String, String)>> {
        let mut statement = db.prepare("SELECT covers, freeze FROM freeze ORDER BY covers")?;
        statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
    };
    let rows = read().map_err(|e| OpenError::Damaged(format!("the freezes cannot be read: {e}")))?;
    let freeze = |(covers, text): (String, String)| {
        let freeze: Option<Freeze> = serde_json::from_str(&text).ok();
        let spelt = freeze.filter(|freeze| freeze.covers.to_string() == covers);
        spelt.filter(|freeze| serde_json::to_string(freeze).is_ok_and(|again| again == text)).ok_or_else(|| {
            OpenError::Damaged(format!(
                "the freeze that is listed of `{}` cannot be read as one",
                covers.escape_debug()
            ))
        })
    };
    rows.into_iter().map(freeze).collect()
}

/// The keys, and what budgets count, to be held against the entries.
pub(super) fn tables(db: &Connection) -> Result<Tables> {
    let mut keys = db.prepare("SELECT key, since_us, seq, target, request_id, answered FROM idempotency")?;
    let keys = keys.query_map([], |row| {
        let answered: Option<String> = row.get(5)?;
        Ok(KeyRow {
            key: Mark::from_bytes(row.get(0)?),
            since_us: row.get(1)?,
            seq: row.get(2)?,
            target: Mark::from_bytes(row.get(3)?),
            request_id: row.get(4)?,
            answered: answered.as_deref().map(Mark::of_answer),
        })
    })?;
    let mut ages = db.prepare("SELECT since_us, key FROM idempotency_age")?;
    let ages = ages.query_map([], |row| Ok((row.get(0)?, Mark::from_bytes(row.get(1)?))))?;
    let mut spent = db.prepare("SELECT counter, ordinal, time_us, seq FROM spent")?;
    let spent = spent.query_map([], |row| {
        let counter = Mark::from_bytes(row.get(0)?);
        Ok(SpentRow { counter, ordinal: row.get(1)?, time_us: row.get(2)?, seq: row.get(3)? })
    })?;
    let (keys, ages) = (keys.collect::<Result<_>>()?, Some(ages.collect::<Result<_>>()?));
    Ok(Tables { keys, ages, spent: spent.collect::<Result<_>>()?, in_log_order: true })
}

/// In a log that goes on after another one, the numbers of that one's entries mean nothing.
pub(super) fn forget_numbers(db: &Connection) -> Result<()> {
    db.execute_batch("UPDATE idempotency SET seq = -1; UPDATE spent SET seq = -1;")
}

/// How to take back what a transaction has changed in memory.
enum Undo {
    TakeOff(u64),
    Land(u64, Box<Question>),
    Freezes(Freezes),
}

/// See the module.
#[derive(Default)]
pub(super) struct Standing {
    freezes: Freezes,
    /// Intents without an outcome, by their numbers and by their targets.
    in_flight: HashMap<u64, Question>,
    targets: HashMap<Mark, u64>,
    undo: Vec<Undo>,
}

impl Standing {
    /// What an earlier process left. What it had in flight has its outcome before anything is decided.
    pub(super) fn load(db: &Connection) -> Result<Self> {
        let mut statement = db.prepare("SELECT freeze FROM freeze ORDER BY covers")?;
        let texts = statement.query_map([], |row| row.get::<_, String>(0))?;
        let read = |text: Result<String>| {
            serde_json::from_str(&text?)
                .map_err(|e| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(e)))
        };
        let freezes = texts.map(read).collect::<Result<Vec<Freeze>>>()?;
        Ok(Self { freezes: Freezes::new(freezes), ..Self::default() })
    }

    pub(super) fn freezes(&self) -> &Freezes {
        &self.freezes
    }

    /// The requests in flight that this covers.
    pub(super) fn covered(&self, covers: &Covers) -> Vec<RequestId> {
        let covered = |asked: &&Question| covers.includes(&asked.caller, &asked.session);
        self.in_flight.values().filter(covered).map(|asked| asked.request_id).collect()
    }

    /// Decides about an intent at the time that its entry would have.
    pub(super) fn decide(&self, db: &Connection, asked: &Question, now: Timestamp) -> Result<Decided> {
        let before = asked.budgets.iter().map(|budget| before(db, &asked.counter(budget), budget.max));
        let known = Known {
            freeze: self.freezes.covering(&asked.caller, &asked.session, now.min(Timestamp::now())),
            key: asked.key.map(|key| self.kept(db, &key, now)).transpose()?.flatten(),
            in_flight: self.targets.contains_key(&asked.target),
            before: before.collect::<Result<_>>()?,
        };
        Ok(decide(asked, known, now))
    }

    /// An admitted intent is in flight, counted, and its key is taken.
    pub(super) fn take_off(&mut self, db: &Connection, seq: u64, asked: &Question, now: Timestamp) -> Result<()> {
        if let Some(key) = &asked.key {
            forget(db, now.before(KEPT), FORGET_AT_MOST)?;
            keep(db, key, seq, asked, now)?;
        }
        for (counter, most) in asked.counters() {
            spend(db, &counter, most, now, seq)?;
        }
        self.targets.insert(asked.target, seq);
        self.in_flight.insert(seq, asked.clone());
        self.undo.push(Undo::TakeOff(seq));
        Ok(())
    }

    /// An intent has its outcome. One that was not sent gives back what it was counted, and its key.
    pub(super) fn land(&mut self, db: &Connection, seq: u64, end: End, answered: Option<&Answered>) -> Result<()> {
        let Some(asked) = self.in_flight.remove(&seq) else { return Ok(()) };
        self.targets.remove(&asked.target);
        self.undo.push(Undo::Land(seq, Box::new(asked.clone())));
        if let Some(key) = &asked.key {
            answer(db, key, end, answered)?;
        }
        if end == End::NotSent {
            for (counter, _) in asked.counters() {
                give_back(db, &counter, seq)?;
            }
        }
        Ok(())
    }

    /// Nothing that this covers is admitted any more.
    pub(super) fn freeze(&mut self, db: &Connection, freeze: Freeze) -> Result<()> {
        let text = serde_json::to_string(&freeze).map_err(not_encoded)?;
        let sql = "INSERT OR REPLACE INTO freeze (covers, freeze) VALUES (?1, ?2)";
        db.prepare_cached(sql)?.execute((freeze.covers.to_string(), text))?;
        let freezes = self.freezes.with(freeze);
        self.undo.push(Undo::Freezes(std::mem::replace(&mut self.freezes, freezes)));
        Ok(())
    }

    /// Takes back the freeze that covers just this. `false`: there is none.
    pub(super) fn unfreeze(&mut self, db: &Connection, covers: &Covers) -> Result<bool> {
        let gone = db.prepare_cached("DELETE FROM freeze WHERE covers = ?1")?.execute([covers.to_string()])?;
        let freezes = self.freezes.without(covers);
        self.undo.push(Undo::Freezes(std::mem::replace(&mut self.freezes, freezes)));
        Ok(gone > 0)
    }

    /// The transaction was committed.
    pub(super) fn settle(&mut self) {
        self.undo.clear();
    }

    /// Whether every intent has its outcome.
    pub(super) fn nothing_is_open(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// The transaction was rolled back.
    pub(super) fn take_back(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::TakeOff(seq) => {
                    if let Some(asked) = self.in_flight.remove(&seq) {
                        self.targets.remove(&asked.target);
                    }
                }
                Undo::Land(seq, asked) => {
                    self.targets.insert(asked.target, seq);
                    self.in_flight.insert(seq, *asked);
                }
                Undo::Freezes(freezes) => self.freezes = freezes,
            }
        }
    }

    /// A key that was used in the time for which it is kept. One without an answer whose intent is not in flight had
    /// an unknown outcome, of this process or of one before it.
    fn kept(&self, db: &Connection, key: &Mark, now: Timestamp) -> Result<Option<Kept>> {
        let sql = "SELECT seq, target, request_id, answered FROM idempotency WHERE key = ?1 AND since_us > ?2";
        let mut statement = db.prepare_cached(sql)?;
        let row = statement.query_row((key.as_bytes(), now.before(KEPT).as_micros()), |row| {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get::<_, String>(2)?, row.get::<_, Option<String>>(3)?))
        });
        let Some((seq, target, request_id, answered)) = row.optional()? else { return Ok(None) };
        let standing = match answered.and_then(|text| serde_json::from_str(&text).ok()) {
            Some(answered) => Stands::Answered(answered),
            None if self.in_flight.contains_key(&seq.cast_unsigned()) => Stands::InFlight,
            None => Stands::Unknown,
        };
        let request_id = RequestId::parse(&request_id).unwrap_or_default();
        Ok(Some(Kept { target: Mark::from_bytes(target), request_id, standing }))
    }
}

fn keep(db: &Connection, key: &Mark, seq: u64, asked: &Question, now: Timestamp) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO idempotency (key, since_us, seq, target, request_id) VALUES (?1, ?2, ?3, ?4, ?5)";
    let (id, target) = (asked.request_id.to_string(), asked.target.as_bytes());
    db.prepare_cached(sql)?.execute((key.as_bytes(), now.as_micros(), seq.cast_signed(), target, id))?;
    let sql = "INSERT OR IGNORE INTO idempotency_age (since_us, key) VALUES (?1, ?2)";
    db.prepare_cached(sql)?.execute((now.as_micros(), key.as_bytes())).map(drop)
}

/// Forgets some of the keys that were used until then, the oldest first.
pub(super) fn forget(db: &Connection, until: Timestamp, at_most: u32) -> Result<()> {
    let sql = "SELECT since_us, key FROM idempotency_age WHERE since_us <= ?1 ORDER BY since_us LIMIT ?2";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement
        .query_map((until.as_micros(), at_most), |row| Ok((row.get::<_, i64>(0)?, row.get::<_, [u8; 16]>(1)?)))?;
    for row in rows.collect::<Result<Vec<_>>>()? {
        // A key that was used again since has another time.
        db.prepare_cached("DELETE FROM idempotency WHERE since_us = ?1 AND key = ?2")?.execute(row)?;
        db.prepare_cached("DELETE FROM idempotency_age WHERE since_us = ?1 AND key = ?2")?.execute(row)?;
    }
    Ok(())
}

/// What a key keeps: the answer; that nobody knows; or nothing, where nothing was sent.
fn answer(db: &Connection, key: &Mark, end: End, answered: Option<&Answered>) -> Result<()> {
    let answered = match end {
        End::NotSent => {
            let mut statement = db.prepare_cached("DELETE FROM idempotency WHERE key = ?1")?;
            return statement.execute([key.as_bytes()]).map(drop);
        }
        End::Unknown => None,
        End::Deleted | End::Refused => answered.map(serde_json::to_string).transpose().map_err(not_encoded)?,
    };
    let mut statement = db.prepare_cached("UPDATE idempotency SET answered = ?2 WHERE key = ?1")?;
    statement.execute((key.as_bytes(), answered)).map(drop)
}

/// The newest ordinal of a counter; they begin at 1.
fn newest(db: &Connection, counter: &Mark) -> Result<i64> {
    let mut statement = db.prepare_cached("SELECT max(ordinal) FROM spent WHERE counter = ?1")?;
    statement.query_row([counter.as_bytes()], |row| Ok(row.get::<_, Option<i64>>(0)?.unwrap_or(0)))
}

/// When the intent was that stands `max` before the next one.
fn before(db: &Connection, counter: &Mark, max: u32) -> Result<Option<Timestamp>> {
    let ordinal = newest(db, counter)? + 1 - i64::from(max);
    let mut statement = db.prepare_cached("SELECT time_us FROM spent WHERE counter = ?1 AND ordinal = ?2")?;
    let time = statement.query_row((counter.as_bytes(), ordinal), |row| row.get(0)).optional()?;
    Ok(time.map(Timestamp::from_micros))
}

/// Counts an intent, and forgets those that stand further back than any budget looks.
fn spend(db: &Connection, counter: &Mark, most: u32, now: Timestamp, seq: u64) -> Result<()> {
    let ordinal = newest(db, counter)? + 1;
    let sql = "INSERT INTO spent (counter, ordinal, time_us, seq) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute((counter.as_bytes(), ordinal, now.as_micros(), seq.cast_signed()))?;
    let mut statement = db.prepare_cached("DELETE FROM spent WHERE counter = ?1 AND ordinal <= ?2")?;
    statement.execute((counter.as_bytes(), ordinal - i64::from(most))).map(drop)
}

/// Takes an intent out of a counter; those behind it move up.
fn give_back(db: &Connection, counter: &Mark, seq: u64) -> Result<()> {
    let sql = "SELECT ordinal FROM spent WHERE counter = ?1 AND seq = ?2 ORDER BY ordinal DESC LIMIT 1";
    let found = db.prepare_cached(sql)?.query_row((counter.as_bytes(), seq.cast_signed()), |row| row.get::<_, i64>(0));
    let Some(ordinal) = found.optional()? else { return Ok(()) };
    let last = newest(db, counter)?;
    db.prepare_cached("DELETE FROM spent WHERE counter = ?1 AND ordinal = ?2")?
        .execute((counter.as_bytes(), ordinal))?;
    let mut move_up = db.prepare_cached("UPDATE spent SET ordinal = ?2 - 1 WHERE counter = ?1 AND ordinal = ?2")?;
    for behind in ordinal + 1..=last {
        move_up.execute((counter.as_bytes(), behind))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
