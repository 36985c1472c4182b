//! The configurations that are put in force in turn, and what each of them allows, said once more by other words.

use super::caller::{CALLERS, Call};
use crate::config::{self, Config};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// What all processes of a world share.
pub(crate) struct Scene {
    /// The first one is in force at the beginning.
    pub(crate) configs: Vec<Config>,
    _folder: tempfile::TempDir,
}

/// A rule: whose, sessions, groups, and whether it denies.
type Rule = (&'static str, &'static [&'static str], &'static [&'static str], bool);

/// The rules of each policy.
const POLICIES: [&[Rule]; 3] = [
    &[("a", &["*"], &["*"], false), ("b", &["s2"], &["*"], false)],
    &[("a", &["s1"], &["1", "1@g.us"], false), ("b", &["*"], &["*"], false), ("b", &["s2"], &["2@g.us"], true)],
    &[("b", &["s1"], &["1@g.us", "3@g.us"], false), ("a", &["s2"], &["*"], false), ("a", &["s2"], &["1"], true)],
];

impl Scene {
    /// Obviously none.
    pub(crate) const KEY: &str = "obviously-fake-provider-key";

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), Self::KEY).unwrap();
        let file = folder.path().join("gateway.toml");
        let read = |rules| {
            std::fs::write(&file, text(rules)).unwrap();
            config::load(&file).unwrap().config
        };
        Self { configs: POLICIES.into_iter().map(read).collect(), _folder: folder }
    }

    pub(crate) fn token(caller: &str) -> String {
        format!("obviously-fake-token-of-{caller}")
    }

    pub(crate) fn holds_a_secret(bytes: &[u8]) -> bool {
        String::from_utf8_lossy(bytes).contains("obviously-fake")
    }

    /// Whether a policy allows what is asked for.
    pub(crate) fn allows(policy: usize, call: &Call) -> bool {
        // In a denying rule both spellings of a group are one.
        let bare = |group: &str| group.trim_end_matches("@g.us").to_owned();
        let covers = |sessions: &[&str], groups: &[&str], denies: bool| {
            let is = |group: &&str| *group == call.group || denies && bare(group) == bare(call.group);
            (sessions.contains(&"*") || sessions.contains(&call.session))
                && (groups.contains(&"*") || groups.iter().any(is))
        };
        let rules = |denying: bool| {
            let own = POLICIES[policy].iter().filter(|(caller, ..)| *caller == call.caller);
            own.filter(|(.., denies)| *denies == denying)
                .any(|(_, sessions, groups, denies)| covers(sessions, groups, *denies))
        };
        rules(false) && !rules(true)
    }
}

fn text(rules: &[Rule]) -> String {
    let mut text =
        "[upstream]\nurl = \"https://provider.invalid\"\napi_key_file = \"key\"\n[ledger]\npath = \"ledger\"\n\
                    [resolver]\ndelay_s = 5\nattempts = 2\n"
            .to_owned();
    for caller in &CALLERS[..2] {
        let hash: String = Sha256::digest(Scene::token(caller)).iter().map(|byte| format!("{byte:02x}")).collect();
        let budgets = match *caller {
            "a" => "budgets = [{ max = 5, per_s = 60 }, { max = 2, per_s = 20, per = \"session\" }]",
            _ => "budgets = [{ max = 6, per_s = 90, on_exhausted = \"freeze\" }]\nrates = [{ max = 4, per_s = 2 }]",
        };
        let _ = write!(
            text,
            "[[callers]]\nname = \"{caller}\"\ntokens = [{{ id = \"t\", sha256 = \"{hash}\" }}]\n{budgets}\n"
        );
        for (_, sessions, groups, denies) in rules.iter().filter(|(who, ..)| who == caller) {
            let kind = if *denies { "deny" } else { "allow" };
            let _ = write!(text, "[[callers.{kind}]]\nsessions = {sessions:?}\ngroups = {groups:?}\n");
        }
    }
    text
}
