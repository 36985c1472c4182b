//! One open transaction of the writer: what stands between BEGIN and COMMIT. Dropped without a commit, it never was.

use super::database::{self, Statements};
use super::unresolved;
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::Unresolved;
use crate::ledger::entry::Encoded;
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
    db: &'a Connection,
    statements: Statements<'a>,
    head: Head,
    /// The time of all its entries, and how it is spelt: it never runs backwards in the log.
    time: Timestamp,
    spelt: String,
    bytes: Vec<u8>,
    is_open: bool,
}

impl<'a> Batch<'a> {
    /// Begins, behind `head`.
    pub(super) fn begin(db: &'a Connection, head: Head) -> Result<Self> {
        let statements = Statements::new(db)?;
        database::begin(db)?;
        let time = Timestamp::now().max(head.latest);
        Ok(Self { db, statements, head, time, spelt: time.to_string(), bytes: Vec::with_capacity(1024), is_open: true })
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

    /// Adds an intent, which is in flight from now on.
    pub(super) fn intend(&mut self, request_id: RequestId, body: &Encoded) -> Result<(u64, Timestamp)> {
        let (seq, time) = self.append(body)?;
        self.statements.take_off(seq, &request_id.to_string())?;
        Ok((seq, time))
    }

    /// Adds the outcome of the intent `seq`: it is not in flight any more, and its picture is looked at where nobody
    /// knows.
    pub(super) fn conclude(&mut self, seq: u64, body: &Encoded, is_unknown: bool) -> Result<()> {
        let (_, time) = self.append(body)?;
        self.statements.land(seq)?;
        if is_unknown {
            unresolved::wait(self.db, seq, time, 0)?;
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
        Ok(self.head)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        if self.is_open {
            database::roll_back(self.db);
        }
    }
}
