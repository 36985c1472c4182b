//! Evidence that is not what it should be: the words are wrong, the answer is no, or the ledger is broken.

use crate::provider::Provider;
use crate::restoring::{Past, said, text};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, command};
use crate::wire::delete;
use std::path::Path;
use std::process::Command;

fn sql(file: &Path, sql: &str) {
    crate::old::python(
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()",
        &[file, Path::new(sql)],
    );
}

#[test]
fn a_receipt_that_is_no_text_does_not_fit_and_one_that_is_not_there_is_a_fault_of_usage() {
    let past = Past::new(&Provider::start());
    let entry = past.receipts.join("2.entry");
    let verify = |entry: &Path, proof: &Path, json: &[&str]| {
        let words =
            [&["audit", "verify", "--receipt", text(entry), text(proof), "--vkey", &past.old_key], json].concat();
        said(&Command::new(BINARY).args(words).output().unwrap())
    };
    let proof = past.receipts.join("2.tlog-proof");
    assert_eq!(verify(&entry, &proof, &[]).0, Some(0));
    let strange = past.gateway.folder.path().join("strange");
    std::fs::write(&strange, [0xff, 0xfe, 0]).unwrap();
    let (code, words) = verify(&entry, &strange, &[]);
    assert!(code == Some(1) && words.contains("it is not UTF-8"), "{words}");
    let (code, words) = verify(&entry, &strange, &["--json"]);
    assert!(code == Some(1) && words.starts_with("{\"fault\":"), "{words}");
    let missing = past.gateway.folder.path().join("missing");
    assert_eq!((verify(&entry, &missing, &[]).0, verify(&missing, &proof, &[]).0), (Some(64), Some(64)));
}

#[test]
fn a_kept_checkpoint_that_is_none_is_a_fault_of_usage_and_one_that_contradicts_is_damage() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    drop(past.serve());
    let kept = past.gateway.folder.path().join("kept");
    let note = std::fs::read_to_string(&past.elsewhere).unwrap();
    let asked = |contents: &[u8], code: i32, words: &str| {
        std::fs::write(&kept, contents).unwrap();
        for command in [&["audit", "verify"][..], &["audit", "restore", "--from", text(&past.backup)]] {
            let command = [command, &["--checkpoint", text(&kept)]].concat();
            let (is, told) = said(&crate::running::command(&command, &past.config()));
            // A backup that lacks what was signed is not put back, and that is a no.
            let wanted = if code == 0 && command.contains(&"restore") { 1 } else { code };
            assert!(is == Some(wanted) && told.contains(words), "{command:?} {contents:?}: {is:?} {told}");
        }
    };
    asked(note.as_bytes(), 0, "");
    let with_key = format!("{note}{}\n", past.old_key);
    asked(with_key.as_bytes(), 0, "");
    let cut = note.rsplit_once("\n\n").unwrap().0;
    let size = note.lines().nth(1).unwrap();
    for wrong in [
        b"".to_vec(),
        b"\xff\xfe".to_vec(),
        cut.as_bytes().to_vec(),
        format!("{note}{}", note.lines().last().unwrap()).into_bytes(),
        format!("{note}something else\n").into_bytes(),
        note.replacen(&format!("\n{size}\n"), "\nmany\n", 1).into_bytes(),
        past.old_key.clone().into_bytes(),
    ] {
        asked(&wrong, 64, "--checkpoint");
    }
    let other = note.replacen(&format!("\n{size}\n"), "\n1\n", 1);
    asked(other.as_bytes(), 74, "one of them was changed");
    std::fs::remove_file(&kept).unwrap();
    let (code, words) = past.verify(&["--checkpoint", text(&kept)]);
    assert!(code == Some(64) && words.contains("--checkpoint"), "{words}");
}

/// Commands that only read.
const READING: [&[&str]; 10] = [
    &["audit", "search"],
    &["audit", "show", "1"],
    &["audit", "tail"],
    &["audit", "export"],
    &["audit", "export", "--format", "csv"],
    &["audit", "stats"],
    &["audit", "checkpoint"],
    &["audit", "verify"],
    &["audit", "reindex"],
    &["status"],
];

#[test]
fn a_newer_ledger_and_a_foreign_file_are_named_by_every_command_and_left_as_they_are() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    assert!(gateway.stop().success());
    let (folder, ledger) = (gateway.folder.path(), gateway.folder.path().join("ledger"));
    let file = ledger.join("ledger.db");
    let (tiles, proofs, backup) = (folder.join("tiles"), folder.join("proofs"), folder.join("backup"));
    let more: [&[&str]; 5] = [
        &["audit", "export", "--tiles", text(&tiles)],
        &["audit", "prove", &id, "--out", text(&proofs)],
        &["audit", "backup", "--to", text(&backup)],
        &["freeze", "--all", "--reason", "x"],
        &["serve"],
    ];
    let search = || std::fs::read(ledger.join("search.db")).ok();
    let refused = |words: &str| {
        let before = (std::fs::read(&file).unwrap(), search());
        for command in READING.iter().chain(&more) {
            let (code, told) = said(&crate::running::command(command, &gateway.config()));
            assert!(code == Some(74) && told.contains(words), "{command:?}: {code:?} {told}");
            assert!((std::fs::read(&file).unwrap(), search()) == before, "{command:?} touched it");
        }
    };
    sql(&file, "PRAGMA user_version = 99");
    refused("is a ledger of version 99; this program knows versions up to 1");
    std::fs::remove_dir_all(&ledger).unwrap();
    std::fs::create_dir(&ledger).unwrap();
    sql(&file, "CREATE TABLE diary (day TEXT); INSERT INTO diary VALUES ('monday')");
    refused("is another program's database");
    assert_eq!(command(&["audit", "verify", "--json"], &gateway.config()).status.code(), Some(74));
    assert!(!tiles.exists() && !backup.exists());
}
