//! `audit prune`: removes old entries, through the process that serves or, where none does, by itself.

use super::{Common, of_log, when};
use crate::cli::alone::{Alone, arm, complain, silent, user};
use crate::cli::{Exit, page};
use crate::clock::{Moment, Timestamp, moment, parse_span, since};
use crate::config;
use crate::ledger::postgres::Pruning;
use crate::ledger::prune::{Order, Prune, Stage, Why};
use crate::ledger::sqlite::SqliteReader;
use crate::server::control::{NotHeard, Said, Verb, ask};
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
    #[arg(long, value_name = "WHEN", value_parser = before)]
    before: Before,
}

/// A point in time, or one that is so long ago by the clock that the ledger goes by.
#[derive(Clone, Copy)]
enum Before {
    Ago(Duration),
    At(Timestamp),
}

impl Before {
    fn at(self, now: Timestamp) -> Timestamp {
        match self {
            Before::Ago(span) => now.before(span),
            Before::At(time) => time,
        }
    }
}

fn before(text: &str) -> Result<Before, String> {
    parse_span(text).map_or_else(|| when(text).map(Before::At), |span| Ok(Before::Ago(span)))
}

pub(super) fn run(options: &Options) -> Exit {
    if let Err(exit) = arm() {
        return exit;
    }
    let section = match options.common.place.section().and_then(|ledger| of_log(ledger, options.common.log)) {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    if options.common.log.is_some() {
        let words =
            "an older log is not written to any more, so it is not pruned either; it goes as a whole, with its folder";
        return complain(Exit::Usage, &format!("{}: {words}", section.path.display()));
    }
    if section.postgres.is_some() {
        return shared(options, &section);
    }
    // Asked first: where there is no ledger, none is made.
    if let Err(error) = SqliteReader::open(&section.path) {
        return page::ledger(&error);
    }
    let before = options.before.at(Timestamp::now());
    let verb = Verb::Prune { before: before.to_string() };
    let mut watch = Watch::new(options.common.json);
    match ask(&section.path, &verb, Said::pruning) {
        Ok(_) => watch.until_end(|| through(&section.path)),
        Err(NotHeard::No(words)) => complain(Exit::Restart, &words),
        Err(NotHeard::Silent(words)) => silent(&section.path, &words),
        Err(NotHeard::Nobody) => alone(&section, before, &mut watch),
    }
}

/// In a ledger that replicas share: recorded here, carried out by the one that keeps the tree.
fn shared(options: &Options, section: &config::Ledger) -> Exit {
    let mut watch = Watch::new(options.common.json);
    let mut pruning = match Pruning::open(section) {
        Ok(pruning) => pruning,
        Err(error) => return page::ledger(&error),
    };
    // An earlier one that is not at its end is watched first, and then what was asked for.
    let watched = match pruning.is_under_way() {
        Ok(true) => watch.until_end(|| pruning.stage().map_err(|error| page::ledger(&error))),
        Ok(false) => Exit::Done,
        Err(error) => page::ledger(&error),
    };
    if watched != Exit::Done {
        return watched;
    }
    let now = match pruning.now() {
        Ok(now) => now,
        Err(error) => return page::ledger(&error),
    };
    let order = Order { before: options.before.at(now), by: user(), longest_budget: section.longest_budget };
    let looking = |done, of| page::progress(&progress(&Stage::Looking { done, of }));
    match pruning.begin(&order, looking) {
        Ok(()) => watch.until_end(|| pruning.stage().map_err(|error| page::ledger(&error))),
        Err(stage) => watch.end(&stage),
    }
}

/// How far the process that serves is.
fn through(folder: &Path) -> Result<Stage, Exit> {
    match ask(folder, &Verb::Pruning, Said::pruning) {
        Ok(stage) => Ok(stage),
        Err(NotHeard::No(words)) => Err(complain(Exit::Unavailable, &words)),
        Err(NotHeard::Silent(words)) => Err(silent(folder, &words)),
        Err(NotHeard::Nobody) => Err(complain(
            Exit::Restart,
            "the process that serves has ended meanwhile; what it began, its next start goes on with",
        )),
    }
}

fn alone(section: &config::Ledger, before: Timestamp, watch: &mut Watch) -> Exit {
    let ledger = match Alone::open(section) {
        Ok(ledger) => ledger,
        Err(exit) => return exit,
    };
    // Where the start has found an earlier one to go on with, that is watched, and then what was asked for.
    let mut exit = Exit::Done;
    if ledger.store.pruning().is_under_way() {
        exit = watch.until_end(|| Ok(ledger.store.pruning()));
    }
    if exit == Exit::Done {
        let begun = ledger.store.prune(Order { before, by: ledger.by.clone(), longest_budget: section.longest_budget });
        exit = begun.map_or(Exit::Restart, |()| watch.until_end(|| Ok(ledger.store.pruning())));
    }
    ledger.close();
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
    fn new(json: bool) -> Self {
        Self { json, moved: moment(), stage: Stage::Idle, said: moment() }
    }

    fn until_end(&mut self, mut ask: impl FnMut() -> Result<Stage, Exit>) -> Exit {
        self.moved = moment();
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
