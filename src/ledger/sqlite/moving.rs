//! A ledger that moves to a database that replicas share: held while it is copied, and then marked, so that nothing goes
//! on with it here. The mark is a table that no other ledger has: programs that do not know it refuse it as well.

mod lists;

use super::database::{self, BUSY, FILE};
use super::folder::{self, Lock};
use super::tree_store::{self, TreeStore};
use super::{Sqlite, prune, restore};
use crate::clock::Timestamp;
use crate::config;
use crate::ledger::copy::{KeptKey, Luggage, Spent, Waiting, head_of};
use crate::ledger::tree::proof::Tiles;
use crate::ledger::tree::tile::{TILE_WIDTH, Tile};
use crate::ledger::tree::{Head, TileData};
use crate::ledger::{Entries, Ledger, OpenError};
use crate::telemetry::Metrics;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Result as Sql};
use std::path::{Path, PathBuf};

/// Tiles that are handed over at once.
const TILES: usize = 256;

/// Where a ledger has gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ledger) struct Moved {
    /// In words.
    pub(in crate::ledger) place: String,
    /// When.
    pub(in crate::ledger) time: String,
    /// So many entries it had, with this root.
    pub(in crate::ledger) entries: u64,
    /// In base64.
    pub(in crate::ledger) root: String,
}

impl Moved {
    /// Why nothing goes on with it here.
    pub(in crate::ledger) fn words(&self) -> String {
        format!(
            "this ledger has moved: its log goes on in {} since {}, behind {} entries. It can be read here, and never be \
             served or changed again: the same numbers would be signed twice",
            self.place, self.time, self.entries
        )
    }
}

/// The mark. Only a ledger that has moved has this table.
fn mark_table(db: &Connection) -> Sql<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS moved (
             one INTEGER PRIMARY KEY CHECK (one = 1), place TEXT NOT NULL, time TEXT NOT NULL, entries INTEGER NOT NULL,
             root TEXT NOT NULL
         ) STRICT;",
    )
}

/// What a ledger is made of that has moved.
pub(super) fn tables(db: &Connection) -> Sql<()> {
    database::tables(db)?;
    mark_table(db)
}

/// Where this ledger has gone; `None`: it is here.
pub(super) fn moved(db: &Connection) -> Sql<Option<Moved>> {
    let has = "SELECT count(*) FROM sqlite_schema WHERE name = 'moved'";
    if db.query_row(has, [], |row| row.get::<_, i64>(0))? == 0 {
        return Ok(None);
    }
    let row = db.query_row("SELECT place, time, entries, root FROM moved", [], |row| {
        let entries = row.get::<_, i64>(2)?.cast_unsigned();
        Ok(Moved { place: row.get(0)?, time: row.get(1)?, entries, root: row.get(3)? })
    });
    // A mark that says nothing is one all the same.
    let nowhere = || Moved { place: "another place".into(), time: "?".into(), entries: 0, root: String::new() };
    Ok(Some(row.optional()?.unwrap_or_else(nowhere)))
}

/// Refuses a ledger that has moved.
pub(super) fn refuse_moved(db: &Connection) -> Result<(), OpenError> {
    match moved(db) {
        Ok(None) => Ok(()),
        Ok(Some(moved)) => Err(OpenError::Unusable(moved.words())),
        Err(e) => Err(unreadable(&e)),
    }
}

/// Refuses a folder whose ledger has moved. One that cannot be read says nothing.
pub(super) fn refuse_moved_from(folder: &Path) -> Result<(), OpenError> {
    let db = if folder.join(FILE).exists() { database::open_to_read(folder).ok() } else { None };
    match db.and_then(|db| moved(&db).ok().flatten()) {
        None => Ok(()),
        Some(moved) => Err(OpenError::Unusable(moved.words())),
    }
}

fn unreadable(e: &rusqlite::Error) -> OpenError {
    OpenError::Damaged(format!("the ledger cannot be read: {e}"))
}

/// A ledger that is at rest, and stays so as long as this lives: nothing is under way, and all of it is signed.
pub(in crate::ledger) struct Leaving {
    _lock: Lock,
    folder: PathBuf,
    db: Connection,
    tree: TreeStore,
}

impl Leaving {
    /// Takes the ledger. What an earlier process left open is closed as `unknown`, and signed, as at any start.
    ///
    /// # Errors
    /// [`OpenError::Held`] while a process serves it; else when there is none, it is being pruned, or it cannot be used.
    pub(in crate::ledger) fn hold(config: &config::Ledger) -> Result<Self, OpenError> {
        // Where there is none, none is made.
        drop(database::open_to_read(&config.path)?);
        for _ in 0..2 {
            let lock = Lock::take(&config.path)?;
            if let Some(leaving) = Self::at_rest(lock, &config.path)? {
                leaving.is_not_being_pruned()?;
                return Ok(leaving);
            }
            settle(config)?;
        }
        Err(OpenError::Unusable("a process has served this ledger meanwhile; stop it, and try again".to_owned()))
    }

    /// A prune goes on where its entries are; of one that has moved nothing is to be done any more.
    fn is_not_being_pruned(&self) -> Result<(), OpenError> {
        if self.moved()?.is_some() || prune::pending(&self.db)?.is_none() {
            return Ok(());
        }
        let words = "a prune of this ledger is not at its end; run `audit prune` until it is, then copy again";
        Err(OpenError::Unusable(words.to_owned()))
    }

    /// Whether the ledger of a folder has gone.
    pub(in crate::ledger) fn has_moved(folder: &Path) -> Result<bool, OpenError> {
        moved(&database::open_to_read(folder)?).map(|moved| moved.is_some()).map_err(|e| unreadable(&e))
    }

    /// `None`: something is open, or not signed.
    fn at_rest(lock: Lock, folder: &Path) -> Result<Option<Self>, OpenError> {
        restore::refuse_half_done(folder)?;
        let db = database::open_to_read(folder)?;
        database::known(&db, &folder.join(FILE))?;
        database::check_ends(&db)?;
        if !folder.join(tree_store::FILE).exists() {
            return Ok(None);
        }
        let tree = TreeStore::open_to_read(folder)?;
        tree.known()?;
        let leaving = Self { _lock: lock, folder: folder.to_owned(), db, tree };
        let is_moved = moved(&leaving.db).map_err(|e| unreadable(&e))?.is_some();
        let is_stop = |entry: serde_json::Value| entry.get("kind").is_some_and(|kind| kind == "stop");
        let last = database::last(&leaving.db).map_err(|e| unreadable(&e))?;
        let ended = last.and_then(|bytes| serde_json::from_slice(&bytes).ok()).is_some_and(is_stop);
        let open = database::in_flight(&leaving.db).map_err(|e| unreadable(&e))?;
        let (length, signed) = (database::length(&leaving.db)?, leaving.tree.signed()?);
        let signed = signed.map(|signed| head_of(&signed.note, &signed.key)).transpose()?;
        let is_signed = signed.is_some_and(|head| head.size == length);
        Ok((is_moved || (ended && open.is_empty() && is_signed)).then_some(leaving))
    }

    pub(in crate::ledger) fn moved(&self) -> Result<Option<Moved>, OpenError> {
        moved(&self.db).map_err(|e| unreadable(&e))
    }

    pub(in crate::ledger) fn luggage(&self) -> Result<Luggage, OpenError> {
        let nothing = || OpenError::Damaged("nothing of the ledger has been signed".to_owned());
        let signed = self.tree.signed()?.ok_or_else(nothing)?;
        let head = head_of(&signed.note, &signed.key)?;
        let beginning = prune::beginning(&self.db)?;
        Ok(Luggage { note: signed.note, key: signed.key, head, beginning })
    }

    pub(in crate::ledger) fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        database::read(&self.db, from, until)
    }

    /// The time of the last entry.
    pub(in crate::ledger) fn latest(&self) -> Result<Timestamp, OpenError> {
        let last = database::last(&self.db).map_err(|e| unreadable(&e))?.unwrap_or_default();
        let entry: Option<serde_json::Value> = serde_json::from_slice(&last).ok();
        let time = entry.as_ref().and_then(|entry| entry.get("time")?.as_str()).and_then(Timestamp::parse);
        time.ok_or_else(|| OpenError::Damaged("the ledger's last entry has no time".to_owned()))
    }

    /// What is frozen, as JSON.
    pub(in crate::ledger) fn freezes(&self) -> Result<Vec<String>, OpenError> {
        lists::freezes(&self.db).map_err(|e| unreadable(&e))
    }

    /// Some of the idempotency keys, behind the last one that was read; none: that was all.
    pub(in crate::ledger) fn keys(&self, after: Option<&KeptKey>) -> Result<Vec<KeptKey>, OpenError> {
        lists::keys(&self.db, after).map_err(|e| unreadable(&e))
    }

    /// Some of what is counted, as [`Leaving::keys`].
    pub(in crate::ledger) fn spent(&self, after: Option<&Spent>) -> Result<Vec<Spent>, OpenError> {
        lists::spent(&self.db, after).map_err(|e| unreadable(&e))
    }

    /// Some of what waits for a look at its picture, as [`Leaving::keys`].
    pub(in crate::ledger) fn waiting(&self, after: Option<&Waiting>) -> Result<Vec<Waiting>, OpenError> {
        lists::waiting(&self.db, after).map_err(|e| unreadable(&e))
    }

    /// The full tiles over what was pruned, before entry `first`, as far as they are there: nothing else makes them again.
    pub(in crate::ledger) fn pruned_tiles(
        &self,
        first: u64,
        mut take: impl FnMut(&[TileData]) -> Result<(), OpenError>,
    ) -> Result<(), OpenError> {
        let mut tiles = Vec::with_capacity(TILES);
        for level in 0_u8..7 {
            let width = u64::from(TILE_WIDTH) << (8 * u32::from(level));
            for tile in (0..first / width).filter_map(|index| Tile::new(level, index, TILE_WIDTH)) {
                // After a restore only the edge is left, which is kept beside the entries.
                let Ok(hashes) = self.tree.hashes(tile) else { continue };
                tiles.push(TileData { tile, bytes: hashes.iter().flat_map(|hash| *hash.as_bytes()).collect() });
                if tiles.len() == TILES {
                    take(&tiles)?;
                    tiles.clear();
                }
            }
        }
        if tiles.is_empty() { Ok(()) } else { take(&tiles) }
    }

    /// Marks it, durably: from now on nothing goes on with it here, whoever tries.
    ///
    /// # Errors
    /// The mark may be there all the same: the next run looks.
    pub(in crate::ledger) fn leave(&mut self, place: &str, head: &Head) -> Result<(), OpenError> {
        let failed = |e: rusqlite::Error| OpenError::Unusable(format!("the ledger cannot be marked as moved: {e}"));
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mark = || -> Sql<()> {
            let mut db = Connection::open_with_flags(self.folder.join(FILE), flags)?;
            db.busy_timeout(BUSY)?;
            db.execute_batch("PRAGMA synchronous = FULL; PRAGMA trusted_schema = OFF;")?;
            let change = db.transaction()?;
            mark_table(&change)?;
            let (time, entries) = (Timestamp::now().to_string(), head.size.cast_signed());
            let sql = "INSERT INTO moved (one, place, time, entries, root) VALUES (1, ?1, ?2, ?3, ?4)";
            change.execute(sql, (place, time, entries, head.root.to_string()))?;
            change.commit()?;
            // Also into the database itself: a copy of this one file has it, too.
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        };
        mark().map_err(failed)?;
        folder::sync(&self.folder)
    }
}

/// Opens the ledger as a start would, and closes it again.
fn settle(config: &config::Ledger) -> Result<(), OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| OpenError::Unusable(format!("the runtime cannot be started: {e}")))?;
    let (store, _) = Sqlite::open(config, Metrics::new().0)?;
    runtime.block_on(store.close());
    Ok(())
}
