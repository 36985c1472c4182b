//! `ledger copy`: the ledger of a folder goes on in a database.

use crate::cli::alone::{arm, complain, is_own, user};
use crate::cli::place::section;
use crate::cli::{Exit, page};
use crate::clock::{Moment, moment, since};
use crate::config;
use crate::ledger::OpenError;
use crate::ledger::copy::{Copied, CopyFault, Step, copy};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often it is said how far a step is: to people, and to files.
const SAY_EVERY: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(1)];

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The configuration with the ledger that moves, or its folder
    #[arg(long, value_name = "FILE|FOLDER")]
    from: PathBuf,
    /// The configuration with the PostgreSQL ledger that it becomes: empty, made by `migrate`, with the same signing key
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// Print JSON, one object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    if let Err(exit) = arm() {
        return exit;
    }
    // What is made in the folder is for its user alone.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    match moved(options) {
        Ok(copied) => {
            tell(&copied, options);
            Exit::Done
        }
        Err(exit) => exit,
    }
}

fn moved(options: &Options) -> Result<Copied, Exit> {
    let to = section(&options.to)?;
    if to.postgres.is_none() {
        let words = format!("--to {}: ledger.kind is \"sqlite\"; name \"postgres\" there", options.to.display());
        return Err(complain(Exit::Usage, &words));
    }
    let from = source(&options.from, &to)?;
    is_own(&from.path)?;
    let mut saying = Saying::new();
    let copied = copy(&from, &to, &user(), &mut |step, done, all| saying.at(step, done, all));
    saying.end();
    copied.map_err(|fault| match fault {
        CopyFault::Wish(words) => complain(Exit::Usage, &words),
        CopyFault::Ledger(error @ OpenError::Held(_)) => {
            page::ledger(&error);
            complain(Exit::Unavailable, "a ledger moves while nothing serves it, and nothing was moved")
        }
        CopyFault::Ledger(error @ OpenError::Damaged(_)) => page::ledger(&error),
        CopyFault::Ledger(error @ OpenError::Unusable(_)) => {
            let exit = page::ledger(&error);
            page::complain("the same command goes on where this one ended");
            exit
        }
    })
}

/// The ledger that moves. By its folder alone, its key is in it, or the one that it is to have.
fn source(from: &Path, to: &config::Ledger) -> Result<config::Ledger, Exit> {
    if from.is_dir() {
        let own = from.join("signing-key").exists();
        let signing_key_file = if own { None } else { to.signing_key_file.clone() };
        return Ok(config::Ledger { signing_key_file, ..config::Ledger::in_folder(from) });
    }
    let section = section(from)?;
    if section.postgres.is_some() {
        let words = format!("--from {}: ledger.kind is \"postgres\"; it has moved already", from.display());
        return Err(complain(Exit::Usage, &words));
    }
    Ok(section)
}

/// How far it is: a line a second for people, one in ten seconds for files, and one at the end of each step.
struct Saying {
    every: Duration,
    said: Moment,
    step: Option<(Step, Moment, u64)>,
}

impl Saying {
    fn new() -> Self {
        let [slow, fast] = SAY_EVERY;
        Self { every: if std::io::stderr().is_terminal() { fast } else { slow }, said: moment(), step: None }
    }

    fn at(&mut self, step: Step, done: u64, all: u64) {
        if self.step.is_none_or(|(is, ..)| is != step) {
            self.end();
            // What was done by an earlier run is not counted for the rate.
            self.step = Some((step, moment(), done));
        }
        let Some((_, begun, _)) = self.step else { return };
        self.step = Some((step, begun, done));
        if since(self.said) >= self.every {
            self.said = moment();
            let rate = rate(done, begun);
            let left_s = all.saturating_sub(done) / rate.max(1);
            let percent = done * 100 / all.max(1);
            let step = step.as_str();
            page::complain(format_args!("{step}: {done} of {all} entries ({percent} %), {rate}/s, {left_s} s left"));
        }
    }

    /// The step is done, or will not be.
    fn end(&mut self) {
        let Some((step, begun, done)) = self.step.take() else { return };
        let (step, seconds) = (step.as_str(), since(begun).as_secs_f64());
        page::complain(format_args!("{step}: {done} entries in {seconds:.1} s, {}/s", rate(done, begun)));
    }
}

fn rate(done: u64, begun: Moment) -> u64 {
    u64::try_from(u128::from(done) * 1000 / since(begun).as_millis().max(1)).unwrap_or(u64::MAX)
}

fn tell(copied: &Copied, options: &Options) {
    let Copied { origin, head, first, place, was_done } = copied;
    if options.json {
        page::json(&serde_json::json!({
            "origin": origin, "entries": head.size, "first": first, "root": head.root.to_string(), "place": place,
            "was_done": was_done,
        }));
        return;
    }
    if *was_done {
        page::line(format_args!(
            "the log {origin} had moved before: it goes on in {place}, behind {} entries",
            head.size
        ));
        return;
    }
    let from = options.from.display();
    page::line(format_args!(
        "the log {origin} goes on in {place}, behind {size} entries with the root {root}.
Start the replicas with {to}. Receipts and checkpoints of before verify as they did, with the same key.
{from} is marked: it can be read, and is never served again. Old logs beside it (`--log N`) stay there.",
        size = head.size,
        root = head.root,
        to = options.to.display(),
    ));
}
