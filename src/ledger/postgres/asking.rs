//! The reading side, beside the replicas or without one: through the search data where they reach, entry by entry where
//! they do not. What is answered is read from the entries.

use super::blocking::{Blocking, signed};
use super::session::{Fault, Role};
use crate::clock::Timestamp;
use crate::config;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::freeze::Freezes;
use crate::ledger::glance::{Glance, bare};
use crate::ledger::prune::Pruned;
use crate::ledger::search::{End, Filling, Page, Query};
use crate::ledger::stats::{Open, Span, Sum, Tally, count};
use crate::ledger::tree::Hash;
use crate::ledger::tree::proof::Tiles;
use crate::ledger::tree::tile::Tile;
use crate::ledger::verify::{SearchData, Standing};
use crate::ledger::{Entries, OpenError, ProofReader, READ_AT_MOST, Reader};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Error, Row};

/// How many candidates are looked at in one go.
const CANDIDATES: usize = 256;

/// Reads a ledger: one connection, which changes nothing. It waits, so it is for threads that may.
pub struct PostgresReader(pub(super) Blocking);

/// A candidate: a request's first entry, its outcome, its resolution.
type Candidate = (u64, Option<i64>, Option<i64>);

fn candidate(row: &Row) -> Result<Candidate, Error> {
    Ok((row.try_get::<_, i64>(0)?.cast_unsigned(), row.try_get(1)?, row.try_get(2)?))
}

/// A condition over `search.request` and its values. What comes out is a superset of what fits.
struct Wanted {
    conditions: String,
    values: Vec<String>,
}

impl Wanted {
    fn new(query: &Query) -> Self {
        let mut wanted = Self { conditions: String::new(), values: Vec::new() };
        wanted.same("request_id", query.request_id.as_deref());
        wanted.same("bare_group", query.group.as_deref().map(bare));
        wanted.same("session", query.session.as_deref());
        wanted.same("caller", query.caller.as_deref());
        wanted.same("decision", query.decision.as_deref());
        match query.outcome.as_deref() {
            Some("refused-here") => wanted.same("decision", Some("refused")),
            Some("dry-run") => wanted.same("decision", Some("dry-run")),
            Some(outcome) if !query.open => {
                wanted.values.push(outcome.to_owned());
                let place = wanted.values.len() + 2;
                let either = format!(" AND (outcome = ${place} OR outcome IS NULL AND decision = 'allowed')");
                wanted.conditions.push_str(&either);
            }
            _ => {}
        }
        if query.open {
            wanted.conditions.push_str(" AND NOT settled");
        }
        wanted
    }

    fn same(&mut self, column: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.values.push(value.to_owned());
            self.conditions.push_str(&format!(" AND {column} = ${}", self.values.len() + 2));
        }
    }
}

impl PostgresReader {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached, or holds no ledger.
    pub fn open(config: &config::Ledger) -> Result<Self, OpenError> {
        Blocking::open(super::place(config)?, Role::Reader).map(Self)
    }

    /// The connection.
    pub(super) fn db(&self) -> &Blocking {
        &self.0
    }

    /// How far the search data reach; `None`: they cannot be asked.
    fn cursor(&self) -> Option<u64> {
        let row = self.0.ask(async |client| {
            let row = client.query_typed_one("SELECT next FROM search.cursor", &[]).await?;
            row.try_get::<_, i64>(0)
        });
        row.ok().map(i64::cast_unsigned)
    }

    /// Asks with the search data; without, where there are none or they fail.
    fn either<T>(&self, ask: impl Fn(u64) -> Result<T, OpenError>) -> Result<T, OpenError> {
        match self.cursor().map(&ask) {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(_)) | None => ask(0),
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
            for (seq, bytes) in self.0.read(bottom, top)?.into_iter().rev() {
                if see(seq, &bytes)? {
                    return Ok(());
                }
            }
            (top, step) = (bottom, (step * 2).min(READ_AT_MOST));
        }
        Ok(())
    }

    /// The first entry at or after a time, which never runs backwards in the log.
    pub(super) fn first_at(&self, time: Timestamp, length: u64) -> Result<u64, OpenError> {
        let (mut low, mut high) = (self.0.first()?, length);
        while low < high {
            let middle = low + (high - low) / 2;
            let entries = self.0.read(middle, middle + 1)?;
            let gone = || OpenError::Damaged(format!("the ledger has no entry {middle}"));
            let (_, bytes) = entries.first().ok_or_else(gone)?;
            if Timestamp::parse(&Glance::at(middle, bytes)?.time).is_some_and(|is| is < time) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    fn search_with(&self, query: &Query, cursor: u64) -> Result<Page, OpenError> {
        let length = self.0.length()?;
        let cursor = cursor.min(length);
        let begin = query.since.map_or_else(|| self.0.first(), |since| self.first_at(since, length))?;
        let end = query.until.map_or(Ok(length), |until| self.first_at(until, length))?;
        let within = begin..query.before.map_or(end, |before| before.min(end));
        let mut filling = Filling::new(query, within.clone());
        if !filling.is_full() {
            self.backwards(cursor.max(begin), length, |seq, bytes| {
                filling.see(seq, bytes)?;
                Ok(filling.is_full())
            })?;
        }
        self.walk(query, within.start..within.end.min(cursor), &mut filling)?;
        Ok(filling.done(length.saturating_sub(cursor.max(begin))))
    }

    /// Candidates from the newest to the oldest; each is read and checked.
    fn walk(&self, query: &Query, within: Range<u64>, filling: &mut Filling<'_>) -> Result<(), OpenError> {
        let wanted = Wanted::new(query);
        let mut top = within.end;
        while top > within.start && !filling.is_full() {
            let found = self.candidates(&wanted, within.start..top)?;
            let Some((last, ..)) = found.last() else { return Ok(()) };
            top = *last;
            let seqs = found.iter().flat_map(|(first, outcome, resolution)| {
                [Some(first.cast_signed()), *outcome, *resolution].into_iter().flatten()
            });
            let entries: BTreeMap<u64, Vec<u8>> = self.0.entries(&seqs.collect::<Vec<_>>())?.into_iter().collect();
            for (seq, outcome, resolution) in found {
                let bytes = entry(&entries, seq)?;
                let first = Glance::at(seq, bytes)?;
                filling.judge(seq, &first, |newer| {
                    let newer = newer.get(&*first.request_id).cloned().unwrap_or_default();
                    Ok(newer.over(end(&entries, outcome, resolution)?))
                })?;
            }
        }
        Ok(())
    }

    fn candidates(&self, wanted: &Wanted, within: Range<u64>) -> Result<Vec<Candidate>, OpenError> {
        let sql = format!(
            "SELECT seq, outcome_seq, resolution_seq FROM search.request WHERE seq >= $1 AND seq < $2{} ORDER BY seq \
             DESC LIMIT {CANDIDATES}",
            wanted.conditions
        );
        let (from, until) = (signed(within.start), signed(within.end));
        let mut values: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&from, Type::INT8), (&until, Type::INT8)];
        values.extend(wanted.values.iter().map(|value| (value as &(dyn ToSql + Sync), Type::TEXT)));
        let rows = self.0.ask(async |client| client.query_typed(&sql, &values).await)?;
        rows.iter().map(candidate).collect::<Result<_, Error>>().map_err(|e| Fault::from(e).into())
    }

    /// All entries of a request, from its newest back to its first.
    fn request_with(&self, request_id: &str, cursor: u64) -> Result<Entries, OpenError> {
        const SQL: &str = "SELECT seq, outcome_seq, resolution_seq FROM search.request WHERE request_id = $1";
        let (mut entries, mut begun) = (BTreeMap::new(), false);
        self.backwards(cursor.max(self.0.first()?), self.0.length()?, |seq, bytes| {
            let entry = Glance::at(seq, bytes)?;
            if &*entry.request_id == request_id {
                entries.insert(seq, bytes.to_vec());
                begun = entry.decision().is_some();
            }
            Ok(begun)
        })?;
        if cursor > 0 && !begun {
            let rows = self.0.ask(async |client| client.query_typed(SQL, &[(&request_id, Type::TEXT)]).await)?;
            let mut seqs = Vec::new();
            for row in &rows {
                let (first, outcome, resolution) = candidate(row).map_err(Fault::from)?;
                seqs.extend([Some(first.cast_signed()), outcome, resolution].into_iter().flatten());
            }
            for (seq, bytes) in self.0.entries(&seqs)? {
                if &*Glance::at(seq, &bytes)?.request_id == request_id {
                    entries.insert(seq, bytes);
                }
            }
        }
        Ok(entries.into_iter().collect())
    }

    fn stats_with(&self, span: Span, cursor: u64) -> Result<Vec<Tally>, OpenError> {
        let length = self.0.length()?;
        let mut sum = Sum::default();
        let first = self.0.first()?;
        let (mut open, mut next) = (HashMap::new(), cursor.max(first));
        if cursor > 0 {
            let (days, unended, reach) = super::index::totals(&self.0, span.days())?;
            // Counts cannot be cut: those that still have what was pruned are of no use.
            if reach.start == first {
                days.iter().for_each(|(day, caller, outcome, n)| sum.add(*day, caller, outcome, *n));
                (open, next) = (unended, reach.end);
            } else {
                next = first;
            }
        }
        while next < length {
            for (seq, bytes) in &self.0.read(next, length)? {
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

fn entry(entries: &BTreeMap<u64, Vec<u8>>, seq: u64) -> Result<&[u8], OpenError> {
    let gone = || OpenError::Damaged(format!("the ledger has no entry {seq}"));
    entries.get(&seq).map(Vec::as_slice).ok_or_else(gone)
}

/// What came of an intent, as far as the search data know.
fn end(entries: &BTreeMap<u64, Vec<u8>>, outcome: Option<i64>, resolution: Option<i64>) -> Result<End, OpenError> {
    let mut end = End::default();
    for seq in [resolution, outcome].into_iter().flatten().map(i64::cast_unsigned) {
        end.see_older(&Glance::at(seq, entry(entries, seq)?)?);
    }
    Ok(end)
}

impl Reader for PostgresReader {
    fn length(&self) -> Result<u64, OpenError> {
        self.0.length()
    }

    fn pruned(&self) -> Result<Option<Pruned>, OpenError> {
        Ok(self.0.beginning()?.map(|(pruned, _)| pruned))
    }

    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError> {
        self.0.read(from.max(self.0.first()?), until)
    }

    fn search(&self, query: &Query) -> Result<Page, OpenError> {
        self.either(|cursor| self.search_with(query, cursor))
    }

    fn request(&self, request_id: &str) -> Result<Entries, OpenError> {
        self.either(|cursor| self.request_with(request_id, cursor))
    }

    fn freezes(&self) -> Result<Freezes, OpenError> {
        const SQL: &str = "SELECT body FROM ledger.frozen ORDER BY place";
        let rows = self.0.ask(async |client| client.query_typed(SQL, &[]).await)?;
        let texts: Result<Vec<String>, Error> = rows.iter().map(|row| row.try_get(0)).collect();
        Ok(super::batch::freezes(&texts.map_err(Fault::from)?)?)
    }

    fn stats(&self, span: Span) -> Result<Vec<Tally>, OpenError> {
        self.either(|cursor| self.stats_with(span, cursor))
    }
}

impl Tiles for PostgresReader {
    type Error = OpenError;

    fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, OpenError> {
        self.0.hashes(tile)
    }
}

impl ProofReader for PostgresReader {
    fn checkpoint(&self) -> Result<Option<String>, OpenError> {
        Ok(self.0.signed()?.and_then(|(note, _)| note))
    }

    fn verifying_key(&self) -> Result<VerifyingKey, OpenError> {
        let (_, key) = self.0.signed()?.ok_or_else(|| OpenError::Unusable(super::schema::MISSING.to_owned()))?;
        VerifyingKey::parse(&key).map_err(|fault| OpenError::Damaged(format!("the ledger's stored key {fault}")))
    }

    fn search_data(&self) -> Result<Option<Box<dyn SearchData + '_>>, OpenError> {
        Ok(super::index::Comparing::new(&self.0)?.map(|data| Box::new(data) as Box<dyn SearchData>))
    }

    fn standing(&self) -> Result<Option<Standing>, OpenError> {
        super::kept::read(&self.0).map(Some)
    }
}
