//! Commands that act on a ledger that no process serves: they hold it themselves, as a start of `serve` would, so that
//! what was under way is closed first. And what they say of a process that serves and does not answer.

use super::{Exit, page};
use crate::config;
use crate::ledger::sqlite::{self, Sqlite, SqliteReader};
use crate::ledger::{Ledger, OpenError};
use crate::server::control::by;
use crate::telemetry::Metrics;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A ledger, held by this command. Ends with [`Alone::close`].
pub(super) struct Alone {
    pub(super) store: Sqlite,
    /// Who acts, as entries name it.
    pub(super) by: String,
    runtime: tokio::runtime::Runtime,
}

impl Alone {
    /// Opens a ledger that is there. Where there is none, none is made; another user's is left to that one.
    ///
    /// # Errors
    /// The exit, after it was said why.
    pub(super) fn open(section: &config::Ledger) -> Result<Self, Exit> {
        SqliteReader::open(&section.path).map_err(|error| page::ledger(&error))?;
        is_own(&section.path)?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime =
            runtime.map_err(|e| complain(Exit::Unavailable, &format!("the runtime cannot be started: {e}")))?;
        match Sqlite::open(section, Metrics::new().0) {
            Ok((store, _)) => Ok(Self { store, by: user(), runtime }),
            Err(OpenError::Held(_)) => Err(silent(&section.path, "it does not listen on control.sock")),
            Err(error) => Err(page::ledger(&error)),
        }
    }

    /// Waits for an answer of the store.
    pub(super) fn wait<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }

    pub(super) fn close(self) {
        self.runtime.block_on(self.store.close());
    }
}

/// Refuses a ledger of another user: what is made in it would be ours. Where there is none, root makes none in another
/// user's folder.
///
/// # Errors
/// The exit, after it was said why.
pub(super) fn is_own(folder: &Path) -> Result<(), Exit> {
    let us = rustix::process::geteuid().as_raw();
    let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let places = folder.ancestors().take(if us == 0 { usize::MAX } else { 1 });
    let found = places.map(|path| (path, std::fs::metadata(path))).find_map(|(path, is)| Some((path, is.ok()?)));
    match found {
        Some((path, is)) if is.uid() != us => {
            let words = format!("{} belongs to uid {}: do this as that user", path.display(), is.uid());
            Err(complain(Exit::Unavailable, &words))
        }
        Some(_) | None => Ok(()),
    }
}

/// Who runs this command, as entries name it.
pub(super) fn user() -> String {
    by(rustix::process::geteuid().as_raw())
}

pub(super) fn complain(exit: Exit, words: &str) -> Exit {
    page::complain(words);
    exit
}

/// Makes this process fail where the environment says, in a build that can.
///
/// # Errors
/// How to end, told: the environment names what there is not.
pub(super) fn arm() -> Result<(), Exit> {
    #[cfg(debug_assertions)]
    crate::failpoint::arm(crate::config::failpoints().map_err(|what| complain(Exit::Usage, &what))?);
    Ok(())
}

/// Whether a process holds the ledger, whatever it is called: its socket may be gone.
pub(super) fn is_served(folder: &Path) -> bool {
    sqlite::is_held(folder)
}

/// A process serves the ledger, and does not answer, or not in words that are understood. Or its socket was left behind.
pub(super) fn silent(folder: &Path, words: &str) -> Exit {
    let who = match sqlite::holder(folder) {
        Some(_) if !is_served(folder) => "nothing serves this ledger, but its control.sock is there and".to_owned(),
        Some(pid) => format!("process {pid} holds this ledger and"),
        None => "the process that serves holds this ledger and".to_owned(),
    };
    complain(Exit::Unavailable, &format!("{who} is not to be talked to: {words}"))
}
