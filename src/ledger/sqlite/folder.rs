//! The ledger's folder: the lock that keeps a second writer out, and the reserve that keeps room for
//! outcomes when the disk is full.

use crate::clock::{moment, since};
use crate::ledger::OpenError;
use rusqlite::OpenFlags;
use rustix::fs::{Access, access};
use rustix::io::Errno;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For how long a lock that is not ours may be that of somebody who only looks, and how often it is tried meanwhile.
const BEARING: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(2);

/// Held for life. The lock goes with the process, however it ends.
pub(super) struct Lock {
    _file: File,
    folder: PathBuf,
    watched: Vec<Watched>,
}

/// A file as it was when the ledger was opened.
pub(super) struct Watched {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// It is read as it is, so nobody may begin to write it: its length and when it was changed.
    still: Option<(u64, i64, i64)>,
}

impl Watched {
    pub(super) fn new(path: PathBuf) -> std::io::Result<Self> {
        let is = std::fs::metadata(&path)?;
        Ok(Self { path, device: is.dev(), inode: is.ino(), still: None })
    }

    /// A database that is about to be opened with these flags of [`reading`].
    pub(super) fn read_with(path: PathBuf, flags: OpenFlags) -> std::io::Result<Self> {
        let is = std::fs::metadata(&path)?;
        let still = flags.contains(AS_IT_IS).then(|| (is.len(), is.mtime(), is.mtime_nsec()));
        Ok(Self { path, device: is.dev(), inode: is.ino(), still })
    }

    pub(super) fn is_there(&self) -> bool {
        let Ok(is) = std::fs::metadata(&self.path) else { return false };
        let is_written = self.still.is_some_and(|still| {
            still != (is.len(), is.mtime(), is.mtime_nsec())
                || ["-wal", "-shm"].iter().any(|end| beside(&self.path, end))
        });
        (is.dev(), is.ino()) == (self.device, self.inode) && !is_written
    }
}

impl Lock {
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |what: &str, e: std::io::Error| OpenError::Unusable(format!("{} {what}: {e}", folder.display()));
        if folder.exists() && !folder.is_dir() {
            return Err(no_folder(folder));
        }
        create(folder).map_err(|e| unusable("cannot be created", e))?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join("lock"))
            .map_err(|e| unusable("cannot be written to", e))?;
        match exclusively(&file) {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(OpenError::Held(text.trim().parse().ok()));
            }
            Err(TryLockError::Error(e)) => return Err(unusable("cannot be locked", e)),
        }
        let name = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        let mut name = name;
        name().map_err(|e| unusable("cannot be written to", e))?;
        let watched = Vec::new();
        Ok(Self { _file: file, folder: folder.to_owned(), watched })
    }

    /// From now on these files of the folder, and the lock, are to stay where they are. A file with a second name is
    /// refused: under that name another process could write to it.
    pub(super) fn watch(&mut self, names: &[&str]) -> Result<(), OpenError> {
        for name in names.iter().chain(&["lock"]) {
            let path = self.folder.join(name);
            let unusable = |what: String| OpenError::Unusable(format!("{} {what}", path.display()));
            let links = std::fs::metadata(&path).map(|is| is.nlink());
            match links {
                Ok(1) => {}
                Ok(links) => {
                    return Err(unusable(format!(
                        "has {links} names (hard links); copy it with `audit backup` instead, and remove the others"
                    )));
                }
                Err(error) => return Err(unusable(format!("cannot be looked at: {error}"))),
            }
            let watched = Watched::new(path.clone()).map_err(|e| unusable(format!("cannot be looked at: {e}")))?;
            self.watched.push(watched);
        }
        Ok(())
    }

    /// Whether the files are where they were.
    ///
    /// # Errors
    /// Names the one that is not.
    pub(super) fn still_holds(&self) -> Result<(), String> {
        match self.watched.iter().find(|watched| !watched.is_there()) {
            None => Ok(()),
            Some(gone) => Err(format!("{} was removed or replaced while it was open", gone.path.display())),
        }
    }
}

/// What has to be free beside the reserve before a full disk counts as one with room.
const HEADROOM: u64 = 256 * 1024;

/// Disk space that is given back when there is no other.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Takes the space.
    pub(super) fn new(folder: &Path, bytes: u64) -> Self {
        let mut reserve = Self { path: folder.join("reserve"), bytes, held: false };
        reserve.take(0);
        reserve
    }

    pub(super) fn held(&self) -> bool {
        self.held
    }

    /// Gives the space back, for outcomes.
    pub(super) fn release(&mut self) {
        self.held = false;
        if let Ok(file) = OpenOptions::new().write(true).open(&self.path) {
            let _ = file.set_len(0);
        }
    }

    /// Tries to take the space again, and only where as much is left beside it as a few intents need: else
    /// the disk would be full again with the next one. Returns whether it is held now.
    pub(super) fn restore(&mut self) -> bool {
        self.take(HEADROOM)
    }

    fn take(&mut self, beside: u64) -> bool {
        let allocate = || -> std::io::Result<()> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes + beside)?;
            file.set_len(self.bytes)?;
            file.sync_all()
        };
        self.held = allocate().is_ok();
        if !self.held {
            self.release();
        }
        self.held
    }
}

/// Makes the folder where it is not, and its name durable: else a power failure could take a new ledger as a
/// whole. What was there and may not be read, such as a parent that systemd hides, was not made here.
fn create(folder: &Path) -> std::io::Result<()> {
    // Above a name without a folder, or above `.`, there is nothing that could be opened.
    let folder = &*std::path::absolute(folder)?;
    let missing = folder.ancestors().take_while(|path| !path.exists()).count();
    std::fs::create_dir_all(folder)?;
    for parent in folder.ancestors().skip(1).take(missing.max(1)) {
        match File::open(parent) {
            Ok(parent) => parent.sync_all()?,
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Locks a file for this process alone. Who looks with [`is_held`] is borne with.
fn exclusively(file: &File) -> Result<(), TryLockError> {
    let began = moment();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if since(began) < BEARING => std::thread::sleep(PAUSE),
            locked => return locked,
        }
    }
}

/// Whether a process holds the ledger in this folder. It is asked for with a shared lock that is let go at once. That is
/// `flock`'s, which closing this file takes from nobody else.
pub(super) fn is_held(folder: &Path) -> bool {
    File::open(folder.join("lock")).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

fn no_folder(path: &Path) -> OpenError {
    OpenError::Unusable(format!("{} is not a folder; ledger.path names one", path.display()))
}

/// A file of a ledger's folder that can be read; where it is not there, `none` says so. It is not opened: closing it would
/// let go of the locks that SQLite holds on it in this process.
pub(super) fn readable(folder: &Path, name: &str, none: &str) -> Result<PathBuf, OpenError> {
    let file = folder.join(name);
    let Err(error) = access(&file, Access::READ_OK).map_err(std::io::Error::from) else { return Ok(file) };
    if error.kind() == ErrorKind::NotFound {
        return Err(OpenError::Unusable(none.to_owned()));
    }
    if error.kind() == ErrorKind::NotADirectory && !folder.is_dir() {
        return Err(no_folder(folder));
    }
    let (user, file) = (rustix::process::geteuid().as_raw(), file.display());
    Err(OpenError::Unusable(format!("{file} may not be read by this user, uid {user}: {error}")))
}

/// Whether the database has that file of SQLite's beside it.
fn beside(database: &Path, end: &str) -> bool {
    let mut name = database.as_os_str().to_owned();
    name.push(end);
    Path::new(&name).exists()
}

/// Only what is read as it is has its name as a URI.
const AS_IT_IS: OpenFlags = OpenFlags::SQLITE_OPEN_URI;

/// How a database is opened for reading, by its name or as a URI. As long as nobody has it open, SQLite makes a file beside
/// it to read it; where that cannot be made, it is read as it is. Of a disk that is mounted elsewhere too, somebody may
/// begin to write it all the same: [`Watched::read_with`] notices.
pub(super) fn reading(file: &Path) -> Result<(PathBuf, OpenFlags), OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match access(folder, Access::WRITE_OK) {
        _ if beside(file, "-shm") => Ok((file.to_owned(), flags)),
        Err(Errno::ROFS) if !beside(file, "-wal") => {
            let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
            let spelt = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
            let path: String = file.as_os_str().as_bytes().iter().copied().map(spelt).collect();
            Ok((PathBuf::from(format!("file:{path}?immutable=1")), flags | AS_IT_IS))
        }
        Err(error) => {
            let user = rustix::process::geteuid().as_raw();
            Err(OpenError::Unusable(format!(
                "uid {user} may not write into {} ({}). To read a ledger that nothing serves, SQLite has to: read it as \
                 another user, or a copy of the folder",
                folder.display(),
                std::io::Error::from(error)
            )))
        }
        Ok(()) => Ok((file.to_owned(), flags)),
    }
}

/// Makes the names of new files in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), OpenError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| OpenError::Unusable(format!("{} cannot be synced: {e}", folder.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn who_looks_whether_a_ledger_is_held_is_told_and_keeps_nobody_from_taking_it() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!is_held(folder.path()), "there is no lock yet");
        drop(Lock::take(folder.path()).unwrap());
        let both = Barrier::new(2);
        for _ in 0..500 {
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let looking = File::open(folder.path().join("lock")).unwrap();
                    looking.try_lock_shared().unwrap();
                    both.wait();
                });
                both.wait();
                assert!(Lock::take(folder.path()).is_ok(), "a look kept it from being taken");
            });
        }
        assert!(!is_held(folder.path()));
        let _held = Lock::take(folder.path()).unwrap();
        assert!(is_held(folder.path()));
        assert!(matches!(Lock::take(folder.path()), Err(OpenError::Held(Some(_)))));
    }
}
