//! What the ledger says was decided: deletions, dry runs, and refusals by a rule or for want of one.

use crate::clock::Timestamp;
use crate::id::{CallerName, GroupId, SessionId, Target};
use crate::ledger::glance::Glance;
use crate::ledger::{OpenError, Reader};
use std::net::IpAddr;

/// One of them.
pub(super) struct Recorded {
    pub(super) seq: u64,
    pub(super) time: Timestamp,
    pub(super) request_id: String,
    /// `deletion`, `dry run` or `refusal`.
    pub(super) what: &'static str,
    pub(super) caller: CallerName,
    pub(super) peer: IpAddr,
    pub(super) target: Target,
}

impl Recorded {
    /// Reads an entry; nothing for one that records no decision of the policy.
    ///
    /// # Errors
    /// When it is not an entry, or says what none of ours says.
    pub(super) fn read(seq: u64, bytes: &[u8]) -> Result<Option<Self>, OpenError> {
        let entry = Glance::at(seq, bytes)?;
        let what = match (&*entry.kind, &*entry.code) {
            ("intent", _) => "deletion",
            ("dry-run", _) => "dry run",
            ("refusal", "not-allowed") => "refusal",
            _ => return Ok(None),
        };
        let read = || {
            let target =
                Target { session: SessionId::parse(&entry.session).ok()?, group: GroupId::parse(&entry.group).ok()? };
            let (caller, peer) = (CallerName::parse(&entry.caller).ok()?, entry.peer.parse().ok()?);
            let (time, request_id) = (Timestamp::parse(&entry.time)?, entry.request_id.to_string());
            Some(Self { seq, time, request_id, what, caller, peer, target })
        };
        let unlike =
            || OpenError::Damaged(format!("entry {seq} says no caller, address, session, group or time of ours"));
        read().map(Some).ok_or_else(unlike)
    }
}

/// The first entry at or after a time, which never runs backwards in the log. What is no longer there is before it.
///
/// # Errors
/// Those of reading.
pub(super) fn first_at(ledger: &dyn Reader, time: Timestamp) -> Result<u64, OpenError> {
    let (mut low, mut high) = (0, ledger.length()?);
    while low < high {
        let middle = low + (high - low) / 2;
        let entries = ledger.read(middle, middle + 1)?;
        let is = match entries.first() {
            Some((seq, bytes)) => Timestamp::parse(&Glance::at(*seq, bytes)?.time),
            None => None,
        };
        if is.is_none_or(|is| is < time) { low = middle + 1 } else { high = middle }
    }
    Ok(low)
}
