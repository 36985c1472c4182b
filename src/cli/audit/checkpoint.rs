//! `audit checkpoint`: the newest signed head of the log, to be kept elsewhere.

use super::Common;
use crate::cli::{Exit, page};
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::{OpenError, ProofReader};

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Also print the verification key, alone on the last line
    #[arg(long)]
    vkey: bool,
}

pub(super) fn run(options: &Options, ledger: &impl ProofReader) -> Result<Exit, OpenError> {
    let Some(note) = ledger.checkpoint()? else {
        page::complain("nothing of the ledger has been signed yet; `serve` does it within a second");
        return Ok(Exit::Unavailable);
    };
    let key = ledger.verifying_key()?;
    let checkpoint = Checkpoint::verify(&note, &key).map_err(|fault| OpenError::Damaged(fault.to_string()))?;
    if options.common.json {
        let (head, origin) = (checkpoint.head(), checkpoint.origin());
        let (root, key) = (head.root.to_string(), key.to_string());
        page::json(&serde_json::json!({
            "checkpoint": note, "origin": origin, "size": head.size, "root": root, "verifying_key": key
        }));
    } else {
        page::bytes(note.as_bytes());
        if options.vkey {
            page::line(key);
        }
    }
    Ok(Exit::Done)
}
