//! A ledger of another user.

use crate::provider::Provider;
use crate::restoring::{said, text};
use crate::running::{Gateway, TARGET, TOKEN, command};
use crate::wire::delete;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};

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
