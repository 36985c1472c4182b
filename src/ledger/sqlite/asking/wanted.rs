//! A question as the search data are asked it, a segment at a time.

use super::Found;
use crate::ledger::OpenError;
use crate::ledger::glance::bare;
use crate::ledger::search::{End, Query};
use crate::ledger::sqlite::index::posting::{Set, term};
use crate::ledger::sqlite::index::store::{self, failed};
use std::collections::{BTreeSet, HashMap};

/// What a segment is asked for. The entries that come out of it are candidates: a superset of what fits.
pub(super) struct Wanted {
    /// Each must be there. Rare ones first, since the first that is absent ends it.
    all: Vec<i64>,
    /// One of them must be there, or the intent is one of `seqs` or unsettled; empty: no such condition.
    any: Vec<i64>,
    /// Intents whose end lies beyond the cursor or changed there.
    seqs: Option<BTreeSet<u64>>,
    unsettled: bool,
}

impl Wanted {
    pub(super) fn new(query: &Query, found: &Found, newer: &HashMap<String, End>) -> Result<Self, OpenError> {
        let mut all = Vec::new();
        let mut must = |field: &str, value: Option<&str>| all.extend(value.map(|value| term(field, value)));
        must("request_id", query.request_id.as_deref());
        must("group", query.group.as_deref().map(bare));
        must("session", query.session.as_deref());
        let mut wanted = Self { all: Vec::new(), any: Vec::new(), seqs: None, unsettled: query.open };
        match query.outcome.as_deref() {
            Some("refused-here") => must("decision", Some("refused")),
            Some("dry-run") => must("decision", Some("dry-run")),
            Some(outcome) if !query.open => {
                wanted.any.push(term("outcome", outcome));
                wanted.seqs = Some(BTreeSet::new());
            }
            _ => {}
        }
        must("caller", query.caller.as_deref());
        must("decision", query.decision.as_deref());
        wanted.all = all;
        if query.open || wanted.seqs.is_some() {
            let open = store::open_intents(&found.db).map_err(|e| failed(&e))?;
            let mut seqs: BTreeSet<u64> = open.values().map(|open| open.seq).collect();
            if query.open {
                for (request_id, _) in newer.iter().filter(|(_, end)| end.resolution.is_some()) {
                    seqs.extend(store::unknown(&found.db, request_id).map_err(|e| failed(&e))?);
                }
            }
            wanted.seqs = Some(seqs);
        } else if wanted.all.is_empty() {
            wanted.any = ["allowed", "refused", "dry-run"].map(|decision| term("decision", decision)).to_vec();
        }
        Ok(wanted)
    }

    pub(super) fn in_segment(&self, found: &Found, segment: u64) -> rusqlite::Result<Option<Set>> {
        let mut set: Option<Set> = None;
        if !self.any.is_empty() || self.seqs.is_some() {
            set = Some(self.one_of(found, segment)?).filter(|set| !set.is_empty());
            if set.is_none() {
                return Ok(None);
            }
        }
        for term in &self.all {
            let Some(list) = store::posting(&found.db, segment, *term)? else { return Ok(None) };
            match &mut set {
                Some(set) => set.and(&list),
                None => set = Some(list),
            }
        }
        Ok(set)
    }

    fn one_of(&self, found: &Found, segment: u64) -> rusqlite::Result<Set> {
        let mut set = Set::empty();
        for term in &self.any {
            if let Some(list) = store::posting(&found.db, segment, *term)? {
                set.or(&list);
            }
        }
        let (from, until) = (segment * found.meta.width, (segment + 1) * found.meta.width);
        let mut add = |seq: u64| set.insert(u16::try_from(seq - from).unwrap_or(0));
        self.seqs.iter().flat_map(|seqs| seqs.range(from..until)).for_each(|seq| add(*seq));
        if self.unsettled {
            store::unsettled(&found.db, from, until)?.into_iter().for_each(add);
        }
        Ok(set)
    }
}
