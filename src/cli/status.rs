//! `status`: what is frozen, and how the process that serves stands. Exit 0 also when none does.

use super::alone::{complain, is_served, silent};
use super::place::Place;
use super::{Exit, page};
use crate::clock::Timestamp;
use crate::config;
use crate::gateway::brake::{Frozen, Status};
use crate::ledger::freeze::Freeze;
use crate::ledger::postgres::Acting;
use crate::ledger::sqlite::SqliteReader;
use crate::ledger::{OpenError, Reader};
use crate::server::control::{NotHeard, Said, Verb, ask};

#[derive(clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let section = match options.place.section() {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    if section.postgres.is_some() {
        return shared(&section, options.json).unwrap_or_else(|error| page::ledger(&error));
    }
    let (serving, freezes) = match ask(&section.path, &Verb::Status, Said::status) {
        Ok(status) => (Some(status), Vec::new()),
        Err(NotHeard::No(words)) => return complain(Exit::Unavailable, &words),
        Err(NotHeard::Silent(words)) => return silent(&section.path, &words),
        Err(NotHeard::Nobody) if is_served(&section.path) => {
            return silent(&section.path, "it does not listen on control.sock");
        }
        Err(NotHeard::Nobody) => match at_rest(&section) {
            Ok(freezes) => (None, freezes),
            Err(error) => return page::ledger(&error),
        },
    };
    if options.json {
        page::line(match &serving {
            Some(status) => serde_json::json!({"serving": status, "freezes": status.freezes}),
            None => serde_json::json!({"serving": null, "freezes": freezes}),
        });
        return Exit::Done;
    }
    let freezes = match serving {
        None => {
            page::line("no process serves this ledger");
            freezes
        }
        Some(status) => {
            shown(&status);
            status.freezes
        }
    };
    frozen(&freezes);
    Exit::Done
}

/// What is frozen in a ledger that no process serves. What an earlier one left open has no outcome before the next start.
fn at_rest(section: &config::Ledger) -> Result<Vec<Frozen>, OpenError> {
    let ledger = SqliteReader::open(&section.path)?;
    let frozen = ledger.freezes()?.in_force(Timestamp::now()).into_iter();
    let open = |freeze: &Freeze| ledger.covered(&freeze.covers).map(Some);
    frozen.map(|freeze| Ok(Frozen { open: open(&freeze)?, freeze })).collect()
}

/// The replicas of a database, and what is frozen for all of them.
fn shared(section: &config::Ledger, json: bool) -> Result<Exit, OpenError> {
    let ledger = Acting::open(section)?;
    let (replicas, mut freezes) = (ledger.replicas()?, Vec::new());
    for freeze in ledger.freezes()?.in_force(ledger.now()?) {
        freezes.push(Frozen { open: Some(ledger.covered(&freeze.covers)?), freeze });
    }
    if json {
        page::line(serde_json::json!({"replicas": replicas, "freezes": freezes}));
        return Ok(Exit::Done);
    }
    if replicas.is_empty() {
        page::line("no replica serves this ledger");
    } else {
        let rows = replicas.iter().map(|replica| {
            let stands = if replica.is_dead { "its lease is over" } else { "alive" };
            let (started, open) = (replica.started.clone(), replica.open.to_string());
            vec![replica.id.clone(), stands.to_owned(), started, replica.version.clone(), replica.policy.clone(), open]
        });
        page::line(page::table(&["replica", "stands", "since", "version", "policy", "open"], rows));
        let live = || replicas.iter().filter(|replica| !replica.is_dead);
        if live().any(|one| live().any(|other| (&one.version, &one.policy) != (&other.version, &other.policy))) {
            page::complain("the replicas differ in version or policy");
        }
    }
    frozen(&freezes);
    Ok(Exit::Done)
}

fn frozen(freezes: &[Frozen]) {
    if freezes.is_empty() {
        page::line("nothing is frozen");
        return;
    }
    let rows = freezes.iter().map(|Frozen { freeze, open }| {
        let until = freeze.until.map_or_else(|| "somebody unfreezes it".to_owned(), |until| until.to_string());
        let open = open.as_ref().map_or_else(|| "not known".to_owned(), |open| open.len().to_string());
        vec![freeze.covers.to_string(), until, freeze.reason.clone(), freeze.by.clone(), open]
    });
    page::line(page::table(&["frozen", "until", "reason", "by", "still open"], rows));
}

fn shown(status: &Status) {
    let Status { version, process, policy, ledger, draining, degraded, .. } = status;
    let draining = if *draining { ", shutting down" } else { "" };
    page::line(format_args!("process {process}, version {version}{draining}; the ledger is {ledger}"));
    page::line(format_args!("policy {policy}"));
    if !degraded.is_empty() {
        page::line(format_args!("degraded: {}", degraded.join(", ")));
    }
}
