//! `audit restore` where it is less simple: a key file elsewhere, files that were copied back by hand, a second loss.

use crate::provider::Provider;
use crate::restoring::{Past, copy_all, exported, exported_length, said, text, verify_receipts};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, command, eventually};
use crate::wire::delete;
use serde_json::{Value, json};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

fn forget(ledger: &Path) {
    for name in ["ledger.db", "tree.db", "search.db"] {
        for end in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(ledger.join(format!("{name}{end}")));
        }
    }
}

fn signed(past: &Past) -> u64 {
    std::fs::read_to_string(&past.elsewhere).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

fn backup(past: &mut Past, name: &str) {
    past.backup = past.gateway.folder.path().join(name);
    let made = command(&["audit", "backup", "--to", text(&past.backup)], &past.config());
    assert_eq!(said(&made).0, Some(0));
}

#[test]
fn with_a_key_file_elsewhere_the_old_key_stays_beside_the_new_one_and_without_it_nothing_goes_on() {
    let provider = Provider::start();
    let mut past = Past::with(&provider, "signing_key_file = \"log-key\"");
    let file = past.gateway.folder.path().join("log-key");
    let old = std::fs::read(&file).unwrap();
    assert!(!past.ledger().join("signing-key").exists());
    std::fs::remove_dir_all(past.ledger()).unwrap();
    let (code, words) = past.restore(&[]);
    assert!(code == Some(1) && words.contains("are lost"), "{words}");
    assert_eq!(std::fs::read(&file).unwrap(), old, "nothing was changed");
    assert_eq!(past.restore(&["--accept-loss"]).0, Some(0));
    assert_eq!(std::fs::read(file.with_extension("1")).unwrap(), old);
    let new = std::fs::read(&file).unwrap();
    assert_ne!(new, old);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!past.ledger().join("signing-key").exists(), "the key is where the configuration says");
    assert!(past.key().starts_with("gateway.example/log/2+"));
    for options in [&[][..], &["--log", "1", "--vkey", &past.old_key]] {
        assert_eq!(past.verify(options).0, Some(0), "{:?}", past.verify(options));
    }
    assert_eq!(past.verify(&["--log", "1", "--vkey", &past.key()]).0, Some(74), "another log's key");

    // Where all of it is in the backup, the log goes on with its key.
    let mut again = past.serve();
    assert_eq!(delete(again.listen, TARGET, TOKEN).status, 200);
    assert!(again.stop().success());
    backup(&mut past, "newer");
    forget(&past.ledger());
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    let (code, words) = past.restore(&[]);
    assert!(code == Some(1) && words.contains("the signing key is missing"), "{words}");
    assert!(!file.exists() && !past.ledger().join("ledger.db").exists(), "nothing was made");
    std::fs::rename(&aside, &file).unwrap();
    let (code, words) = past.restore(&[]);
    assert!(code == Some(0) && words.contains("the log gateway.example/log/2 goes on"), "{words}");
    assert_eq!(std::fs::read(&file).unwrap(), new);
    assert_eq!(past.verify(&[]).0, Some(0), "{:?}", past.verify(&[]));
    assert_eq!(delete(past.serve().listen, TARGET, TOKEN).status, 200);
}

#[test]
fn files_that_were_copied_back_by_hand_are_judged_as_a_backup_is() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    let lost = signed(&past) - exported_length(&past.backup) as u64;
    let (kept, elsewhere) = (past.gateway.folder.path().join("kept"), std::fs::read(&past.elsewhere).unwrap());
    copy_all(&past.ledger(), &kept);
    let restore = |options: &[&str]| said(&command(&[&["audit", "restore"], options].concat(), &past.config()));
    for leftovers in [false, true] {
        std::fs::remove_dir_all(past.ledger()).unwrap();
        copy_all(&kept, &past.ledger());
        let _ = std::fs::remove_file(past.elsewhere.with_extension("1"));
        std::fs::write(&past.elsewhere, &elsewhere).unwrap();
        if !leftovers {
            forget(&past.ledger());
        }
        // With leftovers: the killed process's write-ahead log, which is of the file that was replaced.
        assert!(!leftovers || std::fs::metadata(past.ledger().join("ledger.db-wal")).unwrap().len() > 0);
        std::fs::copy(&past.backup, past.ledger().join("ledger.db")).unwrap();
        let (code, words) = restore(&[]);
        if code == Some(0) {
            panic!("{leftovers}: {words}");
        }
        if leftovers && code == Some(74) {
            assert_eq!(restore(&["--accept-loss"]).0, Some(74), "what is mixed of two files is not put back");
            continue;
        }
        assert!(code == Some(1) && words.contains("are lost"), "{leftovers}: {code:?} {words}");
        assert!(words.contains(&format!("entries {} to", signed(&past) - lost)), "{words}");
        let (code, words) = restore(&["--accept-loss"]);
        assert_eq!(code, Some(0), "{leftovers}: {words}");
        assert_eq!(exported(&past.config(), &[]).len(), 5);
        for options in [&[][..], &["--log", "1", "--vkey", &past.old_key]] {
            assert_eq!(past.verify(options).0, Some(0), "{leftovers}: {:?}", past.verify(options));
        }
        assert_eq!(verify_receipts(&past.receipts, &past.old_key), [Some(0); 2]);
    }
}

#[test]
fn an_older_copy_of_the_whole_folder_does_not_go_on_by_itself_and_a_new_log_begins_after_it() {
    let provider = Provider::start();
    let mut past = Past::new(&provider);
    let mut again = past.serve();
    assert!(again.stop().success());
    let kept = past.gateway.folder.path().join("kept");
    copy_all(&past.ledger(), &kept);
    past.gateway = past.serve();
    assert_eq!(delete(past.gateway.listen, TARGET, TOKEN).status, 200);
    assert!(past.gateway.stop().success());
    let newest = signed(&past);
    std::fs::remove_dir_all(past.ledger()).unwrap();
    copy_all(&kept, &past.ledger());
    let (code, words) = said(&command(&["serve"], &past.config()));
    assert_eq!(code, Some(74), "{words}");
    let restore = |options: &[&str]| said(&command(&[&["audit", "restore"], options].concat(), &past.config()));
    let (code, words) = restore(&[]);
    assert!(code == Some(1) && words.contains(&format!("to {} are lost", newest - 1)), "{words}");
    assert_eq!(restore(&["--accept-loss"]).0, Some(0));
    let begun = exported(&past.config(), &[]);
    assert_eq!(begun[0]["previous"]["signed"], json!(newest));
    for options in [&[][..], &["--log", "1", "--vkey", &past.old_key]] {
        assert_eq!(past.verify(options).0, Some(0), "{:?}", past.verify(options));
    }
    assert_eq!(delete(past.serve().listen, TARGET, TOKEN).status, 200);
}

/// Deletes and proves that, backs up, deletes more, is killed once all is signed. Returns where the receipts are.
fn lose_more(past: &mut Past, number: u32) -> std::path::PathBuf {
    let mut gateway: Gateway = past.serve();
    let id = delete(gateway.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    let receipts = past.gateway.folder.path().join(format!("receipts-{number}"));
    let proven = command(&["audit", "prove", &id, "--out", text(&receipts)], &past.config());
    assert_eq!(said(&proven).0, Some(0), "{proven:?}");
    let freeze = ["freeze", "--session", "sess9", "--reason", "an incident"];
    assert_eq!(said(&command(&freeze, &past.config())).0, Some(0));
    backup(past, &format!("backup-{number}"));
    assert_eq!(delete(gateway.listen, "/sess1/groups/9@g.us/picture", TOKEN).status, 200);
    let length = gateway.entries().len() as u64;
    eventually("all of it is signed", || signed(past) >= length);
    gateway.kill();
    forget(&past.ledger());
    receipts
}

#[test]
fn who_loses_entries_twice_has_three_logs_and_each_is_read_and_verified_with_its_own_key() {
    let provider = Provider::start();
    let mut past = Past::new(&provider);
    forget(&past.ledger());
    assert_eq!(past.restore(&["--accept-loss"]).0, Some(0));
    let second_key = past.key();
    let mut receipts = vec![past.receipts.clone(), lose_more(&mut past, 2)];
    let second = std::fs::read_to_string(&past.elsewhere).unwrap();
    let left = exported_length(&past.backup) as u64;
    assert_eq!(past.restore(&[]).0, Some(1));
    let (code, words) = past.restore(&["--accept-loss", "--json"]);
    assert_eq!(code, Some(0), "{words}");
    let told: Value = serde_json::from_str(&words).unwrap();
    assert_eq!((&told["origin"], &told["old_log"]), (&json!("gateway.example/log/3"), &json!(2)), "{told}");
    let begun = exported(&past.config(), &[]);
    let previous = &begun[0]["previous"];
    assert_eq!((&previous["origin"], &previous["restored"]), (&json!("gateway.example/log/2"), &json!(left)));
    assert_eq!(previous["checkpoint"], json!(second));
    // What was open or unknown in the first log goes on in the third, and so does what was frozen in the second.
    assert_eq!((&previous["carried"], &previous["freezes"]), (&json!(2), &json!(1)));
    assert_eq!(begun[1]["carried"]["origin"], json!("gateway.example/log/2"));
    let freeze = begun.last().unwrap();
    assert_eq!((&freeze["kind"], &freeze["session"]), (&json!("freeze"), &json!("sess9")));

    let mut again = past.serve();
    let id = delete(again.listen, TARGET, TOKEN).header("x-request-id").unwrap().to_owned();
    receipts.push(past.gateway.folder.path().join("receipts-3"));
    let proven = command(&["audit", "prove", &id, "--out", text(&receipts[2])], &past.config());
    assert_eq!(said(&proven).0, Some(0), "{proven:?}");
    let status = command(&["status", "--json"], &past.config());
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["freezes"][0]["session"], json!("sess9"), "it holds on");
    assert!(again.stop().success());

    let keys = [past.old_key.clone(), second_key, past.key()];
    for (number, options) in [&["--log", "1"][..], &["--log", "2"], &[]].into_iter().enumerate() {
        let entries = exported(&past.config(), options);
        assert!(entries.iter().zip(0..).all(|(entry, seq)| entry["seq"] == seq) && entries.len() > 3, "{options:?}");
        for (other, key) in keys.iter().enumerate() {
            let verified = past.verify(&[options, &["--vkey", key]].concat());
            assert_eq!(verified.0, Some(if other == number { 0 } else { 74 }), "{options:?}: {}", verified.1);
            let expected = if other == number { Some(0) } else { Some(1) };
            assert_eq!(verify_receipts(&receipts[number], key), [expected; 2], "receipts of {options:?}, key {other}");
        }
    }
    assert_eq!(
        keys.each_ref().map(|key| key.split('+').next().unwrap()),
        ["gateway.example/log", "gateway.example/log/2", "gateway.example/log/3"]
    );
}

#[test]
fn who_follows_a_log_that_another_one_replaces_is_told_and_so_is_who_goes_on_behind_its_end() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    let follower = Follower::of(["--config", text(&past.config())]);
    assert_eq!(past.restore(&["--accept-loss"]).0, Some(0));
    let (code, words) = follower.ended();
    assert!(code == Some(75) && words.contains("was removed or replaced"), "{code:?} {words}");
    drop(past.serve());
    let length = exported(&past.config(), &[]).len();
    let export = |from: usize| said(&command(&["audit", "export", "--from", &from.to_string()], &past.config()));
    assert_eq!(export(length), (Some(0), String::new()), "an export that is up to date");
    let (code, words) = export(length + 1);
    assert!(code == Some(1) && words.contains(&format!("has {length} entries")), "{code:?} {words}");
}

/// `audit tail -f`, which ends with the test.
pub struct Follower(Child);

impl Follower {
    /// Of the ledger that these options name; it has begun to follow.
    pub fn of(ledger: [&str; 2]) -> Self {
        let mut tail = Command::new(BINARY);
        tail.args(["audit", "tail", "-f"]).args(ledger).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut follower = Self(tail.spawn().unwrap());
        follower.0.stdout.as_mut().unwrap().read_exact(&mut [0; 1]).unwrap();
        follower
    }

    /// Waits until it ends by itself; how, and what it says.
    pub fn ended(mut self) -> (Option<i32>, String) {
        let mut code = None;
        eventually("it ends", || {
            code = self.0.try_wait().unwrap().map(|status| status.code());
            code.is_some()
        });
        let mut words = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut words).unwrap();
        (code.flatten(), words)
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_older_log_whose_tree_is_lost_is_not_held_against_the_key_of_the_newer_one() {
    let provider = Provider::start();
    let past = Past::new(&provider);
    let kept = past.elsewhere.with_file_name("kept");
    std::fs::copy(&past.elsewhere, &kept).unwrap();
    std::fs::remove_file(past.ledger().join("tree.db")).unwrap();
    assert_eq!(past.restore(&["--accept-loss"]).0, Some(0));
    let _ = std::fs::remove_file(past.ledger().join("1/tree.db"));
    let (code, words) = past.verify(&["--log", "1", "--checkpoint", text(&kept)]);
    assert!(code == Some(69) && words.contains("--vkey"), "{code:?} {words}");
}
