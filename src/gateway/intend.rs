//! Record, before anything happens.

use super::limit::Admission;
use super::trace::Trace;
use crate::clock::{Moment, moment};
use crate::config::Per;
use crate::error::{NotAdmitted, Refused};
use crate::failpoint;
use crate::id::{CallerName, SessionId};
use crate::ledger::admission::{Declined, Replay};
use crate::ledger::{Intended, Ledger, Recorded};
use crate::upstream::{Prepared, Unprepared, Upstream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::sync::OwnedSemaphorePermit;

/// A deletion whose intent is durable: the only thing that can be forwarded, once.
pub struct Intent {
    pub(super) recorded: Recorded,
    pub(super) prepared: Prepared,
    pub(super) deadline: Moment,
    pub(super) slot: Option<OwnedSemaphorePermit>,
    pub(super) caller: CallerName,
    pub(super) session: SessionId,
    pub(super) is_keyed: bool,
}

/// Why there is no intent.
pub enum Unintended {
    /// It is refused.
    Refused(Refused),
    /// It was asked before, under the same idempotency key.
    Replay(Replay),
}

impl From<Refused> for Unintended {
    fn from(refused: Refused) -> Self {
        Unintended::Refused(refused)
    }
}

fn declined(declined: Declined, caller: &CallerName) -> Refused {
    match declined {
        Declined::Frozen(reason) => NotAdmitted::Frozen(reason).into(),
        Declined::InFlight => NotAdmitted::InFlight.into(),
        Declined::KeyReused => NotAdmitted::KeyReused.into(),
        Declined::Unsendable => Refused::KeyUnavailable,
        Declined::BudgetExhausted { budget, retry_after_s } => {
            let each = match budget.per {
                Per::Caller => "",
                Per::Session => " in each session",
            };
            let whose = format!("the budget of {caller} is {} in {} s{each}", budget.max, budget.per_s);
            NotAdmitted::BudgetExhausted { whose, retry_after_s }.into()
        }
    }
}

/// Builds the provider's request, then records the intent. When this returns `Ok`, the entry survives a crash. Without a
/// key for the provider nothing is recorded; what was answered under an idempotency key is answered again.
///
/// # Errors
/// 403, 409, 422 and 429 when the ledger does not admit it, 503 without a key or without a durable entry, 500 when the URL would not be the one that was meant,
/// or when this panics before the ledger is asked.
pub async fn intend(
    admission: Admission,
    deadline: Moment,
    upstream: &Upstream,
    ledger: &dyn Ledger,
    trace: &mut Trace,
) -> Result<Intent, Unintended> {
    let started = moment();
    // Until the ledger is asked nothing is recorded: a panic here is a refusal too.
    let prepare = AssertUnwindSafe(|| {
        failpoint::hit("intend");
        let Admission { permit, slot } = admission;
        let (target, mut asked) = permit.into_asked(trace.id, trace.peer);
        failpoint::hit("prepare");
        let prepared = match upstream.prepare(&target) {
            Ok(prepared) => Some(prepared),
            Err(Unprepared::NoKey) if asked.key.is_some() => None,
            Err(Unprepared::NoKey) => return Err(Refused::KeyUnavailable),
            Err(Unprepared::OtherUrl) => return Err(Refused::Internal),
        };
        asked.can_be_sent = prepared.is_some();
        Ok((prepared, asked, slot))
    });
    let (prepared, asked, slot) = catch_unwind(prepare).unwrap_or(Err(Refused::Internal))?;
    // At the deadline the caller hears that nothing was sent. An entry that becomes durable after that is concluded as
    // `not-sent` by the ledger, since nobody takes its proof any more.
    let (caller, session) = (asked.intention.caller.clone(), asked.intention.session.clone());
    let is_keyed = asked.key.is_some();
    let intending = tokio::time::timeout_at(deadline.into(), ledger.intend(asked));
    match (intending.await.unwrap_or(Intended::Unavailable), prepared) {
        (Intended::Recorded(recorded), Some(prepared)) => {
            trace.seq = Some(recorded.seq());
            trace.mark("intend", started);
            Ok(Intent { recorded, prepared, deadline, slot, caller, session, is_keyed })
        }
        // No store admits what cannot be sent.
        (Intended::Recorded(_), None) => Err(Refused::Internal.into()),
        (Intended::Declined(why), _) => Err(declined(why, &caller).into()),
        (Intended::Replay(replay), _) => Err(Unintended::Replay(replay)),
        (Intended::Unavailable, _) => Err(Refused::LedgerUnavailable.into()),
    }
}
