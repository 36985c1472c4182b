//! Tracked work: what the process must not end without, and how it is told to give up.

use std::future::Future;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long recording that it gave up may take a task.
const GIVING_UP: Duration = Duration::from_secs(5);

/// Spawns tasks and waits for them. Cheap to clone; clones are the same set.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    abandoned: CancellationToken,
}

impl Tasks {
    /// Starts work that outlives whoever asked for it: dropping the handle does not stop it.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        self.tracker.spawn(work)
    }

    /// Resolves once waiting is over: what is still under way must end now, recording that it did.
    pub async fn abandoned(&self) {
        self.abandoned.cancelled().await;
    }

    /// Waits for all tasks, at most `patience`; then tells them to give up and waits a little for that. Returns whether all of them ended.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.tracker.close();
        if tokio::time::timeout(patience, self.tracker.wait()).await.is_ok() {
            return true;
        }
        self.abandoned.cancel();
        tokio::time::timeout(GIVING_UP, self.tracker.wait()).await.is_ok()
    }

    /// How many tasks are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }
}
