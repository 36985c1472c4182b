//! `audit`: asking the ledger, beside a running gateway or without one.

use super::{Exit, page};
use crate::clock::{Timestamp, parse_span};
use crate::config;
use crate::ledger::search::{Query, Row, entries_of};
use crate::ledger::sqlite::SqliteReader;
use crate::ledger::{OpenError, Reader};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(clap::Args)]
pub(super) struct Common {
    /// The configuration; only its [ledger] has to be right
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Requests, newest first
    Search(Search),
    /// Everything about one request
    Show {
        #[command(flatten)]
        common: Common,
        /// The X-Request-Id of its answer
        request_id: String,
    },
    /// The latest entries; with -f also those to come
    Tail {
        #[command(flatten)]
        common: Common,
        /// Go on until interrupted
        #[arg(short, long)]
        follow: bool,
        /// How many to begin with
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: u64,
    },
    /// All entries' bytes, one a line, ascending (JSON Lines)
    Export {
        #[command(flatten)]
        common: Common,
        /// Begin with this sequence number
        #[arg(long, default_value_t = 0)]
        from: u64,
    },
}

#[derive(clap::Args)]
pub(super) struct Search {
    #[command(flatten)]
    common: Common,
    #[arg(long, value_name = "NAME")]
    caller: Option<String>,
    #[arg(long, value_name = "ID")]
    session: Option<String>,
    /// With or without @g.us
    #[arg(long, value_name = "ID")]
    group: Option<String>,
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// deleted, refused, not-sent, unknown, open, refused-here or dry-run
    #[arg(long, value_parser = ["deleted", "refused", "not-sent", "unknown", "open", "refused-here", "dry-run"])]
    outcome: Option<String>,
    /// A span such as 2h, a date or a time
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<Timestamp>,
    /// A span such as 2h, a date or a time
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<Timestamp>,
    /// The next page: only what is before this sequence number
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
    /// How many at the most
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

fn when(text: &str) -> Result<Timestamp, String> {
    let span = parse_span(text).map(|span| Timestamp::now().before(span));
    span.or_else(|| Timestamp::parse(text))
        .ok_or_else(|| "is neither a span (2h, 7d) nor a date nor a time (2026-11-24T08:00:00Z)".to_owned())
}

fn open(file: &Path) -> Result<SqliteReader, Exit> {
    let (ledger, elsewhere) = config::load_ledger(file).map_err(|faults| page::faults(file, &faults))?;
    for fault in elsewhere {
        page::complain(format_args!("warning: {fault}"));
    }
    SqliteReader::open(&ledger.path).map_err(|e| page::ledger(&e))
}

pub(super) fn run(command: &Command) -> Exit {
    let common = match command {
        Command::Search(Search { common, .. })
        | Command::Show { common, .. }
        | Command::Tail { common, .. }
        | Command::Export { common, .. } => common,
    };
    let ledger = match open(&common.config) {
        Ok(ledger) => ledger,
        Err(exit) => return exit,
    };
    let done = match command {
        Command::Search(search) => search.run(&ledger),
        Command::Show { request_id, common } => show(&ledger, request_id, common.json),
        Command::Tail { follow, lines, .. } => tail(&ledger, *lines, *follow),
        Command::Export { from, .. } => copy_out(&ledger, *from).map(|_| Exit::Done),
    };
    done.unwrap_or_else(|e| page::ledger(&e))
}

/// The columns of a table of requests.
pub(super) const COLUMNS: [&str; 8] = ["seq", "time", "caller", "session", "group", "outcome", "why", "request id"];

/// A request as a row of that table.
pub(super) fn cells(row: Row) -> Vec<String> {
    let status = row.status.map(|status| status.to_string()).unwrap_or_default();
    let mut why = if row.code.is_empty() { row.rule } else { format!("{} {}", status, row.code).trim().to_owned() };
    if let Some(resolution) = row.resolution {
        why += &format!(", since then {resolution}");
    }
    let time = row.time.get(..19).unwrap_or(&row.time).replace('T', " ");
    let shown = |text: String| text.escape_debug().to_string();
    vec![
        row.seq.to_string(),
        time,
        shown(row.caller),
        shown(row.session),
        shown(row.group),
        row.outcome,
        why,
        row.request_id,
    ]
}

impl Search {
    fn run(&self, ledger: &SqliteReader) -> Result<Exit, OpenError> {
        let query = Query {
            caller: self.caller.clone(),
            session: self.session.clone(),
            group: self.group.clone(),
            request_id: self.request_id.clone(),
            outcome: self.outcome.clone(),
            since: self.since,
            until: self.until,
            before: self.before,
            limit: self.limit,
        };
        let rows = query.run(ledger)?;
        let (found, last) = (rows.len(), rows.last().map(|row| row.seq));
        if self.common.json {
            for row in rows {
                if !page::line(serde_json::to_string(&row).unwrap_or_default()) {
                    break;
                }
            }
        } else {
            page::line(page::table(&COLUMNS, rows.into_iter().map(cells)));
            if let Some(last) = last.filter(|_| found == self.limit) {
                page::complain(format_args!("there may be more: --before {last}"));
            }
        }
        Ok(Exit::Done)
    }
}

fn show(ledger: &SqliteReader, request_id: &str, json: bool) -> Result<Exit, OpenError> {
    let entries = entries_of(ledger, request_id)?;
    for entry in &entries {
        if json {
            page::line(entry);
            continue;
        }
        page::line(format_args!("entry {}", entry["seq"]));
        for (member, value) in
            entry.as_object().into_iter().flatten().filter(|(member, _)| !matches!(member.as_str(), "v" | "seq"))
        {
            let shown = value.as_str().map_or_else(|| value.to_string(), |text| text.escape_debug().to_string());
            page::line(format_args!("  {member:<18} {shown}"));
        }
    }
    if entries.is_empty() {
        page::complain(
            "no entry has this request id; a refusal that was only counted has none (audit export shows the counts)",
        );
        return Ok(Exit::No);
    }
    Ok(Exit::Done)
}

/// Prints the entries from `from` on; returns the number that comes next.
fn copy_out(ledger: &SqliteReader, mut from: u64) -> Result<u64, OpenError> {
    loop {
        let entries = ledger.read(from, u64::MAX)?;
        let Some((last, _)) = entries.last() else { return Ok(from) };
        from = last + 1;
        for (_, bytes) in &entries {
            if !page::line(String::from_utf8_lossy(bytes)) {
                return Ok(u64::MAX);
            }
        }
    }
}

fn tail(ledger: &SqliteReader, lines: u64, follow: bool) -> Result<Exit, OpenError> {
    let mut next = copy_out(ledger, ledger.length()?.saturating_sub(lines))?;
    while follow && next < u64::MAX {
        std::thread::sleep(Duration::from_millis(200));
        next = copy_out(ledger, next)?;
    }
    Ok(Exit::Done)
}
