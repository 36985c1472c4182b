//! `audit verify`: holds the whole ledger against what proves it, or one receipt against a key.

use super::{key_of, section};
use crate::cli::{Exit, page};
use crate::clock::{moment, since};
use crate::config::file;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::sqlite::SqliteReader;
use crate::ledger::tree::Head;
use crate::ledger::verify::{Kept, Report, verify};
use crate::ledger::{OpenError, ProofReader, receipt};
use std::path::{Path, PathBuf};

/// What is read of a file with an entry, a receipt or a checkpoint: more than any of them has.
const FILE_AT_MOST: u64 = 1024 * 1024;
/// How many open intents are named.
const NAMED: usize = 10;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The configuration; only its [ledger] has to be right
    #[arg(long, value_name = "FILE", required_unless_present = "receipt")]
    config: Option<PathBuf>,
    /// Print JSON, one object
    #[arg(long)]
    json: bool,
    /// A checkpoint that was kept elsewhere: shows a rollback. Without it, what `ledger.checkpoint_copy` names
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The verification key, or a file with it, as it was kept elsewhere; without it, the one in the ledger's folder
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Option<String>,
    /// Offline, without a ledger: one entry's bytes, and the receipt that `audit prove` wrote for them
    #[arg(long, num_args = 2, value_names = ["ENTRY_FILE", "PROOF_FILE"], requires = "vkey")]
    #[arg(conflicts_with_all = ["config", "checkpoint"])]
    receipt: Option<Vec<PathBuf>>,
}

pub(super) fn run(options: &Options) -> Exit {
    let key = match options.vkey.as_deref().map(key_of).transpose() {
        Ok(key) => key,
        Err(words) => {
            page::complain(words);
            return Exit::Usage;
        }
    };
    match (options.receipt.as_deref(), &options.config, key) {
        (Some([entry, proof]), _, Some(key)) => one(entry, proof, &key, options.json),
        (_, Some(config), key) => whole(options, config, key),
        _ => Exit::Usage,
    }
}

/// Reads a file, or says why it cannot be.
fn read(file: &Path) -> Result<Vec<u8>, OpenError> {
    let bytes = file::read(file, FILE_AT_MOST);
    bytes.map(|bytes| bytes.expose().clone()).map_err(|e| OpenError::Unusable(format!("{}: {e}", file.display())))
}

fn read_text(file: &Path) -> Result<String, OpenError> {
    String::from_utf8(read(file)?).map_err(|_| OpenError::Damaged(format!("{}: it is not UTF-8", file.display())))
}

fn one(entry: &Path, proof: &Path, key: &VerifyingKey, json: bool) -> Exit {
    let (bytes, text) = match read(entry).and_then(|bytes| Ok((bytes, read_text(proof)?))) {
        Ok(read) => read,
        Err(error) => return page::ledger(&error),
    };
    match receipt::verify(&bytes, &text, key) {
        Ok(proven) if json => {
            let (origin, index, size) = (proven.origin.as_str(), proven.index, proven.size);
            page::line(serde_json::json!({"ok": true, "origin": origin, "index": index, "size": size}));
            Exit::Done
        }
        Ok(proven) => {
            page::line(format_args!(
                "proven: {} is entry {} of {}, in a tree of {} entries whose head this key has signed",
                entry.display(),
                proven.index,
                proven.origin,
                proven.size
            ));
            Exit::Done
        }
        Err(fault) => {
            if json {
                page::line(serde_json::json!({"ok": false, "fault": fault.to_string()}));
            }
            page::complain(format_args!("{}: {fault}", proof.display()));
            if bytes.ends_with(b"\n") {
                page::complain(format_args!("{} ends with a line feed; no entry does", entry.display()));
            }
            Exit::No
        }
    }
}

fn whole(options: &Options, config: &Path, key: Option<VerifyingKey>) -> Exit {
    let section = match section(config) {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    // The copy that serve keeps elsewhere is held against the ledger without being asked for.
    let copy = section.checkpoint_copy.filter(|file| file.exists());
    let checkpoint = options.checkpoint.clone().or(copy);
    let kept_elsewhere = key.is_some();
    let verified = || -> Result<(VerifyingKey, Report), OpenError> {
        // Read first: the ledger only grows.
        let kept = checkpoint.as_deref().map(|file| -> Result<Kept, OpenError> {
            Ok(Kept { place: file.display().to_string(), note: read_text(file)? })
        });
        let kept = kept.transpose()?;
        let ledger = SqliteReader::open(&section.path)?;
        let key = key.map_or_else(|| ledger.verifying_key(), Ok)?;
        let mut progress = page::Progress::new();
        let report = verify(&ledger, &key, kept.as_ref(), |done, all| progress.tick(done, all))?;
        Ok((key, report))
    };
    let started = moment();
    match verified() {
        Ok((key, report)) => {
            let seconds = since(started).as_secs_f64();
            if options.json {
                page::line(json(&key, &report, seconds));
            } else {
                page::line(table(&key, kept_elsewhere, &report, checkpoint.as_deref(), seconds));
            }
            Exit::Done
        }
        Err(error) => {
            if options.json {
                page::line(serde_json::json!({"ok": false, "fault": error.to_string()}));
            }
            page::ledger(&error)
        }
    }
}

fn json(key: &VerifyingKey, report: &Report, seconds: f64) -> serde_json::Value {
    let head = |head: &Head| serde_json::json!({"size": head.size, "root": head.root.to_string()});
    let open = report.open.iter().map(|(seq, id)| serde_json::json!({"seq": seq, "request_id": id}));
    serde_json::json!({
        "ok": true,
        "origin": report.origin,
        "verifying_key": key.to_string(),
        "entries": report.entries,
        "signed": head(&report.signed),
        "not_yet_covered": report.uncovered(),
        "kept": report.kept.as_ref().map(head),
        "tiles": report.tiles,
        "open": open.collect::<Vec<_>>(),
        "search_data_compared": false,
        "seconds": seconds,
    })
}

fn table(
    key: &VerifyingKey,
    kept_elsewhere: bool,
    report: &Report,
    place: Option<&Path>,
    seconds: f64,
) -> comfy_table::Table {
    let named = report.open.iter().take(NAMED).map(|(seq, id)| format!("entry {seq}, request {id}"));
    let mut open: Vec<String> = named.collect();
    open.insert(0, report.open.len().to_string());
    if report.open.len() > NAMED {
        open.push("…; audit search --outcome open lists them".to_owned());
    }
    let kept = match (&report.kept, place) {
        (Some(head), Some(place)) => format!("{}: continued; it has {} entries", place.display(), head.size),
        _ => "none given; --checkpoint FILE with one from elsewhere would show a rollback".to_owned(),
    };
    let uncovered = match report.uncovered() {
        0 => "0".to_owned(),
        count => format!("{count}: whole and in order, but not yet covered by a checkpoint"),
    };
    let key = if kept_elsewhere {
        format!("{key}\nas given")
    } else {
        format!("{key}\nfrom the ledger's own folder; --vkey with one from elsewhere would show another in its place")
    };
    let rows = [
        ("log", report.origin.to_string()),
        ("entries", format!("{}: whole, in their places, paired; {seconds:.1} s", report.entries)),
        ("signed", format!("{} entries, root {}", report.signed.size, report.signed.root)),
        ("not yet covered", uncovered),
        ("tiles", format!("{}: as the entries lead to", report.tiles)),
        ("kept checkpoint", kept),
        ("key", key),
        ("open intents", open.join("\n")),
        (
            "search data",
            "not compared: every answer is read from the entries; audit reindex builds them anew".to_owned(),
        ),
    ];
    page::table(&["what", "found"], rows.map(|(what, found)| vec![what.to_owned(), found]))
}
