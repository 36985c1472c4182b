//! What every start does, after a crash or not: it reads the head, closes what is open as `unknown`, and says what is
//! lost.

use super::batch::{Batch, Head};
use super::op::Concluding;
use super::writer::Writer;
use super::{Recovered, database, restore, unresolved};
use crate::clock::Timestamp;
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::OpenError;
use crate::ledger::entry::{Body, Encoded, Outcome};

const GAP: &str = "the process before this one did not stop by itself; refusals that it had only counted are lost";

impl Writer {
    /// Reads the last entry and the open intents alone, never a window of the log.
    pub(super) fn recover(&mut self) -> Result<Recovered, OpenError> {
        failpoint::hit("recovery-begin");
        let failed = |e: rusqlite::Error| OpenError::Unusable(format!("the ledger cannot be written: {e}"));
        let clean = match database::last(&self.db).map_err(failed)? {
            None => true,
            Some(bytes) => {
                let last = Last::read(&bytes, self.head.next)?;
                self.head.latest = last.time;
                last.is_stop || restore::is_untouched(&self.db, self.head.next)?
            }
        };
        self.head.unresolved = unresolved::count(&self.db).map_err(failed)?;
        let open = self.open_intents()?;
        let unknown = open.len() as u64;
        self.head = self.first_batch(open, clean).map_err(failed)?;
        failpoint::hit("recovery-after-commit");
        Ok(Recovered { unknown })
    }
}

impl Writer {
    /// What a start writes, in one transaction.
    fn first_batch(&mut self, open: Vec<(u64, RequestId)>, clean: bool) -> rusqlite::Result<Head> {
        let encoded = |body: &Body| Encoded::new(body).map_err(database::not_encoded);
        let mut batch = Batch::begin(&self.db, self.head, &mut self.standing)?;
        let unknown = open.len() as u64;
        for (seq, request_id) in open {
            let outcome = Concluding::new(Outcome::unknown(request_id), None).map_err(database::not_encoded)?;
            batch.conclude(seq, &outcome)?;
        }
        if !clean {
            batch.append(&encoded(&Body::Gap { reason: GAP, previous: None })?)?;
        }
        batch.append(&encoded(&Body::Start { version: env!("CARGO_PKG_VERSION"), recovered: unknown })?)?;
        failpoint::hit("recovery-before-commit");
        batch.commit()
    }

    /// The intents without an outcome. Each has to be one: what is concluded here cannot be taken back.
    fn open_intents(&self) -> Result<Vec<(u64, RequestId)>, OpenError> {
        let damaged =
            |seq: u64| OpenError::Damaged(format!("entry {seq} is said to be in flight, but is no such intent"));
        let rows = database::in_flight(&self.db);
        let rows = rows.map_err(|e| OpenError::Damaged(format!("the intents in flight cannot be read: {e}")))?;
        let mut open = Vec::with_capacity(rows.len());
        for (seq, request_id) in rows {
            let bytes = database::entry(&self.db, seq)?.ok_or_else(|| damaged(seq))?;
            let entry: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| damaged(seq))?;
            let is = |member: &str, value: &str| entry.get(member).is_some_and(|is| is == value);
            let known = RequestId::parse(&request_id).filter(|_| is("kind", "intent") && is("request_id", &request_id));
            open.push((seq, known.ok_or_else(|| damaged(seq))?));
        }
        Ok(open)
    }
}

/// What the last entry says about how the process before this one ended.
struct Last {
    time: Timestamp,
    is_stop: bool,
}

impl Last {
    fn read(bytes: &[u8], length: u64) -> Result<Self, OpenError> {
        let damaged = |what: &str| OpenError::Damaged(format!("the ledger's last entry {what}"));
        let last: serde_json::Value = serde_json::from_slice(bytes).map_err(|_| damaged("is not JSON"))?;
        if last.get("seq").and_then(serde_json::Value::as_u64) != length.checked_sub(1) {
            return Err(damaged("has another sequence number than its row"));
        }
        let time = last.get("time").and_then(|time| time.as_str()).and_then(Timestamp::parse);
        let time = time.ok_or_else(|| damaged("has no time"))?;
        Ok(Self { time, is_stop: last.get("kind").is_some_and(|kind| kind == "stop") })
    }
}
