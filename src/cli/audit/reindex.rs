//! `audit reindex`: builds the search data anew from the ledger.

use super::{Common, of_log};
use crate::cli::alone::is_own;
use crate::cli::{Exit, page};
use crate::clock::{moment, since};
use crate::ledger::{postgres, sqlite};
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
}

pub(super) fn run(options: &Options) -> Exit {
    let section = match options.common.place.section().and_then(|ledger| of_log(ledger, options.common.log)) {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    let (started, mut said) = (moment(), moment());
    let progress = |done: u64, all: u64| {
        if since(said) >= Duration::from_secs(1) {
            said = moment();
            page::complain(format_args!("{done} of {all} entries ({} %)", done * 100 / all.max(1)));
        }
    };
    let built = match &section.postgres {
        Some(_) => postgres::reindex(&section, progress),
        None => match is_own(&section.path) {
            Ok(()) => sqlite::reindex(&section.path, progress),
            Err(exit) => return exit,
        },
    };
    match built {
        Ok(entries) => {
            let seconds = since(started).as_secs_f64();
            if options.common.json {
                page::json(&serde_json::json!({"entries": entries, "seconds": seconds}));
            } else {
                page::line(format_args!("{entries} entries, {seconds:.1} s: the search data are built"));
            }
            Exit::Done
        }
        Err(error) => page::ledger(&error),
    }
}
