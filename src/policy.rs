//! Who may do what: caller × address × target × rules → decision with its reason. Pure: no I/O, no clock.
//!
//! Denied unless an allow rule covers the target and no deny rule does. Allow rules match what was sent;
//! deny rules match both spellings of the group, so that leaving out `@g.us` is no way around them.

mod pattern;

use crate::config;
use crate::error::NotAllowed;
use crate::id::{CallerName, Target};
use ipnet::IpNet;
use pattern::Patterns;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::fmt::Write;
use std::net::IpAddr;
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

struct Rule {
    name: Arc<str>,
    sessions: Patterns,
    groups: Patterns,
}

impl Rule {
    fn all(caller: &CallerName, kind: &str, rules: &[config::Rule]) -> Vec<Self> {
        let rule = |(index, rule): (usize, &config::Rule)| Self {
            name: format!("{caller}.{kind}[{index}]").into(),
            sessions: Patterns::new(&rule.sessions),
            groups: Patterns::new(&rule.groups),
        };
        rules.iter().enumerate().map(rule).collect()
    }

    fn covers_as_sent(&self, target: &Target) -> bool {
        self.sessions.matches(target.session.as_str()) && self.groups.matches(target.group.as_str())
    }

    fn covers_any_spelling(&self, target: &Target) -> bool {
        let bare = target.group.bare();
        self.sessions.matches(target.session.as_str())
            && (self.groups.matches(bare) || self.groups.matches(&format!("{bare}@g.us")))
    }
}

impl Policy {
    /// Takes over the callers' rules.
    #[must_use]
    pub fn new(callers: &[config::Caller]) -> Self {
        let mut hash = Sha256::new();
        let mut rules = HashMap::with_capacity(callers.len());
        for caller in callers {
            let mut text = String::new();
            let _ = write!(text, "{:?}", (&caller.name, &caller.from, &caller.rates, &caller.allow, &caller.deny));
            hash.update(text.as_bytes());
            let allow = Rule::all(&caller.name, "allow", &caller.allow);
            let deny = Rule::all(&caller.name, "deny", &caller.deny);
            rules.insert(caller.name.clone(), Rules { from: caller.from.clone(), allow, deny });
        }
        let mut text = String::from("sha256:");
        for byte in hash.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        Self { callers: rules, hash: text.into() }
    }

    /// `sha256:` and the hash of all rules: two policies that decide differently differ in it.
    #[must_use]
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Decides. `peer` is the address that the caller calls from. Returns the name of the rule that allows.
    ///
    /// # Errors
    /// Why not, naming the deny rule where one decided.
    pub fn decide(&self, caller: &CallerName, peer: IpAddr, target: &Target) -> Result<Arc<str>, NotAllowed> {
        let Some(rules) = self.callers.get(caller) else {
            return Err(NotAllowed::NoRule(caller.clone()));
        };
        if rules.from.as_ref().is_some_and(|nets| !nets.iter().any(|net| net.contains(&peer))) {
            return Err(NotAllowed::From(caller.clone()));
        }
        if let Some(rule) = rules.deny.iter().find(|rule| rule.covers_any_spelling(target)) {
            return Err(NotAllowed::Denied(caller.clone(), rule.name.to_string()));
        }
        let allowing = rules.allow.iter().find(|rule| rule.covers_as_sent(target));
        allowing.map(|rule| Arc::clone(&rule.name)).ok_or_else(|| NotAllowed::NoRule(caller.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{GroupId, SessionId};

    fn rule(session: &str, group: &str) -> config::Rule {
        config::Rule { sessions: vec![session.into()], groups: vec![group.into()] }
    }

    fn decide(
        allow: Vec<config::Rule>,
        deny: Vec<config::Rule>,
        from: Option<&str>,
        group: &str,
    ) -> Result<Arc<str>, NotAllowed> {
        let name = CallerName::parse("c").unwrap();
        let from = from.map(|net| vec![net.parse().unwrap()]);
        let caller =
            config::Caller { name: name.clone(), tokens: vec![], from, rates: vec![], budgets: vec![], allow, deny };
        let target = Target { session: SessionId::parse("s1").unwrap(), group: GroupId::parse(group).unwrap() };
        Policy::new(&[caller]).decide(&name, "10.1.2.3".parse().unwrap(), &target)
    }

    #[test]
    fn what_no_rule_allows_is_refused() {
        assert!(decide(vec![], vec![], None, "1@g.us").is_err());
        assert!(decide(vec![rule("s2", "*")], vec![], None, "1@g.us").is_err());
        assert_eq!(
            decide(vec![rule("s2", "*"), rule("s*", "1@g.us")], vec![], None, "1@g.us").as_deref(),
            Ok("c.allow[1]")
        );
    }

    #[test]
    fn allow_matches_what_was_sent_and_deny_matches_both_spellings() {
        assert!(decide(vec![rule("*", "1@g.us")], vec![], None, "1").is_err());
        for (denied, sent) in [("1@g.us", "1"), ("1", "1@g.us"), ("*@g.us", "1")] {
            let decision = decide(vec![rule("*", "*")], vec![rule("*", denied)], None, sent);
            assert!(matches!(decision, Err(NotAllowed::Denied(_, ref by)) if by == "c.deny[0]"), "{denied} {sent}");
        }
    }

    #[test]
    fn a_caller_outside_of_its_networks_is_refused_before_its_rules() {
        assert!(decide(vec![rule("*", "*")], vec![], Some("10.0.0.0/8"), "1").is_ok());
        assert!(matches!(decide(vec![rule("*", "*")], vec![], Some("10.9.0.0/16"), "1"), Err(NotAllowed::From(_))));
    }
}
