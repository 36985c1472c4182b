//! Send it, once. Whatever happens is a value: from here on nothing may be lost on the way out.

use super::intend::Intent;
use crate::clock::Moment;
use crate::error::Failed;
use crate::failpoint;
#[cfg(test)]
use crate::failpoint::planted::{self, Fault};
use crate::ledger::{Ledger, Recorded};
use crate::tasks::Tasks;
use crate::upstream::{Confirmed, Upstream};
use futures_util::FutureExt;
use std::panic::AssertUnwindSafe;
use tokio::sync::OwnedSemaphorePermit;

/// What is known after the one attempt.
pub struct Reply {
    pub(super) recorded: Recorded,
    pub(super) result: Result<Confirmed, Failed>,
    pub(super) slot: Option<OwnedSemaphorePermit>,
    pub(super) deadline: Moment,
    pub(super) is_keyed: bool,
}

/// Forwards an intent, unless it was frozen since it was recorded. A panic on the way and an end of the process's
/// patience are outcomes too.
pub async fn forward(intent: Intent, ledger: &dyn Ledger, upstream: &Upstream, tasks: &Tasks) -> Reply {
    failpoint::hit("forward");
    let Intent { recorded, prepared, deadline, slot, caller, session, is_keyed } = intent;
    let freezes = ledger.freezes();
    let freeze = freezes.covering(&caller, &session, ledger.now());
    #[cfg(test)]
    let freeze = freeze.filter(|_| !planted::is(Fault::SentThoughFrozen));
    if let Some(freeze) = freeze {
        let result = Err(Failed::Frozen(freeze.reason.clone()));
        return Reply { recorded, result, slot, deadline, is_keyed };
    }
    if !recorded.outlasts(deadline) {
        return Reply { recorded, result: Err(Failed::TooLateToSend), slot, deadline, is_keyed };
    }
    let sending = AssertUnwindSafe(upstream.delete(prepared, deadline)).catch_unwind();
    let result = tokio::select! {
        // An answer that is there counts, though it was given up at the same moment.
        biased;
        result = sending => result.unwrap_or(Err(Failed::OutcomeUnknown("the gateway failed while it was sending"))),
        () = tasks.abandoned() => Err(Failed::OutcomeUnknown("the gateway was stopped before the provider answered")),
    };
    Reply { recorded, result, slot, deadline, is_keyed }
}
