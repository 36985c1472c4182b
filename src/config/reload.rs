//! `[reload]`: what is read again while it runs.

use super::section::Section;
use std::time::Duration;

/// Whether changed files are read again without being told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reload {
    /// Whether files are watched; SIGHUP works either way.
    pub watch: bool,
    /// How long between two looks at them.
    pub interval: Duration,
}

impl Reload {
    pub(super) fn read(mut section: Section) -> Self {
        let watch = section.flag("watch");
        let interval = Duration::from_millis(section.number("interval_ms", 50, 3_600_000));
        section.finish();
        Self { watch, interval }
    }
}
