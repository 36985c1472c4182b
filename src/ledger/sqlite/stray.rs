//! What a start can find out about rows that were laid among those of open and unresolved intents: believed, they would
//! give an intent a second outcome, or a resolution that it must not have.
//!
//! It is bounded: the search data say where an outcome stands, and are believed only where the entry there says so; the
//! entries that they do not cover are read, the last ones alone. What this leaves, `audit verify` finds.

use super::index::store::{self, Meta};
use super::{database, prune, unresolved};
use crate::ledger::OpenError;
use crate::ledger::glance::Glance;
use rusqlite::Connection;
use std::collections::HashMap;
use std::path::Path;

/// The most entries at the end that are read.
const TAIL: u64 = 10_000;
/// The most unresolved intents that are looked at, those first that are due first.
const UNRESOLVED: usize = 2_000;

/// What an intent is said to wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Outcome,
    Resolution,
}

/// Refuses a ledger whose lists contradict its entries.
///
/// # Errors
/// Names both entries.
pub(super) fn check(folder: &Path, db: &Connection, length: u64) -> Result<(), OpenError> {
    let failed = |e: rusqlite::Error| OpenError::Damaged(format!("the ledger cannot be read: {e}"));
    let mut waiting = HashMap::new();
    for (seq, request_id) in database::in_flight(db).map_err(failed)? {
        waiting.insert(request_id, (seq, Wait::Outcome));
    }
    for seq in unresolved::first(db, UNRESOLVED).map_err(failed)? {
        let intent = database::entry(db, seq)?.and_then(|bytes| unresolved::intent(&bytes));
        let (request_id, _) = intent.ok_or_else(|| {
            OpenError::Damaged(format!("entry {seq} is said to wait for a resolution, but is no such intent"))
        })?;
        if waiting.insert(request_id.to_string(), (seq, Wait::Resolution)).is_some() {
            return Err(OpenError::Damaged(format!("entry {seq} is said to wait for two things at once")));
        }
    }
    if waiting.is_empty() {
        return Ok(());
    }
    let found = store::open_to_read(folder, db);
    let cursor = found.as_ref().map_or(0, |(_, meta)| meta.cursor);
    if let Some((search, meta)) = &found {
        for (seq, wait) in waiting.values() {
            for place in endings(search, meta, *seq) {
                let bytes = database::entry(db, place)?.unwrap_or_default();
                contradict(place, &bytes, &waiting, Some((*seq, *wait)))?;
            }
        }
    }
    let from = cursor.max(length.saturating_sub(TAIL)).max(prune::first(db)?);
    for (seq, bytes) in database::read(db, from, length)? {
        contradict(seq, &bytes, &waiting, None)?;
    }
    Ok(())
}

/// Where outcome and resolution of an intent stand, as the search data say it.
fn endings(search: &Connection, meta: &Meta, intent: u64) -> Vec<u64> {
    let found = if intent < meta.cursor { store::ending(search, intent).ok().flatten() } else { None };
    found.map_or(Vec::new(), |(outcome, resolution)| std::iter::once(outcome).chain(resolution).collect())
}

/// Whether an entry says what the lists say is still to come. `meant`: only for this intent.
fn contradict(
    seq: u64,
    bytes: &[u8],
    waiting: &HashMap<String, (u64, Wait)>,
    meant: Option<(u64, Wait)>,
) -> Result<(), OpenError> {
    let Ok(entry) = Glance::at(seq, bytes) else { return Ok(()) };
    let Some((intent, wait)) = waiting.get(&*entry.request_id).copied() else { return Ok(()) };
    if meant.is_some_and(|meant| meant != (intent, wait)) {
        return Ok(());
    }
    let words = match (&*entry.kind, wait) {
        ("outcome", Wait::Outcome) => "is said to be in flight",
        ("outcome", Wait::Resolution) if &*entry.outcome != "unknown" => "is said to wait for a resolution",
        ("resolution", _) => "is said to wait for a resolution",
        _ => return Ok(()),
    };
    Err(OpenError::Damaged(format!("entry {intent} {words}, but entry {seq} says what came of it")))
}

#[cfg(test)]
mod tests {
    use super::super::follower::Follow;
    use super::super::index::Index;
    use super::*;
    use crate::clock::Timestamp;
    use crate::id::RequestId;

    /// Requests 1 to 4: deleted, unknown and resolved, unknown, open; three entries that mean nothing before each.
    fn ledger(folder: &Path) -> (Connection, u64) {
        let db = database::open_to_write(folder).unwrap();
        let mut bodies = Vec::new();
        for request in 1..=4_u128 {
            let id = RequestId::parse(&format!("{request:032x}")).unwrap();
            bodies.extend([
                "\"kind\":\"start\"".to_owned(),
                "\"kind\":\"stop\"".to_owned(),
                "\"kind\":\"start\"".to_owned(),
            ]);
            bodies.push(format!(r#""kind":"intent","request_id":"{id}","session":"s1","group":"1@g.us""#));
            let end = if request == 1 { "deleted" } else { "unknown" };
            if request < 4 {
                bodies.push(format!(r#""kind":"outcome","request_id":"{id}","outcome":"{end}""#));
            }
            if request == 2 {
                bodies.push(format!(r#""kind":"resolution","request_id":"{id}","resolution":"absent""#));
            }
        }
        let mut index = Index::with_width(folder, 4);
        index.rest(false).unwrap();
        database::begin(&db).unwrap();
        let time = Timestamp::from_micros(1_790_000_000_000_000);
        let bytes: Vec<Vec<u8>> = (0_u64..)
            .zip(&bodies)
            .map(|(seq, body)| format!(r#"{{"v":1,"seq":{seq},"time":"{time}",{body}}}"#).into_bytes())
            .collect();
        (0_u64..)
            .zip(&bytes)
            .for_each(|(seq, bytes)| database::Statements::new(&db).unwrap().append(seq, bytes).unwrap());
        database::commit(&db).unwrap();
        index.take(0, &bytes).unwrap();
        (db, bytes.len() as u64)
    }

    #[test]
    fn rows_that_the_entries_contradict_are_found_by_the_search_data_and_in_the_last_entries() {
        let folder = tempfile::tempdir().unwrap();
        let (db, length) = ledger(folder.path());
        let id = |request: u128| RequestId::parse(&format!("{request:032x}")).unwrap().to_string();
        database::Statements::new(&db).unwrap().take_off(19, &id(4)).unwrap();
        unresolved::wait(&db, 14, Timestamp::from_micros(0), 0).unwrap();
        let searchable = std::fs::read(folder.path().join("search.db")).unwrap();
        for by_search in [true, false] {
            let check = || check(folder.path(), &db, if by_search { 0 } else { length }).map_err(|e| e.to_string());
            assert_eq!(check(), Ok(()), "what waits may wait");
            if !by_search {
                store::throw_away(folder.path()).unwrap();
            }
            for (table, seq, request, words) in [
                ("in_flight", 3, 1, "entry 3 is said to be in flight, but entry 4 says"),
                ("in_flight", 8, 2, "entry 8 is said to be in flight, but entry"),
                ("unresolved", 3, 1, "entry 3 is said to wait for a resolution, but entry 4 says"),
                ("unresolved", 8, 2, "entry 8 is said to wait for a resolution, but entry 10 says"),
                ("unresolved", 4, 0, "entry 4 is said to wait for a resolution, but is no such intent"),
                ("unresolved", 99, 0, "entry 99 is said to wait for a resolution, but is no such intent"),
            ] {
                match table {
                    "in_flight" => database::Statements::new(&db).unwrap().take_off(seq, &id(request)).unwrap(),
                    _ => unresolved::wait(&db, seq, Timestamp::from_micros(9), 0).unwrap(),
                }
                let said = check().unwrap_err();
                assert!(said.contains(words), "{table} {seq}, {by_search}: {said}");
                db.execute(&format!("DELETE FROM {table} WHERE seq = ?1"), [seq.cast_signed()]).unwrap();
            }
        }
        std::fs::write(folder.path().join("search.db"), searchable).unwrap();
        // Who would change the search data to have a row refused is not believed either.
        let search = Connection::open(folder.path().join("search.db")).unwrap();
        search.execute("INSERT OR REPLACE INTO ending VALUES (14, 4, NULL)", []).unwrap();
        assert!(check(folder.path(), &db, 0).is_ok());
    }
}
