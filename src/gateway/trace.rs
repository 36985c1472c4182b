//! What is known about a request so far, for its log line, its entry and its answer. It decides nothing.

use crate::clock::{Moment, moment, since};
use crate::id::{CallerName, RequestId, Target};
use crate::rate::Standing;
use crate::telemetry::{Decision, Kind, Metrics};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// Grows as the stages go by.
pub struct Trace {
    /// Ours.
    pub id: RequestId,
    /// When its head was complete.
    pub started: Moment,
    /// Who calls, by address.
    pub peer: IpAddr,
    /// Who calls, by credential.
    pub caller: Option<CallerName>,
    /// What it is about.
    pub target: Option<Target>,
    /// The rule that allowed or refused it.
    pub rule: Option<Arc<str>>,
    /// How the rates stand.
    pub standings: Vec<Standing>,
    /// The intent's number in the ledger.
    pub seq: Option<u64>,
    marks: Vec<(&'static str, Duration)>,
}

/// How a request ended, in the words of the log.
pub(super) struct Ending {
    pub(super) decision: &'static str,
    pub(super) code: &'static str,
    pub(super) status: u16,
    pub(super) sent: &'static str,
    pub(super) detail: String,
}

impl Trace {
    /// Begins with what the connection knows.
    #[must_use]
    pub fn new(peer: IpAddr) -> Self {
        Self {
            id: RequestId::new(),
            started: moment(),
            peer,
            caller: None,
            target: None,
            rule: None,
            standings: Vec::new(),
            seq: None,
            marks: Vec::new(),
        }
    }

    /// Notes how long a stage took, from `from` until now.
    pub fn mark(&mut self, stage: &'static str, from: Moment) {
        self.marks.push((stage, since(from)));
    }

    /// Writes the one line of this request and counts it.
    pub(super) fn finish(&self, ending: &Ending, metrics: &Metrics) {
        let micros = |stage: &str| {
            let mark = self.marks.iter().find(|(name, _)| *name == stage);
            mark.map(|(_, took)| u64::try_from(took.as_micros()).unwrap_or(u64::MAX))
        };
        tracing::info!(
            request_id = %self.id,
            caller = self.caller.as_ref().map(CallerName::as_str),
            session = self.target.as_ref().map(|t| t.session.as_str()),
            group = self.target.as_ref().map(|t| t.group.as_str()),
            peer = %self.peer,
            decision = ending.decision,
            reason = ending.code,
            rule = self.rule.as_deref(),
            detail = ending.detail,
            status = ending.status,
            sent = ending.sent,
            seq = self.seq,
            decide_us = micros("decide"),
            intend_us = micros("intend"),
            forward_us = micros("forward"),
            conclude_us = micros("conclude"),
            total_us = u64::try_from(since(self.started).as_micros()).unwrap_or(u64::MAX),
            "request"
        );
        metrics.requests.get_or_create(&Decision { decision: ending.decision, reason: ending.code }).inc();
        for (stage, took) in &self.marks {
            metrics.stages.get_or_create(&Kind { kind: stage }).observe(took.as_secs_f64());
        }
    }
}
