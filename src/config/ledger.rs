//! `[ledger]`, the one section that the reading commands need.

use super::file;
use super::section::Section;
use crate::id::Origin;
use std::path::PathBuf;

/// Where the ledger is, and what signs it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// A folder of the ledger's own.
    pub path: PathBuf,
    /// How much disk space is kept for outcomes, in bytes.
    pub reserve_bytes: u64,
    /// The log's name in its checkpoints; `None` is that of the signing key.
    pub origin: Option<Origin>,
    /// What signs checkpoints; `None` is a key of the ledger's own, made at the first start.
    pub signing_key_file: Option<PathBuf>,
    /// Where the newest checkpoint is copied to: a file on another disk.
    pub checkpoint_copy: Option<PathBuf>,
}

impl Ledger {
    pub(super) fn read(mut section: Section) -> Self {
        section.one_of("kind", &[("sqlite", ())]);
        let ledger = Self {
            path: section.required_path("path").unwrap_or_default(),
            reserve_bytes: 1024 * section.number("reserve_kib", 64, 16 * 1024 * 1024),
            origin: section.parsed_if_there("origin", |text| Origin::parse(text).map_err(|fault| fault.to_string())),
            signing_key_file: section.path("signing_key_file"),
            checkpoint_copy: section.path("checkpoint_copy"),
        };
        if ledger.checkpoint_copy.as_deref().is_some_and(|copy| file::is_within(&ledger.path, copy)) {
            let what = "is in ledger.path: whoever takes or changes that folder has the copy, too; name a file elsewhere, \
                        on another disk";
            section.fault("checkpoint_copy", None, what);
        }
        section.finish();
        ledger
    }
}
