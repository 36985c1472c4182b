//! Record, before anything happens.

use super::limit::Admission;
use super::trace::Trace;
use crate::clock::{Moment, moment};
use crate::error::Refused;
use crate::failpoint;
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
}

/// Builds the provider's request, then records the intent. When this returns `Ok`, the entry survives a crash.
///
/// # Errors
/// 503 without a key or without a durable entry, 500 when the URL would not be the one that was meant,
/// or when this panics before the ledger is asked.
pub async fn intend(
    admission: Admission,
    deadline: Moment,
    upstream: &Upstream,
    ledger: &dyn Ledger,
    trace: &mut Trace,
) -> Result<Intent, Refused> {
    let started = moment();
    // Until the ledger is asked nothing is recorded: a panic here is a refusal too.
    let prepare = AssertUnwindSafe(|| {
        failpoint::hit("intend");
        let Admission { permit, slot } = admission;
        let (target, intention) = permit.into_intention(trace.id, trace.peer);
        failpoint::hit("prepare");
        let prepared = upstream.prepare(&target).map_err(|unprepared| match unprepared {
            Unprepared::NoKey => Refused::KeyUnavailable,
            Unprepared::OtherUrl => Refused::Internal,
        })?;
        Ok((prepared, intention, slot))
    });
    let (prepared, intention, slot) = catch_unwind(prepare).unwrap_or(Err(Refused::Internal))?;
    // At the deadline the caller hears that nothing was sent. An entry that becomes durable after that is concluded as
    // `not-sent` by the ledger, since nobody takes its proof any more.
    let asked = tokio::time::timeout_at(deadline.into(), ledger.intend(intention));
    match asked.await.unwrap_or(Intended::Unavailable) {
        Intended::Recorded(recorded) => {
            trace.seq = Some(recorded.seq());
            trace.mark("intend", started);
            Ok(Intent { recorded, prepared, deadline, slot })
        }
        Intended::Unavailable => Err(Refused::LedgerUnavailable),
    }
}
