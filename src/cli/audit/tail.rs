//! `audit tail`: the latest entries, and with `-f` those to come. A table for people, JSON into a pipe.

use super::{Common, export};
use crate::cli::{Exit, page};
use crate::ledger::search::decode;
use crate::ledger::{OpenError, Reader};
use serde_json::Value;
use std::time::Duration;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Go on until interrupted
    #[arg(short, long)]
    follow: bool,
    /// How many to begin with
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: u64,
}

/// The columns of the table; what the last one holds has no width of its own.
fn row([seq, time, kind, caller, what]: [&str; 5]) -> String {
    format!("{seq:>9}  {time:<19}  {kind:<19}  {caller:<16}  {what}\n")
}

pub(super) fn run(options: &Options, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    let as_table = page::is_watched() && !options.common.json;
    if as_table {
        page::bytes(row(["seq", "time (UTC)", "kind", "caller", "what"]).as_bytes());
    }
    let mut next = Some(ledger.length()?.saturating_sub(options.lines));
    while let Some(from) = next {
        let written = export::lines(ledger, from, |seq, bytes, out| {
            let text = if as_table { told(seq, bytes)? } else { json(bytes) };
            out.extend_from_slice(text.as_bytes());
            Ok(())
        });
        next = written?.filter(|_| options.follow);
        let Some(from) = next else { break };
        // In a database a new log takes the old one's place under its name.
        if !ledger.is_there() || ledger.length()? < from {
            page::complain(
                "the ledger that was followed was removed or replaced, by a restore for one, or a process serves it now \
                 that was read as nobody's: what comes now is not seen here; begin again",
            );
            return Ok(Exit::Restart);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(Exit::Done)
}

/// An entry's own text, with what hides in it shown.
fn json(bytes: &[u8]) -> String {
    format!("{}\n", page::escaped(&String::from_utf8_lossy(bytes)))
}

/// An entry as a row.
fn told(seq: u64, bytes: &[u8]) -> Result<String, OpenError> {
    let entry = decode(seq, bytes)?;
    let text = |member: &str| match entry.get(member) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => page::shown(&text.replace('\n', " ")),
        Some(other) => page::json_text(other),
    };
    let joined = |members: &[&str]| {
        let texts = members.iter().map(|member| text(member)).filter(|text| !text.is_empty());
        texts.collect::<Vec<_>>().join(" ")
    };
    let what = match text("kind").as_str() {
        "intent" | "dry-run" => joined(&["session", "group", "rule", "request_id"]),
        "outcome" => joined(&["outcome", "status", "code", "request_id"]),
        "resolution" => joined(&["resolution", "request_id"]),
        "refusal" => joined(&["status", "code", "session", "group", "detail", "request_id"]),
        "freeze" | "unfreeze" => joined(&["covers", "session", "until", "by", "reason"]),
        _ => joined(&["count", "codes", "policy", "faults", "version", "before", "first", "entries", "by", "reason"]),
    };
    let time = text("time").replace('T', " ");
    let time = time.get(..19).unwrap_or(&time);
    Ok(row([&seq.to_string(), time, &text("kind"), &text("caller"), &what]))
}
