//! The brake where not all is as it should be: a file that is none, another freeze, a process that was killed.

use crate::freezing::{OTHER, frozen, post, said, two};
use crate::operators::{ALICE, staffed};
use crate::provider::{Provider, Reply};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, command, eventually};
use crate::wire::delete;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

#[test]
fn the_brake_holds_with_a_file_that_is_cut_off_empty_or_gone() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&two(&provider));
    let (config, ledger) = (gateway.config(), gateway.folder.path().join("ledger"));
    let text = std::fs::read_to_string(&config).unwrap();
    let alone = |words: &[&str]| Command::new(BINARY).args(words).arg("--ledger").arg(&ledger).output().unwrap();
    let is = |output: &Output, code: i32| assert_eq!(output.status.code(), Some(code), "{}", said(output));
    std::fs::write(&config, &text[..text.len() - 5]).unwrap();
    let output = command(&["freeze", "--all", "--reason", "cut off"], &config);
    is(&output, 0);
    assert!(said(&output).contains("warning: the file") && said(&output).contains("is not TOML"), "{}", said(&output));
    frozen(&delete(gateway.listen, TARGET, TOKEN), "cut off");
    is(&command(&["status"], &config), 0);
    is(&command(&["audit", "export"], &config), 0);
    is(&command(&["unfreeze", "--all", "--reason", "over"], &config), 0);
    std::fs::write(&config, "").unwrap();
    let output = command(&["freeze", "--all", "--reason", "empty"], &config);
    is(&output, 64);
    assert!(said(&output).contains("--ledger"), "{}", said(&output));
    std::fs::remove_file(&config).unwrap();
    // By the folder: beside the process, and where none serves.
    is(&alone(&["freeze", "--caller", "other", "--reason", "gone"]), 0);
    frozen(&delete(gateway.listen, TARGET, OTHER), "gone");
    gateway.stop();
    is(&alone(&["freeze", "--caller", "moderation", "--reason", "gone"]), 0);
    for words in [&["status"][..], &["audit", "export"], &["audit", "search"], &["audit", "verify"]] {
        is(&alone(words), 0);
    }
    is(&alone(&["unfreeze", "--caller", "other", "--reason", "over"]), 0);
    assert!(said(&alone(&["audit", "prune", "--before", "400d"])).contains("retention_days"), "nothing may go");
    let gateway = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    frozen(&delete(gateway.listen, TARGET, TOKEN), "gone");
    assert_eq!(delete(gateway.listen, TARGET, OTHER).status, 200);
    let none = gateway.folder.path().join("none");
    let output = Command::new(BINARY).args(["status", "--ledger"]).arg(&none).output().unwrap();
    assert_eq!((output.status.code(), none.exists()), (Some(64), false), "{}", said(&output));
}

#[test]
fn the_brake_takes_a_folder_by_any_name_it_has_from_where_one_stands() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&two(&provider));
    let folder = gateway.folder.path().to_owned();
    let pulled = |verb: &str, from: &Path, name: &str| {
        let words = [verb, "--ledger", name, "--all", "--reason", "x"];
        let output = Command::new(BINARY).current_dir(from).args(words).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{verb} {name} {}", said(&output));
    };
    for serves in [true, false] {
        if !serves {
            gateway.stop();
        }
        for (from, name) in
            [(&*folder, "ledger"), (&folder, "ledger/"), (&folder, "./ledger"), (&folder.join("ledger"), ".")]
        {
            pulled("freeze", from, name);
            pulled("unfreeze", from, name);
        }
    }
    assert_eq!(gateway.of_kind("freeze").len(), 8);
}

#[test]
fn a_shorter_freeze_does_not_end_a_longer_one_and_one_that_is_over_is_listed_nowhere() {
    let provider = Provider::start();
    let gateway = Gateway::with(&two(&provider));
    let config = gateway.config();
    let run = |words: &[&str]| command(words, &config);
    assert!(run(&["freeze", "--all", "--reason", "an incident"]).status.success());
    let output = said(&run(&["freeze", "--all", "--for", "1s", "--reason", "a deployment"]));
    assert!(output.contains("until somebody unfreezes it: an earlier freeze"), "{output}");
    let entries = gateway.of_kind("freeze");
    assert_eq!((entries.len(), entries[1].get("until")), (2, None));
    assert!(run(&["unfreeze", "--all", "--reason", "over"]).status.success());
    let output = said(&run(&["freeze", "--all", "--for", "1s", "--reason", "a deployment"]));
    assert!(output.contains("is sent, until 20") && !output.contains("earlier"), "{output}");
    let status = || String::from_utf8(run(&["status", "--json"]).stdout).unwrap();
    eventually("it is over", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    assert!(status().contains("\"freezes\":[]"), "{}", status());
    assert_eq!(run(&["unfreeze", "--all", "--reason", "over"]).status.code(), Some(1));
}

#[test]
fn a_freeze_of_what_no_rule_knows_holds_and_says_that_it_may_be_misspelt() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&staffed(&provider));
    let config = gateway.config();
    let doubts = |config: &Path, which: &[&str], expected: bool| {
        let output = command(&[&["freeze", "--reason", "x"], which].concat(), config);
        let (code, said) = (output.status.code(), said(&output));
        assert_eq!((code, said.contains("is it spelt right?")), (Some(0), expected), "{which:?} {said}");
    };
    let text = std::fs::read_to_string(&config).unwrap();
    for (which, expected) in [("moderatoin", true), ("moderation", false)] {
        doubts(&config, &["--caller", which], expected);
        let body = json!({"covers": "caller", "caller": which, "reason": "x"});
        assert_eq!(post(&gateway, "freeze", ALICE, &body).json().get("warning").is_some(), expected, "{which}");
    }
    doubts(&config, &["--session", "ses1"], true);
    doubts(&config, &["--session", "sess1"], false);
    doubts(&config, &["--all"], false);
    // The process knows its callers, whatever has become of the file.
    std::fs::write(&config, &text[..text.len() - 5]).unwrap();
    doubts(&config, &["--caller", "moderatoin"], true);
    doubts(&config, &["--caller", "moderation"], false);
    gateway.stop();
    doubts(&config, &["--caller", "moderatoin"], false);
    std::fs::write(&config, &text).unwrap();
    doubts(&config, &["--caller", "moderatoin"], true);
    doubts(&config, &["--caller", "moderation"], false);
    assert_eq!(gateway.of_kind("freeze").iter().filter(|entry| entry["caller"] == "moderatoin").count(), 5);
}

#[test]
fn what_is_said_of_a_freeze_does_not_read_like_its_contrary() {
    let provider = Provider::start();
    let gateway = Gateway::with(&two(&provider));
    let run = |words: &[&str]| said(&command(words, &gateway.config()));
    let none = run(&["unfreeze", "--all", "--reason", "over"]);
    assert!(none.contains("there is no freeze of everything"), "{none}");
    run(&["freeze", "--all", "--reason", "an incident"]);
    let status = run(&["status"]);
    assert!(status.contains("somebody unfreezes") && !status.contains("unfrozen"), "{status}");
    run(&["freeze", "--session", "sess1", "--for", "2h", "--reason", "a drill"]);
    eventually("the log says both", || gateway.log().matches("deletions are frozen").count() == 2);
    assert!(!gateway.log().contains("taken back"), "there was nothing to take back: {}", gateway.log());
    assert!(gateway.log().lines().any(|line| line.contains("a drill") && line.contains("\"until\":\"2")));
    run(&["unfreeze", "--all", "--reason", "over"]);
    eventually("it says that, too", || gateway.log().contains("a freeze is taken back"));
}

#[test]
fn what_a_killed_process_left_open_is_listed_as_open_until_the_next_start() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&staffed(&provider));
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let stopped = post(&gateway, "freeze", ALICE, &json!({"covers": "all", "reason": "x"})).json();
    gateway.kill();
    let status: Value = serde_json::from_slice(&command(&["status", "--json"], &gateway.config()).stdout).unwrap();
    assert_eq!((&status["serving"], &status["freezes"][0]["open"]), (&Value::Null, &stopped["open"]), "{status}");
    assert_eq!(stopped["open"].as_array().map(Vec::len), Some(1));
}
