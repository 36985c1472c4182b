//! `[[callers.allow]]` and `[[callers.deny]]`: what a rule covers. A list of groups is read once, however many rules
//! name it.

use super::callers::{Caller, expiry};
use super::listen::network;
use super::section::Section;
use crate::clock::Timestamp;
use crate::id::{GroupId, SessionId};
use ipnet::IpNet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// 100,000 groups take about 3 MB.
const GROUPS_FILE_AT_MOST: u64 = 64 * 1024 * 1024;
/// So many faults of one `groups_file` are reported each; the rest is counted.
const FAULTS_AT_MOST: usize = 20;
/// More patterns with a `*` than this are worth a warning.
const GLOBS_AT_MOST: usize = 100;

/// A rule: it covers a request whose session, group and address each match one of its patterns or networks, until it
/// expires.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rule {
    /// Patterns of sessions.
    pub sessions: Vec<String>,
    /// Patterns of groups.
    pub groups: Vec<String>,
    /// More of them, from `groups_file`.
    pub listed: Option<Arc<Listed>>,
    /// From where; `None` is anywhere.
    pub from: Option<Vec<IpNet>>,
    /// From when on it covers nothing.
    pub expires: Option<Timestamp>,
}

/// The patterns of a `groups_file`.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Listed {
    /// Where they were read.
    pub file: PathBuf,
    /// Sorted, each once.
    pub groups: Vec<Box<str>>,
}

impl Rule {
    pub(super) fn read(mut section: Section) -> Self {
        let sessions = section.list("sessions", session).unwrap_or_default();
        let groups = section.list("groups", group).unwrap_or_default();
        let names_file = section.has("groups_file");
        let listed = section.path("groups_file").filter(|_| !section.reading.without_files);
        let listed = listed.and_then(|file| Listed::read(&file, &section));
        let (from, expires) = (section.list("from", network), section.parsed_if_there("expires", expiry));
        if sessions.is_empty() {
            section.empty("sessions", "is empty, so the rule covers nothing; write [\"*\"] for every session");
        }
        match &listed {
            Some(listed) if groups.is_empty() && listed.groups.is_empty() => {
                let what = format!("{} lists no group, so the rule covers nothing", listed.file.display());
                section.fault("groups_file", None, what);
            }
            None if groups.is_empty() && !names_file => {
                let what = "is empty, so the rule covers nothing; write [\"*@g.us\"] for every group";
                section.empty("groups", what);
            }
            // What is wrong with a list that cannot be read, or used, is said already.
            Some(_) | None => {}
        }
        if from.as_ref().is_some_and(Vec::is_empty) {
            section.empty("from", "is empty, so the rule covers nothing; leave it out for everywhere");
        }
        section.finish();
        Self { sessions, groups, listed, from, expires }
    }

    /// How many of its patterns of groups have a `*`: these are tried one by one.
    fn globs(&self) -> usize {
        let listed = self.listed.iter().flat_map(|listed| listed.groups.iter().map(AsRef::as_ref));
        self.groups.iter().map(String::as_str).chain(listed).filter(|pattern| pattern.contains('*')).count()
    }
}

/// What works in a caller's rules, but is probably not meant.
pub(super) fn warnings(caller: &Caller, now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    let allow = (&caller.allow, "allow", "it allows nothing any more");
    let deny = (&caller.deny, "deny", "it denies nothing any more");
    for (rules, kind, then) in [allow, deny] {
        for (index, rule) in rules.iter().enumerate() {
            let name = format!("rule {}.{kind}[{index}]", caller.name);
            if let Some(at) = rule.expires.filter(|at| *at <= now) {
                warnings.push(format!("{name} has expired at {at}: {then}"));
            }
            let globs = rule.globs();
            if globs > GLOBS_AT_MOST {
                warnings.push(format!(
                    "{name} has {globs} patterns with a `*`, which are tried one by one; whole ids are found at once"
                ));
            }
        }
    }
    warnings
}

impl Listed {
    /// Reads a file, or takes what another rule has read of it. Its faults are reported once.
    fn read(file: &Path, section: &Section) -> Option<Arc<Self>> {
        if let Some(known) = section.reading.lists.borrow().get(file) {
            return known.clone();
        }
        let listed = match section.reading.read_text(file, GROUPS_FILE_AT_MOST) {
            Ok(text) => patterns(&text, section).map(|groups| Arc::new(Self { file: file.to_owned(), groups })),
            Err(error) => {
                section.fault("groups_file", None, format!("{} cannot be read: {error}", file.display()));
                None
            }
        };
        section.reading.lists.borrow_mut().insert(file.to_owned(), listed.clone());
        listed
    }
}

/// One pattern a line, `#` begins a comment. `None` when it has faults.
fn patterns(text: &str, section: &Section) -> Option<Vec<Box<str>>> {
    let (mut groups, mut faults) = (Vec::new(), 0);
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let entry = line.split('#').next().unwrap_or_default().trim();
        match group(entry) {
            _ if entry.is_empty() => {}
            Ok(entry) => groups.push(entry.into_boxed_str()),
            Err(what) => {
                faults += 1;
                if faults <= FAULTS_AT_MOST {
                    section.fault("groups_file", None, format!("line {}: {what}", number + 1));
                }
            }
        }
    }
    if faults > FAULTS_AT_MOST {
        section.fault("groups_file", None, format!("{} more lines can match no id", faults - FAULTS_AT_MOST));
    }
    groups.sort_unstable();
    groups.dedup();
    (faults == 0).then_some(groups)
}

const SUFFIX: &str = "@g.us";

fn is_word(part: &str) -> bool {
    part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_*".contains(&b))
}

/// Whether the end of a pattern matches the end of a group's id.
fn covers(pattern: &[u8], end: &[u8]) -> bool {
    match (pattern.split_first(), end.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if covers(rest, end) => true,
        (Some((b'*', _)), Some((_, end))) => covers(pattern, end),
        (Some((wanted, rest)), Some((byte, end))) => wanted == byte && covers(rest, end),
        _ => false,
    }
}

/// Whether a pattern could match a group: word characters and `*`, then perhaps what matches `@g.us`, of which a `*`
/// may take the beginning.
fn could_match_a_group(text: &str) -> bool {
    if is_word(text.strip_suffix(SUFFIX).unwrap_or(text)) {
        return true;
    }
    let mut text = text.to_owned();
    while text.contains("**") {
        text = text.replace("**", "*");
    }
    let ends = |head: &str, tail: &str| {
        let from = if head.ends_with('*') { 0..SUFFIX.len() } else { 0..1 };
        from.filter_map(|at| SUFFIX.get(at..)).any(|end| covers(tail.as_bytes(), end.as_bytes()))
    };
    text.char_indices().map(|(at, _)| text.split_at(at)).any(|(head, tail)| is_word(head) && ends(head, tail))
}

/// A pattern that can match no id is a slip of the pen, and in a deny rule a dangerous one.
fn pattern(text: &str, possible: bool, made_of: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 128 || !possible {
        return Err(format!("\"{}\" can match no id; ids are made of at most 64 of {made_of}", text.escape_debug()));
    }
    Ok(text.to_owned())
}

fn session(text: &str) -> Result<String, String> {
    let possible = if text.contains('*') { is_word(text) } else { SessionId::parse(text).is_ok() };
    pattern(text, possible, "A-Z a-z 0-9 _ -")
}

fn group(text: &str) -> Result<String, String> {
    let possible = if text.contains('*') { could_match_a_group(text) } else { GroupId::parse(text).is_ok() };
    pattern(text, possible, "A-Z a-z 0-9 _ - and may end in @g.us")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_that_can_match_no_id_is_a_fault() {
        for good in ["*", "1", "1@g.us", "*@g.us", "12*", "*@*", "1*@g.*", "*us", "*.us", "a*b*@g.us", "1@g*"] {
            assert!(group(good).is_ok(), "{good}");
        }
        assert!(group(&format!("{}@g*", "*".repeat(120))).is_ok());
        for bad in [&"x".repeat(65), &format!("{}@x", "*".repeat(120))] {
            assert!(group(bad).is_err(), "{bad}");
        }
        for bad in ["", "1@G.US", "1@c.us", "1@", "@g.us@", "1.us", "1@g.us ", "a b", "é*", "1@g.usx", "*@x"] {
            assert!(group(bad).is_err(), "{bad}");
        }
        for bad in ["s@g.us", "s.1", "*.us", "", "s 1"] {
            assert!(session(bad).is_err(), "{bad}");
        }
    }
}
