//! Who calls?

use super::accept::Accepted;
use super::trace::Trace;
use crate::clock::Timestamp;
use crate::error::Refused;
use crate::failpoint;
use crate::id::IdempotencyKey;
use crate::identity::{Identified, Identity, Proven};
use crate::rate::FailedAuthentications;

/// An accepted request whose caller is known.
pub struct Caller {
    pub(super) accepted: Accepted,
    pub(super) who: Identified,
    pub(super) dry_run: bool,
    pub(super) key: Option<IdempotencyKey>,
}

/// Identifies the caller by its one credential: a token, or the certificate of its connection.
///
/// # Errors
/// 401, or 429 for a peer that failed too often. A valid credential is never held back. 400 for a field of ours that is
/// none.
pub fn authenticate(
    accepted: Accepted,
    certificate: Option<&Proven>,
    identity: &Identity,
    failed: &FailedAuthentications,
    trace: &mut Trace,
) -> Result<Caller, Refused> {
    failpoint::hit("authenticate");
    match identity.identify(accepted.head.values("authorization"), certificate, Timestamp::now()) {
        Ok(who) => {
            trace.caller = Some(who.caller.clone());
            let (dry_run, key) = accepted.wishes()?;
            Ok(Caller { accepted, who, dry_run, key })
        }
        Err(refused) => Err(failed.count(trace.peer).err().unwrap_or(refused)),
    }
}
