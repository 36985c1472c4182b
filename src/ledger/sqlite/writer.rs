//! The one writer: takes what waits, commits it in one transaction with one sync, answers everybody.
//!
//! A failure is one of two kinds. No room (`SQLITE_FULL`) is known: everything is rolled back, intents are
//! unavailable, outcomes use the reserve, and it goes on when there is room again. Any other failure leaves
//! open what is on disk: nothing more is accepted, and the process has to end so that the next start reads
//! what is really there.

use super::folder::{Lock, Reserve};
use super::{Recovered, database, folder, unresolved};
use crate::clock::{Timestamp, moment, since};
use crate::config;
use crate::error::Sent;
use crate::id::RequestId;
use crate::ledger::entry::{Body, End, Outcome, Resolution, encode};
use crate::ledger::{Health, Intended, NotRecorded, OpenError, Recorded, Unresolved};
use crate::telemetry::Metrics;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// The most entries in one transaction, so that the first of a long queue need not wait for its last.
const BATCH_AT_MOST: usize = 256;

/// Where it is said whether something is recorded.
pub(super) type Receipt = oneshot::Sender<Result<(), NotRecorded>>;

/// What an outcome leaves to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    /// Nobody knows what happened: the picture is to be looked at.
    Unresolved,
}

pub(super) enum Op {
    Intend(RequestId, Box<Body>, oneshot::Sender<Intended>),
    Conclude(u64, Box<Body>, After, Receipt),
    Resolve(Unresolved, Resolution, Receipt),
    Postpone(Unresolved, Timestamp, Receipt),
    /// Writes nothing, so it needs no commit.
    Unresolved(Timestamp, oneshot::Sender<Option<Unresolved>>),
    Note(Box<Body>),
    Close,
}

pub(super) struct Writer {
    db: Connection,
    queue: mpsc::UnboundedReceiver<Op>,
    health: watch::Sender<Health>,
    notes: Arc<AtomicUsize>,
    metrics: Metrics,
    reserve: Reserve,
    next: u64,
    latest: Timestamp,
    unresolved: i64,
    _lock: Lock,
}

impl Writer {
    pub(super) fn open(
        config: &config::Ledger,
        queue: mpsc::UnboundedReceiver<Op>,
        health: watch::Sender<Health>,
        notes: Arc<AtomicUsize>,
        metrics: Metrics,
    ) -> Result<(Self, Recovered), OpenError> {
        let lock = Lock::take(&config.path)?;
        let db = database::open_to_write(&config.path)?;
        let next = database::length(&db)?;
        let reserve = Reserve::new(&config.path, config.reserve_bytes);
        let latest = Timestamp::from_micros(i64::MIN);
        let mut writer = Self { db, queue, health, notes, metrics, reserve, next, latest, unresolved: 0, _lock: lock };
        let recovered = writer.recover()?;
        writer.metrics.unresolved.set(writer.unresolved);
        folder::sync(&config.path)?;
        if !writer.reserve.held() {
            writer.health.send_replace(Health::Full);
        }
        Ok((writer, recovered))
    }

    /// What every start does: reads the head, closes what is open as `unknown`, says what is lost.
    fn recover(&mut self) -> Result<Recovered, OpenError> {
        let damaged = |what: &str| OpenError::Damaged(format!("the ledger's last entry {what}"));
        let failed = |e: rusqlite::Error| OpenError::Unusable(format!("the ledger cannot be written: {e}"));
        let mut clean = true;
        if let Some(bytes) = database::last(&self.db).map_err(failed)? {
            let last: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| damaged("is not JSON"))?;
            if last.get("seq").and_then(serde_json::Value::as_u64) != self.next.checked_sub(1) {
                return Err(damaged("has another sequence number than its row"));
            }
            self.latest = last
                .get("time")
                .and_then(|time| time.as_str())
                .and_then(Timestamp::parse)
                .ok_or_else(|| damaged("has no time"))?;
            clean = last.get("kind").is_some_and(|kind| kind == "stop");
        }
        self.unresolved = unresolved::count(&self.db).map_err(failed)?;
        let open = database::in_flight(&self.db).map_err(failed)?;
        let unknown = open.len() as u64;
        let first = || -> rusqlite::Result<()> {
            database::begin(&self.db)?;
            for (seq, request_id) in open {
                if let Some(request_id) = RequestId::parse(&request_id) {
                    let (status, code) = (None, Some("outcome-unknown"));
                    let (_, time) = self.append(&Body::Outcome(Outcome {
                        request_id,
                        outcome: End::Unknown,
                        status,
                        code,
                        sent: Sent::Unknown,
                    }))?;
                    self.wait_for_resolution(seq, time)?;
                }
                database::land(&self.db, seq)?;
            }
            if !clean {
                self.append(&Body::Gap { reason: "the process before this one did not stop by itself; refusals that it had only counted are lost" })?;
            }
            self.append(&Body::Start { version: env!("CARGO_PKG_VERSION"), recovered: unknown })?;
            database::commit(&self.db)
        };
        first().map_err(failed)?;
        Ok(Recovered { unknown })
    }

    pub(super) fn run(mut self) {
        let mut closing = false;
        while !closing {
            let Some(first) = self.queue.blocking_recv() else { break };
            let mut batch = vec![first];
            while batch.len() < BATCH_AT_MOST
                && let Ok(op) = self.queue.try_recv()
            {
                batch.push(op);
            }
            closing = batch.iter().any(|op| matches!(op, Op::Close));
            self.write(batch);
        }
        if self.health() != Health::Broken {
            let stop = || -> rusqlite::Result<()> {
                database::begin(&self.db)?;
                self.append(&Body::Stop {})?;
                database::commit(&self.db)
            };
            let mut stop = stop;
            let _ = stop();
        }
    }

    fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Answers what only reads, and gives back the rest.
    fn answer_readings(&self, batch: Vec<Op>) -> Vec<Op> {
        let read = |op| {
            let Op::Unresolved(until, answer) = op else { return Some(op) };
            let found = if self.health() == Health::Broken { Ok(None) } else { unresolved::longest(&self.db, until) };
            let found = found.inspect_err(|error| tracing::error!(%error, "the ledger cannot be read"));
            let _ = answer.send(found.unwrap_or(None));
            None
        };
        batch.into_iter().filter_map(read).collect()
    }

    fn write(&mut self, batch: Vec<Op>) {
        let noted = batch.iter().filter(|op| matches!(op, Op::Note(_))).count();
        self.notes.fetch_sub(noted, Ordering::Relaxed);
        let batch = self.answer_readings(batch);
        if batch.is_empty() {
            return;
        }
        if self.health() == Health::Full && self.reserve.restore() {
            self.health.send_replace(Health::Writable);
        }
        match self.health() {
            Health::Broken => refuse(batch),
            Health::Full => self.write_outcomes(batch),
            Health::Writable => match self.commit(&batch) {
                Ok(owed) => answer(batch, owed),
                Err(e) if database::is_full(&e) => {
                    tracing::error!("the disk is full: the ledger takes no intents until there is room");
                    self.reserve.release();
                    self.health.send_replace(Health::Full);
                    self.write_outcomes(batch);
                }
                Err(e) => self.break_down(&e, batch),
            },
        }
    }

    /// On a full disk: outcomes alone, in the space that was kept for them.
    fn write_outcomes(&mut self, batch: Vec<Op>) {
        let (outcomes, rest): (Vec<Op>, Vec<Op>) = batch.into_iter().partition(|op| matches!(op, Op::Conclude(..)));
        refuse(rest);
        if outcomes.is_empty() {
            return;
        }
        match self.commit(&outcomes) {
            Ok(owed) => answer(outcomes, owed),
            Err(e) if database::is_full(&e) => refuse(outcomes),
            Err(e) => self.break_down(&e, outcomes),
        }
    }

    fn break_down(&mut self, error: &rusqlite::Error, batch: Vec<Op>) {
        tracing::error!(%error, "a write to the ledger failed and may or may not be on disk: nothing more is accepted, restart");
        self.health.send_replace(Health::Broken);
        refuse(batch);
    }

    /// One transaction. Nothing is answered here: what is owed is owed by a commit that has returned.
    fn commit(&mut self, batch: &[Op]) -> rusqlite::Result<Vec<Option<Recorded>>> {
        let started = moment();
        let (next, latest, unresolved) = (self.next, self.latest, self.unresolved);
        let result = self.append_all(batch).and_then(|owed| database::commit(&self.db).map(|()| owed));
        if result.is_err() {
            database::roll_back(&self.db);
            (self.next, self.latest, self.unresolved) = (next, latest, unresolved);
        }
        self.metrics.unresolved.set(self.unresolved);
        self.metrics.commit_entries.observe(batch.len() as f64);
        self.metrics.commit_seconds.observe(since(started).as_secs_f64());
        result
    }

    fn append_all(&mut self, batch: &[Op]) -> rusqlite::Result<Vec<Option<Recorded>>> {
        database::begin(&self.db)?;
        let mut owed = Vec::with_capacity(batch.len());
        for op in batch {
            owed.push(match op {
                Op::Intend(request_id, body, _) => {
                    let request_id = *request_id;
                    let (seq, time) = self.append(body)?;
                    database::take_off(&self.db, seq, &request_id.to_string())?;
                    Some(Recorded { seq, request_id, time })
                }
                Op::Conclude(seq, body, after, _) => {
                    let (_, time) = self.append(body)?;
                    database::land(&self.db, *seq)?;
                    if *after == After::Unresolved {
                        self.wait_for_resolution(*seq, time)?;
                    }
                    None
                }
                Op::Resolve(waiting, resolution, _) => {
                    self.resolve(waiting, *resolution)?;
                    None
                }
                Op::Postpone(waiting, since, _) => {
                    if unresolved::take_away(&self.db, waiting)? {
                        unresolved::wait(&self.db, waiting.seq, *since, waiting.attempts.saturating_add(1))?;
                    }
                    None
                }
                Op::Note(body) => {
                    self.append(body)?;
                    None
                }
                Op::Unresolved(..) | Op::Close => None,
            });
        }
        Ok(owed)
    }

    fn wait_for_resolution(&mut self, seq: u64, since: Timestamp) -> rusqlite::Result<()> {
        unresolved::wait(&self.db, seq, since, 0)?;
        self.unresolved += 1;
        Ok(())
    }

    /// What does not wait any more has its resolution already, and gets no second one.
    fn resolve(&mut self, waiting: &Unresolved, resolution: Resolution) -> rusqlite::Result<()> {
        if unresolved::take_away(&self.db, waiting)? {
            self.append(&Body::Resolution { request_id: waiting.request_id, resolution })?;
            self.unresolved -= 1;
        }
        Ok(())
    }

    /// Adds an entry to the open transaction. Time never runs backwards in the log.
    fn append(&mut self, body: &Body) -> rusqlite::Result<(u64, Timestamp)> {
        let time = Timestamp::now().max(self.latest);
        let bytes = encode(self.next, time, body).map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))?;
        database::append(&self.db, self.next, &bytes)?;
        let seq = self.next;
        (self.next, self.latest) = (seq + 1, time);
        Ok((seq, time))
    }
}

/// Tells everybody that the commit has returned.
fn answer(batch: Vec<Op>, owed: Vec<Option<Recorded>>) {
    for (op, recorded) in batch.into_iter().zip(owed) {
        match (op, recorded) {
            (Op::Intend(_, _, answer), Some(recorded)) => drop(answer.send(Intended::Recorded(recorded))),
            (Op::Intend(_, _, answer), None) => drop(answer.send(Intended::Unavailable)),
            (Op::Conclude(_, _, _, answer) | Op::Resolve(_, _, answer) | Op::Postpone(_, _, answer), _) => {
                let _ = answer.send(Ok(()));
            }
            (Op::Note(_) | Op::Unresolved(..) | Op::Close, _) => {}
        }
    }
}

fn refuse(batch: Vec<Op>) {
    for op in batch {
        match op {
            Op::Intend(_, _, answer) => drop(answer.send(Intended::Unavailable)),
            Op::Conclude(_, _, _, answer) | Op::Resolve(_, _, answer) | Op::Postpone(_, _, answer) => {
                let _ = answer.send(Err(NotRecorded));
            }
            Op::Note(_) | Op::Unresolved(..) | Op::Close => {}
        }
    }
}
