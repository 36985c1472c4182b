//! `policy diff`: what another configuration would change, in its rules or in what was recorded.

use super::recorded::{Recorded, first_at};
use super::{brief, said};
use crate::cli::{Exit, audit, page};
use crate::clock::Timestamp;
use crate::config::{self, Caller};
use crate::ledger::{OpenError, Reader};
use crate::policy::{Canonical, Policy, Question};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Longer cells are cut off on a terminal; JSON has them whole.
const CELL: usize = 200;

#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    /// The configuration that is in force
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// The one that is to be
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// Ask both about every deletion, dry run and refusal (for want of a rule or by one) that the ledger has, each at
    /// the time of its entry
    #[arg(long)]
    against_ledger: bool,
    /// Take the ledger of this configuration; without it, that of OLD
    #[arg(long, value_name = "FILE", requires = "against_ledger")]
    config: Option<PathBuf>,
    /// Only what was recorded from then on: a span such as 7d, a date or a time (UTC)
    #[arg(long, value_name = "WHEN", value_parser = audit::when, requires = "against_ledger")]
    since: Option<Timestamp>,
    /// Show so many at the most; all are counted, and --json prints all
    #[arg(long, value_name = "N", default_value_t = 50)]
    limit: usize,
    /// Print JSON, an object for each difference
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let load = |file: &Path| config::load(file).map_err(|faults| page::faults(file, &faults));
    let (old, new) = match (load(&options.old), load(&options.new)) {
        (Ok(old), Ok(new)) => (old.config.callers, new.config.callers),
        (Err(exit), _) | (_, Err(exit)) => return exit,
    };
    if !options.against_ledger {
        return rules(options, &old, &new);
    }
    let ledger = options.config.as_ref().unwrap_or(&options.old);
    audit::with_ledger_of(ledger, |ledger| recorded(options, &Policy::new(&old), &Policy::new(&new), ledger))
}

/// The rules of a canonical form by their names; `from` and `rates` of a caller are in it too.
fn by_name(callers: &[Caller]) -> BTreeMap<String, Value> {
    let mut all = BTreeMap::new();
    for line in Canonical::new(callers).text().lines().skip(1) {
        let Ok(Value::Object(members)) = serde_json::from_str(line) else { continue };
        let name = members.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
        for (member, value) in members {
            match (&*member, value) {
                ("name", _) => {
                    all.insert(name.clone(), json!({}));
                }
                ("allow" | "deny", Value::Array(rules)) => {
                    let named = rules.into_iter().enumerate();
                    all.extend(named.map(|(index, rule)| (format!("{name}.{member}[{index}]"), rule)));
                }
                (_, value) => {
                    all.insert(format!("{name}.{member}"), value);
                }
            }
        }
    }
    all
}

fn rules(options: &Options, old: &[Caller], new: &[Caller]) -> Exit {
    let (old, new) = (by_name(old), by_name(new));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort_unstable();
    names.dedup();
    let differing: Vec<_> = names.into_iter().filter(|name| old.get(*name) != new.get(*name)).collect();
    if options.json {
        let object = |name: &&String| json!({"rule": name, "old": old.get(*name), "new": new.get(*name)});
        page::json_lines(differing.iter().map(object));
    } else if differing.is_empty() {
        page::line("the rules are the same");
    } else {
        let cell = |value: Option<&Value>| cut(&value.map_or_else(|| "–".to_owned(), ToString::to_string));
        let row = |name: &&String| vec![(*name).clone(), cell(old.get(*name)), cell(new.get(*name))];
        page::line(page::table(&["rule", "old", "new"], differing.iter().take(options.limit).map(row)));
        left_out(differing.len().saturating_sub(options.limit));
    }
    if differing.is_empty() { Exit::Done } else { Exit::No }
}

fn cut(text: &str) -> String {
    let head: String = text.chars().take(CELL).collect();
    if head.len() < text.len() { format!("{head}…") } else { head }
}

fn left_out(count: usize) {
    if count > 0 {
        page::complain(format_args!("{count} more are not shown: --limit, --json"));
    }
}

/// What was counted on the way through the ledger.
#[derive(Default)]
struct Tally {
    asked: u64,
    refused: u64,
    allowed: u64,
    /// Deletions that both refuse: they were allowed by a policy before OLD.
    by_neither: u64,
}

fn recorded(options: &Options, old: &Policy, new: &Policy, ledger: &dyn Reader) -> Result<Exit, OpenError> {
    let length = ledger.length()?;
    let begin = options.since.map_or(Ok(0), |since| first_at(ledger, since))?;
    let (mut from, mut progress) = (begin, page::Progress::new());
    let (mut tally, mut rows, mut reads) = (Tally::default(), Vec::new(), true);
    while reads {
        let entries = ledger.read(from, length)?;
        let Some((last, _)) = entries.last() else { break };
        for (seq, bytes) in &entries {
            let Some(recorded) = Recorded::read(*seq, bytes)? else { continue };
            if let Some(difference) = tally.judge(&recorded, old, new) {
                if options.json {
                    reads = reads && page::line(difference.json());
                } else if rows.len() < options.limit {
                    rows.push(difference.row());
                }
            }
        }
        from = last + 1;
        progress.tick(from - begin, length - begin);
    }
    let differing = tally.refused + tally.allowed;
    if options.json {
        page::complain(tally.summary());
    } else {
        let shown = rows.len();
        if shown > 0 {
            let head = ["seq", "time", "recorded", "caller", "session", "group", "from", "old", "new"];
            page::line(page::table(&head, rows));
        }
        page::line(tally.summary());
        left_out(usize::try_from(differing).unwrap_or(usize::MAX).saturating_sub(shown));
    }
    Ok(if differing == 0 { Exit::Done } else { Exit::No })
}

/// One that the two decide differently.
struct Difference<'a> {
    recorded: &'a Recorded,
    old: super::Decision,
    new: super::Decision,
}

impl Tally {
    fn judge<'a>(&mut self, recorded: &'a Recorded, old: &Policy, new: &Policy) -> Option<Difference<'a>> {
        let question = Question::new(&recorded.caller, recorded.peer, &recorded.target, recorded.time);
        let (old, new) = (old.decide(&question), new.decide(&question));
        self.asked += 1;
        match (old.is_ok(), new.is_ok()) {
            (true, true) => return None,
            (true, false) => self.refused += 1,
            (false, true) => self.allowed += 1,
            (false, false) => {
                self.by_neither += u64::from(recorded.what == "deletion");
                return None;
            }
        }
        Some(Difference { recorded, old, new })
    }

    fn summary(&self) -> String {
        let Self { asked, refused, allowed, by_neither } = self;
        let mut text = format!("of {asked} recorded decisions {} would be otherwise", refused + allowed);
        if refused + allowed > 0 {
            text += &format!(": {refused} refused that are allowed, {allowed} allowed that are refused");
        }
        if *by_neither > 0 {
            text += &format!("; {by_neither} recorded deletions are allowed by neither");
        }
        text
    }
}

impl Difference<'_> {
    fn row(&self) -> Vec<String> {
        let Recorded { seq, time, what, caller, peer, target, .. } = self.recorded;
        let time = time.to_string();
        vec![
            seq.to_string(),
            time.get(..19).unwrap_or(&time).replace('T', " "),
            (*what).to_owned(),
            caller.to_string(),
            target.session.to_string(),
            target.group.to_string(),
            peer.to_string(),
            brief(&self.old),
            brief(&self.new),
        ]
    }

    fn json(&self) -> Value {
        let Recorded { seq, time, request_id, what, caller, peer, target } = self.recorded;
        let decision = |decision: &super::Decision| {
            let (allowed, reason) = said(decision);
            json!({"allowed": allowed, "reason": reason})
        };
        json!({
            "seq": seq, "time": time, "request_id": request_id, "recorded": what, "caller": caller, "peer": peer,
            "session": target.session, "group": target.group, "old": decision(&self.old), "new": decision(&self.new),
        })
    }
}
