//! Go's `x/mod/sumdb` on what is written here: tiles, checkpoints, keys, receipts (tests/proof).

use crate::id::Origin;
use crate::ledger::checkpoint::{self, note::SigningKey};
use crate::ledger::receipt;
use crate::ledger::tree::memory::Memory;
use crate::ledger::tree::proof::Prover;
use crate::ledger::tree::tile::{Bundle, Tile};
use crate::ledger::tree::{Hash, Head, Tree, bundle, leaf_hash};
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

const SEED: [u8; 32] = [7; 32];

/// What the program printed, or why it said no.
fn go(arguments: &[&str]) -> Result<serde_json::Value, String> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/proof-check");
    assert!(Path::new(program).exists(), "{program} is not built: `make test` builds it (tests/setup.sh)");
    let done = Command::new(program).args(arguments).output().expect("it runs");
    match done.status.code() {
        Some(0) => Ok(serde_json::from_slice(&done.stdout).expect("a line of JSON")),
        Some(1) => Err(String::from_utf8(done.stderr).expect("words")),
        _ => panic!("{done:?}"),
    }
}

fn key() -> SigningKey {
    SigningKey::from_seed(Origin::parse("gateway.example/log").expect("an origin"), SEED)
}

fn entry(n: u64) -> Vec<u8> {
    format!("{{\"v\":1,\"seq\":{n},\"kind\":\"obviously fake\"}}").into_bytes()
}

fn write(folder: &Path, path: &str, bytes: &[u8]) {
    let path = folder.join(path);
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("created");
    std::fs::write(path, bytes).expect("written");
}

/// A log of `size` entries, as files that a static server could serve.
fn published(size: u64) -> (TempDir, Memory, Tree) {
    let leaves: Vec<Hash> = (0..size).map(|n| leaf_hash(&entry(n))).collect();
    let (memory, tree) = Memory::of(&leaves);
    let folder = tempfile::tempdir().expect("a folder");
    for ((level, index), bytes) in &memory.kept {
        let tile = Tile::in_tree(*level, *index, size).expect("a tile of this tree");
        write(folder.path(), &tile.to_string(), bytes);
        if *level == 0 {
            let mut contents = Vec::new();
            let first = index * 256;
            assert!((first..first + u64::from(tile.width())).all(|n| bundle::push(&mut contents, &entry(n))));
            let bundle = Bundle::new(*index, tile.width()).expect("a bundle");
            write(folder.path(), &bundle.to_string(), &contents);
        }
    }
    write(folder.path(), "checkpoint", checkpoint::sign(&key(), &tree.head()).as_bytes());
    (folder, memory, tree)
}

fn verify_tiles(folder: &TempDir, more: &[&str]) -> Result<serde_json::Value, String> {
    let vkey = key().verifying_key().to_string();
    go(&[&["verify-tiles", folder.path().to_str().expect("a path"), &vkey], more].concat())
}

#[test]
fn go_makes_the_same_keys_and_notes_of_a_seed() {
    let head = Head { size: 1, root: leaf_hash(b"obviously fake") };
    let body = format!("gateway.example/log\n1\n{}\n", head.root);
    let made = go(&["sign", "gateway.example/log", &"07".repeat(32), &body]).expect("signed");
    assert_eq!(made["skey"], *key().to_line().expose());
    assert_eq!(made["vkey"], key().verifying_key().to_string());
    assert_eq!(made["note"], checkpoint::sign(&key(), &head));
}

#[test]
fn go_verifies_the_tiles_of_small_and_large_logs() {
    for size in [0, 1, 255, 256, 257, 1_000, 65_536 + 300] {
        let (folder, ..) = published(size);
        let said = verify_tiles(&folder, &[]);
        assert_eq!(said, Ok(serde_json::json!({ "size": size, "entries": size })), "size {size}");
    }
}

#[test]
fn go_finds_a_flipped_bit_anywhere_in_the_log() {
    let (folder, ..) = published(600);
    for (path, words) in [
        ("tile/0/001", "the tiles do not fit"),
        ("tile/0/002.p/88", "the tiles do not fit"),
        ("tile/1/000.p/2", "the tiles do not fit"),
        ("tile/entries/001", "is not the one that was signed"),
        ("checkpoint", "the checkpoint"),
    ] {
        let whole = std::fs::read(folder.path().join(path)).expect("a file");
        let mut changed = whole.clone();
        changed[40] ^= 1;
        write(folder.path(), path, &changed);
        let said = verify_tiles(&folder, &[]).expect_err(path);
        assert!(said.contains(words), "{path}: {said}");
        write(folder.path(), path, &whole);
    }
    assert!(verify_tiles(&folder, &[]).is_ok());
}

#[test]
fn go_allows_what_is_pruned_to_be_gone_and_nothing_else() {
    let (folder, ..) = published(600);
    std::fs::remove_file(folder.path().join("tile/entries/000")).expect("removed");
    let said = verify_tiles(&folder, &[]).expect_err("it is gone");
    assert!(said.contains("tile/entries/000: not there"), "{said}");
    assert!(verify_tiles(&folder, &["--pruned-below", "255"]).is_err());
    let said = verify_tiles(&folder, &["--pruned-below", "256"]);
    assert_eq!(said, Ok(serde_json::json!({ "size": 600, "entries": 344 })));
}

#[test]
fn go_verifies_receipts_for_the_entry_alone() {
    let (folder, memory, tree) = published(65_536 + 300);
    let note = checkpoint::sign(&key(), &tree.head());
    let vkey = key().verifying_key();
    let place = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    for index in [0, 1, 255, 256, 65_535, 65_536, 65_835] {
        let text = receipt::issue(&entry(index), index, &note, &vkey, &memory).expect("a receipt");
        write(folder.path(), "receipt", text.as_bytes());
        write(folder.path(), "entry", &entry(index));
        let said = go(&["verify-receipt", &place("entry"), &place("receipt"), &vkey.to_string()]);
        assert_eq!(said, Ok(serde_json::json!({ "index": index, "size": 65_836 })));
        write(folder.path(), "entry", &entry(index + 1));
        let said = go(&["verify-receipt", &place("entry"), &place("receipt"), &vkey.to_string()]);
        assert!(said.as_ref().is_err_and(|words| words.contains("is not the one at index")), "{said:?}");
    }
}

#[test]
fn go_verifies_that_a_log_continues_an_older_one() {
    let (folder, memory, tree) = published(1_000);
    let vkey = key().verifying_key().to_string();
    let place = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
    let mut prover = Prover::new(&memory, tree.size()).expect("a size");
    for old in [1, 255, 256, 257, 512, 999, 1_000] {
        let head = Head { size: old, root: prover.root(old).expect("a root") };
        let path: String = prover.consistency(old).expect("a proof").iter().map(|hash| format!("{hash}\n")).collect();
        write(folder.path(), "path", path.as_bytes());
        for (root, holds) in [(head.root, true), (leaf_hash(b"another history"), false)] {
            write(folder.path(), "older", checkpoint::sign(&key(), &Head { size: old, root }).as_bytes());
            let said = go(&["verify-consistency", &place("older"), &place("checkpoint"), &place("path"), &vkey]);
            assert_eq!(said.is_ok(), holds, "{old}: {said:?}");
        }
    }
}
