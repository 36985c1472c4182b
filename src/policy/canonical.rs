//! The canonical form of a policy, and its hash: equal in every process, version and replica.
//!
//! A text in UTF-8. The first line is `wasend-gateway policy v1`. Then a line for each caller, by name in the order
//! of bytes: a JSON object without spaces, with the members `name`, `from`, `rates`, `budgets`, `allow`, `deny` in
//! this order. What is not there is left out, except that an empty `from` (nowhere) is `[]`. A rule has `sessions`,
//! `groups`, `groups_file`, `from`, `expires` in this order. Patterns are sorted by bytes, each once; networks are
//! written as their first address and length, sorted, each once; rates and budgets by their members, in the order
//! `per_s`, `max`, `per`, `on_exhausted`, of which a rate has no `per` where it is `caller`; rules stay in their order, since it makes their names. `expires` is RFC
//! 3339 in UTC with microseconds. `groups_file` is `sha256:` and the SHA-256 of its patterns, sorted by bytes, each
//! once and each followed by a line feed, as `LC_ALL=C sort -u` writes a list without comments. Each line ends with
//! a line feed, the last one too.
//!
//! Credentials are not in it: they say who, not what. What says more of what there was before gets another first line; what is new is left out where it is not used.

use crate::clock::Timestamp;
use crate::config;
use ipnet::IpNet;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;

const FIRST: &str = "wasend-gateway policy v1\n";

/// The canonical form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical(String);

#[derive(Serialize)]
struct Caller<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    rates: Vec<Rate>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    budgets: Vec<Budget>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<Rule<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    deny: Vec<Rule<'a>>,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Rate {
    per_s: u32,
    max: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    per: Option<&'static str>,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
struct Budget {
    per_s: u32,
    max: u32,
    per: &'static str,
    on_exhausted: &'static str,
}

fn per(per: config::Per) -> &'static str {
    match per {
        config::Per::Caller => "caller",
        config::Per::Session => "session",
    }
}

impl From<&config::Rate> for Rate {
    fn from(&config::Rate { max, per_s, per: counted }: &config::Rate) -> Self {
        Self { per_s, max, per: (counted != config::Per::Caller).then(|| per(counted)) }
    }
}

impl From<&config::Budget> for Budget {
    fn from(&config::Budget { max, per_s, per: counted, on_exhausted }: &config::Budget) -> Self {
        let per = per(counted);
        let on_exhausted = match on_exhausted {
            config::OnExhausted::Refuse => "refuse",
            config::OnExhausted::Freeze => "freeze",
        };
        Self { per_s, max, per, on_exhausted }
    }
}

#[derive(Serialize)]
struct Rule<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sessions: Vec<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    groups_file: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<Timestamp>,
}

fn sorted<T: Ord>(items: impl Iterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.collect();
    items.sort_unstable();
    items.dedup();
    items
}

fn networks(from: Option<&Vec<IpNet>>) -> Option<Vec<String>> {
    from.map(|networks| sorted(networks.iter().map(|network| network.trunc().to_string())))
}

fn sha256(bytes: &Sha256) -> String {
    bytes.clone().finalize().iter().fold(String::from("sha256:"), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The hashes of lists of groups that were met before.
type Lists<'a> = HashMap<&'a Path, String>;

fn listed<'a>(listed: &'a config::Listed, lists: &mut Lists<'a>) -> String {
    let hash = || {
        let mut hash = Sha256::new();
        for pattern in sorted(listed.groups.iter()) {
            hash.update(pattern.as_bytes());
            hash.update(b"\n");
        }
        sha256(&hash)
    };
    lists.entry(&listed.file).or_insert_with(hash).clone()
}

fn rules<'a>(rules: &'a [config::Rule], lists: &mut Lists<'a>) -> Vec<Rule<'a>> {
    let rule = |rule: &'a config::Rule| Rule {
        sessions: sorted(rule.sessions.iter().map(String::as_str)),
        groups: sorted(rule.groups.iter().map(String::as_str)),
        groups_file: rule.listed.as_ref().map(|list| listed(list, lists)),
        from: networks(rule.from.as_ref()),
        expires: rule.expires,
    };
    rules.iter().map(rule).collect()
}

impl Canonical {
    /// Writes the form of some callers' rules.
    #[must_use]
    pub fn new(callers: &[config::Caller]) -> Self {
        let mut lists = Lists::new();
        let by_name: BTreeMap<&str, &config::Caller> = callers.iter().map(|c| (c.name.as_str(), c)).collect();
        let mut text = FIRST.to_owned();
        for (name, caller) in by_name {
            let line = serde_json::to_string(&Caller {
                name,
                from: networks(caller.from.as_ref()),
                rates: sorted(caller.rates.iter().map(Rate::from)),
                budgets: sorted(caller.budgets.iter().map(Budget::from)),
                allow: rules(&caller.allow, &mut lists),
                deny: rules(&caller.deny, &mut lists),
            });
            // Texts, numbers and lists of them: JSON has all of these.
            text.push_str(&line.unwrap_or_default());
            text.push('\n');
        }
        Self(text)
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0
    }

    /// `sha256:` and the SHA-256 of its bytes in hex.
    #[must_use]
    pub fn hash(&self) -> String {
        sha256(&Sha256::new().chain_update(self.0.as_bytes()))
    }
}
