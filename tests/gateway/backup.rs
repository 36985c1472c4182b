//! `audit backup`: a copy beside a running gateway and without one, and the way back.

use crate::full::SmallDisk;
use crate::promises::{ask, connect};
use crate::provider::Provider;
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::delete;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

fn backup(config: &Path, to: &Path) -> Output {
    command(&["audit", "backup", "--json", "--to", to.to_str().unwrap()], config)
}

fn told(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A ledger of its own that the backup was put back into, under the same configuration; `options` for the restore.
fn put_back(gateway: &Gateway, copy: &Path, options: &[&str]) -> (Arc<tempfile::TempDir>, String) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let ledger = folder.path().join("ledger");
    std::fs::create_dir(&ledger).unwrap();
    std::fs::copy(gateway.folder.path().join("ledger/signing-key"), ledger.join("signing-key")).unwrap();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    for file in ["gateway.toml", "key"] {
        std::fs::copy(gateway.folder.path().join(file), folder.path().join(file)).unwrap();
    }
    let from = ["audit", "restore", "--from", copy.to_str().unwrap()];
    let done = command(&[&from, options].concat(), &folder.path().join("gateway.toml"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    (folder, text)
}

fn export(config: &Path) -> Vec<u8> {
    command(&["audit", "export"], config).stdout
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().flatten();
    names.map(|file| file.file_name().into_string().unwrap()).collect()
}

#[test]
fn a_backup_beside_deletions_holds_all_that_was_answered_and_refuses_none() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let (stop, answered, address) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)), gateway.listen);
    let callers: Vec<_> = (0..2)
        .map(|_| {
            let (stop, answered) = (stop.clone(), answered.clone());
            std::thread::spawn(move || {
                let mut stream = connect(address).unwrap();
                while !stop.load(Ordering::SeqCst) {
                    let heard = ask(&mut stream).expect("an answer");
                    assert_eq!((heard.status, heard.warned), (200, false), "{heard:?}");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    eventually("there is more than one step to copy", || answered.load(Ordering::SeqCst) > 1_200);
    for round in 0..3 {
        let before = answered.load(Ordering::SeqCst);
        let copy = gateway.folder.path().join(format!("copy-{round}"));
        let told = told(&backup(&gateway.config(), &copy));
        eventually("deletions go on", || answered.load(Ordering::SeqCst) > before);
        let (folder, _) = put_back(&gateway, &copy, &["--accept-loss"]);
        let old = command(&["audit", "export", "--log", "1"], &folder.path().join("gateway.toml")).stdout;
        let copied: Vec<Value> =
            String::from_utf8(old).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(told["entries"], copied.len());
        let outcomes = copied.iter().filter(|entry| entry["kind"] == "outcome").count();
        assert!(outcomes >= before, "{outcomes} of {before} that were answered");
        assert!(told["checkpoint_size"].as_u64().is_some_and(|size| size > 0 && size <= copied.len() as u64), "{told}");
    }
    stop.store(true, Ordering::SeqCst);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
}

#[test]
fn a_backup_that_was_put_back_serves_and_is_a_prefix_of_the_original() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    for _ in 0..3 {
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    }
    let open = gateway.send();
    eventually("it is recorded", || gateway.of_kind("intent").len() == 4);
    let beside = gateway.folder.path().join("beside");
    let checkpoint = |name: &str| {
        let file = gateway.folder.path().join(name);
        std::fs::write(&file, command(&["audit", "checkpoint"], &gateway.config()).stdout).unwrap();
        file
    };
    eventually("something is signed", || command(&["audit", "checkpoint"], &gateway.config()).status.success());
    let signed_before = checkpoint("signed-before");
    told(&backup(&gateway.config(), &beside));
    drop(open);
    assert!(gateway.stop().success());
    let after = gateway.folder.path().join("after");
    let all = told(&backup(&gateway.config(), &after));
    let original = export(&gateway.config());
    assert_eq!(all["entries"], gateway.entries().len());
    assert_eq!(all["checkpoint_size"], all["entries"], "the last checkpoint covers a ledger that was closed");
    let signed_after = gateway.folder.path().join("signed-after");
    std::fs::write(&signed_after, command(&["audit", "checkpoint"], &gateway.config()).stdout).unwrap();
    for (copy, signed) in [(&beside, &signed_before), (&after, &signed_after)] {
        assert_eq!(std::fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
        let (folder, text) = put_back(&gateway, copy, &["--checkpoint", signed.to_str().unwrap()]);
        let config = folder.path().join("gateway.toml");
        let restored = export(&config);
        assert!(!restored.is_empty() && original.starts_with(&restored));
        let mut again = Gateway::in_folder(folder, &text, &[]);
        assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
        assert!(export(&config).starts_with(&restored), "it goes on from there");
        let of = |kind: &str| again.of_kind(kind).len();
        assert_eq!(of("intent"), of("outcome"), "what was under way has an outcome");
        assert!(again.stop().success());
    }
}

#[test]
fn a_backup_overwrites_nothing_and_needs_a_folder_and_a_ledger() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let place = tempfile::tempdir().unwrap();
    let there = place.path().join("there");
    std::fs::write(&there, "mine").unwrap();
    let nowhere = place.path().join("no/folder");
    let within = gateway.folder.path().join("ledger/copy.db");
    for (to, words) in
        [(&there, "is there already"), (&nowhere, "there is no folder"), (&within, "the ledger's own folder")]
    {
        let output = backup(&gateway.config(), to);
        assert_eq!(output.status.code(), Some(64));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words));
    }
    assert_eq!(std::fs::read_to_string(&there).unwrap(), "mine");
    std::fs::write(place.path().join("gateway.toml"), "[ledger]\npath = \"none\"\n").unwrap();
    assert_eq!(backup(&place.path().join("gateway.toml"), &place.path().join("new")).status.code(), Some(69));
    assert_eq!(names(place.path()).len(), 2, "{:?}", names(place.path()));
}

#[test]
fn a_ledger_that_is_not_what_was_signed_has_no_backup() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let ledger = gateway.folder.path().join("ledger/ledger.db");
    let change = "UPDATE entry SET bytes = CAST(replace(CAST(bytes AS TEXT), 'deleted', 'refused') AS BLOB)";
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()";
    for (sql, words) in [(change, "not what was signed"), ("DELETE FROM entry WHERE seq = 1", "has no entry 1")] {
        let done = Command::new("python3").args(["-c", script]).arg(&ledger).arg(sql).status();
        assert!(done.unwrap().success());
        let place = tempfile::tempdir().unwrap();
        let output = backup(&gateway.config(), &place.path().join("copy"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(74) && said.contains(words), "{said}");
        assert!(names(place.path()).is_empty(), "{:?}", names(place.path()));
    }
}

#[test]
fn a_backup_that_finds_no_room_leaves_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let mut stream = connect(gateway.listen).unwrap();
    for _ in 0..50 {
        assert_eq!(ask(&mut stream).expect("an answer").status, 200);
    }
    let disk = SmallDisk::new(1);
    for pages in [0, 1, 4, 9] {
        disk.fill(pages);
        let output = backup(&gateway.config(), &disk.path().join("copy"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(69) && said.contains("no room for the backup"), "{pages}: {said}");
        assert_eq!(names(disk.path()), ["filler"]);
        disk.empty();
    }
    told(&backup(&gateway.config(), &disk.path().join("copy")));
}

#[test]
fn a_backup_that_is_older_than_the_checkpoint_elsewhere_is_put_back_only_by_who_accepts_the_loss() {
    let provider = Provider::start();
    let place = tempfile::tempdir().unwrap();
    let elsewhere = place.path().join("checkpoint");
    let sections = [("ledger", format!("checkpoint_copy = \"{}\"", elsewhere.display()))];
    let sections = sections.each_ref().map(|(section, lines)| (*section, lines.as_str()));
    let mut gateway = Gateway::with(&configuration(&provider.url(), &sections, &caller("moderation", TOKEN, "")));
    let copy = place.path().join("copy");
    told(&backup(&gateway.config(), &copy));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let restore = ["audit", "restore", "--from", copy.to_str().unwrap()];
    let refused = command(&restore, &gateway.config());
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(1) && said.contains("are lost"), "{said}");
    let (folder, text) = put_back(&gateway, &copy, &["--accept-loss"]);
    assert!(elsewhere.with_extension("1").exists(), "the old log's checkpoint is kept");
    let mut again = Gateway::in_folder(folder, &text, &[]);
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert!(again.stop().success() && elsewhere.exists());
}

#[test]
fn it_says_how_to_put_it_back() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let to = gateway.folder.path().join("copy");
    let said = Command::new(BINARY)
        .args(["audit", "backup", "--to"])
        .arg(&to)
        .arg("--config")
        .arg(gateway.config())
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    for words in ["entries", "verified", "stop `serve`", "audit restore --from", "--accept-loss", "signing-key"] {
        assert!(text.contains(words), "{words}: {text}");
    }
}
