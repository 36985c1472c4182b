//! `audit prune`: removes old entries, through the process that serves or, where none does, by itself.

use super::{Common, section, when};
use crate::cli::{Exit, page};
use crate::clock::{Moment, Timestamp, moment, since};
use crate::config;
use crate::ledger::prune::{Order, Prune, Stage, Why};
use crate::ledger::sqlite::{self, Sqlite, SqliteReader};
use crate::ledger::{Ledger, OpenError};
use crate::server::control::{NotHeard, Said, Verb, ask, by};
use crate::telemetry::Metrics;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Between two questions how far it is.
const PAUSE: Duration = Duration::from_millis(100);
/// How long nothing may move before the command ends and leaves the rest to the process, or to the next try.
const STUCK: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Only entries from before then: a date or a time (UTC), or a span such as 400d
    #[arg(long, value_name = "WHEN", value_parser = when)]
    before: Timestamp,
}

pub(super) fn run(options: &Options) -> Exit {
    let section = match section(&options.common.config) {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    // Asked first: where there is no ledger, none is made.
    if let Err(error) = SqliteReader::open(&section.path) {
        return page::ledger(&error);
    }
    let verb = Verb::Prune { before: options.before.to_string() };
    let mut watch = Watch { json: options.common.json, moved: moment(), stage: Stage::Idle, said: moment() };
    match ask(&section.path, &verb) {
        Ok(Said::No(words)) => complain(Exit::Restart, &words),
        Ok(Said::Pruning(_)) => watch.until_end(|| through(&section.path)),
        Err(NotHeard::Silent(words)) => silent(&section.path, &words),
        Err(NotHeard::Nobody) => alone(&section, options.before, &mut watch),
    }
}

fn complain(exit: Exit, words: &str) -> Exit {
    page::complain(words);
    exit
}

fn silent(folder: &Path, words: &str) -> Exit {
    let process =
        sqlite::holder(folder).map_or_else(|| "the process that serves".to_owned(), |pid| format!("process {pid}"));
    complain(Exit::Unavailable, &format!("{process} holds this ledger and is not to be talked to: {words}"))
}

/// How far the process that serves is.
fn through(folder: &Path) -> Result<Stage, Exit> {
    match ask(folder, &Verb::Pruning) {
        Ok(Said::Pruning(stage)) => Ok(stage),
        Ok(Said::No(words)) => Err(complain(Exit::Unavailable, &words)),
        Err(NotHeard::Silent(words)) => Err(silent(folder, &words)),
        Err(NotHeard::Nobody) => Err(complain(
            Exit::Restart,
            "the process that serves has ended meanwhile; what it began, its next start goes on with",
        )),
    }
}

/// Opens the ledger as a start of `serve` would.
fn alone(section: &config::Ledger, before: Timestamp, watch: &mut Watch) -> Exit {
    let user = rustix::process::geteuid().as_raw();
    match std::fs::metadata(&section.path) {
        Ok(is) if is.uid() != user => {
            let words = format!("{} belongs to uid {}: prune as that user", section.path.display(), is.uid());
            return complain(Exit::Unavailable, &words);
        }
        Ok(_) | Err(_) => {}
    }
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let ledger = match Sqlite::open(section, Metrics::new().0) {
        Ok((ledger, _)) => ledger,
        Err(OpenError::Held(_)) => return silent(&section.path, "it does not listen on control.sock"),
        Err(error) => return page::ledger(&error),
    };
    // Where the start has found an earlier one to go on with, that is watched, and then what was asked for.
    let mut exit = Exit::Done;
    if ledger.pruning().is_under_way() {
        exit = watch.until_end(|| Ok(ledger.pruning()));
    }
    if exit == Exit::Done {
        let begun = ledger.prune(Order { before, by: by(user) });
        exit = begun.map_or(Exit::Restart, |()| watch.until_end(|| Ok(ledger.pruning())));
    }
    match tokio::runtime::Builder::new_current_thread().build() {
        Ok(runtime) => runtime.block_on(ledger.close()),
        Err(error) => return complain(Exit::Unavailable, &format!("the runtime cannot be started: {error}")),
    }
    exit
}

/// Watches it until it ends, or nothing moves any more.
struct Watch {
    json: bool,
    stage: Stage,
    moved: Moment,
    said: Moment,
}

impl Watch {
    fn until_end(&mut self, mut ask: impl FnMut() -> Result<Stage, Exit>) -> Exit {
        loop {
            let stage = match ask() {
                Ok(stage) => stage,
                Err(exit) => return exit,
            };
            if !stage.is_under_way() {
                return self.end(&stage);
            }
            if stage != self.stage {
                (self.stage, self.moved) = (stage, moment());
            }
            if since(self.moved) >= STUCK {
                return self.stuck();
            }
            if since(self.said) >= Duration::from_secs(1) {
                self.said = moment();
                page::progress(&progress(&self.stage));
            }
            std::thread::sleep(PAUSE);
        }
    }

    fn end(&self, stage: &Stage) -> Exit {
        if self.json {
            page::line(serde_json::to_string(stage).unwrap_or_default());
        }
        let (exit, words) = match stage {
            Stage::Done { first, removed, seq } => (
                Exit::Done,
                format!(
                    "{removed} entries are gone; the log is kept from entry {first} on, and entry {seq} says so. Their hashes \
                     stay. Backups and copies of the folder still hold them"
                ),
            ),
            Stage::Nothing { first } => {
                (Exit::Done, format!("nothing to prune: no whole bundle of 256 signed entries after {first} is older"))
            }
            Stage::Ended { why, words } => {
                page::complain(words);
                return match why {
                    Why::Usage => Exit::Usage,
                    Why::No => Exit::No,
                    Why::Unavailable => Exit::Unavailable,
                    Why::Damaged => Exit::Damaged,
                };
            }
            Stage::Idle
            | Stage::Looking { .. }
            | Stage::Signing { .. }
            | Stage::Forgetting
            | Stage::Deleting { .. }
            | Stage::Emptying { .. } => (Exit::Restart, "it was begun anew; ask again".to_owned()),
        };
        if !self.json {
            page::line(words);
        }
        exit
    }

    fn stuck(&self) -> Exit {
        if self.json {
            page::line(serde_json::to_string(&self.stage).unwrap_or_default());
        }
        let words = if let Stage::Emptying { removed } = &self.stage {
            format!(
                "{removed} entries are removed, but another program reads the ledger and keeps their bytes in the \
                 write-ahead log: end it (fuser -v on ledger.db-wal names it). A process that serves goes on by itself; \
                 otherwise ask again"
            )
        } else {
            let (stage, seconds) = (progress(&self.stage), STUCK.as_secs());
            format!("{stage}, and nothing has moved for {seconds} s; it is gone on with: ask again")
        };
        complain(Exit::Restart, &words)
    }
}

/// A stage in words.
fn progress(stage: &Stage) -> String {
    match stage {
        Stage::Looking { done, of } => format!("{done} of {of} entries are held against their hashes"),
        Stage::Signing { seq } => format!("entry {seq} waits for its checkpoint"),
        Stage::Forgetting => "the search data forget them".to_owned(),
        Stage::Deleting { done, of } => format!("{done} of {of} entries are removed"),
        Stage::Emptying { .. } => "the write-ahead log is emptied".to_owned(),
        Stage::Idle | Stage::Done { .. } | Stage::Nothing { .. } | Stage::Ended { .. } => "it is at its end".to_owned(),
    }
}
