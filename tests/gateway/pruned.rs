//! What is said, and what is verified, of a ledger that was pruned.

use crate::old::{Old, python};
use std::path::Path;
use std::process::Command;

/// A request id of which no entry speaks.
const NOBODYS: &str = "01900000-0000-7000-8000-ffffffffffff";

#[test]
fn what_is_listed_beside_the_entries_about_what_was_pruned_is_verified_too() {
    let old = Old::new(700, 100, "retention_days = 30");
    let mut gateway = old.settled();
    assert_eq!(old.prune().0, Some(0));
    assert!(gateway.stop().success());
    let ledger = old.ledger().join("ledger.db");
    let before = std::fs::read(&ledger).unwrap();
    for (harm, words) in [
        ("UPDATE pruned SET edge = zeroblob(length(edge))", "the hashes of the pruned entries are not whole"),
        ("INSERT INTO entry SELECT 3, bytes FROM entry WHERE seq = 600", "entries go from 3 on"),
    ] {
        let script =
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(sys.argv[2]); db.commit(); db.close()";
        python(script, &[&ledger, Path::new(harm)]);
        let (code, said) = old.run(&["audit", "verify"]);
        assert!(code == Some(74) && said.contains(words), "{harm}: {code:?} {said}");
        std::fs::write(&ledger, &before).unwrap();
    }
    old.verifies("paired");
}

#[test]
fn what_is_asked_of_an_older_log_is_not_done_to_the_one_that_is_there() {
    let old = Old::new(700, 100, "retention_days = 30");
    assert!(old.settled().stop().success());
    std::fs::create_dir(old.ledger().join("1")).unwrap();
    std::fs::copy(old.ledger().join("ledger.db"), old.ledger().join("1/ledger.db")).unwrap();
    let (code, said) = old.run(&["audit", "prune", "--log", "1", "--before", "60d"]);
    assert_eq!(old.first(), 0, "{said}");
    assert!(code == Some(64) && said.contains("an older log"), "{code:?} {said}");
}

#[test]
fn who_asks_for_what_was_pruned_is_told_and_who_does_not_is_not() {
    let old = Old::new(700, 100, "retention_days = 30");
    let _gateway = old.settled();
    assert_eq!(old.prune().0, Some(0));
    for asked in [&["export"][..], &["stats"], &["search", "--limit", "1000"], &["prove", NOBODYS, "--out", "none"]] {
        let (_, words) = old.run(&[&["audit"], asked].concat());
        assert!(words.contains("entries before 512 were pruned"), "{asked:?}: {words}");
    }
    let prune = old.run(&["audit", "export"]).1;
    let prune = prune.lines().find(|line| line.contains("\"kind\":\"prune\"")).unwrap();
    let of = prune.split("\"before\":\"").nth(1).unwrap();
    let next =
        Command::new("date").args(["-u", "+%FT00:00:00Z", "-d", &format!("{} 1 day", &of[..10])]).output().unwrap();
    let next = String::from_utf8(next.stdout).unwrap();
    let whole = |time: &str| old.run(&["audit", "stats", "--since", time]).1.contains("were pruned");
    assert!(whole(&format!("{}T23:59:59.999999Z", &of[..10])), "of a day all is counted");
    assert!(!whole(next.trim()), "what went is not of this day: {next}");
    for asked in [["stats", "--since", "7d"], ["search", "--since", "7d"], ["search", "--limit", "1"]] {
        let (_, words) = old.run(&[&["audit"], &asked[..]].concat());
        assert!(!words.contains("were pruned"), "what went is not asked for: {asked:?}: {words}");
    }
}
