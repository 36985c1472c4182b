//! Pruning: what is recorded by a command, the keeper carries out, a step a round. Each step can be the last one before
//! a crash; the next keeper goes on.
//!
//! A row says which entry says from where on the log is kept, and how far it has come: 0, its entry is durable; 1, its
//! entry is signed, and the log begins there, whatever is left; 2, nothing is left to do.

use super::blocking::{Blocking, signed};
use super::session::{Fault, Role};
use super::{PostgresReader, index, schema};
use crate::clock::Timestamp;
use crate::config;
use crate::failpoint;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::entry::Encoded;
use crate::ledger::prune::{Edge, Order, Stage, Why, keys_until, may_be, plan, whole_bundles};
use crate::ledger::tree::Head;
use crate::ledger::{OpenError, ProofReader, Reader};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error};

/// The entries of one transaction, gone from the table and from the search data: the keeper signs in between.
const DELETED_AT_MOST: i64 = 4_096;
const FORGOTTEN_AT_MOST: u64 = 16_384;
const PENDING: &str = "SELECT seq, first, state FROM ledger.pruned WHERE state < 2 ORDER BY seq DESC LIMIT 1";
const KEPT_BACK: &str = "
    SELECT (SELECT min(seq) FROM ledger.in_flight WHERE seq < $1), (SELECT min(seq) FROM ledger.unresolved WHERE seq < $1)";
const AS_PLANNED: &str = "
    SELECT NOT EXISTS (SELECT FROM ledger.pruned WHERE state < 2)
        AND (SELECT coalesce(max(first), 0) FROM ledger.pruned) = $1
        AND EXISTS (SELECT FROM ledger.signed WHERE verifying_key = $2)";
/// How long it is, and the time that its next entry has.
const HEAD: &str = "SELECT length, greatest(latest_us, (extract(epoch FROM clock_timestamp()) * 1000000)::int8)
    FROM ledger.head FOR UPDATE";
const RECORD: [&str; 3] = [
    "INSERT INTO ledger.entry (seq, bytes) VALUES ($1, $2)",
    "UPDATE ledger.head SET length = $1, latest_us = $2",
    "INSERT INTO ledger.pruned (seq, first, edge, state) VALUES ($1, $2, $3, 0)",
];
const BEGIN: [&str; 2] =
    ["DELETE FROM ledger.pruned WHERE seq < $1", "UPDATE ledger.pruned SET state = 1 WHERE seq = $1"];
/// Keys of so long ago are forgotten one by one when new ones come. Here all of them go. Whoever forgets one of them at
/// this moment is not waited for: it may wait for this.
const FORGET_KEYS: &str = "DELETE FROM ledger.idempotency WHERE key IN (SELECT key FROM ledger.idempotency
    WHERE since_us <= $1 ORDER BY since_us LIMIT $2 FOR UPDATE SKIP LOCKED)";
const DELETE: &str = "DELETE FROM ledger.entry WHERE seq < (SELECT least($1, min(seq) + $2) FROM ledger.entry)";

/// A prune that is not at its end.
struct Pending {
    seq: u64,
    first: u64,
    is_begun: bool,
}

fn pending(db: &Blocking) -> Result<Option<Pending>, OpenError> {
    let found = db.ask(async |client| {
        let row = client.query_typed_opt(PENDING, &[]).await?;
        let read = |row: tokio_postgres::Row| {
            let (seq, first) = (row.try_get::<_, i64>(0)?, row.try_get::<_, i64>(1)?);
            let is_begun = row.try_get::<_, i16>(2)? > 0;
            Ok::<_, Error>(Pending { seq: seq.cast_unsigned(), first: first.cast_unsigned(), is_begun })
        };
        row.map(read).transpose()
    });
    Ok(found?)
}

fn lowest(db: &Blocking) -> Result<u64, OpenError> {
    let lowest = db.ask(async |client| {
        let row = client.query_typed_one("SELECT coalesce(min(seq), 0) FROM ledger.entry", &[]).await?;
        row.try_get::<_, i64>(0)
    });
    Ok(lowest?.cast_unsigned())
}

/// What a prune is planned on: it may be recorded as long as that is so.
struct Ground {
    first: u64,
    key: String,
}

impl Ground {
    async fn holds(&self, client: &Client) -> Result<bool, Error> {
        let values = [(&signed(self.first) as &(dyn ToSql + Sync), Type::INT8), (&self.key, Type::TEXT)];
        client.query_typed_one(AS_PLANNED, &values).await?.try_get(0)
    }
}

fn meanwhile() -> Stage {
    let words =
        "the ledger was pruned or restored meanwhile, so that this prune was not recorded: run `audit prune` again";
    Stage::ended(Why::Unavailable, words)
}

/// What among the entries before `first` must stay, in words.
fn kept_back(in_flight: Option<i64>, unresolved: Option<i64>) -> Option<String> {
    let words = match (in_flight, unresolved) {
        (Some(seq), _) => format!("entry {seq} is an intent without an outcome: it stays until it has one"),
        (None, Some(seq)) => format!(
            "entry {seq} is an intent whose outcome is unknown, and its picture has not been looked at: it stays until it \
             has a resolution; [resolver] makes one"
        ),
        (None, None) => return None,
    };
    Some(format!("nothing was pruned: {words}, and everything after it"))
}

/// The keeper's part, between two of its rounds. `false`: there is more to do.
pub(super) fn go_on(db: &Blocking, signed_head: &Head, mut is_time: impl FnMut() -> bool) -> Result<bool, OpenError> {
    let Some(Pending { seq, first, is_begun }) = pending(db)? else { return Ok(true) };
    if !is_begun {
        if signed_head.size <= seq {
            return Ok(true);
        }
        failpoint::hit("prune-signed");
        transaction(db, &BEGIN, &[signed(seq)])?;
        failpoint::hit("prune-begun");
    }
    while forget_keys(db, seq)? {
        if !is_time() {
            return Ok(false);
        }
    }
    if index::cursor(db)? < first {
        return Ok(true);
    }
    loop {
        let (base, _) = index::reach(db)?;
        if base >= first {
            break;
        }
        if !is_time() {
            return Ok(false);
        }
        index::forget(db, first.min(base + FORGOTTEN_AT_MOST))?;
    }
    failpoint::hit("prune-forgotten");
    while lowest(db)? < first {
        if !is_time() {
            return Ok(false);
        }
        let values = [(&signed(first) as &(dyn ToSql + Sync), Type::INT8), (&DELETED_AT_MOST, Type::INT8)];
        db.ask(async |client| client.execute_typed(DELETE, &values).await)?;
        failpoint::hit("prune-deleted");
    }
    failpoint::hit("prune-emptied");
    let seq = signed(seq);
    db.ask(async |client| {
        client.execute_typed("UPDATE ledger.pruned SET state = 2 WHERE seq = $1", &[(&seq, Type::INT8)]).await
    })?;
    failpoint::hit("prune-ended");
    tracing::info!(first, "the ledger was pruned");
    Ok(true)
}

/// Some of them. `false`: that was all.
fn forget_keys(db: &Blocking, seq: u64) -> Result<bool, OpenError> {
    let entry = db.entries(&[signed(seq)])?.pop().map(|(_, bytes)| bytes);
    let until = keys_until(seq, &entry.unwrap_or_default())?.as_micros();
    let values = [(&until as &(dyn ToSql + Sync), Type::INT8), (&DELETED_AT_MOST, Type::INT8)];
    Ok(db.ask(async |client| client.execute_typed(FORGET_KEYS, &values).await)? > 0)
}

/// Statements with the same value in one transaction, behind the lock that every batch takes.
fn transaction(db: &Blocking, statements: &[&str], values: &[i64; 1]) -> Result<(), OpenError> {
    let done: Result<(), Fault> = db.ask(async |client| {
        client.batch_execute("BEGIN; SELECT FROM ledger.head FOR UPDATE").await?;
        for statement in statements {
            client.execute_typed(statement, &[(&values[0], Type::INT8)]).await?;
        }
        client.batch_execute("COMMIT").await
    });
    done.inspect_err(|_| {
        let _ = db.ask(async |client| client.batch_execute("ROLLBACK").await);
    })?;
    Ok(())
}

/// A prune, as the command that asks for it sees it.
pub struct Pruning {
    reader: PostgresReader,
    config: config::Ledger,
    begun: u64,
}

impl Pruning {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached, is not to be written, or holds no ledger.
    pub fn open(config: &config::Ledger) -> Result<Self, OpenError> {
        let reader = PostgresReader(Blocking::open(super::place(config)?, Role::Pruning)?);
        let begun = lowest(reader.db())?;
        Ok(Self { reader, config: config.clone(), begun })
    }

    /// The time by the database's clock.
    ///
    /// # Errors
    /// In words, when the database cannot be asked.
    pub fn now(&self) -> Result<Timestamp, OpenError> {
        self.reader.db().now()
    }

    /// Whether an earlier one is not at its end: that is to be watched first.
    ///
    /// # Errors
    /// In words, when the database cannot be asked.
    pub fn is_under_way(&self) -> Result<bool, OpenError> {
        Ok(pending(self.reader.db())?.is_some())
    }

    /// Holds what would go against what is signed, and records it: the replica that keeps the tree carries it out, and
    /// so does the next one that does.
    ///
    /// # Errors
    /// Why it did not come to that.
    pub fn begin(&mut self, order: &Order, progress: impl FnMut(u64, u64)) -> Result<(), Stage> {
        if self.is_under_way()? {
            return Err(meanwhile());
        }
        self.begun = lowest(self.reader.db())?;
        may_be(order.before, self.now()?, self.config.retention, order.longest_budget)?;
        let (length, pruned) = (self.reader.length()?, self.reader.pruned()?);
        let (head, key) = self.signed()?;
        let first = whole_bundles(self.reader.first_at(order.before, length)?.min(head.size));
        let begin = pruned.as_ref().map_or(0, |pruned| pruned.first);
        if first <= begin {
            return Err(Stage::Nothing { first: begin });
        }
        if let Some(words) = self.kept_back(first)? {
            return Err(Stage::ended(Why::No, words));
        }
        let ground = Ground { first: begin, key };
        let planned = plan(&self.reader, order, pruned.as_ref(), first, &head, progress);
        if planned.is_err()
            && !self.reader.db().ask(async |client| ground.holds(client).await).map_err(OpenError::from)?
        {
            return Err(meanwhile());
        }
        let (body, edge) = planned?;
        let body = Encoded::new(&body).map_err(|e| OpenError::Unusable(format!("the entry cannot be written: {e}")))?;
        failpoint::hit("prune-begin");
        if let Some(refused) = self.record(&body, &edge, &ground)? {
            return Err(refused);
        }
        failpoint::hit("prune-recorded");
        Ok(())
    }

    fn kept_back(&self, first: u64) -> Result<Option<String>, OpenError> {
        let first = signed(first);
        let found = self.reader.db().ask(async |client| {
            let row = client.query_typed_one(KEPT_BACK, &[(&first, Type::INT8)]).await?;
            Ok((row.try_get(0)?, row.try_get(1)?))
        });
        found.map(|(in_flight, unresolved)| kept_back(in_flight, unresolved)).map_err(OpenError::from)
    }

    /// The entry and its row, unless something before the edge must stay by now, or the plan's ground is another one.
    fn record(&self, body: &Encoded, edge: &Edge, ground: &Ground) -> Result<Option<Stage>, OpenError> {
        let (first, db) = (signed(edge.size()), Blocking::open(super::place(&self.config)?, Role::Migration)?);
        let recorded: Result<Option<Stage>, Fault> = db.ask(async |client| {
            client.batch_execute("BEGIN").await?;
            let head = client.query_typed_one(HEAD, &[]).await?;
            let (length, time): (i64, i64) = (head.try_get(0)?, head.try_get(1)?);
            let time = Timestamp::from_micros(time);
            let row = client.query_typed_one(KEPT_BACK, &[(&first, Type::INT8)]).await?;
            let words = kept_back(row.try_get(0)?, row.try_get(1)?);
            let refused = if ground.holds(client).await? {
                words.map(|words| Stage::ended(Why::No, words))
            } else {
                Some(meanwhile())
            };
            if refused.is_some() {
                client.batch_execute("ROLLBACK").await?;
                return Ok(refused);
            }
            let (mut bytes, next, latest) = (Vec::new(), length + 1, time.as_micros());
            body.write_entry(&mut bytes, length.cast_unsigned(), &time.to_string());
            let [entry, head, row] = RECORD;
            client.execute_typed(entry, &[(&length, Type::INT8), (&bytes, Type::BYTEA)]).await?;
            client.execute_typed(head, &[(&next, Type::INT8), (&latest, Type::INT8)]).await?;
            let edge = edge.bytes();
            client.execute_typed(row, &[(&length, Type::INT8), (&first, Type::INT8), (&edge, Type::BYTEA)]).await?;
            client.batch_execute("COMMIT").await?;
            Ok(None)
        });
        db.close();
        Ok(recorded?)
    }

    /// Has the space used again that entries and search data had. It takes no lock that a deletion would wait for.
    fn vacuum(&self) -> Result<(), OpenError> {
        let db = Blocking::open(super::place(&self.config)?, Role::Migration)?;
        for sql in ["VACUUM ledger.entry", "VACUUM search.request"] {
            let done = db.ask(async |client| client.batch_execute(sql).await);
            if let Err(fault) = done {
                tracing::warn!(%fault, sql, "is left to the database's autovacuum");
            }
        }
        db.close();
        Ok(())
    }

    /// What is signed, and the key that verifies it, as it is stored.
    fn signed(&self) -> Result<(Head, String), OpenError> {
        let nothing = || OpenError::Unusable("nothing of the ledger has been signed yet".to_owned());
        let (note, text) = self.reader.db().signed()?.ok_or_else(nothing)?;
        let (note, key) = (note.ok_or_else(nothing)?, self.reader.verifying_key()?);
        let checkpoint = Checkpoint::verify(&note, &key);
        let checkpoint = checkpoint.map_err(|fault| OpenError::Damaged(format!("the stored checkpoint: {fault}")))?;
        Ok((*checkpoint.head(), text))
    }

    /// How far it has come. At its end the space is given back.
    ///
    /// # Errors
    /// In words, when the database cannot be asked.
    pub fn stage(&self) -> Result<Stage, OpenError> {
        let db = self.reader.db();
        let lowest = lowest(db)?;
        Ok(match pending(db)? {
            Some(Pending { seq, is_begun: false, .. }) => Stage::Signing { seq },
            Some(Pending { first, .. }) if lowest < first && lowest == self.begun => Stage::Forgetting,
            Some(Pending { first, .. }) if lowest < first => {
                Stage::Deleting { done: lowest - self.begun, of: first.saturating_sub(self.begun) }
            }
            Some(Pending { first, .. }) => Stage::Emptying { removed: first.saturating_sub(self.begun) },
            None => {
                self.vacuum()?;
                let (pruned, _) = db.beginning()?.ok_or_else(|| OpenError::Unusable(schema::MISSING.to_owned()))?;
                Stage::Done { first: pruned.first, removed: pruned.first.saturating_sub(self.begun), seq: pruned.seq }
            }
        })
    }
}
