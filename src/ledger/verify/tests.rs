//! A ledger in memory, and every way to tamper with it that there is.

use super::*;
use crate::id::Origin;
use crate::ledger::checkpoint::{self, note::SigningKey};
use crate::ledger::tree::memory::Memory;
use crate::ledger::tree::proof::Tiles;
use crate::ledger::{Entries, search, stats};
use proptest::prelude::*;

mod admitted;
mod pruned;

/// Every third request ends unknown, and every second of those has a resolution: entries in a row, 0 to `size`.
fn entries(size: u64) -> Entries {
    let mut bodies = vec![r#""kind":"start","version":"0","recovered":0"#.to_owned()];
    let mut request = 0_u128;
    while (bodies.len() as u64) < size {
        request += 1;
        let id = RequestId::parse(&format!("{request:032x}")).expect("an id");
        let end = if request.is_multiple_of(3) { "unknown" } else { "deleted" };
        bodies.push(format!(r#""kind":"intent","request_id":"{id}","caller":"obviously-fake""#));
        bodies.push(format!(r#""kind":"outcome","request_id":"{id}","outcome":"{end}","sent":"yes""#));
        if request.is_multiple_of(6) {
            bodies.push(format!(r#""kind":"resolution","request_id":"{id}","resolution":"absent""#));
        }
    }
    let time =
        |n: u64| crate::clock::Timestamp::from_micros(1_790_000_000_000_000 + i64::try_from(n / 2).unwrap() * 400_000);
    let line =
        |(n, body): (u64, String)| (n, format!(r#"{{"v":1,"seq":{n},"time":"{}",{body}}}"#, time(n)).into_bytes());
    (0..size).zip(bodies).map(line).collect()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(Origin::parse("gateway.example/log").expect("an origin"), [seed; 32])
}

struct Log {
    entries: Entries,
    memory: Memory,
    note: Option<String>,
    standing: Standing,
    /// The tiles are being built anew.
    building: bool,
}

/// What a store would list of these entries.
fn standing(entries: &Entries) -> Standing {
    let (mut in_flight, mut unresolved) = (std::collections::BTreeMap::new(), std::collections::BTreeMap::new());
    for (seq, bytes) in entries {
        let text = String::from_utf8_lossy(bytes);
        let Some(id) = text.split("\"request_id\":\"").nth(1).and_then(|rest| rest.get(..36)) else { continue };
        if text.contains("\"kind\":\"intent\"") {
            in_flight.insert(id.to_owned(), *seq);
        } else if let (Some(intent), true) = (in_flight.remove(id), text.contains("\"unknown\"")) {
            unresolved.insert(id.to_owned(), intent);
        } else if text.contains("\"resolution\"") {
            unresolved.remove(id);
        }
    }
    let mut standing = Standing { length: entries.len() as u64, ..Standing::default() };
    standing.in_flight.extend(in_flight.into_iter().map(|(id, seq)| (seq, id)));
    standing.in_flight.sort();
    standing.unresolved.extend(unresolved.into_values());
    standing.unresolved.sort_unstable();
    standing
}

impl Log {
    /// Of so many entries, of which the first `signed` are covered.
    fn of(size: u64, signed: u64) -> Self {
        Self::signed(entries(size), signed, &key(7))
    }

    fn signed(entries: Entries, signed: u64, key: &SigningKey) -> Self {
        let leaves: Vec<Hash> = entries.iter().map(|(_, bytes)| leaf_hash(bytes)).collect();
        let (memory, tree) = Memory::of(&leaves[..usize::try_from(signed).unwrap()]);
        let (note, standing) = (Some(checkpoint::sign(key, &tree.head())), standing(&entries));
        Self { entries, memory, note, standing, building: false }
    }

    fn verify(&self, kept: Option<&Kept>) -> Result<Report, OpenError> {
        verify(self, &key(7).verifying_key(), kept.map_or(&[], std::slice::from_ref), |_, _| ())
    }

    /// The words about what is bad.
    fn fault(&self, kept: Option<&Kept>) -> String {
        match self.verify(kept) {
            Err(OpenError::Damaged(words)) => words,
            other => panic!("{other:?}"),
        }
    }

    fn kept(&self) -> Kept {
        Kept { place: "elsewhere".to_owned(), note: self.note.clone().expect("a note") }
    }
}

impl Tiles for Log {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        self.memory.hashes(tile).map_err(|tile| OpenError::Damaged(format!("there is no {tile}")))
    }
}

impl ProofReader for Log {
    fn checkpoint(&self) -> Result<Option<String>, OpenError> {
        Ok(self.note.clone())
    }

    fn verifying_key(&self) -> Result<VerifyingKey, OpenError> {
        Ok(key(7).verifying_key())
    }

    fn is_being_built(&self) -> Result<bool, OpenError> {
        Ok(self.building)
    }

    fn standing(&self) -> Result<Option<Standing>, OpenError> {
        Ok(Some(Standing { length: self.length()?, ..self.standing.clone() }))
    }
}

impl Reader for Log {
    fn length(&self) -> Result<u64, OpenError> {
        Ok(self.entries.last().map_or(0, |(seq, _)| seq + 1))
    }

    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        // As a store does it: by the rows' numbers.
        let until = until.min(from + READ_AT_MOST);
        Ok(self.entries.iter().filter(|(seq, _)| (from..until).contains(seq)).cloned().collect())
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
fn a_ledger_that_nobody_touched_verifies_at_every_size() {
    for size in [0, 1, 2, 255, 256, 257, 300, 512, 600] {
        let log = Log::of(size, size);
        let report = log.verify(Some(&log.kept())).expect("nothing is bad");
        assert_eq!((report.entries, report.signed.map(|head| head.size), report.uncovered()), (size, Some(size), 0));
        assert_eq!(report.kept.first().copied(), report.signed);
    }
}

#[test]
fn what_is_not_covered_yet_is_counted_and_open_intents_are_listed() {
    let older = Log::of(256, 256).kept();
    let report = Log::of(300, 290).verify(Some(&older)).expect("nothing is bad");
    assert_eq!((report.uncovered(), report.kept.first().map(|head| head.size)), (10, Some(256)));
    let log = Log::of(2, 2);
    assert_eq!(
        log.verify(None).expect("open is no error").open,
        [(1, RequestId::parse(&format!("{:032x}", 1)).unwrap())]
    );
    let mut unsigned = Log::of(20, 20);
    unsigned.note = None;
    assert!(matches!(unsigned.verify(None), Err(OpenError::Unusable(words)) if words.contains("nothing proves them")));
}

#[test]
fn while_the_tiles_are_built_anew_the_entries_are_held_against_the_root_alone() {
    let mut log = Log::of(600, 600);
    (log.building, log.memory) = (true, Memory::default());
    assert_eq!(log.verify(None).expect("nothing is bad").tiles, None);
    log.entries[7].1[60] ^= 1;
    assert!(log.verify(None).is_err());
}

#[test]
fn without_a_stored_checkpoint_the_entries_are_held_against_the_kept_one() {
    let (mut log, kept) = (Log::of(300, 300), Log::of(200, 200).kept());
    log.note = None;
    let report = log.verify(Some(&kept)).expect("nothing is bad");
    assert_eq!((report.signed, report.kept.first().map(|head| head.size), report.uncovered()), (None, Some(200), 300));
    let bytes = String::from_utf8(log.entries[7].1.clone()).unwrap().replace("obviously-fake", "somebody-else");
    log.entries[7].1 = bytes.into_bytes();
    assert!(log.fault(Some(&kept)).contains("elsewhere was signed for the root"));
}

#[test]
fn what_is_listed_as_open_or_unresolved_is_exactly_that() {
    // Requests 3 and 9 end unknown without a resolution; the last entry is an open intent.
    let whole = Log::of(41, 41);
    assert!(whole.verify(None).is_ok());
    let (open, unresolved) = (whole.standing.in_flight.clone(), whole.standing.unresolved.clone());
    assert!(!open.is_empty() && unresolved.len() > 1, "{open:?} {unresolved:?}");
    let said = |change: &dyn Fn(&mut Standing)| {
        let mut log = Log::of(41, 41);
        change(&mut log.standing);
        log.fault(None)
    };
    let missing = said(&|standing| drop(standing.in_flight.pop()));
    assert!(names(&missing, open[0].0) && missing.contains("not listed as in flight"), "{missing}");
    let ended = said(&|standing| standing.in_flight.insert(0, (1, format!("{:036}", 1))));
    assert!(names(&ended, 1) && ended.contains("none that has no outcome"), "{ended}");
    let other = said(&|standing| standing.in_flight[0].1.replace_range(0..1, "f"));
    assert!(names(&other, open[0].0) && other.contains("not listed as in flight"), "{other}");
    let missing = said(&|standing| {
        standing.unresolved.remove(1);
    });
    assert!(names(&missing, unresolved[1]) && missing.contains("not listed as waiting"), "{missing}");
    let twice = said(&|standing| standing.unresolved.insert(0, unresolved[0]));
    assert!(names(&twice, unresolved[0]) && twice.contains("listed twice"), "{twice}");
    let resolved = said(&|standing| standing.unresolved.insert(0, 1));
    assert!(names(&resolved, 1) && resolved.contains("waits for a resolution"), "{resolved}");
}

#[test]
fn a_tree_of_three_levels_is_compared_on_all_of_them() {
    let mut log = Log::of(65_536 + 300, 65_536 + 300);
    assert_eq!(log.verify(None).expect("nothing is bad").tiles, Some(258 + 2 + 1));
    for level in 0..=2 {
        let whole = log.memory.kept[&(level, 0)].clone();
        log.memory.kept.get_mut(&(level, 0)).unwrap()[0] ^= 1;
        let said = log.fault(None);
        let words =
            if level == 0 { "entry 0 is the one that was signed" } else { "do not lead to their hash in tile/" };
        assert!(said.contains(words), "{level}: {said}");
        log.memory.kept.insert((level, 0), whole);
    }
}

#[test]
fn an_entry_that_was_changed_with_every_hash_above_it_is_found_by_the_signature() {
    let mut changed = entries(300);
    let text = String::from_utf8(changed[7].1.clone()).unwrap().replace("obviously-fake", "somebody-else");
    changed[7].1 = text.into_bytes();
    let mut forged = Log::signed(changed, 300, &key(7));
    let signed_anew = forged.note.replace(Log::of(300, 300).note.unwrap());
    assert!(forged.fault(None).contains("the first 300 entries have the root"), "{}", forged.fault(None));
    // Whoever also has the signing key is found by what is kept elsewhere.
    forged.note = signed_anew;
    assert!(forged.verify(None).is_ok());
    let said = forged.fault(Some(&Log::of(200, 200).kept()));
    assert!(said.contains("the first 200 entries") && said.contains("elsewhere"), "{said}");
}

#[test]
fn an_older_copy_of_the_whole_is_found_by_what_is_kept_elsewhere() {
    let (newer, older) = (Log::of(300, 300), Log::of(260, 260));
    assert!(older.verify(None).is_ok());
    let said = older.fault(Some(&newer.kept()));
    assert_eq!(
        said,
        "elsewhere was signed for 300 entries, but the ledger has 260: entries were cut off, or an older copy was put \
         in its place"
    );
}

#[test]
fn another_key_is_not_taken_for_the_logs() {
    let foreign = Log::signed(entries(20), 20, &key(8));
    assert!(foreign.fault(None).contains("the checkpoint is not signed with the key"));
    let kept = foreign.kept();
    assert!(Log::of(20, 20).fault(Some(&kept)).starts_with("elsewhere: the checkpoint is not signed with the key"));
}

/// Entries that are all hashed and signed as they are: only what they say is wrong.
fn said_of(change: impl Fn(u64, &str) -> String) -> String {
    let change = |(n, bytes): (u64, Vec<u8>)| (n, change(n, std::str::from_utf8(&bytes).unwrap()).into_bytes());
    Log::signed(entries(40).into_iter().map(change).collect(), 40, &key(7)).fault(None)
}

#[test]
fn each_rule_of_an_entry_is_held() {
    let of = |at: u64, from: &str, to: &str| {
        said_of(|n, text| if n == at { text.replacen(from, to, 1) } else { text.to_owned() })
    };
    assert_eq!(of(4, "\"seq\":4", "\"seq\":5"), "entry 4 says that it is entry 5");
    assert_eq!(of(4, "\"v\":1", "\"v\":2"), "entry 4 is of version 2; this program knows version 1");
    assert!(of(4, "}", "").starts_with("entry 4 cannot be read"));
    assert!(of(4, "{", "{\"seq\":4,").starts_with("entry 4 cannot be read: duplicate field"));
    assert!(of(4, "\"time\":\"2026", "\"time\":\"2025").contains("entry 4 has the time 2025"));
    assert!(of(4, "\"time\":\"2026-09", "\"time\":\"2026-99").starts_with("entry 4 has a time that is none"));
    assert!(of(4, "Z\"", "+00:00\"").starts_with("entry 4 has a time that is none"));
    assert!(of(0, "\"start\"", "\"stert\"").contains("does not know, `stert`"));
    assert!(
        of(0, "\"version\":\"0\"", &format!("\"version\":\"{}\"", "0".repeat(65_535))).contains("65535 is the most")
    );
    assert!(of(2, "\"deleted\"", "\"maybe\"").starts_with("entry 2 has an outcome that is none, `maybe`"));
}

#[test]
fn every_outcome_has_one_intent_before_it_and_every_resolution_an_unknown_outcome() {
    let id = |n: u128| RequestId::parse(&format!("{n:032x}")).unwrap().to_string();
    let other = |at: u64, from: String, to: String| {
        said_of(move |n, text| if n == at { text.replace(&from, &to) } else { text.to_owned() })
    };
    assert!(other(2, id(1), id(9)).starts_with("entry 2 is an outcome of request"));
    assert!(other(4, id(2), id(1)).contains("of which no intent is open"), "a second outcome");
    assert!(other(2, "outcome".into(), "intent".into()).contains("is a second intent of request"));
    // Entry 13 is the resolution of request 6.
    assert!(other(13, id(6), id(5)).starts_with("entry 13 is a resolution of request"));
    assert!(other(13, "absent".into(), "gone".into()).contains("entry 13 has a resolution that is none, `gone`"));
}

const SIZE: u64 = 300;
const SIGNED: u64 = 290;

/// The first entry that the words name, for what names one.
fn names(said: &str, seq: u64) -> bool {
    said.starts_with(&format!("entry {seq} "))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_changed_byte_is_found_and_named(at in 0..SIGNED, place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut log = Log::of(SIZE, SIGNED);
        let bytes = &mut log.entries[usize::try_from(at).unwrap()].1;
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let said = log.fault(None);
        prop_assert!(names(&said, at) && said.contains("was changed: its bytes are not those that were signed"), "{}", said);
    }

    #[test]
    fn a_removed_entry_is_found_whether_the_rest_moves_up_or_not(at in 0..SIGNED, renumber in any::<bool>()) {
        let mut log = Log::of(SIZE, SIGNED);
        log.entries.remove(usize::try_from(at).unwrap());
        if renumber {
            (0..).zip(&mut log.entries).for_each(|(n, entry)| entry.0 = n);
        }
        let said = log.fault(None);
        prop_assert!(names(&said, at), "{}", said);
    }

    #[test]
    fn two_rows_that_changed_places_are_found(one in 0..SIGNED, other in 0..SIGNED) {
        prop_assume!(one != other);
        let mut log = Log::of(SIZE, SIGNED);
        let (one, other) = (usize::try_from(one.min(other)).unwrap(), usize::try_from(one.max(other)).unwrap());
        let bytes = std::mem::take(&mut log.entries[one].1);
        log.entries[one].1 = std::mem::replace(&mut log.entries[other].1, bytes);
        let said = log.fault(None);
        prop_assert!(names(&said, one as u64) && said.contains(&format!("says that it is entry {other}")), "{}", said);
    }

    #[test]
    fn a_new_order_is_found(first in 0..SIGNED - 2, width in 2..40_usize) {
        let mut log = Log::of(SIZE, SIGNED);
        let first = usize::try_from(first).unwrap();
        let last = (first + width).min(usize::try_from(SIGNED).unwrap());
        let mut bytes: Vec<Vec<u8>> = log.entries[first..last].iter().map(|(_, bytes)| bytes.clone()).collect();
        bytes.rotate_left(1);
        log.entries[first..last].iter_mut().zip(bytes).for_each(|(entry, bytes)| entry.1 = bytes);
        prop_assert!(names(&log.fault(None), first as u64));
    }

    #[test]
    fn a_tail_that_was_cut_off_is_found(left in 0..SIGNED) {
        let mut log = Log::of(SIZE, SIGNED);
        log.entries.truncate(usize::try_from(left).unwrap());
        let said = log.fault(None);
        prop_assert!(said.contains(&format!("was signed for {SIGNED} entries, but the ledger has {left}")), "{}", said);
    }

    #[test]
    fn any_changed_bit_of_a_tile_is_found(which in any::<prop::sample::Index>(), place in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let mut log = Log::of(SIZE, SIGNED);
        let which = *log.memory.kept.keys().nth(which.index(log.memory.kept.len())).unwrap();
        let bytes = log.memory.kept.get_mut(&which).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        log.fault(None);
    }

    #[test]
    fn any_changed_byte_of_the_checkpoint_is_found(place in any::<prop::sample::Index>(), bit in 0..7_u8) {
        let mut log = Log::of(SIZE, SIGNED);
        let mut note = log.note.take().unwrap().into_bytes();
        let place = place.index(note.len());
        note[place] ^= 1 << bit;
        if let Ok(note) = String::from_utf8(note) {
            log.note = Some(note);
            log.fault(None);
        }
    }
}
