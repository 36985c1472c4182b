//! Whether the search data say exactly what the entries before their cursor say: every row that these lead to, and no other.

use super::{Adds, reach, totals};
use crate::ledger::glance::Glance;
use crate::ledger::postgres::blocking::{Blocking, signed};
use crate::ledger::stats::Open;
use crate::ledger::verify::SearchData;
use crate::ledger::{OpenError, READ_AT_MOST};
use std::collections::{HashMap, HashSet};
use tokio_postgres::types::Type;

const BEGUN_AS: &str = "
    SELECT min(a.seq) FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[])
        AS a (seq, request_id, decision, caller, session, bare_group, day)
    LEFT JOIN search.request r ON r.seq = a.seq
    WHERE (r.request_id, r.decision, r.caller, r.session, r.bare_group, r.day)
        IS DISTINCT FROM (a.request_id, a.decision, a.caller, a.session, a.bare_group, a.day)";
const ENDED_AS: &str = "
    SELECT min(a.seq) FROM unnest($1::int8[], $2::text[], $3::int8[]) AS a (seq, outcome, outcome_seq)
    LEFT JOIN search.request r ON r.seq = a.seq
    WHERE (r.outcome, r.outcome_seq) IS DISTINCT FROM (a.outcome, a.outcome_seq)";
/// How many rows there are, with an outcome and with a resolution, among the entries before one; and how many contradict
/// themselves, or speak of entries that are not covered.
const ROWS: &str = "
    SELECT count(*) FILTER (WHERE seq < $1), count(*) FILTER (WHERE seq < $1 AND outcome_seq < $1),
        count(*) FILTER (WHERE seq < $1 AND resolution_seq < $1), count(*) FILTER (WHERE
            (outcome IS NULL) <> (outcome_seq IS NULL) OR greatest(seq, outcome_seq, resolution_seq) >= c.next
            OR (resolution_seq IS NULL AND settled <> (decision <> 'allowed' OR coalesce(outcome <> 'unknown', false))))
    FROM search.request, search.cursor c";
/// Where there is no row, the request was pruned, or [`BEGUN_AS`] has found it.
const RESOLVED_AS: &str = "
    SELECT min(a.resolution_seq) FROM unnest($1::text[], $2::text[], $3::int8[])
        AS a (request_id, resolution, resolution_seq)
    JOIN search.request r ON r.request_id = a.request_id AND r.decision = 'allowed'
    WHERE (r.resolution_seq, r.settled) IS DISTINCT FROM (a.resolution_seq, a.resolution <> 'indeterminate')";

/// Search data held against the entries that are being read: every row that they lead to, and no other.
pub(in crate::ledger::postgres) struct Comparing<'a> {
    db: &'a Blocking,
    /// What was counted when the comparison began, and which entries that covers.
    counted: Vec<(i64, String, String, u64)>,
    reach: std::ops::Range<u64>,
    adds: Adds,
    open: HashMap<String, Open>,
    /// How many rows the entries lead to, how many of them have an outcome, and how many a resolution.
    rows: [i64; 3],
    /// Requests with a row, an unknown outcome and no resolution.
    unknown: HashSet<String>,
}

impl<'a> Comparing<'a> {
    /// `None`: there are none yet.
    pub(in crate::ledger::postgres) fn new(db: &'a Blocking) -> Result<Option<Self>, OpenError> {
        let (counted, _, reach) = totals(db, (i64::MIN, i64::MAX))?;
        let any = !reach.is_empty();
        let (adds, open, unknown) = (Adds::default(), HashMap::new(), HashSet::new());
        Ok(any.then_some(Self { db, counted, reach, adds, open, rows: [0; 3], unknown }))
    }

    /// Compares the rows of the entries that were seen since the last time.
    fn compare(&mut self) -> Result<(), OpenError> {
        let days = std::mem::take(&mut self.adds.days);
        let adds = std::mem::replace(&mut self.adds, Adds { days, ..Adds::default() });
        let (seqs, [ids, decisions, callers, sessions, groups], days) = &adds.begun;
        let (ended, resolved) = (&adds.ended, &adds.resolved);
        let differs = self.db.ask(async |client| {
            let begun = client.query_one(BEGUN_AS, &[seqs, ids, decisions, callers, sessions, groups, days]).await?;
            let ended = client.query_one(ENDED_AS, &[&ended.0, &ended.1, &ended.2]).await?;
            let resolved = client.query_one(RESOLVED_AS, &[&resolved.0, &resolved.1, &resolved.2]).await?;
            let first = [begun.try_get::<_, Option<i64>>(0)?, ended.try_get(0)?, resolved.try_get(0)?];
            Ok(first.into_iter().flatten().min())
        });
        if let Some(seq) = differs? {
            let words = format!("the search data are wrong about entry {seq}; audit reindex mends them");
            return Err(OpenError::Damaged(words));
        }
        let [rows, with_outcome, with_resolution] = &mut self.rows;
        *rows += seqs.len() as i64;
        *with_outcome += ended.0.len() as i64;
        // A resolution of what was pruned has no row.
        *with_resolution += resolved.0.iter().filter(|id| self.unknown.remove(*id)).count() as i64;
        Ok(())
    }

    /// Where what they are about was pruned meanwhile, or they were begun anew, what was found says nothing.
    fn unless_changed(&self, compared: Result<(), OpenError>) -> Result<(), OpenError> {
        if compared.is_ok() {
            return compared;
        }
        if self.db.first()? != self.reach.start {
            return Err(OpenError::Unusable("the ledger is being pruned; verify it again".to_owned()));
        }
        let (base, next) = reach(self.db)?;
        if base != self.reach.start || next < self.reach.end {
            let words = "the search data were begun anew meanwhile; verify it again";
            return Err(OpenError::Unusable(words.to_owned()));
        }
        compared
    }

    fn compare_counts(&self) -> Result<(), OpenError> {
        let counts = |((day, caller, outcome), n): (&(i64, String, String), &i64)| {
            (*day, caller.clone(), outcome.clone(), n.cast_unsigned())
        };
        let (mut stored, meant) = (self.counted.clone(), self.adds.days.iter().map(counts));
        stored.sort_unstable();
        if !meant.eq(stored) {
            let words = "the counts of the search data are not what the entries lead to; audit reindex mends them";
            return Err(OpenError::Damaged(words.to_owned()));
        }
        let rows = self.db.ask(async |client| {
            let row = client.query_typed_one(ROWS, &[(&signed(self.reach.end), Type::INT8)]).await?;
            Ok(([row.try_get(0)?, row.try_get(1)?, row.try_get(2)?], row.try_get::<_, i64>(3)?))
        });
        let (rows, strange) = rows?;
        if (rows, strange) == (self.rows, 0) {
            return Ok(());
        }
        let what = if strange > 0 {
            format!("{strange} rows that no entry leads to")
        } else {
            "other rows than the entries lead to".to_owned()
        };
        Err(OpenError::Damaged(format!("the search data have {what}; audit reindex mends them")))
    }
}

impl SearchData for Comparing<'_> {
    fn see(&mut self, seq: u64, entry: &Glance<'_>) -> Result<(), OpenError> {
        if self.reach.contains(&seq) {
            self.adds.see(seq, entry, &mut self.open);
            // One whose intent was pruned has no row.
            if &*entry.outcome == "unknown" && self.adds.ended.2.last() == Some(&seq.cast_signed()) {
                self.unknown.insert(entry.request_id.to_string());
            }
            if (seq + 1 - self.reach.start).is_multiple_of(READ_AT_MOST) {
                let compared = self.compare();
                return self.unless_changed(compared);
            }
        }
        Ok(())
    }

    fn done(mut self: Box<Self>) -> Result<u64, OpenError> {
        let compared = self.compare().and_then(|()| self.compare_counts());
        self.unless_changed(compared)?;
        Ok(self.reach.end - self.reach.start)
    }
}
