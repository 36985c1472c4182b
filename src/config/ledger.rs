//! `[ledger]`, the one section that the reading commands need.

use super::Caller;
use super::budget::LONGEST;
use super::file;
use super::section::Section;
use crate::id::Origin;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What a ledger without a configuration keeps free: as the default says, so that what `serve` keeps is not made less.
const RESERVE_BYTES: u64 = 16 * 1024 * 1024;
const DAY: Duration = Duration::from_secs(86_400);

/// Where the database is, for several replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// A file with the connection URL, which is a secret: it holds the password.
    pub url_file: PathBuf,
    /// Certificates to trust instead of the public ones.
    pub ca_file: Option<PathBuf>,
}

/// Where the ledger is, and what signs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// A folder of the ledger's own; empty where it is a database.
    pub path: PathBuf,
    /// The database, where it is one.
    pub postgres: Option<Postgres>,
    /// How much disk space is kept for outcomes, in bytes.
    pub reserve_bytes: u64,
    /// The log's name in its checkpoints; `None` is that of the signing key.
    pub origin: Option<Origin>,
    /// What signs checkpoints; `None` is a key of the ledger's own, made at the first start.
    pub signing_key_file: Option<PathBuf>,
    /// Where the newest checkpoint is copied to: a file on another disk.
    pub checkpoint_copy: Option<PathBuf>,
    /// How long entries are kept at least; `None` keeps them all.
    pub retention: Option<Duration>,
    /// The longest window of any caller's budget.
    pub longest_budget: Duration,
}

impl Ledger {
    /// That of a folder, without a configuration: its key is in it, and no entry of it may go.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self { path: folder.to_owned(), reserve_bytes: RESERVE_BYTES, longest_budget: LONGEST, ..Self::default() }
    }

    /// `callers` are those whose budgets are counted from its entries.
    pub(super) fn read(mut section: Section, callers: &[Caller]) -> Self {
        let windows = callers.iter().flat_map(|caller| &caller.budgets).map(|budget| budget.per_s);
        let is_postgres = section.one_of("kind", &[("sqlite", false), ("postgres", true)]).unwrap_or(false);
        let reserve_bytes = 1024 * section.number("reserve_kib", 64, 16 * 1024 * 1024);
        let postgres = is_postgres.then(|| Postgres {
            url_file: section.required_path("url_file").unwrap_or_default(),
            ca_file: section.path("ca_file"),
        });
        let (path, signing_key_file) = if is_postgres {
            // Replicas sign one log: the key is a file that each of them is given.
            (PathBuf::new(), section.required_path("signing_key_file"))
        } else {
            (section.required_path("path").unwrap_or_default(), section.path("signing_key_file"))
        };
        let ledger = Self {
            path,
            postgres,
            reserve_bytes,
            origin: section.parsed_if_there("origin", |text| Origin::parse(text).map_err(|fault| fault.to_string())),
            signing_key_file,
            checkpoint_copy: section.path("checkpoint_copy"),
            retention: section
                .number_if_there("retention_days", 1, 36_500)
                .map(|days| DAY * u32::try_from(days).unwrap_or(u32::MAX)),
            longest_budget: Duration::from_secs(windows.max().unwrap_or(0).into()),
        };
        let is_within = |copy| ledger.postgres.is_none() && file::is_within(&ledger.path, copy);
        if ledger.checkpoint_copy.as_deref().is_some_and(is_within) {
            let what = "is in ledger.path: whoever takes or changes that folder has the copy, too; name a file elsewhere, \
                        on another disk";
            section.fault("checkpoint_copy", None, what);
        }
        section.finish();
        ledger
    }
}
