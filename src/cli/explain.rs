//! `explain`: the decision that the policy would make, the rule that makes it, and what every other rule comes to.

use super::{Exit, page, policy};
use crate::clock::Timestamp;
use crate::config;
use crate::id::{CallerName, GroupId, SessionId, Target};
use crate::policy::{Explanation, Looked, Policy, Question};
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Options {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Who would call
    #[arg(long, value_name = "NAME", value_parser = |t: &str| CallerName::parse(t).map_err(|e| e.to_string()))]
    caller: CallerName,
    /// The provider session
    #[arg(long, value_name = "ID", value_parser = |t: &str| SessionId::parse(t).map_err(|e| e.to_string()))]
    session: SessionId,
    /// The group
    #[arg(long, value_name = "ID", value_parser = |t: &str| GroupId::parse(t).map_err(|e| e.to_string()))]
    group: GroupId,
    /// From which address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    from: IpAddr,
    /// When, for rules that expire; now unless said otherwise
    #[arg(long, value_name = "TIME", value_parser = policy::time)]
    at: Option<Timestamp>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(options: &Options) -> Exit {
    let loaded = match config::load(&options.config) {
        Ok(loaded) => loaded,
        Err(faults) => return page::faults(&options.config, &faults),
    };
    let known = loaded.config.callers.iter().find(|caller| caller.name == options.caller);
    let credentials = known.map(config::Caller::credentials).unwrap_or_default();
    if known.is_none() {
        page::complain(format_args!("warning: there is no caller `{}` in the configuration", options.caller));
    }
    let policy = Policy::new(&loaded.config.callers);
    let target = Target { session: options.session.clone(), group: options.group.clone() };
    let at = options.at.unwrap_or_else(Timestamp::now);
    let explanation = policy.explain(&Question::new(&options.caller, options.from, &target, at));
    let (allowed, reason) = policy::said(&explanation.decision);
    if options.json {
        let rules: Vec<_> = explanation.looked.iter().map(json).collect();
        let (rule, hash) = (explanation.rule().map(|rule| &**rule), &**policy.hash());
        page::line(serde_json::json!({
            "allowed": allowed, "rule": rule, "reason": reason, "policy": hash, "at": at, "rules": rules,
            "credentials": credentials
        }));
    } else {
        page::line(format_args!("{}: {reason}", if allowed { "allowed" } else { "not allowed" }));
        if !credentials.is_empty() {
            page::line(format_args!("it is known by: {}", credentials.join("; ")));
        }
        if !explanation.looked.is_empty() {
            page::line(table(&explanation));
        }
    }
    if allowed { Exit::Done } else { Exit::No }
}

/// Whether a rule covers the request, and whether the decision is its.
fn verdict(looked: &Looked) -> &'static str {
    match (looked.covers, looked.decides) {
        (true, true) => "yes, decides",
        (true, false) => "yes",
        (false, true) => "no, decides",
        (false, false) => "no",
    }
}

fn json(looked: &Looked) -> serde_json::Value {
    let Looked { rule, covers, decides, why } = looked;
    serde_json::json!({"rule": &**rule, "covers": covers, "decides": decides, "why": why})
}

fn table(explanation: &Explanation) -> String {
    let row = |looked: &Looked| vec![looked.rule.to_string(), verdict(looked).to_owned(), looked.why.join("\n")];
    page::table(&["rule", "covers it", "why"], explanation.looked.iter().map(row)).to_string()
}
