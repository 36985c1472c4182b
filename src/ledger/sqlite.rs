//! The embedded store: a folder with `ledger.db`, one process that writes, any number that read.

mod asking;
mod backup;
mod batch;
mod database;
mod folder;
mod follower;
mod index;
mod moving;
mod op;
mod prune;
mod pruner;
mod recover;
mod reindex;
mod restore;
mod sealing;
mod standing;
mod stray;
mod syncing;
mod tree_store;
mod unresolved;
mod writer;

pub use asking::SqliteReader;
pub use backup::{Backup, BackupFault, backup};
pub(super) use moving::Leaving;
pub use reindex::reindex;
pub use restore::{RestoreFault, Restored, Wish, restore};
pub(super) use sealing::{make_key, read_copy, write_durably};

use super::admission::{Answered, Asked, Question};
use super::checkpoint::note::VerifyingKey;
use super::entry::{Body, Encoded, Outcome, Resolution};
use super::freeze::{Covers, Freeze, Freezes};
use super::prune::{Order, Prune, Stage};
use super::{Abandoned, Answer, Health, Intended, Ledger, NotRecorded, OpenError, Recorded, Unresolved};
use crate::clock::Timestamp;
use crate::config;
use crate::id::RequestId;
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use follower::Progress;
use op::{Concluding, Op, Reading, Receipt};
use pruner::Pruner;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use tokio::sync::{oneshot, watch};
use writer::Writer;

/// SQLite's own version, such as `3.53.2`.
#[must_use]
pub fn version() -> &'static str {
    rusqlite::version()
}

/// The key that verifies what the signing key of this configuration signs.
///
/// # Errors
/// There is none, or it cannot be read.
pub fn key_at_hand(config: &config::Ledger) -> Result<VerifyingKey, OpenError> {
    sealing::signing_key(config, true).map(|key| key.verifying_key())
}

/// The process that holds a ledger's lock, or held it last, as far as it is known.
#[must_use]
pub fn holder(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path.join("lock")).ok()?.trim().parse().ok()
}

/// Whether a process holds the ledger in this folder, as far as this one may look.
#[must_use]
pub fn is_held(path: &Path) -> bool {
    folder::is_held(path)
}

/// How many notes may wait; more are counted instead.
const NOTES_AT_MOST: usize = 1024;

/// The writing side. Its thread, and the follower's behind it, end with [`Ledger::close`], or when this and every
/// [`Recorded`] are dropped.
pub struct Sqlite {
    ops: Arc<Queue>,
    notes: Arc<AtomicUsize>,
    health: watch::Receiver<Health>,
    progress: Arc<Progress>,
    freezes: Arc<ArcSwap<Freezes>>,
    pruner: Pruner,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The way to the writer.
struct Queue(mpsc::Sender<Op>);

impl Abandoned for Queue {
    fn abandoned(&self, seq: u64, outcome: Outcome) {
        if let Ok(concluding) = Concluding::new(outcome, None) {
            let _ = self.0.send(Op::Conclude(seq, concluding, None));
        }
    }
}

/// What the start found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// How many intents had no outcome; each has `unknown` now.
    pub unknown: u64,
}

impl Sqlite {
    /// Takes the ledger for this process alone, closes what an earlier process left open, and starts the
    /// writer.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(config: &config::Ledger, metrics: Metrics) -> Result<(Self, Recovered), OpenError> {
        let (ops, queue) = mpsc::channel();
        let ops = Arc::new(Queue(ops));
        let (health_is, health) = watch::channel(Health::Writable);
        let notes = Arc::new(AtomicUsize::new(0));
        let queue = (queue, Arc::downgrade(&ops));
        let (writer, recovered) = Writer::open(config, queue, health_is, Arc::clone(&notes), metrics)?;
        let (progress, freezes) = (writer.progress(), writer.freezes());
        let thread = std::thread::Builder::new()
            .name("ledger".into())
            .spawn(move || writer.run())
            .map_err(|e| OpenError::Unusable(format!("the ledger's thread cannot be started: {e}")))?;
        let pruner = Pruner::new(config, Arc::downgrade(&ops), Arc::clone(&progress));
        pruner.resume()?;
        Ok((Self { ops, notes, health, progress, freezes, pruner, thread: Mutex::new(Some(thread)) }, recovered))
    }
}

impl Sqlite {
    /// Asks the writer for something whose answer says only whether it is recorded.
    fn record(&self, op: impl FnOnce(Receipt) -> serde_json::Result<Op>) -> Answer<'_, Result<(), NotRecorded>> {
        let (answer, wait) = oneshot::channel();
        let asked = op(answer).is_ok_and(|op| self.ops.0.send(op).is_ok());
        Box::pin(async move { if asked { wait.await.unwrap_or(Err(NotRecorded)) } else { Err(NotRecorded) } })
    }
}

impl Prune for Sqlite {
    fn prune(&self, order: Order) -> Result<(), Stage> {
        self.pruner.start(Some(order))
    }

    fn pruning(&self) -> Stage {
        self.pruner.stage()
    }
}

impl Ledger for Sqlite {
    fn intend(&self, asked: Asked) -> Answer<'_, Intended> {
        let (answer, wait) = oneshot::channel();
        let question = Box::new(Question::from(&asked));
        let body = Encoded::new(&Body::Intent(asked.into()));
        let asked = body.is_ok_and(|body| self.ops.0.send(Op::Intend(question, body, answer)).is_ok());
        Box::pin(async move { if asked { wait.await.unwrap_or(Intended::Unavailable) } else { Intended::Unavailable } })
    }

    fn conclude(
        &self,
        recorded: Recorded,
        outcome: Outcome,
        answered: Option<Answered>,
    ) -> Answer<'_, Result<(), NotRecorded>> {
        self.record(|answer| Ok(Op::Conclude(recorded.spend(), Concluding::new(outcome, answered)?, Some(answer))))
    }

    fn freeze(&self, freeze: Freeze) -> Answer<'_, Result<(), NotRecorded>> {
        self.record(|answer| Ok(Op::Freeze(freeze, answer)))
    }

    fn unfreeze(&self, covers: Covers, reason: String, by: String) -> Answer<'_, Result<bool, NotRecorded>> {
        let (answer, wait) = oneshot::channel();
        let body = Encoded::new(&Body::Unfreeze { covers: covers.clone(), reason, by });
        let asked = body.is_ok_and(|body| self.ops.0.send(Op::Unfreeze(covers, body, answer)).is_ok());
        Box::pin(async move { if asked { wait.await.unwrap_or(Err(NotRecorded)) } else { Err(NotRecorded) } })
    }

    fn freezes(&self) -> Arc<Freezes> {
        self.freezes.load_full()
    }

    fn covered(&self, covers: Covers) -> Answer<'_, Option<Vec<RequestId>>> {
        let (answer, wait) = oneshot::channel();
        let asked = self.ops.0.send(Op::Read(Reading::Covered(covers, answer)));
        Box::pin(async move { if asked.is_ok() { wait.await.ok().flatten() } else { None } })
    }

    fn unresolved(&self, until: Timestamp) -> Answer<'_, Option<Unresolved>> {
        let (answer, wait) = oneshot::channel();
        let asked = self.ops.0.send(Op::Read(Reading::Unresolved(until, answer)));
        Box::pin(async move { if asked.is_ok() { wait.await.ok().flatten() } else { None } })
    }

    fn resolve(&self, unresolved: Unresolved, resolution: Resolution) -> Answer<'_, Result<(), NotRecorded>> {
        let body = Body::Resolution { request_id: unresolved.request_id, resolution };
        self.record(|answer| Ok(Op::Resolve(unresolved, Encoded::new(&body)?, answer)))
    }

    fn postpone(&self, unresolved: Unresolved, since: Timestamp) -> Answer<'_, Result<(), NotRecorded>> {
        self.record(|answer| Ok(Op::Postpone(unresolved, since, answer)))
    }

    fn note(&self, body: Body) -> bool {
        if self.health() != Health::Writable || self.notes.load(Ordering::Relaxed) >= NOTES_AT_MOST {
            return false;
        }
        Encoded::new(&body).is_ok_and(|body| {
            self.notes.fetch_add(1, Ordering::Relaxed);
            self.ops.0.send(Op::Note(body)).is_ok()
        })
    }

    fn health(&self) -> Health {
        *self.health.borrow()
    }

    fn degraded(&self) -> Vec<&'static str> {
        self.progress.troubles()
    }

    fn broken(&self) -> Answer<'_, ()> {
        let mut health = self.health.clone();
        Box::pin(async move {
            let _ = health.wait_for(|health| *health == Health::Broken).await;
        })
    }

    fn close(&self) -> Answer<'_, ()> {
        let asked = self.ops.0.send(Op::Close);
        Box::pin(async move {
            let thread = self.thread.lock().ok().and_then(|mut thread| thread.take());
            if let (Ok(()), Some(thread)) = (asked, thread) {
                let _ = tokio::task::spawn_blocking(move || thread.join()).await;
            }
        })
    }
}
