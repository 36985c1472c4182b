//! The ledger: durable before the send, one writer, bounded, recovered, and asked by the commands.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, command, eventually};
use crate::wire::delete;
use std::process::Command;

#[test]
fn the_intent_is_recorded_before_the_provider_reads_anything() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    assert_eq!((gateway.of_kind("intent").len(), gateway.of_kind("outcome").len()), (1, 0));
    let open = command(&["audit", "search", "--outcome", "open", "--json"], &gateway.config());
    assert_eq!(String::from_utf8(open.stdout).unwrap().lines().count(), 1);
}

#[test]
fn after_kill_nine_an_open_intent_becomes_unknown_and_is_never_sent_again() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    gateway.kill();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    let outcomes = again.of_kind("outcome");
    assert_eq!(outcomes.len(), 1);
    assert_eq!((&outcomes[0]["outcome"], &outcomes[0]["sent"]), (&"unknown".into(), &"unknown".into()));
    assert_eq!(outcomes[0]["request_id"], again.of_kind("intent")[0]["request_id"]);
    assert_eq!((again.of_kind("gap").len(), again.of_kind("start")[1]["recovered"].as_u64()), (1, Some(1)));
    assert_eq!(provider.heads().len(), 1);
    let numbers: Vec<u64> = again.entries().iter().map(|entry| entry["seq"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

#[test]
fn a_caller_that_hangs_up_stops_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    for reset in [false, true] {
        provider.next(Reply::Late(std::time::Duration::from_millis(300)));
        let before = provider.heads().len();
        let stream = gateway.send();
        eventually("it is at the provider", || provider.heads().len() > before);
        if reset {
            rustix::net::sockopt::set_socket_linger(&stream, Some(std::time::Duration::ZERO)).unwrap();
        }
        drop(stream);
        eventually("the outcome is recorded", || gateway.of_kind("outcome").len() == before + 1);
        assert_eq!(gateway.of_kind("outcome")[before]["outcome"], "deleted");
    }
}

#[test]
fn a_second_process_on_one_ledger_ends_and_names_the_first() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let second = command(&["serve"], &gateway.config());
    let complaint = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(69), "{complaint}");
    assert!(complaint.contains(&format!("process {}", gateway.process_id())), "{complaint}");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
}

#[test]
fn a_flood_of_refusals_leaves_a_bounded_number_of_entries_that_count_them_all() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    for _ in 0..300 {
        assert_eq!(delete(gateway.listen, "/sess2/groups/1@g.us/picture", TOKEN).status, 403);
    }
    assert!(gateway.stop().success());
    let (own, counted) = (gateway.of_kind("refusal").len() as u64, gateway.of_kind("refusals-suppressed"));
    let rest: u64 = counted.iter().map(|entry| entry["count"].as_u64().unwrap()).sum();
    assert!(own <= 60, "{own}");
    assert_eq!(own + rest, 300);
    assert_eq!(counted[0]["codes"]["not-allowed"].as_u64(), counted[0]["count"].as_u64());
}

#[test]
fn the_ledger_is_asked_beside_a_running_gateway_and_without_one() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    provider.next(Reply::Json(404, "{}"));
    delete(gateway.listen, "/sess1/groups/2@g.us/picture", TOKEN);
    for running in [true, false] {
        if !running {
            assert!(gateway.stop().success());
        }
        let ask = |arguments: &[&str]| {
            let output = command(arguments, &gateway.config());
            (output.status.code(), String::from_utf8(output.stdout).unwrap())
        };
        let rows = |arguments: &[&str]| ask(arguments).1.lines().count();
        assert_eq!(rows(&["audit", "search", "--json"]), 2);
        assert_eq!(
            rows(&[
                "audit",
                "search",
                "--json",
                "--group",
                "2",
                "--outcome",
                "refused",
                "--since",
                "1h",
                "--caller",
                "moderation"
            ]),
            1
        );
        assert_eq!(rows(&["audit", "search", "--json", "--limit", "1"]), 1);
        assert_eq!(rows(&["audit", "search", "--json", "--session", "other"]), 0);
        assert!(ask(&["audit", "search"]).1.contains("upstream-refused"));
        assert_eq!(rows(&["audit", "show", &id, "--json"]), 2);
        assert_eq!(ask(&["audit", "show", "00000000-0000-7000-8000-000000000000"]).0, Some(1));
        assert_eq!(rows(&["audit", "tail", "-n", "3"]), 3);
        assert_eq!(rows(&["audit", "export", "--from", "2"]), gateway.entries().len() - 2);
    }
}

/// A ledger with one entry, and what SQL does to it.
fn changed_ledger(sql: &str) -> (std::sync::Arc<tempfile::TempDir>, std::path::PathBuf, Vec<u8>) {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    assert!(gateway.stop().success());
    let file = gateway.folder.path().join("ledger/ledger.db");
    let done = Command::new("python3")
        .args([
            "-c",
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()",
        ])
        .arg(&file)
        .arg(sql)
        .status();
    assert!(done.unwrap().success());
    let bytes = std::fs::read(&file).unwrap();
    (gateway.folder.clone(), file, bytes)
}

#[test]
fn a_database_that_is_not_a_ledger_of_this_version_is_refused_and_left_as_it_is() {
    for (sql, words) in [
        ("PRAGMA journal_mode = DELETE; PRAGMA application_id = 99;", "another program's database"),
        ("PRAGMA journal_mode = DELETE; PRAGMA application_id = 0;", "another program's database"),
        ("PRAGMA journal_mode = DELETE; PRAGMA user_version = 9;", "ledger of version 9"),
        (
            "PRAGMA journal_mode = DELETE; CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END;",
            "holds a trigger",
        ),
        ("PRAGMA journal_mode = DELETE; CREATE TABLE users (name TEXT);", "holds a table that no ledger has, `users`"),
    ] {
        let (folder, file, before) = changed_ledger(sql);
        let output = command(&["serve"], &folder.path().join("gateway.toml"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(74), "{sql}: {said}");
        assert!(said.contains(words), "{sql}: {said}");
        assert!(std::fs::read(&file).unwrap() == before, "{sql}: the file was touched");
    }
}

#[test]
fn a_ledger_with_a_second_name_is_refused() {
    let (folder, file, _) = changed_ledger("");
    std::fs::hard_link(&file, folder.path().join("second.db")).unwrap();
    let output = command(&["serve"], &folder.path().join("gateway.toml"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(69) && said.contains("has 2 names"), "{said}");
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let (folder, file, _) = changed_ledger("");
    std::fs::write(&file, "obviously not a database, and long enough to be read as the head of one".repeat(100))
        .unwrap();
    for words in [&["serve"][..], &["audit", "export"]] {
        let output = command(words, &folder.path().join("gateway.toml"));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(74) && said.contains("not a database"), "{words:?} {said}");
    }
}

#[test]
fn while_another_program_holds_the_database_nothing_is_forwarded_and_afterwards_it_goes_on() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let mut holder = Command::new("python3")
        .args([
            "-c",
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('BEGIN IMMEDIATE'); print('held', flush=True); sys.stdin.read()",
        ])
        .arg(gateway.folder.path().join("ledger/ledger.db"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.code().as_str(), provider.bytes()), ("ledger-unavailable", 0));
    drop(holder.stdin.take());
    assert!(holder.wait().unwrap().success());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
}
