//! The SQL of a batch: one transaction in two round trips, whatever its size. Lock and learn, then write and commit.
//! Each is sent as a whole before the first answer is waited for.

use super::admitting::{Counter, Held, Key, Wanted, marks, request_id, standing};
use super::plan::{Asked, Known, Plan};
use super::session::{DURABLE, Fault, Session};
use crate::ledger::admission::{Kept, Mark};
use crate::ledger::freeze::Freezes;
use std::collections::HashMap;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Row, Statement};

/// Statements of their own, so that what is learnt is read after the lock, and not as it was before the wait for it.
const LOCK: &str = "SELECT length, latest_us FROM ledger.head FOR UPDATE";
const LEARN: &str = "
    WITH w AS (SELECT u.since_us, u.seq FROM ledger.unresolved u
        JOIN unnest($2::int8[], $3::int8[]) AS a (since_us, seq) ON u.since_us = a.since_us AND u.seq = a.seq)
    SELECT EXISTS (SELECT FROM ledger.replica WHERE id = $1),
        ARRAY(SELECT since_us FROM w ORDER BY since_us, seq), ARRAY(SELECT seq FROM w ORDER BY since_us, seq),
        ARRAY(SELECT body FROM ledger.frozen ORDER BY place),
        ARRAY(SELECT target FROM ledger.in_flight WHERE target = ANY($4::bytea[])),
        EXISTS (SELECT FROM ledger.arriving), current_setting('synchronous_commit'),
        (extract(epoch FROM clock_timestamp()) * 1000000)::int8";
const HELD: &str = "SELECT seq, target, key, counters FROM ledger.in_flight WHERE seq = ANY($1::int8[])";
const KEYS: &str = "
    SELECT k.key, k.since_us, k.seq, k.target, k.request_id, k.answered,
        EXISTS (SELECT FROM ledger.in_flight f WHERE f.seq = k.seq)
    FROM ledger.idempotency k WHERE k.key = ANY($1::bytea[])";
/// A budget of `max` looks at the intent `max` before the next one; the last of so many intents looks further.
const COUNTERS: &str = "
    SELECT a.counter, n.newest, s.ordinal, s.time_us FROM unnest($1::bytea[], $2::int8[]) AS a (counter, max)
    CROSS JOIN LATERAL (SELECT coalesce(max(ordinal), 0) AS newest FROM ledger.spent WHERE counter = a.counter) n
    LEFT JOIN ledger.spent s ON s.counter = a.counter AND s.ordinal > n.newest - a.max
        AND s.ordinal <= n.newest - a.max + $3";
const WRITES: [&str; 14] = [
    "INSERT INTO ledger.entry (seq, bytes) SELECT * FROM unnest($1::int8[], $2::bytea[])",
    "INSERT INTO ledger.in_flight (seq, request_id, target, key, counters, replica)
        SELECT *, $6::text FROM unnest($1::int8[], $2::text[], $3::bytea[], $4::bytea[], $5::bytea[])",
    "DELETE FROM ledger.in_flight WHERE seq = ANY($1::int8[])",
    "DELETE FROM ledger.unresolved u USING unnest($1::int8[], $2::int8[]) AS a (since_us, seq)
        WHERE u.since_us = a.since_us AND u.seq = a.seq",
    "INSERT INTO ledger.unresolved (since_us, seq, attempts) SELECT * FROM unnest($1::int8[], $2::int8[], $3::int4[])",
    "DELETE FROM ledger.idempotency k USING unnest($1::bytea[], $2::int8[]) AS a (key, seq)
        WHERE k.key = a.key AND k.seq = a.seq",
    "UPDATE ledger.idempotency k SET answered = a.answered
        FROM unnest($1::bytea[], $2::int8[], $3::text[]) AS a (key, seq, answered)
        WHERE k.key = a.key AND k.seq = a.seq",
    "INSERT INTO ledger.idempotency (key, since_us, seq, target, request_id)
        SELECT * FROM unnest($1::bytea[], $2::int8[], $3::int8[], $4::bytea[], $5::text[])
        ON CONFLICT (key) DO UPDATE SET since_us = excluded.since_us, seq = excluded.seq, target = excluded.target,
            request_id = excluded.request_id, answered = NULL",
    // With each key that comes at most two go that are no longer kept.
    "DELETE FROM ledger.idempotency WHERE key IN (
        SELECT key FROM ledger.idempotency WHERE since_us <= $1 ORDER BY since_us LIMIT 2 * $2::int8)",
    "INSERT INTO ledger.spent (counter, ordinal, time_us, seq)
        SELECT * FROM unnest($1::bytea[], $2::int8[], $3::int8[], $4::int8[])",
    "DELETE FROM ledger.spent s USING unnest($1::bytea[], $2::int8[]) AS a (counter, ordinal)
        WHERE s.counter = a.counter AND s.ordinal <= a.ordinal",
    // Those behind what is given back move up.
    "WITH gone AS (DELETE FROM ledger.spent s USING unnest($1::bytea[], $2::int8[]) AS a (counter, seq)
            WHERE s.counter = a.counter AND s.seq = a.seq RETURNING s.counter, s.ordinal)
        UPDATE ledger.spent s SET ordinal = s.ordinal - m.by FROM (
            SELECT b.counter, b.ordinal, count(*) AS by FROM gone g JOIN ledger.spent b
                ON b.counter = g.counter AND b.ordinal > g.ordinal
            WHERE (b.counter, b.ordinal) NOT IN (SELECT counter, ordinal FROM gone) GROUP BY 1, 2
        ) m WHERE s.counter = m.counter AND s.ordinal = m.ordinal",
    "WITH gone AS (DELETE FROM ledger.frozen)
        INSERT INTO ledger.frozen (place, body)
        SELECT place, body FROM unnest($1::text[]) WITH ORDINALITY AS a (body, place)",
    "UPDATE ledger.head SET length = $1, latest_us = $2",
];

/// Values of a statement.
type Values<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// How a transaction ended.
#[derive(Debug)]
pub(super) enum Ended {
    Committed,
    /// It is certainly not there.
    Refused(Fault),
    /// It is there or not: the answer to COMMIT is missing.
    Doubtful(Fault),
}

/// The statements of a batch, prepared on one connection.
pub(super) struct Prepared {
    lock: Statement,
    learn: Statement,
    held: Statement,
    keys: Statement,
    counters: Statement,
    writes: Vec<Statement>,
}

fn mark(row: &Row, at: usize) -> Result<Mark, Error> {
    let bytes: &[u8] = row.try_get(at)?;
    Ok(marks(bytes).first().copied().unwrap_or(Mark::from_bytes([0; 16])))
}

fn unsigned(row: &Row, at: usize) -> Result<u64, Error> {
    row.try_get::<_, i64>(at).map(i64::cast_unsigned)
}

fn held(rows: &[Row]) -> Result<HashMap<u64, Held>, Error> {
    let held = rows.iter().map(|row| {
        let key = row.try_get::<_, Option<&[u8]>>(2)?.map(marks).and_then(|marks| marks.first().copied());
        let held = Held { target: mark(row, 1)?, key, counters: marks(row.try_get(3)?) };
        Ok((unsigned(row, 0)?, held))
    });
    held.collect()
}

fn keys(rows: &[Row]) -> Result<HashMap<Mark, Key>, Error> {
    let keys = rows.iter().map(|row| {
        let standing = standing(row.try_get(5)?, row.try_get(6)?);
        let kept = Kept { target: mark(row, 3)?, request_id: request_id(row.try_get(4)?), standing };
        Ok((mark(row, 0)?, Key { since_us: row.try_get(1)?, seq: unsigned(row, 2)?, kept }))
    });
    keys.collect()
}

fn counters(rows: &[Row]) -> Result<HashMap<Mark, Counter>, Error> {
    let mut counters: HashMap<Mark, Counter> = HashMap::new();
    for row in rows {
        let counter = counters.entry(mark(row, 0)?).or_default();
        counter.newest = row.try_get(1)?;
        if let (Some(ordinal), Some(time)) = (row.try_get(2)?, row.try_get(3)?) {
            counter.times_us.insert(ordinal, time);
        }
    }
    Ok(counters)
}

/// What is frozen, from the rows' texts.
pub(super) fn freezes(texts: &[String]) -> Result<Freezes, Fault> {
    let freezes = texts.iter().map(|text| serde_json::from_str(text)).collect::<Result<Vec<_>, _>>();
    // Whoever cannot read what is frozen must not go on as if nothing was.
    freezes.map(Freezes::new).map_err(|e| Fault::Unfit(format!("a freeze in the ledger cannot be read: {e}")))
}

impl Prepared {
    pub(super) async fn on(client: &Client) -> Result<Self, Error> {
        let mut writes = Vec::with_capacity(WRITES.len());
        for sql in WRITES {
            writes.push(client.prepare(sql).await?);
        }
        Ok(Self {
            lock: client.prepare(LOCK).await?,
            learn: client.prepare(LEARN).await?,
            held: client.prepare(HELD).await?,
            keys: client.prepare(KEYS).await?,
            counters: client.prepare(COUNTERS).await?,
            writes,
        })
    }

    /// Begins a transaction, locks the head row, and learns what `asked` needs. `false`: another replica has taken this
    /// one for dead. An error means that nothing has happened.
    pub(super) async fn lock_and_learn(
        &self,
        session: &mut Session,
        asked: &Asked,
        replica: &str,
    ) -> Result<(Known, bool), Fault> {
        let (since, seqs) = &asked.waiting;
        let Wanted { targets, keys: wanted, counters: (marks, most), intents } = &asked.wanted;
        let learnt = session.ask(async |client| {
            let learn: Values<'_> = vec![&replica, since, seqs, targets];
            let (concluded, of_keys): (Values<'_>, Values<'_>) = (vec![&asked.concluded], vec![wanted]);
            let of_counters: Values<'_> = vec![marks, most, intents];
            let rows = async |is_needed: bool, statement: &Statement, values: &Values<'_>| {
                if is_needed { client.query(statement, values).await } else { Ok(Vec::new()) }
            };
            let (begun, head, known, open, kept, spent) = tokio::join!(
                biased;
                client.batch_execute("BEGIN"),
                client.query_one(&self.lock, &[]),
                client.query_one(&self.learn, &learn),
                rows(!asked.concluded.is_empty(), &self.held, &concluded),
                rows(!wanted.is_empty(), &self.keys, &of_keys),
                rows(!marks.is_empty(), &self.counters, &of_counters),
            );
            begun?;
            let (head, row) = (head?, known?);
            let waiting = row.try_get::<_, Vec<i64>>(1)?.into_iter().zip(row.try_get::<_, Vec<i64>>(2)?);
            let mut known = Known {
                length: unsigned(&head, 0)?,
                latest_us: head.try_get(1)?,
                now_us: row.try_get(7)?,
                open: held(&open?)?,
                waiting: waiting.map(|(since, seq)| (since, seq.cast_unsigned())).collect(),
                ..Known::default()
            };
            let in_flight: Vec<&[u8]> = row.try_get(4)?;
            known.admitting.targets = in_flight.into_iter().flat_map(super::admitting::marks).collect();
            known.admitting.keys = keys(&kept?)?;
            known.admitting.counters = counters(&spent?)?;
            let (is_arriving, durable) = (row.try_get::<_, bool>(5)?, row.try_get::<_, String>(6)?);
            Ok((known, row.try_get::<_, bool>(0)?, row.try_get::<_, Vec<String>>(3)?, is_arriving, durable))
        });
        let (mut known, is_ours, texts, is_arriving, durable) = learnt.await?;
        // What the session has set is not so here: a pooler has given the transaction another one.
        if !DURABLE.contains(&durable.as_str()) {
            return Err(Fault::Unfit(format!(
                "synchronous_commit is {durable} in a session that has set it on: a pooler in transaction mode does that; \
                 reach the database directly, or by a pool of sessions"
            )));
        }
        if is_arriving {
            return Err(Fault::Unfit(super::schema::ARRIVING.to_owned()));
        }
        known.admitting.freezes = freezes(&texts)?;
        Ok((known, is_ours))
    }

    /// Writes what was planned, and commits it, all sent at once.
    pub(super) async fn write(&self, session: &mut Session, plan: &Plan, replica: &str) -> Ended {
        self.end(session, plan, replica, "COMMIT").await
    }

    /// Writes what was planned, and takes it back: whether it would be taken.
    pub(super) async fn try_out(&self, session: &mut Session, plan: &Plan, replica: &str) -> Ended {
        self.end(session, plan, replica, "ROLLBACK").await
    }

    async fn end(&self, session: &mut Session, plan: &Plan, replica: &str, end: &str) -> Ended {
        let (seqs, length, rows) = (plan.seqs(), plan.length().cast_signed(), &plan.admitting.rows);
        let frozen = rows.freezes.as_ref().map(|all| all.iter().filter_map(|one| serde_json::to_string(one).ok()));
        let frozen: Option<Vec<String>> = frozen.map(Iterator::collect);
        let none = Vec::new();
        let texts = frozen.as_ref().unwrap_or(&none);
        let (off, kept, spent, waits) = (&rows.off, &rows.kept, &rows.spent, &plan.waits);
        let latest_us = plan.time.as_micros();
        let old_us = plan.time.before(crate::ledger::admission::KEPT).as_micros();
        let keys = i64::try_from(kept.0.len()).unwrap_or(i64::MAX);
        let values: [(bool, Values<'_>); 14] = [
            (!seqs.is_empty(), vec![&seqs, &plan.entries]),
            (!off.0.is_empty(), vec![&off.0, &off.1, &off.2, &off.3, &off.4, &replica]),
            (!plan.landed.is_empty(), vec![&plan.landed]),
            (!plan.gone.0.is_empty(), vec![&plan.gone.0, &plan.gone.1]),
            (!waits.0.is_empty(), vec![&waits.0, &waits.1, &waits.2]),
            (!rows.freed.0.is_empty(), vec![&rows.freed.0, &rows.freed.1]),
            (!rows.answered.0.is_empty(), vec![&rows.answered.0, &rows.answered.1, &rows.answered.2]),
            (keys > 0, vec![&kept.0, &kept.1, &kept.2, &kept.3, &kept.4]),
            (keys > 0, vec![&old_us, &keys]),
            (!spent.0.is_empty(), vec![&spent.0, &spent.1, &spent.2, &spent.3]),
            (!rows.forgotten.0.is_empty(), vec![&rows.forgotten.0, &rows.forgotten.1]),
            (!rows.given_back.0.is_empty(), vec![&rows.given_back.0, &rows.given_back.1]),
            (frozen.is_some(), vec![texts]),
            (true, vec![&length, &latest_us]),
        ];
        let written = session.ask(async |client| {
            let needed = self.writes.iter().zip(&values).filter(|(_, (is_needed, _))| *is_needed);
            let writes = needed.map(|(statement, (_, values))| client.execute(statement, values));
            // Polled in their order, and so sent in their order.
            let (writes, commit) = tokio::join!(
                biased;
                futures_util::future::join_all(writes),
                client.batch_execute(end),
            );
            Ok((writes.into_iter().collect::<Result<Vec<u64>, Error>>(), commit))
        });
        // After an error of a statement, COMMIT rolls back and says that all is well: the statement's word counts.
        match written.await {
            Err(fault) => Ended::Doubtful(fault),
            Ok((Ok(_), Ok(()))) => Ended::Committed,
            Ok((Ok(_), Err(error))) => Ended::Doubtful(error.into()),
            Ok((Err(error), _)) => match Fault::from(error) {
                fault @ Fault::Refused(..) => Ended::Refused(fault),
                fault @ (Fault::Lost(_) | Fault::Unfit(_)) => Ended::Doubtful(fault),
            },
        }
    }
}
