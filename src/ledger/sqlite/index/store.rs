//! `search.db`: the SQL of the search data. It is derived from the ledger, so it is synced only now and then,
//! and what does not belong to this ledger and this version is thrown away.

use super::posting::{SEGMENT, Set, encode};
use crate::ledger::OpenError;
use crate::ledger::sqlite::{database, folder as place, prune};
use crate::ledger::stats::Open;
use rusqlite::{Connection, OpenFlags, OptionalExtension, ffi};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::Path;

const FILE: &str = "search.db";
/// Raised whenever the same ledger would give other contents.
const VERSION: i64 = 3;
/// `PRAGMA application_id` of our files: "wgs1".
const APPLICATION: i32 = 0x7767_7331;

/// How far the search data goes, and for which ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::ledger::sqlite) struct Meta {
    /// Entries of a segment.
    pub(in crate::ledger::sqlite) width: u64,
    /// Entries from this one on are in: earlier ones were pruned.
    pub(in crate::ledger::sqlite) base: u64,
    /// Entries before this one are in; always whole segments.
    pub(in crate::ledger::sqlite) cursor: u64,
    /// Hashes of the first and of the last entry that is in; empty when none is.
    pub(in crate::ledger::sqlite) first: Vec<u8>,
    pub(in crate::ledger::sqlite) last: Vec<u8>,
}

pub(in crate::ledger::sqlite) fn hash(bytes: &[u8]) -> Vec<u8> {
    Sha256::digest(bytes).to_vec()
}

pub(in crate::ledger::sqlite) fn failed(error: &rusqlite::Error) -> OpenError {
    let is_broken =
        matches!(error.sqlite_error_code(), Some(ffi::ErrorCode::DatabaseCorrupt | ffi::ErrorCode::NotADatabase));
    if is_broken || database::is_no_value(error) {
        return OpenError::Damaged(format!("{FILE} is broken: {error}"));
    }
    OpenError::Unusable(format!("{FILE}: {error}"))
}

fn number(of: i64) -> u64 {
    u64::try_from(of).unwrap_or(0)
}

/// The meta row, if the file is of this version and describes the beginning of this ledger.
fn meta(db: &Connection, ledger: &Connection) -> Result<Option<Meta>, OpenError> {
    let read = || -> rusqlite::Result<Option<Meta>> {
        let application: i32 = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let version: i64 = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if application != APPLICATION || version != VERSION {
            return Ok(None);
        }
        let sql = "SELECT width, base, cursor, first, last FROM meta";
        db.query_row(sql, [], |row| {
            let (width, base, cursor) = (number(row.get(0)?), number(row.get(1)?), number(row.get(2)?));
            Ok(Meta { width, base, cursor, first: row.get(3)?, last: row.get(4)? })
        })
        .optional()
    };
    let Some(meta) = read().map_err(|e| failed(&e))? else { return Ok(None) };
    let same = |seq: u64, hashed: &[u8]| -> Result<bool, OpenError> {
        Ok(database::entry(ledger, seq)?.is_some_and(|bytes| hash(&bytes) == hashed))
    };
    let (empty, begin) = (meta.cursor == meta.base, prune::first(ledger)?);
    let whole = (1..=SEGMENT).contains(&meta.width) && (empty || meta.cursor.is_multiple_of(meta.width));
    // What was pruned may still be in, until it is forgotten; what is empty has to begin where the log does.
    let fits = meta.base == begin || (!empty && meta.base < begin && begin < meta.cursor);
    let ours = empty || (same(meta.base, &meta.first)? && same(meta.cursor.saturating_sub(1), &meta.last)?);
    Ok(Some(meta).filter(|_| whole && fits && ours))
}

/// Opens the search data beside whoever fills it. `None`: there is none that could be used.
pub(in crate::ledger::sqlite) fn open_to_read(folder: &Path, ledger: &Connection) -> Option<(Connection, Meta)> {
    let file = folder.join(FILE);
    let (name, flags) = file.exists().then(|| place::reading(&file))?.ok()?;
    let db = Connection::open_with_flags(name, flags).ok()?;
    db.busy_timeout(std::time::Duration::from_secs(1)).ok()?;
    db.execute_batch("PRAGMA cache_size = -16384; BEGIN").ok()?;
    let meta = meta(&db, ledger).ok()??;
    Some((db, meta))
}

/// Opens the search data to compare them with the ledger. `None`: there are none yet, or those of an older version,
/// which the next start replaces.
///
/// # Errors
/// They are not what this program makes of this ledger.
pub(in crate::ledger::sqlite) fn open_to_compare(
    folder: &Path,
    ledger: &Connection,
) -> Result<Option<(Connection, Meta)>, OpenError> {
    let wrong = |what: &str| OpenError::Damaged(format!("{FILE} {what}; audit reindex builds it anew"));
    let file = folder.join(FILE);
    if !file.exists() {
        return Ok(None);
    }
    let (name, flags) = place::reading(&file)?;
    let look = || -> rusqlite::Result<(Connection, i32, i64, bool, Option<String>)> {
        let db = Connection::open_with_flags(&name, flags)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.execute_batch("PRAGMA cache_size = -16384; BEGIN")?;
        let application = db.query_row("PRAGMA application_id", [], |row| row.get(0))?;
        let version = db.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        let (empty, strange) = (database::contents(&db)?.is_empty(), database::strange(&db, tables)?);
        Ok((db, application, version, empty, strange))
    };
    match look().map_err(|e| failed(&e))? {
        (_, 0, 0, true, _) => Ok(None),
        (_, application, ..) if application != APPLICATION => Err(wrong("is another program's database")),
        (_, _, version, ..) if version > VERSION => Err(wrong("is of a newer version")),
        (_, _, version, ..) if version < VERSION => Ok(None),
        (.., Some(what)) => Err(wrong(&what)),
        (db, .., None) => match meta(&db, ledger)? {
            Some(meta) => Ok(Some((db, meta))),
            // They end before the log begins now, and have not forgotten that yet.
            None if prune::pending(ledger)?.is_some() => Ok(None),
            None => Err(wrong("is not that of this ledger")),
        },
    }
}

/// Hands each row on, until one is refused: then `false`.
pub(in crate::ledger::sqlite) fn each(
    db: &Connection,
    sql: &str,
    mut take: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<bool>,
) -> rusqlite::Result<bool> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if !take(row)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes the search data.
pub(in crate::ledger::sqlite) fn throw_away(folder: &Path) -> Result<(), OpenError> {
    for end in ["", "-wal", "-shm", "-journal"] {
        match std::fs::remove_file(folder.join(format!("{FILE}{end}"))) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(OpenError::Unusable(format!("{FILE}{end} cannot be removed: {e}"))),
        }
    }
    Ok(())
}

/// Opens the search data to fill it, an empty one where there is none that could be used. Only who holds the
/// folder's lock may.
pub(in crate::ledger::sqlite) fn open_to_write(
    folder: &Path,
    ledger: &Connection,
    width: u64,
) -> Result<(Connection, Meta), OpenError> {
    match try_open(folder, ledger, width) {
        Ok(Some(opened)) => return Ok(opened),
        Ok(None) | Err(OpenError::Damaged(_)) => throw_away(folder)?,
        Err(e) => return Err(e),
    }
    tracing::info!("the search data is built anew from the ledger");
    try_open(folder, ledger, width)?.ok_or_else(|| OpenError::Unusable(format!("{FILE} cannot be set up")))
}

fn try_open(folder: &Path, ledger: &Connection, width: u64) -> Result<Option<(Connection, Meta)>, OpenError> {
    let file = folder.join(FILE);
    let (fresh, base) = (!file.exists(), prune::first(ledger)?);
    let open = || -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(&file, flags)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        let _: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
        // NORMAL: after a power loss the file is an earlier state of itself, never a mixture.
        db.execute_batch("PRAGMA synchronous = NORMAL; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF; PRAGMA journal_size_limit = 8388608; PRAGMA cache_size = -8192;")?;
        if fresh {
            create(&db, width, base)?;
        }
        Ok(db)
    };
    let db = open().map_err(|e| failed(&e))?;
    Ok(meta(&db, ledger)?.filter(|meta| meta.width == width).map(|meta| (db, meta)))
}

fn create(db: &Connection, width: u64, base: u64) -> rusqlite::Result<()> {
    db.execute_batch(&format!(
        "BEGIN;
         PRAGMA application_id = {APPLICATION};
         PRAGMA user_version = {VERSION};"
    ))?;
    tables(db)?;
    db.execute_batch(&format!("INSERT INTO meta VALUES ({width}, {base}, {base}, x'', x''); COMMIT;"))
}

/// What search data are made of, and nothing else.
fn tables(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE meta (width INTEGER, base INTEGER, cursor INTEGER, first BLOB, last BLOB) STRICT;
         CREATE TABLE posting (segment INTEGER, term INTEGER, seqs BLOB NOT NULL,
             PRIMARY KEY (segment, term)) STRICT, WITHOUT ROWID;
         CREATE TABLE ending (seq INTEGER PRIMARY KEY, outcome INTEGER NOT NULL, resolution INTEGER) STRICT;
         CREATE TABLE open (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL, caller TEXT NOT NULL,
             day INTEGER NOT NULL) STRICT;
         CREATE TABLE unknown (request_id TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID;
         CREATE TABLE unsettled (seq INTEGER PRIMARY KEY) STRICT;
         CREATE TABLE day (day INTEGER, caller TEXT, outcome TEXT, count INTEGER NOT NULL,
             PRIMARY KEY (day, caller, outcome)) STRICT, WITHOUT ROWID;",
    )
}

/// Intents without an outcome at the cursor, by request id.
pub(in crate::ledger::sqlite) fn open_intents(db: &Connection) -> rusqlite::Result<HashMap<String, Open>> {
    let mut statement = db.prepare_cached("SELECT request_id, seq, caller, day FROM open")?;
    let rows = statement.query_map([], |row| {
        Ok((row.get(0)?, Open { seq: number(row.get(1)?), caller: row.get(2)?, day: row.get(3)? }))
    })?;
    rows.collect()
}

/// The intent of a request whose outcome is `unknown`.
pub(in crate::ledger::sqlite) fn unknown(db: &Connection, request_id: &str) -> rusqlite::Result<Option<u64>> {
    let mut statement = db.prepare_cached("SELECT seq FROM unknown WHERE request_id = ?1")?;
    statement.query_row([request_id], |row| row.get(0).map(number)).optional()
}

pub(in crate::ledger::sqlite) fn posting(db: &Connection, segment: u64, term: i64) -> rusqlite::Result<Option<Set>> {
    let mut statement = db.prepare_cached("SELECT seqs FROM posting WHERE segment = ?1 AND term = ?2")?;
    statement
        .query_row((segment.cast_signed(), term), |row| Ok(Set::decode(row.get_ref(0)?.as_blob().unwrap_or_default())))
        .optional()
}

/// Adds offsets to a posting list that may be there already.
pub(in crate::ledger::sqlite) fn merge(
    db: &Connection,
    segment: u64,
    term: i64,
    offsets: &[u16],
) -> rusqlite::Result<()> {
    let mut set = posting(db, segment, term)?.unwrap_or_else(Set::empty);
    offsets.iter().for_each(|offset| set.insert(*offset));
    let offsets: Vec<u16> = set.offsets().collect();
    let mut statement = db.prepare_cached("INSERT OR REPLACE INTO posting VALUES (?1, ?2, ?3)")?;
    statement.execute((segment.cast_signed(), term, encode(&offsets))).map(drop)
}

/// Adds a posting list to the newest segment.
pub(in crate::ledger::sqlite) fn post(
    db: &Connection,
    segment: u64,
    term: i64,
    offsets: &[u16],
) -> rusqlite::Result<()> {
    let mut statement = db.prepare_cached("INSERT INTO posting VALUES (?1, ?2, ?3)")?;
    statement.execute((segment.cast_signed(), term, encode(offsets))).map(drop)
}

/// Where the outcome and the newest resolution of an intent stand.
pub(in crate::ledger::sqlite) fn ending(db: &Connection, seq: u64) -> rusqlite::Result<Option<(u64, Option<u64>)>> {
    let mut statement = db.prepare_cached("SELECT outcome, resolution FROM ending WHERE seq = ?1")?;
    let read = |row: &rusqlite::Row<'_>| Ok((number(row.get(0)?), row.get::<_, Option<i64>>(1)?.map(number)));
    statement.query_row([seq.cast_signed()], read).optional()
}

/// Intents from `from` on and before `until` that have an `unknown` outcome and nothing found out since.
pub(in crate::ledger::sqlite) fn unsettled(db: &Connection, from: u64, until: u64) -> rusqlite::Result<Vec<u64>> {
    let mut statement = db.prepare_cached("SELECT seq FROM unsettled WHERE seq >= ?1 AND seq < ?2")?;
    let rows = statement.query_map([from.cast_signed(), until.cast_signed()], |row| row.get(0).map(number))?;
    rows.collect()
}

/// Counts of some days, up to the cursor.
pub(in crate::ledger::sqlite) fn days(
    db: &Connection,
    (first, last): (i64, i64),
    mut add: impl FnMut(i64, &str, &str, u64),
) -> rusqlite::Result<()> {
    let mut statement =
        db.prepare_cached("SELECT day, caller, outcome, count FROM day WHERE day >= ?1 AND day <= ?2")?;
    let mut rows = statement.query([first, last])?;
    while let Some(row) = rows.next()? {
        let (caller, outcome): (String, String) = (row.get(1)?, row.get(2)?);
        add(row.get(0)?, &caller, &outcome, number(row.get(3)?));
    }
    Ok(())
}
