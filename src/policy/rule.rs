//! One rule: which requests it covers, and in words why it does or does not.

use super::pattern::Patterns;
use super::{Lists, Question};
use crate::clock::Timestamp;
use crate::config;
use crate::id::{CallerName, GroupId, SessionId};
use ipnet::IpNet;
use std::sync::Arc;

/// What a rule does with what it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Effect {
    Allow,
    Deny,
}

impl Effect {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Effect::Allow => "allow",
            Effect::Deny => "deny",
        }
    }

    /// Patterns of groups: an allow rule's match what was sent, a deny rule's match either spelling.
    fn patterns(self, groups: &[impl AsRef<str>]) -> Patterns {
        match self {
            Effect::Allow => Patterns::new(groups),
            Effect::Deny => Patterns::of_either_spelling(groups),
        }
    }

    fn matching<'a>(self, patterns: &'a Patterns, group: &GroupId) -> Option<&'a str> {
        match self {
            Effect::Allow => patterns.matching(group.as_str()),
            Effect::Deny => patterns.matching_either(group.as_str()),
        }
    }
}

/// What a rule looks at. It covers a request that fits in all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Expiry,
    Session,
    From,
    Group,
}

impl Part {
    pub(super) const ALL: [Self; 4] = [Part::Expiry, Part::Session, Part::From, Part::Group];
}

pub(super) struct Rule {
    /// Such as `moderation.allow[0]`.
    pub(super) name: Arc<str>,
    effect: Effect,
    sessions: Patterns,
    groups: Patterns,
    listed: Option<Arc<Patterns>>,
    from: Option<Vec<IpNet>>,
    expires: Option<Timestamp>,
}

impl Rule {
    pub(super) fn all<'a>(
        caller: &CallerName,
        effect: Effect,
        rules: &'a [config::Rule],
        lists: &mut Lists<'a>,
    ) -> Vec<Self> {
        let mut rule = |(index, rule): (usize, &'a config::Rule)| Self {
            name: format!("{caller}.{}[{index}]", effect.as_str()).into(),
            effect,
            sessions: Patterns::new(&rule.sessions),
            groups: effect.patterns(&rule.groups),
            listed: rule.listed.as_ref().map(|listed| {
                let patterns = || Arc::new(effect.patterns(&listed.groups));
                Arc::clone(lists.entry((&listed.file, effect)).or_insert_with(patterns))
            }),
            from: rule.from.clone(),
            expires: rule.expires,
        };
        rules.iter().enumerate().map(&mut rule).collect()
    }

    pub(super) fn names(&self, session: &SessionId) -> bool {
        self.sessions.matching(session.as_str()).is_some()
    }

    pub(super) fn covers(&self, question: &Question<'_>) -> bool {
        Part::ALL.into_iter().all(|part| self.fits(part, question))
    }

    pub(super) fn fits(&self, part: Part, question: &Question<'_>) -> bool {
        match part {
            Part::Expiry => self.expires.is_none_or(|at| question.at < at),
            Part::Session => self.session(question).is_some(),
            Part::From => self.from.is_none() || self.network(question).is_some(),
            Part::Group => self.group(&question.target.group).is_some(),
        }
    }

    #[cfg(test)]
    pub(super) fn holders_of_its_list(&self) -> usize {
        // The table that shared it out is gone.
        self.listed.as_ref().map_or(0, Arc::strong_count)
    }

    fn session(&self, question: &Question<'_>) -> Option<&str> {
        self.sessions.matching(question.target.session.as_str())
    }

    fn network(&self, question: &Question<'_>) -> Option<&IpNet> {
        self.from.iter().flatten().find(|network| network.contains(&question.peer))
    }

    /// The pattern that matches a group.
    fn group(&self, group: &GroupId) -> Option<&str> {
        let matching = |patterns| self.effect.matching(patterns, group);
        matching(&self.groups).or_else(|| self.listed.as_deref().and_then(matching))
    }

    /// Why it fits in a part or does not; nothing where the rule says nothing about it.
    pub(super) fn why(&self, part: Part, question: &Question<'_>) -> Option<String> {
        let words = match part {
            Part::Expiry => {
                let at = self.expires?;
                format!("{} {at}", if question.at < at { "expires" } else { "expired" })
            }
            Part::Session => {
                let (id, count) = (&question.target.session, self.sessions.len());
                among(&format!("session {id}"), "matches", self.session(question), count, "pattern")
            }
            Part::From => {
                let (count, network) = (self.from.as_ref()?.len(), self.network(question).map(ToString::to_string));
                among(&question.peer.to_string(), "is in", network.as_deref(), count, "network")
            }
            Part::Group => self.why_group(&question.target.group),
        };
        Some(words)
    }

    fn why_group(&self, id: &GroupId) -> String {
        let count = self.groups.len() + self.listed.as_ref().map_or(0, |listed| listed.len());
        let words = among(&format!("group {id}"), "matches", self.group(id), count, "pattern");
        let other = id.as_str().strip_suffix("@g.us").map_or_else(|| format!("{id}@g.us"), str::to_owned);
        let other = GroupId::parse(&other).ok().filter(|other| self.group(other).is_some());
        match (self.effect, self.group(id), other) {
            (Effect::Deny, Some(_), _) => format!("{words}, with or without @g.us"),
            (Effect::Allow, None, Some(other)) => {
                format!("{words}; it would as {other}, but allow rules match what was sent")
            }
            (Effect::Allow | Effect::Deny, _, _) => words,
        }
    }
}

/// `group 1@g.us matches *@g.us`, or `group 1@g.us matches none of 3 patterns`.
fn among(what: &str, verb: &str, found: Option<&str>, count: usize, noun: &str) -> String {
    match found {
        Some(found) => format!("{what} {verb} {found}"),
        None => format!("{what} {verb} none of {count} {noun}{}", if count == 1 { "" } else { "s" }),
    }
}
