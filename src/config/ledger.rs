//! `[ledger]`, the one section that the reading commands need.

use super::section::Section;
use std::path::PathBuf;

/// Where the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ledger {
    /// A folder of the ledger's own.
    pub path: PathBuf,
    /// How much disk space is kept for outcomes, in bytes.
    pub reserve_bytes: u64,
}

impl Ledger {
    pub(super) fn read(mut section: Section) -> Self {
        section.one_of("kind", &[("sqlite", ())]);
        let ledger = Self {
            path: section.required_path("path").unwrap_or_default(),
            reserve_bytes: 1024 * section.number("reserve_kib", 64, 16 * 1024 * 1024),
        };
        section.finish();
        ledger
    }
}
