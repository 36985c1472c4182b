//! The ledger's folder: the lock that keeps a second writer out, and the reserve that keeps room for
//! outcomes when the disk is full.

use crate::ledger::OpenError;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Held for life. The lock goes with the process, however it ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    pub(super) fn take(folder: &Path) -> Result<Self, OpenError> {
        let unusable = |what: &str, e: std::io::Error| OpenError::Unusable(format!("{} {what}: {e}", folder.display()));
        std::fs::create_dir_all(folder).map_err(|e| unusable("cannot be created", e))?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(folder.join("lock"))
            .map_err(|e| unusable("cannot be written to", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(OpenError::Held(text.trim().parse().ok()));
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(unusable("cannot be locked", e)),
        }
        let name = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            writeln!(file, "{}", std::process::id())
        };
        let mut name = name;
        name().map_err(|e| unusable("cannot be written to", e))?;
        Ok(Self { _file: file })
    }
}

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
        reserve.restore();
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

    /// Tries to take the space again. Returns whether it is held now.
    pub(super) fn restore(&mut self) -> bool {
        let allocate = || -> std::io::Result<()> {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)?;
            rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes)?;
            file.sync_all()
        };
        self.held = allocate().is_ok();
        if !self.held {
            self.release();
        }
        self.held
    }
}

/// Makes the names of new files in a folder durable.
pub(super) fn sync(folder: &Path) -> Result<(), OpenError> {
    let synced = File::open(folder).and_then(|folder| folder.sync_all());
    synced.map_err(|e| OpenError::Unusable(format!("{} cannot be synced: {e}", folder.display())))
}
