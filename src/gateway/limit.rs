//! Not too fast, and not too many at once.

use super::authorize::Permit;
use super::trace::Trace;
use crate::error::Refused;
use crate::failpoint;
use crate::rate::{Mode, Rates};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A permitted request that the rates let through. A real one holds a slot until it has been answered.
pub struct Admission {
    pub(super) permit: Permit,
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

/// Asks for a slot, then the rates. A dry run takes neither.
///
/// # Errors
/// 503 without a slot, 429 when a rate is used up.
pub fn limit(permit: Permit, rates: &Rates, slots: &Arc<Semaphore>, trace: &mut Trace) -> Result<Admission, Refused> {
    failpoint::hit("limit");
    let (mode, slot) = if permit.is_dry_run() {
        (Mode::Look, None)
    } else {
        let slot = Arc::clone(slots).try_acquire_owned().map_err(|_| Refused::Overloaded)?;
        (Mode::Take, Some(slot))
    };
    let (standings, admitted) = rates.admit(&permit.who().caller, mode);
    trace.standings = standings;
    admitted?;
    trace.mark("decide", trace.started);
    Ok(Admission { permit, slot })
}
