//! The search data: posting lists in ordered segments, so that every insert goes to the right edge of its
//! table. It is a function of the entries before its cursor and holds nothing that they do not.
//!
//! A posting list names each request's first entry, and under `request_id` all of a request's entries. What
//! came later (an outcome, a resolution) is found from the first entry through `ending`.

pub(super) mod compare;
mod forget;
pub(super) mod posting;
pub(super) mod store;

use super::database;
use super::follower::{Follow, Forgot};
use crate::ledger::OpenError;
use crate::ledger::glance::Glance;
use crate::ledger::stats::{Open, count};
use posting::{Recent, SEGMENT, term};
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use store::{Meta, failed};

/// The filling side.
pub(super) struct Index {
    folder: PathBuf,
    width: u64,
    filling: Option<Filling>,
}

struct Filling {
    db: Connection,
    meta: Meta,
    next: u64,
    /// Intents without an outcome, by request id.
    open: HashMap<String, Open>,
    waiting: Waiting,
}

/// What the segment that is being read adds, written when it is whole.
#[derive(Default)]
struct Waiting {
    postings: Vec<(u64, i64, u16)>,
    /// Intent, where its outcome stands, and whether that is `unknown`.
    outcomes: Vec<(u64, u64, Option<String>)>,
    /// Request id, where its resolution stands, and whether that settles it.
    resolutions: Vec<(String, u64, bool)>,
    days: BTreeMap<(i64, String, String), u64>,
    recent: Recent,
}

impl Index {
    pub(super) fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), width: SEGMENT, filling: None }
    }

    #[cfg(test)]
    pub(super) fn with_width(folder: &Path, width: u64) -> Self {
        Self { width, ..Self::new(folder) }
    }

    fn open(&mut self) -> Result<(), OpenError> {
        let ledger = database::open_to_read(&self.folder)?;
        let (db, meta) = store::open_to_write(&self.folder, &ledger, self.width)?;
        let open = store::open_intents(&db).map_err(|e| failed(&e))?;
        self.filling = Some(Filling { db, next: meta.cursor, meta, open, waiting: Waiting::default() });
        Ok(())
    }
}

impl Follow for Index {
    fn name(&self) -> &'static str {
        "the search data"
    }

    fn trouble(&self) -> &'static str {
        "search-not-filled"
    }

    fn next(&self) -> u64 {
        self.filling.as_ref().map_or(u64::MAX, |filling| filling.next)
    }

    fn take(&mut self, _first: u64, entries: &[Vec<u8>]) -> Result<(), OpenError> {
        let Some(filling) = &mut self.filling else { return Ok(()) };
        let taken = entries.iter().try_for_each(|bytes| filling.take(bytes));
        if let Err(error) = &taken {
            // What is half done is forgotten: the next opening goes on from the last whole segment.
            self.filling = None;
            if matches!(error, OpenError::Damaged(_)) {
                store::throw_away(&self.folder)?;
            }
        }
        taken
    }

    fn forget(&mut self, first: u64) -> Result<Forgot, OpenError> {
        // What waits is read again: it may be about intents that are gone.
        self.filling = None;
        forget::before(&self.folder, self.width, first)
    }

    fn rest(&mut self, _ended: bool) -> Result<(), OpenError> {
        if self.filling.is_some() { Ok(()) } else { self.open() }
    }
}

impl Filling {
    fn take(&mut self, bytes: &[u8]) -> Result<(), OpenError> {
        let seq = self.next;
        // An entry that cannot be read is the ledger's fault, not ours: nothing here is thrown away for it.
        let entry = Glance::at(seq, bytes).map_err(|e| OpenError::Unusable(e.to_string()))?;
        self.waiting.see(seq, &entry, self.meta.width, &mut self.open);
        self.next += 1;
        if seq == self.meta.base {
            self.meta.first = store::hash(bytes);
        }
        if self.next.is_multiple_of(self.meta.width) {
            self.meta.last = store::hash(bytes);
            self.write().map_err(|e| failed(&e))?;
        }
        Ok(())
    }

    /// One transaction for a whole segment, together with the cursor.
    fn write(&mut self) -> rusqlite::Result<()> {
        let Waiting { mut postings, outcomes, resolutions, days, .. } = std::mem::take(&mut self.waiting);
        let (from, until) = (self.meta.cursor, self.next);
        let newest = from / self.meta.width;
        let transaction = self.db.transaction()?;
        postings.sort_unstable();
        postings.dedup();
        for list in postings.chunk_by(|a, b| (a.0, a.1) == (b.0, b.1)) {
            let Some((segment, term, _)) = list.first().copied() else { continue };
            let offsets: Vec<u16> = list.iter().map(|(_, _, offset)| *offset).collect();
            if segment == newest {
                store::post(&transaction, segment, term, &offsets)?;
            } else {
                store::merge(&transaction, segment, term, &offsets)?;
            }
        }
        fill::outcomes(&transaction, outcomes, from)?;
        fill::resolutions(&transaction, resolutions)?;
        fill::days(&transaction, days)?;
        fill::open(&transaction, self.open.iter().filter(|(_, open)| open.seq >= from))?;
        let meta = Meta { cursor: until, ..self.meta.clone() };
        fill::meta(&transaction, &meta)?;
        transaction.commit()?;
        self.meta = meta;
        Ok(())
    }
}

impl Waiting {
    fn see(&mut self, seq: u64, entry: &Glance<'_>, width: u64, open: &mut HashMap<String, Open>) {
        let recent = &mut self.recent;
        let mut post = |seq: u64, field: &'static str, value: &str| {
            if !value.is_empty() {
                // Ids hardly come twice.
                let is_word = !matches!(field, "request_id" | "group");
                let term = if is_word { recent.term(field, value) } else { term(field, value) };
                self.postings.push((seq / width, term, u16::try_from(seq % width).unwrap_or(0)));
            }
        };
        post(seq, "request_id", &entry.request_id);
        if let Some(decision) = entry.decision() {
            post(seq, "decision", decision);
            post(seq, "caller", &entry.caller);
            post(seq, "session", &entry.session);
            post(seq, "group", entry.bare_group());
        }
        let days = &mut self.days;
        let ended = count(seq, entry, open, |day, caller, outcome, n| {
            *days.entry((day, caller.to_owned(), outcome.to_owned())).or_default() += n;
        });
        if let Some(intent) = ended {
            post(intent.seq, "outcome", &entry.outcome);
            let unknown = (&*entry.outcome == "unknown").then(|| entry.request_id.to_string());
            self.outcomes.push((intent.seq, seq, unknown));
        }
        if &*entry.kind == "resolution" {
            let settles = &*entry.resolution != "indeterminate";
            self.resolutions.push((entry.request_id.to_string(), seq, settles));
        }
    }
}

/// What a whole segment writes beside its postings.
mod fill {
    use super::{BTreeMap, Meta, Open, store};
    use rusqlite::Connection;

    /// Outcomes, and those of them that are unknown; `from` is the old cursor.
    pub(super) fn outcomes(
        db: &Connection,
        outcomes: Vec<(u64, u64, Option<String>)>,
        from: u64,
    ) -> rusqlite::Result<()> {
        let mut outcomes = outcomes;
        outcomes.sort_unstable();
        for (intent, outcome, unknown) in outcomes {
            let mut ending = db.prepare_cached("INSERT OR REPLACE INTO ending VALUES (?1, ?2, NULL)")?;
            ending.execute([intent.cast_signed(), outcome.cast_signed()])?;
            if intent < from {
                db.prepare_cached("DELETE FROM open WHERE seq = ?1")?.execute([intent.cast_signed()])?;
            }
            if let Some(request_id) = unknown {
                let mut unknown = db.prepare_cached("INSERT OR REPLACE INTO unknown VALUES (?1, ?2)")?;
                unknown.execute((request_id, intent.cast_signed()))?;
                db.prepare_cached("INSERT OR IGNORE INTO unsettled VALUES (?1)")?.execute([intent.cast_signed()])?;
            }
        }
        Ok(())
    }

    /// Resolutions of unknown outcomes, in their order: the newest one holds.
    pub(super) fn resolutions(db: &Connection, resolutions: Vec<(String, u64, bool)>) -> rusqlite::Result<()> {
        for (request_id, seq, settles) in resolutions {
            let Some(intent) = store::unknown(db, &request_id)? else { continue };
            let mut ending = db.prepare_cached("UPDATE ending SET resolution = ?2 WHERE seq = ?1")?;
            ending.execute([intent.cast_signed(), seq.cast_signed()])?;
            let sql = if settles {
                "DELETE FROM unsettled WHERE seq = ?1"
            } else {
                "INSERT OR IGNORE INTO unsettled VALUES (?1)"
            };
            db.prepare_cached(sql)?.execute([intent.cast_signed()])?;
        }
        Ok(())
    }

    pub(super) fn days(db: &Connection, days: BTreeMap<(i64, String, String), u64>) -> rusqlite::Result<()> {
        for ((day, caller, outcome), count) in days {
            let mut statement = db.prepare_cached(
                "INSERT INTO day VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO UPDATE SET count = count + excluded.count",
            )?;
            statement.execute((day, caller, outcome, count.cast_signed()))?;
        }
        Ok(())
    }

    pub(super) fn open<'a>(
        db: &Connection,
        open: impl Iterator<Item = (&'a String, &'a Open)>,
    ) -> rusqlite::Result<()> {
        for (request_id, open) in open {
            let mut statement = db.prepare_cached("INSERT INTO open VALUES (?1, ?2, ?3, ?4)")?;
            statement.execute((open.seq.cast_signed(), request_id, &open.caller, open.day))?;
        }
        Ok(())
    }

    pub(super) fn meta(db: &Connection, meta: &Meta) -> rusqlite::Result<()> {
        let mut statement = db.prepare_cached("UPDATE meta SET base = ?1, cursor = ?2, first = ?3, last = ?4")?;
        statement.execute((meta.base.cast_signed(), meta.cursor.cast_signed(), &meta.first, &meta.last)).map(drop)
    }
}

#[cfg(test)]
mod tests;
