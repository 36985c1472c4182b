//! `check-config`: all faults, or all effective values with where each comes from.

use super::{Exit, page};
use crate::config;
use std::path::Path;

pub(super) fn run(file: &Path) -> Exit {
    match config::load(file) {
        Err(faults) => page::faults(file, &faults),
        Ok(loaded) => {
            page::line(page::table(&["key", "value", "from"], loaded.effective.into_iter().map(Vec::from)));
            for warning in loaded.warnings {
                page::complain(format_args!("warning: {warning}"));
            }
            Exit::Done
        }
    }
}
