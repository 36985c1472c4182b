//! `tree.db`: the SQL of the tree. A row a tile, the newest signed checkpoint, and the key that verifies it; tiles and
//! checkpoint change in one transaction, which is durable before anybody sees the checkpoint.

use super::{database, folder as place};
use crate::ledger::OpenError;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::tree::proof::Tiles;
use crate::ledger::tree::tile::Tile;
use crate::ledger::tree::{Hash, Head, TileData};
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension};
use std::path::Path;
use std::time::Duration;

pub(super) const FILE: &str = "tree.db";
const VERSION: i32 = 1;
/// `PRAGMA application_id` of our files: "wgt1".
const APPLICATION: i32 = 0x7767_7431;
const BUSY: Duration = Duration::from_secs(1);

pub(super) fn failed(error: &rusqlite::Error) -> OpenError {
    let words = format!("{FILE}: {error}");
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::Damaged(words),
        None if database::is_no_value(error) => OpenError::Damaged(words),
        _ => OpenError::Unusable(words),
    }
}

/// What is signed, as it is stored.
pub(super) struct Signed {
    pub(super) note: String,
    pub(super) key: String,
}

/// The tiles of one ledger, and what is signed of them.
pub(super) struct TreeStore {
    db: Connection,
}

impl TreeStore {
    /// Opens it for the one process that holds the folder's lock; makes it where it is not.
    pub(super) fn open_to_write(folder: &Path) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let open = || -> rusqlite::Result<(Connection, bool)> {
            let db = Connection::open_with_flags(folder.join(FILE), flags)?;
            db.busy_timeout(BUSY)?;
            let number = |pragma: &str| db.query_row(pragma, [], |row| row.get::<_, i32>(0));
            let is = (number("PRAGMA application_id")?, number("PRAGMA user_version")?);
            // A trigger, say, could keep from being stored what was signed.
            if database::strange(&db, tables)?.is_some()
                || is != (APPLICATION, VERSION) && !(is == (0, 0) && database::contents(&db)?.is_empty())
            {
                return Ok((db, false));
            }
            let _: String = db.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
            db.execute_batch(&format!(
                "PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;
                 PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
            ))?;
            tables(&db)?;
            Ok((db, true))
        };
        let (db, ours) = open().map_err(|e| failed(&e))?;
        if !ours {
            let words = format!(
                "{} is not the tree of a ledger, is of a newer version, or holds more than a tree",
                folder.join(FILE).display()
            );
            return Err(OpenError::Damaged(words));
        }
        Ok(Self { db })
    }

    /// Opens it beside whoever writes it.
    pub(super) fn open_to_read(folder: &Path) -> Result<Self, OpenError> {
        let none = format!("there is no {FILE} in {}; `serve` makes it", folder.display());
        let file = place::readable(folder, FILE, &none)?;
        let (name, flags) = place::reading(&file)?;
        let open = || -> rusqlite::Result<Connection> {
            let db = Connection::open_with_flags(&name, flags)?;
            db.busy_timeout(BUSY)?;
            Ok(db)
        };
        open().map(|db| Self { db }).map_err(|e| failed(&e))
    }

    /// Refuses a file that holds anything else than a tree.
    pub(super) fn known(&self) -> Result<(), OpenError> {
        match database::strange(&self.db, tables) {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(OpenError::Damaged(format!("{FILE} {what}"))),
            Err(e) => Err(failed(&e)),
        }
    }

    /// What was signed last.
    pub(super) fn signed(&self) -> Result<Option<Signed>, OpenError> {
        signed_in(&self.db)
    }

    /// Stores tiles and, with them, what is signed of them. When this returns `Ok`, it survives a crash.
    pub(super) fn save(&mut self, tiles: &[TileData], signed: Option<(&str, &VerifyingKey)>) -> Result<(), OpenError> {
        let mut save = || -> rusqlite::Result<()> {
            let change = self.db.transaction()?;
            {
                let mut statement =
                    change.prepare_cached("INSERT OR REPLACE INTO tile (place, hashes) VALUES (?1, ?2)")?;
                for tile in tiles {
                    statement.execute((place(tile.tile), &tile.bytes))?;
                }
                if let Some((note, key)) = signed {
                    put_signed(&change, note, &key.to_string())?;
                    change.prepare_cached("DELETE FROM rebuilding")?.execute([])?;
                }
            }
            change.commit()
        };
        save().map_err(|e| failed(&e))
    }

    /// Forgets the tiles, to build them anew; what is signed stays. Until something is signed again, it says so.
    pub(super) fn forget_tiles(&mut self) -> Result<(), OpenError> {
        let sql =
            "BEGIN IMMEDIATE; DELETE FROM tile; DELETE FROM rebuilding; INSERT INTO rebuilding VALUES (1); COMMIT";
        self.db.execute_batch(sql).map_err(|e| failed(&e))
    }

    /// As [`Self::forget_tiles`], but what is there stays until it is written again: of what was pruned nothing else is
    /// left.
    pub(super) fn rebuild_tiles(&mut self) -> Result<(), OpenError> {
        let sql = "BEGIN IMMEDIATE; DELETE FROM rebuilding; INSERT INTO rebuilding VALUES (1); COMMIT";
        self.db.execute_batch(sql).map_err(|e| failed(&e))
    }

    /// Whether the tiles are being built anew, so that some are not there.
    pub(super) fn is_being_built(&self) -> Result<bool, OpenError> {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE name = 'rebuilding'";
        let one = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, i64>(0)).map_err(|e| failed(&e));
        Ok(one(sql)? > 0 && one("SELECT count(*) FROM rebuilding")? > 0)
    }
}

/// What a tree is made of, and nothing else.
fn tables(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS tile (place INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
         CREATE TABLE IF NOT EXISTS rebuilding (since INTEGER NOT NULL) STRICT;",
    )?;
    signed_table(db)
}

/// The table of what is signed; a backup has it, too.
pub(super) fn signed_table(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS signed (
             id INTEGER PRIMARY KEY CHECK (id = 1), note TEXT NOT NULL, verifying_key TEXT NOT NULL
         ) STRICT;",
    )
}

/// Writes what is signed into that table.
pub(super) fn put_signed(db: &Connection, note: &str, key: &str) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO signed (id, note, verifying_key) VALUES (1, ?1, ?2)";
    db.prepare_cached(sql)?.execute((note, key)).map(drop)
}

/// What is signed, in a database that may have that table.
pub(super) fn signed_in(db: &Connection) -> Result<Option<Signed>, OpenError> {
    let has = "SELECT count(*) FROM sqlite_schema WHERE name = 'signed'";
    if db.query_row(has, [], |row| row.get::<_, i64>(0)).map_err(|e| failed(&e))? == 0 {
        return Ok(None);
    }
    let row = db.query_row("SELECT note, verifying_key FROM signed", [], |row| {
        Ok(Signed { note: row.get(0)?, key: row.get(1)? })
    });
    row.optional().map_err(|e| failed(&e))
}

/// Where a tile stands: its level above its index, so that each level grows at its end.
fn place(tile: Tile) -> i64 {
    (i64::from(tile.level()) << 55) | i64::try_from(tile.index() & ((1 << 55) - 1)).unwrap_or(i64::MAX)
}

impl Tiles for TreeStore {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        let bytes: Option<Vec<u8>> = self
            .db
            .prepare_cached("SELECT hashes FROM tile WHERE place = ?1")
            .and_then(|mut statement| statement.query_row([place(tile)], |row| row.get(0)).optional())
            .map_err(|e| failed(&e))?;
        let bytes = bytes.ok_or_else(|| OpenError::Damaged(format!("{FILE} has no {tile}")))?;
        tile.decode(&bytes).ok_or_else(|| OpenError::Damaged(format!("{FILE}: the stored {tile} is too short")))
    }
}

/// A head in words.
pub(super) fn shown(head: &Head) -> String {
    format!("{} entries with the root {}", head.size, head.root)
}
