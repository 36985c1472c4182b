//! A ledger of another user, one that may not be looked into, and folders that hold none.

use crate::provider::Provider;
use crate::restoring::{said, text};
use crate::restoring_again::Follower;
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::delete;
use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Nobody's, as far as this machine knows.
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    std::fs::metadata("/proc/self").unwrap().uid() == 0
}

/// A ledger that has been served and is not any more, with a backup of it.
fn stopped(provider: &Provider) -> (Gateway, PathBuf) {
    let mut gateway = Gateway::start(&provider.url());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let backup = gateway.folder.path().join("backup");
    assert_eq!(said(&command(&["audit", "backup", "--to", text(&backup)], &gateway.config())).0, Some(0));
    (gateway, backup)
}

/// Each file of a folder with its owner, ascending.
fn owners(folder: &Path) -> Vec<(String, u32)> {
    let owner = |file: std::fs::DirEntry| (file.file_name().into_string().unwrap(), file.metadata().unwrap().uid());
    let mut owners: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().map(owner).collect();
    owners.sort();
    owners
}

fn hand_over(ledger: &Path) {
    chown(ledger, Some(NOBODY), Some(NOBODY)).unwrap();
    for file in std::fs::read_dir(ledger).unwrap().flatten() {
        chown(file.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

#[test]
fn another_users_ledger_is_neither_restored_nor_reindexed_by_root() {
    if !is_root() {
        return;
    }
    let provider = Provider::start();
    let (gateway, backup) = stopped(&provider);
    let ledger = gateway.folder.path().join("ledger");
    hand_over(&ledger);
    let before = owners(&ledger);
    assert!(before.iter().all(|(_, owner)| *owner == NOBODY));
    for words in [
        &["audit", "reindex"][..],
        &["audit", "restore", "--from", text(&backup)],
        &["audit", "restore", "--from", text(&backup), "--accept-loss"],
        &["freeze", "--all", "--reason", "x"],
    ] {
        let (code, said) = said(&command(words, &gateway.config()));
        assert!(code == Some(69) && said.contains("belongs to uid 65534: do this as that user"), "{words:?}: {said}");
        assert_eq!(owners(&ledger), before, "{words:?}");
    }
    // Nor is one made for root in that user's folder.
    std::fs::remove_dir_all(&ledger).unwrap();
    chown(gateway.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let (code, said) = said(&command(&["audit", "restore", "--from", text(&backup)], &gateway.config()));
    assert!(code == Some(69) && said.contains("belongs to uid 65534: do this as that user"), "{said}");
    assert!(!ledger.exists());
}

#[test]
fn a_folder_that_may_not_be_looked_into_is_neither_empty_nor_served() {
    if !is_root() {
        return;
    }
    let provider = Provider::start();
    let (gateway, _) = stopped(&provider);
    let (folder, ledger) = (gateway.folder.path(), gateway.folder.path().join("ledger"));
    std::fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&ledger, Permissions::from_mode(0o700)).unwrap();
    let binary = folder.join("binary");
    std::fs::copy(BINARY, &binary).unwrap();
    let as_nobody = |words: &[&str]| {
        let id = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
        let mut command = Command::new("setpriv");
        command.args(id).arg(&binary).args(words).arg("--config").arg(gateway.config());
        said(&command.output().unwrap())
    };
    for words in [
        &["status"][..],
        &["freeze", "--all", "--reason", "x"],
        &["unfreeze", "--all", "--reason", "x"],
        &["audit", "search"],
        &["audit", "verify"],
        &["audit", "checkpoint"],
        &["audit", "prune", "--before", "400d"],
    ] {
        let (code, said) = as_nobody(words);
        assert!(code == Some(69) && said.contains("may not be read by this user"), "{words:?}: {said}");
        assert!(!said.contains("there is no") && !said.contains("holds this ledger"), "{words:?}: {said}");
    }
    // Where the folder is open and a socket was left by a process that died, nothing serves either.
    let mut again =
        Gateway::in_folder(gateway.folder.clone(), &std::fs::read_to_string(gateway.config()).unwrap(), &[]);
    std::fs::set_permissions(&ledger, Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(ledger.join("lock"), Permissions::from_mode(0o644)).unwrap();
    let (code, said) = as_nobody(&["freeze", "--all", "--reason", "x"]);
    let served = format!("process {} holds this ledger", again.process_id());
    assert!(code == Some(69) && said.contains(&served) && said.contains("Permission denied"), "{said}");
    again.kill();
    let (code, said) = as_nobody(&["freeze", "--all", "--reason", "x"]);
    assert!(code == Some(69) && said.contains("nothing serves this ledger"), "{said}");
}

#[test]
fn a_file_in_the_place_of_the_folder_is_named() {
    let provider = Provider::start();
    let (gateway, backup) = stopped(&provider);
    let ledger = gateway.folder.path().join("ledger");
    std::fs::remove_dir_all(&ledger).unwrap();
    std::fs::write(&ledger, "a file").unwrap();
    for words in [
        &["status"][..],
        &["freeze", "--all", "--reason", "x"],
        &["audit", "export"],
        &["audit", "reindex"],
        &["audit", "restore", "--from", text(&backup)],
        &["serve"],
    ] {
        let (code, said) = said(&command(words, &gateway.config()));
        assert!(
            code == Some(69) && said.contains("ledger is not a folder; ledger.path names one"),
            "{words:?}: {said}"
        );
    }
}

#[test]
fn a_backup_that_is_not_there_leaves_no_folder_behind() {
    let provider = Provider::start();
    let (gateway, _) = stopped(&provider);
    let ledger = gateway.folder.path().join("ledger");
    std::fs::remove_dir_all(&ledger).unwrap();
    let missing = gateway.folder.path().join("missing");
    let (code, said) = said(&command(&["audit", "restore", "--from", text(&missing)], &gateway.config()));
    assert!(code == Some(69) && said.contains("there is no such file"), "{said}");
    assert!(!ledger.exists());
}

#[test]
fn a_process_of_any_name_that_holds_the_ledger_serves_it() {
    let provider = Provider::start();
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let renamed = folder.path().join("renamed");
    std::fs::copy(BINARY, &renamed).unwrap();
    let words = format!("shift; exec '{}' \"$@\"", renamed.display());
    let configuration =
        crate::running::configuration(&provider.url(), &[], &crate::running::caller("moderation", TOKEN, ""));
    let mut gateway =
        Gateway::attempt(folder, &configuration, &[], &["sh", "-c", &words, "sh"]).map_err(|(_, log)| log).unwrap();
    let socket = gateway.folder.path().join("ledger/control.sock");
    eventually("it listens", || socket.exists());
    std::fs::remove_file(&socket).unwrap();
    let (code, words) = said(&command(&["status"], &gateway.config()));
    assert!(code == Some(69) && words.contains(&format!("process {}", gateway.process_id())), "{words}");
    // Looking does not disturb: it goes on, and the lock is its own.
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert_eq!(command(&["serve"], &gateway.config()).status.code(), Some(69));
    gateway.kill();
    let (code, words) = said(&command(&["status"], &gateway.config()));
    assert!(code == Some(0) && words.contains("no process serves this ledger"), "{words}");
}

/// Runs a command as a user to whom nothing belongs.
fn as_nobody(gateway: &Gateway, words: &[&str]) -> (Option<i32>, String) {
    let binary = gateway.folder.path().join("binary");
    std::fs::set_permissions(gateway.folder.path(), Permissions::from_mode(0o755)).unwrap();
    std::fs::copy(BINARY, &binary).unwrap();
    let id = [format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"), "--clear-groups".to_owned()];
    said(&Command::new("setpriv").args(id).arg(&binary).args(words).output().unwrap())
}

/// What a user may read to whom nothing belongs.
fn open_to_readers(ledger: &Path, folder: u32) {
    std::fs::set_permissions(ledger, Permissions::from_mode(folder)).unwrap();
    for file in std::fs::read_dir(ledger).unwrap().flatten() {
        std::fs::set_permissions(file.path(), Permissions::from_mode(0o644)).unwrap();
    }
}

#[test]
fn a_copy_of_the_checkpoint_that_may_not_be_looked_for_is_not_taken_for_none() {
    if !is_root() {
        return;
    }
    let provider = Provider::start();
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::set_permissions(elsewhere.path(), Permissions::from_mode(0o700)).unwrap();
    let lines = format!("checkpoint_copy = \"{}\"", elsewhere.path().join("copy").display());
    let text = configuration(&provider.url(), &[("ledger", &lines)], &caller("moderation", TOKEN, ""));
    let mut gateway = Gateway::with(&text);
    assert!(gateway.stop().success());
    open_to_readers(&gateway.folder.path().join("ledger"), 0o777);
    std::fs::set_permissions(gateway.config(), Permissions::from_mode(0o644)).unwrap();
    let config = gateway.config();
    let (code, said) = as_nobody(&gateway, &["audit", "verify", "--config", self::text(&config)]);
    assert!(code == Some(69) && said.contains("copy: Permission denied"), "{said}");
}

#[test]
fn a_ledger_that_nobody_can_write_is_read_as_it_is_and_a_folder_that_one_user_may_not_write_is_named() {
    if !is_root() {
        return;
    }
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    let ledger = gateway.folder.path().join("ledger");
    open_to_readers(&ledger, 0o555);
    let reading = [&["audit", "verify"][..], &["audit", "search"], &["audit", "stats"], &["audit", "export"]];
    for words in reading {
        let (code, said) = as_nobody(&gateway, &[words, &["--ledger", text(&ledger)]].concat());
        assert!(code == Some(69) && said.contains("may not write into"), "{words:?}: {said}");
    }
    let disk = crate::full::SmallDisk::new(32);
    let kept = disk.path().join("ledger");
    crate::restoring::copy_all(&ledger, &kept);
    disk.is_read_only_from_now_on();
    for words in reading {
        let words = [&[BINARY], words, &["--ledger", text(&kept)]].concat();
        let (code, said) = said(&Command::new(words[0]).args(&words[1..]).output().unwrap());
        assert!(code == Some(0), "{words:?}: {said}");
    }
}

#[test]
fn who_follows_a_ledger_that_is_read_as_it_is_is_told_once_it_is_served_elsewhere() {
    if !is_root() {
        return;
    }
    let provider = Provider::start();
    let configuration = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
    let mut gateway = Gateway::with(&configuration);
    assert!(gateway.stop().success());
    let seen = Seen(tempfile::tempdir().unwrap());
    let ledger = gateway.folder.path().join("ledger");
    let mounted = Command::new("mount").args(["--bind", "-o", "ro"]).arg(&ledger).arg(seen.0.path()).status();
    assert!(mounted.unwrap().success());
    let follower = Follower::of(["--ledger", text(seen.0.path())]);
    let again = Gateway::in_folder(gateway.folder.clone(), &configuration, &[]);
    let (code, words) = follower.ended();
    assert!(code == Some(75) && words.contains("a process serves it now"), "{code:?} {words}");
    drop(again);
}

/// A place where a folder is mounted, until this goes.
struct Seen(tempfile::TempDir);

impl Drop for Seen {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}
