//! `audit prune`: what is gone is gone to the last byte, and the rest is proven as before.

use crate::crash::FAILPOINTS;
use crate::old::{AUDITOR, Deleting, Old, PHONE, Reading, python, said, term};
use crate::promises::{ask, connect};
use crate::provider::Provider;
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::delete;
use serde_json::Value;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

#[test]
fn beside_deletions_old_entries_go_to_the_last_byte_and_the_rest_is_proven_as_before() {
    let old = Old::new(5_000, 4_000, "retention_days = 30");
    let mut gateway = old.settled();
    eventually("it can be searched", || old.holding(&term("group", PHONE)) != [""; 0]);
    assert!(old.holding(PHONE.as_bytes()).contains(&"ledger.db".to_owned()));
    let load = Deleting::at(&gateway);
    let (code, words) = old.prune();
    assert!(code == Some(0) && words.contains("4864 entries are gone"), "{code:?} {words}");
    assert!(load.end() > 0, "deletions went on");
    old.is_gone();
    assert_eq!(old.first(), 4_864);
    let entry = gateway.of_kind("prune").pop().expect("an entry");
    assert_eq!(
        (&entry["first"], &entry["carried_outcomes"], &entry["carried_resolutions"]),
        (&4_864.into(), &1.into(), &1.into())
    );
    assert!(entry["by"].as_str().unwrap().starts_with("uid "), "{entry}");
    old.verifies("entries 0 to 4863, all before");
    old.verifies("their hashes lead to the signed root");
    let (code, words) = old.run(&["audit", "show", "01900000-0000-7000-8000-000000000003"]);
    assert!(code == Some(0) && words.contains("entries before 4864 were pruned"), "{words}");
    let stats = |old: &Old| old.run(&["audit", "stats", "--json"]).1;
    let rows = |old: &Old| old.run(&["audit", "search", "--json", "--limit", "1000", "--caller", "c1"]).1;
    let (with, found) = (stats(&old), rows(&old));
    assert!(gateway.stop().success());
    old.is_gone();
    std::fs::remove_file(old.ledger().join("search.db")).unwrap();
    assert_eq!((stats(&old), rows(&old)), (with, found), "the same without the search data");
    let again = old.settled();
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    let (code, words) = old.prune();
    assert!(code == Some(0) && words.contains("nothing to prune"), "{words}");
    old.verifies("their hashes lead to the signed root");
}

#[test]
fn without_a_process_the_command_prunes_by_itself() {
    let old = Old::new(700, 100, "retention_days = 30");
    assert!(old.settled().stop().success());
    let keys = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); key = lambda n: n.to_bytes(16, 'big')
for n in range(600):
    db.execute('INSERT INTO idempotency VALUES (?, ?, 6, zeroblob(16), ?, NULL)', (key(n), n, 'x'))
    db.execute('INSERT INTO idempotency_age VALUES (?, ?)', (n, key(n)))
db.commit()";
    python(keys, &[&old.ledger().join("ledger.db")]);
    let (code, words) = old.prune();
    assert!(code == Some(0) && words.contains("512 entries are gone"), "{words}");
    let left = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1])
for table in ['idempotency', 'idempotency_age']:
    assert db.execute(f'SELECT count(*) FROM {table}').fetchone() == (0,), table";
    python(left, &[&old.ledger().join("ledger.db")]);
    old.is_gone();
    old.verifies("entries 0 to 511, all before");
    let (code, json) = old.run(&["audit", "prune", "--before", "60d", "--json"]);
    assert_eq!(code, Some(0));
    assert_eq!(
        serde_json::from_str::<Value>(json.trim()).unwrap(),
        serde_json::json!({"stage": "nothing", "first": 512})
    );
    drop(old.settled());
}

#[test]
fn what_was_taken_over_from_a_log_before_is_let_pass_when_the_entry_that_says_so_has_gone() {
    let old = Old::new(700, 100, "retention_days = 30");
    old.follows_another_log();
    assert!(old.settled().stop().success());
    assert_eq!(old.prune().0, Some(0));
    old.verifies("entries 0 to 511, all before");
    // What would have been taken over later than all that went cannot have been.
    let later = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('UPDATE spent SET time_us = unixepoch() * 1000000'); db.commit()";
    python(later, &[&old.ledger().join("ledger.db")]);
    let (code, words) = old.run(&["audit", "verify"]);
    assert!(code == Some(74) && words.contains("counted by a budget"), "{words}");
}

#[test]
fn what_may_not_go_is_refused_in_words() {
    let old = Old::new(700, 100, "");
    let ledger = old.ledger().join("ledger.db");
    let change = |sql: &str| {
        let script =
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()";
        python(script, &[&ledger, Path::new(sql)]);
    };
    // As the writer would have it: an unknown outcome whose picture is still to be looked at.
    change(
        "UPDATE entry SET bytes = CAST(replace(bytes, '\"kind\":\"resolution\"', '\"kind\":\"start\"') AS BLOB);
         INSERT INTO unresolved VALUES ((unixepoch() + 86400) * 1000000, 3, 0)",
    );
    let refused = |old: &Old, before: &str, code: i32, words: &str| {
        let (is, said) = old.run(&["audit", "prune", "--before", before]);
        assert!(is == Some(code) && said.contains(words), "{is:?} {said}");
        assert_eq!(old.first(), 0, "{said}");
    };
    let mut gateway = old.settled();
    refused(&old, "60d", 64, "ledger.retention_days is not set");
    assert!(gateway.stop().success());
    let text = old.text.replace("reserve_kib = 64\n", "reserve_kib = 64\nretention_days = 30\n");
    let mut old = old;
    old.text = text;
    let mut gateway = old.settled();
    for young in ["29d", "1h", "2999-01-01"] {
        refused(&old, young, 64, "by ledger.retention_days = 30, the budgets");
    }
    refused(&old, "soon", 64, "neither a span");
    refused(&old, "500d", 0, "nothing to prune");
    assert!(gateway.stop().success());
    refused(&old, "60d", 1, "entry 3 is an intent whose outcome is unknown");
    let mut gateway = old.settled();
    refused(&old, "60d", 1, "entry 3 is an intent whose outcome is unknown");
    refused(&old, "30d", 1, "entry 3 is an intent whose outcome is unknown");
    // A budget that a reload has made longer than that.
    let budget = "budgets = [{ max = 5, per_s = 2678400 }]\n[[callers.allow]]";
    std::fs::write(gateway.config(), old.text.replacen("[[callers.allow]]", budget, 1)).unwrap();
    gateway.signal("HUP");
    eventually("it is in force", || gateway.of_kind("policy").len() > 1);
    refused(&old, "30d", 64, "the budgets");
    std::fs::write(gateway.config(), &old.text).unwrap();
    assert!(gateway.stop().success());
    change(
        "DELETE FROM unresolved; UPDATE entry SET bytes = CAST(replace(bytes, '127.0.0.1', '127.0.0.2') AS BLOB) WHERE seq < 50",
    );
    refused(&old, "60d", 74, "are not those that were signed");
}

#[test]
fn while_another_program_reads_the_bytes_stay_and_the_command_says_so_and_the_process_goes_on_by_itself() {
    let old = Old::new(700, 100, "retention_days = 30");
    let gateway = old.settled();
    let reading = Reading::of(&old.ledger().join("ledger.db"));
    let (code, words) = old.prune();
    assert!(code == Some(75) && words.contains("another program reads the ledger"), "{code:?} {words}");
    assert!(!old.holding(PHONE.as_bytes()).is_empty());
    assert_eq!(old.first(), 512, "nobody reads them any more");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    old.verifies("their hashes lead to the signed root");
    drop(reading);
    eventually("the bytes are gone", || old.holding(PHONE.as_bytes()).is_empty());
    old.is_gone();
    let (code, words) = old.prune();
    assert!(code == Some(0) && words.contains("nothing to prune"), "{words}");
}

#[test]
fn without_a_process_a_reader_is_waited_for_and_the_next_try_ends_it() {
    let old = Old::new(700, 100, "retention_days = 30");
    assert!(old.settled().stop().success());
    let reading = Reading::of(&old.ledger().join("ledger.db"));
    let (code, words) = old.prune();
    assert!(code == Some(75) && words.contains("another program reads the ledger"), "{code:?} {words}");
    drop(reading);
    let (code, words) = old.prune();
    assert_eq!(code, Some(0), "{words}");
    old.is_gone();
}

#[test]
fn killed_at_each_point_of_a_prune_the_ledger_starts_verifies_and_is_pruned_in_the_end() {
    let list = {
        let old = Old::new(2, 2, "");
        let (_, said) = Gateway::attempt(old.folder.clone(), &old.text, &[(FAILPOINTS, "x=kill")], &[]).err().unwrap();
        said.split_once("there are: ").unwrap().1.lines().next().unwrap().to_owned()
    };
    let points: Vec<&str> = list.split(", ").filter(|point| point.starts_with("prune-")).collect();
    assert!(points.len() >= 8, "{points:?}");
    for point in points {
        let old = Old::new(5_000, 100, "retention_days = 30");
        assert!(old.settled().stop().success());
        let at = if point == "prune-deleted" { 3 } else { 1 };
        let mut gateway = old.start(&format!("{point}=kill@{at}"));
        let mut load = connect(gateway.listen).unwrap();
        assert_eq!(ask(&mut load).expect("an answer").status, 200);
        let (code, words) = old.prune();
        assert!(matches!(code, Some(0 | 69 | 75)), "{point}: {code:?} {words}");
        assert_eq!(gateway.ended().code(), None, "{point} was not reached");
        let verified = old.run(&["audit", "verify"]);
        assert_eq!(verified.0, Some(0), "{point}: {}", verified.1);
        let again = old.settled();
        assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
        if point != "prune-begin" {
            eventually("what was recorded is gone on with unasked", || old.holding(PHONE.as_bytes()).is_empty());
        }
        // What the killed one left is gone on with, and nothing else is begun meanwhile.
        eventually("there is nothing left to prune", || {
            let (code, words) = old.prune();
            assert!(matches!(code, Some(0 | 75)), "{point}: {code:?} {words}");
            code == Some(0)
        });
        old.is_gone();
        assert_eq!(old.first(), 4_864, "{point}");
        old.verifies("their hashes lead to the signed root");
    }
}

#[test]
fn a_beginning_that_nobody_pruned_is_damage_and_so_is_a_prune_that_nobody_signed() {
    let old = Old::new(700, 100, "retention_days = 30");
    assert!(old.settled().stop().success());
    let forged = "import json, sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute('DELETE FROM entry WHERE seq < 256')
if sys.argv[2] == 'forge':
    seq, last = db.execute('SELECT seq + 1, bytes FROM entry ORDER BY seq DESC LIMIT 1').fetchone()
    entry = {'v': 1, 'seq': seq, 'time': json.loads(last)['time'], 'kind': 'prune', 'before': '2026-01-01T00:00:00.000000Z', 'first': 256, 'root': sys.argv[3], 'carried_outcomes': 1, 'carried_resolutions': 1, 'by': 'uid 0'}
    db.execute('INSERT INTO entry VALUES (?, cast(? AS BLOB))', (seq, json.dumps(entry, separators=(',', ':'))))
    db.execute('INSERT INTO pruned VALUES (?, 256, 2, zeroblob(32))', (seq,))
db.commit(); db.close()";
    let root = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    for (how, serve, verify) in [
        ("cut", "no entry says that more was pruned", "entry 0 is missing"),
        ("forge", "is not signed", "is not signed"),
    ] {
        let ledger = old.ledger().join("ledger.db");
        let before = std::fs::read(&ledger).unwrap();
        python(forged, &[&ledger, Path::new(how), Path::new(root)]);
        let (code, words) = old.run(&["audit", "verify"]);
        assert!(code == Some(74) && words.contains(verify), "{how}: {code:?} {words}");
        let started = Gateway::attempt(old.folder.clone(), &old.text, &[], &[]);
        let (code, words) = started.err().expect("it does not start");
        assert!(code == Some(74) && words.contains(serve), "{how}: {code:?} {words}");
        for end in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(old.ledger().join(format!("ledger.db{end}")));
        }
        std::fs::write(&ledger, before).unwrap();
    }
    old.verifies("paired");
}

#[test]
fn what_is_left_of_a_pruned_ledger_is_served_exported_copied_and_put_back() {
    let old = Old::new(700, 100, "retention_days = 30");
    let mut gateway = old.settled();
    assert_eq!(old.prune().0, Some(0));
    let ask = |path: &str| {
        let fields = format!(
            "GET /log/{path} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {AUDITOR}\r\nConnection: close\r\n\r\n"
        );
        let mut stream = crate::wire::connect(gateway.ops);
        stream.write_all(fields.as_bytes()).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes)[9..12].to_owned()
    };
    for (path, status) in [
        ("tile/entries/000", "404"),
        ("tile/entries/001", "404"),
        ("tile/entries/000.p/7", "404"),
        ("tile/entries/002", "200"),
        ("tile/0/000", "200"),
        ("tile/0/001", "200"),
        ("checkpoint", "200"),
    ] {
        assert_eq!(ask(path), status, "{path}");
    }
    let answer = delete(gateway.listen, TARGET, TOKEN);
    let (id, out) = (answer.header("x-request-id").unwrap(), old.folder.path().join("proofs"));
    let (code, words) = old.run(&["audit", "prove", id, "--out", out.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{words}");
    let receipt = words.lines().find(|line| line.contains("--receipt")).unwrap().trim();
    let words: Vec<&str> = receipt.split_whitespace().skip(1).collect();
    let checked = Command::new(BINARY).args(words).output().unwrap();
    assert!(checked.status.success(), "{}", said(&checked).1);
    let tiles = old.folder.path().join("tiles");
    let (code, words) = old.run(&["audit", "export", "--tiles", tiles.to_str().unwrap()]);
    assert!(code == Some(0) && words.contains("entries before 512 were pruned"), "{words}");
    assert!(tiles.join("tile/0/000").exists() && tiles.join("tile/entries/002").exists());
    assert!(!tiles.join("tile/entries/001").exists());
    let (copy, kept) = (old.folder.path().join("copy"), old.folder.path().join("kept"));
    std::fs::write(&kept, old.run(&["audit", "checkpoint"]).1).unwrap();
    let (code, words) = old.run(&["audit", "backup", "--json", "--to", copy.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{words}");
    assert!(gateway.stop().success());

    put_back(&old, &copy, &kept);
}

fn put_back(old: &Old, copy: &Path, kept: &Path) {
    // Nothing is left but the copy, the key and a checkpoint: the hashes before the edge are lost, and it goes on.
    let key = std::fs::read(old.ledger().join("signing-key")).unwrap();
    std::fs::remove_dir_all(old.ledger()).unwrap();
    std::fs::create_dir(old.ledger()).unwrap();
    std::fs::write(old.ledger().join("signing-key"), key).unwrap();
    let restore = |more: &[&str]| old.run(&[&["audit", "restore", "--from", copy.to_str().unwrap()], more].concat());
    let (code, words) = restore(&["--checkpoint", kept.to_str().unwrap()]);
    assert!(code == Some(0) && words.contains("gateway.example/log"), "{words}");
    let mut again = old.settled();
    old.is_gone();
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    old.verifies("of their hashes only the last ones are left, and they lead to the signed root");
    assert!(again.stop().success());
    let (code, words) = old.run(&["audit", "reindex"]);
    assert_eq!(code, Some(0), "{words}");

    // Once more, with a loss: the new log begins at 0, and the old one where it was pruned.
    let (code, words) = restore(&["--accept-loss"]);
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(old.first(), 0);
    let (_, words) = old.run(&["audit", "export", "--log", "1"]);
    assert!(words.contains("\"seq\":512,") && !words.contains("\"seq\":511,"), "{words}");
    let (code, words) = old.run(&["audit", "verify", "--log", "1"]);
    assert!(code == Some(0) && words.contains("of their hashes only the last ones are left"), "{words}");
    drop(old.settled());
}

#[test]
fn a_ledger_is_pruned_again_and_again() {
    let old = Old::new(1_400, 100, "retention_days = 30");
    let gateway = old.settled();
    // Half a bundle more than the first two; 400 days ago began what comes a minute apart.
    for (before, first) in [("400d", None), ("399d", None), ("60d", Some(1_280))] {
        let (code, words) = old.run(&["audit", "prune", "--before", before]);
        assert_eq!(code, Some(0), "{words}");
        eventually("the next checkpoint", || old.run(&["audit", "verify"]).0 == Some(0));
        if let Some(first) = first {
            assert_eq!(old.first(), first);
        }
    }
    old.is_gone();
    assert!(gateway.of_kind("prune").last().unwrap()["carried_outcomes"] == 1);
    old.verifies("their hashes lead to the signed root");
}

#[test]
fn a_process_that_does_not_answer_is_named_and_a_socket_that_was_left_is_replaced() {
    let provider = Provider::start();
    let deep = tempfile::tempdir().unwrap();
    let long = deep.path().join("a-folder-with-a-long-name".repeat(4)).join("another-one".repeat(9));
    std::fs::create_dir_all(&long).unwrap();
    let lines = format!("retention_days = 30\npath = \"{}/ledger\"", long.display());
    let text = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
    let text = text.replace("path = \"ledger\"", &lines);
    let mut gateway = Gateway::with(&text);
    let socket = long.join("ledger/control.sock");
    assert!(socket.exists() && socket.as_os_str().len() > 107);
    let prune = || said(&command(&["audit", "prune", "--before", "60d"], &gateway.config()));
    assert_eq!(prune().0, Some(0));
    gateway.signal("STOP");
    let (code, words) = prune();
    assert!(code == Some(69) && words.contains(&format!("process {}", gateway.process_id())), "{code:?} {words}");
    gateway.signal("CONT");
    gateway.kill();
    assert!(socket.exists(), "nobody was there to remove it");
    let mut again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    assert_eq!(said(&command(&["audit", "prune", "--before", "60d"], &again.config())).0, Some(0));
    assert!(again.stop().success());
    assert!(!socket.exists());
}
