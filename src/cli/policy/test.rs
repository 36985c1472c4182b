//! `policy test`: a table of expected decisions, for the tests of those who write rules.

use super::{Decision, brief};
use crate::cli::{Exit, page};
use crate::clock::Timestamp;
use crate::config::{self, Expected};
use crate::error::NotAllowed;
use crate::policy::{Policy, Question};
use std::path::PathBuf;
use std::sync::Arc;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The table, in TOML: decisions = [{ caller = "…", session = "…", group = "…", expect = "allowed" }, …]. Each may
    /// also have from (an address), at (a time) and rule (which one is to decide)
    #[arg(value_name = "FILE")]
    table: PathBuf,
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON, an object for each decision
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let loaded = config::load(&options.config).map_err(|faults| page::faults(&options.config, &faults));
    let table = Expected::read_all(&options.table).map_err(|faults| page::faults(&options.table, &faults));
    let (loaded, table) = match (loaded, table) {
        (Ok(loaded), Ok(table)) => (loaded, table),
        (Err(exit), _) | (_, Err(exit)) => return exit,
    };
    let (policy, now) = (Policy::new(&loaded.config.callers), Timestamp::now());
    let decisions: Vec<_> = table.iter().map(|expected| decide(&policy, expected, now)).collect();
    let rows = table.iter().zip(&decisions).enumerate();
    let differing = rows.clone().filter(|(_, (expected, is))| !fits(expected, is));
    let count = differing.clone().count();
    if options.json {
        page::json_lines(rows.map(|(index, (expected, is))| json(index, expected, is)));
    } else {
        if count > 0 {
            let rows = differing.map(|(index, (expected, is))| row(index, expected, is));
            page::line(page::table(&["decision", "caller", "session", "group", "from", "expected", "is"], rows));
        }
        let all = table.len();
        page::line(format_args!(
            "{all} {}: {}",
            if all == 1 { "decision" } else { "decisions" },
            if count == 0 { "as expected".to_owned() } else { format!("{count} not as expected") }
        ));
    }
    if count == 0 { Exit::Done } else { Exit::No }
}

fn decide(policy: &Policy, expected: &Expected, now: Timestamp) -> Decision {
    policy.decide(&Question::new(&expected.caller, expected.from, &expected.target, expected.at.unwrap_or(now)))
}

fn rule(decision: &Decision) -> Option<Arc<str>> {
    decision.as_ref().map_or_else(NotAllowed::rule, |rule| Some(Arc::clone(rule)))
}

fn fits(expected: &Expected, is: &Decision) -> bool {
    expected.allowed == is.is_ok() && (expected.rule.is_none() || expected.rule.as_deref() == rule(is).as_deref())
}

fn wanted(expected: &Expected) -> String {
    let word = if expected.allowed { "allowed" } else { "refused" };
    expected.rule.as_ref().map_or_else(|| word.to_owned(), |rule| format!("{word} by {rule}"))
}

fn row(index: usize, expected: &Expected, is: &Decision) -> Vec<String> {
    let Expected { caller, target, from, .. } = expected;
    vec![
        format!("decisions[{index}]"),
        caller.to_string(),
        target.session.to_string(),
        target.group.to_string(),
        from.to_string(),
        wanted(expected),
        brief(is),
    ]
}

fn json(index: usize, expected: &Expected, is: &Decision) -> serde_json::Value {
    let Expected { caller, target, from, at, allowed, rule: wanted } = expected;
    serde_json::json!({
        "decision": index, "caller": caller, "session": target.session, "group": target.group, "from": from, "at": at,
        "as_expected": fits(expected, is),
        "expected": {"allowed": allowed, "rule": wanted},
        "is": {"allowed": is.is_ok(), "rule": rule(is).as_deref()},
    })
}
