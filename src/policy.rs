//! Who may do what: caller × address × target × time × rules → decision with its reason. Pure: no I/O, no clock.
//!
//! Denied unless an allow rule covers the request and no deny rule does. Allow rules match what was sent;
//! deny rules match both spellings of the group, so that leaving out `@g.us` is no way around them. A rule that has
//! expired covers nothing: an allow rule allows nothing any more, a deny rule denies nothing any more.

mod canonical;
mod explain;
mod pattern;
mod rule;
#[cfg(test)]
mod tests;

pub use canonical::Canonical;
pub use explain::{Explanation, Looked};

use crate::clock::Timestamp;
use crate::config;
use crate::error::NotAllowed;
use crate::id::{CallerName, SessionId, Target};
use ipnet::IpNet;
use pattern::Patterns;
use rule::{Effect, Rule};
use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

/// The rules of all callers.
pub struct Policy {
    callers: HashMap<CallerName, Rules>,
    hash: Arc<str>,
}

struct Rules {
    from: Option<Vec<IpNet>>,
    allow: Vec<Rule>,
    deny: Vec<Rule>,
}

/// What a policy is asked: may this caller, from this address, at this time, do it to this target?
pub struct Question<'a> {
    caller: &'a CallerName,
    peer: IpAddr,
    target: &'a Target,
    at: Timestamp,
}

impl<'a> Question<'a> {
    /// `peer` is the address that the caller calls from; an IPv4 address in an IPv6 coat is taken for the former.
    #[must_use]
    pub fn new(caller: &'a CallerName, peer: IpAddr, target: &'a Target, at: Timestamp) -> Self {
        Self { caller, peer: peer.to_canonical(), target, at }
    }
}

/// The lists of groups of a configuration, each taken over once for each effect, however many rules name it.
type Lists<'a> = HashMap<(&'a Path, Effect), Arc<Patterns>>;

impl Policy {
    /// Takes over the callers' rules.
    #[must_use]
    pub fn new(callers: &[config::Caller]) -> Self {
        let mut lists = Lists::new();
        let mut rules = HashMap::with_capacity(callers.len());
        for caller in callers {
            let allow = Rule::all(&caller.name, Effect::Allow, &caller.allow, &mut lists);
            let deny = Rule::all(&caller.name, Effect::Deny, &caller.deny, &mut lists);
            rules.insert(caller.name.clone(), Rules { from: caller.from.clone(), allow, deny });
        }
        Self { callers: rules, hash: Canonical::new(callers).hash().into() }
    }

    /// `sha256:` and the hash of the policy's canonical form, see [`Canonical`]: two policies that decide differently
    /// differ in it, and one policy has the same in every process and version.
    #[must_use]
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Whether a caller has this name.
    #[must_use]
    pub fn knows(&self, caller: &CallerName) -> bool {
        self.callers.contains_key(caller)
    }

    /// Whether an allow rule names a session, whoever calls, from where and when.
    #[must_use]
    pub fn allows_in(&self, session: &SessionId) -> bool {
        self.callers.values().flat_map(|rules| &rules.allow).any(|rule| rule.names(session))
    }

    /// Decides. Returns the name of the rule that allows.
    ///
    /// # Errors
    /// Why not, naming the deny rule where one decided.
    pub fn decide(&self, question: &Question<'_>) -> Result<Arc<str>, NotAllowed> {
        let caller = question.caller;
        let Some(rules) = self.callers.get(caller) else {
            return Err(NotAllowed::NoRule(caller.clone()));
        };
        if !rules.may_call_from(question.peer) {
            return Err(NotAllowed::From(caller.clone()));
        }
        if let Some(rule) = rules.deny.iter().find(|rule| rule.covers(question)) {
            return Err(NotAllowed::Denied(caller.clone(), Arc::clone(&rule.name)));
        }
        let allowing = rules.allow.iter().find(|rule| rule.covers(question));
        allowing.map(|rule| Arc::clone(&rule.name)).ok_or_else(|| NotAllowed::NoRule(caller.clone()))
    }
}

impl Rules {
    fn may_call_from(&self, peer: IpAddr) -> bool {
        self.from.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(&peer)))
    }
}
