//! `audit backup`: a copy of the ledger as one file, and how to put it back.

use super::{Common, of_log};
use crate::cli::{Exit, page};
use crate::clock::{moment, since};
use crate::config::{self, file::is_within};
use crate::ledger::sqlite::{self, Backup, BackupFault};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// The new file; nothing is overwritten
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
}

pub(super) fn run(options: &Options) -> Exit {
    let ledger = match options.common.place.section() {
        Ok(ledger) => ledger,
        Err(exit) => return exit,
    };
    if ledger.postgres.is_some() {
        page::complain(
            "the ledger is in PostgreSQL: back it up with pg_dump, or with the database's own backups; \
             docs/postgresql.md says how it is put back",
        );
        return Exit::Usage;
    }
    if is_within(&ledger.path, &options.to) {
        page::complain(format_args!("{} is in the ledger's own folder; name another folder", options.to.display()));
        return Exit::Usage;
    }
    let (started, mut said, watched) = (moment(), moment(), std::io::stderr().is_terminal());
    let meant = match of_log(ledger.clone(), options.common.log) {
        Ok(meant) => meant,
        Err(exit) => return exit,
    };
    let made = sqlite::backup(&meant.path, &options.to, |what, done, all| {
        if watched && since(said) >= Duration::from_secs(1) {
            said = moment();
            page::complain(format_args!("{done} of {all} entries {what} ({} %)", done * 100 / all.max(1)));
        }
    });
    let backup = match made {
        Ok(backup) => backup,
        Err(BackupFault::Name(what)) => {
            page::complain(what);
            return Exit::Usage;
        }
        Err(BackupFault::Ledger(error)) => return page::ledger(&error),
    };
    if let Some(what) = &backup.warning {
        page::complain(format_args!("warning: the copy was compared with no checkpoint: {what}"));
    }
    if options.common.json {
        page::json(&serde_json::json!({
            "file": options.to, "entries": backup.entries, "last_time": backup.last_time, "bytes": backup.bytes,
            "checkpoint_size": backup.checkpoint.map(|head| head.size), "seconds": since(started).as_secs_f64(),
        }));
    } else {
        tell(&backup, options, &ledger);
    }
    Exit::Done
}

fn tell(backup: &Backup, options: &Options, ledger: &config::Ledger) {
    let (to, folder, kib) = (options.to.display(), ledger.path.display(), backup.bytes.div_ceil(1024));
    let last = backup.last_time.as_deref().map_or_else(String::new, |time| format!(", the last one of {time}"));
    page::line(format_args!("{to}: {} entries{last}; {kib} KiB, verified", backup.entries));
    match backup.checkpoint {
        Some(head) => page::line(format_args!(
            "the newest checkpoint covers the log's first {} entries, and the copy fits it",
            head.size
        )),
        None => page::line("it was compared with no checkpoint: none is there"),
    };
    let key = match &ledger.signing_key_file {
        None => " If signing-key is lost there, put a copy back first: the backup does not hold it.",
        Some(_) => "",
    };
    page::line(format_args!(
        "\nTo put it back:
  1. stop `serve`, and leave {folder} as it is: what was signed is read there.{key}
  2. wasend-gateway audit restore --from {to} --config {config}
     The log goes on where the backup holds all that was signed. Else entries are lost: it says which, and only
     --accept-loss begins a new log after what is left. What was there is moved aside, nothing is deleted.
  3. start `serve`: what was under way when the copy was made is recorded as `unknown`",
        config = options.common.place.config(),
    ));
}
