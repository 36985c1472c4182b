//! All SQL of the embedded store.
//!
//! The path of a commit touches ordered keys alone: `entry` grows at its end, `in_flight` holds the few
//! intents without an outcome under their sequence numbers.

use super::folder::Watched;
use super::{folder as place, moving, standing};
use crate::ledger::OpenError;
use crate::ledger::verify::Standing;
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension, ffi};
use std::path::Path;
use std::time::Duration;

pub(super) const FILE: &str = "ledger.db";
/// The write-ahead log, which is there as long as the database is open.
pub(super) const WAL: &str = "ledger.db-wal";
/// 3.51.3 is the first without the WAL-reset bug that could lose commits.
const OLDEST: i32 = 3_051_003;
/// `PRAGMA application_id` of our files: "wgl1".
const APPLICATION: i32 = 0x7767_6c31;

/// What the process relies on to stay where it is, for as long as it writes.
pub(super) const FILES: [&str; 2] = [FILE, WAL];
/// `PRAGMA user_version` of our files.
const VERSION: i32 = 1;
pub(super) const BUSY: Duration = Duration::from_secs(1);

fn unusable(folder: &Path, what: &str, error: &rusqlite::Error) -> OpenError {
    let words = format!("the ledger in {} {what}: {error}", folder.display());
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged(words),
        _ => OpenError::Unusable(words),
    }
}

/// Opens the database for writing, creates it where it is not, checks that every commit will be synced,
/// and copies the write-ahead log into it before anything in it is believed. A file that is not a ledger of ours is
/// left as it is.
pub(super) fn open_to_write(folder: &Path) -> Result<Connection, OpenError> {
    if rusqlite::version_number() < OLDEST {
        return Err(OpenError::Unusable(format!(
            "SQLite {} is too old; 3.51.3 or newer is needed",
            rusqlite::version()
        )));
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let open = || -> rusqlite::Result<Connection> {
        let db = Connection::open_with_flags(folder.join(FILE), flags)?;
        db.busy_timeout(BUSY)?;
        Ok(db)
    };
    let failed = |error: rusqlite::Error| unusable(folder, "cannot be opened", &error);
    let db = open().map_err(failed)?;
    if let Some(moved) = moving::moved(&db).map_err(failed)? {
        return Err(OpenError::Unusable(moved.words()));
    }
    let foreign = foreign(&db, tables).map_err(failed)?;
    if let Some(what) = foreign {
        return Err(OpenError::Damaged(format!("{} {what}; it was left as it is", folder.join(FILE).display())));
    }
    prepare(&db).map_err(failed)?.map_or(Ok(()), |what| Err(OpenError::Unusable(what)))?;
    set_up(&db).map_err(|e| unusable(folder, "cannot be set up", &e))?;
    Ok(db)
}

/// What a database is made of: kind, name and definition of each table, index, trigger and view.
pub(super) fn contents(db: &Connection) -> rusqlite::Result<Vec<[String; 3]>> {
    let mut statement = db.prepare("SELECT type, name, coalesce(sql, '') FROM sqlite_schema")?;
    let rows = statement.query_map([], |row| {
        let sql: String = row.get(2)?;
        Ok([row.get(0)?, row.get(1)?, sql.split_whitespace().collect::<Vec<_>>().join(" ")])
    })?;
    rows.collect()
}

/// What a database holds that `set_up` does not make, in words: a trigger, say, could change what is written, and so
/// could a table of ours that was defined anew.
pub(super) fn strange(
    db: &Connection,
    set_up: impl FnOnce(&Connection) -> rusqlite::Result<()>,
) -> rusqlite::Result<Option<String>> {
    let model = Connection::open_in_memory()?;
    set_up(&model)?;
    let (ours, schema) = (contents(&model)?, contents(db)?);
    let Some([kind, name, _]) = schema.iter().find(|part| !ours.contains(part)) else { return Ok(None) };
    let (kind, name) = (kind.escape_debug(), name.escape_debug());
    Ok(Some(if ours.iter().any(|[_, ours, _]| *ours == name.to_string()) {
        format!("holds a {kind} `{name}` that is defined otherwise than this program does it")
    } else {
        format!("holds a {kind} that no ledger has, `{name}`")
    }))
}

/// What makes a database another one than a ledger that this version writes; only read, not touched.
fn foreign(db: &Connection, set_up: fn(&Connection) -> rusqlite::Result<()>) -> rusqlite::Result<Option<String>> {
    if let Some(what) = of_others(db)? {
        return Ok(Some(what));
    }
    match strange(db, set_up)? {
        Some(_) if strange(db, backup_tables)?.is_none() => {
            Ok(Some("is a backup; `audit restore --from` puts it back".to_owned()))
        }
        strange => Ok(strange),
    }
}

/// What its mark says of a database that is not a ledger that this version knows. One without mark and contents is a
/// ledger that is being made.
fn of_others(db: &Connection) -> rusqlite::Result<Option<String>> {
    let number = |pragma: &str| db.query_row(pragma, [], |row| row.get::<_, i32>(0));
    let (application, version) = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
    if application != APPLICATION && !(application == 0 && contents(db)?.is_empty()) {
        return Ok(Some("is another program's database".to_owned()));
    }
    let newer = || format!("is a ledger of version {version}; this program knows versions up to {VERSION}");
    Ok((version > VERSION).then(newer))
}

/// Refuses a file that is not a ledger that this version knows. One that has moved can be read.
pub(super) fn known(db: &Connection, file: &Path) -> Result<(), OpenError> {
    let is_moved = moving::moved(db).is_ok_and(|moved| moved.is_some());
    no_other(foreign(db, if is_moved { moving::tables } else { tables }), file)
}

/// Refuses a file that is neither a ledger nor a backup of one.
pub(super) fn known_backup(db: &Connection, file: &Path) -> Result<(), OpenError> {
    no_other(foreign(db, backup_tables), file)
}

fn no_other(foreign: rusqlite::Result<Option<String>>, file: &Path) -> Result<(), OpenError> {
    match foreign {
        Ok(None) => Ok(()),
        Ok(Some(what)) => Err(OpenError::Damaged(format!("{} {what}", file.display()))),
        Err(e) => Err(OpenError::Damaged(format!("{} cannot be read: {e}", file.display()))),
    }
}

/// The statements that make the tables of a ledger.
pub(super) fn schema(db: &Connection) -> rusqlite::Result<Vec<String>> {
    db.prepare("SELECT sql FROM sqlite_schema WHERE type = 'table'")?.query_map([], |row| row.get(0))?.collect()
}

/// Marks a database as a ledger.
pub(super) fn mark(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(&format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"))
}

/// Sets what every commit relies on. Says what SQLite did not do.
fn prepare(db: &Connection) -> rusqlite::Result<Option<String>> {
    let mode: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    db.execute_batch("PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF;")?;
    let synchronous = synchronous(db, Sync::Full)?;
    let as_wanted = mode == "wal" && synchronous == Sync::Full as i64;
    Ok((!as_wanted)
        .then(|| format!("SQLite gave journal mode {mode} and synchronous {synchronous}; wal and 2 are needed")))
}

/// Who syncs the write-ahead log behind a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sync {
    /// We do, before anybody hears of it.
    Ours = 1,
    /// SQLite does, before COMMIT returns.
    Full = 2,
}

/// Says who syncs from now on; returns what SQLite made of it.
pub(super) fn synchronous(db: &Connection, sync: Sync) -> rusqlite::Result<i64> {
    db.execute_batch(match sync {
        Sync::Ours => "PRAGMA synchronous = NORMAL;",
        Sync::Full => "PRAGMA synchronous = FULL;",
    })?;
    db.query_row("PRAGMA synchronous", [], |row| row.get(0))
}

fn set_up(db: &Connection) -> rusqlite::Result<()> {
    mark(db)?;
    tables(db)?;
    db.execute_batch("PRAGMA wal_checkpoint(TRUNCATE);")
}

/// What a backup is made of: a ledger, and what was signed of it.
pub(super) fn backup_tables(db: &Connection) -> rusqlite::Result<()> {
    tables(db)?;
    super::tree_store::signed_table(db)
}

/// What a ledger is made of, and nothing else.
pub(super) fn tables(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS entry (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS in_flight (seq INTEGER PRIMARY KEY, request_id TEXT NOT NULL) STRICT;",
    )?;
    super::prune::set_up(db)?;
    super::unresolved::set_up(db)?;
    standing::set_up(db)
}

/// Opens the database beside whoever writes to it. A file that is not a ledger that this version knows is not read.
pub(super) fn open_to_read(folder: &Path) -> Result<Connection, OpenError> {
    open_to_watch(folder).map(|(db, _)| db)
}

/// The same, and its file as it was then.
pub(super) fn open_to_watch(folder: &Path) -> Result<(Connection, Watched), OpenError> {
    let none = format!("there is no ledger in {}; `serve` makes one", folder.display());
    let file = place::readable(folder, FILE, &none)?;
    let (name, flags) = place::reading(&file)?;
    let watched = Watched::read_with(file.clone(), flags);
    let watched = watched.map_err(|e| OpenError::Unusable(format!("{}: {e}", file.display())))?;
    let open = || -> rusqlite::Result<Connection> {
        let db = Connection::open_with_flags(&name, flags)?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(db)
    };
    let db = open().map_err(|e| unusable(folder, "cannot be read", &e))?;
    no_other(of_others(&db), &file)?;
    Ok((db, watched))
}

/// Whether the numbers of the entries begin at 0, or where the log was pruned, and leave room: rows outside are nobody's
/// that we know. What was pruned may still be on its way out.
pub(super) fn check_ends(db: &Connection) -> Result<(), OpenError> {
    let begin = super::prune::first(db)?;
    let ends: rusqlite::Result<(Option<i64>, Option<i64>)> =
        db.query_row("SELECT (SELECT min(seq) FROM entry), (SELECT max(seq) FROM entry)", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        });
    match ends {
        Ok((None, _) | (_, None)) => Ok(()),
        Ok((Some(first), Some(last))) if (0..=begin.cast_signed()).contains(&first) && last < i64::MAX / 2 => Ok(()),
        Ok((Some(first), Some(last))) => Err(OpenError::Damaged(format!(
            "the ledger's entries go from {first} to {last}; they begin at {begin}, and no entry says that more was pruned"
        ))),
        Err(e) => Err(OpenError::Damaged(format!("the ledger cannot be read: {e}"))),
    }
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

/// One entry's bytes.
pub(super) fn entry(db: &Connection, seq: u64) -> Result<Option<Vec<u8>>, OpenError> {
    let read = || -> rusqlite::Result<Option<Vec<u8>>> {
        let mut statement = db.prepare_cached("SELECT bytes FROM entry WHERE seq = ?1")?;
        statement.query_row([seq.cast_signed()], |row| row.get(0)).optional()
    };
    read().map_err(|e| OpenError::Damaged(format!("the ledger cannot be read: {e}")))
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

/// What is kept beside the entries of what they mean, with the length of the ledger in the same moment. A ledger that no process
/// has written to since it keeps one of the lists has that one empty.
pub(super) fn standing(db: &Connection) -> Result<Standing, OpenError> {
    let failed = |e: rusqlite::Error| OpenError::Damaged(format!("the ledger cannot be read: {e}"));
    let snapshot = db.unchecked_transaction().map_err(failed)?;
    let length = length(&snapshot)?;
    let in_flight = in_flight(&snapshot).map_err(failed)?;
    let unresolved = super::unresolved::all(&snapshot).map_err(failed)?;
    let freezes = standing::freezes(&snapshot)?;
    let tables = standing::tables(&snapshot).map_err(failed)?;
    let beginning = super::prune::check(&snapshot)?;
    snapshot.finish().map_err(failed)?;
    Ok(Standing { length, in_flight, unresolved, freezes, tables, beginning })
}

/// Whether no other program has the database now.
pub(super) fn is_free(db: &Connection) -> rusqlite::Result<bool> {
    let begun = begin(db);
    roll_back(db);
    match begun {
        Ok(()) => Ok(true),
        Err(error) if is_held(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn begin(db: &Connection) -> rusqlite::Result<()> {
    db.prepare_cached("BEGIN IMMEDIATE")?.execute([]).map(drop)
}

/// The statements of the commit path, looked up once a transaction.
pub(super) struct Statements<'a> {
    append: CachedStatement<'a>,
    take_off: CachedStatement<'a>,
    land: CachedStatement<'a>,
}

impl<'a> Statements<'a> {
    pub(super) fn new(db: &'a Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            append: db.prepare_cached("INSERT INTO entry (seq, bytes) VALUES (?1, ?2)")?,
            take_off: db.prepare_cached("INSERT INTO in_flight (seq, request_id) VALUES (?1, ?2)")?,
            land: db.prepare_cached("DELETE FROM in_flight WHERE seq = ?1")?,
        })
    }

    pub(super) fn append(&mut self, seq: u64, bytes: &[u8]) -> rusqlite::Result<()> {
        self.append.execute((seq.cast_signed(), bytes)).map(drop)
    }

    /// An intent has no outcome yet.
    pub(super) fn take_off(&mut self, seq: u64, request_id: &str) -> rusqlite::Result<()> {
        self.take_off.execute((seq.cast_signed(), request_id)).map(drop)
    }

    /// It has one.
    pub(super) fn land(&mut self, seq: u64) -> rusqlite::Result<()> {
        self.land.execute([seq.cast_signed()]).map(drop)
    }
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

/// What is recorded could not be encoded: nothing was written.
pub(super) fn not_encoded(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

/// Whether an error says that there was no room, and nothing else: what was tried is then certainly not there.
pub(super) fn is_full(error: &rusqlite::Error) -> bool {
    matches!(error, rusqlite::Error::SqliteFailure(code, _) if code.extended_code == ffi::SQLITE_FULL)
}

/// Whether what is stored is a value that nobody writes there, such as text that is none.
pub(super) fn is_no_value(error: &rusqlite::Error) -> bool {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    matches!(error, FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..))
}

/// Whether an error says that another program has the database: what was tried is then certainly not there.
pub(super) fn is_held(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}
