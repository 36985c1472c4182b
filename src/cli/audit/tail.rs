//! `audit tail`: the latest entries, and with `-f` those to come.

use super::{Common, export};
use crate::cli::Exit;
use crate::ledger::{OpenError, Reader};
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many to begin with
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: u64,
}

pub(super) fn run(options: &Options, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    let mut next = Some(ledger.length()?.saturating_sub(options.lines));
    while let Some(from) = next {
        next = export::lines(ledger, from, export::whole)?.filter(|_| options.follow);
        if next.is_some() {
            std::thread::sleep(Duration::from_millis(200));
        }
    }
    Ok(Exit::Done)
}
