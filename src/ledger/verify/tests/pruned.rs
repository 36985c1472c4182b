//! A log whose beginning was pruned, and what somebody could do to make one look so.

use super::*;
use crate::clock::Timestamp;
use crate::ledger::prune::{self, Pruned};
use crate::ledger::verify::order;

/// What is read of a log from `first` on; its last entry says so.
struct Shorter {
    log: Log,
    first: u64,
    seq: u64,
}

impl Shorter {
    /// Of so many entries, and one more that says that it begins at `first`; so many of them are signed.
    fn of(size: u64, first: u64, signed: u64, change: impl FnOnce(&mut (u64, u64))) -> Self {
        let mut all = entries(size);
        let (mut pairs, mut tree) = (order::Order::default(), Tree::new());
        for (seq, bytes) in &all[..usize::try_from(first).unwrap()] {
            pairs.see(&order::read(*seq, bytes).expect("an entry")).expect("in order");
            let _complete = tree.append(leaf_hash(bytes));
        }
        let mut carried = pairs.carried();
        change(&mut carried);
        let order = prune::Order {
            before: Timestamp::from_micros(0),
            by: "uid 0".to_owned(),
            longest_budget: std::time::Duration::ZERO,
        };
        let last: serde_json::Value = serde_json::from_slice(&all.last().expect("one").1).expect("JSON");
        let time = Timestamp::parse(last["time"].as_str().expect("a time")).expect("a time");
        let body = prune::body(&order, &tree.head(), carried, Some(Vec::new()));
        all.push((size, crate::ledger::entry::encode(size, time, &body).expect("an entry")));
        Self { log: Log::signed(all, signed, &key(7)), first, seq: size }
    }

    fn verify(&self, kept: Option<&Kept>) -> Result<Report, OpenError> {
        verify(self, &key(7).verifying_key(), kept.map_or(&[], std::slice::from_ref), |_, _| ())
    }

    fn fault(&self) -> String {
        match self.verify(None) {
            Err(OpenError::Damaged(words)) => words,
            other => panic!("{other:?}"),
        }
    }
}

impl Tiles for Shorter {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        self.log.hashes(tile)
    }
}

impl ProofReader for Shorter {
    fn checkpoint(&self) -> Result<Option<String>, OpenError> {
        self.log.checkpoint()
    }

    fn verifying_key(&self) -> Result<VerifyingKey, OpenError> {
        self.log.verifying_key()
    }
}

impl Reader for Shorter {
    fn length(&self) -> Result<u64, OpenError> {
        self.log.length()
    }

    fn pruned(&self) -> Result<Option<Pruned>, OpenError> {
        let entry = self.log.entries.iter().find(|(seq, _)| *seq == self.seq);
        entry.map(|(seq, bytes)| Pruned::read(*seq, bytes)).transpose()
    }

    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        self.log.read(from.max(self.first), until)
    }

    fn search(&self, _: &search::Query) -> Result<search::Page, OpenError> {
        unreachable!("not asked")
    }

    fn request(&self, _: &str) -> Result<Entries, OpenError> {
        unreachable!("not asked")
    }

    fn freezes(&self) -> Result<crate::ledger::freeze::Freezes, OpenError> {
        Ok(crate::ledger::freeze::Freezes::default())
    }

    fn stats(&self, _: stats::Span) -> Result<Vec<stats::Tally>, OpenError> {
        unreachable!("not asked")
    }
}

#[test]
fn what_is_kept_is_verified_and_what_went_by_its_hashes() {
    for (size, first) in [(300, 256), (600, 256), (600, 512), (700, 512), (66_500, 65_792)] {
        let log = Shorter::of(size, first, size + 1, |_| ());
        let older = Log::of(first - 100, first - 100).kept();
        let report = log.verify(Some(&older)).expect("nothing is bad");
        let gone = report.pruned.as_ref().expect("it says so");
        assert_eq!((report.entries, report.read(), gone.hashes), (size + 1, size + 1 - first, true));
        assert_eq!((gone.pruned.first, gone.pruned.seq), (first, size));
        assert_eq!(report.kept.first().map(|head| head.size), Some(first - 100), "a checkpoint of what went");
    }
}

#[test]
fn where_the_hashes_are_lost_the_edge_is_enough_for_all_but_older_checkpoints() {
    let mut log = Shorter::of(700, 512, 701, |_| ());
    log.log.memory.kept.retain(|(level, index), _| *level > 0 || *index >= 2);
    let gone = log.verify(None).expect("nothing is bad").pruned.expect("it says so");
    assert!(!gone.hashes);
    let older = Log::of(400, 400).kept();
    assert!(matches!(log.verify(Some(&older)), Err(OpenError::Unusable(words)) if words.contains("older checkpoint")));
}

#[test]
fn a_beginning_that_nobody_signed_is_damage() {
    let log = Shorter::of(700, 512, 700, |_| ());
    assert!(log.fault().contains("is not signed"), "{}", log.fault());
    let mut unsigned = Shorter::of(700, 512, 701, |_| ());
    unsigned.log.note = None;
    assert!(unsigned.fault().contains("is not signed"), "{}", unsigned.fault());
    // An entry that was signed for another beginning.
    let mut later = Shorter::of(700, 256, 701, |_| ());
    later.first = 512;
    assert_eq!(later.fault(), "entry 256 is missing");
}

#[test]
fn changed_hashes_of_what_went_are_found() {
    for tile in [(0, 0), (0, 1)] {
        let mut log = Shorter::of(700, 512, 701, |_| ());
        log.log.memory.kept.get_mut(&tile).expect("a tile")[3] ^= 1;
        assert!(log.fault().contains("do not lead to"), "{}", log.fault());
    }
}

#[test]
fn what_became_of_pruned_requests_is_counted_and_nothing_more_is_let_pass() {
    // A boundary that parts an intent from its outcome.
    let parts = |first: &u64| {
        let mut pairs = order::Order::default();
        entries(*first)
            .iter()
            .for_each(|(seq, bytes)| pairs.see(&order::read(*seq, bytes).expect("an entry")).expect("in order"));
        pairs.carried().0 == 1
    };
    let first = (1..40).map(|bundles| bundles * 256).find(parts).expect("there is one");
    let of = |open: u64| Shorter::of(first + 200, first, first + 201, |carried| carried.0 = open);
    of(1).verify(None).expect("nothing is bad");
    assert!(of(0).fault().contains("of which no intent is open"), "{}", of(0).fault());
    assert!(of(2).fault().contains("more became of pruned requests than is there"), "{}", of(2).fault());
}
