//! `audit verify`: holds the whole ledger against what proves it, or one receipt against a key.

use super::{kept, key_of, of_log};
use crate::cli::place::Place;
use crate::cli::{Exit, page};
use crate::clock::{moment, since};
use crate::config::file;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::sqlite;
use crate::ledger::stored::Stored;
use crate::ledger::tree::Head;
use crate::ledger::verify::{Gone, Kept, Report, verify};
use crate::ledger::{OpenError, ProofReader, receipt};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What is read of a file with an entry, a receipt or a checkpoint: more than any of them has.
const FILE_AT_MOST: u64 = 1024 * 1024;
/// How many open intents are named.
const NAMED: usize = 10;

#[derive(clap::Args, Default)]
pub(in crate::cli) struct Options {
    /// The configuration; only its [ledger] has to be right
    #[arg(long, value_name = "FILE", required_unless_present_any = ["receipt", "ledger"])]
    config: Option<PathBuf>,
    /// The ledger's folder, where the configuration is gone or cannot be read
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    ledger: Option<PathBuf>,
    /// An older log of this ledger, that a restore has left behind: its number
    #[arg(long, value_name = "N", conflicts_with = "receipt")]
    log: Option<u32>,
    /// Print JSON, one object
    #[arg(long)]
    json: bool,
    /// A checkpoint that was kept elsewhere: shows a rollback. What `ledger.checkpoint_copy` names is compared, too
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// The verification key, or a file with it, as it was kept elsewhere; without it, the one in the ledger's folder
    #[arg(long, value_name = "KEY|FILE")]
    vkey: Option<String>,
    /// Offline, without a ledger: one entry's bytes, and the receipt that `audit prove` wrote for them
    #[arg(long, num_args = 2, value_names = ["ENTRY_FILE", "PROOF_FILE"], requires = "vkey")]
    #[arg(conflicts_with_all = ["config", "ledger", "checkpoint"])]
    receipt: Option<Vec<PathBuf>>,
}

pub(super) fn run(options: &Options) -> Exit {
    let key = options.vkey.as_deref().map(key_of).transpose();
    let (key, kept) = match key.and_then(|key| Ok((key, kept(options.checkpoint.as_deref())?))) {
        Ok(given) => given,
        Err(words) => {
            page::complain(words);
            return Exit::Usage;
        }
    };
    match (options.receipt.as_deref(), key) {
        (Some([entry, proof]), Some(key)) => one(entry, proof, &key, options.json),
        (_, key) => whole(options, &Place::new(options.config.clone(), options.ledger.clone()), key, kept),
    }
}

/// `audit verify --config FILE`.
pub(in crate::cli) fn of(config: PathBuf) -> Exit {
    run(&Options { config: Some(config), ..Options::default() })
}

/// Reads a file, or says why it cannot be.
fn read(file: &Path) -> Result<Vec<u8>, String> {
    let bytes = file::read(file, FILE_AT_MOST);
    bytes.map(|bytes| bytes.expose().clone()).map_err(|e| format!("{}: {e}", file.display()))
}

/// What `serve` keeps elsewhere. `None`: it is not there, and that was said.
fn copied(file: &Path) -> Result<Option<Kept>, OpenError> {
    let place = file.display().to_string();
    match file::read(file, FILE_AT_MOST) {
        Ok(bytes) => {
            let note = String::from_utf8(bytes.expose().clone());
            let note = note.map_err(|_| OpenError::Damaged(format!("{place}: it is not UTF-8")))?;
            Ok(Some(Kept { place, note }))
        }
        Err(e) if e.kind() == ErrorKind::NotFound => {
            page::complain(format_args!(
                "warning: ledger.checkpoint_copy: {place} is not there, so the ledger was not compared with it; `serve` \
                 writes it with the next checkpoint"
            ));
            Ok(None)
        }
        Err(e) => Err(OpenError::Unusable(format!("ledger.checkpoint_copy: {place}: {e}"))),
    }
}

fn one(entry: &Path, proof: &Path, key: &VerifyingKey, json: bool) -> Exit {
    let (bytes, text) = match read(entry).and_then(|bytes| Ok((bytes, read(proof)?))) {
        Ok(read) => read,
        Err(words) => {
            page::complain(words);
            return Exit::Usage;
        }
    };
    let text = str::from_utf8(&text).map_err(|_| "it is not UTF-8".to_owned());
    match text.and_then(|text| receipt::verify(&bytes, text, key).map_err(|fault| fault.to_string())) {
        Ok(proven) if json => {
            let (origin, index, size) = (proven.origin.as_str(), proven.index, proven.size);
            page::json(&serde_json::json!({"ok": true, "origin": origin, "index": index, "size": size}));
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
                page::json(&serde_json::json!({"ok": false, "fault": fault}));
            }
            page::complain(format_args!("{}: {fault}", proof.display()));
            if bytes.ends_with(b"\n") {
                page::complain(format_args!("{} ends with a line feed; no entry does", entry.display()));
            }
            Exit::No
        }
    }
}

fn whole(options: &Options, place: &Place, key: Option<VerifyingKey>, kept: Option<Kept>) -> Exit {
    let section = match place.section() {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    // The copy that serve keeps elsewhere is held against the ledger without being asked for, and whatever is given.
    let copy = section.checkpoint_copy.as_deref().filter(|_| options.log.is_none());
    let meant = match of_log(section.clone(), options.log) {
        Ok(meant) => meant,
        Err(exit) => return exit,
    };
    let kept_elsewhere = key.is_some();
    let verified = || -> Result<Verified, OpenError> {
        // Read first: the ledger only grows.
        let kept: Vec<Kept> = kept.into_iter().chain(copy.map(copied).transpose()?.flatten()).collect();
        let ledger = Stored::open(&meant)?;
        let key = match key {
            Some(key) => key,
            // A database keeps the key also where what was signed is lost.
            None if section.postgres.is_some() => ledger.verifying_key()?,
            // In a folder, what signs the log still names its key.
            None if !ledger.has_tree() || (!kept.is_empty() && ledger.checkpoint()?.is_none()) => {
                if options.log.is_some() {
                    let words =
                        "what was signed of this older log is lost, and its key with it: name the key with --vkey";
                    return Err(OpenError::Unusable(words.to_owned()));
                }
                sqlite::key_at_hand(&section)?
            }
            None => ledger.verifying_key()?,
        };
        let (started, mut progress) = (moment(), page::Progress::new());
        let report = verify(&ledger, &key, &kept, |done, all| progress.tick(done, all))?;
        Ok(Verified { key, kept, report, seconds: since(started).as_secs_f64() })
    };
    match verified() {
        Ok(verified) => {
            if options.json {
                page::json(&json(&verified));
            } else {
                page::line(table(&verified, kept_elsewhere, copy));
            }
            if verified.report.signed.is_none() {
                page::complain(
                    "warning: no checkpoint is stored here (tree.db or the one in it is lost, or nothing has been signed yet): \
                     the entries were held against the kept one alone",
                );
            }
            Exit::Done
        }
        Err(error) => {
            if options.json {
                page::json(&serde_json::json!({"ok": false, "fault": error.to_string()}));
            }
            page::ledger(&error)
        }
    }
}

/// A whole ledger in which nothing bad was found.
struct Verified {
    key: VerifyingKey,
    kept: Vec<Kept>,
    report: Report,
    seconds: f64,
}

fn json(verified: &Verified) -> serde_json::Value {
    let Verified { key, report, seconds, .. } = verified;
    let head = |head: &Head| serde_json::json!({"size": head.size, "root": head.root.to_string()});
    let open = report.open.iter().map(|(seq, id)| serde_json::json!({"seq": seq, "request_id": id}));
    serde_json::json!({
        "ok": true,
        "origin": report.origin,
        "verifying_key": key.to_string(),
        "entries": report.entries,
        "signed": report.signed.as_ref().map(head),
        "not_yet_covered": report.uncovered(),
        "kept": report.kept.iter().max_by_key(|head| head.size).map(head),
        "tiles": report.tiles,
        "pruned": report.pruned.as_ref().map(|gone| serde_json::json!({
            "first": gone.pruned.first, "seq": gone.pruned.seq, "time": gone.pruned.time, "before": gone.pruned.before,
            "by": gone.pruned.by, "hashes": gone.hashes,
        })),
        "open": open.collect::<Vec<_>>(),
        "lists_compared": report.beyond.is_some(),
        "rows_not_compared": report.beyond,
        "search_data_entries": report.searchable,
        "seconds": seconds,
    })
}

/// So many entries in so many seconds, where that says anything.
fn rate(entries: u64, seconds: f64) -> String {
    if seconds < 0.5 { format!("{seconds:.1} s") } else { format!("{seconds:.1} s, {:.0}/s", entries as f64 / seconds) }
}

/// What was pruned, and what is known of it.
fn pruned(gone: Option<&Gone>) -> String {
    let Some(Gone { pruned, hashes }) = gone else { return "nothing".to_owned() };
    let left = if *hashes {
        "their hashes lead to the signed root"
    } else {
        "of their hashes only the last ones are left, and they lead to the signed root"
    };
    format!(
        "entries 0 to {}, all before {}, were pruned on {} by {} (entry {}); {left}",
        pruned.first.saturating_sub(1),
        pruned.before,
        pruned.time.get(..10).unwrap_or(&pruned.time),
        pruned.by,
        pruned.seq
    )
}

fn table(verified: &Verified, kept_elsewhere: bool, copy: Option<&Path>) -> comfy_table::Table {
    let Verified { key, kept, report, seconds } = verified;
    let named = report.open.iter().take(NAMED).map(|(seq, id)| format!("entry {seq}, request {id}"));
    let mut open: Vec<String> = named.collect();
    open.insert(0, report.open.len().to_string());
    let kept_beside = match report.beyond {
        None => "nothing".to_owned(),
        Some(beyond) => {
            let more = "rows are about what was pruned, an earlier log or an earlier version, and were not compared";
            let more = if beyond > 0 { format!("; {beyond} {more}") } else { String::new() };
            format!("in flight, unresolved, frozen, keys, budgets: as the entries say{more}")
        }
    };
    if report.open.len() > NAMED {
        open.push("…; audit search --outcome open lists them".to_owned());
    }
    let continued = kept.iter().zip(&report.kept);
    let continued = continued.map(|(kept, head)| format!("{}: continued; it has {} entries", kept.place, head.size));
    let kept = match (kept.is_empty(), copy) {
        (false, _) => continued.collect::<Vec<_>>().join("\n"),
        (true, Some(copy)) => format!("none: {} is not there", copy.display()),
        (true, None) => "none given; --checkpoint FILE with one from elsewhere would show a rollback".to_owned(),
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
    let signed = report.signed.map_or_else(
        || "nothing is stored here".to_owned(),
        |head| format!("{} entries, root {}", head.size, head.root),
    );
    let tiles = report.tiles.map_or_else(
        || "not compared: they are being built anew; the entries lead to the signed root".to_owned(),
        |tiles| format!("{tiles}: as the entries lead to"),
    );
    let search = report.searchable.map_or_else(
        || "none yet; `serve` builds them, and so does audit reindex".to_owned(),
        |entries| format!("{entries} entries: as they say"),
    );
    let rows = [
        ("log", report.origin.to_string()),
        ("entries", format!("{}: whole, in their places, paired; {}", report.read(), rate(report.read(), *seconds))),
        ("signed", signed),
        ("not yet covered", uncovered),
        ("pruned", pruned(report.pruned.as_ref())),
        ("tiles", tiles),
        ("kept checkpoint", kept),
        ("key", key),
        ("open intents", open.join("\n")),
        ("kept beside", kept_beside),
        ("search data", search),
    ];
    page::table(&["what", "found"], rows.map(|(what, found)| vec![what.to_owned(), found]))
}
