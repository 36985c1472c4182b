//! `policy show`: the canonical form, a line for each caller.

use crate::cli::{Exit, page};
use crate::config;
use crate::policy::Canonical;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print the hash alone
    #[arg(long)]
    hash: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let loaded = match config::load(&options.config) {
        Ok(loaded) => loaded,
        Err(faults) => return page::faults(&options.config, &faults),
    };
    let canonical = Canonical::new(&loaded.config.callers);
    if options.hash {
        page::line(canonical.hash());
    } else {
        page::bytes(canonical.text().as_bytes());
    }
    Exit::Done
}
