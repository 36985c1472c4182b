//! `[resolver]`: whether, when and how often the picture is looked at after an outcome that is `unknown`.

use super::section::Section;
use std::time::Duration;

/// How the resolver works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resolver {
    /// Whether it runs at all. What waits for it is kept either way.
    pub enabled: bool,
    /// From an outcome to the first look; the second one comes as long after it, then the wait doubles.
    pub delay: Duration,
    /// How many looks there are before it is `indeterminate`.
    pub attempts: u32,
}

impl Resolver {
    pub(super) fn read(mut section: Section) -> Self {
        let resolver = Self {
            enabled: section.flag("enabled"),
            delay: Duration::from_secs(section.number("delay_s", 1, 86_400)),
            attempts: u32::try_from(section.number("attempts", 1, 100)).unwrap_or(1),
        };
        section.finish();
        resolver
    }
}
