//! `audit search`: requests, newest first, a page at a time.

use super::{Common, is_empty, mention_pruned, when};
use crate::cli::{Exit, page};
use crate::clock::Timestamp;
use crate::id::{CallerName, GroupId, RequestId, SessionId};
use crate::ledger::search::{Query, Row};
use crate::ledger::{OpenError, Reader};

/// More entries than this are not read one by one without a word.
const UNCOVERED: u64 = 100_000;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// Only those of this caller
    #[arg(long, value_name = "NAME", value_parser = caller)]
    caller: Option<String>,
    /// Only those for this provider session
    #[arg(long, value_name = "ID", value_parser = session)]
    session: Option<String>,
    /// Only those for this group, with or without @g.us
    #[arg(long, value_name = "ID", value_parser = group)]
    group: Option<String>,
    /// Only the one with this X-Request-Id
    #[arg(long, value_name = "ID", value_parser = request_id)]
    request_id: Option<String>,
    /// Only those that ended so
    #[arg(long, value_parser = ["deleted", "refused", "not-sent", "unknown", "open", "refused-here", "dry-run"])]
    outcome: Option<String>,
    /// Only those that the gateway decided so
    #[arg(long, value_parser = ["allowed", "refused", "dry-run"])]
    decision: Option<String>,
    /// Only intents of which it is not known what became: no outcome, or unknown and not found out since
    #[arg(long)]
    open: bool,
    /// Only those from then on: a span such as 2h, a date or a time (UTC)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<Timestamp>,
    /// Only those before then: a span such as 2h, a date or a time (UTC)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<Timestamp>,
    /// The next page: only what is before this sequence number
    #[arg(long, value_name = "SEQ")]
    before: Option<u64>,
    /// How many at the most
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = at_least_one)]
    limit: usize,
}

/// What can be no id fits no entry: to find nothing by it would say nothing of the ledger.
fn caller(text: &str) -> Result<String, String> {
    CallerName::parse(text).map(|_| text.to_owned()).map_err(|fault| format!("a caller's name {fault}"))
}

fn session(text: &str) -> Result<String, String> {
    SessionId::parse(text).map(|_| text.to_owned()).map_err(|fault| format!("a session's id {fault}"))
}

fn group(text: &str) -> Result<String, String> {
    GroupId::parse(text).map(|_| text.to_owned()).map_err(|fault| format!("a group's id {fault}"))
}

/// As entries have it.
fn request_id(text: &str) -> Result<String, String> {
    RequestId::parse(text).map(|id| id.to_string()).ok_or_else(|| "is no X-Request-Id of an answer".to_owned())
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "is not a whole number from 1 on".to_owned())
}

/// The columns of a table of requests.
const COLUMNS: [&str; 8] = ["seq", "time (UTC)", "caller", "session", "group", "outcome", "why", "request id"];

/// A terminal that is narrower than this has no room for request ids.
const WIDE: u16 = 150;

/// Requests as a table. Without room for their ids it says how to get on without.
pub(in crate::cli) fn table(rows: Vec<Row>) -> String {
    if rows.is_empty() {
        return "nothing found".to_owned();
    }
    let wide = page::width().is_none_or(|width| width >= WIDE);
    let columns = COLUMNS.get(..if wide { COLUMNS.len() } else { COLUMNS.len() - 1 }).unwrap_or(&COLUMNS);
    let cells = rows.into_iter().map(|row| {
        let mut cells = cells(row);
        cells.truncate(columns.len());
        cells
    });
    let table = page::table(columns, cells);
    if wide {
        table.to_string()
    } else {
        format!("{table}\n`audit show SEQ` shows a request by the number of its first entry, with its id")
    }
}

/// A request as a row of that table.
fn cells(row: Row) -> Vec<String> {
    let status = row.status.map(|status| status.to_string()).unwrap_or_default();
    let why = if row.code.is_empty() { row.rule } else { format!("{} {}", status, row.code).trim().to_owned() };
    let time = row.time.get(..19).unwrap_or(&row.time).replace('T', " ");
    let shown = |text: String| text.escape_debug().to_string();
    let outcome = if row.resolution.is_empty() { row.outcome } else { format!("{}, {}", row.outcome, row.resolution) };
    vec![
        row.seq.to_string(),
        time,
        shown(row.caller),
        shown(row.session),
        shown(row.group),
        shown(outcome),
        why,
        row.request_id,
    ]
}

pub(super) fn run(options: &Options, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    if is_empty(options.since, options.until) {
        return Ok(Exit::Usage);
    }
    let found = ledger.search(&Query {
        caller: options.caller.clone(),
        session: options.session.clone(),
        group: options.group.clone(),
        request_id: options.request_id.clone(),
        outcome: options.outcome.clone(),
        decision: options.decision.clone(),
        open: options.open,
        since: options.since,
        until: options.until,
        before: options.before,
        limit: options.limit,
    })?;
    let is_last = found.next.is_none();
    if options.common.json {
        page::json_lines(found.rows);
    } else {
        page::line(table(found.rows));
        if let Some(next) = found.next {
            page::complain(format_args!("there may be more: --before {next}"));
        }
    }
    if is_last {
        mention_pruned(ledger, options.since)?;
    }
    if found.uncovered > UNCOVERED {
        page::complain(format_args!(
            "{} entries are not in the search data yet and were read one by one; `serve` adds them, and so does `audit reindex`",
            found.uncovered
        ));
    }
    Ok(Exit::Done)
}
