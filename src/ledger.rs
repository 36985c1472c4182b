//! The record of everything: what was intended, what came of it, what was refused.
//!
//! [`Ledger`] is what the path needs of a store, in the path's own verbs. Its promise: when
//! [`Ledger::intend`] answers [`Intended::Recorded`] and when [`Ledger::conclude`] answers `Ok`, the entry
//! survives a crash of the process and of the machine.

pub mod admission;
pub mod checkpoint;
#[cfg(test)]
#[path = "ledger/conformance/tests.rs"]
mod conformance;
pub mod copy;
pub mod entry;
pub mod freeze;
pub mod glance;
pub mod postgres;
pub mod prune;
pub mod receipt;
pub mod search;
#[cfg(test)]
#[path = "simulation/tests/store.rs"]
pub(crate) mod simulated;
pub mod sqlite;
pub mod stats;
pub mod stored;
pub mod tree;
pub mod verify;

use crate::clock::{Moment, Timestamp, Uptime, moment};
use crate::id::{RequestId, Target};
use admission::{Answered, Asked, Declined, Replay};
use entry::{Body, Outcome, Resolution};
use freeze::{Covers, Freeze, Freezes};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// How long before the end of the lease the last forward must have ended.
const BEFORE_LEASE_ENDS: Duration = Duration::from_secs(2);

/// A future answer of a store.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What the path needs of a store.
pub trait Ledger: Send + Sync + 'static {
    /// Decides about an intent and records it, in one transaction. Dropping the future does not take the question back.
    fn intend(&self, asked: Asked) -> Answer<'_, Intended>;

    /// Records what came of an intent, once: it takes the proof that the intent was recorded. What was answered is kept
    /// for the intent's idempotency key.
    fn conclude(
        &self,
        recorded: Recorded,
        outcome: Outcome,
        answered: Option<Answered>,
    ) -> Answer<'_, Result<(), NotRecorded>>;

    /// Records a freeze. When this answers `Ok` no intent that it covers is admitted any more; those that were admitted
    /// before may still be under way, see [`Ledger::covered`].
    fn freeze(&self, freeze: Freeze) -> Answer<'_, Result<(), NotRecorded>>;

    /// Takes back the freeze that covers just this, and records who did and why. `false`: there is none, and nothing was
    /// recorded.
    fn unfreeze(&self, covers: Covers, reason: String, by: String) -> Answer<'_, Result<bool, NotRecorded>>;

    /// The time by which freezes end: by the clock that all processes of the ledger go by.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    /// Every freeze that this process knows of. Its writes are seen here before they are answered.
    fn freezes(&self) -> Arc<Freezes>;

    /// The requests that this covers and whose intents have no outcome yet. `None`: the store cannot say.
    fn covered(&self, covers: Covers) -> Answer<'_, Option<Vec<RequestId>>>;

    /// The `unknown` outcome that has waited longest for a look at its picture, if it has waited since `until`
    /// or longer. `None` also when the store cannot say.
    fn unresolved(&self, until: Timestamp) -> Answer<'_, Option<Unresolved>>;

    /// Records what was seen of the picture: at most once for each intent, however often it is asked to.
    fn resolve(&self, unresolved: Unresolved, resolution: Resolution) -> Answer<'_, Result<(), NotRecorded>>;

    /// Counts a look that showed nothing; it waits again from `since` on. Survives a restart, and leaves no entry.
    fn postpone(&self, unresolved: Unresolved, since: Timestamp) -> Answer<'_, Result<(), NotRecorded>>;

    /// Records something that nobody waits for. `false`: there is no room now, count it as suppressed.
    fn note(&self, body: Body) -> bool;

    /// Whether entries are taken.
    fn health(&self) -> Health;

    /// What is not as it should be although entries are taken, for readiness: `ledger-not-signed`,
    /// `search-not-filled`.
    fn degraded(&self) -> Vec<&'static str>;

    /// Resolves when nothing more can be recorded until a restart.
    fn broken(&self) -> Answer<'_, ()>;

    /// Writes what waits, then `stop`, and closes. Nothing is recorded after it.
    fn close(&self) -> Answer<'_, ()>;
}

/// The answer to an intent; there is nothing else that it could be.
#[derive(Debug)]
pub enum Intended {
    /// It is durable.
    Recorded(Recorded),
    /// It is not admitted, and not recorded.
    Declined(Declined),
    /// The same was asked before, under the same key.
    Replay(Replay),
    /// It is not recorded, or it is not known whether it is: nothing may be sent.
    Unavailable,
}

/// Where a store hears of a proof that was lost on the way.
trait Abandoned: Send + Sync {
    /// Concludes the intent; nobody waits for it.
    fn abandoned(&self, seq: u64, outcome: Outcome);
}

/// Proof that an intent is durable. Only a store makes one; it cannot be cloned, and concluding takes it.
/// One that is dropped instead, by a panic, has its intent concluded as `unknown`.
pub struct Recorded {
    seq: u64,
    request_id: RequestId,
    time: Timestamp,
    store: Option<Arc<dyn Abandoned>>,
    /// The end of the lease under which it was recorded; `None`: nobody else closes what is open.
    until: Option<Uptime>,
}

impl fmt::Debug for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorded").field("seq", &self.seq).field("request_id", &self.request_id).finish_non_exhaustive()
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        if let Some(store) = self.store.take() {
            tracing::error!(request_id = %self.request_id, "the work on this request was lost after its intent: it is recorded as unknown");
            store.abandoned(self.seq, Outcome::unknown(self.request_id));
        }
    }
}

impl Recorded {
    /// Takes the proof for the conclusion that a store is about to record. Returns its sequence number.
    fn spend(mut self) -> u64 {
        self.store = None;
        self.seq
    }

    /// Concludes the intent as `not-sent`: nobody waited long enough for the proof to send anything with it.
    fn never_sent(mut self) {
        if let Some(store) = self.store.take() {
            tracing::warn!(request_id = %self.request_id, "this intent was recorded too late to be sent");
            store.abandoned(self.seq, Outcome::never_sent(self.request_id));
        }
    }

    /// Whether it may be sent, by a request that gives up at `deadline`. Where replicas share a ledger, each has a lease,
    /// after which another one closes what is open: nothing begins that could still be under way then.
    #[must_use]
    pub fn outlasts(&self, deadline: Moment) -> bool {
        let needed = deadline.saturating_duration_since(moment()) + BEFORE_LEASE_ENDS;
        self.until.is_none_or(|until| until.left() >= needed)
    }

    /// The entry's sequence number.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The request that it belongs to.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// The entry's time.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        self.time
    }
}

/// An intent whose outcome is `unknown` and that has no resolution yet. Resolving or postponing takes it.
#[derive(Debug, PartialEq, Eq)]
pub struct Unresolved {
    seq: u64,
    since: Timestamp,
    attempts: u32,
    request_id: RequestId,
    target: Target,
}

/// Nothing is put off for longer, whatever is configured and whatever the provider asks for.
const PUT_OFF_AT_MOST: Duration = Duration::from_secs(3 * 86_400);

impl Unresolved {
    /// Until when a row may say that it waits, of those that are due at `until`. What says more was recorded while the
    /// clock was ahead, or by nobody that we know.
    fn believed(until: Timestamp) -> Timestamp {
        until.after(PUT_OFF_AT_MOST)
    }

    /// How often a row says that it was looked at. A number that nobody writes stands for none.
    fn looks(number: i64) -> u32 {
        u32::try_from(number).unwrap_or(0)
    }

    /// How often the picture was looked at in vain.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// The request that it belongs to.
    #[must_use]
    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// Whose picture it is about.
    #[must_use]
    pub fn target(&self) -> &Target {
        &self.target
    }
}

/// An outcome could not be recorded, or it is not known whether it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotRecorded;

/// Whether a store takes entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Writable,
    /// Not now: there is no room. It will go on by itself.
    Full,
    /// Not now: the database cannot be reached, or is not to be used. It will go on by itself.
    Unreachable,
    /// Not any more: a write failed in a way that leaves open what is on disk. Restart.
    Broken,
}

/// Why a ledger cannot be opened or read.
#[derive(Debug, Clone)]
pub enum OpenError {
    /// Another process writes to it; its id, where it is known.
    Held(Option<u32>),
    /// The folder or the files are not usable, in these words.
    Unusable(String),
    /// The contents are not a ledger, or a broken one, in these words.
    Damaged(String),
}

impl OpenError {
    /// What is bad about a ledger that is not the one that was opened any more says nothing.
    fn if_there(self, ledger: &(impl Reader + ?Sized)) -> Self {
        match self {
            Self::Damaged(_) if !ledger.is_there() => Self::Unusable(
                "the ledger was removed or replaced, or a process began to serve it, while it was read; ask again"
                    .into(),
            ),
            error @ (Self::Held(_) | Self::Unusable(_) | Self::Damaged(_)) => error,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Held(Some(pid)) => write!(
                f,
                "process {pid} already writes to this ledger; end it first, or give this one a folder of its own"
            ),
            OpenError::Held(None) => f.write_str(
                "another process already writes to this ledger; end it first, or give this one a folder of its own",
            ),
            OpenError::Unusable(what) | OpenError::Damaged(what) => f.write_str(what),
        }
    }
}

/// Entries' bytes under their sequence numbers.
pub type Entries = Vec<(u64, Vec<u8>)>;

/// Reads a ledger, beside a running process or without one.
pub trait Reader {
    /// How many entries there are.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    fn length(&self) -> Result<u64, OpenError>;

    /// Whether this is still what is there under the ledger's name, and can be read on: else nothing comes any more.
    fn is_there(&self) -> bool {
        true
    }

    /// Where the log begins, if not at 0: earlier entries were pruned, and are not read.
    ///
    /// # Errors
    /// In words, when the store cannot be read, or no entry says so.
    fn pruned(&self) -> Result<Option<prune::Pruned>, OpenError> {
        Ok(None)
    }

    /// Up to 10,000 entries with sequence numbers in `from..until`, ascending.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    fn read(&self, from: u64, until: u64) -> Result<Entries, OpenError>;

    /// The requests that fit, newest first.
    ///
    /// # Errors
    /// In words, when the store cannot be read or holds something that is not an entry.
    fn search(&self, query: &search::Query) -> Result<search::Page, OpenError>;

    /// All entries of one request, ascending.
    ///
    /// # Errors
    /// As [`Reader::search`].
    fn request(&self, request_id: &str) -> Result<Entries, OpenError>;

    /// Every freeze that nobody has taken back.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    fn freezes(&self) -> Result<Freezes, OpenError>;

    /// How many requests ended how, per day and caller, ascending.
    ///
    /// # Errors
    /// As [`Reader::search`].
    fn stats(&self, span: stats::Span) -> Result<Vec<stats::Tally>, OpenError>;
}

/// Reads what proves the log, beside a running process or without one.
pub trait ProofReader: tree::proof::Tiles<Error = OpenError> {
    /// The newest signed checkpoint, as it is stored; `None` before the first.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    fn checkpoint(&self) -> Result<Option<String>, OpenError>;

    /// The key that verifies the log's checkpoints, as the store has it. Whoever could write to the store could have
    /// put another one there: who wants to be sure compares it with one that was kept elsewhere.
    ///
    /// # Errors
    /// In words, when the store cannot be read, or nothing has been signed yet.
    fn verifying_key(&self) -> Result<checkpoint::note::VerifyingKey, OpenError>;

    /// Whether there are stored hashes and checkpoints at all.
    fn has_tree(&self) -> bool {
        true
    }

    /// Whether the stored hashes are being built anew, so that some are not there yet.
    ///
    /// # Errors
    /// In words, when the store cannot be read.
    fn is_being_built(&self) -> Result<bool, OpenError> {
        Ok(false)
    }

    /// What the store lists as open and unresolved, after it has looked at its own form. `None`: it keeps no such list.
    ///
    /// # Errors
    /// In words, when the store cannot be read, or holds what no store of this kind does.
    fn standing(&self) -> Result<Option<verify::Standing>, OpenError> {
        Ok(None)
    }

    /// The search data, to be held against the entries while these are verified. `None`: there are none yet.
    ///
    /// # Errors
    /// In words, when they cannot be read, or are none of this ledger.
    fn search_data(&self) -> Result<Option<Box<dyn verify::SearchData + '_>>, OpenError> {
        Ok(None)
    }
}

/// The most entries of one read: an open read transaction keeps the write-ahead log from being reused.
pub const READ_AT_MOST: u64 = 10_000;
