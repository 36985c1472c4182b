//! All SQL of the embedded store.
//!
//! The path of a commit touches ordered keys alone: `entry` grows at its end, `in_flight` holds the few
//! intents without an outcome under their sequence numbers.

use crate::ledger::OpenError;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi};
use std::path::Path;

const FILE: &str = "ledger.db";
/// 3.51.3 is the first without the WAL-reset bug that could lose commits.
const OLDEST: i32 = 3_051_003;
/// `PRAGMA application_id` of our files: "wgl1".
const APPLICATION: i32 = 0x7767_6c31;

fn unusable(folder: &Path, what: &str, error: &rusqlite::Error) -> OpenError {
    OpenError::Unusable(format!("the ledger in {} {what}: {error}", folder.display()))
}

/// Opens the database for writing, creates it where it is not, checks that every commit will be synced,
/// and copies the write-ahead log into it before anything in it is believed.
pub(super) fn open_to_write(folder: &Path) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < OLDEST {
        return Err(OpenError::Unusable(format!(
            "SQLite {} is too old; 3.51.3 or newer is needed",
            rusqlite::version()
        )));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<(Connection, String, i64, i32)> {
        let db = Connection::open_with_flags(folder.join(FILE), flags)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        db.execute_batch("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;")?;
        let synchronous: i64 = db.query_row("PRAGMA synchronous", [], |row| row.get(0))?;
        Ok((db, mode, synchronous, application))
    };
    let (db, mode, synchronous, application) = open().map_err(|e| unusable(folder, "cannot be opened", &e))?;
    if mode != "wal" || synchronous != 2 {
        return Err(OpenError::Unusable(format!(
            "SQLite gave journal mode {mode} and synchronous {synchronous}; wal and 2 are needed"
        )));
    }
    if application != 0 && application != APPLICATION {
        return Err(OpenError::Damaged(format!("{} is another program's database", folder.join(FILE).display())));
    }
    db.execute_batch(&format!(
        "PRAGMA application_id = {APPLICATION};
         CREATE TABLE IF NOT EXISTS entry (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS in_flight (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL) STRICT;
         PRAGMA wal_checkpoint(TRUNCATE);"
    ))
    .and_then(|()| super::unresolved::set_up(&db))
    .map_err(|e| unusable(folder, "cannot be set up", &e))?;
    Ok(db)
}

pub(super) fn open_to_read(folder: &Path) -> Result<Connection, OpenError> {
    let file = folder.join(FILE);
    if !file.exists() {
        return Err(OpenError::Unusable(format!("there is no ledger in {}; `serve` makes one", folder.display())));
    }
    let open = || -> rusqlite::Result<Connection> {
        let db =
            Connection::open_with_flags(&file, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(db)
    };
    open().map_err(|e| unusable(folder, "cannot be read", &e))
}

/// The number of entries. They are numbered from 0 without a gap, so the last number says it.
pub(super) fn length(db: &Connection) -> Result<u64, OpenError> {
    let last: rusqlite::Result<Option<i64>> = db.query_row("SELECT max(seq) FROM entry", [], |row| row.get(0));
    last.map(|last| last.map_or(0, |last| u64::try_from(last).unwrap_or(0) + 1))
        .map_err(|e| OpenError::Damaged(format!("the ledger cannot be read: {e}")))
}

pub(super) fn read(db: &Connection, from: u64, until: u64) -> Result<Vec<(u64, Vec<u8>)>, OpenError> {
    let bound = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let rows = || -> rusqlite::Result<Vec<(u64, Vec<u8>)>> {
        let mut statement =
            db.prepare_cached("SELECT seq, bytes FROM entry WHERE seq >= ?1 AND seq < ?2 ORDER BY seq")?;
        let rows = statement.query_map([bound(from), bound(until)], |row| {
            Ok((u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0), row.get(1)?))
        })?;
        rows.collect()
    };
    rows().map_err(|e| OpenError::Damaged(format!("the ledger cannot be read: {e}")))
}

pub(super) fn last(db: &Connection) -> rusqlite::Result<Option<Vec<u8>>> {
    db.query_row("SELECT bytes FROM entry ORDER BY seq DESC LIMIT 1", [], |row| row.get(0)).optional()
}

/// Intents without an outcome: sequence number and request id.
pub(super) fn in_flight(db: &Connection) -> rusqlite::Result<Vec<(u64, String)>> {
    let mut statement = db.prepare("SELECT seq, request_id FROM in_flight ORDER BY seq")?;
    let rows = statement.query_map([], |row| Ok((u64::try_from(row.get::<_, i64>(0)?).unwrap_or(0), row.get(1)?)))?;
    rows.collect()
}

pub(super) fn begin(db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
}

pub(super) fn append(db: &Connection, seq: u64, bytes: &[u8]) -> rusqlite::Result<()> {
    db.prepare_cached("INSERT INTO entry (seq, bytes) VALUES (?1, ?2)")?.execute((seq.cast_signed(), bytes)).map(drop)
}

pub(super) fn take_off(db: &Connection, seq: u64, request_id: &str) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached("INSERT INTO in_flight (seq, request_id) VALUES (?1, ?2)")?;
    statement.execute((seq.cast_signed(), request_id)).map(drop)
}

pub(super) fn land(db: &Connection, seq: u64) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM in_flight WHERE seq = ?1")?.execute([seq.cast_signed()]).map(drop)
}

pub(super) fn commit(db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("COMMIT")?.execute([]).map(drop)
}

/// Rolls back if a transaction is still open; after some errors SQLite has done it itself.
pub(super) fn roll_back(db: &Connection) {
    if !db.is_autocommit() {
        let _ = db.execute_batch("ROLLBACK");
    }
}

/// Whether an error says that there was no room, and nothing else: what was tried is then certainly not there.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(code, _) if code.extended_code == ffi::SQLITE_FULL)
}
