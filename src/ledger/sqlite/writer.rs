//! The one writer: takes what waits, commits it in one transaction with one sync, answers everybody.
//!
//! A failure is one of two kinds. No room (`SQLITE_FULL`) is known: everything is rolled back, intents are
//! unavailable, outcomes use the reserve, and it goes on when there is room again. Any other failure leaves
//! open what is on disk: nothing more is accepted, and the process has to end so that the next start reads
//! what is really there.

use super::folder::{Lock, Reserve};
use super::{Recovered, database, folder};
use crate::clock::{Timestamp, moment, since};
use crate::config;
use crate::error::Sent;
use crate::id::RequestId;
use crate::ledger::entry::{Body, End, Outcome, encode};
use crate::ledger::{Health, Intended, NotRecorded, OpenError, Recorded};
use crate::telemetry::Metrics;
use rusqlite::Connection;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::{mpsc, oneshot, watch};

/// The most entries in one transaction, so that the first of a long queue need not wait for its last.
const BATCH_AT_MOST: usize = 256;

pub(super) enum Op {
    Intend(RequestId, Box<Body>, oneshot::Sender<Intended>),
    Conclude(u64, Box<Body>, oneshot::Sender<Result<(), NotRecorded>>),
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
        let mut writer = Self { db, queue, health, notes, metrics, reserve, next, latest, _lock: lock };
        let recovered = writer.recover()?;
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
        let open = database::in_flight(&self.db).map_err(failed)?;
        let unknown = open.len() as u64;
        let first = || -> rusqlite::Result<()> {
            database::begin(&self.db)?;
            for (seq, request_id) in open {
                if let Some(request_id) = RequestId::parse(&request_id) {
                    let (status, code) = (None, Some("outcome-unknown"));
                    self.append(&Body::Outcome(Outcome {
                        request_id,
                        outcome: End::Unknown,
                        status,
                        code,
                        sent: Sent::Unknown,
                    }))?;
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

    fn write(&mut self, batch: Vec<Op>) {
        let noted = batch.iter().filter(|op| matches!(op, Op::Note(_))).count();
        self.notes.fetch_sub(noted, Ordering::Relaxed);
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
        let (next, latest) = (self.next, self.latest);
        let result = self.append_all(batch).and_then(|owed| database::commit(&self.db).map(|()| owed));
        if result.is_err() {
            database::roll_back(&self.db);
            (self.next, self.latest) = (next, latest);
        }
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
                Op::Conclude(seq, body, _) => {
                    self.append(body)?;
                    database::land(&self.db, *seq)?;
                    None
                }
                Op::Note(body) => {
                    self.append(body)?;
                    None
                }
                Op::Close => None,
            });
        }
        Ok(owed)
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
            (Op::Conclude(_, _, answer), _) => drop(answer.send(Ok(()))),
            (Op::Note(_) | Op::Close, _) => {}
        }
    }
}

fn refuse(batch: Vec<Op>) {
    for op in batch {
        match op {
            Op::Intend(_, _, answer) => drop(answer.send(Intended::Unavailable)),
            Op::Conclude(_, _, answer) => drop(answer.send(Err(NotRecorded))),
            Op::Note(_) | Op::Close => {}
        }
    }
}
