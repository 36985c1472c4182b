//! A copy of the ledger as one file, made beside the process that writes or without one.
//!
//! SQLite's backup API starts again at the first page whenever another process has committed, and never ends beside
//! a busy writer, or it holds one snapshot all the time, and the write-ahead log grows without bound. Entries only
//! grow at their end, so they are copied in short reads of their own; the last read takes, in the same transaction,
//! the small tables that belong to exactly these entries.

use super::database::{self, FILE, Statements, is_full};
use super::tree_store::{self, Signed, TreeStore, shown};
use super::{folder, moving, prune};
use crate::config::file::is_within;
use crate::ledger::OpenError;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::glance::Glance;
use crate::ledger::tree::{Head, Tree, leaf_hash};
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The rows of one read transaction; with the largest entries there are, 64 MiB of memory.
const STEP: u64 = 1_000;
/// The steps between two syncs: one large sync at the end would hold up the commits of the ledger on the same disk.
const SYNC_EVERY: usize = 8;

/// A verified copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// How many entries it has: all whose answer came before it began, and some after.
    pub entries: u64,
    /// The time of the last one; `None` without entries.
    pub last_time: Option<String>,
    /// The newest checkpoint when it began: the first entries of the copy have this root. `None` before the first one.
    pub checkpoint: Option<Head>,
    /// Why the copy could not be compared with a checkpoint, where there should be one.
    pub warning: Option<String>,
    /// The length of the file.
    pub bytes: u64,
}

/// Why there is no copy. Nothing is left under its name.
#[derive(Debug)]
pub enum BackupFault {
    /// It cannot be called so, in these words: the name is taken, or its folder does not exist or is the ledger's.
    Name(String),
    /// The ledger cannot be read, or the copy cannot be written.
    Ledger(OpenError),
}

impl From<OpenError> for BackupFault {
    fn from(error: OpenError) -> Self {
        Self::Ledger(error)
    }
}

/// Copies the ledger in `folder` to the new file `to`, which has mode 0600. It is written under a temporary name beside
/// it, synced, read again and only then given its name. `progress` hears what was done with how many of how many
/// entries.
///
/// # Errors
/// [`BackupFault::Name`] where `to` exists, or its folder does not or is the ledger's; [`OpenError::Damaged`] where the ledger has a gap,
/// cannot be read or is not what was signed, or the copy is not what was written; [`OpenError::Unusable`] where there
/// is no ledger, no room or no permission.
pub fn backup(
    folder: &Path,
    to: &Path,
    mut progress: impl FnMut(&'static str, u64, u64),
) -> Result<Backup, BackupFault> {
    let ledger = database::open_to_read(folder)?;
    database::known(&ledger, &folder.join(FILE))?;
    // Who puts one back could go on with it.
    moving::refuse_moved(&ledger)?;
    // Read before the entries, and after where they begin: what was signed was committed, and covers what says so.
    let first = prune::first(&ledger)?;
    let (signed, warning) = match signed(folder) {
        Ok(signed) => (signed, None),
        Err(error) => (None, Some(error.to_string())),
    };
    let place = Place::take(to, folder)?;
    let end = copy(&ledger, &place, first, signed.as_ref().map(|(signed, _)| signed), &mut progress)?;
    place.sync()?;
    let checkpoint = signed.map(|(_, head)| head);
    let last_time = verify(&place, first, end, checkpoint.as_ref(), &mut progress)?;
    Ok(Backup { entries: end - first, last_time, checkpoint, warning, bytes: place.keep()? })
}

/// What was signed last, by the key that is stored with it.
fn signed(folder: &Path) -> Result<Option<(Signed, Head)>, OpenError> {
    if !folder.join(tree_store::FILE).exists() {
        return Ok(None);
    }
    let Some(signed) = TreeStore::open_to_read(folder)?.signed()? else { return Ok(None) };
    let wrong = |what: String| OpenError::Damaged(format!("{}: {what}", tree_store::FILE));
    let key = VerifyingKey::parse(&signed.key).map_err(|fault| wrong(format!("its key {fault}")))?;
    let checkpoint = Checkpoint::verify(&signed.note, &key).map_err(|fault| wrong(fault.to_string()))?;
    Ok(Some((signed, *checkpoint.head())))
}

type Progress<'a> = &'a mut dyn FnMut(&'static str, u64, u64);

/// The temporary file; gone with this value unless it is kept.
struct Place {
    to: PathBuf,
    folder: PathBuf,
    temporary: PathBuf,
    kept: bool,
}

impl Place {
    fn take(to: &Path, ledger: &Path) -> Result<Self, BackupFault> {
        let shown = to.display();
        let Some(name) = to.file_name() else {
            return Err(BackupFault::Name(format!("{shown} is not the name of a file")));
        };
        if to.symlink_metadata().is_ok() {
            return Err(BackupFault::Name(taken(to)));
        }
        let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if is_within(ledger, to) {
            return Err(BackupFault::Name(format!("{shown} is in the ledger's own folder; name another folder")));
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.part", std::process::id()));
        let temporary = folder.join(temporary);
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary) {
            Ok(_) => Ok(Self { to: to.to_owned(), folder: folder.to_owned(), temporary, kept: false }),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Err(BackupFault::Name(format!("there is no folder {}; make it first", folder.display())))
            }
            Err(e) if e.kind() == ErrorKind::StorageFull => Err(self::full(folder).into()),
            Err(e) => Err(OpenError::Unusable(format!("{shown} cannot be written: {e}")).into()),
        }
    }

    fn failed(&self, error: &rusqlite::Error) -> OpenError {
        if is_full(error) {
            return full(&self.folder);
        }
        OpenError::Unusable(format!("{} cannot be written: {error}", self.to.display()))
    }

    fn open(&self, flags: OpenFlags) -> Result<Connection, OpenError> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        Connection::open_with_flags(&self.temporary, flags).map_err(|e| self.failed(&e))
    }

    fn sync(&self) -> Result<(), OpenError> {
        let synced = File::open(&self.temporary).and_then(|file| file.sync_all());
        synced.map_err(|e| {
            if e.kind() == ErrorKind::StorageFull {
                return full(&self.folder);
            }
            OpenError::Unusable(format!("{} cannot be synced: {e}", self.to.display()))
        })
    }

    /// Gives the file its name, durably; returns its length. A file that has come under this name in between stays.
    fn keep(mut self) -> Result<u64, BackupFault> {
        let unusable =
            |e: std::io::Error| OpenError::Unusable(format!("{} cannot be given its name: {e}", self.to.display()));
        let bytes = std::fs::metadata(&self.temporary).map_err(unusable)?.len();
        match rename(&self.temporary, &self.to) {
            Ok(()) => {}
            Err(e) if e.kind() == ErrorKind::AlreadyExists => return Err(BackupFault::Name(taken(&self.to))),
            Err(e) => return Err(unusable(e).into()),
        }
        self.kept = true;
        folder::sync(&self.folder)?;
        Ok(bytes)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

fn taken(to: &Path) -> String {
    format!("{} is there already, and a backup overwrites nothing; give another name", to.display())
}

fn full(folder: &Path) -> OpenError {
    OpenError::Unusable(format!(
        "there is no room for the backup in {}; make room, or name another folder",
        folder.display()
    ))
}

/// Renames without replacing; where the file system cannot do that, after a look.
fn rename(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if to.symlink_metadata().is_err() => {
            std::fs::rename(from, to)
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => Err(ErrorKind::AlreadyExists.into()),
        done => done.map_err(Into::into),
    }
}

/// A table as it stands in the schema, and its rows.
pub(super) struct Table {
    pub(super) name: String,
    rows: Vec<Vec<Value>>,
}

/// What one read took; the last one also has the other tables.
struct Piece {
    entries: Vec<(u64, Vec<u8>)>,
    others: Option<Vec<Table>>,
}

/// Copies the entries from `first` on; returns the number after the last.
fn copy(
    ledger: &Connection,
    place: &Place,
    first: u64,
    signed: Option<&Signed>,
    progress: Progress<'_>,
) -> Result<u64, OpenError> {
    let unreadable = |e: rusqlite::Error| OpenError::Damaged(format!("the ledger cannot be read: {e}"));
    let schema = database::schema(ledger).map_err(unreadable)?;
    let all = database::length(ledger)?;
    let copy = place.open(OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let written = |e: rusqlite::Error| place.failed(&e);
    copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE;")
        .and_then(|()| database::mark(&copy))
        .and_then(|()| schema.iter().try_for_each(|sql| copy.execute_batch(sql)))
        .and_then(|()| tree_store::signed_table(&copy))
        .and_then(|()| signed.map_or(Ok(()), |signed| tree_store::put_signed(&copy, &signed.note, &signed.key)))
        .map_err(written)?;
    let pruned = || OpenError::Unusable("the ledger was pruned while it was copied; try again".to_owned());
    let mut next = first;
    for step in 1_usize.. {
        let piece = read(ledger, next)?;
        let mut statements = Statements::new(&copy).map_err(written)?;
        database::begin(&copy).map_err(written)?;
        for (seq, bytes) in &piece.entries {
            if *seq != next {
                if prune::first(ledger)? > next {
                    return Err(pruned());
                }
                return Err(OpenError::Damaged(format!("the ledger has no entry {next}")));
            }
            statements.append(*seq, bytes).map_err(written)?;
            next += 1;
        }
        for table in piece.others.iter().flatten() {
            fill(&copy, table).map_err(written)?;
        }
        database::commit(&copy).map_err(written)?;
        progress("copied", next - first, all.max(next) - first);
        if piece.others.is_some() {
            break;
        }
        if step % SYNC_EVERY == 0 {
            place.sync()?;
        }
    }
    // What was copied beside the entries would say that the log begins later than they do.
    if prune::first(&copy)? != first {
        return Err(pruned());
    }
    copy.close().map_err(|(_, e)| place.failed(&e))?;
    Ok(next)
}

/// Up to [`STEP`] entries from `from` on; where these are the last, also everything else, as it was in that moment.
fn read(ledger: &Connection, from: u64) -> Result<Piece, OpenError> {
    let unreadable = |e: rusqlite::Error| OpenError::Damaged(format!("the ledger cannot be read: {e}"));
    let snapshot = ledger.unchecked_transaction().map_err(unreadable)?;
    let entries = database::read(&snapshot, from, from.saturating_add(STEP))?;
    let last = u64::try_from(entries.len()).is_ok_and(|read| read < STEP);
    let others = last.then(|| others(&snapshot)).transpose().map_err(unreadable)?;
    snapshot.finish().map_err(unreadable)?;
    Ok(Piece { entries, others })
}

pub(super) fn others(ledger: &Connection) -> rusqlite::Result<Vec<Table>> {
    let mut statement = ledger.prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name <> 'entry'")?;
    let names = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
    names.into_iter().map(|name| Ok(Table { rows: rows(ledger, &name)?, name })).collect()
}

fn rows(ledger: &Connection, name: &str) -> rusqlite::Result<Vec<Vec<Value>>> {
    let mut statement = ledger.prepare(&format!("SELECT * FROM \"{name}\""))?;
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|column| row.get(column)).collect())?;
    rows.collect()
}

pub(super) fn fill(copy: &Connection, table: &Table) -> rusqlite::Result<()> {
    let Some(first) = table.rows.first() else { return Ok(()) };
    let places = vec!["?"; first.len()].join(", ");
    let mut statement = copy.prepare(&format!("INSERT INTO \"{}\" VALUES ({places})", table.name))?;
    table.rows.iter().try_for_each(|row| statement.execute(rusqlite::params_from_iter(row)).map(drop))
}

/// Reads the file as anyone would: a whole database, a ledger, all entries without a gap, the last one an entry, and
/// the first ones those that were signed. Returns the last one's time.
fn verify(
    place: &Place,
    first: u64,
    end: u64,
    checkpoint: Option<&Head>,
    progress: Progress<'_>,
) -> Result<Option<String>, OpenError> {
    let wrong = |what: &str| OpenError::Damaged(format!("the copy of the ledger is not whole: {what}"));
    let failed = |e: rusqlite::Error| wrong(&e.to_string());
    let copy = place.open(OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    database::known_backup(&copy, &place.temporary)?;
    let checked: String = copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)).map_err(failed)?;
    if checked != "ok" {
        return Err(wrong(&checked));
    }
    let sql = "SELECT count(*), coalesce(min(seq), 0), coalesce(max(seq), -1) + 1 FROM entry";
    let (count, lowest, beyond): (i64, i64, i64) =
        copy.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).map_err(failed)?;
    let is = (count.cast_unsigned(), lowest.cast_unsigned(), beyond.cast_unsigned());
    if end > 0 && is != (end - first, first, end) {
        let wanted = end - first;
        return Err(wrong(&format!("it has {count} entries from {lowest} to {beyond}, and {wanted} were copied")));
    }
    if let Some(checkpoint) = checkpoint {
        compare(&copy, first, checkpoint, progress)?;
    }
    let Some(last) = database::last(&copy).map_err(failed)? else { return Ok(None) };
    Ok(Some(Glance::at(end.saturating_sub(1), &last)?.time.to_string()))
}

/// Whether the first entries have the root that was signed for them.
fn compare(copy: &Connection, first: u64, checkpoint: &Head, progress: Progress<'_>) -> Result<(), OpenError> {
    let mut tree = match prune::beginning(copy)?.filter(|(pruned, _)| pruned.first == first) {
        None => Tree::new(),
        Some((pruned, edge)) => pruned.tree(&edge)?,
    };
    while tree.size() < checkpoint.size {
        let first = tree.size();
        for (_, entry) in database::read(copy, first, checkpoint.size.min(first.saturating_add(STEP)))? {
            let _complete = tree.append(leaf_hash(&entry));
        }
        if tree.size() == first {
            break;
        }
        progress("verified", tree.size(), checkpoint.size);
    }
    if tree.head() == *checkpoint {
        return Ok(());
    }
    Err(OpenError::Damaged(format!(
        "the ledger is not what was signed, {}: its first entries are {}; entries were changed or cut off",
        shown(checkpoint),
        shown(&tree.head())
    )))
}
