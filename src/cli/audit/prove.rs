//! `audit prove`: a request's entries and their receipts, as files that verify offline.

use super::{Common, mention_pruned};
use crate::cli::{Exit, page};
use crate::clock::{moment, since};
use crate::id::RequestId;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::receipt::{self, IssueFault};
use crate::ledger::tree::proof::ReadError;
use crate::ledger::{Entries, OpenError, ProofReader, Reader};
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A running gateway signs once a second.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// The X-Request-Id of its answer
    request_id: String,
    /// The folder for the files; made where it is not. No file in it is overwritten
    #[arg(long, value_name = "DIR")]
    pub(super) out: PathBuf,
}

pub(super) fn run<L: Reader + ProofReader>(options: &Options, ledger: &L) -> Result<Exit, OpenError> {
    let canonical = RequestId::parse(&options.request_id).map(|id| id.to_string());
    let entries = ledger.request(canonical.as_ref().unwrap_or(&options.request_id))?;
    let Some((last, _)) = entries.last() else {
        mention_pruned(ledger, None)?;
        page::complain("no entry has this request id; a refusal that was only counted has none");
        return Ok(Exit::No);
    };
    let Some((note, key)) = covering(ledger, *last)? else {
        page::complain(format_args!(
            "entry {last} is not covered by a checkpoint yet, and none came within {} s; beside a running gateway try \
             again, otherwise start one: it signs what is there",
            PATIENCE.as_secs()
        ));
        return Ok(Exit::Unavailable);
    };
    let files = files(ledger, &entries, &note, &key)?;
    if let Err(words) = write(&options.out, &files) {
        page::complain(words);
        return Ok(Exit::Unavailable);
    }
    say(options, &entries, &key);
    Ok(Exit::Done)
}

/// The newest checkpoint and its key, once it covers this entry. `None`: it did not in time.
fn covering<L: ProofReader>(ledger: &L, seq: u64) -> Result<Option<(String, VerifyingKey)>, OpenError> {
    let started = moment();
    loop {
        if let Some(note) = ledger.checkpoint()? {
            let key = ledger.verifying_key()?;
            let checkpoint = Checkpoint::verify(&note, &key).map_err(|fault| OpenError::Damaged(fault.to_string()))?;
            if checkpoint.head().size > seq {
                return Ok(Some((note, key)));
            }
        }
        if since(started) >= PATIENCE {
            return Ok(None);
        }
        std::thread::sleep(PAUSE);
    }
}

/// Names and contents. Nothing is written before all receipts are there.
fn files<L: ProofReader>(
    ledger: &L,
    entries: &Entries,
    note: &str,
    key: &VerifyingKey,
) -> Result<Vec<(String, Vec<u8>)>, OpenError> {
    let mut files = Vec::new();
    for (seq, bytes) in entries {
        let receipt = receipt::issue(bytes, *seq, note, key, ledger).map_err(|fault| match fault {
            IssueFault::Read(ReadError::Tiles(error)) => error,
            fault @ (IssueFault::Read(_) | IssueFault::Receipt(_)) => {
                OpenError::Damaged(format!("entry {seq}: {fault}; audit verify says what was changed"))
            }
        })?;
        files.push((format!("{seq}.entry"), bytes.clone()));
        files.push((format!("{seq}.tlog-proof"), receipt.into_bytes()));
    }
    files.push(("vkey".to_owned(), format!("{key}\n").into_bytes()));
    Ok(files)
}

fn write(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<(), String> {
    std::fs::create_dir_all(folder).map_err(|e| format!("{}: it cannot be made: {e}", folder.display()))?;
    if let Some((name, _)) = files.iter().find(|(name, _)| folder.join(name).symlink_metadata().is_ok()) {
        return Err(format!("{} is there already and stays; name another folder", folder.join(name).display()));
    }
    for (name, bytes) in files {
        let file = folder.join(name);
        let written = OpenOptions::new().write(true).create_new(true).open(&file).and_then(|mut f| f.write_all(bytes));
        written.map_err(|e| format!("{}: it cannot be written: {e}", file.display()))?;
    }
    Ok(())
}

fn say(options: &Options, entries: &Entries, key: &VerifyingKey) {
    let folder = options.out.display();
    if options.common.json {
        let seqs: Vec<u64> = entries.iter().map(|(seq, _)| *seq).collect();
        let (folder, key) = (folder.to_string(), key.to_string());
        page::json(&serde_json::json!({"folder": folder, "entries": seqs, "verifying_key": key}));
        return;
    }
    page::line(format_args!("{folder}/vkey and, for each entry of this request, its bytes and its receipt. To check:"));
    for (seq, _) in entries {
        page::line(format_args!(
            "  wasend-gateway audit verify --receipt {folder}/{seq}.entry {folder}/{seq}.tlog-proof --vkey {folder}/vkey"
        ));
    }
    page::line(
        "Any tool for C2SP tlog-proof does as well. Each receipt proves one leaf: that these bytes stand at this place in \
         the signed log. It does not prove that the request has no other entries, and an `extra` line in it would be \
         signed by nobody. Whoever checks should have the key from elsewhere, not from this folder.",
    );
}
