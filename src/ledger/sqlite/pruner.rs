//! Prunes while the writer records: a thread that looks at what would go, has it recorded, waits until that is signed,
//! and then asks the writer for one short transaction after the other.
//!
//! Each step can be the last one before a crash. What was recorded and is not at its end is gone on with by the next
//! start: first the signature, then the search data, which need the entries, then the entries, then their bytes.

use super::asking::SqliteReader;
use super::follower::Progress;
use super::op::{Op, Reading, Receipt};
use super::prune::{self, Row, State, Step};
use super::tree_store::TreeStore;
use super::{Queue, database};
use crate::clock::Timestamp;
use crate::config;
use crate::failpoint;
use crate::ledger::checkpoint::Checkpoint;
use crate::ledger::checkpoint::note::VerifyingKey;
use crate::ledger::entry::Encoded;
use crate::ledger::prune::{Edge, Order, Stage, Why, keys_until, may_be, plan, whole_bundles};
use crate::ledger::tree::Head;
use crate::ledger::{OpenError, Reader};
use rusqlite::Connection;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// Between two looks at what others do: signing, forgetting, reading.
const PAUSE: Duration = Duration::from_millis(50);
/// Before a step is asked for again that found no room.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The pruning side of a store. Clones are the same one.
#[derive(Clone)]
pub(super) struct Pruner {
    folder: PathBuf,
    retention: Option<Duration>,
    /// Weak: a prune that waits for a reader keeps no writer alive.
    ops: Weak<Queue>,
    progress: Arc<Progress>,
    stage: Arc<Mutex<Stage>>,
}

/// What would go.
struct Plan {
    first: u64,
    body: Encoded,
    edge: Edge,
}

impl Pruner {
    pub(super) fn new(config: &config::Ledger, ops: Weak<Queue>, progress: Arc<Progress>) -> Self {
        let stage = Arc::new(Mutex::new(Stage::Idle));
        Self { folder: config.path.clone(), retention: config.retention, ops, progress, stage }
    }

    /// Goes on with what an earlier process did not finish.
    pub(super) fn resume(&self) -> Result<(), OpenError> {
        if prune::pending(&database::open_to_read(&self.folder)?)?.is_some() {
            tracing::info!("a prune that was begun is gone on with");
            let _ = self.start(None);
        }
        Ok(())
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    /// Starts the thread. Without an order it only goes on with what is pending.
    pub(super) fn start(&self, order: Option<Order>) -> Result<(), Stage> {
        let mut stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        if stage.is_under_way() {
            return Err(stage.clone());
        }
        let pruner = self.clone();
        let run = move || pruner.run(order.as_ref());
        *stage = match std::thread::Builder::new().name("pruner".into()).spawn(run) {
            Ok(_) => Stage::Looking { done: 0, of: 0 },
            Err(e) => Stage::ended(Why::Unavailable, format!("the thread that prunes cannot be started: {e}")),
        };
        Ok(())
    }

    fn run(&self, order: Option<&Order>) {
        let end = self.all(order).unwrap_or_else(|stage| stage);
        match &end {
            Stage::Done { first, removed, seq } => tracing::info!(first, removed, seq, "the ledger was pruned"),
            Stage::Ended { words, .. } => tracing::warn!(words, "the ledger was not pruned"),
            Stage::Nothing { .. }
            | Stage::Idle
            | Stage::Looking { .. }
            | Stage::Signing { .. }
            | Stage::Forgetting
            | Stage::Deleting { .. }
            | Stage::Emptying { .. } => {}
        }
        self.set(end);
    }

    fn all(&self, order: Option<&Order>) -> Result<Stage, Stage> {
        let earlier = self.finish()?;
        let Some(order) = order else { return Ok(earlier.unwrap_or(Stage::Idle)) };
        let plan = match self.plan(order)? {
            Ok(plan) => plan,
            Err(first) => return Ok(earlier.unwrap_or(Stage::Nothing { first })),
        };
        failpoint::hit("prune-begin");
        let first = plan.first;
        self.step(|| Step::Record { body: plan.body.clone(), edge: plan.edge.clone() })?;
        failpoint::hit("prune-recorded");
        match self.finish()? {
            Some(done) => Ok(done),
            // Not recorded: something came in between.
            None => Err(self
                .kept_back(first)?
                .unwrap_or_else(|| Stage::ended(Why::Unavailable, "nothing was recorded; try again"))),
        }
    }

    fn kept_back(&self, first: u64) -> Result<Option<Stage>, Stage> {
        let db = database::open_to_read(&self.folder)?;
        let words = prune::kept_back(&db, first).map_err(|e| OpenError::Unusable(e.to_string()))?;
        Ok(words.map(|words| Stage::ended(Why::No, format!("nothing was pruned: {words}"))))
    }

    /// Asks the writer, again and again while there is no room.
    fn step(&self, step: impl Fn() -> Step) -> Result<(), Stage> {
        loop {
            match self.ask(|receipt: Receipt| Op::Prune(step(), receipt))? {
                Ok(()) => return Ok(()),
                Err(_) => std::thread::sleep(TRY_AGAIN),
            }
        }
    }

    fn ask<T>(&self, op: impl FnOnce(oneshot::Sender<T>) -> Op) -> Result<T, Stage> {
        let gone = || Stage::ended(Why::Unavailable, "the ledger is closed; its next start goes on");
        let (answer, wait) = oneshot::channel();
        let queue = self.ops.upgrade().ok_or_else(gone)?;
        queue.0.send(op(answer)).map_err(|_| gone())?;
        drop(queue);
        wait.blocking_recv().map_err(|_| gone())
    }

    /// Brings what is recorded to its end. `None`: nothing is.
    fn finish(&self) -> Result<Option<Stage>, Stage> {
        let db = database::open_to_read(&self.folder)?;
        let Some(Row { seq, state, edge }) = prune::pending(&db)? else { return Ok(None) };
        let first = edge.size();
        if state == State::Recorded {
            self.set(Stage::Signing { seq });
            while self.signed()?.is_none_or(|head| head.size <= seq) {
                self.wait()?;
            }
            failpoint::hit("prune-signed");
            self.step(|| Step::Begin { seq })?;
        }
        failpoint::hit("prune-begun");
        self.set(Stage::Forgetting);
        self.forget_keys(&db, seq)?;
        while !self.progress.forget(first) {
            self.wait()?;
        }
        failpoint::hit("prune-forgotten");
        let lowest = || prune::lowest(&db).map_err(|e| OpenError::Unusable(e.to_string()));
        let (begun, mut next) = (lowest()?, lowest()?);
        while next < first {
            self.set(Stage::Deleting { done: next - begun, of: first - begun });
            self.step(|| Step::Delete { first })?;
            failpoint::hit("prune-deleted");
            next = lowest()?;
        }
        let removed = first.saturating_sub(begun);
        // A connection of ours must not be the reader that keeps it.
        drop(db);
        self.set(Stage::Emptying { removed });
        while !self.ask(|answer| Op::Read(Reading::Empty(answer)))? {
            self.wait()?;
        }
        failpoint::hit("prune-emptied");
        self.step(|| Step::End { seq })?;
        failpoint::hit("prune-ended");
        Ok(Some(Stage::Done { first, removed, seq }))
    }

    /// Keys of so long ago are forgotten one by one when new ones come. Here all of them go.
    fn forget_keys(&self, db: &Connection, seq: u64) -> Result<(), Stage> {
        let until = keys_until(seq, &database::entry(db, seq)?.unwrap_or_default())?;
        while prune::has_keys(db, until).map_err(|e| OpenError::Unusable(e.to_string()))? {
            self.step(|| Step::Forget { until })?;
        }
        Ok(())
    }

    /// A moment, unless the writer has ended.
    fn wait(&self) -> Result<(), Stage> {
        std::thread::sleep(PAUSE);
        let is_there = self.ops.strong_count() > 0;
        is_there
            .then_some(())
            .ok_or_else(|| Stage::ended(Why::Unavailable, "the ledger is closed; its next start goes on"))
    }

    /// What is signed, by the key that is stored with it.
    fn signed(&self) -> Result<Option<Head>, OpenError> {
        let Some(signed) = TreeStore::open_to_read(&self.folder)?.signed()? else { return Ok(None) };
        let wrong = |what: &dyn std::fmt::Display| OpenError::Damaged(format!("the stored checkpoint: {what}"));
        let key = VerifyingKey::parse(&signed.key).map_err(|fault| wrong(&fault))?;
        Ok(Some(*Checkpoint::verify(&signed.note, &key).map_err(|fault| wrong(&fault))?.head()))
    }

    /// What would go, held against what is signed: this is the last time that it can be. `Err` in it: nothing, and where
    /// the log begins.
    fn plan(&self, order: &Order) -> Result<Result<Plan, u64>, Stage> {
        may_be(order.before, Timestamp::now(), self.retention, order.longest_budget)?;
        let ledger = SqliteReader::open(&self.folder)?;
        let db = database::open_to_read(&self.folder)?;
        let beginning = prune::beginning(&db)?;
        let begin = beginning.as_ref().map_or(0, |(pruned, _)| pruned.first);
        let signed = self.signed()?.map_or(0, |head| head.size);
        let first = whole_bundles(ledger.first_at(order.before, ledger.length()?)?.min(signed));
        if first <= begin {
            return Ok(Err(begin));
        }
        if let Some(stage) = self.kept_back(first)? {
            return Err(stage);
        }
        let head = self.signed()?.ok_or_else(|| OpenError::Unusable("nothing has been signed yet".to_owned()))?;
        let looking = |done, of| self.set(Stage::Looking { done, of });
        let (body, edge) = plan(&ledger, order, beginning.as_ref().map(|(pruned, _)| pruned), first, &head, looking)?;
        let body = Encoded::new(&body).map_err(|e| OpenError::Unusable(format!("the entry cannot be written: {e}")))?;
        Ok(Ok(Plan { first, body, edge }))
    }
}
