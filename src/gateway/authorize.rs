//! May the caller do this?

use super::authenticate::Caller;
use super::trace::Trace;
use crate::error::Refused;
use crate::failpoint;
use crate::id::Target;
use crate::ledger::entry::Intention;
use crate::policy::Policy;
use std::net::IpAddr;
use std::sync::Arc;

/// A request that a rule allows, and which rule of which policy.
pub struct Permit {
    caller: Caller,
    rule: Arc<str>,
    policy: Arc<str>,
}

/// Asks the policy.
///
/// # Errors
/// 403 with the reason.
pub fn authorize(caller: Caller, policy: &Policy, trace: &mut Trace) -> Result<Permit, Refused> {
    failpoint::hit("authorize");
    let rule = policy.decide(&caller.who.caller, trace.peer, &caller.accepted.target)?;
    Ok(Permit { caller, rule, policy: Arc::clone(policy.hash()) })
}

impl Permit {
    pub(super) fn is_dry_run(&self) -> bool {
        self.caller.accepted.dry_run
    }

    pub(super) fn who(&self) -> &crate::identity::Identified {
        &self.caller.who
    }

    /// The target, and what the ledger is to say about the request.
    pub(super) fn into_intention(self, request_id: crate::id::RequestId, peer: IpAddr) -> (Target, Intention) {
        let Caller { accepted, who } = self.caller;
        let once = |name| {
            let mut values = accepted.head.values(name);
            values.next().filter(|_| values.next().is_none()).and_then(|value| std::str::from_utf8(value).ok())
        };
        let visible = |text: &&str| !text.is_empty() && text.len() <= 128 && text.bytes().all(|b| b.is_ascii_graphic());
        let intention = Intention {
            request_id,
            caller: who.caller,
            credential: who.credential,
            peer,
            session: accepted.target.session.clone(),
            group: accepted.target.group.clone(),
            rule: self.rule,
            policy: self.policy,
            trace_id: once("traceparent").and_then(trace_id),
            caller_request_id: once("x-request-id").filter(visible).map(str::to_owned),
        };
        (accepted.target, intention)
    }
}

/// The trace id of a `traceparent` (W3C Trace Context §3.2).
fn trace_id(text: &str) -> Option<String> {
    let mut parts = text.split('-');
    let (version, id) = (parts.next()?, parts.next()?);
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (version.len() == 2 && hex(version) && id.len() == 32 && hex(id) && id.bytes().any(|b| b != b'0'))
        .then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    #[test]
    fn a_trace_id_is_taken_from_a_well_formed_traceparent_alone() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(), Some(id));
        for bad in
            ["", "00", "00-xyz-1-01", &format!("00-{}-1-01", "0".repeat(32)), &format!("00-{}-1-01", id.to_uppercase())]
        {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
