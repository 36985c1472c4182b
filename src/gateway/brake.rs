//! The brake, as operators pull it: stop what is covered, and see what is under way.

use super::{Gateway, KEY_FILE};
use crate::clock::Timestamp;
#[cfg(test)]
use crate::failpoint::planted::{self, Fault};
use crate::id::RequestId;
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::{Health, NotRecorded};
use crate::policy::Policy;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long after the time for a request its outcome may take to be recorded.
const LAST_PATIENCE: Duration = Duration::from_secs(5);

/// What was stopped, and what was under way when it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stopped {
    /// Requests that the freeze covers, that were recorded before it, and that have no outcome yet.
    pub open: Vec<RequestId>,
    /// After so many seconds they have one, as long as the ledger takes it.
    pub within_s: u64,
    /// When it ends: an earlier one that lasts longer has made it longer. `None`: when somebody unfreezes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<Timestamp>,
    /// It may be one of nobody, see [`doubts`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub warning: Option<String>,
}

/// Why a freeze may not be the one that was meant: no rule has to do with what it covers. It holds all the same.
#[must_use]
pub fn doubts(policy: &Policy, covers: &Covers) -> Option<String> {
    match covers {
        Covers::Caller { caller } if !policy.knows(caller) => {
            Some(format!("there is no caller `{caller}` in the configuration: is it spelt right?"))
        }
        Covers::Session { session } if !policy.allows_in(session) => {
            Some(format!("no rule allows anything in session `{session}`: is it spelt right?"))
        }
        Covers::All | Covers::Caller { .. } | Covers::Session { .. } => None,
    }
}

/// How this process stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The program's version.
    pub version: String,
    /// The process's id.
    pub process: u32,
    /// The hash of the policy that decides.
    pub policy: String,
    /// `writable`, `full` or `broken`.
    pub ledger: String,
    /// It is shutting down.
    pub draining: bool,
    /// What is not as it should be, as readiness says it.
    pub degraded: Vec<String>,
    /// Every freeze in force, with the requests that it covers and that have no outcome yet.
    pub freezes: Vec<Frozen>,
}

/// What is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reasons {
    /// What keeps this process from serving.
    pub red: Vec<&'static str>,
    /// What does not: the provider, what is derived from the ledger, files that were not taken over, and the shared
    /// rates, since all replicas would be red at once, and callers hear more from us.
    pub degraded: Vec<&'static str>,
}

/// A freeze and what it still waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// The freeze.
    #[serde(flatten)]
    pub freeze: Freeze,
    /// What it waits for; `None`: the ledger cannot say, and something may well be under way.
    pub open: Option<Vec<RequestId>>,
}

impl Gateway {
    /// Freezes. When this returns `Ok` nothing that it covers is admitted any more; what was admitted before is named,
    /// and what of that was not sent yet will not be.
    ///
    /// # Errors
    /// It is not recorded, or nobody knows whether it is.
    pub async fn freeze(&self, freeze: Freeze) -> Result<Stopped, NotRecorded> {
        let covers = freeze.covers.clone();
        let (reason, by) = (freeze.reason.clone(), freeze.by.clone());
        tracing::info!(%covers, reason, by, "a freeze is asked for");
        self.ledger.freeze(freeze).await?;
        let until = self.ledger.freezes().end_of(&covers);
        tracing::warn!(%covers, reason, by, until = until.map(|until| until.to_string()), "deletions are frozen");
        let warning = doubts(&self.live.load().policy, &covers);
        let open = self.ledger.covered(covers).await.ok_or(NotRecorded)?;
        #[cfg(test)]
        let open = if planted::is(Fault::FreezeDoesNotWait) { Vec::new() } else { open };
        Ok(Stopped { open, within_s: (self.timeout + LAST_PATIENCE).as_secs(), until, warning })
    }

    /// Takes back the freeze that covers just this. `false`: there is none.
    ///
    /// # Errors
    /// It is not recorded, or nobody knows whether it is.
    pub async fn unfreeze(&self, covers: Covers, reason: String, by: String) -> Result<bool, NotRecorded> {
        let any = self.ledger.unfreeze(covers.clone(), reason.clone(), by.clone()).await?;
        if any {
            tracing::warn!(%covers, reason, by, "a freeze is taken back");
        }
        Ok(any)
    }

    /// The time by which freezes end.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.ledger.now()
    }

    /// What is not as it should be.
    #[must_use]
    pub fn reasons(&self) -> Reasons {
        let (has_key, has_ledger) = (self.upstream.has_key(), self.ledger.health() == Health::Writable);
        let of = |reasons: &[(bool, &'static str)]| -> Vec<&'static str> {
            reasons.iter().filter(|(is, _)| *is).map(|(_, reason)| *reason).collect()
        };
        let red =
            of(&[(self.is_draining(), "draining"), (!has_ledger, "ledger-unavailable"), (!has_key, "key-unavailable")]);
        let files = of(&[
            (self.policies.is_stale(), "policy-not-reloaded"),
            (has_key && self.policies.is_stale_file(|key| key == KEY_FILE), "key-not-reloaded"),
            (self.policies.is_stale_file(|key| key != KEY_FILE), "certificate-not-reloaded"),
        ]);
        let degraded = [self.upstream.degraded(), self.ledger.degraded(), self.store.degraded(), files].concat();
        Reasons { red, degraded }
    }

    /// How this process stands.
    pub async fn status(&self) -> Status {
        let frozen = self.ledger.freezes().in_force(self.ledger.now());
        // All at once: the writer takes many between two transactions.
        let open = join_all(frozen.iter().map(|freeze| self.ledger.covered(freeze.covers.clone()))).await;
        let freezes = frozen.into_iter().zip(open).map(|(freeze, open)| Frozen { freeze, open }).collect();
        let ledger = match self.ledger.health() {
            Health::Writable => "writable",
            Health::Full => "full",
            Health::Unreachable => "unreachable",
            Health::Broken => "broken",
        };
        let Reasons { red, degraded } = self.reasons();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            policy: self.live.load().policy.hash().to_string(),
            ledger: ledger.to_owned(),
            draining: self.is_draining(),
            degraded: red.into_iter().chain(degraded).map(str::to_owned).collect(),
            freezes,
        }
    }
}
