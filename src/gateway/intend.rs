//! Record, before anything happens.

use super::limit::Admission;
use super::trace::Trace;
use crate::clock::{Moment, moment};
use crate::error::Refused;
use crate::ledger::{Intended, Ledger, Recorded};
use crate::upstream::{Prepared, Unprepared, Upstream};
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
/// 503 without a key or without a durable entry, 500 when the URL would not be the one that was meant.
pub async fn intend(
    admission: Admission,
    deadline: Moment,
    upstream: &Upstream,
    ledger: &dyn Ledger,
    trace: &mut Trace,
) -> Result<Intent, Refused> {
    let started = moment();
    let Admission { permit, slot } = admission;
    let (target, intention) = permit.into_intention(trace.id, trace.peer);
    let prepared = upstream.prepare(&target).map_err(|unprepared| match unprepared {
        Unprepared::NoKey => Refused::KeyUnavailable,
        Unprepared::OtherUrl => Refused::Internal,
    })?;
    match ledger.intend(intention).await {
        Intended::Recorded(recorded) => {
            trace.seq = Some(recorded.seq());
            trace.mark("intend", started);
            Ok(Intent { recorded, prepared, deadline, slot })
        }
        Intended::Unavailable => Err(Refused::LedgerUnavailable),
    }
}
