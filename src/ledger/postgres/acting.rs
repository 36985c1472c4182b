//! What a command does to the ledger, beside the replicas or without one: in transactions of its own, without becoming a
//! replica. It forwards nothing, so it needs no lease.

use super::batch::Ended;
use super::op::Op;
use super::plan::{Asked, Owed, Plan};
use super::session::Fault;
use super::statements::Writing;
use crate::clock::Timestamp;
use crate::config;
use crate::id::RequestId;
use crate::ledger::OpenError;
use crate::ledger::entry::{Body, Encoded};
use crate::ledger::freeze::{Covers, Freeze, Freezes};
use std::cell::RefCell;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// A connection for commands. It waits, so it is for threads that may.
pub struct Acting {
    // Dropped before the runtime: its socket belongs to that.
    database: RefCell<Writing>,
    runtime: Runtime,
}

/// A process that shares the ledger, as it last said.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Replica {
    /// The name of this run of it.
    pub id: String,
    /// The program's version.
    pub version: String,
    /// The hash of the policy that is in force there; empty until it has said.
    pub policy: String,
    /// Since when it runs, RFC 3339 in UTC, by the database's clock.
    pub started: String,
    /// Whether its lease is over: nothing is sent by it any more.
    pub is_dead: bool,
    /// Seconds until its lease ends, if it is not renewed.
    pub lease_s: u64,
    /// How many intents of it have no outcome.
    pub open: u64,
}

/// Why a freeze, or the end of one, is not known to be recorded.
#[derive(Debug)]
pub enum NotActed {
    /// Nothing was recorded.
    Refused(OpenError),
    /// COMMIT had no answer: it may be recorded.
    Doubtful(OpenError),
}

impl Acting {
    /// Connects.
    ///
    /// # Errors
    /// When the database cannot be reached, is not to be written, or holds no ledger.
    pub fn open(config: &config::Ledger) -> Result<Self, OpenError> {
        let (place, runtime) = (super::place(config)?, super::runtime()?);
        let database = RefCell::new(runtime.block_on(Writing::open(place))?);
        Ok(Self { database, runtime })
    }

    /// Records a freeze. When this returns `Ok` no replica admits an intent that it covers any more; those that were
    /// admitted before may still be under way, see [`Acting::covered`].
    ///
    /// # Errors
    /// In words, and whether it may be recorded all the same.
    pub fn freeze(&self, freeze: Freeze) -> Result<(), NotActed> {
        let (answer, _nobody) = oneshot::channel();
        self.act(Op::Freeze(freeze, answer)).map(drop)
    }

    /// Takes back the freeze that covers just this. `false`: there is none, and nothing was recorded.
    ///
    /// # Errors
    /// As [`Acting::freeze`].
    pub fn unfreeze(&self, covers: Covers, reason: String, by: String) -> Result<bool, NotActed> {
        let body = encoded(&Body::Unfreeze { covers: covers.clone(), reason, by }).map_err(NotActed::Refused)?;
        let (answer, _nobody) = oneshot::channel();
        Ok(self.act(Op::Unfreeze(covers, body, answer))? == Owed::Unfrozen(true))
    }

    /// The requests that this covers and whose intents, of any replica, have no outcome yet.
    ///
    /// # Errors
    /// In words, when the database cannot be asked.
    pub fn covered(&self, covers: &Covers) -> Result<Vec<RequestId>, OpenError> {
        Ok(self.runtime.block_on(self.database.borrow_mut().covered(covers))?)
    }

    /// The time by the database's clock, by which freezes end, wherever this runs.
    ///
    /// # Errors
    /// As [`Acting::covered`].
    pub fn now(&self) -> Result<Timestamp, OpenError> {
        Ok(self.runtime.block_on(self.database.borrow_mut().now())?)
    }

    /// Every freeze.
    ///
    /// # Errors
    /// As [`Acting::covered`].
    pub fn freezes(&self) -> Result<Freezes, OpenError> {
        Ok(self.runtime.block_on(self.database.borrow_mut().freezes())?)
    }

    /// Every replica, the oldest first.
    ///
    /// # Errors
    /// As [`Acting::covered`].
    pub fn replicas(&self) -> Result<Vec<Replica>, OpenError> {
        Ok(self.runtime.block_on(self.database.borrow_mut().replicas())?)
    }

    /// One thing in one transaction.
    fn act(&self, op: Op) -> Result<Owed, NotActed> {
        let mut database = self.database.borrow_mut();
        self.runtime.block_on(async {
            let (known, _) = database.lock_and_learn(&Asked::default(), "").await.map_err(refused)?;
            let mut plan = Plan::behind(known);
            let owed = plan.take(&[op]).pop().unwrap_or(Owed::Late);
            if plan.is_empty() {
                database.roll_back().await.map_err(refused)?;
                return Ok(owed);
            }
            match database.write(&plan, "").await {
                Ended::Committed => Ok(owed),
                Ended::Refused(fault) => Err(refused(fault)),
                Ended::Doubtful(fault) => {
                    let what = format!("{fault}; it may be recorded all the same: ask for the status");
                    Err(NotActed::Doubtful(OpenError::Unusable(what)))
                }
            }
        })
    }
}

fn refused(fault: Fault) -> NotActed {
    NotActed::Refused(OpenError::Unusable(format!("nothing was recorded: {fault}")))
}

fn encoded(body: &Body) -> Result<Encoded, OpenError> {
    Encoded::new(body).map_err(|e| OpenError::Unusable(e.to_string()))
}
