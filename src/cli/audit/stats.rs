//! `audit stats`: how many requests ended how, per day and caller.

use super::{Common, is_empty, mention_pruned, when};
use crate::cli::{Exit, page};
use crate::clock::Timestamp;
use crate::ledger::stats::{Span, Tally};
use crate::ledger::{OpenError, Reader};
use std::io::IsTerminal;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    pub(super) common: Common,
    /// A span such as 7d, a date or a time; days are whole ones in UTC
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<Timestamp>,
    /// A span such as 7d, a date or a time; the days that it touches count
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<Timestamp>,
}

const COLUMNS: [&str; 9] =
    ["day", "caller", "deleted", "refused", "not-sent", "unknown", "open", "refused-here", "dry-run"];
/// How wide the longest bar is.
const WIDTH: u64 = 40;

fn numbers(tally: &Tally) -> [u64; 7] {
    let Tally { deleted, refused, not_sent, unknown, open, refused_here, dry_run, .. } = tally;
    [*deleted, *refused, *not_sent, *unknown, *open, *refused_here, *dry_run]
}

fn name(tally: &Tally) -> String {
    if tally.caller.is_empty() { "(no caller)".to_owned() } else { tally.caller.escape_debug().to_string() }
}

pub(super) fn run(options: &Options, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    if is_empty(options.since, options.until) {
        return Ok(Exit::Usage);
    }
    // Of the day in which it begins all is counted.
    mention_pruned(ledger, options.since.map(Timestamp::day))?;
    let tallies = ledger.stats(Span { since: options.since, until: options.until })?;
    if options.common.json {
        page::json_lines(tallies);
    } else if std::io::stdout().is_terminal() && !tallies.is_empty() {
        bars(&tallies).into_iter().all(page::line);
    } else {
        let cells = |tally: &Tally| {
            let counts = numbers(tally).map(|number| number.to_string());
            [tally.day.clone(), name(tally)].into_iter().chain(counts).collect()
        };
        page::line(page::table(&COLUMNS, tallies.iter().map(cells)));
    }
    Ok(Exit::Done)
}

/// A line for each: a bar as long as the caller's requests of that day are many, and what they came to.
fn bars(tallies: &[Tally]) -> Vec<String> {
    let total = |tally: &Tally| numbers(tally).iter().sum::<u64>();
    let most = tallies.iter().map(total).max().unwrap_or(0).max(1);
    let widest = tallies.iter().map(|tally| name(tally).chars().count()).max().unwrap_or(0);
    let mut day = "";
    let mut lines = Vec::new();
    for tally in tallies {
        let long = (total(tally) * WIDTH).div_ceil(most);
        let bar = "█".repeat(usize::try_from(long).unwrap_or(0));
        let named = COLUMNS.iter().skip(2).zip(numbers(tally)).filter(|(_, number)| *number > 0);
        let counts: Vec<String> = named.map(|(name, number)| format!("{number} {name}")).collect();
        let date = if day == tally.day { "" } else { &tally.day };
        lines.push(format!("{date:<10}  {:<widest$}  {bar} {}", name(tally), counts.join(", ")));
        day = &tally.day;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_the_requests_are_many_and_the_day_is_said_once() {
        let tally = |caller: &str, deleted, refused_here| Tally {
            day: "2026-11-24".into(),
            caller: caller.into(),
            deleted,
            refused_here,
            ..Tally::default()
        };
        let lines = bars(&[tally("", 0, 1), tally("moderation", 80, 0)]);
        assert_eq!(lines[0], "2026-11-24  (no caller)  █ 1 refused-here");
        assert_eq!(lines[1], format!("            moderation   {} 80 deleted", "█".repeat(40)));
    }
}
