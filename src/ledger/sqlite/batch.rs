//! One open transaction of the writer: what stands between BEGIN and COMMIT. Dropped without a commit, it never was.

use super::database::{self, Statements};
use super::op::{Concluding, Op, Owed};
use super::standing::Standing;
use super::unresolved;
use crate::clock::Timestamp;
use crate::failpoint;
use crate::ledger::Unresolved;
use crate::ledger::admission::{Decided, Declined, Question};
use crate::ledger::entry::{Body, Encoded, End};
use crate::ledger::freeze::{Covers, Freeze};
use rusqlite::{Connection, Result};

/// How far the ledger has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    /// The next entry's sequence number.
    pub(super) next: u64,
    /// The last entry's time.
    pub(super) latest: Timestamp,
    /// How many unknown outcomes wait for a look at their picture.
    pub(super) unresolved: i64,
}

/// An open transaction.
pub(super) struct Batch<'a> {
    pub(super) db: &'a Connection,
    statements: Statements<'a>,
    standing: &'a mut Standing,
    head: Head,
    /// The time of all its entries, and how it is spelt: it never runs backwards in the log.
    time: Timestamp,
    spelt: String,
    bytes: Vec<u8>,
    is_open: bool,
}

impl<'a> Batch<'a> {
    /// Begins, behind `head`.
    pub(super) fn begin(db: &'a Connection, head: Head, standing: &'a mut Standing) -> Result<Self> {
        let statements = Statements::new(db)?;
        database::begin(db)?;
        let time = Timestamp::now().max(head.latest);
        let (spelt, bytes) = (time.to_string(), Vec::with_capacity(1024));
        Ok(Self { db, statements, standing, head, time, spelt, bytes, is_open: true })
    }

    /// Does one thing.
    pub(super) fn perform(&mut self, op: &Op) -> Result<Owed> {
        match op {
            Op::Intend(asked, body, _) => {
                failpoint::hit("intent-before-insert");
                let owed = self.intend(asked, body)?;
                failpoint::hit("intent-after-insert");
                return Ok(owed);
            }
            Op::Conclude(seq, concluding, _) => {
                failpoint::hit("outcome-before-insert");
                self.conclude(*seq, concluding)?;
                failpoint::hit("outcome-after-insert");
            }
            Op::Resolve(waiting, body, _) => self.resolve(waiting, body)?,
            Op::Postpone(waiting, since, _) => self.postpone(waiting, *since)?,
            Op::Freeze(freeze, _) => self.freeze(freeze.clone())?,
            Op::Unfreeze(covers, body, _) => return self.unfreeze(covers, body).map(Owed::Unfrozen),
            Op::Note(body) => drop(self.append(body)?),
            Op::Prune(step, _) => self.prune(step)?,
            Op::Read(_) | Op::Close => {}
        }
        Ok(Owed::Nothing)
    }

    /// Adds an entry; returns its number and time.
    pub(super) fn append(&mut self, body: &Encoded) -> Result<(u64, Timestamp)> {
        let seq = self.head.next;
        self.bytes.clear();
        body.write_entry(&mut self.bytes, seq, &self.spelt);
        self.statements.append(seq, &self.bytes)?;
        (self.head.next, self.head.latest) = (seq + 1, self.time);
        Ok((seq, self.time))
    }

    /// Decides about an intent, and adds it where it is admitted: it is in flight from then on.
    pub(super) fn intend(&mut self, asked: &Question, body: &Encoded) -> Result<Owed> {
        match self.standing.decide(self.db, asked, self.time)? {
            Decided::Admit => {}
            Decided::Decline(declined) => {
                self.exhausted(asked, &declined)?;
                return Ok(Owed::Declined(declined));
            }
            Decided::Replay(replay) => return Ok(Owed::Replay(replay)),
        }
        let (seq, time) = self.append(body)?;
        let request_id = asked.request_id;
        self.statements.take_off(seq, &request_id.to_string())?;
        self.standing.take_off(self.db, seq, asked, time)?;
        Ok(Owed::Recorded { seq, request_id, time })
    }

    /// A used up budget may be one that freezes its caller.
    fn exhausted(&mut self, asked: &Question, declined: &Declined) -> Result<()> {
        let Some(freeze) = declined.freezes(&asked.caller) else { return Ok(()) };
        tracing::warn!(caller = %asked.caller, reason = freeze.reason, "the caller is frozen until somebody unfreezes it");
        self.freeze(freeze)
    }

    /// Adds a freeze: from its entry on nothing that it covers is admitted.
    pub(super) fn freeze(&mut self, freeze: Freeze) -> Result<()> {
        let freeze = self.standing.freezes().outlasting(freeze, self.now());
        let body = Encoded::new(&Body::Freeze(freeze.clone())).map_err(database::not_encoded)?;
        self.append(&body)?;
        self.standing.freeze(self.db, freeze)
    }

    /// By when freezes end and waiting begins: the log's time stands still for as long as the clock was ahead of itself.
    fn now(&self) -> Timestamp {
        self.time.min(Timestamp::now())
    }

    /// Takes a freeze back, and adds that, where there is one.
    pub(super) fn unfreeze(&mut self, covers: &Covers, body: &Encoded) -> Result<bool> {
        let any = self.standing.freezes().has(covers, self.now());
        if self.standing.unfreeze(self.db, covers)? {
            self.append(body)?;
        }
        Ok(any)
    }

    /// Adds the outcome of the intent `seq`: it is not in flight any more, and its picture is looked at where nobody
    /// knows.
    pub(super) fn conclude(&mut self, seq: u64, concluding: &Concluding) -> Result<()> {
        self.append(&concluding.body)?;
        self.statements.land(seq)?;
        self.standing.land(self.db, seq, concluding.end, concluding.answered.as_ref())?;
        if concluding.end == End::Unknown {
            unresolved::wait(self.db, seq, self.now(), 0)?;
            self.head.unresolved += 1;
        }
        Ok(())
    }

    /// Adds a resolution, once: what does not wait any more has its resolution already, and gets no second one.
    pub(super) fn resolve(&mut self, waiting: &Unresolved, body: &Encoded) -> Result<()> {
        if unresolved::take_away(self.db, waiting)? {
            self.append(body)?;
            self.head.unresolved -= 1;
        }
        Ok(())
    }

    /// Counts a look in vain; it waits again from `since` on.
    pub(super) fn postpone(&mut self, waiting: &Unresolved, since: Timestamp) -> Result<()> {
        if unresolved::take_away(self.db, waiting)? {
            unresolved::wait(self.db, waiting.seq, since, waiting.attempts.saturating_add(1))?;
        }
        Ok(())
    }

    /// Commits; returns where the ledger is now. After an error it is rolled back, unless the error leaves that open.
    pub(super) fn commit(mut self) -> Result<Head> {
        database::commit(self.db)?;
        self.is_open = false;
        self.standing.settle();
        Ok(self.head)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.is_open {
            database::roll_back(self.db);
            self.standing.take_back();
        }
    }
}
