//! A store whose disk, crashes and lost answers are the world's. What it decides, the real `admission` decides.
//!
//! As in the real ones, a writer takes what waits into one transaction, and another task syncs behind it and answers. Both
//! take their time, and each can fail in the ways of real ones: no room; a write or a sync that may or may not be on
//! disk; a commit without an answer, which is looked up.

#[path = "disk.rs"]
pub(crate) mod disk;
#[path = "writer.rs"]
mod writer;

use super::admission::{Answered, Asked};
use super::entry::{Body, End, Outcome, Resolution};
use super::freeze::{Covers, Freeze, Freezes};
use super::{Abandoned, Answer, Health, Intended, Ledger, NotRecorded, Recorded, Unresolved};
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::simulation::World;
use arc_swap::ArcSwap;
use disk::By;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use writer::Writer;

type Receipt = oneshot::Sender<Result<(), NotRecorded>>;

enum Op {
    Intend(Box<Asked>, oneshot::Sender<Intended>),
    Conclude(u64, Outcome, Option<Answered>, By, Option<Receipt>),
    Resolve(Unresolved, Resolution, Receipt),
    Postpone(Unresolved, Timestamp, Receipt),
    Freeze(Freeze, Receipt),
    Unfreeze(Covers, String, String, oneshot::Sender<Result<bool, NotRecorded>>),
    Note(Body),
    Unresolved(Timestamp, oneshot::Sender<Option<Unresolved>>),
    Covered(Covers, oneshot::Sender<Option<Vec<RequestId>>>),
    Close(oneshot::Sender<()>),
}

struct Queue(UnboundedSender<Op>);

impl Abandoned for Queue {
    fn abandoned(&self, seq: u64, outcome: Outcome) {
        let by = if outcome.outcome == End::NotSent { By::Late } else { By::Lost };
        let _ = self.0.send(Op::Conclude(seq, outcome, None, by, None));
    }
}

/// One process's side of it.
pub(crate) struct Store {
    ops: Arc<Queue>,
    freezes: Arc<ArcSwap<Freezes>>,
    health: watch::Receiver<Health>,
}

impl Store {
    /// Opens the world's disk, which has recovered.
    pub(crate) fn open(world: &Arc<World>) -> Arc<Self> {
        let (ops, queue) = unbounded_channel();
        let ops = Arc::new(Queue(ops));
        let (health, told) = watch::channel(Health::Writable);
        let freezes = Arc::new(ArcSwap::from_pointee(world.lock().disk.standing.freezes.clone()));
        Writer::start(world, queue, (health, Arc::downgrade(&ops)), Arc::clone(&freezes));
        Arc::new(Self { ops, freezes, health: told })
    }

    fn ask<T: Send + 'static>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op, otherwise: T) -> Answer<'_, T> {
        let (answer, wait) = oneshot::channel();
        let _ = self.ops.0.send(op(answer));
        Box::pin(async move { wait.await.unwrap_or(otherwise) })
    }
}

impl Ledger for Store {
    fn intend(&self, asked: Asked) -> Answer<'_, Intended> {
        self.ask(|answer| Op::Intend(Box::new(asked), answer), Intended::Unavailable)
    }

    fn conclude(
        &self,
        recorded: Recorded,
        outcome: Outcome,
        answered: Option<Answered>,
    ) -> Answer<'_, Result<(), NotRecorded>> {
        let seq = recorded.spend();
        self.ask(|receipt| Op::Conclude(seq, outcome, answered, By::Path, Some(receipt)), Err(NotRecorded))
    }

    fn freeze(&self, freeze: Freeze) -> Answer<'_, Result<(), NotRecorded>> {
        self.ask(|receipt| Op::Freeze(freeze, receipt), Err(NotRecorded))
    }

    fn unfreeze(&self, covers: Covers, reason: String, by: String) -> Answer<'_, Result<bool, NotRecorded>> {
        self.ask(|answer| Op::Unfreeze(covers, reason, by, answer), Err(NotRecorded))
    }

    fn freezes(&self) -> Arc<Freezes> {
        self.freezes.load_full()
    }

    fn covered(&self, covers: Covers) -> Answer<'_, Option<Vec<RequestId>>> {
        self.ask(|answer| Op::Covered(covers, answer), None)
    }

    fn unresolved(&self, until: Timestamp) -> Answer<'_, Option<Unresolved>> {
        self.ask(|answer| Op::Unresolved(until, answer), None)
    }

    fn resolve(&self, unresolved: Unresolved, resolution: Resolution) -> Answer<'_, Result<(), NotRecorded>> {
        self.ask(|receipt| Op::Resolve(unresolved, resolution, receipt), Err(NotRecorded))
    }

    fn postpone(&self, unresolved: Unresolved, since: Timestamp) -> Answer<'_, Result<(), NotRecorded>> {
        self.ask(|receipt| Op::Postpone(unresolved, since, receipt), Err(NotRecorded))
    }

    fn note(&self, body: Body) -> bool {
        self.health() == Health::Writable && self.ops.0.send(Op::Note(body)).is_ok()
    }

    fn health(&self) -> Health {
        *self.health.borrow()
    }

    fn degraded(&self) -> Vec<&'static str> {
        Vec::new()
    }

    fn broken(&self) -> Answer<'_, ()> {
        let mut health = self.health.clone();
        Box::pin(async move { drop(health.wait_for(|health| *health == Health::Broken).await) })
    }

    fn close(&self) -> Answer<'_, ()> {
        self.ask(Op::Close, ())
    }
}
