//! `audit restore`: a backup becomes the ledger again, or a new log begins after what is left.

use super::kept;
use crate::cli::alone::{arm, is_own};
use crate::cli::place::section;
use crate::cli::{Exit, page};
use crate::ledger::postgres;
use crate::ledger::sqlite::{self, RestoreFault, Restored, Wish};
use rustix::fs::Mode;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The configuration; only its [ledger] has to be right
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The backup; without it, the ledger.db that is in the folder
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
    /// A checkpoint of this log that was kept elsewhere, beside what `ledger.checkpoint_copy` names
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    /// Where entries that were signed are lost, or nobody can say: begin a new log, whose first entry says so
    #[arg(long)]
    accept_loss: bool,
    /// Print JSON, one object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    if let Err(exit) = arm() {
        return exit;
    }
    // What is made is for its user alone.
    rustix::process::umask(Mode::from_raw_mode(0o077));
    let config = match section(&options.config) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if config.postgres.is_some() && options.from.is_some() {
        page::complain(
            "the ledger is in PostgreSQL: put it back with pg_restore, or with the database's own backups, then ask \
             without --from; docs/postgresql.md says how",
        );
        return Exit::Usage;
    }
    let owned = if config.postgres.is_none() { is_own(&config.path) } else { Ok(()) };
    if let Err(exit) = owned {
        return exit;
    }
    let kept = match kept(options.checkpoint.as_deref()) {
        Ok(kept) => kept,
        Err(words) => {
            page::complain(words);
            return Exit::Usage;
        }
    };
    let kept = kept.as_ref().map(|kept| (kept.place.as_str(), kept.note.as_str()));
    let wish = Wish { from: options.from.as_deref(), kept, accept_loss: options.accept_loss };
    let mut progress = page::Progress::new();
    let is_shared = config.postgres.is_some();
    let restored = if is_shared {
        postgres::restore(&config, kept, options.accept_loss, |done, all| progress.tick(done, all))
    } else {
        sqlite::restore(&config, &wish, |_, done, all| progress.tick(done, all))
    };
    match restored {
        Ok(restored) if options.json => {
            page::json(&json(&restored));
            Exit::Done
        }
        Ok(restored) => {
            page::line(if is_shared { shared(&restored) } else { words(&restored) });
            Exit::Done
        }
        Err(RestoreFault::Wish(words)) => {
            page::complain(words);
            Exit::Usage
        }
        Err(RestoreFault::Loss(words)) => {
            page::complain(words);
            Exit::No
        }
        Err(RestoreFault::Ledger(error)) => page::ledger(&error),
    }
}

fn json(restored: &Restored) -> serde_json::Value {
    match restored {
        Restored::Continued { origin, entries, signed } => serde_json::json!({
            "log": "continued", "origin": origin, "entries": entries, "signed": signed.size,
        }),
        Restored::Begun { origin, number, entries, signed, carried } => serde_json::json!({
            "log": "begun", "origin": origin, "old_log": number, "old_entries": entries, "old_signed": signed,
            "carried": carried,
        }),
        Restored::Finished => serde_json::json!({"log": "finished"}),
    }
}

fn shared(restored: &Restored) -> String {
    match restored {
        Restored::Continued { origin, entries, signed } => format!(
            "the database has {entries} entries, with all {} that were signed: the log {origin} goes on. Nothing was \
             changed; start the replicas",
            signed.size
        ),
        Restored::Begun { origin, number, entries, carried, .. } => format!(
            "{entries} entries are left of the old log, in the schemas ledger_{number} and search_{number}.\nThe new log is \
             {origin}, with a key of its own in ledger.signing_key_file: give that file to each replica, and the key to \
             those who verify (`audit checkpoint --vkey`). Its first entry says what is lost; {carried} intents without a \
             known end go on in it.\nThe old key and the copies of the old checkpoint stay beside the new ones"
        ),
        Restored::Finished => {
            "a restore that had been interrupted is finished: nothing else was done. Start the replicas".to_owned()
        }
    }
}

fn words(restored: &Restored) -> String {
    match restored {
        Restored::Continued { origin, entries, signed } => format!(
            "{entries} entries are put back, with all {} that were signed: the log {origin} goes on.\nStart `serve`; what \
             was replaced stands in the ledger's folder under `replaced-…`",
            signed.size
        ),
        Restored::Begun { origin, number, entries, signed, carried } => format!(
            "{entries} entries are left of the old log{}. They are read with `--log {number}`, and verified with its old \
             key.\nThe new log is {origin}, with a key of its own: give it to those who verify (`audit checkpoint \
             --vkey`). Its first entry says what is lost; {carried} intents without a known end go on in it.\nStart \
             `serve`; what was replaced stands in the ledger's folder under `replaced-…`",
            signed.map_or_else(String::new, |signed| format!(", of which {signed} were signed"))
        ),
        Restored::Finished => {
            "a restore that had been interrupted is finished: nothing else was done. `audit verify` says what there is"
                .to_owned()
        }
    }
}
