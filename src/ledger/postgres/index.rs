//! The search data: a row a request, filled behind the commits by the keeper. They are a function of the entries before
//! the cursor and hold nothing that those do not.

mod compare;

pub(super) use compare::Comparing;

use super::blocking::{Blocking, signed};
use super::session::Fault;
use crate::clock::Timestamp;
use crate::ledger::glance::Glance;
use crate::ledger::stats::{Open, count};
use crate::ledger::{OpenError, READ_AT_MOST};
use std::collections::{BTreeMap, HashMap};
use tokio_postgres::Error;
use tokio_postgres::types::{ToSql, Type};

/// From where the log begins.
const BEGIN_ANEW: &str = "
    TRUNCATE search.request, search.day;
    UPDATE search.cursor SET (next, base) = (SELECT f, f FROM (
        SELECT coalesce((SELECT first FROM ledger.pruned WHERE state > 0 ORDER BY seq DESC LIMIT 1), 0) AS f) a)";
/// What was counted of requests before an entry because of what became of them behind it.
const ENDED_LATER: &str = "
    SELECT day, caller, outcome, count(*) FROM search.request WHERE seq < $1 AND outcome_seq >= $1 AND outcome_seq < $2
    GROUP BY 1, 2, 3";
const BEGUN: &str = "
    INSERT INTO search.request (seq, request_id, decision, caller, session, bare_group, day, settled)
    SELECT *, decision <> 'allowed' FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
        $7::int8[]) AS a (seq, request_id, decision, caller, session, bare_group, day)";
const ENDED: &str = "
    UPDATE search.request r SET outcome = a.outcome, outcome_seq = a.outcome_seq, settled = a.outcome <> 'unknown'
    FROM unnest($1::int8[], $2::text[], $3::int8[]) AS a (seq, outcome, outcome_seq) WHERE r.seq = a.seq";
const RESOLVED: &str = "
    UPDATE search.request r SET resolution_seq = a.resolution_seq, settled = a.resolution <> 'indeterminate'
    FROM unnest($1::text[], $2::text[], $3::int8[]) AS a (request_id, resolution, resolution_seq)
    WHERE r.request_id = a.request_id AND r.decision = 'allowed'";
const COUNTED: &str = "
    INSERT INTO search.day AS d (day, caller, outcome, count)
    SELECT * FROM unnest($1::int8[], $2::text[], $3::text[], $4::int8[])
    ON CONFLICT (day, caller, outcome) DO UPDATE SET count = d.count + excluded.count";
const OPEN: &str = "SELECT request_id, seq, caller, day FROM search.request WHERE decision = 'allowed' AND NOT settled
    AND outcome IS NULL";
const DAYS: &str = "SELECT day, caller, outcome, count FROM search.day WHERE day BETWEEN $1 AND $2";

/// Counts of some days, intents without an outcome, and from where to where both reach.
type Totals = (Vec<(i64, String, String, u64)>, HashMap<String, Open>, std::ops::Range<u64>);

/// The filling side, of the replica that keeps.
#[derive(Default)]
pub(super) struct Index {
    /// The entry that is wanted next; `None`: what was filled so far has to be read first.
    next: Option<u64>,
    /// Intents without an outcome, by request id.
    open: HashMap<String, Open>,
}

/// What one batch of entries adds, column by column.
#[derive(Default)]
struct Adds {
    begun: (Vec<i64>, [Vec<String>; 5], Vec<i64>),
    ended: (Vec<i64>, Vec<String>, Vec<i64>),
    resolved: (Vec<String>, Vec<String>, Vec<i64>),
    days: BTreeMap<(i64, String, String), i64>,
}

fn open_intents(rows: &[tokio_postgres::Row]) -> Result<HashMap<String, Open>, Error> {
    let open = rows.iter().map(|row| {
        let seq = row.try_get::<_, i64>(1)?.cast_unsigned();
        Ok((row.try_get(0)?, Open { seq, caller: row.try_get(2)?, day: row.try_get(3)? }))
    });
    open.collect()
}

/// What is counted, read from one state of the search data.
pub(super) fn totals(db: &Blocking, (first, last): (i64, i64)) -> Result<Totals, OpenError> {
    let read = db.ask(async |client| {
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let cursor = client.query_typed_one("SELECT next, base FROM search.cursor", &[]).await?;
        let days = client.query_typed(DAYS, &[(&first, Type::INT8), (&last, Type::INT8)]).await?;
        let open = client.query_typed(OPEN, &[]).await?;
        client.batch_execute("COMMIT").await?;
        let day = |row: &tokio_postgres::Row| {
            Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get::<_, i64>(3)?.cast_unsigned()))
        };
        let days: Result<Vec<_>, Error> = days.iter().map(day).collect();
        let (next, base) = (cursor.try_get::<_, i64>(0)?.cast_unsigned(), cursor.try_get::<_, i64>(1)?.cast_unsigned());
        Ok((days?, open_intents(&open)?, base..next))
    });
    Ok(read?)
}

/// Throws the search data away; whoever keeps them fills them anew.
pub(super) fn begin_anew(db: &Blocking) -> Result<(), OpenError> {
    Ok(db.ask(async |client| client.batch_execute(BEGIN_ANEW).await)?)
}

/// How far they reach.
pub(super) fn cursor(db: &Blocking) -> Result<u64, OpenError> {
    let next = db
        .ask(async |client| client.query_typed_one("SELECT next FROM search.cursor", &[]).await?.try_get::<_, i64>(0));
    Ok(next?.cast_unsigned())
}

/// From which entry on, and up to which one, there are search data.
pub(super) fn reach(db: &Blocking) -> Result<(u64, u64), OpenError> {
    let reach = db.ask(async |client| {
        let row = client.query_typed_one("SELECT base, next FROM search.cursor", &[]).await?;
        Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?))
    });
    Ok(reach.map(|(base, next)| (base.cast_unsigned(), next.cast_unsigned()))?)
}

/// Takes out what is about entries before `first`, while these are still there: what they count is subtracted. Only for
/// who keeps, once the data reach so far; in one transaction, so in steps where there are many.
pub(super) fn forget(db: &Blocking, first: u64) -> Result<(), OpenError> {
    let (mut next, cursor) = reach(db)?;
    if next >= first {
        return Ok(());
    }
    let (base, mut adds, mut open) = (next, Adds::default(), HashMap::new());
    while next < first {
        for (seq, bytes) in db.read(next, first.min(next + READ_AT_MOST))? {
            adds.see(seq, &Glance::at(seq, &bytes)?, &mut open);
        }
        (adds.begun, adds.ended, adds.resolved) = Default::default();
        next = first.min(next + READ_AT_MOST);
    }
    let (from, to) = (signed(first), signed(cursor));
    let later = db.ask(async |client| {
        let rows = client.query_typed(ENDED_LATER, &[(&from, Type::INT8), (&to, Type::INT8)]).await?;
        let read = |row: &tokio_postgres::Row| {
            Ok(((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?), row.try_get::<_, i64>(3)?))
        };
        rows.iter().map(read).collect::<Result<Vec<_>, Error>>()
    });
    for (key, count) in later? {
        *adds.days.entry(key).or_default() += count;
    }
    let (day, caller, outcome, counts) = columns(&adds.days);
    let gone: Vec<i64> = counts.iter().map(|count| -count).collect();
    let forgotten = db.ask(async |client| {
        let moved = "UPDATE search.cursor SET base = $2 WHERE base = $1 AND next = $3";
        client.batch_execute("BEGIN").await?;
        let values: [(&(dyn ToSql + Sync), Type); 3] =
            [(&signed(base), Type::INT8), (&from, Type::INT8), (&to, Type::INT8)];
        let is_ours = client.execute_typed(moved, &values).await? == 1;
        if is_ours {
            client.execute(COUNTED, &[&day, &caller, &outcome, &gone]).await?;
            client.execute_typed("DELETE FROM search.day WHERE count <= 0", &[]).await?;
            client.execute_typed("DELETE FROM search.request WHERE seq < $1", &[(&from, Type::INT8)]).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok(is_ours)
    });
    ours(db, forgotten)
}

/// Days and their counts, column by column.
type Columns<'a> = (Vec<i64>, Vec<&'a str>, Vec<&'a str>, Vec<i64>);

fn columns(days: &BTreeMap<(i64, String, String), i64>) -> Columns<'_> {
    let mut columns: Columns<'_> = Default::default();
    for ((of, by, what), n) in days {
        columns.0.push(*of);
        columns.1.push(by.as_str());
        columns.2.push(what.as_str());
        columns.3.push(*n);
    }
    columns
}

/// Whether a transaction was one over the data as they were found.
fn ours(db: &Blocking, is_ours: Result<bool, Fault>) -> Result<(), OpenError> {
    let is_ours = is_ours.inspect_err(|_| {
        let _ = db.ask(async |client| client.batch_execute("ROLLBACK").await);
    });
    match is_ours {
        Ok(true) => Ok(()),
        Ok(false) => Err(OpenError::Unusable("the search data were begun anew meanwhile".to_owned())),
        Err(fault @ (Fault::Lost(_) | Fault::Refused(..) | Fault::Unfit(_))) => Err(fault.into()),
    }
}

impl Index {
    /// The entry that it wants next. Asks each time: somebody may have had the data begun anew.
    pub(super) fn next(&mut self, db: &Blocking) -> Result<u64, OpenError> {
        let next = cursor(db)?;
        if self.next == Some(next) {
            return Ok(next);
        }
        let open = db.ask(async |client| open_intents(&client.query_typed(OPEN, &[]).await?));
        (self.open, self.next) = (open?, Some(next));
        Ok(next)
    }

    /// Forgets what it knows: another may have filled meanwhile.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Takes entries from `first` on, in one transaction together with the cursor.
    pub(super) fn take(&mut self, db: &Blocking, first: u64, entries: &[Vec<u8>]) -> Result<(), OpenError> {
        let mut adds = Adds::default();
        // What is half done is forgotten.
        self.next = None;
        for (seq, bytes) in (first..).zip(entries) {
            adds.see(seq, &Glance::at(seq, bytes)?, &mut self.open);
        }
        let next = first + entries.len() as u64;
        write(db, &adds, first, next)?;
        self.next = Some(next);
        Ok(())
    }
}

fn write(db: &Blocking, adds: &Adds, first: u64, next: u64) -> Result<(), OpenError> {
    let (seqs, [ids, decisions, callers, sessions, groups], days) = &adds.begun;
    let (day, caller, outcome, counts) = columns(&adds.days);
    let written = db.ask(async |client| {
        let moved = "UPDATE search.cursor SET next = $2 WHERE next = $1";
        client.batch_execute("BEGIN").await?;
        let is_ours =
            client.execute_typed(moved, &[(&signed(first), Type::INT8), (&signed(next), Type::INT8)]).await? == 1;
        if is_ours {
            client.execute(BEGUN, &[seqs, ids, decisions, callers, sessions, groups, days]).await?;
            client.execute(ENDED, &[&adds.ended.0, &adds.ended.1, &adds.ended.2]).await?;
            client.execute(RESOLVED, &[&adds.resolved.0, &adds.resolved.1, &adds.resolved.2]).await?;
            client.execute(COUNTED, &[&day, &caller, &outcome, &counts]).await?;
        }
        client.batch_execute("COMMIT").await?;
        Ok(is_ours)
    });
    ours(db, written)
}

impl Adds {
    fn see(&mut self, seq: u64, entry: &Glance<'_>, open: &mut HashMap<String, Open>) {
        let number = seq.cast_signed();
        if let Some(decision) = entry.decision() {
            let day = Timestamp::parse(&entry.time).map_or(0, |time| time.as_micros().div_euclid(86_400_000_000));
            let [ids, decisions, callers, sessions, groups] = &mut self.begun.1;
            self.begun.0.push(number);
            ids.push(entry.request_id.to_string());
            decisions.push(decision.to_owned());
            callers.push(entry.caller.to_string());
            sessions.push(entry.session.to_string());
            groups.push(entry.bare_group().to_owned());
            self.begun.2.push(day);
        }
        let days = &mut self.days;
        let ended = count(seq, entry, open, |day, caller, outcome, n| {
            *days.entry((day, caller.to_owned(), outcome.to_owned())).or_default() += n.cast_signed();
        });
        if let Some(intent) = ended {
            self.ended.0.push(intent.seq.cast_signed());
            self.ended.1.push(entry.outcome.to_string());
            self.ended.2.push(number);
        }
        if &*entry.kind == "resolution" {
            self.resolved.0.push(entry.request_id.to_string());
            self.resolved.1.push(entry.resolution.to_string());
            self.resolved.2.push(number);
        }
    }
}
