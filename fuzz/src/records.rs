//! What is read of a ledger: entries, bundles of them, paths of tiles, keys, checkpoints and receipts. Nothing is taken
//! for signed or proven but what was.

use std::cell::OnceCell;
use wasend_gateway::clock::Timestamp;
use wasend_gateway::id::Origin;
use wasend_gateway::ledger::checkpoint::note::{SigningKey, VerifyingKey};
use wasend_gateway::ledger::checkpoint::{Checkpoint, sign};
use wasend_gateway::ledger::entry::encode_carried;
use wasend_gateway::ledger::glance::Glance;
use wasend_gateway::ledger::receipt::verify;
use wasend_gateway::ledger::tree::bundle;
use wasend_gateway::ledger::tree::tile::Resource;
use wasend_gateway::ledger::tree::{Head, leaf_hash, node_hash};

/// The seed is 32 times the byte 7: obviously fake.
const KEY: &str = "PRIVATE+KEY+example.test/log+fa97f612+AQcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcH";
const ENTRIES: [&str; 2] = [
    r#"{"v":1,"seq":0,"time":"2026-11-24T08:00:00.000000Z","kind":"stop"}"#,
    r#"{"v":1,"seq":1,"time":"2026-11-24T08:00:01.000000Z","kind":"stop"}"#,
];

/// A log of two entries, its key, and what was signed of it.
struct Log {
    key: VerifyingKey,
    heads: [Head; 2],
    /// Both checkpoints and a receipt for each entry: what the seeds are made of.
    texts: Vec<String>,
}

thread_local! {
    static LOG: OnceCell<Log> = const { OnceCell::new() };
}

impl Log {
    fn new() -> Self {
        let key = SigningKey::parse(KEY).expect("a key");
        let leaves = ENTRIES.map(|entry| leaf_hash(entry.as_bytes()));
        let heads = [Head { size: 1, root: leaves[0] }, Head { size: 2, root: node_hash(&leaves[0], &leaves[1]) }];
        let mut texts: Vec<String> = heads.iter().map(|head| sign(&key, head)).collect();
        for (index, other) in [(0, leaves[1]), (1, leaves[0])] {
            texts.push(format!("c2sp.org/tlog-proof@v1\nindex {index}\n{other}\n\n{}", texts[1]));
        }
        Self { key: key.verifying_key(), heads, texts }
    }
}

/// The texts that were signed, for seeds.
pub fn signed() -> Vec<String> {
    Log::new().texts
}

fn entry(bytes: &[u8]) {
    let Ok(glance) = Glance::at(0, bytes) else { return };
    assert!(glance.intended().is_none() || glance.decision() == Some("allowed"));
    assert!(!glance.bare_group().is_empty() || glance.group.is_empty() || &*glance.group == "@g.us");
    let origin = Origin::parse("example.test/log").expect("an origin");
    let Some(carried) = encode_carried(9, Timestamp::from_micros(0), bytes, &origin, 0) else { return };
    assert!(carried.len() <= 65_535);
    let again =
        Glance::at(9, &carried).unwrap_or_else(|fault| panic!("{fault}: {}", String::from_utf8_lossy(&carried)));
    assert!(&*again.time == "1970-01-01T00:00:00.000000Z", "{}", String::from_utf8_lossy(&carried));
}

fn text(text: &str, log: &Log) {
    if let Ok(checkpoint) = Checkpoint::verify(text, &log.key) {
        assert!(log.heads.contains(checkpoint.head()), "nobody signed this: {text:?}");
    }
    for (index, entry) in (0..).zip(ENTRIES) {
        if let Ok(proven) = verify(entry.as_bytes(), text, &log.key) {
            assert_eq!((proven.index, proven.size), (index, 2), "another entry was proven: {text:?}");
        }
    }
    assert!(verify(b"{}", text, &log.key).is_err(), "an entry that is not there was proven: {text:?}");
    if let Ok(key) = VerifyingKey::parse(text) {
        assert_eq!(VerifyingKey::parse(&key.to_string()), Ok(key), "{text:?}");
    }
    if let Ok(key) = SigningKey::parse(text) {
        assert_eq!(SigningKey::parse(key.to_line().expose()).map(|key| key.verifying_key()), Ok(key.verifying_key()));
    }
    if let Some(resource) = Resource::parse(text) {
        assert_eq!(resource.to_string(), text);
    }
}

/// Holds the bytes as each of them.
pub fn hold(bytes: &[u8]) {
    entry(bytes);
    if let Some(entries) = bundle::entries(bytes) {
        let mut again = Vec::new();
        assert!(entries.iter().all(|entry| bundle::push(&mut again, entry)) && again == bytes);
    }
    if let Ok(read) = std::str::from_utf8(bytes) {
        LOG.with(|log| text(read, log.get_or_init(Log::new)));
    }
}
