//! `audit backup`: a copy of the ledger as one file, and how to put it back.

use super::{Common, section};
use crate::cli::{Exit, page};
use crate::clock::{moment, since};
use crate::config;
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
    let ledger = match section(&options.common.config) {
        Ok(ledger) => ledger,
        Err(exit) => return exit,
    };
    let (started, mut said, watched) = (moment(), moment(), std::io::stderr().is_terminal());
    let made = sqlite::backup(&ledger.path, &options.to, |what, done, all| {
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
        page::line(serde_json::json!({
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
        Some(head) => page::line(format_args!("its first {} entries are those of the newest checkpoint", head.size)),
        None => page::line("it was compared with no checkpoint: none is there"),
    };
    let key = match &ledger.signing_key_file {
        None => {
            ",\n     and the old folder's signing-key beside it (the backup does not hold it: keep a copy elsewhere)"
        }
        Some(_) => "",
    };
    page::line(format_args!(
        "\nTo put it back:
  1. stop `serve`
  2. move {folder} away, and keep it: it is newer
  3. make {folder} anew and put the file into it as ledger.db{key};
     all of it belongs to the user that serves
  4. start `serve`: what was under way when the copy was made is recorded as `unknown`"
    ));
    if let Some(copy) = &ledger.checkpoint_copy {
        page::line(format_args!(
            "     It refuses while {} was signed for more entries than the backup has. Only who accepts that the
     entries after the backup are lost to the log moves that file away too.",
            copy.display()
        ));
    }
}
