//! What is kept beside the entries of what they mean, read at one moment to be held against them.

use super::admitting::marks;
use super::blocking::{Beginning, Blocking};
use crate::ledger::OpenError;
use crate::ledger::admission::Mark;
use crate::ledger::freeze::Freeze;
use crate::ledger::verify::{KeyRow, SpentRow, Standing, Tables, misfit};
use tokio_postgres::{Error, Row};

/// One statement each, in a transaction in which all see the same.
const BEGIN: &str = "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY";
const WAITING: &str = "
    SELECT (SELECT coalesce(max(seq) + 1, 0) FROM ledger.entry),
        ARRAY(SELECT seq FROM ledger.in_flight ORDER BY seq), ARRAY(SELECT request_id FROM ledger.in_flight ORDER BY seq),
        ARRAY(SELECT seq FROM ledger.unresolved ORDER BY seq)";
const FROZEN: &str = "SELECT place, body FROM ledger.frozen ORDER BY place";
const KEYS: &str = "SELECT key, since_us, seq, target, request_id, answered FROM ledger.idempotency";
/// The lowest entry, and whether a prune is not at its end: then what it has still to remove may be there.
const LOWEST: &str = "SELECT (SELECT min(seq) FROM ledger.entry), EXISTS (SELECT FROM ledger.pruned WHERE state < 2)";
const SPENT: &str = "SELECT counter, ordinal, time_us, seq FROM ledger.spent";

/// Reads it.
///
/// # Errors
/// In words, when the database cannot be read, or holds freezes that no replica writes.
pub(super) fn read(database: &Blocking) -> Result<Standing, OpenError> {
    let (standing, frozen, begins, (lowest, is_under_way)) = database.ask(async |client| {
        client.batch_execute(BEGIN).await?;
        let waiting = client.query_typed_one(WAITING, &[]).await?;
        let frozen = client.query_typed(FROZEN, &[]).await?;
        let keys = client.query_typed(KEYS, &[]).await?;
        let spent = client.query_typed(SPENT, &[]).await?;
        let begins = Beginning::ask(client).await?;
        let lowest = client.query_typed_one(LOWEST, &[]).await?;
        client.batch_execute("COMMIT").await?;
        let (seqs, ids): (Vec<i64>, Vec<String>) = (waiting.try_get(1)?, waiting.try_get(2)?);
        let unresolved: Vec<i64> = waiting.try_get(3)?;
        let tables = Tables {
            keys: keys.iter().map(key).collect::<Result<_, Error>>()?,
            ages: None,
            spent: spent.iter().map(counted).collect::<Result<_, Error>>()?,
            in_log_order: false,
        };
        let frozen = frozen.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        let standing = Standing {
            length: waiting.try_get::<_, i64>(0)?.cast_unsigned(),
            in_flight: seqs.into_iter().map(i64::cast_unsigned).zip(ids).collect(),
            unresolved: unresolved.into_iter().map(i64::cast_unsigned).collect(),
            freezes: Vec::new(),
            tables,
            beginning: None,
        };
        let lowest: (Option<i64>, bool) = (lowest.try_get(0)?, lowest.try_get(1)?);
        Ok((standing, frozen.collect::<Result<Vec<(i64, String)>, Error>>()?, begins, lowest))
    })?;
    let begins = begins.map(Beginning::read).transpose()?;
    Ok(Standing { freezes: freezes(frozen)?, beginning: misfit(begins.as_ref(), lowest, is_under_way), ..standing })
}

fn mark(row: &Row, at: usize) -> Result<Mark, Error> {
    let bytes: &[u8] = row.try_get(at)?;
    let one = bytes.len() == size_of::<Mark>();
    // One of another length is none that anybody wrote.
    Ok(marks(bytes).first().copied().filter(|_| one).unwrap_or(Mark::from_bytes([0; 16])))
}

fn key(row: &Row) -> Result<KeyRow, Error> {
    let answered: Option<&str> = row.try_get(5)?;
    Ok(KeyRow {
        key: mark(row, 0)?,
        since_us: row.try_get(1)?,
        seq: row.try_get(2)?,
        target: mark(row, 3)?,
        request_id: row.try_get(4)?,
        answered: answered.map(Mark::of_answer),
    })
}

fn counted(row: &Row) -> Result<SpentRow, Error> {
    Ok(SpentRow { counter: mark(row, 0)?, ordinal: row.try_get(1)?, time_us: row.try_get(2)?, seq: row.try_get(3)? })
}

/// In their places from 1 on, each as it has to be spelt.
fn freezes(rows: Vec<(i64, String)>) -> Result<Vec<Freeze>, OpenError> {
    let freeze = |(at, (place, text)): (i64, (i64, String))| {
        let freeze: Option<Freeze> = serde_json::from_str(&text).ok();
        let spelt = freeze.filter(|freeze| serde_json::to_string(freeze).is_ok_and(|again| again == text));
        spelt.filter(|_| place == at).ok_or_else(|| {
            OpenError::Damaged(format!("what is listed as freeze {place} cannot be read as one, or has another place"))
        })
    };
    (1..).zip(rows).map(freeze).collect()
}
