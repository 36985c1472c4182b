//! What makes a commit durable, and only then answers it.
//!
//! SQLite writes a commit to the write-ahead log and leaves the sync to us (`synchronous=NORMAL`): so the writer builds
//! the next transaction while the disk syncs the last one. A commit counts once the log was synced behind it. What
//! SQLite itself relies on, the log before it is copied into the database and the database before the log begins anew,
//! it syncs as ever. Where few wait, there is little to build meanwhile, and waking another thread costs more than it
//! saves: then the writer syncs by itself.

use super::Queue;
use super::database::WAL;
use super::follower::Progress;
use super::op::{Op, Owed, answer, refuse};
use crate::clock::{Moment, since};
use crate::failpoint;
use crate::ledger::{Health, OpenError};
use crate::telemetry::Metrics;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use tokio::sync::watch;

/// The fewest operations of a transaction that a thread of its own syncs.
const WORTH_A_THREAD: usize = 32;

/// A transaction that SQLite has committed, and that nobody has heard of yet.
pub(super) struct Committed {
    pub(super) ops: Vec<Op>,
    pub(super) owed: Vec<Owed>,
    /// How many entries there are with it.
    pub(super) length: u64,
    pub(super) started: Moment,
}

/// What syncs and answers.
pub(super) struct Syncer {
    log: File,
    health: watch::Sender<Health>,
    progress: Arc<Progress>,
    abandoned: Weak<Queue>,
    metrics: Metrics,
    /// Transactions that were handed over and are not answered yet.
    elsewhere: AtomicUsize,
}

/// The way to a syncer, for the one thread that commits. On its own thread it takes one transaction while it syncs
/// another, and no more.
pub(super) struct Syncing {
    commits: SyncSender<Committed>,
    thread: JoinHandle<()>,
    syncer: Arc<Syncer>,
}

/// Whoever panics while it syncs leaves open what is on disk.
struct BreaksOnPanic<'a>(&'a Syncer);

impl Syncer {
    /// For the write-ahead log in this folder, which is there as long as its database is open.
    pub(super) fn new(
        folder: &Path,
        health: watch::Sender<Health>,
        progress: Arc<Progress>,
        abandoned: Weak<Queue>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        // Errors of the disk are told to each open file once: this one is nobody else's, and never two threads' at once.
        let log = File::open(folder.join(WAL));
        let log = log.map_err(|e| OpenError::Unusable(format!("{}/{WAL} cannot be opened: {e}", folder.display())))?;
        Ok(Self { log, health, progress, abandoned, metrics, elsewhere: AtomicUsize::new(0) })
    }

    pub(super) fn start(self) -> Result<Syncing, OpenError> {
        let (commits, committed) = sync_channel(0);
        let syncer = Arc::new(self);
        let its = Arc::clone(&syncer);
        let thread = std::thread::Builder::new().name("sync".into()).spawn(move || its.run(&committed));
        let thread = thread.map_err(|e| OpenError::Unusable(format!("the ledger's thread cannot be started: {e}")))?;
        Ok(Syncing { commits, thread, syncer })
    }

    fn run(&self, committed: &Receiver<Committed>) {
        while let Ok(committed) = committed.recv() {
            self.finish(committed);
            self.elsewhere.fetch_sub(1, Ordering::Release);
        }
    }

    /// Syncs, then tells everybody.
    fn finish(&self, committed: Committed) {
        let _guard = BreaksOnPanic(self);
        let Committed { ops, owed, length, started } = committed;
        // Behind a failed sync nothing is known to be durable, whatever a later one says.
        if *self.health.borrow() == Health::Broken {
            return refuse(ops);
        }
        let synced = if failpoint::is_on("synchronous-normal") { Ok(()) } else { self.log.sync_data() };
        if let Err(error) = synced {
            tracing::error!(%error, "a sync of the ledger failed, and what it was for may or may not be on disk: nothing more is accepted, restart");
            self.health.send_replace(Health::Broken);
            return refuse(ops);
        }
        let points = super::op::Points::of(&ops);
        points.reach("intent-after-sync", "outcome-after-sync");
        self.progress.committed(length);
        self.metrics.commit_seconds.observe(since(started).as_secs_f64());
        answer(ops, owed, &self.abandoned);
    }
}

impl Drop for BreaksOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.health.send_replace(Health::Broken);
        }
    }
}

impl Syncing {
    /// Has it synced and answered: here and now where it is small and nothing is under way elsewhere, so that everything
    /// is answered in its order; else it is handed over, which waits while the one before the last is synced.
    ///
    /// # Errors
    /// Gives it back where there is nobody to take it any more.
    pub(super) fn sync(&self, committed: Committed) -> Result<(), Committed> {
        let is_small = committed.ops.len() < WORTH_A_THREAD && !failpoint::is_on("sync-elsewhere");
        if is_small && self.syncer.elsewhere.load(Ordering::Acquire) == 0 {
            self.syncer.finish(committed);
            return Ok(());
        }
        self.syncer.elsewhere.fetch_add(1, Ordering::Relaxed);
        self.commits.send(committed).map_err(|back| back.0)
    }

    /// Waits until everything is synced and answered.
    pub(super) fn end(self) {
        drop(self.commits);
        let _ = self.thread.join();
    }
}
