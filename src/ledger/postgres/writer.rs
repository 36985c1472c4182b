//! The one writer of this replica: takes what waits, commits it in one transaction, answers everybody; renews the
//! lease; and finds its way back when the database was away.
//!
//! A failure is one of three kinds. Known not to be there: intents are unavailable, outcomes are written again until
//! they are. In doubt, where COMMIT has no answer: see [`Doubt`]. And a database that has lost what it had committed:
//! then nothing more is accepted, and the process ends.

use super::Queue;
use super::batch::Ended;
use super::lease::{Lease, RENEW};
use super::op::{Doubt, Op, Points, Reading, answer, hold, refuse};
use super::plan::{Asked, Owed, Plan};
use super::session::Fault;
use super::statements::{Identity, Writing};
use crate::clock::{Moment, Timestamp, Uptime, moment, since};
use crate::config;
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::entry::{Body, Encoded};
use crate::ledger::freeze::{Covers, Freezes};
use crate::ledger::glance::Glance;
use crate::ledger::{Health, Unresolved};
use crate::telemetry::Metrics;
use arc_swap::ArcSwap;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// The most operations in one transaction, so that the first of a long queue need not wait for its last.
const BATCH_AT_MOST: usize = 256;
/// How often what could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How long at the end it waits for each of the last attempts to connect.
const LAST_PAUSE: Duration = Duration::from_secs(1);

/// What others see of the writer and of the keeper.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// This replica is the one that looks after the tree, the search data and the unknown outcomes.
    pub(super) keeps: AtomicBool,
    /// How far this process's clock is ahead of the database's.
    pub(super) off_us: AtomicI64,
    /// For readiness.
    pub(super) troubles: Mutex<BTreeSet<&'static str>>,
    /// What is frozen, as last seen.
    pub(super) freezes: ArcSwap<Freezes>,
    /// The policy that is in force; it stands in the replica's row, for the others to compare.
    pub(super) policy: Mutex<String>,
}

impl Seen {
    /// Returns whether that is new.
    pub(super) fn trouble(&self, what: &'static str, is_there: bool) -> bool {
        let mut troubles = self.troubles.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if is_there { troubles.insert(what) } else { troubles.remove(what) }
    }
}

pub(super) struct Writer {
    pub(super) place: config::Postgres,
    pub(super) queue: mpsc::UnboundedReceiver<Op>,
    /// The way back here, for intents that are never concluded. Weak: the queue ends with its senders.
    pub(super) abandoned: Weak<Queue>,
    pub(super) database: Option<Writing>,
    pub(super) who: Identity,
    pub(super) is_registered: bool,
    pub(super) lease: Lease,
    pub(super) asked_for_lease: Option<Moment>,
    /// The last entry of the last commit, or of what was there at the start: it has to be there until
    /// it is pruned; then the newest entry stands for it.
    pub(super) latest: Option<(u64, Vec<u8>)>,
    /// What has to be written in spite of everything.
    pub(super) unwritten: Vec<Op>,
    pub(super) doubt: Option<Doubt>,
    pub(super) failures: u32,
    pub(super) failed: Option<Moment>,
    /// The database answers, but takes no entries: it is not writable until one was taken, be it for a trial.
    pub(super) refused: bool,
    pub(super) closing: bool,
    pub(super) others: Vec<String>,
    pub(super) health: watch::Sender<Health>,
    pub(super) notes: Arc<AtomicUsize>,
    pub(super) seen: Arc<Seen>,
    pub(super) metrics: Metrics,
}

/// What became of an attempt to commit a batch.
enum Attempt {
    Done,
    /// Nothing was written, and it may be tried again at once, over a new connection or with a new lease.
    Again(Vec<Op>),
    /// Nothing was written, and nothing is to be tried now.
    Later(Vec<Op>),
}

impl Writer {
    pub(super) async fn run(mut self) {
        while !self.closing {
            let batch = self.gather().await;
            self.turn(batch).await;
            self.lease.guard();
        }
        self.end().await;
    }

    pub(super) fn health(&self) -> Health {
        *self.health.borrow()
    }

    pub(super) fn set_health(&self, health: Health) {
        self.health.send_if_modified(|is| *is != Health::Broken && std::mem::replace(is, health) != health);
    }

    /// What waits. Nothing: it is time to renew the lease, or to try again.
    async fn gather(&mut self) -> Vec<Op> {
        let pause = self.pause();
        let Ok(first) = tokio::time::timeout(pause, self.queue.recv()).await else { return Vec::new() };
        // Nobody can ask any more: the store was dropped without being closed.
        let Some(first) = first else {
            self.closing = true;
            return Vec::new();
        };
        let mut batch = vec![first];
        while batch.len() < BATCH_AT_MOST
            && let Ok(op) = self.queue.try_recv()
        {
            batch.push(op);
        }
        for op in &batch {
            self.see(op);
        }
        batch
    }

    fn pause(&self) -> Duration {
        let renewal = self.asked_for_lease.map_or(Duration::ZERO, |asked| RENEW.saturating_sub(since(asked)));
        if self.database.is_none() {
            self.failed.map_or(Duration::ZERO, |failed| self.back_off().saturating_sub(since(failed)))
        } else if self.unwritten.is_empty() {
            renewal
        } else {
            renewal.min(TRY_AGAIN)
        }
    }

    /// Something has come out of the queue.
    pub(super) fn see(&mut self, op: &Op) {
        if matches!(op, Op::Note(_)) {
            self.notes.fetch_sub(1, Ordering::Relaxed);
        }
        self.closing |= matches!(op, Op::Close);
    }

    /// One round: whatever the database needs, then the batch.
    async fn turn(&mut self, batch: Vec<Op>) {
        if self.health() == Health::Broken {
            return refuse(batch);
        }
        let mut ops = std::mem::take(&mut self.unwritten);
        ops.extend(batch);
        // Once more: a connection that was lost while nobody looked is noticed by the first who asks.
        for _ in 0..2 {
            if !self.is_ready().await || self.health() == Health::Broken {
                break;
            }
            ops = self.answer_readings(ops).await;
            if ops.iter().all(|op| matches!(op, Op::Close)) {
                return self.try_out().await;
            }
            ops = match self.commit(ops).await {
                Attempt::Done => return,
                Attempt::Again(ops) => ops,
                Attempt::Later(ops) => {
                    self.unwritten.extend(hold(ops));
                    return;
                }
            };
        }
        if self.health() == Health::Broken {
            return refuse(ops);
        }
        self.unwritten.extend(hold(ops));
    }

    /// Answers what only reads, and gives back the rest.
    async fn answer_readings(&mut self, ops: Vec<Op>) -> Vec<Op> {
        let mut rest = Vec::with_capacity(ops.len());
        for op in ops {
            match op {
                Op::Read(Reading::Unresolved(until, answer)) => {
                    let found = if self.seen.keeps.load(Ordering::SeqCst) { self.longest(until).await } else { None };
                    let _ = answer.send(found);
                }
                Op::Read(Reading::Covered(covers, answer)) => drop(answer.send(self.covered(&covers).await)),
                op @ (Op::Intend(..) | Op::Conclude(..) | Op::Resolve(..) | Op::Postpone(..)) => rest.push(op),
                op @ (Op::Freeze(..) | Op::Unfreeze(..) | Op::Note(_) | Op::Close) => rest.push(op),
            }
        }
        rest
    }

    /// The requests in flight, of any replica, that this covers.
    async fn covered(&mut self, covers: &Covers) -> Option<Vec<RequestId>> {
        let covered = self.database.as_mut()?.covered(covers).await;
        covered.inspect_err(|fault| self.lost(fault)).ok()
    }

    /// The unknown outcome that waits longest. One replica looks for all of them.
    async fn longest(&mut self, until: Timestamp) -> Option<Unresolved> {
        let believed = Unresolved::believed(until).as_micros();
        let rows = match self.database.as_mut()?.longest(until.as_micros(), believed).await {
            Ok(rows) => rows,
            Err(fault) => {
                self.lost(&fault);
                return None;
            }
        };
        for (since_us, seq, attempts, bytes) in rows {
            let intended = Glance::at(seq, &bytes).ok().and_then(|entry| entry.intended());
            if let Some((request_id, target)) = intended {
                let (since, attempts) = (Timestamp::from_micros(since_us), Unresolved::looks(attempts.into()));
                return Some(Unresolved { seq, since, attempts, request_id, target });
            }
            tracing::error!(seq, "an entry that should be an intent cannot be read: the ledger is damaged");
        }
        None
    }

    /// One transaction. Nothing is answered before its commit has returned.
    async fn commit(&mut self, ops: Vec<Op>) -> Attempt {
        let started = moment();
        let Some(database) = self.database.as_mut() else { return Attempt::Again(ops) };
        let points = Points::of(&ops);
        points.reach("intent-before-begin", "outcome-before-begin");
        let (known, is_ours) = match database.lock_and_learn(&Asked::for_ops(&ops), &self.who.id).await {
            Ok(learnt) => learnt,
            Err(fault) => {
                self.give_back_after(&fault).await;
                return self.nothing_happened(&fault, ops);
            }
        };
        points.reach("intent-after-begin", "outcome-after-begin");
        if self.latest.as_ref().is_some_and(|(seq, _)| known.length <= *seq) {
            self.break_down(&format!("its head is at {} entries, which is behind what it had committed", known.length));
            return Attempt::Later(ops);
        }
        if !is_ours {
            self.is_registered = false;
            self.give_back().await;
            return Attempt::Again(ops);
        }
        self.frozen(&known.admitting.freezes);
        let mut plan = Plan::behind(known);
        let owed = plan.take(&ops);
        if plan.is_empty() {
            self.give_back().await;
            answer(ops, owed, &self.abandoned, self.lease.end());
            return Attempt::Done;
        }
        for [intent, outcome] in [
            ["intent-before-insert", "outcome-before-insert"],
            ["intent-after-insert", "outcome-after-insert"],
            ["intent-before-commit", "outcome-before-commit"],
        ] {
            points.reach(intent, outcome);
        }
        let Some(database) = self.database.as_mut() else { return Attempt::Again(ops) };
        let ended = database.write(&plan, &self.who.id).await;
        self.metrics.commit_entries.observe(ops.len() as f64);
        self.metrics.commit_seconds.observe(since(started).as_secs_f64());
        match ended {
            Ended::Committed => {
                points.reach("intent-after-commit", "outcome-after-commit");
                self.taken();
                self.lease.opened(owed.iter().filter(|owed| matches!(owed, Owed::Recorded { .. })).count());
                self.frozen(&plan.admitting.freezes);
                self.advance(plan);
                answer(ops, owed, &self.abandoned, self.lease.end());
                Attempt::Done
            }
            Ended::Refused(fault) => self.nothing_happened(&fault, ops),
            Ended::Doubtful(fault) => {
                tracing::error!(%fault, entries = plan.entries.len(), "a commit has no answer: nothing of it is sent until it is known whether it is there");
                self.doubt = Some(Doubt::new(plan.base, plan.entries, ops, owed));
                self.lost(&fault);
                Attempt::Done
            }
        }
    }

    /// What is frozen now, for those who ask from outside.
    pub(super) fn frozen(&self, freezes: &Freezes) {
        if **self.seen.freezes.load() != *freezes {
            self.seen.freezes.store(Arc::new(freezes.clone()));
        }
    }

    /// What was committed has to be there from now on.
    pub(super) fn advance(&mut self, mut plan: Plan) {
        if let Some(last) = plan.entries.pop() {
            // Its own number: what is behind it is gone from the plan by now.
            self.latest = Some((plan.length(), last));
        }
    }

    /// Nothing was written: whether it is tried again depends on why.
    fn nothing_happened(&mut self, fault: &Fault, ops: Vec<Op>) -> Attempt {
        if fault.lasts() {
            self.not_taken(fault);
        }
        match fault {
            Fault::Refused(..) => Attempt::Later(ops),
            Fault::Unfit(_) | Fault::Lost(_) => Attempt::Again(ops),
        }
    }

    /// Ends the transaction without a change.
    pub(super) async fn give_back(&mut self) {
        let Some(database) = self.database.as_mut() else { return };
        if let Err(fault) = database.roll_back().await {
            self.lost(&fault);
        }
    }

    /// The connection is of no more use.
    pub(super) fn lost(&mut self, fault: &Fault) {
        if let Fault::Lost(_) | Fault::Unfit(_) = fault {
            if self.database.take().is_some() {
                tracing::warn!(%fault, "the connection to the ledger was lost");
            }
        } else {
            tracing::error!(%fault, "the ledger cannot be asked");
        }
    }

    pub(super) fn break_down(&mut self, what: &str) {
        tracing::error!(
            "the ledger's database has lost what it had committed: {what}. A failover to a standby that was behind does \
             that. Nothing more is accepted here; before you start again, find out what was lost (audit verify \
             --checkpoint)"
        );
        self.health.send_replace(Health::Broken);
    }

    /// Only who was told to stop says that it has.
    async fn end(&mut self) {
        for _ in 0..3 {
            // Who did not wait any more when the last of it was answered sends nothing: that is an outcome, too.
            let late = std::iter::from_fn(|| self.queue.try_recv().ok());
            let late: Vec<Op> = late.filter(|op| matches!(op, Op::Conclude(..))).collect();
            if late.is_empty() && self.unwritten.is_empty() && self.doubt.is_none() {
                break;
            }
            if self.database.is_none() {
                tokio::time::sleep(self.pause().min(LAST_PAUSE)).await;
            }
            self.turn(late).await;
        }
        if self.health() != Health::Broken && self.is_ready().await && self.abandoned.upgrade().is_some() {
            failpoint::hit("stop-before-commit");
            if let Ok(body) = Encoded::new(&Body::Stop {}) {
                self.commit(vec![Op::Note(body)]).await;
            }
            failpoint::hit("stop-after-commit");
        }
        self.leave().await;
        if !self.unwritten.is_empty() {
            tracing::error!(
                outcomes = self.unwritten.len(),
                "outcomes could not be recorded before the end: another replica records them as unknown"
            );
        }
        refuse(std::mem::take(&mut self.unwritten));
    }

    /// This replica is not there any more.
    pub(super) async fn leave(&mut self) {
        let Some(mut database) = self.database.take() else { return };
        if let Err(fault) = database.leave(&self.who.id).await {
            tracing::warn!(%fault, "this replica's lease could not be given back: it ends by itself");
        }
        database.close().await;
    }
}

/// So that the time of a renewal is the one from before it was sent.
pub(super) fn asked_now() -> (Moment, Uptime) {
    (moment(), Uptime::now())
}
