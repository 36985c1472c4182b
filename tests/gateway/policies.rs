//! Rules as operators see them: explained, tested, shown, and compared with what was recorded.

use crate::provider::Provider;
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, sha256};
use crate::wire::delete;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

/// Allow rules for `sess1`; the deny rules come behind it.
fn rules(deny: &str) -> String {
    caller("moderation", TOKEN, "from = [\"127.0.0.0/8\", \"10.0.0.0/8\"]") + deny
}

const DENY: &str = "[[callers.deny]]\nsessions = [\"*\"]\ngroups_file = \"denied.txt\"\n[[callers.deny]]\nsessions = [\"*\"]\ngroups = [\"*\"]\nfrom = [\"10.9.0.0/16\"]\nexpires = 2020-01-01T00:00:00Z\n";

/// A folder with `NAME.toml` for each text.
fn folder(texts: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("denied.txt"), "120363000000000999\n").unwrap();
    for (name, text) in texts {
        let text = configuration("http://127.0.0.1:9", &[], text);
        std::fs::write(folder.path().join(format!("{name}.toml")), text).unwrap();
    }
    folder
}

fn said(output: &Output) -> String {
    String::from_utf8([output.stdout.clone(), output.stderr.clone()].concat()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn policy(words: &[&str], folder: &Path) -> Output {
    Command::new(BINARY).arg("policy").args(words).current_dir(folder).output().unwrap()
}

#[test]
fn explain_shows_every_rule_with_why_it_covers_the_request_or_does_not() {
    let folder = folder(&[("gateway", &rules(DENY))]);
    let config = folder.path().join("gateway.toml");
    let ask = |group: &str, more: &[&str]| {
        let words = ["explain", "--caller", "moderation", "--session", "sess1", "--group", group];
        command(&[&words, more].concat(), &config)
    };
    let allowed = ask("1@g.us", &["--from", "::ffff:10.9.0.1"]);
    let text = said(&allowed);
    assert_eq!(allowed.status.code(), Some(0), "{text}");
    assert!(text.starts_with("allowed: rule moderation.allow[0] allows it\n"), "{text}");
    for part in [
        "moderation.from",
        "10.9.0.1 is in [127.0.0.0/8, 10.0.0.0/8]",
        "moderation.deny[0]",
        "group 1@g.us matches none of 1 pattern",
        "moderation.deny[1]",
        "expired 2020-01-01T00:00:00.000000Z",
        "10.9.0.1 is in 10.9.0.0/16",
        "decides",
        "group 1@g.us matches *@g.us",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let earlier = ask("1@g.us", &["--from", "10.9.0.1", "--at", "2019-12-31", "--json"]);
    let told = &lines(&earlier)[0];
    assert_eq!(
        (earlier.status.code(), &told["allowed"], &told["rule"]),
        (Some(1), &false.into(), &"moderation.deny[1]".into())
    );
    let covers: Vec<_> =
        told["rules"].as_array().unwrap().iter().map(|rule| rule["covers"].as_bool().unwrap()).collect();
    assert_eq!(covers, [true, false, true, true], "{told}");
    let denied = ask("120363000000000999@g.us", &["--json"]);
    assert_eq!((denied.status.code(), &lines(&denied)[0]["rule"]), (Some(1), &"moderation.deny[0]".into()));
    let outside = ask("1@g.us", &["--from", "192.0.2.1", "--json"]);
    assert_eq!((outside.status.code(), &lines(&outside)[0]["rule"]), (Some(1), &"moderation.from".into()));
    let unspelt = said(&ask("1", &[]));
    assert!(unspelt.contains("allow rules match what was sent"), "{unspelt}");
}

#[test]
fn a_table_of_expected_decisions_is_held_against_a_configuration() {
    let folder = folder(&[("gateway", &rules(DENY))]);
    let test = |table: &str, more: &[&str]| {
        std::fs::write(folder.path().join("table.toml"), table).unwrap();
        policy(&[&["test", "table.toml", "--config", "gateway.toml"], more].concat(), folder.path())
    };
    let fits = "decisions = [\n  # who, what, and what is to come of it\n  { caller = \"moderation\", session = \"sess1\", group = \"1@g.us\", expect = \"allowed\", rule = \"moderation.allow[0]\" },\n  { caller = \"moderation\", session = \"sess1\", group = \"120363000000000999\", expect = \"refused\", rule = \"moderation.deny[0]\" },\n  { caller = \"moderation\", session = \"sess1\", group = \"1@g.us\", from = \"10.9.0.1\", at = 2019-01-01, expect = \"refused\" },\n  { caller = \"nobody\", session = \"sess1\", group = \"1@g.us\", expect = \"refused\" },\n]\n";
    let output = test(fits, &[]);
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), "4 decisions: as expected\n"));

    let differs = "[[decisions]]\ncaller = \"moderation\"\nsession = \"sess2\"\ngroup = \"1@g.us\"\nexpect = \"allowed\"\n[[decisions]]\ncaller = \"moderation\"\nsession = \"sess1\"\ngroup = \"1@g.us\"\nexpect = \"allowed\"\nrule = \"moderation.allow[7]\"\n[[decisions]]\ncaller = \"moderation\"\nsession = \"sess1\"\ngroup = \"1@g.us\"\nexpect = \"allowed\"\n";
    let output = test(differs, &[]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in [
        "decisions[0]",
        "sess2",
        "decisions[1]",
        "allowed by moderation.allow[7]",
        "allowed by moderation.allow[0]",
        "3 decisions: 2 not as expected",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("decisions[2]"), "{text}");
    let told = lines(&test(differs, &["--json"]));
    let fitting: Vec<_> = told.iter().map(|line| line["as_expected"].as_bool().unwrap()).collect();
    assert_eq!(fitting, [false, false, true]);

    for (table, part) in [
        ("", "there are none"),
        ("decisions = [", "is not TOML"),
        ("decisions = [{ caller = \"a b\", session = \"s/1\", group = \"1@c.us\", expect = \"perhaps\" }]", "4 faults"),
        (
            "decisions = [{ caller = \"a\", session = \"s\", group = \"1\", expect = \"refused\", colour = 1 }]",
            "decisions[0].colour",
        ),
    ] {
        let output = test(table, &[]);
        assert_eq!(output.status.code(), Some(64), "{table}");
        assert!(said(&output).contains(part), "{part} is not in\n{}", said(&output));
    }
    let output = policy(&["test", "none.toml", "--config", "none-either.toml"], folder.path());
    assert_eq!(output.status.code(), Some(64));
    assert!(said(&output).contains("none.toml") && said(&output).contains("none-either.toml"), "{}", said(&output));
}

#[test]
fn the_canonical_form_hashes_to_what_the_ledger_and_readiness_say() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    let text = String::from_utf8(command(&["policy", "show"], &gateway.config()).stdout).unwrap();
    let hash = String::from_utf8(command(&["policy", "show", "--hash"], &gateway.config()).stdout).unwrap();
    assert_eq!(hash.trim_end(), format!("sha256:{}", sha256(&text)));
    for kind in ["policy", "intent"] {
        assert_eq!(gateway.of_kind(kind)[0]["policy"], hash.trim_end(), "{kind}");
    }
    let ready: Value = serde_json::from_str(&crate::wire::get(gateway.ops, "/readyz").body).unwrap();
    assert_eq!((&ready["status"], &ready["policy"]), (&"ready".into(), &hash.trim_end().into()));
}

#[test]
fn two_configurations_are_compared_by_their_rules() {
    let folder =
        folder(&[("old", &rules(DENY)), ("same", &rules(DENY)), ("new", &rules("").replace("sess1", "sess2"))]);
    let output = policy(&["diff", "old.toml", "same.toml"], folder.path());
    assert_eq!((output.status.code(), said(&output).as_str()), (Some(0), "the rules are the same\n"));
    let output = policy(&["diff", "old.toml", "new.toml", "--json"], folder.path());
    assert_eq!(output.status.code(), Some(1));
    let told = lines(&output);
    let names: Vec<_> = told.iter().map(|line| line["rule"].as_str().unwrap()).collect();
    assert_eq!(names, ["moderation.allow[0]", "moderation.deny[0]", "moderation.deny[1]"]);
    assert_eq!((&told[0]["new"]["sessions"][0], &told[1]["new"]), (&"sess2".into(), &Value::Null));
    assert!(said(&policy(&["diff", "old.toml", "new.toml"], folder.path())).contains("moderation.deny[1]"));
    assert_eq!(policy(&["diff", "old.toml", "none.toml"], folder.path()).status.code(), Some(64));
}

#[test]
fn a_new_policy_is_held_against_every_recorded_decision() {
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &rules("")));
    let dry = "/dry-run/sess1/groups/2@g.us/picture";
    for target in [TARGET, "/sess1/groups/2@g.us/picture", dry, "/sess2/groups/1@g.us/picture"] {
        delete(gateway.listen, target, TOKEN);
    }
    crate::running::eventually("the refusal is recorded", || gateway.of_kind("refusal").len() == 1);
    assert!(gateway.of_kind("refusal")[0]["rule"].is_null(), "no rule refused it");
    let write = |name: &str, text: &str| {
        std::fs::write(gateway.folder.path().join(name), configuration(&provider.url(), &[], text)).unwrap();
    };
    write("denies.toml", &rules("[[callers.deny]]\nsessions = [\"*\"]\ngroups = [\"2\"]\n"));
    write("wider.toml", &rules("").replace("sess1", "*"));
    write("expired.toml", &(rules("").replace("groups = ", "expires = 2020-01-01T00:00:00Z\ngroups = ")));
    write("lasts.toml", &(rules("").replace("groups = ", "expires = 2999-01-01T00:00:00Z\ngroups = ")));
    let diff = |new: &str, more: &[&str]| {
        let output =
            policy(&[&["diff", "gateway.toml", new, "--against-ledger"], more].concat(), gateway.folder.path());
        (output.status.code(), said(&output))
    };
    let (code, text) = diff("lasts.toml", &[]);
    assert_eq!((code, text.as_str()), (Some(0), "of 4 recorded decisions 0 would be otherwise\n"));
    // What has expired since then had not expired then.
    let now = format!("expires = {}\ngroups = ", jiff::Timestamp::now());
    write("just.toml", &rules("").replace("groups = ", &now));
    assert_eq!(diff("just.toml", &[]), (Some(0), text));
    let (code, text) = diff("denies.toml", &[]);
    assert_eq!(code, Some(1), "{text}");
    for part in [
        "deletion",
        "dry run",
        "2@g.us",
        "allowed by moderation.allow[0]",
        "refused by moderation.deny[0]",
        "of 4 recorded decisions 2 would be otherwise: 2 refused that are allowed, 0 allowed",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    assert!(!text.contains("120363000000000001"), "{text}");
    let (code, text) = diff("wider.toml", &[]);
    assert!(code == Some(1) && text.contains("refusal") && text.contains("1 allowed that are refused"), "{text}");
    assert!(diff("expired.toml", &["--limit", "1"]).1.contains("2 more are not shown"));
    let json = policy(&["diff", "gateway.toml", "denies.toml", "--against-ledger", "--json"], gateway.folder.path());
    let told = lines(&json);
    assert_eq!((json.status.code(), told.len(), &told[0]["recorded"]), (Some(1), 2, &"deletion".into()));
    assert_eq!(told[0]["request_id"], gateway.of_kind("intent")[1]["request_id"]);

    // Only what came since then; and of the deletions that a policy before both allowed, their number.
    let second = gateway.of_kind("intent")[1]["time"].as_str().unwrap().to_owned();
    let text = diff("denies.toml", &["--since", &second]).1;
    assert!(text.contains("of 3 recorded decisions 2 would be otherwise"), "{text}");
    assert!(diff("denies.toml", &["--since", "2999-01-01"]).1.starts_with("of 0 "));
    let both = ["diff", "expired.toml", "expired.toml", "--against-ledger", "--config", "gateway.toml"];
    let text = said(&policy(&both, gateway.folder.path()));
    assert!(text.contains("2 recorded deletions are allowed by neither"), "{text}");
    assert_eq!(
        policy(&["diff", "gateway.toml", "wider.toml", "--since", "2h"], gateway.folder.path()).status.code(),
        Some(64)
    );
}

#[test]
fn a_refusal_names_the_rule_that_it_is_by_in_log_and_ledger() {
    let provider = Provider::start();
    let deny = "[[callers.deny]]\nsessions = [\"*\"]\ngroups = [\"2\"]\n";
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &rules(deny)));
    assert_eq!(delete(gateway.listen, "/sess1/groups/2@g.us/picture", TOKEN).status, 403);
    crate::running::eventually("it is recorded", || gateway.of_kind("refusal").len() == 1);
    assert_eq!(gateway.of_kind("refusal")[0]["rule"], "moderation.deny[0]");
    crate::running::eventually("it is logged", || gateway.log().contains("\"rule\":\"moderation.deny[0]\""));
    assert_eq!(provider.heads().len(), 0);
}
