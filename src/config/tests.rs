//! Faults and warnings of whole configurations.

use super::*;

const WHOLE: &str = "[upstream]\napi_key_file = \"key\"\n[ledger]\npath = \"ledger\"\n";

/// Loads a configuration beside some other files.
fn loaded(text: &str, files: &[(&str, &str)]) -> Result<Loaded, Vec<Fault>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let file = folder.path().join("gateway.toml");
    std::fs::write(&file, text).unwrap();
    load(&file)
}

/// The faults of some lines in an otherwise whole configuration.
fn faults(text: &str) -> Vec<(String, String)> {
    let faults = loaded(&format!("{text}\n{WHOLE}"), &[]).map(|_| ()).unwrap_err();
    faults.into_iter().map(|fault| (fault.key, fault.what)).collect()
}

fn caller(lines: &str) -> String {
    format!("{WHOLE}[[callers]]\nname = \"c\"\n{lines}\n")
}

#[test]
fn networks_in_an_ipv6_coat_are_ipv4_networks() {
    let text =
        caller("from = [\"::ffff:10.0.0.1\", \"::ffff:10.1.0.0/112\", \"::ffff:0:0/96\", \"fd00::1\", \"10.0.0.0/8\"]");
    let loaded = loaded(&text, &[]).unwrap();
    let from: Vec<String> = loaded.config.callers[0].from.iter().flatten().map(ToString::to_string).collect();
    assert_eq!(from, ["10.0.0.1/32", "10.1.0.0/16", "0.0.0.0/0", "fd00::1/128", "10.0.0.0/8"]);
}

#[test]
fn proxy_protocol_without_the_proxies_that_may_speak_it_is_a_fault() {
    let found = faults("[listen]\nproxy_protocol = true");
    assert!(
        matches!(found.as_slice(), [(key, what)] if key == "listen.trusted_proxies" && what.contains("name the proxies")),
        "{found:?}"
    );
    let text = format!("[listen]\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.1\"]\n{WHOLE}");
    assert!(loaded(&text, &[]).is_ok());
}

#[test]
fn a_rate_that_is_there_twice_is_a_fault_at_every_level() {
    let twice = "rates = [{ max = 5, per_s = 1 }, { max = 6, per_s = 1 }, { max = 5, per_s = 1 }]";
    for (text, key) in
        [(format!("[limits]\n{twice}\n{WHOLE}"), "limits.rates[2]"), (caller(twice), "callers[0].rates[2]")]
    {
        let found = loaded(&text, &[]).map(|_| ()).unwrap_err();
        assert!(matches!(found.as_slice(), [fault] if fault.key == key && fault.what.contains("twice")), "{found:?}");
    }
}

#[test]
fn a_callers_rate_may_be_one_of_each_session_and_that_of_all_together_may_not() {
    let text = caller(
        "rates = [{ max = 5, per_s = 1, per = \"session\" }, { max = 5, per_s = 1 }, { max = 9, per_s = 60, per = \"caller\" }]",
    );
    let rates = loaded(&text, &[]).unwrap().config.callers[0].rates.clone();
    assert_eq!(rates.iter().map(|rate| rate.per).collect::<Vec<_>>(), [Per::Session, Per::Caller, Per::Caller]);
    let said = |rates: &str, sessions: &str| {
        let rule = format!("{rates}\n[[callers.allow]]\nsessions = [\"{sessions}\"]\ngroups = [\"*\"]");
        loaded(&caller(&rule), &[]).unwrap().warnings.join("\n").contains("has rates per session alone")
    };
    let alone = "rates = [{ max = 5, per_s = 1, per = \"session\" }]";
    let beside = "rates = [{ max = 5, per_s = 1, per = \"session\" }, { max = 9, per_s = 1 }]";
    assert_eq!([said(alone, "s*"), said(alone, "s1"), said(beside, "s*")], [true, false, false]);
    let found = loaded(&caller("rates = [{ max = 5, per_s = 1, per = \"group\" }]"), &[]).map(|_| ()).unwrap_err();
    assert!(matches!(found.as_slice(), [fault] if fault.key == "callers[0].rates[0].per"), "{found:?}");
    let found = faults("[limits]\nrates = [{ max = 5, per_s = 1, per = \"session\" }]");
    assert!(matches!(found.as_slice(), [(key, _)] if key == "limits.rates[0].per"), "{found:?}");
}

#[test]
fn two_tokens_of_a_caller_with_one_id_are_a_fault_and_so_is_one_token_twice() {
    let token = |id: &str, digit: &str| format!("{{ id = \"{id}\", sha256 = \"{}\" }}", digit.repeat(64));
    let with = |tokens: &[String]| caller(&format!("tokens = [{}]", tokens.join(", ")));
    let found = loaded(&with(&[token("a", "1"), token("a", "2")]), &[]).map(|_| ()).unwrap_err();
    assert!(matches!(found.as_slice(), [fault] if fault.what.contains("two tokens with the id `a`")), "{found:?}");
    let found = loaded(&with(&[token("a", "1"), token("b", "1")]), &[]).map(|_| ()).unwrap_err();
    assert!(
        matches!(found.as_slice(), [fault] if fault.what.contains("token `b` of caller `c` is there twice")),
        "{found:?}"
    );
    assert!(loaded(&with(&[token("a", "1"), token("b", "2")]), &[]).is_ok());
}

#[test]
fn a_rule_that_covers_nothing_is_a_fault() {
    let rule = |lines: &str| caller(&format!("[[callers.deny]]\n{lines}"));
    for (lines, key) in [
        ("sessions = []\ngroups = [\"1\"]", "callers[0].deny[0].sessions"),
        ("sessions = [\"s 1\"]\ngroups = [\"1\"]", "callers[0].deny[0].sessions[0]"),
        ("sessions = [\"*\"]\ngroups = [\"1@G.US\"]", "callers[0].deny[0].groups[0]"),
        ("sessions = [\"*\"]\ngroups = []", "callers[0].deny[0].groups"),
        ("sessions = [\"*\"]\ngroups = \"1\"", "callers[0].deny[0].groups"),
        ("sessions = [\"*\"]\ngroups_file = 5", "callers[0].deny[0].groups_file"),
        ("sessions = [\"*\"]\ngroups_file = \"empty\"", "callers[0].deny[0].groups_file"),
        ("sessions = [\"*\"]\ngroups_file = \"wrong\"", "callers[0].deny[0].groups_file"),
        ("sessions = [\"*\"]", "callers[0].deny[0].groups"),
        ("sessions = [\"*\"]\ngroups = [\"1\"]\nfrom = []", "callers[0].deny[0].from"),
        ("sessions = [\"*\"]\ngroups = [\"1\"]\nfrom = [\"x\"]", "callers[0].deny[0].from[0]"),
        ("sessions = [\"*\"]\ngroups = [\"1\"]\nexpires = \"soon\"", "callers[0].deny[0].expires"),
        ("sessions = [\"*\"]\ngroups = [\"1\"]\nuntil = 1", "callers[0].deny[0].until"),
        ("sessions = [\"*\"]\ngroups_file = \"gone\"", "callers[0].deny[0].groups_file"),
    ] {
        let found = loaded(&rule(lines), &[("empty", "# nothing\n\n"), ("wrong", "1@G.US\n")]).map(|_| ()).unwrap_err();
        // Alone: where something is misspelt, it would be the wrong advice to write `*`, or to leave it out.
        assert!(matches!(found.as_slice(), [fault] if fault.key == key), "{lines}: {found:?}");
    }
}

#[test]
fn a_list_of_groups_is_read_once_and_its_faults_are_told_by_line_and_bounded() {
    let rules = "[[callers.allow]]\nsessions = [\"*\"]\ngroups_file = \"list\"\n".repeat(3);
    let list = "\u{feff}2@g.us # a comment\r\n\r\n1\r\n2@g.us\r\n";
    let read = loaded(&caller(&rules), &[("list", list)]).unwrap();
    let lists: Vec<_> = read.config.callers[0].allow.iter().map(|rule| rule.listed.clone().unwrap()).collect();
    assert_eq!(lists[0].groups, [Box::from("1"), Box::from("2@g.us")]);
    assert!(lists.iter().all(|list| std::sync::Arc::ptr_eq(list, &lists[0])));
    let found = loaded(&caller(&rules), &[("list", &format!("1\n{}", "a/b\n".repeat(1_000)))]).map(|_| ()).unwrap_err();
    assert!(found[0].what.starts_with("line 2: "), "{}", found[0]);
    assert!(found.len() < 30 && found.iter().any(|fault| fault.what.starts_with("980 more lines")), "{found:?}");
}

#[test]
fn rules_that_have_expired_and_many_patterns_to_try_are_warnings() {
    let many = (0..101).map(|n| format!("{n}*\n")).collect::<String>();
    let rules = "[[callers.allow]]\nsessions = [\"*\"]\ngroups_file = \"list\"\nexpires = 2020-01-01T00:00:00Z\n[[callers.deny]]\nsessions = [\"*\"]\ngroups = [\"1\"]\nexpires = 2020-01-01\n";
    let said = loaded(&caller(rules), &[("list", &many)]).unwrap().warnings.join("\n");
    for part in [
        "rule c.allow[0] has expired at 2020-01-01T00:00:00.000000Z: it allows nothing any more",
        "rule c.deny[0] has expired at 2020-01-01T00:00:00.000000Z: it denies nothing any more",
        "rule c.allow[0] has 101 patterns with a `*`",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}");
    }
}

#[test]
fn a_shared_ledger_without_a_copy_of_its_checkpoint_is_a_warning() {
    let shared = "kind = \"postgres\"\nurl_file = \"url\"\nsigning_key_file = \"signing\"\n";
    let said = |ledger: &str| {
        loaded(&WHOLE.replace("path = \"ledger\"\n", ledger), &[("key", "k")]).unwrap().warnings.join("\n")
    };
    assert!(said(shared).contains("ledger.checkpoint_copy is not set"), "{}", said(shared));
    for quiet in [&format!("{shared}checkpoint_copy = \"copy\"\n"), "path = \"ledger\"\n"] {
        assert!(!said(quiet).contains("checkpoint_copy"), "{}", said(quiet));
    }
}
