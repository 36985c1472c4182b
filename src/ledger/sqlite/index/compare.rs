//! Whether the search data say exactly what the entries before their cursor say.
//!
//! Both sides are read once, in any order, and added up: each row is hashed with a key that is made for this one
//! comparison, so nobody can prepare rows whose sums agree.

use super::posting::list;
use super::store::{self, Meta, failed};
use super::{Open, Waiting};
use crate::ledger::OpenError;
use crate::ledger::glance::Glance;
use rusqlite::{Connection, Row};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

/// The tables beside the postings, and what a row of them is.
const TABLES: [(&str, &str); 5] = [
    ("ending", "SELECT seq, outcome, resolution FROM ending"),
    ("open", "SELECT seq, day, NULL, request_id, caller FROM open"),
    ("unknown", "SELECT seq, NULL, NULL, request_id FROM unknown"),
    ("unsettled", "SELECT seq FROM unsettled"),
    ("day", "SELECT day, count, NULL, caller, outcome FROM day"),
];
const ENDING: usize = 0;
const OPEN: usize = 1;
const UNKNOWN: usize = 2;
const UNSETTLED: usize = 3;
const DAY: usize = 4;

/// What rows add up to.
#[derive(Clone, PartialEq, Eq)]
struct Sums {
    /// For each segment.
    postings: Vec<u64>,
    tables: [u64; 5],
}

/// The side of the search data, read; the side of the entries, being read.
pub(in crate::ledger::sqlite) struct Comparison {
    key: RandomState,
    meta: Meta,
    stored: Sums,
    meant: Sums,
    waiting: Waiting,
    open: HashMap<String, Open>,
    /// Intents with an unknown outcome, by request id: intent, outcome, newest resolution, and whether that settles it.
    unknown: HashMap<String, (u64, u64, Option<u64>, bool)>,
}

impl Comparison {
    /// Reads the search data.
    pub(in crate::ledger::sqlite) fn new(db: &Connection, meta: Meta) -> Result<Self, OpenError> {
        let segments = usize::try_from(meta.cursor / meta.width.max(1)).unwrap_or(0);
        let none = Sums { postings: vec![0; segments], tables: [0; 5] };
        let key = RandomState::new();
        let stored = stored(db, &key, none.clone())?;
        let (waiting, open, unknown) = (Waiting::default(), HashMap::new(), HashMap::new());
        Ok(Self { key, meta, stored, meant: none, waiting, open, unknown })
    }

    /// Which entries the search data cover: these have to be seen.
    pub(in crate::ledger::sqlite) fn covers(&self) -> Range<u64> {
        self.meta.base..self.meta.cursor
    }

    /// Takes the next entry in.
    pub(in crate::ledger::sqlite) fn see(&mut self, seq: u64, entry: &Glance<'_>) {
        self.waiting.see(seq, entry, self.meta.width, &mut self.open);
        let Waiting { postings, outcomes, resolutions, .. } = &mut self.waiting;
        for (segment, term, offset) in postings.drain(..) {
            if let Some(sum) = usize::try_from(segment).ok().and_then(|at| self.meant.postings.get_mut(at)) {
                add(sum, self.key.hash_one((term, offset)));
            }
        }
        for (intent, outcome, unknown) in outcomes.drain(..) {
            match unknown {
                Some(request_id) => drop(self.unknown.insert(request_id, (intent, outcome, None, false))),
                None => row(&self.key, &mut self.meant, ENDING, [Some(intent), Some(outcome), None], ""),
            }
        }
        for (request_id, resolution, settles) in resolutions.drain(..) {
            if let Some((_, _, newest, settled)) = self.unknown.get_mut(&request_id) {
                (*newest, *settled) = (Some(resolution), settles);
            }
        }
    }

    /// Compares, once all entries before the cursor were seen.
    ///
    /// # Errors
    /// Names the entries or the table that the search data are wrong about.
    pub(in crate::ledger::sqlite) fn done(mut self) -> Result<(), OpenError> {
        let (key, meant) = (&self.key, &mut self.meant);
        for (request_id, (intent, outcome, resolution, settled)) in self.unknown {
            row(key, meant, ENDING, [Some(intent), Some(outcome), resolution], "");
            row(key, meant, UNKNOWN, [Some(intent), None, None], &request_id);
            if !settled {
                row(key, meant, UNSETTLED, [Some(intent), None, None], "");
            }
        }
        for (request_id, Open { seq, caller, day }) in self.open {
            row(key, meant, OPEN, [Some(seq), Some(day.cast_unsigned()), None], &texts(&request_id, &caller));
        }
        for ((day, caller, outcome), count) in self.waiting.days {
            row(key, meant, DAY, [Some(day.cast_unsigned()), Some(count), None], &texts(&caller, &outcome));
        }
        let differs = (0_u64..).zip(self.stored.postings.iter().zip(&self.meant.postings)).find(|(_, (a, b))| a != b);
        if let Some((segment, _)) = differs {
            let first = segment * self.meta.width;
            return Err(wrong(&format!("for entries {first} to {}", first + self.meta.width - 1)));
        }
        let tables = TABLES.iter().zip(self.stored.tables.iter().zip(&self.meant.tables));
        let differs = tables.into_iter().find(|(_, (stored, meant))| stored != meant);
        differs.map_or(Ok(()), |((name, _), _)| Err(wrong(&format!("in the table `{name}`"))))
    }
}

fn wrong(place: &str) -> OpenError {
    OpenError::Damaged(format!(
        "the search data {place} do not say what the entries say: they were changed, or are damaged; the entries are \
         whole, and audit reindex builds the search data anew from them"
    ))
}

/// Two texts as one, so that no other two are the same.
fn texts(one: &str, other: &str) -> String {
    format!("{}:{one}{other}", one.len())
}

fn add(sum: &mut u64, value: u64) {
    *sum = sum.wrapping_add(value);
}

fn row(key: &RandomState, sums: &mut Sums, table: usize, numbers: [Option<u64>; 3], text: &str) {
    if let Some(sum) = sums.tables.get_mut(table) {
        add(sum, key.hash_one((numbers, text)));
    }
}

/// The sums of what is stored.
fn stored(db: &Connection, key: &RandomState, mut sums: Sums) -> Result<Sums, OpenError> {
    store::each(db, "SELECT segment, term, seqs FROM posting", |row| {
        let (segment, term): (i64, i64) = (row.get(0)?, row.get(1)?);
        let sum = usize::try_from(segment).ok().and_then(|at| sums.postings.get_mut(at));
        let (Some(sum), Some(offsets)) = (sum, list(row.get_ref(2)?.as_blob().unwrap_or_default())) else {
            return Ok(false);
        };
        offsets.iter().for_each(|offset| add(sum, key.hash_one((term, *offset))));
        Ok(true)
    })
    .map_err(|e| failed(&e))?
    .then_some(())
    .ok_or_else(|| wrong("in the table `posting`"))?;
    for (table, (_, sql)) in TABLES.iter().enumerate() {
        store::each(db, sql, |found| {
            let (numbers, text) = parts(found)?;
            row(key, &mut sums, table, numbers, &text);
            Ok(true)
        })
        .map_err(|e| failed(&e))?;
    }
    Ok(sums)
}

/// Up to three numbers, and up to two texts behind them.
fn parts(row: &Row<'_>) -> rusqlite::Result<([Option<u64>; 3], String)> {
    let columns = row.as_ref().column_count();
    let number = |at: usize| -> rusqlite::Result<Option<u64>> {
        if at < columns { row.get::<_, Option<i64>>(at).map(|n| n.map(i64::cast_unsigned)) } else { Ok(None) }
    };
    let numbers = [number(0)?, number(1)?, number(2)?];
    let text = match columns {
        4 => row.get(3)?,
        5 => texts(&row.get::<_, String>(3)?, &row.get::<_, String>(4)?),
        _ => String::new(),
    };
    Ok((numbers, text))
}
