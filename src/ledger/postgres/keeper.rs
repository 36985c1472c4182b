//! What is derived from entries is derived behind the commits, by one replica for all: it holds a lock of the database
//! for as long as its connection lives. The others wait for it, and look at what it signed.

use super::blocking::Blocking;
use super::index::{self, Index};
use super::sealing::Sealer;
use super::session::{Fault, Role};
use super::writer::Seen;
use super::{pruned, schema};
use crate::clock::{Moment, moment, since};
use crate::config;
use crate::ledger::{Health, OpenError};
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio_postgres::types::Type;

pub(super) const BATCH: u64 = 4_096;
const SECOND: Duration = Duration::from_secs(1);
/// How long it may go on catching up after the last commit.
const LAST: Duration = Duration::from_secs(2);
/// Any number that is ours.
pub(super) const LOCK: i64 = 0x7767_6d02;

/// The thread's own.
pub(super) struct Keeper {
    place: config::Postgres,
    db: Option<Blocking>,
    sealer: Sealer,
    index: Index,
    seen: Arc<Seen>,
    metrics: Metrics,
    /// What has failed since it last went well, so that it is said once.
    complained: [bool; 3],
}

/// A running keeper.
pub(super) struct Keeping {
    ended: Arc<AtomicBool>,
    thread: std::io::Result<JoinHandle<()>>,
}

impl Keeping {
    /// No commit comes any more. Returns when the last checkpoint is signed, or could not be in time.
    pub(super) fn end(self) {
        self.ended.store(true, Ordering::SeqCst);
        if let Ok(thread) = self.thread {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

impl Keeper {
    /// Holds the ledger against what was signed; starts nothing yet.
    pub(super) fn open(
        config: &config::Ledger,
        place: &config::Postgres,
        seen: Arc<Seen>,
        metrics: Metrics,
    ) -> Result<Self, OpenError> {
        let db = Blocking::open(place, Role::Keeper)?;
        let sealer = Sealer::open(config, &db)?;
        let mut keeper = Self {
            place: place.clone(),
            db: Some(db),
            sealer,
            index: Index::default(),
            seen,
            metrics,
            complained: [false; 3],
        };
        keeper.stand_for_election()?;
        Ok(keeper)
    }

    /// Whether the log is still the one that this replica signs: until it had joined, a restore could begin another.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] where it is not, or the database cannot be asked.
    pub(super) fn is_its_log(&self) -> Result<(), OpenError> {
        let Some(db) = &self.db else { return Ok(()) };
        let (_, stored) = db.signed()?.ok_or_else(|| OpenError::Unusable(schema::MISSING.to_owned()))?;
        self.sealer.signs(&stored)
    }

    /// Starts the thread.
    pub(super) fn start(self, health: watch::Receiver<Health>) -> Keeping {
        let ended = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&ended);
        let thread = std::thread::Builder::new().name("keeper".into()).spawn(move || self.run(&told, &health));
        if let Err(error) = &thread {
            tracing::error!(%error, "the keeper's thread cannot be started: this replica signs nothing");
        }
        Keeping { ended, thread }
    }

    fn run(mut self, ended: &AtomicBool, health: &watch::Receiver<Health>) {
        let mut last: Option<Moment> = None;
        loop {
            let is_last = ended.load(Ordering::SeqCst);
            // Over a database that lost what it had committed nothing is signed.
            let is_done = *health.borrow() == Health::Broken || self.round(is_last);
            if is_last && (is_done || since(*last.get_or_insert_with(moment)) >= LAST) {
                break;
            }
            if is_done {
                std::thread::park_timeout(SECOND);
            }
        }
        self.seen.keeps.store(false, Ordering::SeqCst);
        let _ = self.db.take().map(Blocking::close);
    }

    /// One round of a second at most. Returns whether there is nothing more to do now.
    fn round(&mut self, is_last: bool) -> bool {
        let begun = moment();
        if let Err(error) = self.connect().and_then(|()| self.stand_for_election()) {
            tracing::debug!(%error, "the keeper has no connection");
            self.disconnect();
            return true;
        }
        if !self.seen.keeps.load(Ordering::SeqCst) {
            let looked = self.with(|keeper, db| keeper.sealer.look(db, None));
            self.ended(0, "ledger-not-signed", looked.map(drop));
            return true;
        }
        let sealed = self.with(|keeper, db| keeper.seal(db, begun, is_last));
        let filled = self.with(|keeper, db| keeper.fill(db, begun));
        // Only over what was looked at just now.
        let pruned = match (&sealed, &filled) {
            (Ok(_), Ok(_)) if !is_last => {
                self.with(|keeper, db| pruned::go_on(db, keeper.sealer.seen(), || since(begun) < SECOND))
            }
            _ => Ok(true),
        };
        let is_done = !matches!((&sealed, &filled, &pruned), (Ok(false), ..) | (_, Ok(false), _) | (.., Ok(false)));
        self.ended(2, "ledger-not-pruned", pruned.map(drop));
        self.ended(0, "ledger-not-signed", sealed.map(drop));
        self.ended(1, "search-not-filled", filled.map(drop));
        is_done
    }

    fn with<T>(&mut self, work: impl FnOnce(&mut Self, &Blocking) -> Result<T, OpenError>) -> Result<T, OpenError> {
        let Some(db) = self.db.take() else {
            return Err(OpenError::Unusable("the database cannot be reached".to_owned()));
        };
        let done = work(self, &db);
        self.db = Some(db);
        done
    }

    fn connect(&mut self) -> Result<(), OpenError> {
        if self.db.is_none() {
            self.db = Some(Blocking::open(&self.place, Role::Keeper)?);
        }
        Ok(())
    }

    fn disconnect(&mut self) {
        self.db = None;
        self.seen.keeps.store(false, Ordering::SeqCst);
        self.sealer.forget();
        self.index.forget();
    }

    /// Takes the lock, if nobody has it. Also shows whether the connection is still there.
    fn stand_for_election(&mut self) -> Result<(), OpenError> {
        let keeps = self.seen.keeps.load(Ordering::SeqCst);
        let Some(db) = &self.db else { return Ok(()) };
        let elected: Result<bool, Fault> = db.ask(async |client| {
            let sql = if keeps { "SELECT $1 IS NOT NULL" } else { "SELECT pg_try_advisory_lock($1)" };
            client.query_typed_one(sql, &[(&LOCK, Type::INT8)]).await?.try_get(0)
        });
        if elected? && !keeps {
            tracing::info!("this replica keeps the ledger's tree and search data");
            self.seen.keeps.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Hashes and signs. `false`: there is more.
    fn seal(&mut self, db: &Blocking, begun: Moment, is_last: bool) -> Result<bool, OpenError> {
        let length = db.length()?;
        let mut next = self.sealer.next(db)?;
        while next < length && since(begun) < SECOND {
            let entries = committed(db, next, length.min(next + BATCH))?;
            self.sealer.take(db, &entries)?;
            next += entries.len() as u64;
        }
        self.metrics.follower_behind.set(i64::try_from(length.saturating_sub(next)).unwrap_or(i64::MAX));
        self.sealer.sign(db, is_last)?;
        Ok(next >= length)
    }

    /// Fills the search data. `false`: there is more.
    fn fill(&mut self, db: &Blocking, begun: Moment) -> Result<bool, OpenError> {
        let length = db.length()?;
        let mut next = self.index.next(db)?;
        while next < length && since(begun) < SECOND {
            let entries = committed(db, next, length.min(next + BATCH))?;
            self.index.take(db, next, &entries)?;
            next += entries.len() as u64;
        }
        Ok(next >= length)
    }

    /// Notes how something ended. Only the first failure in a row is logged.
    fn ended(&mut self, what: usize, trouble: &'static str, result: Result<(), OpenError>) {
        let Some(complained) = self.complained.get_mut(what) else { return };
        match result {
            Ok(()) if *complained => {
                *complained = false;
                self.seen.trouble(trouble, false);
                tracing::info!(trouble, "is over");
            }
            Ok(()) => {}
            Err(error) => {
                self.metrics.follower_failures.inc();
                if !*complained {
                    tracing::error!(%error, trouble, "cannot be derived from the ledger; deletions go on, it is tried again each second");
                }
                *complained = true;
                self.seen.trouble(trouble, true);
                self.sealer.forget();
                self.index.forget();
            }
        }
    }
}

/// Committed entries, each in its place: over a hole nothing is signed.
pub(super) fn committed(db: &Blocking, from: u64, until: u64) -> Result<Vec<Vec<u8>>, OpenError> {
    let rows = db.read(from, until)?;
    let mut places = (from..until).zip(rows.iter().map(|(seq, _)| Some(*seq)).chain(std::iter::repeat(None)));
    match places.find(|(place, seq)| *seq != Some(*place)) {
        Some((place, _)) => Err(OpenError::Damaged(format!("entry {place} is missing: somebody has removed it"))),
        None => Ok(rows.into_iter().map(|(_, bytes)| bytes).collect()),
    }
}

/// Throws the search data away and has them filled: by the replica that keeps, or, where none runs, from here.
pub(super) fn reindex(place: &config::Postgres, mut progress: impl FnMut(u64, u64)) -> Result<u64, OpenError> {
    let db = Blocking::open(place, Role::Migration)?;
    index::begin_anew(&db)?;
    let (length, mut index) = (db.length()?, Index::default());
    let first = db.first()?;
    loop {
        let next = index::cursor(&db)?;
        progress(next.min(length).saturating_sub(first), length.saturating_sub(first));
        if next >= length {
            db.close();
            return Ok(length - first);
        }
        let free = db.ask(async |client| {
            client
                .query_typed_one("SELECT pg_try_advisory_lock($1)", &[(&LOCK, Type::INT8)])
                .await?
                .try_get::<_, bool>(0)
        })?;
        if free {
            let next = index.next(&db)?;
            index.take(&db, next, &committed(&db, next, length.min(next + BATCH))?)?;
        } else {
            std::thread::sleep(SECOND / 4);
        }
    }
}
