//! Configuration files: each is refused with faults that name a key, or means what a slow reader of its rules says.

use std::net::IpAddr;
use std::path::PathBuf;
use wasend_gateway::clock::Timestamp;
use wasend_gateway::config::{Caller, Expected, Fault, Rule, load, load_ledger};
use wasend_gateway::id::{CallerName, GroupId, SessionId, Target};
use wasend_gateway::policy::{Policy, Question};

const LIST: &str = "# groups\n2@g.us\n77 # one more\n9*@g.us\n";
const SESSIONS: [&str; 3] = ["s1", "s2", "s10"];
const GROUPS: [&str; 6] = ["1", "1@g.us", "2", "2@g.us", "77@g.us", "95@g.us"];
const PEERS: [&str; 4] = ["10.0.0.1", "10.1.0.1", "::ffff:10.1.0.1", "fd00::1"];
const TIMES: [&str; 2] = ["2026-01-01T00:00:00Z", "2030-01-01T00:00:00Z"];

thread_local! {
    static FILE: (tempfile::TempDir, PathBuf) = {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("groups.txt"), LIST).expect("a list of groups");
        let file = folder.path().join("gateway.toml");
        (folder, file)
    };
}

/// A star takes nothing, or one byte and asks again.
fn matches(glob: &[u8], text: &[u8]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) if matches(rest, text) => true,
        (Some((b'*', _)), Some((_, tail))) => matches(glob, tail),
        (Some((wanted, rest)), Some((byte, tail))) => wanted == byte && matches(rest, tail),
        _ => false,
    }
}

fn covers(rule: &Rule, session: &str, groups: &[String], peer: IpAddr, at: Timestamp) -> bool {
    let listed = rule.listed.iter().flat_map(|list| list.groups.iter().map(AsRef::as_ref));
    let patterns: Vec<&str> = rule.groups.iter().map(String::as_str).chain(listed).collect();
    rule.sessions.iter().any(|pattern| matches(pattern.as_bytes(), session.as_bytes()))
        && groups.iter().any(|id| patterns.iter().any(|pattern| matches(pattern.as_bytes(), id.as_bytes())))
        && rule.from.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(&peer)))
        && rule.expires.is_none_or(|end| at < end)
}

/// Whether this caller may. A denied literal group is denied in both spellings, and so is what a pattern denies.
fn may(caller: &Caller, session: &str, group: &str, peer: IpAddr, at: Timestamp) -> bool {
    let bare = group.trim_end_matches("@g.us");
    let both = [bare.to_owned(), format!("{bare}@g.us")];
    let denies = |rule: &Rule| {
        let suffixed = |pattern: &String| !pattern.contains('*') && pattern.trim_end_matches("@g.us") == bare;
        covers(rule, session, &both, peer, at)
            || (rule.groups.iter().any(suffixed)
                && covers(&Rule { groups: vec!["*".to_owned()], ..rule.clone() }, session, &both, peer, at))
    };
    caller.from.as_ref().is_none_or(|networks| networks.iter().any(|network| network.contains(&peer)))
        && !caller.deny.iter().any(denies)
        && caller.allow.iter().any(|rule| covers(rule, session, &[group.to_owned()], peer, at))
}

fn named(faults: &[Fault]) {
    assert!(!faults.is_empty() && faults.iter().all(|fault| !fault.key.is_empty() && !fault.what.is_empty()));
}

fn decisions(callers: &[Caller], text: &str) {
    let policy = Policy::new(callers);
    assert_eq!(policy.hash(), Policy::new(callers).hash());
    let ghost = CallerName::parse("ghost-of-nobody").expect("a name");
    for caller in callers.iter().map(|caller| &caller.name).chain([&ghost]) {
        let rules = callers.iter().find(|known| known.name == *caller);
        for (session, group) in SESSIONS.iter().flat_map(|session| GROUPS.map(|group| (*session, group))) {
            let target = Target {
                session: SessionId::parse(session).expect("a session"),
                group: GroupId::parse(group).expect("a group"),
            };
            for (peer, at) in PEERS.iter().flat_map(|peer| TIMES.map(|at| (*peer, at))) {
                let (peer, at): (IpAddr, _) =
                    (peer.parse().expect("an address"), Timestamp::parse(at).expect("a time"));
                let question = Question::new(caller, peer, &target, at);
                let decided = policy.decide(&question);
                let means = rules.is_some_and(|rules| may(rules, session, group, peer.to_canonical(), at));
                assert_eq!(decided.is_ok(), means, "{caller} {session} {group} {peer} {at}: {decided:?}\n{text}");
                assert_eq!(
                    policy.explain(&question).decision,
                    decided,
                    "{caller} {session} {group} {peer} {at}\n{text}"
                );
            }
        }
    }
}

/// Holds the bytes as a configuration and as a table of expected decisions.
pub fn hold(bytes: &[u8]) {
    FILE.with(|(_, file)| {
        std::fs::write(file, bytes).expect("the file can be written");
        let text = String::from_utf8_lossy(bytes);
        let ledger = load_ledger(file);
        match load(file) {
            Err(faults) => named(&faults),
            Ok(loaded) => {
                let (of_it, elsewhere) = ledger.unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
                assert!(elsewhere.is_empty() && of_it == loaded.config.ledger, "{elsewhere:?}\n{text}");
                // No more callers than one sees: what is asked grows with them.
                decisions(loaded.config.callers.get(..4).unwrap_or(&loaded.config.callers), &text);
            }
        }
        match Expected::read_all(file) {
            Err(faults) => named(&faults),
            Ok(rows) => assert!(!rows.is_empty()),
        }
    });
}
