//! The log that begins where the old one lost entries. Its first entry says so; then come, each with an outcome, the
//! intents of which the old log does not tell the end; then what was frozen in it.

use super::Known;
use crate::clock::Timestamp;
use crate::id::{Origin, RequestId};
use crate::ledger::OpenError;
use crate::ledger::checkpoint;
use crate::ledger::checkpoint::note::{SigningKey, VerifyingKey};
use crate::ledger::entry::{Body, Outcome, Previous, encode, encode_carried};
use crate::ledger::sqlite::database::Statements;
use crate::ledger::sqlite::tree_store::TreeStore;
use crate::ledger::sqlite::{backup, database, sealing, standing, unresolved};
use crate::ledger::tree::{Head, Tree, leaf_hash};
use rusqlite::Connection;
use std::path::Path;

/// The tables whose rows are entries of their own log. A new log begins at 0, whatever was pruned of the old one.
const BY_ENTRY: [&str; 3] = ["in_flight", "unresolved", "pruned"];
const REASON: &str = "a backup was restored, and entries of the log before this one are lost or may be";

/// Makes the new log in `staging`, with a key of its own, for what is left of the old one in `archive`. Returns its name
/// and how many intents it takes over.
pub(super) fn begin(
    staging: &Path,
    archive: &Path,
    old: &VerifyingKey,
    restored: &Head,
    newest: Option<&Known>,
) -> Result<(Origin, u64), OpenError> {
    let unusable = |what: &dyn std::fmt::Display| OpenError::Unusable(format!("the new log cannot be made: {what}"));
    let origin = old.origin().successor().map_err(|fault| unusable(&format!("its name {fault}")))?;
    let key = SigningKey::generate(origin.clone()).map_err(|e| unusable(&e))?;
    let line = key.to_line();
    sealing::write_durably(&staging.join("signing-key"), format!("{}\n", line.expose()).as_bytes(), 0o600)
        .map_err(|e| unusable(&e))?;
    let source = database::open_to_read(archive)?;
    let carried = carried(&source)?;
    let count = carried.len() as u64;
    let freezes = standing::freezes(&source)?;
    let previous = Previous {
        origin: old.origin().clone(),
        restored: restored.size,
        restored_root: restored.root.to_string(),
        signed: newest.map(|newest| newest.head.size),
        checkpoint: newest.map(|newest| newest.note.clone()),
        carried: count,
        freezes: freezes.len() as u64,
    };
    let time = latest(&source)?.max(Timestamp::now());
    let mut log = Log { db: database::open_to_write(staging)?, tree: Tree::new() };
    let mut tiles = Vec::new();
    let write = |log: &mut Log| -> Result<(), OpenError> {
        let failed = |e: rusqlite::Error| unusable(&e);
        let unfit = |e: serde_json::Error| unusable(&e);
        database::begin(&log.db).map_err(failed)?;
        let gap = Body::Gap { reason: REASON, previous: Some(Box::new(previous)) };
        tiles.extend(log.append(&encode(0, time, &gap).map_err(unfit)?).map_err(failed)?);
        for (seq, request_id, bytes) in carried {
            let intent = log.tree.size();
            let bytes = encode_carried(intent, time, &bytes, old.origin(), seq)
                .ok_or_else(|| OpenError::Damaged(format!("entry {seq} is not an intent that can be taken over")))?;
            tiles.extend(log.append(&bytes).map_err(failed)?);
            let outcome = Body::Outcome(Outcome::unknown(request_id));
            tiles.extend(log.append(&encode(intent + 1, time, &outcome).map_err(unfit)?).map_err(failed)?);
            unresolved::wait(&log.db, intent, time, 0).map_err(failed)?;
        }
        for freeze in freezes {
            let bytes = encode(log.tree.size(), time, &Body::Freeze(freeze)).map_err(unfit)?;
            tiles.extend(log.append(&bytes).map_err(failed)?);
        }
        take_over(&source, &log.db).map_err(failed)?;
        database::commit(&log.db).map_err(failed)
    };
    write(&mut log)?;
    tiles.extend(log.tree.edge());
    let note = checkpoint::sign(&key, &log.tree.head());
    TreeStore::open_to_write(staging)?.save(&tiles, Some((&note, &key.verifying_key())))?;
    log.db.close().map_err(|(_, e)| unusable(&e))?;
    Ok((origin, count))
}

/// Freezes hold on, budgets stay spent, and idempotency keys stay known: what the tables beside the entries hold. Those
/// that list entries of the old log are filled from these entries instead.
fn take_over(source: &Connection, to: &Connection) -> rusqlite::Result<()> {
    let tables = backup::others(source)?;
    let by_entry = |name: &str| BY_ENTRY.contains(&name);
    tables.iter().filter(|table| !by_entry(&table.name)).try_for_each(|table| backup::fill(to, table))?;
    standing::forget_numbers(to)
}

struct Log {
    db: Connection,
    tree: Tree,
}

impl Log {
    fn append(&mut self, bytes: &[u8]) -> rusqlite::Result<Vec<crate::ledger::tree::TileData>> {
        Statements::new(&self.db)?.append(self.tree.size(), bytes)?;
        Ok(self.tree.append(leaf_hash(bytes)))
    }
}

/// The intents without an outcome, and those whose outcome is `unknown` and not resolved: number, request and bytes,
/// ascending.
fn carried(source: &Connection) -> Result<Vec<(u64, RequestId, Vec<u8>)>, OpenError> {
    let standing = database::standing(source)?;
    let mut seqs: Vec<u64> = standing.in_flight.into_iter().map(|(seq, _)| seq).chain(standing.unresolved).collect();
    seqs.sort_unstable();
    seqs.dedup();
    let intent = |seq: u64| -> Result<(u64, RequestId, Vec<u8>), OpenError> {
        let damaged =
            || OpenError::Damaged(format!("entry {seq} is listed as an intent without a known end, but is none"));
        let bytes = database::entry(source, seq)?.ok_or_else(damaged)?;
        let (request_id, _) = unresolved::intent(&bytes).ok_or_else(damaged)?;
        Ok((seq, request_id, bytes))
    };
    seqs.into_iter().map(intent).collect()
}

/// The time of the last entry: it never runs backwards, in the next log neither.
fn latest(source: &Connection) -> Result<Timestamp, OpenError> {
    let last = database::last(source).map_err(|e| OpenError::Damaged(format!("the ledger cannot be read: {e}")))?;
    let entry = last.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let time = entry.as_ref().and_then(|entry| entry.get("time")?.as_str()).and_then(Timestamp::parse);
    Ok(time.unwrap_or(Timestamp::from_micros(i64::MIN)))
}

/// Whether a ledger is as a restore has made it: then the process before this one did not end without a word.
pub(in crate::ledger::sqlite) fn is_untouched(db: &Connection, length: u64) -> Result<bool, OpenError> {
    let first = database::entry(db, 0)?.and_then(|bytes| serde_json::from_slice::<serde_json::Value>(&bytes).ok());
    let number = |name| first.as_ref().and_then(|entry| entry.get("previous")?.get(name)?.as_u64());
    // The outcomes of the intents follow these, and an earlier version took freezes over without a word.
    let freezes = number("freezes").unwrap_or(0);
    Ok(number("carried").is_some_and(|carried| carried.saturating_mul(2).saturating_add(freezes + 1) == length))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who adds a table decides here what a new log takes over of it: its rows as they are, without numbers of entries.
    #[test]
    fn every_table_of_a_ledger_has_a_place_in_a_new_log() {
        let db = Connection::open_in_memory().unwrap();
        database::tables(&db).unwrap();
        let mut names: Vec<String> = database::contents(&db).unwrap().into_iter().map(|[_, name, _]| name).collect();
        names.sort();
        let known = ["entry", "freeze", "idempotency", "idempotency_age", "in_flight", "pruned", "spent", "unresolved"];
        assert_eq!(names, known);
    }

    #[test]
    fn what_was_frozen_spent_and_kept_is_taken_over_without_the_numbers_of_the_old_log() {
        let [old, new] = [(); 2].map(|()| Connection::open_in_memory().unwrap());
        database::tables(&old).unwrap();
        database::tables(&new).unwrap();
        old.execute_batch(
            "INSERT INTO freeze VALUES ('everything', '{}');
             INSERT INTO idempotency VALUES (x'01', 5, 17, x'02', 'id', NULL);
             INSERT INTO idempotency_age VALUES (5, x'01');
             INSERT INTO spent VALUES (x'03', 1, 5, 17), (x'03', 2, 6, 19);
             INSERT INTO in_flight VALUES (19, 'id');
             INSERT INTO unresolved VALUES (5, 17, 3);
             INSERT INTO pruned VALUES (18, 16, 2, x'');",
        )
        .unwrap();
        take_over(&old, &new).unwrap();
        let one = |sql: &str| new.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
        assert_eq!(one("SELECT count(*) FROM freeze WHERE covers = 'everything'"), 1);
        assert_eq!(one("SELECT count(*) FROM idempotency WHERE key = x'01' AND since_us = 5 AND seq = -1"), 1);
        assert_eq!(one("SELECT count(*) FROM idempotency_age"), 1);
        assert_eq!(one("SELECT count(*) FROM spent WHERE seq = -1 AND time_us = 4 + ordinal"), 2);
        let by_entry =
            "(SELECT count(*) FROM in_flight) + (SELECT count(*) FROM unresolved) + (SELECT count(*) FROM pruned)";
        assert_eq!(one(&format!("SELECT {by_entry}")), 0);
    }
}
