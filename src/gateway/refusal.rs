//! Refusals and dry runs: answered at once, recorded without waiting, and never more than a bounded number.
//!
//! The first ones of each caller or address have entries of their own; the rest of that minute is counted
//! and recorded as one `refusals-suppressed`. So a flood can neither slow deletions down nor fill the disk.

use super::answer::{rate_fields, success, word};
use super::limit::Admission;
use super::trace::{Ending, Trace};
use crate::clock::{Moment, Timestamp, moment, since};
use crate::error::Refused;
use crate::id::CallerName;
use crate::ledger::Ledger;
use crate::ledger::entry::{Body, Named, Refusal};
use crate::problem::Problem;
use crate::telemetry::Metrics;
use bytes::Bytes;
use http::Response;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const WINDOW: Duration = Duration::from_secs(60);
/// Entries of its own per caller or address and window.
const OWN: u32 = 20;
/// Entries of their own of all together per window.
const ALL: u32 = 200;
/// How many callers and addresses are told apart; the rest are one.
const TOLD_APART: usize = 1024;

#[derive(Clone, PartialEq, Eq, Hash)]
enum Who {
    Caller(CallerName),
    Peer(IpAddr),
    Rest,
}

struct Window {
    began: Moment,
    since: Timestamp,
    all: u32,
    own: HashMap<Who, u32>,
    counted: BTreeMap<Option<CallerName>, BTreeMap<&'static str, u64>>,
}

impl Window {
    fn new() -> Self {
        Self { began: moment(), since: Timestamp::now(), all: 0, own: HashMap::new(), counted: BTreeMap::new() }
    }

    /// Whether one more of this one gets an entry of its own.
    fn takes(&mut self, who: Who) -> bool {
        let who = if self.own.len() >= TOLD_APART && !self.own.contains_key(&who) { Who::Rest } else { who };
        let own = self.own.entry(who).or_default();
        let takes = *own < OWN && self.all < ALL;
        if takes {
            *own += 1;
            self.all += 1;
        }
        takes
    }

    fn count(&mut self, caller: Option<CallerName>, code: &'static str) {
        *self.counted.entry(caller).or_default().entry(code).or_default() += 1;
    }
}

/// Answers and records what has no intent.
pub(super) struct Refusals {
    ledger: Arc<dyn Ledger>,
    metrics: Metrics,
    window: Mutex<Window>,
}

impl Refusals {
    pub(super) fn new(ledger: Arc<dyn Ledger>, metrics: Metrics) -> Self {
        Self { ledger, metrics, window: Mutex::new(Window::new()) }
    }

    /// Refuses. The answer does not wait for the entry.
    pub(super) fn refuse(&self, refused: &Refused, trace: Trace) -> Response<Bytes> {
        let problem = Problem::from(refused);
        let (status, code, detail) = (problem.status.as_u16(), problem.code, problem.detail.to_string());
        let ending = Ending { decision: "refused", code, status, sent: word(problem.sent), detail: detail.clone() };
        let mut response = problem.into_response(trace.id);
        rate_fields(response.headers_mut(), &trace.standings);
        trace.finish(&ending, &self.metrics);
        let caller = trace.caller;
        let refusal = Refusal {
            request_id: trace.id,
            status,
            code,
            detail,
            caller: caller.clone(),
            peer: trace.peer,
            target: trace.target.as_ref().map(Named::from),
            rule: trace.rule.filter(|_| matches!(refused, Refused::NotAllowed(_))),
        };
        self.record(caller, trace.peer, code, Body::Refusal(refusal));
        response
    }

    /// Says what would have happened.
    pub(super) fn dry_run(&self, admission: Admission, trace: Trace) -> Response<Bytes> {
        let (_, asked) = admission.permit.into_asked(trace.id, trace.peer);
        let intention = asked.intention;
        let body =
            serde_json::json!({"success": true, "dry_run": true, "rule": &*intention.rule, "request_id": trace.id});
        let mut response = success(body.to_string().into(), trace.id);
        rate_fields(response.headers_mut(), &trace.standings);
        let ending = Ending { decision: "dry-run", code: "ok", status: 200, sent: "no", detail: String::new() };
        trace.finish(&ending, &self.metrics);
        self.record(Some(intention.caller.clone()), trace.peer, "dry-run", Body::DryRun(intention));
        response
    }

    fn record(&self, caller: Option<CallerName>, peer: IpAddr, code: &'static str, body: Body) {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if since(window.began) >= WINDOW {
            self.close(&mut window);
        }
        let who = caller.clone().map_or(Who::Peer(peer), Who::Caller);
        if !(window.takes(who) && self.ledger.note(body)) {
            self.metrics.suppressed.inc();
            window.count(caller, code);
        }
    }

    /// Records what was only counted and begins a new window.
    pub(super) fn flush(&self) {
        self.close(&mut self.window.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn close(&self, window: &mut Window) {
        let mut next = Window::new();
        for (caller, codes) in std::mem::take(&mut window.counted) {
            let count = codes.values().sum();
            let body =
                Body::RefusalsSuppressed { caller: caller.clone(), since: window.since, count, codes: codes.clone() };
            if !self.ledger.note(body) {
                next.counted.insert(caller, codes);
                next.since = window.since;
            }
        }
        *window = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_gets_a_bounded_number_of_entries_and_the_rest_is_counted() {
        let mut window = Window::new();
        let peer = |n: u32| Who::Peer(IpAddr::from(n.to_be_bytes()));
        let own = (0..1000).filter(|_| window.takes(peer(1))).count();
        assert_eq!(own, 20);
        let others = (0..100_000).filter(|n| window.takes(peer(2 + n))).count();
        assert_eq!(others, 180);
        assert!(window.own.len() <= TOLD_APART + 1);
    }
}
