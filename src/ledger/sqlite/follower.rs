//! What is derived from entries is derived behind the commit: one thread reads what has been committed and
//! hands it on. Nothing waits for it; what fails here degrades what is derived, never a deletion.

use super::database;
use crate::clock::{Moment, moment, since};
use crate::ledger::{Health, OpenError};
use crate::telemetry::Metrics;
use rusqlite::Connection;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;
use tokio::sync::watch;

/// Something that is derived from entries.
pub(super) trait Follow {
    /// What it is, for the log.
    fn name(&self) -> &'static str;

    /// What readiness says while it cannot be derived.
    fn trouble(&self) -> &'static str;

    /// The entry that it wants next; `u64::MAX` while it can take none.
    fn next(&self) -> u64;

    /// Takes committed entries, ascending without a gap from `first`, which is [`Follow::next`]. After an
    /// error it is asked again for what is next, so it may go back.
    ///
    /// # Errors
    /// In words; it is tried again later.
    fn take(&mut self, first: u64, entries: &[Vec<u8>]) -> Result<(), OpenError>;

    /// Forgets entries before `first`, which were pruned, as far as a short turn allows. They are still there.
    ///
    /// # Errors
    /// In words; it is tried again later.
    fn forget(&mut self, _first: u64) -> Result<Forgot, OpenError> {
        Ok(Forgot::All)
    }

    /// Called when nothing waits, at least once a second otherwise too, and once at the end, with `ended`.
    ///
    /// # Errors
    /// In words.
    fn rest(&mut self, ended: bool) -> Result<(), OpenError>;
}

/// What is left of pruned entries in what is derived from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgot {
    /// Nothing.
    All,
    /// Something, for the next turn.
    More,
    /// Something that a reader keeps.
    Later,
}

/// The most entries of one read: an open read transaction keeps the write-ahead log from being reused.
const BATCH: u64 = 4_096;
/// How many entries have to wait before a commit wakes the follower; fewer wait for the next second. Waking a
/// thread costs about as much as recording an entry.
const WAKE_AT: u64 = 1_024;
const SECOND: Duration = Duration::from_secs(1);
/// How long it may go on catching up after the last commit.
const LAST: Duration = Duration::from_secs(2);
/// Deletions come first where there are not enough processors.
const NICE: i32 = 10;

/// How far the writer has come. The writer's side of it costs two atomic operations a commit.
#[derive(Default)]
pub(super) struct Progress {
    length: AtomicU64,
    /// The length at which the sleeping follower is woken.
    wake_at: AtomicU64,
    ended: AtomicBool,
    /// Entries before this one are to be forgotten, and are.
    forget: AtomicU64,
    forgotten: AtomicU64,
    thread: OnceLock<Thread>,
    troubles: Mutex<BTreeSet<&'static str>>,
}

impl Progress {
    pub(super) fn new(length: u64) -> Arc<Self> {
        Arc::new(Self { length: length.into(), wake_at: u64::MAX.into(), ..Self::default() })
    }

    /// A commit has returned.
    pub(super) fn committed(&self, length: u64) {
        self.length.store(length, Ordering::SeqCst);
        if length >= self.wake_at.load(Ordering::SeqCst) {
            self.wake_at.store(u64::MAX, Ordering::SeqCst);
            self.wake();
        }
    }

    /// Entries before `first` were pruned: they are to be forgotten. Returns whether they are.
    pub(super) fn forget(&self, first: u64) -> bool {
        if self.forget.swap(first, Ordering::SeqCst) != first {
            self.wake();
        }
        self.forgotten.load(Ordering::SeqCst) >= first
    }

    /// What cannot be derived now.
    pub(super) fn troubles(&self) -> Vec<&'static str> {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    fn trouble(&self, what: &'static str, is_there: bool) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if is_there {
            troubles.insert(what)
        } else {
            troubles.remove(what)
        };
    }

    /// No commit comes any more.
    pub(super) fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.wake();
    }

    fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    /// Sleeps until enough waits, the writer ends, or a second has passed.
    fn sleep(&self, wake_at: u64) {
        self.wake_at.store(wake_at, Ordering::SeqCst);
        if self.length.load(Ordering::SeqCst) < wake_at && !self.ended.load(Ordering::SeqCst) {
            std::thread::park_timeout(SECOND);
        }
        self.wake_at.store(u64::MAX, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Call {
    Take,
    Rest,
}

struct Following {
    follow: Box<dyn Follow + Send>,
    /// When it failed last, and at what.
    failed: Option<(Moment, Call)>,
}

impl Following {
    fn is_set_aside(&self) -> bool {
        self.failed.is_some_and(|(failed, _)| since(failed) < SECOND)
    }

    /// Notes how a call ended. Only the first failure in a row is logged; what failed has to succeed to end it.
    fn ended(&mut self, call: Call, result: Result<(), OpenError>, metrics: &Metrics, progress: &Progress) {
        match result {
            Ok(()) => {
                if self.failed.is_some_and(|(_, failed)| failed == call) {
                    self.failed = None;
                    progress.trouble(self.follow.trouble(), false);
                    tracing::info!(what = self.follow.name(), "is derived from the ledger again");
                }
            }
            Err(error) => {
                metrics.follower_failures.inc();
                if self.failed.is_none() {
                    tracing::error!(what = self.follow.name(), %error, "cannot be derived from the ledger; deletions go on, it is tried again each second");
                }
                self.failed = Some((moment(), call));
                progress.trouble(self.follow.trouble(), true);
            }
        }
    }
}

/// The thread's own.
pub(super) struct Follower {
    db: Connection,
    following: Vec<Following>,
    progress: Arc<Progress>,
    health: watch::Receiver<Health>,
    metrics: Metrics,
}

impl Follower {
    /// Starts the thread. It ends after [`Progress::end`].
    pub(super) fn start(
        folder: &Path,
        follows: Vec<Box<dyn Follow + Send>>,
        progress: Arc<Progress>,
        health: watch::Receiver<Health>,
        metrics: Metrics,
    ) -> Result<JoinHandle<()>, OpenError> {
        let following = follows.into_iter().map(|follow| Following { follow, failed: None }).collect();
        let follower = Self { db: database::open_to_read(folder)?, following, progress, health, metrics };
        std::thread::Builder::new()
            .name("follower".into())
            .spawn(move || follower.run())
            .map_err(|e| OpenError::Unusable(format!("the follower's thread cannot be started: {e}")))
    }

    fn run(mut self) {
        let _ = self.progress.thread.set(std::thread::current());
        let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
        let (mut rested, mut last) = (moment(), None);
        self.rest(false);
        loop {
            let ended = self.progress.ended.load(Ordering::SeqCst);
            if ended && last.is_none() {
                last = Some(moment());
                // What failed a moment ago is tried now: there is no later.
                self.following.iter_mut().for_each(|following| following.failed = None);
            }
            let length = self.progress.length.load(Ordering::SeqCst);
            // On a full disk what room there is belongs to outcomes.
            let full = *self.health.borrow() == Health::Full;
            let moved = !full && (self.advance(length) | self.forget());
            self.metrics.follower_behind.set(i64::try_from(self.behind(length)).unwrap_or(i64::MAX));
            if last.is_some_and(|last| since(last) >= LAST) {
                self.rest(true);
                return;
            }
            if moved && since(rested) < SECOND {
                continue;
            }
            if !full {
                self.rest(ended && !moved);
            }
            rested = moment();
            if moved {
                continue;
            }
            if ended {
                return;
            }
            let stuck = full || self.behind(length) > 0;
            self.progress.sleep(if stuck { u64::MAX } else { length + WAKE_AT });
        }
    }

    /// Hands each that is behind one batch. Returns whether anyone has moved.
    fn advance(&mut self, length: u64) -> bool {
        let wanting = self.following.iter().filter(|following| !following.is_set_aside());
        let mut positions: Vec<u64> =
            wanting.map(|following| following.follow.next()).filter(|next| *next < length).collect();
        positions.sort_unstable();
        positions.dedup();
        let mut moved = false;
        for first in positions {
            let entries = self.read(first, length.min(first + BATCH));
            for following in &mut self.following {
                if following.is_set_aside() || following.follow.next() != first {
                    continue;
                }
                let taken = match &entries {
                    Ok(entries) => following.follow.take(first, entries),
                    Err(error) => Err(error.clone()),
                };
                moved |= taken.is_ok() && following.follow.next() > first;
                following.ended(Call::Take, taken, &self.metrics, &self.progress);
            }
        }
        moved
    }

    /// Has pruned entries forgotten, a short turn. Returns whether there is more to do at once.
    fn forget(&mut self) -> bool {
        let first = self.progress.forget.load(Ordering::SeqCst);
        if self.progress.forgotten.load(Ordering::SeqCst) >= first {
            return false;
        }
        let (mut all, mut more) = (true, false);
        for following in &mut self.following {
            let forgot = if following.is_set_aside() { Ok(Forgot::Later) } else { following.follow.forget(first) };
            all &= matches!(forgot, Ok(Forgot::All));
            more |= matches!(forgot, Ok(Forgot::More));
            if let Err(error) = forgot {
                following.ended(Call::Rest, Err(error), &self.metrics, &self.progress);
            }
        }
        if all {
            self.progress.forgotten.store(first, Ordering::SeqCst);
        }
        more
    }

    /// Committed entries, each in its place: over a hole nothing is signed.
    fn read(&self, from: u64, until: u64) -> Result<Vec<Vec<u8>>, OpenError> {
        let rows = database::read(&self.db, from, until)?;
        let mut places = (from..until).zip(rows.iter().map(|(seq, _)| Some(*seq)).chain(std::iter::repeat(None)));
        match places.find(|(place, seq)| *seq != Some(*place)) {
            Some((place, _)) => Err(OpenError::Damaged(format!("entry {place} is missing: somebody has removed it"))),
            None => Ok(rows.into_iter().map(|(_, bytes)| bytes).collect()),
        }
    }

    fn rest(&mut self, ended: bool) {
        for following in self.following.iter_mut().filter(|following| !following.is_set_aside()) {
            let rested = following.follow.rest(ended);
            following.ended(Call::Rest, rested, &self.metrics, &self.progress);
        }
    }

    /// How many entries the last of them has not taken.
    fn behind(&self, length: u64) -> u64 {
        let next = |following: &Following| match following.follow.next() {
            u64::MAX => 0,
            next => next,
        };
        length.saturating_sub(self.following.iter().map(next).min().unwrap_or(length))
    }
}
