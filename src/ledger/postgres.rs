//! The store for several replicas: one PostgreSQL database with one log, one tree and one sequence for all of them.
//!
//! Each replica has one writer with one connection. What is decided for one is decided for all: a batch locks the head
//! row, so batches of different replicas come one after the other.

mod acting;
mod admitting;
mod arriving;
mod asking;
mod batch;
mod blocking;
mod index;
mod keeper;
mod kept;
mod lease;
mod op;
mod plan;
mod pruned;
mod restore;
mod schema;
mod sealing;
mod session;
mod standing;
mod statements;
#[cfg(test)]
mod tests;
mod tls;
mod writer;

pub use acting::{Acting, NotActed, Replica};
pub(super) use arriving::Arriving;
pub use asking::PostgresReader;
pub use pruned::Pruning;
pub use restore::restore;
pub use schema::Migrated;

use super::admission::{Answered, Asked, Question};
use super::entry::{Body, Encoded, Outcome, Resolution};
use super::freeze::{Covers, Freeze, Freezes};
use super::{Abandoned, Answer, Health, Intended, Ledger, NotRecorded, OpenError, Recorded, Unresolved};
use crate::clock::Timestamp;
use crate::config;
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::glance::Glance;
use crate::telemetry::Metrics;
use keeper::Keeper;
use lease::{BEYOND_BUDGET, Lease};
use op::{Concluding, Op, Reading, Receipt};
use statements::{Identity, Writing};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use writer::{Seen, Writer};

/// How many notes may wait; more are counted instead.
const NOTES_AT_MOST: usize = 1024;

/// The writing side. Its threads end with [`Ledger::close`], or when this and every [`Recorded`] are dropped.
pub struct Postgres {
    ops: Arc<Queue>,
    notes: Arc<AtomicUsize>,
    health: watch::Receiver<Health>,
    seen: Arc<Seen>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The way to the writer, and how many intents could still be sent.
struct Queue {
    ops: mpsc::UnboundedSender<Op>,
    open: lease::Open,
}

impl Queue {
    /// The end of an intent is known here: nothing of it can be sent any more.
    fn ended(&self) {
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Abandoned for Queue {
    fn abandoned(&self, seq: u64, outcome: Outcome) {
        self.ended();
        if let Ok(concluding) = Concluding::new(outcome, None) {
            let _ = self.ops.send(Op::Conclude(seq, concluding, None));
        }
    }
}

/// What is wrong with the files that the database needs, in words.
#[must_use]
pub fn faults(config: &config::Ledger) -> Option<String> {
    config.postgres.as_ref().and_then(session::faults)
}

/// Makes the schema of a ledger in the database, or brings it up to this program's version. Makes the signing key too,
/// where the ledger has none and the file is not there, and has the ledger remember which key signs it. Returns what
/// was done, and whether the key is new.
///
/// # Errors
/// In words; the schema is changed as a whole or not at all.
pub fn migrate(config: &config::Ledger) -> Result<(Migrated, bool), OpenError> {
    let place = place(config)?;
    let runtime = runtime()?;
    let migrated = runtime.block_on(schema::migrate(place))?;
    drop(runtime);
    Ok((migrated, sealing::introduce(config, place)?))
}

/// Builds the search data anew, beside running replicas or without one; `progress` hears how many of how many entries
/// are done.
///
/// # Errors
/// In words, when the database cannot be reached or an entry cannot be read.
pub fn reindex(config: &config::Ledger, progress: impl FnMut(u64, u64)) -> Result<u64, OpenError> {
    keeper::reindex(place(config)?, progress)
}

fn place(config: &config::Ledger) -> Result<&config::Postgres, OpenError> {
    config.postgres.as_ref().ok_or_else(|| OpenError::Unusable("ledger.kind is not postgres".to_owned()))
}

fn runtime() -> Result<tokio::runtime::Runtime, OpenError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| OpenError::Unusable(format!("the runtime cannot be started: {e}")))
}

impl Postgres {
    /// Joins the replicas of a ledger, closes what dead ones left open, and starts the writer and the keeper. `budget`
    /// is how long one request may take; the lease is ten seconds longer. Returns how many intents were closed.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &config::Ledger, budget: Duration, metrics: Metrics) -> Result<(Self, u64), OpenError> {
        let (sender, queue) = mpsc::unbounded_channel();
        let open = lease::Open::default();
        let ops = Arc::new(Queue { ops: sender, open: Arc::clone(&open) });
        let (health_is, health) = watch::channel(Health::Writable);
        let (notes, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Seen::default()));
        let place = place(config)?.clone();
        let identity =
            Identity { id: RequestId::new().to_string(), version: env!("CARGO_PKG_VERSION"), policy: String::new() };
        let (abandoned, counted, shared) = (Arc::downgrade(&ops), Arc::clone(&notes), Arc::clone(&seen));
        let (opened, wait) = std::sync::mpsc::channel();
        let config = config.clone();
        // The timer and the runtime of the writer belong to its thread.
        let run = move || {
            let lease = Lease::new(budget + BEYOND_BUDGET, open)
                .map_err(|e| OpenError::Unusable(format!("the system has no timer for the lease: {e}")));
            let made = lease.and_then(|lease| {
                // Before anything is written: what was signed must be there.
                let keeper = Keeper::open(&config, &place, Arc::clone(&shared), metrics.clone())?;
                Ok((lease, runtime()?, keeper))
            });
            let (lease, runtime, keeper) = match made {
                Ok(made) => made,
                Err(error) => return drop(opened.send(Err(error))),
            };
            let mut writer = Writer {
                place,
                queue,
                abandoned,
                database: None,
                who: identity,
                is_registered: false,
                lease,
                asked_for_lease: None,
                latest: None,
                unwritten: Vec::new(),
                doubt: None,
                failures: 0,
                failed: None,
                refused: false,
                closing: false,
                others: Vec::new(),
                health: health_is,
                notes: counted,
                seen: shared,
                metrics,
            };
            let joined = runtime.block_on(writer.join()).and_then(|unknown| {
                let is_its_log = keeper.is_its_log().inspect_err(|_| runtime.block_on(writer.leave()));
                is_its_log.map(|()| unknown)
            });
            let is_joined = joined.is_ok();
            if opened.send(joined).is_ok() && is_joined {
                let keeping = keeper.start(writer.health.subscribe());
                runtime.block_on(writer.run());
                keeping.end();
            }
        };
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(run)
            .map_err(|e| OpenError::Unusable(format!("the ledger's thread cannot be started: {e}")))?;
        let gone = |_| OpenError::Unusable("the ledger's thread ended before it began".to_owned());
        let unknown = wait.recv().map_err(gone)??;
        Ok((Self { ops, notes, health, seen, thread: Mutex::new(Some(thread)) }, unknown))
    }

    /// Asks the writer for something whose answer says only whether it is recorded.
    fn record(&self, op: impl FnOnce(Receipt) -> serde_json::Result<Op>) -> Answer<'_, Result<(), NotRecorded>> {
        let (answer, wait) = oneshot::channel();
        let asked = op(answer).is_ok_and(|op| self.ops.ops.send(op).is_ok());
        Box::pin(async move { if asked { wait.await.unwrap_or(Err(NotRecorded)) } else { Err(NotRecorded) } })
    }
}

impl Writer {
    /// Joins the replicas: reads the head alone, never a window of the log.
    async fn join(&mut self) -> Result<u64, OpenError> {
        failpoint::hit("recovery-begin");
        let mut database = Writing::open(&self.place).await?;
        let before = Timestamp::now();
        let (known, _) = database.lock_and_learn(&plan::Asked::default(), &self.who.id).await?;
        self.compare_clocks(before, Timestamp::from_micros(known.now_us));
        let last = known.length.saturating_sub(1);
        // Behind the head's lock: others write meanwhile.
        let entry = database.entries(last, last + 2).await?;
        database.roll_back().await?;
        if known.length > 0 {
            let [(seq, bytes)] = entry.as_slice() else {
                return Err(OpenError::Damaged(format!(
                    "the ledger's last entry, {last}, is not there, or is not the last one as the head says"
                )));
            };
            Glance::at(*seq, bytes)?;
            self.latest = Some((*seq, bytes.clone()));
        }
        self.database = Some(database);
        self.bury(true).await
    }
}

impl Ledger for Postgres {
    fn intend(&self, asked: Asked) -> Answer<'_, Intended> {
        let (answer, wait) = oneshot::channel();
        let question = Box::new(Question::from(&asked));
        let body = Encoded::new(&Body::Intent(asked.into()));
        let asked = body.is_ok_and(|body| self.ops.ops.send(Op::Intend(question, body, answer)).is_ok());
        Box::pin(async move { if asked { wait.await.unwrap_or(Intended::Unavailable) } else { Intended::Unavailable } })
    }

    fn conclude(
        &self,
        recorded: Recorded,
        outcome: Outcome,
        answered: Option<Answered>,
    ) -> Answer<'_, Result<(), NotRecorded>> {
        let seq = recorded.spend();
        self.ops.ended();
        self.record(|answer| Ok(Op::Conclude(seq, Concluding::new(outcome, answered)?, Some(answer))))
    }

    fn freeze(&self, freeze: Freeze) -> Answer<'_, Result<(), NotRecorded>> {
        self.record(|answer| Ok(Op::Freeze(freeze, answer)))
    }

    fn unfreeze(&self, covers: Covers, reason: String, by: String) -> Answer<'_, Result<bool, NotRecorded>> {
        let (answer, wait) = oneshot::channel();
        let body = Encoded::new(&Body::Unfreeze { covers: covers.clone(), reason, by });
        let asked = body.is_ok_and(|body| self.ops.ops.send(Op::Unfreeze(covers, body, answer)).is_ok());
        Box::pin(async move { if asked { wait.await.unwrap_or(Err(NotRecorded)) } else { Err(NotRecorded) } })
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_micros(Timestamp::now().as_micros().saturating_sub(self.seen.off_us.load(Ordering::Relaxed)))
    }

    fn freezes(&self) -> Arc<Freezes> {
        self.seen.freezes.load_full()
    }

    fn covered(&self, covers: Covers) -> Answer<'_, Option<Vec<RequestId>>> {
        let (answer, wait) = oneshot::channel();
        let asked = self.ops.ops.send(Op::Read(Reading::Covered(covers, answer)));
        Box::pin(async move { if asked.is_ok() { wait.await.ok().flatten() } else { None } })
    }

    fn unresolved(&self, until: Timestamp) -> Answer<'_, Option<Unresolved>> {
        let (answer, wait) = oneshot::channel();
        let asked = self.ops.ops.send(Op::Read(Reading::Unresolved(until, answer)));
        Box::pin(async move { if asked.is_ok() { wait.await.ok().flatten() } else { None } })
    }

    fn resolve(&self, unresolved: Unresolved, resolution: Resolution) -> Answer<'_, Result<(), NotRecorded>> {
        let body = Encoded::new(&Body::Resolution { request_id: unresolved.request_id, resolution });
        self.record(|answer| Ok(Op::Resolve(unresolved, body?, answer)))
    }

    fn postpone(&self, unresolved: Unresolved, since: Timestamp) -> Answer<'_, Result<(), NotRecorded>> {
        self.record(|answer| Ok(Op::Postpone(unresolved, since, answer)))
    }

    fn note(&self, body: Body) -> bool {
        if let Body::Policy { policy } = &body {
            policy.as_ref().clone_into(&mut self.seen.policy.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if self.health() != Health::Writable || self.notes.load(Ordering::Relaxed) >= NOTES_AT_MOST {
            return false;
        }
        self.notes.fetch_add(1, Ordering::Relaxed);
        Encoded::new(&body).is_ok_and(|body| self.ops.ops.send(Op::Note(body)).is_ok())
    }

    fn health(&self) -> Health {
        *self.health.borrow()
    }

    fn degraded(&self) -> Vec<&'static str> {
        self.seen.troubles.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn broken(&self) -> Answer<'_, ()> {
        let mut health = self.health.clone();
        Box::pin(async move {
            let _ = health.wait_for(|health| *health == Health::Broken).await;
        })
    }

    fn close(&self) -> Answer<'_, ()> {
        let asked = self.ops.ops.send(Op::Close);
        Box::pin(async move {
            let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
            if let (Ok(()), Some(thread)) = (asked, thread) {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        })
    }
}

/// Where the checkpoint is copied to, if anywhere.
fn copy_of(config: &config::Ledger) -> Option<&Path> {
    config.checkpoint_copy.as_deref()
}
