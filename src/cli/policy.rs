//! `policy`: rules as something to be tested, shown and compared.

mod diff;
mod recorded;
mod show;
mod test;

use super::Exit;
use crate::clock::Timestamp;
use crate::error::{NotAllowed, Refused};
use crate::problem::Problem;
use std::sync::Arc;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Hold a configuration against a table of expected decisions: exit 0 when all are as expected, 1 when not
    Test(test::Options),
    /// What differs between two configurations: in their rules, or in what they say to what is recorded: exit 0 when nothing does, 1 when something does
    Diff(diff::Options),
    /// Print the policy's canonical form, whose SHA-256 is the hash in the ledger
    Show(show::Options),
}

type Decision = Result<Arc<str>, NotAllowed>;

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::Test(options) => test::run(options),
        Command::Diff(options) => diff::run(options),
        Command::Show(options) => show::run(options),
    }
}

/// Reads a time or a date from the command line.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::parse(text).ok_or_else(|| "is neither a date nor a time (2026-11-24T08:00:00Z)".to_owned())
}

/// Whether it is allowed, and in words by what, or why not.
pub(super) fn said(decision: &Decision) -> (bool, String) {
    match decision {
        Ok(rule) => (true, format!("rule {rule} allows it")),
        Err(why) => (false, Problem::from(&Refused::from(why.clone())).detail.into_owned()),
    }
}

/// A decision in few words: `allowed by c.allow[0]`, `refused by c.deny[1]`, `refused`.
fn brief(decision: &Decision) -> String {
    let (word, rule) = match decision {
        Ok(rule) => ("allowed", Some(Arc::clone(rule))),
        Err(why) => ("refused", why.rule()),
    };
    rule.map_or_else(|| word.to_owned(), |rule| format!("{word} by {rule}"))
}
