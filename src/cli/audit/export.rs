//! `audit export`: every entry, ascending, as its own bytes or as a row of a table.

use super::{Common, say_pruned, tiles};
use crate::cli::{Exit, page};
use crate::ledger::search::decode;
use crate::ledger::{OpenError, ProofReader, Reader};
use serde_json::Value;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Begin with this sequence number; to go on with an earlier export, its last one plus one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
    /// jsonl: the entries' bytes, one a line. csv: RFC 4180, texts that a spreadsheet would run begin with '
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
    /// CSV without its first line, to go on with an earlier export
    #[arg(long)]
    no_header: bool,
    /// Instead: what the newest checkpoint covers, with checkpoint and hashes, as files (C2SP tlog-tiles) in a new folder
    #[arg(long, value_name = "DIR", conflicts_with_all = ["from", "format", "no_header"])]
    pub(super) tiles: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

/// The columns of CSV. Members that none of them shows stand in the last one, as a JSON object.
const COLUMNS: [&str; 21] = [
    "seq",
    "time",
    "kind",
    "request_id",
    "caller",
    "credential",
    "peer",
    "session",
    "group",
    "rule",
    "policy",
    "trace_id",
    "caller_request_id",
    "outcome",
    "resolution",
    "status",
    "code",
    "sent",
    "detail",
    "v",
    "other",
];

pub(super) fn run<L: Reader + ProofReader>(options: &Options, ledger: &L) -> Result<Exit, OpenError> {
    if let Some(folder) = &options.tiles {
        return tiles::export(folder, ledger, options.common.json);
    }
    if let Some(pruned) = ledger.pruned()?.filter(|pruned| options.from < pruned.first) {
        say_pruned(&pruned);
    }
    if options.common.json && options.format == Format::Csv {
        page::complain("--json and --format csv contradict each other");
        return Ok(Exit::Usage);
    }
    let length = ledger.length()?;
    if options.from > length {
        page::complain(format_args!(
            "--from {}: the log has {length} entries, so this is not the log of an export that ended before there; where a \
             restore began a new one, its entries begin at 0, and --log reads the older one",
            options.from
        ));
        return Ok(Exit::No);
    }
    match options.format {
        Format::Jsonl => lines(ledger, options.from, whole)?,
        Format::Csv => {
            if !options.no_header && !page::bytes(format!("{}\r\n", COLUMNS.join(",")).as_bytes()) {
                return Ok(Exit::Done);
            }
            lines(ledger, options.from, |seq, bytes, out| {
                out.extend(record(&decode(seq, bytes)?).into_bytes());
                Ok(())
            })?
        }
    };
    Ok(Exit::Done)
}

/// An entry's bytes and a line feed.
pub(super) fn whole(_: u64, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
    out.extend_from_slice(bytes);
    out.push(b'\n');
    Ok(())
}

/// Prints the entries from `from` on; returns the number that comes next, `None` when nobody reads any more.
pub(super) fn lines(
    ledger: &dyn Reader,
    mut from: u64,
    form: impl Fn(u64, &[u8], &mut Vec<u8>) -> Result<(), OpenError>,
) -> Result<Option<u64>, OpenError> {
    loop {
        let entries = ledger.read(from, u64::MAX)?;
        let Some((last, _)) = entries.last() else { return Ok(Some(from)) };
        from = last + 1;
        let mut out = Vec::new();
        entries.iter().try_for_each(|(seq, bytes)| form(*seq, bytes, &mut out))?;
        if !page::bytes(&out) {
            return Ok(None);
        }
    }
}

/// An entry as a record.
fn record(entry: &Value) -> String {
    let Some(members) = entry.as_object() else { return String::new() };
    let mut other = members.clone();
    let mut cells: Vec<String> = Vec::with_capacity(COLUMNS.len());
    for column in COLUMNS.iter().filter(|column| **column != "other") {
        cells.push(match other.remove(*column) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => cell(&text),
            Some(value) => cell(&value.to_string()),
        });
    }
    cells.push(if other.is_empty() { String::new() } else { cell(&Value::Object(other).to_string()) });
    cells.join(",") + "\r\n"
}

/// A text as a cell: a spreadsheet takes it for a text, and whatever stands in it stays in it. Also one that separates
/// cells by `;` or tabs, as many do outside of English: to it quotes within a line mean nothing.
fn cell(text: &str) -> String {
    let (mut safe, mut begins) = (String::with_capacity(text.len() + 1), true);
    for c in text.chars() {
        if begins && matches!(c, '=' | '+' | '-' | '@') || safe.is_empty() && matches!(c, '\t' | '\r' | '\n') {
            safe.push('\'');
        }
        safe.push(c);
        begins = matches!(c, ';' | '\t' | '\r' | '\n');
    }
    if safe.contains([',', '"', '\r', '\n']) { format!("\"{}\"", safe.replace('"', "\"\"")) } else { safe }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_as_rfc_4180_says_and_never_run() {
        for (text, written) in [
            ("plain", "plain"),
            ("a,b", "\"a,b\""),
            ("say \"no\"", "\"say \"\"no\"\"\""),
            ("two\r\nlines", "\"two\r\nlines\""),
            ("=1+1", "'=1+1"),
            ("-group", "'-group"),
            ("@x,y", "\"'@x,y\""),
            ("\tx", "'\tx"),
            ("x;=cmd|' /C calc'!A0;y", "x;'=cmd|' /C calc'!A0;y"),
            ("x;y|z\t@w, \n+1;", "\"x;y|z\t'@w, \n'+1;\""),
            ("", ""),
        ] {
            assert_eq!(cell(text), written);
        }
    }

    #[test]
    fn a_member_without_a_column_of_its_own_is_not_lost() {
        let entry = serde_json::json!({"v": 1, "seq": 3, "kind": "refusals-suppressed", "caller": null, "codes": {"not-allowed": 7}});
        let line = record(&entry);
        assert!(line.starts_with("3,,refusals-suppressed,,,"), "{line}");
        assert!(line.ends_with(",1,\"{\"\"codes\"\":{\"\"not-allowed\"\":7}}\"\r\n"), "{line}");
    }
}
