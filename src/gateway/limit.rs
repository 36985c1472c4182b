//! Not too fast, and not too many at once.

use super::authorize::Permit;
use super::trace::Trace;
use crate::error::Refused;
use crate::failpoint;
use crate::rate::{Asked, Mode, Rates};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A permitted request that the rates let through. A real one holds a slot until it has been answered.
pub struct Admission {
    pub(super) permit: Permit,
    pub(super) slot: Option<OwnedSemaphorePermit>,
}

/// A permitted request that has its slot, and what the rates say or have to be asked.
pub struct Limiting {
    permit: Permit,
    slot: Option<OwnedSemaphorePermit>,
    asked: Asked,
}

/// Asks whether the provider wants to be left alone, then for a slot, then the rates. A dry run takes neither.
///
/// # Errors
/// 429 while the provider wants to be left alone, 503 without a slot.
pub fn limit(
    permit: Permit,
    held_back: Option<u64>,
    rates: &Rates,
    slots: &Arc<Semaphore>,
) -> Result<Limiting, Refused> {
    failpoint::hit("limit");
    if let Some(seconds) = held_back {
        return Err(Refused::UpstreamBackoff(seconds));
    }
    let (mode, slot) = if permit.is_dry_run() {
        (Mode::Look, None)
    } else {
        let slot = Arc::clone(slots).try_acquire_owned().map_err(|_| Refused::Overloaded)?;
        (Mode::Take, Some(slot))
    };
    let asked = rates.ask(&permit.who().caller, permit.session(), mode);
    Ok(Limiting { permit, slot, asked })
}

impl Limiting {
    /// What the rates say. Only shared ones are waited for, for `limits.timeout_ms`. Dropping the future gives the
    /// request up: its slot is free again, and what was taken from the rates stays taken.
    ///
    /// # Errors
    /// 429 when a rate is used up, 503 when the rates gave no sure answer.
    pub async fn settled(self, trace: &mut Trace) -> Result<Admission, Refused> {
        let (standings, admitted) = match self.asked {
            Asked::Known(verdict) => verdict,
            Asked::Open(question) => question.answer().await,
        };
        trace.standings = standings;
        admitted?;
        trace.mark("decide", trace.started);
        Ok(Admission { permit: self.permit, slot: self.slot })
    }
}
