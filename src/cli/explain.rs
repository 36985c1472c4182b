//! `explain`: the decision that the policy would make, and the rule that makes it.

use super::{Exit, page};
use crate::config;
use crate::error::Refused;
use crate::id::{CallerName, GroupId, SessionId, Target};
use crate::policy::Policy;
use crate::problem::Problem;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(clap::Args)]
pub(super) struct Question {
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(question: &Question) -> Exit {
    let loaded = match config::load(&question.config) {
        Ok(loaded) => loaded,
        Err(faults) => return page::faults(&question.config, &faults),
    };
    if !loaded.config.callers.iter().any(|caller| caller.name == question.caller) {
        page::complain(format_args!("warning: there is no caller `{}` in the configuration", question.caller));
    }
    let policy = Policy::new(&loaded.config.callers);
    let target = Target { session: question.session.clone(), group: question.group.clone() };
    let decision = policy.decide(&question.caller, question.from.to_canonical(), &target);
    let (allowed, reason) = match &decision {
        Ok(rule) => (true, format!("rule {rule} allows it")),
        Err(why) => (false, Problem::from(&Refused::from(why.clone())).detail.into_owned()),
    };
    if question.json {
        let rule = decision.as_deref().ok();
        page::line(serde_json::json!({"allowed": allowed, "rule": rule, "reason": reason, "policy": &**policy.hash()}));
    } else {
        page::line(format_args!("{}: {reason}", if allowed { "allowed" } else { "not allowed" }));
    }
    if allowed { Exit::Done } else { Exit::No }
}
