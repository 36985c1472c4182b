//! The one writer: takes what waits, commits it in one transaction, and hands that to who syncs it and answers everybody.
//!
//! A failure is one of two kinds. Known: there is no room (`SQLITE_FULL`), or another program holds the database. Then
//! everything is rolled back, intents are unavailable, outcomes use the reserve, and it goes on when it can. An outcome
//! that cannot be written is kept and written first as soon as there is room. Any other failure leaves open what is on
//! disk: nothing more is accepted, and the process has to end so that the next start reads what is really there.

use super::batch::{Batch, Head};
use super::database::{self, Sync};
use super::folder::{Lock, Reserve};
use super::follower::{Follow, Follower, Progress};
use super::index::Index;
use super::op::{Op, Owed, Points, Reading, answer, kept, outcomes_first, refuse};
use super::sealing::Sealer;
use super::standing::Standing;
use super::syncing::{Committed, Syncer, Syncing};
use super::{Queue, Recovered, folder, prune, restore, stray, unresolved};
use crate::clock::{Moment, Timestamp, moment};
use crate::config;
use crate::failpoint;
use crate::ledger::entry::{Body, Encoded};
use crate::ledger::freeze::Freezes;
use crate::ledger::{Health, NotRecorded, OpenError};
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use rusqlite::Connection;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// The most entries in one transaction, so that the first of a long queue need not wait for its last.
const BATCH_AT_MOST: usize = 256;
/// How many freezes may wait for room.
const FREEZES_AT_MOST: usize = 64;
/// How often what could not be written is tried again. While the disk is full nobody may call, so nobody else asks.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// Where the last batch had as many as this, a smaller one is given a moment to gather: a commit costs the processor
/// about as much as twenty entries (PostgreSQL knows the two as `commit_siblings` and `commit_delay`).
const SIBLINGS: usize = 4;
const GATHER: Duration = Duration::from_micros(100);

pub(super) struct Writer {
    pub(super) db: Connection,
    queue: Receiver<Op>,
    /// The way back here, for intents that are never concluded. Weak: the queue ends with its senders.
    abandoned: Weak<Queue>,
    /// Outcomes that could not be written, at most one for each request that was under way then.
    unwritten: Vec<Op>,
    health: watch::Sender<Health>,
    notes: Arc<AtomicUsize>,
    metrics: Metrics,
    reserve: Reserve,
    pub(super) head: Head,
    pub(super) standing: Standing,
    freezes: Arc<ArcSwap<Freezes>>,
    progress: Arc<Progress>,
    syncing: Option<Syncing>,
    follower: Option<JoinHandle<()>>,
    lock: Lock,
}

impl Writer {
    pub(super) fn open(
        config: &config::Ledger,
        (queue, abandoned): (Receiver<Op>, Weak<Queue>),
        health: watch::Sender<Health>,
        notes: Arc<AtomicUsize>,
        metrics: Metrics,
    ) -> Result<(Self, Recovered), OpenError> {
        let mut lock = Lock::take(&config.path)?;
        restore::refuse_half_done(&config.path)?;
        let db = database::open_to_write(&config.path)?;
        database::check_ends(&db)?;
        let next = database::length(&db)?;
        // Before anything is written: what was signed must be there.
        let beginning = prune::beginning(&db)?;
        let sealer = Sealer::open(config, next, beginning.as_ref())?;
        let reserve = Reserve::new(&config.path, config.reserve_bytes);
        lock.watch(&database::FILES)?;
        let mut writer = Self {
            db,
            queue,
            abandoned,
            unwritten: Vec::new(),
            health,
            notes,
            metrics,
            reserve,
            standing: Standing::default(),
            freezes: Arc::default(),
            head: Head { next, latest: Timestamp::from_micros(i64::MIN), unresolved: 0 },
            progress: Progress::new(next),
            syncing: None,
            follower: None,
            lock,
        };
        let failed = |e: rusqlite::Error| OpenError::Damaged(format!("the freezes cannot be read: {e}"));
        writer.standing = Standing::load(&writer.db).map_err(failed)?;
        writer.freezes.store(Arc::new(writer.standing.freezes().clone()));
        stray::check(&config.path, &writer.db, next)?;
        let recovered = writer.recover()?;
        writer.metrics.unresolved.set(writer.head.unresolved);
        folder::sync(&config.path)?;
        if !writer.reserve.held() {
            tracing::error!(
                bytes = config.reserve_bytes,
                "there is no room for the ledger's reserve: it takes no intents until there is; make room, or lower \
                 ledger.reserve_kib"
            );
            writer.health.send_replace(Health::Full);
        }
        writer.progress.committed(writer.head.next);
        writer.syncing = Some(writer.syncer(&config.path)?.start()?);
        let follows: Vec<Box<dyn Follow + Send>> = vec![Box::new(sealer), Box::new(Index::new(&config.path))];
        let (progress, health) = (Arc::clone(&writer.progress), writer.health.subscribe());
        let follower = Follower::start(&config.path, follows, progress, health, writer.metrics.clone())?;
        writer.follower = Some(follower);
        Ok((writer, recovered))
    }

    /// From now on the syncs behind commits are ours.
    fn syncer(&self, folder: &Path) -> Result<Syncer, OpenError> {
        let failed = |e: rusqlite::Error| OpenError::Unusable(format!("the ledger cannot be written: {e}"));
        if database::synchronous(&self.db, Sync::Ours).map_err(failed)? != Sync::Ours as i64 {
            return Err(OpenError::Unusable("SQLite does not leave its syncs to us".to_owned()));
        }
        let (progress, abandoned) = (Arc::clone(&self.progress), Weak::clone(&self.abandoned));
        Syncer::new(folder, self.health.clone(), progress, abandoned, self.metrics.clone())
    }

    pub(super) fn run(mut self) {
        let (mut closing, mut siblings) = (false, 0);
        while !closing {
            let waited = if self.health() != Health::Writable || !self.unwritten.is_empty() {
                self.queue.recv_timeout(TRY_AGAIN)
            } else {
                self.queue.recv().map_err(|_| RecvTimeoutError::Disconnected)
            };
            let mut batch = match waited {
                Ok(first) => vec![first],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => break,
            };
            self.drain(&mut batch);
            if siblings >= SIBLINGS && batch.len() < siblings {
                std::thread::sleep(GATHER);
                self.drain(&mut batch);
            }
            siblings = batch.len();
            closing = batch.iter().any(|op| matches!(op, Op::Close));
            self.write(batch);
        }
        if let Some(syncing) = self.syncing.take() {
            syncing.end();
        }
        failpoint::hit("stop-begin");
        // Who did not wait any more when the last of it was answered sends nothing: that is an outcome, too.
        let (mut late, rest) = outcomes_first(self.queue.try_iter().collect());
        refuse(rest);
        // What could not be written so far is, if it can be by now. On a full disk there is room for outcomes alone.
        let which = if self.health() == Health::Full { outcomes_first } else { kept };
        let (mut kept, rest) = which(std::mem::take(&mut self.unwritten));
        refuse(rest);
        kept.append(&mut late);
        let left = kept.len();
        // Only who was told to stop says that it has.
        if closing && self.health() != Health::Broken {
            match self.stop(kept) {
                Ok(head) => {
                    self.progress.committed(head.next);
                    failpoint::hit("stop-after-commit");
                }
                Err(error) => tracing::error!(%error, left, "outcomes and notes could not be recorded before the end"),
            }
        }
        // The follower reads the ledger: it ends before the writer's connection and the lock go.
        self.progress.end();
        let _ = self.follower.take().map(JoinHandle::join);
    }

    /// What is frozen, for those who ask from outside.
    pub(super) fn freezes(&self) -> Arc<ArcSwap<Freezes>> {
        Arc::clone(&self.freezes)
    }

    /// How far it has come, for those who ask from outside.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Takes what waits, without waiting.
    fn drain(&self, batch: &mut Vec<Op>) {
        while batch.len() < BATCH_AT_MOST
            && let Ok(op) = self.queue.try_recv()
        {
            batch.push(op);
        }
    }

    fn stop(&mut self, late: Vec<Op>) -> rusqlite::Result<Head> {
        database::synchronous(&self.db, Sync::Full)?;
        let mut batch = Batch::begin(&self.db, self.head, &mut self.standing)?;
        let owed = late.iter().map(|op| batch.perform(op)).collect::<rusqlite::Result<_>>()?;
        batch.append(&Encoded::new(&Body::Stop {}).map_err(database::not_encoded)?)?;
        failpoint::hit("stop-before-commit");
        let head = batch.commit()?;
        answer(late, owed, &self.abandoned);
        Ok(head)
    }

    fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Answers what only reads, and gives back the rest.
    fn answer_readings(&self, batch: Vec<Op>) -> Vec<Op> {
        let readable = self.health() != Health::Broken;
        let read = |op| {
            let Op::Read(reading) = op else { return Some(op) };
            match reading {
                Reading::Unresolved(until, answer) => {
                    let found = if readable { unresolved::longest(&self.db, until) } else { Ok(None) };
                    let found = found.inspect_err(|error| tracing::error!(%error, "the ledger cannot be read"));
                    let _ = answer.send(found.unwrap_or(None));
                }
                Reading::Empty(answer) => {
                    let _ = answer.send(readable && prune::emptied(&self.db));
                }
                Reading::Covered(covers, answer) => {
                    let _ = answer.send(readable.then(|| self.standing.covered(&covers)));
                }
            }
            None
        };
        batch.into_iter().filter_map(read).collect()
    }

    fn write(&mut self, batch: Vec<Op>) {
        self.look();
        let mut ops = std::mem::take(&mut self.unwritten);
        ops.extend(self.answer_readings(batch));
        if ops.is_empty() {
            return;
        }
        self.notes.fetch_sub(ops.iter().filter(|op| matches!(op, Op::Note(_))).count(), Ordering::Relaxed);
        // What is written to files that nobody can find again is lost.
        if let Err(what) = self.lock.still_holds() {
            return self.break_down(&what, ops);
        }
        let started = moment();
        match self.health() {
            Health::Broken => refuse(ops),
            Health::Full => self.write_outcomes(ops),
            Health::Unreachable => self.keep(ops),
            Health::Writable => match self.commit(&mut ops) {
                Ok(owed) => self.hand_over(ops, owed, started),
                Err(e) if database::is_full(&e) => {
                    tracing::error!("the disk is full: the ledger takes no intents until there is room");
                    self.reserve.release();
                    turn(&self.health, Health::Full);
                    self.write_outcomes(ops);
                }
                Err(e) if database::is_held(&e) => {
                    tracing::error!("another program holds the ledger's database: it takes no intents until that ends");
                    turn(&self.health, Health::Unreachable);
                    self.keep(ops);
                }
                Err(e) => self.break_down(&e, ops),
            },
        }
    }

    /// Whether what kept it from taking intents is over.
    fn look(&mut self) {
        let is_over = match self.health() {
            Health::Full => self.reserve.restore(),
            Health::Unreachable => match database::is_free(&self.db) {
                Ok(is_free) => is_free,
                Err(error) => return self.break_down(&error, Vec::new()),
            },
            Health::Writable | Health::Broken => false,
        };
        if is_over {
            tracing::info!(was = ?self.health(), "the ledger takes intents again");
            turn(&self.health, Health::Writable);
        }
    }

    /// On a full disk: outcomes, in the space that was kept for them. Once none can come any more, what is left of it is
    /// there for the brake, which waits until then.
    fn write_outcomes(&mut self, ops: Vec<Op>) {
        let (outcomes, rest) = outcomes_first(ops);
        let (mut freezes, rest): (Vec<_>, _) = rest.into_iter().partition(|op| matches!(op, Op::Freeze(..)));
        self.keep(rest);
        self.write_in_reserve(outcomes);
        let waits = |op: &Op| matches!(op, Op::Conclude(..));
        if self.standing.nothing_is_open() && !self.unwritten.iter().any(waits) {
            self.write_in_reserve(freezes);
        } else {
            refuse(freezes.split_off(freezes.len().min(FREEZES_AT_MOST)));
            self.unwritten.extend(freezes);
        }
    }

    fn write_in_reserve(&mut self, mut ops: Vec<Op>) {
        let started = moment();
        if ops.is_empty() || self.health() == Health::Broken {
            return refuse(ops);
        }
        match self.commit(&mut ops) {
            Ok(owed) => self.hand_over(ops, owed, started),
            Err(e) if database::is_full(&e) || database::is_held(&e) => self.keep(ops),
            Err(e) => self.break_down(&e, ops),
        }
    }

    /// Tells those who wait that nothing of theirs is recorded, and keeps outcomes and notes until they can be.
    fn keep(&mut self, ops: Vec<Op>) {
        let (outcomes, rest) = outcomes_first(ops);
        let (notes, rest) = kept(rest);
        refuse(rest);
        for op in outcomes {
            if let Op::Conclude(seq, body, receipt) = op {
                receipt.map(|receipt| receipt.send(Err(NotRecorded)));
                self.unwritten.push(Op::Conclude(seq, body, None));
            }
        }
        // They wait as before: who asks for more is told when there are too many.
        self.notes.fetch_add(notes.len(), Ordering::Relaxed);
        self.unwritten.extend(notes);
    }

    fn break_down(&mut self, error: &dyn std::fmt::Display, ops: Vec<Op>) {
        tracing::error!(%error, "a write to the ledger failed and may or may not be on disk: nothing more is accepted, restart");
        self.health.send_replace(Health::Broken);
        refuse(ops);
    }

    /// One transaction. Nothing is answered here: what is owed is owed once it is synced.
    fn commit(&mut self, ops: &mut Vec<Op>) -> rusqlite::Result<Vec<Owed>> {
        let points = Points::of(ops);
        points.reach("intent-before-begin", "outcome-before-begin");
        let mut batch = Batch::begin(&self.db, self.head, &mut self.standing)?;
        points.reach("intent-after-begin", "outcome-after-begin");
        let mut owed = ops.iter().map(|op| batch.perform(op)).collect::<rusqlite::Result<_>>()?;
        self.metrics.commit_entries.observe(ops.len() as f64);
        if failpoint::is_on("answer-before-commit") {
            answer(std::mem::take(ops), std::mem::take(&mut owed), &self.abandoned);
        }
        points.reach("intent-before-commit", "outcome-before-commit");
        self.head = batch.commit()?;
        if **self.freezes.load() != *self.standing.freezes() {
            self.freezes.store(Arc::new(self.standing.freezes().clone()));
        }
        points.reach("intent-after-commit", "outcome-after-commit");
        self.metrics.unresolved.set(self.head.unresolved);
        Ok(owed)
    }

    /// What was committed is synced, and then answered.
    fn hand_over(&mut self, ops: Vec<Op>, owed: Vec<Owed>, started: Moment) {
        let committed = Committed { ops, owed, length: self.head.next, started };
        if let Some(Err(back)) = self.syncing.as_ref().map(|syncing| syncing.sync(committed)) {
            self.break_down(&"nobody syncs it any more", back.ops);
        }
    }
}

/// Says how the ledger is. Broken stays broken, whatever the writer finds: the sync thread may have said so meanwhile.
fn turn(health: &watch::Sender<Health>, to: Health) {
    health.send_if_modified(|is| *is != Health::Broken && std::mem::replace(is, to) != to);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_is_full_or_has_room_again_does_not_mend_a_ledger_that_a_sync_has_broken() {
        let (health, told) = watch::channel(Health::Writable);
        for now in [Health::Full, Health::Writable, Health::Full] {
            turn(&health, now);
            assert_eq!(*told.borrow(), now);
        }
        health.send_replace(Health::Broken);
        for now in [Health::Full, Health::Writable] {
            turn(&health, now);
            assert_eq!(*told.borrow(), Health::Broken);
        }
    }
}
