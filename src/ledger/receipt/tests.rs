//! Receipts that verify, and all kinds that must not.

use super::*;
use crate::ledger::checkpoint::{self, note::SigningKey};
use crate::ledger::tree::memory::Memory;

fn entry(n: u64) -> Vec<u8> {
    format!("{{\"seq\":{n}}}").into_bytes()
}

fn key(name: &str) -> SigningKey {
    SigningKey::from_seed(Origin::parse(name).expect("an origin"), [7; 32])
}

struct Log {
    memory: Memory,
    note: String,
    key: VerifyingKey,
}

impl Log {
    fn of(size: u64) -> Self {
        let leaves: Vec<Hash> = (0..size).map(|n| leaf_hash(&entry(n))).collect();
        let (memory, tree) = Memory::of(&leaves);
        let key = key("gateway.example/log");
        Self { memory, note: checkpoint::sign(&key, &tree.head()), key: key.verifying_key() }
    }

    fn receipt(&self, index: u64) -> String {
        issue(&entry(index), index, &self.note, &self.key, &self.memory).expect("a receipt")
    }
}

#[test]
fn every_entry_gets_a_receipt_that_verifies_for_it_alone() {
    for size in [1, 2, 7, 300] {
        let log = Log::of(size);
        for index in 0..size {
            let receipt = log.receipt(index);
            let proven = verify(&entry(index), &receipt, &log.key).expect("it verifies");
            assert_eq!((proven.origin.as_str(), proven.index, proven.size), ("gateway.example/log", index, size));
            assert_eq!(verify(&entry(index + 1), &receipt, &log.key), Err(ReceiptFault::Root(index)));
        }
    }
}

#[test]
fn a_receipt_is_spelt_as_the_specification_spells_it() {
    let log = Log::of(3);
    let sibling = leaf_hash(&entry(0));
    let right = leaf_hash(&entry(2));
    let expected = format!("c2sp.org/tlog-proof@v1\nindex 1\n{sibling}\n{right}\n\n{}", log.note);
    assert_eq!(log.receipt(1), expected);
    assert_eq!(Log::of(1).receipt(0).split_once("\n\n").expect("a head").0, "c2sp.org/tlog-proof@v1\nindex 0");
}

#[test]
fn no_changed_bit_passes() {
    let log = Log::of(5);
    let receipt = log.receipt(2);
    for place in 0..receipt.len() {
        for bit in 0..8 {
            let mut forged = receipt.clone().into_bytes();
            forged[place] ^= 1 << bit;
            if let Ok(forged) = String::from_utf8(forged) {
                assert!(verify(&entry(2), &forged, &log.key).is_err(), "byte {place}, bit {bit}: {forged}");
            }
        }
        if receipt.is_char_boundary(place) {
            assert!(verify(&entry(2), &receipt[..place], &log.key).is_err(), "cut at {place}");
        }
    }
}

#[test]
fn a_fault_names_what_does_not_fit() {
    let log = Log::of(5);
    let receipt = log.receipt(2);
    let fault = |from: &str, to: &str| {
        let changed = receipt.replacen(from, to, 1);
        assert_ne!(changed, receipt, "{from}");
        verify(&entry(2), &changed, &log.key).expect_err("a fault").to_string()
    };
    assert_eq!(fault("@v1", "@v2"), "line 1 of the receipt is not `c2sp.org/tlog-proof@v1`");
    for index in ["index 02", "index +2", "index -2", "index ", "index  2", "Index 2", "index 18446744073709551616"] {
        assert_eq!(fault("index 2", index), "line 2 of the receipt is not `index` and a number", "{index}");
    }
    assert_eq!(fault("index 2\n", "extra !\nindex 2\n"), "line 2 of the receipt is not `extra` and base64");
    assert_eq!(fault("index 2\n", "extra AAAA\n"), "line 3 of the receipt is not `index` and a number");
    assert_eq!(fault("index 2\n", "index 2\nAAAA\n"), "line 3 of the receipt is not a SHA-256 hash in base64");
    assert_eq!(fault("index 2", "index 5"), "the receipt is for entry 5, but its checkpoint covers 5 entries");
    let root = log.note.lines().nth(2).expect("a root");
    assert_eq!(
        fault("index 2\n", &format!("index 2\n{root}\n")),
        "the path in the receipt has 4 hashes, and one to this index has 3"
    );
    assert!(fault("index 2", "index 3").contains("do not lead to the signed root: this is not entry 3"));
    assert!(fault("\n5\n", "\n6\n").contains("the checkpoint does not fit its signature"));
    // Without the first empty line the checkpoint's is taken for it, and its lines for the path.
    assert_eq!(fault("\n\n", "\n"), "line 6 of the receipt is not a SHA-256 hash in base64");
    let other = key("gateway.example/other").verifying_key();
    let words = verify(&entry(2), &receipt, &other).expect_err("another key").to_string();
    assert_eq!(words, format!("the checkpoint is not signed with the key {other}"));
}

#[test]
fn extra_data_is_passed_over() {
    let log = Log::of(5);
    let receipt = log.receipt(2).replacen("index", "extra b2J2aW91c2x5IGZha2U=\nindex", 1);
    assert_eq!(verify(&entry(2), &receipt, &log.key).map(|proven| proven.index), Ok(2));
}

#[test]
fn how_much_is_read_is_bounded() {
    let log = Log::of(5);
    let root = log.note.lines().nth(2).expect("a root");
    let long =
        |count: usize| log.receipt(2).replacen('\n', &format!("\nindex 2\n{}", format!("{root}\n").repeat(count)), 1);
    assert_eq!(verify(&entry(2), &long(12_000), &log.key), Err(ReceiptFault::TooLong));
    let fault = verify(&entry(2), &long(64), &log.key).expect_err("too long a path");
    assert_eq!(fault, ReceiptFault::Line(66, "an empty line, and no path is longer"));
}

#[test]
fn what_would_not_verify_is_not_issued() {
    let mut log = Log::of(300);
    let issued = |log: &Log, entry: &[u8], index| issue(entry, index, &log.note, &log.key, &log.memory);
    assert_eq!(issued(&log, b"another", 3), Err(IssueFault::Receipt(ReceiptFault::Root(3))));
    assert_eq!(issued(&log, &entry(300), 300), Err(IssueFault::Read(ReadError::Beyond)));
    log.memory.kept.get_mut(&(0, 0)).expect("a tile")[50] ^= 1;
    assert_eq!(issued(&log, &entry(3), 3), Err(IssueFault::Receipt(ReceiptFault::Root(3))));
    log.memory.kept.remove(&(0, 0));
    assert!(matches!(issued(&log, &entry(3), 3), Err(IssueFault::Read(ReadError::Tiles(_)))));
    log.note = log.note.replacen("300", "301", 1);
    assert!(matches!(issued(&log, &entry(3), 3), Err(IssueFault::Receipt(ReceiptFault::Checkpoint(_)))));
}
