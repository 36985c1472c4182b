//! Moving what was made ready into its place, and what was there aside. Each step is done at most once, whoever does
//! it: a restore that was interrupted is finished by the next one, and nothing starts before it is.

use crate::config;
use crate::ledger::OpenError;
use crate::ledger::sqlite::{database, folder, sealing, tree_store};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

const STAGING: &str = "restoring";
/// Holds the name of the folder for what is moved aside, and the old log's number where a new one begins.
const READY: &str = "ready";
const KEY: &str = "signing-key";

fn unusable(path: &Path, e: &dyn std::fmt::Display) -> OpenError {
    OpenError::Unusable(format!("{}: {e}", path.display()))
}

/// Whether a restore was interrupted while it moved files.
pub(super) fn is_ready(ledger: &Path) -> bool {
    ledger.join(STAGING).join(READY).exists()
}

/// Refuses a folder in which a restore has moved some of the files, and not yet all.
pub(in crate::ledger::sqlite) fn refuse_half_done(ledger: &Path) -> Result<(), OpenError> {
    if !is_ready(ledger) {
        return Ok(());
    }
    Err(OpenError::Unusable(format!(
        "a restore of {} was interrupted; `audit restore` with the same configuration finishes it",
        ledger.display()
    )))
}

/// An empty folder in which all is made ready. What an earlier attempt has left there is its own and incomplete.
pub(super) fn stage(ledger: &Path) -> Result<PathBuf, OpenError> {
    let staging = ledger.join(STAGING);
    leave(&staging)?;
    make(&staging)?;
    Ok(staging)
}

fn make(path: &Path) -> Result<(), OpenError> {
    std::fs::DirBuilder::new().mode(0o700).create(path).map_err(|e| unusable(path, &e))
}

/// Removes what was made ready.
pub(super) fn leave(staging: &Path) -> Result<(), OpenError> {
    match std::fs::remove_dir_all(staging) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(unusable(staging, &e)),
        _ => Ok(()),
    }
}

/// Whether key and copy of a new log can be put where the configuration wants them.
pub(super) fn can_be_written(config: &config::Ledger) -> Result<(), OpenError> {
    for file in [Some(&sealing::key_file(config)), config.checkpoint_copy.as_ref()].into_iter().flatten() {
        let probe = beside(file, "probe");
        let made = OpenOptions::new().write(true).create(true).truncate(true).open(&probe);
        made.and_then(|_| std::fs::remove_file(&probe)).map_err(|e| {
            unusable(file, &format!("a new log needs it to be moved aside and made anew, but that cannot be done: {e}"))
        })?;
    }
    Ok(())
}

fn beside(file: &Path, end: &str) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{end}"));
    file.with_file_name(name)
}

/// Writes down that all is ready, and moves it. `number` is that of the old log where a new one begins.
pub(super) fn begin(config: &config::Ledger, staging: &Path, number: Option<u64>) -> Result<(), OpenError> {
    let free = (1..).map(|n: u32| format!("replaced-{n}")).find(|name| !config.path.join(name).exists());
    let text = format!("{}\n{}\n", free.unwrap_or_default(), number.map_or_else(String::new, |n| n.to_string()));
    folder::sync(staging)?;
    sealing::write_durably(&staging.join(READY), text.as_bytes(), 0o600).map_err(|e| unusable(staging, &e))?;
    folder::sync(&config.path)?;
    finish(config)
}

/// Moves everything that was not moved yet.
pub(super) fn finish(config: &config::Ledger) -> Result<(), OpenError> {
    let (ledger, staging) = (&config.path, config.path.join(STAGING));
    let text = std::fs::read_to_string(staging.join(READY)).map_err(|e| unusable(&staging, &e))?;
    let mut lines = text.lines();
    let aside = ledger.join(lines.next().unwrap_or_default());
    let number = lines.next().filter(|number| !number.is_empty());
    if !aside.exists() {
        make(&aside)?;
    }
    let old = staging.join("old");
    // Without a new log, what is made ready of the old one is the ledger.
    let source = if number.is_some() { &staging } else { &old };
    for name in [database::FILE, tree_store::FILE] {
        if source.join(name).exists() {
            set_aside(ledger, name, &aside)?;
            rename(&source.join(name), &ledger.join(name))?;
        }
    }
    set_aside(ledger, "search.db", &aside)?;
    if let Some(number) = number {
        replace_key(config, &staging.join(KEY), &aside, number)?;
        if let Some(copy) = config.checkpoint_copy.as_ref().filter(|copy| copy.exists()) {
            rename(copy, &unused(copy, number))?;
        }
        if old.exists() {
            rename(&old, &ledger.join(number))?;
        }
    }
    folder::sync(&aside)?;
    folder::sync(ledger)?;
    std::fs::remove_file(staging.join(READY)).map_err(|e| unusable(&staging, &e))?;
    leave(&staging)?;
    folder::sync(ledger)
}

/// Moves a database with what belongs to it.
fn set_aside(ledger: &Path, name: &str, aside: &Path) -> Result<(), OpenError> {
    for end in ["-wal", "-shm", "-journal", ""] {
        let name = format!("{name}{end}");
        if ledger.join(&name).symlink_metadata().is_ok() {
            rename(&ledger.join(&name), &aside.join(&name))?;
        }
    }
    Ok(())
}

/// Puts the new log's key in the place of the old one's, which stays beside it.
fn replace_key(config: &config::Ledger, new: &Path, aside: &Path, number: &str) -> Result<(), OpenError> {
    let Ok(bytes) = std::fs::read(new).map(zeroize::Zeroizing::new) else { return Ok(()) };
    let file = sealing::key_file(config);
    let is_there = std::fs::read(&file).map(zeroize::Zeroizing::new).is_ok_and(|there| *there == *bytes);
    if !is_there {
        if file.exists() {
            let to = if config.signing_key_file.is_some() { unused(&file, number) } else { aside.join(KEY) };
            rename(&file, &to)?;
        }
        sealing::write_durably(&file, &bytes, 0o600).map_err(|e| unusable(&file, &e))?;
    }
    std::fs::remove_file(new).map_err(|e| unusable(new, &e))
}

/// A name for an older file beside it that is not taken.
fn unused(file: &Path, number: &str) -> PathBuf {
    let names = std::iter::once(number.to_owned()).chain((1..).map(|n: u32| format!("{number}.{n}")));
    let mut free = names.map(|end| beside(file, &end)).filter(|path| path.symlink_metadata().is_err());
    free.next().unwrap_or_else(|| beside(file, number))
}

fn rename(from: &Path, to: &Path) -> Result<(), OpenError> {
    std::fs::rename(from, to).map_err(|e| unusable(from, &format!("cannot be moved to {}: {e}", to.display())))?;
    let folder = to.parent().unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| unusable(folder, &e))
}
