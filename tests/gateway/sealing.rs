//! Checkpoints: signed behind the commits, copied elsewhere, and compared with the ledger at every start.

use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::{delete, get};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Origin and size of a checkpoint.
fn head(note: &str) -> (String, u64) {
    let mut lines = note.lines();
    (lines.next().unwrap_or_default().to_owned(), lines.next().and_then(|size| size.parse().ok()).unwrap_or(0))
}

fn sealed(provider: &Provider) -> (Gateway, PathBuf) {
    let sections = [("ledger", "origin = \"gateway.example/log\"\ncheckpoint_copy = \"elsewhere\"")];
    let text = configuration(&provider.url(), &sections, &caller("moderation", TOKEN, ""));
    let gateway = Gateway::with(&text);
    let copy = gateway.folder.path().join("elsewhere");
    (gateway, copy)
}

fn restart(gateway: &Gateway) -> std::process::Output {
    command(&["serve"], &gateway.config())
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap().flatten() {
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

#[test]
fn a_checkpoint_follows_the_commits_within_a_second_or_so_and_covers_all_at_the_end() {
    let provider = Provider::start();
    let (mut gateway, copy) = sealed(&provider);
    let is_at = |size: u64| std::fs::read_to_string(&copy).is_ok_and(|note| head(&note).1 >= size);
    for _ in 0..3 {
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
        let length = gateway.entries().len() as u64;
        eventually("the checkpoint covers it", || is_at(length));
    }
    assert!(gateway.log().contains("\"checkpoint\":\"gateway.example/log\\n"), "{}", gateway.log());
    assert!(gateway.stop().success());
    let note = std::fs::read_to_string(&copy).unwrap();
    assert_eq!(head(&note), ("gateway.example/log".to_owned(), gateway.entries().len() as u64));
    let mode = |file: &Path| std::fs::metadata(file).unwrap().permissions().mode() & 0o777;
    let ledger = gateway.folder.path().join("ledger");
    for file in ["signing-key", "ledger.db", "tree.db", "search.db"] {
        assert_eq!(mode(&ledger.join(file)), 0o600, "{file} is for its user alone");
    }
    assert_eq!((mode(&ledger), mode(&copy)), (0o700, 0o644), "the folder is, too; the copy is for those who compare");
}

#[test]
fn a_ledger_that_was_cut_off_or_rolled_back_does_not_start() {
    let provider = Provider::start();
    let (mut gateway, _) = sealed(&provider);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let (ledger, older) = (gateway.folder.path().join("ledger"), gateway.folder.path().join("older"));
    copy_folder(&ledger, &older);
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let mut again = Gateway::in_folder(Arc::clone(&gateway.folder), &text, &[]);
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert!(again.stop().success());

    // The tail is cut off: what was signed in the folder itself shows it.
    let newer = gateway.folder.path().join("newer");
    copy_folder(&ledger, &newer);
    sql(&ledger.join("ledger.db"), "DELETE FROM entry WHERE seq = (SELECT max(seq) FROM entry)");
    let output = restart(&gateway);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(74) && said.contains("were cut off"), "{said}");

    // The whole folder is an older one: only the copy elsewhere shows it.
    std::fs::remove_dir_all(&ledger).unwrap();
    copy_folder(&older, &ledger);
    let output = restart(&gateway);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(74) && said.contains("elsewhere: it was signed for"), "{said}");

    // An entry was changed, in a copy of the folder as in its tree.
    std::fs::remove_dir_all(&ledger).unwrap();
    copy_folder(&newer, &ledger);
    sql(
        &ledger.join("ledger.db"),
        "UPDATE entry SET bytes = CAST(replace(CAST(bytes AS TEXT), 'moderation', 'moderator!') AS BLOB) WHERE seq = 2",
    );
    std::fs::remove_file(ledger.join("tree.db")).unwrap();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let changed = Gateway::in_folder(Arc::clone(&gateway.folder), &text, &[]);
    eventually("it is found while the tree is built anew", || changed.log().contains("signed for another root"));
    eventually("readiness says so", || get(changed.ops, "/readyz").body.contains("ledger-not-signed"));
    assert_eq!(get(changed.ops, "/readyz").status, 200, "deletions are recorded all the same");
}

#[test]
fn a_signing_key_that_is_missing_or_another_is_a_clear_refusal() {
    let provider = Provider::start();
    let (mut gateway, _) = sealed(&provider);
    assert!(gateway.stop().success());
    let key = gateway.folder.path().join("ledger/signing-key");
    let line = std::fs::read_to_string(&key).unwrap();
    let refused = |words: &str| {
        let output = restart(&gateway);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(matches!(output.status.code(), Some(69 | 74)) && said.contains(words), "{words}: {said}");
        assert!(!said.contains(line.trim()), "the key was printed");
    };
    std::fs::remove_file(&key).unwrap();
    refused("the signing key is missing; put it back");
    std::fs::write(&key, "PRIVATE+KEY+nonsense").unwrap();
    refused("signing key");
    std::fs::write(&key, &line).unwrap();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    std::fs::write(gateway.config(), text.replace("gateway.example/log", "gateway.example/other")).unwrap();
    refused("ledger.origin is gateway.example/other");
}

#[test]
fn a_tree_that_is_broken_or_gone_is_built_anew_and_goes_on_from_what_was_signed() {
    let provider = Provider::start();
    let (mut gateway, copy) = sealed(&provider);
    for _ in 0..3 {
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    }
    assert!(gateway.stop().success());
    let tree = gateway.folder.path().join("ledger/tree.db");
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    for harm in ["DELETE FROM tile", "UPDATE tile SET hashes = zeroblob(length(hashes))", ""] {
        if harm.is_empty() {
            std::fs::remove_file(&tree).unwrap()
        } else {
            sql(&tree, harm)
        }
        let mut again = Gateway::in_folder(Arc::clone(&gateway.folder), &text, &[]);
        assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200, "{harm}");
        assert!(again.stop().success());
        let note = std::fs::read_to_string(&copy).unwrap();
        assert_eq!(head(&note).1, again.entries().len() as u64, "{harm}");
    }
}

fn sql(file: &Path, sql: &str) {
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()";
    let done = std::process::Command::new("python3").args(["-c", script]).arg(file).arg(sql).status();
    assert!(done.unwrap().success());
}

#[test]
fn verify_holds_the_ledger_against_the_copy_elsewhere_without_being_asked() {
    let provider = Provider::start();
    let (mut gateway, copy) = sealed(&provider);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let ledger = gateway.folder.path().join("ledger");
    let verify = || {
        let output = command(&["audit", "verify"], &gateway.config());
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = verify();
    assert!(code == Some(0) && said.contains(&copy.display().to_string()), "{said}");
    let note = std::fs::read(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let (code, said) = verify();
    assert!(
        code == Some(0) && said.contains("warning: ledger.checkpoint_copy") && !said.contains("none given"),
        "{said}"
    );
    std::fs::write(&copy, note).unwrap();
    let older = gateway.folder.path().join("older");
    copy_folder(&ledger, &older);
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let mut again = Gateway::in_folder(Arc::clone(&gateway.folder), &text, &[]);
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert!(again.stop().success());
    std::fs::remove_dir_all(&ledger).unwrap();
    copy_folder(&older, &ledger);
    let (code, said) = verify();
    assert!(code == Some(74), "{said}");
}

#[test]
fn over_a_hole_nothing_is_signed_and_readiness_says_so() {
    let provider = Provider::start();
    for _ in 0..20 {
        let (mut gateway, copy) = sealed(&provider);
        eventually("the start is signed", || copy.exists());
        for _ in 0..3 {
            assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
        }
        gateway.kill();
        let (length, covered) = (gateway.entries().len() as u64, head(&std::fs::read_to_string(&copy).unwrap()).1);
        if length < covered + 3 {
            continue; // It was signed just before the end.
        }
        let gone = length - 2;
        sql(&gateway.folder.path().join("ledger/ledger.db"), &format!("DELETE FROM entry WHERE seq = {gone}"));
        let text = std::fs::read_to_string(gateway.config()).unwrap();
        let again = Gateway::in_folder(Arc::clone(&gateway.folder), &text, &[]);
        eventually("readiness says so", || get(again.ops, "/readyz").body.contains("ledger-not-signed"));
        eventually("the log names it", || again.log().contains(&format!("entry {gone} is missing")));
        assert!(head(&std::fs::read_to_string(&copy).unwrap()).1 <= gone);
        return;
    }
    panic!("each time everything was signed before the end");
}

#[test]
fn a_folder_in_which_somebody_laid_hands_on_what_keeps_the_tree_is_not_believed() {
    let provider = Provider::start();
    for (file, harm, words) in [
        (
            "tree.db",
            "CREATE TRIGGER t BEFORE INSERT ON signed BEGIN SELECT RAISE(IGNORE); END",
            "holds more than a tree",
        ),
        ("ledger.db", "INSERT INTO entry VALUES (-5, x'00')", "they begin at 0"),
        ("ledger.db", "INSERT INTO entry VALUES (9223372036854775807, x'00')", "they begin at 0"),
        ("ledger.db", "INSERT INTO in_flight VALUES (1, '01a20f63-5b69-73a6-9187-0d839913794d')", "is no such intent"),
        ("ledger.db", "INSERT INTO in_flight VALUES (99, '01a20f63-5b69-73a6-9187-0d839913794d')", "is no such intent"),
    ] {
        let (mut gateway, _) = sealed(&provider);
        assert!(gateway.stop().success());
        sql(&gateway.folder.path().join("ledger").join(file), harm);
        let output = restart(&gateway);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(74) && said.contains(words), "{harm}: {said}");
    }
    let (gateway, copy) = sealed(&provider);
    eventually("the start is signed", || copy.exists());
    std::fs::remove_file(gateway.folder.path().join("ledger/tree.db")).unwrap();
    eventually("readiness says so", || get(gateway.ops, "/readyz").body.contains("ledger-not-signed"));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "deletions are recorded all the same");
}

#[test]
fn a_start_believes_no_list_that_the_entries_contradict_and_verify_finds_it_too() {
    let provider = Provider::start();
    let intent = "FROM entry WHERE json_extract(CAST(bytes AS TEXT), '$.kind') = 'intent' LIMIT 1";
    let in_flight =
        format!("INSERT INTO in_flight SELECT seq, json_extract(CAST(bytes AS TEXT), '$.request_id') {intent}");
    let unresolved = format!("INSERT INTO unresolved SELECT 0, seq, 0 {intent}");
    for (harm, start, verify) in [
        (in_flight.as_str(), "is said to be in flight, but entry", "is listed as an intent in flight"),
        (&unresolved, "is said to wait for a resolution, but entry", "is listed as an intent that waits"),
        ("INSERT INTO unresolved VALUES (0, 0, 0)", "but is no such intent", "is listed as an intent that waits"),
        ("INSERT INTO entry VALUES (-1, x'00')", "entries go from -1 to", "entries go from -1 on"),
        ("ALTER TABLE in_flight ADD COLUMN x TEXT", "is defined otherwise", "is defined otherwise"),
        ("CREATE TABLE more (x)", "a table that no ledger has", "a table that no ledger has"),
    ] {
        let (mut gateway, _) = sealed(&provider);
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
        assert!(gateway.stop().success());
        sql(&gateway.folder.path().join("ledger/ledger.db"), harm);
        let verified = command(&["audit", "verify"], &gateway.config());
        let said = String::from_utf8(verified.stderr).unwrap();
        assert!(verified.status.code() == Some(74) && said.contains(verify), "{harm}: {said}");
        let output = restart(&gateway);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(74) && said.contains(start), "{harm}: {said}");
    }
}

#[test]
fn without_its_tree_a_ledger_is_verified_by_what_is_kept_elsewhere_and_starts_by_that_alone() {
    let provider = Provider::start();
    let (mut gateway, copy) = sealed(&provider);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let ledger = gateway.folder.path().join("ledger");
    std::fs::remove_file(ledger.join("tree.db")).unwrap();
    let verify = || {
        let output = command(&["audit", "verify"], &gateway.config());
        (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    let (code, said) = verify();
    assert!(code == Some(0) && said.contains("held against the kept one alone"), "{said}");
    let note = std::fs::read(&copy).unwrap();
    std::fs::remove_file(&copy).unwrap();
    let (code, said) = verify();
    assert!(code == Some(69) && said.contains("nothing proves them"), "{said}");
    for again in 0..2 {
        let output = restart(&gateway);
        let said = String::from_utf8(output.stderr).unwrap();
        let words = "nothing says which of them were signed";
        assert!(output.status.code() == Some(74) && said.contains(words), "{again}: {said}");
    }
    std::fs::write(&copy, note).unwrap();
    let change = "UPDATE entry SET bytes = CAST(replace(CAST(bytes AS TEXT), 'deleted', 'refused') AS BLOB)";
    sql(&ledger.join("ledger.db"), change);
    let (code, said) = verify();
    assert!(code == Some(74) && said.contains("was signed for the root"), "{said}");
}

#[test]
fn the_copy_of_the_checkpoint_is_not_put_into_the_ledgers_own_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("ledger/sub")).unwrap();
    std::os::unix::fs::symlink(folder.path().join("ledger"), folder.path().join("link")).unwrap();
    for copy in ["ledger/copy", "ledger/sub/copy", "link/copy", "other/../ledger/new/copy"] {
        let file = folder.path().join("gateway.toml");
        std::fs::write(&file, format!("[ledger]\npath = \"ledger\"\ncheckpoint_copy = \"{copy}\"\n")).unwrap();
        let output = command(&["audit", "verify"], &file);
        let said = String::from_utf8(output.stderr).unwrap();
        let words = ["ledger.checkpoint_copy", "is in ledger.path"];
        assert!(output.status.code() == Some(64) && words.iter().all(|words| said.contains(words)), "{copy}: {said}");
    }
}

#[test]
fn what_was_recorded_is_signed_at_the_end_also_while_the_copy_elsewhere_cannot_be_written() {
    let provider = Provider::start();
    let sections = [("ledger", "checkpoint_copy = \"nowhere/elsewhere\"")];
    let mut gateway = Gateway::with(&configuration(&provider.url(), &sections, &caller("moderation", TOKEN, "")));
    eventually("readiness says so", || get(gateway.ops, "/readyz").body.contains("ledger-not-signed"));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let verified = command(&["audit", "verify", "--json"], &gateway.config());
    let said = String::from_utf8(verified.stdout).unwrap();
    assert!(verified.status.success() && said.contains("\"not_yet_covered\":0"), "{said}");
}
