//! Takes what was pruned out of the search data, a segment at a time, while the entries are still there: what they count
//! is subtracted. Whatever cannot be taken out is thrown away as a whole, and built anew.

use super::posting::encode;
use super::store::{self, Meta, failed};
use super::{database, fill};
use crate::ledger::OpenError;
use crate::ledger::glance::Glance;
use crate::ledger::sqlite::follower::Forgot;
use crate::ledger::sqlite::prune;
use crate::ledger::stats::count;
use rusqlite::Connection;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

const BUSY: Duration = Duration::from_secs(5);

/// Takes out what is about entries before `first`, up to the end of one segment.
pub(super) fn before(folder: &Path, width: u64, first: u64) -> Result<Forgot, OpenError> {
    let ledger = database::open_to_read(folder)?;
    let (db, meta) = store::open_to_write(folder, &ledger, width)?;
    if meta.base >= first {
        let emptied = prune::empty(&db, BUSY).map_err(|e| failed(&e))?;
        return Ok(if emptied { Forgot::All } else { Forgot::Later });
    }
    let until = first.min((meta.base / width + 1) * width);
    let Some(days) = counted(&ledger, &db, meta.base, until)? else {
        drop(db);
        return store::throw_away(folder).map(|()| Forgot::All);
    };
    let hash = database::entry(&ledger, until)?.map(|bytes| store::hash(&bytes)).unwrap_or_default();
    let meta = Meta { base: until, first: hash, ..meta };
    let forget = || -> rusqlite::Result<()> {
        let change = db.unchecked_transaction()?;
        postings(&change, width, until)?;
        for table in ["ending", "open", "unknown", "unsettled"] {
            change.execute(&format!("DELETE FROM {table} WHERE seq < ?1"), [until.cast_signed()])?;
        }
        for ((day, caller, outcome), count) in days {
            let key = (day, caller, outcome, count.cast_signed());
            change.execute("UPDATE day SET count = count - ?4 WHERE (day, caller, outcome) = (?1, ?2, ?3)", key)?;
        }
        change.execute("DELETE FROM day WHERE count <= 0", [])?;
        fill::meta(&change, &meta)?;
        change.commit()
    };
    forget().map(|()| Forgot::More).map_err(|e| failed(&e))
}

/// The posting lists before `until`; those of its own segment lose their beginning.
fn postings(db: &Connection, width: u64, until: u64) -> rusqlite::Result<()> {
    let segment = until / width;
    db.execute("DELETE FROM posting WHERE segment < ?1", [segment.cast_signed()])?;
    let from = u16::try_from(until % width).unwrap_or(0);
    if from == 0 {
        return Ok(());
    }
    let mut statement = db.prepare("SELECT term FROM posting WHERE segment = ?1")?;
    let terms = statement.query_map([segment.cast_signed()], |row| row.get::<_, i64>(0))?;
    for term in terms.collect::<rusqlite::Result<Vec<i64>>>()? {
        let Some(set) = store::posting(db, segment, term)? else { continue };
        let kept: Vec<u16> = set.offsets().filter(|offset| *offset >= from).collect();
        db.execute("DELETE FROM posting WHERE segment = ?1 AND term = ?2", (segment.cast_signed(), term))?;
        if !kept.is_empty() {
            db.execute("INSERT INTO posting VALUES (?1, ?2, ?3)", (segment.cast_signed(), term, encode(&kept)))?;
        }
    }
    Ok(())
}

/// What these entries have added to the counts. `None`: they are not all there any more.
#[expect(clippy::type_complexity, reason = "the key of the table")]
fn counted(
    ledger: &Connection,
    db: &Connection,
    from: u64,
    until: u64,
) -> Result<Option<BTreeMap<(i64, String, String), u64>>, OpenError> {
    let entries = database::read(ledger, from, until)?;
    if u64::try_from(entries.len()).ok() != Some(until - from) {
        return Ok(None);
    }
    let (mut days, mut open) = (BTreeMap::new(), HashMap::new());
    let mut add = |day: i64, caller: &str, outcome: &str, n: u64| {
        *days.entry((day, caller.to_owned(), outcome.to_owned())).or_default() += n;
    };
    for (seq, bytes) in &entries {
        count(*seq, &Glance::at(*seq, bytes)?, &mut open, &mut add);
    }
    // Intents that ended after these entries.
    for intent in open.into_values() {
        let Some((outcome, _)) = store::ending(db, intent.seq).map_err(|e| failed(&e))? else { continue };
        let Some(bytes) = database::entry(ledger, outcome)? else { return Ok(None) };
        add(intent.day, &intent.caller, &Glance::at(outcome, &bytes)?.outcome, 1);
    }
    Ok(Some(days))
}
