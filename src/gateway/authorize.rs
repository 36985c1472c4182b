//! May the caller do this?

use super::authenticate::Caller;
use super::trace::Trace;
use crate::clock::Timestamp;
use crate::config::{self, Budget};
use crate::error::{NotAdmitted, NotAllowed, Refused};
use crate::failpoint;
use crate::id::{CallerName, RequestId, SessionId, Target};
use crate::ledger::Ledger;
use crate::ledger::admission::Asked;
use crate::ledger::entry::Intention;
use crate::policy::{Policy, Question};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// A request that a rule allows, and which rule of which policy.
pub struct Permit {
    caller: Caller,
    rule: Arc<str>,
    policy: Arc<str>,
    budgets: Arc<[Budget]>,
}

/// How many deletions each caller has in hours or days.
pub struct Budgets(HashMap<CallerName, Arc<[Budget]>>);

impl Budgets {
    /// The longest window of any of them.
    pub(super) fn longest(&self) -> Duration {
        let windows = self.0.values().flat_map(|budgets| budgets.iter()).map(|budget| budget.per_s);
        Duration::from_secs(windows.max().unwrap_or(0).into())
    }

    /// Takes over the callers' budgets.
    #[must_use]
    pub fn new(callers: &[config::Caller]) -> Self {
        Self(callers.iter().map(|caller| (caller.name.clone(), caller.budgets.clone().into())).collect())
    }
}

/// Asks the policy, then the freezes that this process knows of: so a frozen request takes nothing from a rate. Whether
/// it is frozen is decided when its intent is recorded. Rules go by this process's clock, freezes by the ledger's.
///
/// # Errors
/// 403 with the reason.
pub fn authorize(
    caller: Caller,
    policy: &Policy,
    budgets: &Budgets,
    ledger: &dyn Ledger,
    trace: &mut Trace,
) -> Result<Permit, Refused> {
    failpoint::hit("authorize");
    let (name, target, now) = (&caller.who.caller, &caller.accepted.target, Timestamp::now());
    let decision = policy.decide(&Question::new(name, trace.peer, target, now));
    trace.rule = decision.as_ref().map_or_else(NotAllowed::rule, |rule| Some(Arc::clone(rule)));
    let rule = decision?;
    let freezes = ledger.freezes();
    if let Some(freeze) = freezes.covering(name, &target.session, ledger.now()) {
        return Err(NotAdmitted::Frozen(freeze.reason.clone()).into());
    }
    let budgets = budgets.0.get(name).map(Arc::clone).unwrap_or_default();
    Ok(Permit { caller, rule, policy: Arc::clone(policy.hash()), budgets })
}

impl Permit {
    pub(super) fn is_dry_run(&self) -> bool {
        self.caller.dry_run
    }

    pub(super) fn who(&self) -> &crate::identity::Identified {
        &self.caller.who
    }

    pub(super) fn session(&self) -> &SessionId {
        &self.caller.accepted.target.session
    }

    /// The target, and what the ledger is asked.
    pub(super) fn into_asked(self, request_id: RequestId, peer: IpAddr) -> (Target, Asked) {
        let Caller { accepted, who, key, .. } = self.caller;
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
        (accepted.target, Asked { key, budgets: self.budgets, ..intention.into() })
    }
}

/// The trace id of a `traceparent` (W3C Trace Context §3.2). One that is malformed says nothing.
fn trace_id(text: &str) -> Option<String> {
    let hex = |part: &str, length: usize| {
        part.len() == length && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let id = |part: &str, length: usize| hex(part, length) && part.bytes().any(|b| b != b'0');
    let mut parts = text.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    // Later versions may have more behind the flags.
    let ends = version != "00" || parts.next().is_none();
    let fits = hex(version, 2) && version != "ff" && id(trace, 32) && id(parent, 16) && hex(flags, 2) && ends;
    fits.then(|| trace.to_owned())
}

#[cfg(test)]
mod tests {
    use super::trace_id;

    #[test]
    fn a_trace_id_is_taken_from_a_well_formed_traceparent_alone() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        assert_eq!(trace_id(&format!("00-{id}-00f067aa0ba902b7-01")).as_deref(), Some(id));
        let parent = "00f067aa0ba902b7";
        for later in ["01", "01-", "01-what-a later, version says"] {
            assert_eq!(trace_id(&format!("cc-{id}-{parent}-{later}")).as_deref(), Some(id), "{later}");
        }
        let (zeros, upper) = ("0".repeat(32), id.to_uppercase());
        for bad in [
            "",
            "00",
            "00-xyz-1-01",
            &format!("00-{id}"),
            &format!("00-{id}-{parent}"),
            &format!("00-{id}-{parent}-"),
            &format!("00-{id}-{parent}-1"),
            &format!("00-{id}-{parent}-011"),
            &format!("00-{id}-{parent}-0G"),
            &format!("00-{id}-{parent}-01-"),
            &format!("00-{id}-{parent}-01-x"),
            &format!("00-{id}-{parent}-01, 00-x"),
            &format!("cc-{id}-{parent}-01x"),
            &format!("ff-{id}-{parent}-01"),
            &format!("0-{id}-{parent}-01"),
            &format!("0A-{id}-{parent}-01"),
            &format!("00-{zeros}-{parent}-01"),
            &format!("00-{upper}-{parent}-01"),
            &format!("00-{id}0-{parent}-01"),
            &format!("00-{id}-0000000000000000-01"),
            &format!("00-{id}-zz-01"),
            &format!("00-{id}-00F067AA0BA902B7-01"),
        ] {
            assert_eq!(trace_id(bad), None, "{bad}");
        }
    }
}
