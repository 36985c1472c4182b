//! `audit`: asking the ledger, beside a running gateway or without one.

mod backup;
mod checkpoint;
mod export;
mod prove;
mod prune;
mod reindex;
mod restore;
mod search;
mod show;
mod stats;
mod tail;
mod tiles;
mod verify;

use super::place::Place;
use super::{Exit, page};
use crate::clock::{Timestamp, parse_span};
use crate::config::{self, file};
use crate::ledger::checkpoint::by_form;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::prune::Pruned;
use crate::ledger::stored::Stored;
use crate::ledger::verify::Kept;
use crate::ledger::{OpenError, Reader};
pub(super) use search::table;
use std::path::Path;
pub(super) use verify::of as verified;

/// A key's line is far shorter.
const KEY_AT_MOST: u64 = 1024;
/// A checkpoint is far shorter.
const NOTE_AT_MOST: u64 = 256 * 1024;

#[derive(clap::Args)]
pub(super) struct Common {
    #[command(flatten)]
    place: Place,
    /// An older log of this ledger, that a restore has left behind: its number
    #[arg(long, value_name = "N")]
    log: Option<u32>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Requests, newest first
    Search(search::Options),
    /// Everything about one request
    Show(show::Options),
    /// The latest entries; with -f also those to come
    Tail(tail::Options),
    /// All entries, ascending: their bytes, one a line (JSON Lines), or CSV
    Export(export::Options),
    /// How many requests ended how, per caller and day
    Stats(stats::Options),
    /// Copy the ledger into one file, beside a running gateway or without one, and verify the copy
    Backup(backup::Options),
    /// Put a backup back, or begin a new log where entries are lost; no process may be serving this ledger
    Restore(restore::Options),
    /// Whether the ledger is what was signed: names the first bad entry. Or one receipt, offline
    Verify(verify::Options),
    /// The newest signed head of the log, to be kept elsewhere
    Checkpoint(checkpoint::Options),
    /// A request's entries with receipts that verify offline
    Prove(prove::Options),
    /// Remove old entries and keep their hashes; beside a running gateway or without one
    Prune(prune::Options),
    /// Build the search data anew; no process may be serving this ledger
    Reindex(reindex::Options),
}

/// Reads a span such as `2h` (so long ago), a date or a time.
pub(super) fn when(text: &str) -> Result<Timestamp, String> {
    let span = parse_span(text).map(|span| Timestamp::now().before(span));
    span.or_else(|| Timestamp::parse(text))
        .ok_or_else(|| "is neither a span (2h, 7d) nor a date nor a time (2026-11-24T08:00:00Z)".to_owned())
}

/// Whether nothing can be between two times, which is said then.
fn is_empty(since: Option<Timestamp>, until: Option<Timestamp>) -> bool {
    let (Some(since), Some(until)) = (since, until) else { return false };
    if since >= until {
        page::complain(format_args!("--since {since} is not before --until {until}: nothing is between them"));
    }
    since >= until
}

/// A verification key: the line itself, or a file with it.
fn key_of(text: &str) -> Result<VerifyingKey, String> {
    let fault = match VerifyingKey::parse(text) {
        Ok(key) => return Ok(key),
        Err(fault) => fault,
    };
    match file::read(Path::new(text), KEY_AT_MOST) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Err(format!("--vkey {text}: it {fault}, and no file")),
        Err(e) => Err(format!("--vkey {text}: {e}")),
        Ok(bytes) => VerifyingKey::parse(String::from_utf8_lossy(bytes.expose()).trim_end())
            .map_err(|fault| format!("--vkey {text}: what is in the file {fault}")),
    }
}

/// The checkpoint that `--checkpoint` names. Whether it is one of this log is for those who have the key.
fn kept(path: Option<&Path>) -> Result<Option<Kept>, String> {
    let Some(path) = path else { return Ok(None) };
    let place = path.display().to_string();
    let text = file::read_text(path, NOTE_AT_MOST).map_err(|e| format!("--checkpoint {place}: {e}"))?;
    let note = by_form(&text).map_err(|what| format!("--checkpoint {place}: {what}"))?;
    Ok(Some(Kept { place, note: note.to_owned() }))
}

/// The ledger that is meant: with a number, an older log of it, which is in a folder of the ledger's own.
fn of_log(ledger: config::Ledger, number: Option<u32>) -> Result<config::Ledger, Exit> {
    match number {
        None => Ok(ledger),
        Some(_) if ledger.postgres.is_some() => {
            page::complain("--log is for a ledger in a folder; name another database in ledger.url_file");
            Err(Exit::Usage)
        }
        Some(number) => {
            let path = ledger.path.join(number.to_string());
            if !path.is_dir() {
                page::complain(format_args!("there is no older log {number}: no folder {}", path.display()));
                return Err(Exit::Unavailable);
            }
            Ok(config::Ledger { path, ..ledger })
        }
    }
}

/// Says that some of what is asked for was pruned, where it was: that which is not younger than `since`.
fn mention_pruned(ledger: &dyn Reader, since: Option<Timestamp>) -> Result<(), OpenError> {
    let is_asked =
        |pruned: &Pruned| since.is_none_or(|since| Timestamp::parse(&pruned.before).is_none_or(|is| since < is));
    if let Some(pruned) = ledger.pruned()?.filter(is_asked) {
        say_pruned(&pruned);
    }
    Ok(())
}

fn say_pruned(pruned: &Pruned) {
    page::complain(format_args!("entries before {} were pruned (entry {} says so)", pruned.first, pruned.seq));
}

fn with_ledger(common: &Common, ask: impl FnOnce(&Stored) -> Result<Exit, OpenError>) -> Exit {
    writing(common, None, ask)
}

/// Asks the ledger of a configuration of which nothing else has to be right.
pub(super) fn with_ledger_of(config: &Path, ask: impl FnOnce(&Stored) -> Result<Exit, OpenError>) -> Exit {
    with_ledger(&Common { place: Place::new(Some(config.to_owned()), None), log: None, json: false }, ask)
}

/// As [`with_ledger`], for what also writes to `to`: nothing but the ledger belongs into its folder.
fn writing(common: &Common, to: Option<&Path>, ask: impl FnOnce(&Stored) -> Result<Exit, OpenError>) -> Exit {
    let ledger = match common.place.section() {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    if let Some(to) = to.filter(|to| ledger.postgres.is_none() && file::is_within(&ledger.path, to)) {
        page::complain(format_args!("{} is in the ledger's own folder; name another folder", to.display()));
        return Exit::Usage;
    }
    let ledger = match of_log(ledger, common.log) {
        Ok(ledger) => ledger,
        Err(exit) => return exit,
    };
    Stored::open(&ledger).and_then(|ledger| ask(&ledger)).unwrap_or_else(|e| page::ledger(&e))
}

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::Search(options) => with_ledger(&options.common, |ledger| search::run(options, ledger)),
        Command::Show(options) => with_ledger(&options.common, |ledger| show::run(options, ledger)),
        Command::Tail(options) => with_ledger(&options.common, |ledger| tail::run(options, ledger)),
        Command::Export(options) => {
            writing(&options.common, options.tiles.as_deref(), |ledger| export::run(options, ledger))
        }
        Command::Stats(options) => with_ledger(&options.common, |ledger| stats::run(options, ledger)),
        Command::Backup(options) => backup::run(options),
        Command::Restore(options) => restore::run(options),
        Command::Verify(options) => verify::run(options),
        Command::Checkpoint(options) => with_ledger(&options.common, |ledger| checkpoint::run(options, ledger)),
        Command::Prove(options) => writing(&options.common, Some(&options.out), |ledger| prove::run(options, ledger)),
        Command::Prune(options) => prune::run(options),
        Command::Reindex(options) => reindex::run(options),
    }
}
