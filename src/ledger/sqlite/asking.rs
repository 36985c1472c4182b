//! The reading side: through the search data where they reach, entry by entry where they do not.
//!
//! Search data are derived and may be behind, broken or absent. They only say where to look: what is
//! answered is read from the ledger, and without them it is the same answer, more slowly.

mod wanted;

use super::folder::Watched;
use super::index::compare::Comparison;
use super::index::posting::term;
use super::index::store::{self, Meta, failed};
use super::standing;
use super::tree_store::{self, TreeStore};
use super::{database, prune};
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::freeze::{Covers, Freezes};
use crate::ledger::glance::Glance;
use crate::ledger::prune::Pruned;
use crate::ledger::search::{End, Filling, Page, Query, Told};
use crate::ledger::stats::{Open, Span, Sum, Tally, count};
use crate::ledger::tree::Hash;
use crate::ledger::tree::proof::Tiles;
use crate::ledger::tree::tile::Tile;
use crate::ledger::verify::{SearchData, Standing};
use crate::ledger::{Entries, OpenError, ProofReader, READ_AT_MOST, Reader};
use rusqlite::Connection;
use std::cell::OnceCell;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use wanted::Wanted;

/// Reads a ledger: read-only, beside a writer or without one.
pub struct SqliteReader {
    folder: PathBuf,
    db: Connection,
    file: Watched,
    tree: OnceCell<TreeStore>,
}

impl SqliteReader {
    /// Opens a ledger for reading.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let (db, file) = database::open_to_watch(folder)?;
        Ok(Self { folder: folder.to_owned(), db, file, tree: OnceCell::new() })
    }

    /// The tree, opened when it is first asked for: most questions do not need it.
    fn tree(&self) -> Result<&TreeStore, OpenError> {
        if let Some(tree) = self.tree.get() {
            return Ok(tree);
        }
        let opened = TreeStore::open_to_read(&self.folder)?;
        Ok(self.tree.get_or_init(|| opened))
    }

    /// Asks with the search data; without, where there are none or they fail.
    fn either<T>(&self, ask: impl Fn(Option<&Found>) -> Result<T, OpenError>) -> Result<T, OpenError> {
        let found = store::open_to_read(&self.folder, &self.db).map(|(db, meta)| Found { db, meta });
        match found.as_ref().map(|found| ask(Some(found))) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(_)) | None => ask(None),
        }
    }

    /// Entries in `from..until` from the newest to the oldest, until `see` has enough.
    fn backwards(
        &self,
        from: u64,
        until: u64,
        mut see: impl FnMut(u64, &[u8]) -> Result<bool, OpenError>,
    ) -> Result<(), OpenError> {
        let (mut top, mut step) = (until, 512);
        while top > from {
            let bottom = top.saturating_sub(step).max(from);
            for (seq, bytes) in database::read(&self.db, bottom, top)?.into_iter().rev() {
                if see(seq, &bytes)? {
                    return Ok(());
                }
            }
            (top, step) = (bottom, (step * 2).min(READ_AT_MOST));
        }
        Ok(())
    }

    /// The requests without an outcome that this covers.
    ///
    /// # Errors
    /// In words, when the ledger cannot be read, or one of them is no intent.
    pub fn covered(&self, covers: &Covers) -> Result<Vec<RequestId>, OpenError> {
        let mut covered = Vec::new();
        for (seq, _) in database::in_flight(&self.db).map_err(|e| OpenError::Unusable(e.to_string()))? {
            let about = Glance::at(seq, &self.entry(seq)?)?.covered_by(covers);
            let unread = || OpenError::Damaged(format!("entry {seq} is said to be in flight, but is no such intent"));
            covered.extend(about.ok_or_else(unread)?);
        }
        Ok(covered)
    }

    fn entry(&self, seq: u64) -> Result<Vec<u8>, OpenError> {
        database::entry(&self.db, seq)?.ok_or_else(|| OpenError::Damaged(format!("the ledger has no entry {seq}")))
    }

    /// The first entry at or after a time, which never runs backwards in the log.
    pub(super) fn first_at(&self, time: Timestamp, length: u64) -> Result<u64, OpenError> {
        let (mut low, mut high) = (prune::first(&self.db)?, length);
        while low < high {
            let middle = low + (high - low) / 2;
            let bytes = self.entry(middle)?;
            let entry = Glance::at(middle, &bytes)?;
            if Timestamp::parse(&entry.time).is_some_and(|is| is < time) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn search_with(&self, query: &Query, found: Option<&Found>) -> Result<Page, OpenError> {
        let length = database::length(&self.db)?;
        let cursor = found.map_or(0, |found| found.meta.cursor);
        let begin = query.since.map_or_else(|| prune::first(&self.db), |since| self.first_at(since, length))?;
        let end = query.until.map_or(Ok(length), |until| self.first_at(until, length))?;
        let within = begin..query.before.map_or(end, |before| before.min(end));
        let mut filling = Filling::new(query, within.clone());
        if !filling.is_full() {
            self.backwards(cursor.max(begin), length, |seq, bytes| {
                filling.see(seq, bytes)?;
                Ok(filling.is_full())
            })?;
        }
        if let Some(found) = found {
            self.walk(query, found, within.start..within.end.min(cursor), &mut filling)?;
        }
        Ok(filling.done(length.saturating_sub(cursor.max(begin))))
    }

    /// Segments from the newest to the oldest: intersects the lists of what is wanted, then reads and checks
    /// each entry that is left.
    fn walk(
        &self,
        query: &Query,
        found: &Found,
        within: std::ops::Range<u64>,
        filling: &mut Filling<'_>,
    ) -> Result<(), OpenError> {
        if within.is_empty() || filling.is_full() {
            return Ok(());
        }
        let wanted = Wanted::new(query, found, filling.ends())?;
        let width = found.meta.width;
        for segment in (within.start / width..=(within.end - 1) / width).rev() {
            let set = wanted.in_segment(found, segment).map_err(|e| failed(&e))?;
            let Some(set) = set.filter(|set| !set.is_empty()) else { continue };
            for seq in set.offsets().rev().map(|offset| segment * width + u64::from(offset)) {
                if filling.is_full() {
                    return Ok(());
                }
                if within.contains(&seq) {
                    let bytes = self.entry(seq)?;
                    let first = Glance::at(seq, &bytes)?;
                    filling.judge(seq, &first, |newer| {
                        let newer = newer.get(&*first.request_id).cloned().unwrap_or_default();
                        Ok(newer.over(self.end(seq, found)?))
                    })?;
                }
            }
        }
        Ok(())
    }

    /// What came of an intent before the cursor.
    fn end(&self, intent: u64, found: &Found) -> Result<End, OpenError> {
        let Some((outcome, resolution)) = store::ending(&found.db, intent).map_err(|e| failed(&e))? else {
            return Ok(End::default());
        };
        let bytes = self.entry(outcome)?;
        let entry = Glance::at(outcome, &bytes)?;
        let told = Told { outcome: entry.outcome.to_string(), status: entry.status, code: entry.code.to_string() };
        let resolution = resolution
            .map(|seq| -> Result<String, OpenError> { Ok(Glance::at(seq, &self.entry(seq)?)?.resolution.to_string()) });
        Ok(End { told: Some(told), resolution: resolution.transpose()? })
    }

    /// All entries of a request, from its newest back to its first.
    fn request_with(&self, request_id: &str, found: Option<&Found>) -> Result<Entries, OpenError> {
        let mut entries = Vec::new();
        let mut begun = false;
        let mut see = |seq: u64, bytes: &[u8]| -> Result<bool, OpenError> {
            let entry = Glance::at(seq, bytes)?;
            if &*entry.request_id == request_id {
                entries.push((seq, bytes.to_vec()));
                begun = entry.decision().is_some();
            }
            Ok(begun)
        };
        let first = prune::first(&self.db)?;
        let cursor = found.map_or(first, |found| found.meta.cursor);
        self.backwards(cursor, database::length(&self.db)?, &mut see)?;
        if let Some(found) = found {
            let (width, term) = (found.meta.width, term("request_id", request_id));
            for segment in (first / width..cursor / width).rev() {
                if begun {
                    break;
                }
                let Some(set) = store::posting(&found.db, segment, term).map_err(|e| failed(&e))? else { continue };
                let seqs = set.offsets().rev().map(|offset| segment * width + u64::from(offset));
                for seq in seqs.take_while(|seq| *seq >= first) {
                    let bytes = self.entry(seq)?;
                    let entry = Glance::at(seq, &bytes)?;
                    if &*entry.request_id == request_id {
                        begun |= entry.decision().is_some();
                        entries.push((seq, bytes.clone()));
                    }
                }
            }
        }
        entries.reverse();
        Ok(entries)
    }

    fn stats_with(&self, span: Span, found: Option<&Found>) -> Result<Vec<Tally>, OpenError> {
        let length = database::length(&self.db)?;
        let mut sum = Sum::default();
        let first = prune::first(&self.db)?;
        let (mut open, mut next) = (HashMap::new(), first);
        // Counts cannot be cut: those that still have what was pruned are of no use.
        if let Some(found) = found.filter(|found| found.meta.base == first) {
            store::days(&found.db, span.days(), |day, caller, outcome, n| sum.add(day, caller, outcome, n))
                .map_err(|e| failed(&e))?;
            open = store::open_intents(&found.db).map_err(|e| failed(&e))?;
            next = found.meta.cursor;
        }
        while next < length {
            let entries = database::read(&self.db, next, length.min(next + READ_AT_MOST))?;
            for (seq, bytes) in &entries {
                let entry = Glance::at(*seq, bytes)?;
                count(*seq, &entry, &mut open, |day, caller, outcome, n| sum.add(day, caller, outcome, n));
            }
            next += READ_AT_MOST;
        }
        for Open { caller, day, .. } in open.values() {
            sum.add(*day, caller, "open", 1);
        }
        Ok(sum.of(span.days()))
    }
}

impl Reader for SqliteReader {
    fn length(&self) -> Result<u64, OpenError> {
        database::length(&self.db)
    }

    fn is_there(&self) -> bool {
        self.file.is_there()
    }

    fn pruned(&self) -> Result<Option<Pruned>, OpenError> {
        Ok(prune::beginning(&self.db)?.map(|(pruned, _)| pruned))
    }

    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        let from = from.max(prune::first(&self.db)?);
        database::read(&self.db, from, until.min(from.saturating_add(READ_AT_MOST)))
    }

    fn search(&self, query: &Query) -> Result<Page, OpenError> {
        self.either(|found| self.search_with(query, found))
    }

    fn request(&self, request_id: &str) -> Result<Entries, OpenError> {
        self.either(|found| self.request_with(request_id, found))
    }

    fn freezes(&self) -> Result<Freezes, OpenError> {
        let standing = standing::Standing::load(&self.db);
        standing
            .map(|standing| standing.freezes().clone())
            .map_err(|e| OpenError::Damaged(format!("the freezes cannot be read: {e}")))
    }

    fn stats(&self, span: Span) -> Result<Vec<Tally>, OpenError> {
        self.either(|found| self.stats_with(span, found))
    }
}

impl Tiles for SqliteReader {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        self.tree().and_then(|tree| tree.hashes(tile)).or_else(|error| {
            // Of what was pruned, the edge is kept beside the entries, too.
            prune::beginning(&self.db)?.map_or(Err(error), |(_, edge)| edge.hashes(tile))
        })
    }
}

impl ProofReader for SqliteReader {
    fn checkpoint(&self) -> Result<Option<String>, OpenError> {
        Ok(self.tree()?.signed()?.map(|signed| signed.note))
    }

    fn verifying_key(&self) -> Result<VerifyingKey, OpenError> {
        let signed = self.tree()?.signed()?;
        let signed =
            signed.ok_or_else(|| OpenError::Unusable("nothing of the ledger has been signed yet".to_owned()))?;
        VerifyingKey::parse(&signed.key).map_err(|fault| OpenError::Damaged(format!("tree.db: its key {fault}")))
    }

    fn has_tree(&self) -> bool {
        self.folder.join(tree_store::FILE).exists()
    }

    fn is_being_built(&self) -> Result<bool, OpenError> {
        Ok(self.has_tree() && self.tree()?.is_being_built()?)
    }

    fn search_data(&self) -> Result<Option<Box<dyn SearchData + '_>>, OpenError> {
        let Some((db, meta)) = store::open_to_compare(&self.folder, &self.db)? else { return Ok(None) };
        Ok(Some(Box::new(Comparing { ledger: &self.db, comparison: Comparison::new(&db, meta)? })))
    }

    fn standing(&self) -> Result<Option<Standing>, OpenError> {
        database::known(&self.db, &self.folder.join(database::FILE))?;
        if self.has_tree() {
            self.tree()?.known()?;
        }
        database::standing(&self.db).map(Some)
    }
}

/// Search data of a ledger whose entries are being read.
struct Comparing<'a> {
    ledger: &'a Connection,
    comparison: Comparison,
}

impl SearchData for Comparing<'_> {
    fn see(&mut self, seq: u64, entry: &Glance<'_>) -> Result<(), OpenError> {
        if self.comparison.covers().contains(&seq) {
            self.comparison.see(seq, entry);
        }
        Ok(())
    }

    fn done(self: Box<Self>) -> Result<u64, OpenError> {
        let covers = self.comparison.covers();
        match self.comparison.done() {
            Ok(()) => Ok(covers.end - covers.start),
            Err(_) if prune::first(self.ledger)? != covers.start => {
                Err(OpenError::Unusable("the ledger is being pruned; verify it again".to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

/// Search data of this ledger, as they were when it was opened.
struct Found {
    db: Connection,
    meta: Meta,
}
