//! Record what came of it, before the caller hears of it.

use super::forward::Reply;
use super::trace::Trace;
use crate::clock::moment;
use crate::error::{Failed, Sent};
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::Ledger;
use crate::ledger::admission::Answered;
use crate::ledger::entry::{End, Outcome};
use crate::problem::Problem;
use crate::upstream::Confirmed;
use http::header::RETRY_AFTER;
use std::time::Duration;

/// How long after the budget of the request its outcome is waited for.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// A result, and whether the ledger has it.
pub struct Concluded {
    pub(super) result: Result<Confirmed, Failed>,
    pub(super) end: End,
    pub(super) unrecorded: bool,
}

fn end(failed: &Failed) -> End {
    match failed {
        Failed::UpstreamUnreachable | Failed::TooLateToSend | Failed::Frozen(_) => End::NotSent,
        Failed::UpstreamRefused { .. } | Failed::UpstreamCredentialsRefused => End::Refused,
        Failed::UpstreamFailed { .. } | Failed::UpstreamNotConfirmed { .. } | Failed::OutcomeUnknown(_) => End::Unknown,
    }
}

fn provider_status(result: &Result<Confirmed, Failed>) -> Option<u16> {
    match result {
        Ok(confirmed) => Some(confirmed.status),
        Err(Failed::UpstreamRefused { status, .. } | Failed::UpstreamFailed { status }) => Some(*status),
        Err(Failed::UpstreamCredentialsRefused) => Some(401),
        Err(Failed::UpstreamNotConfirmed { status, .. }) => *status,
        Err(Failed::UpstreamUnreachable | Failed::TooLateToSend | Failed::Frozen(_) | Failed::OutcomeUnknown(_)) => {
            None
        }
    }
}

/// What the caller is about to hear, kept for its idempotency key.
fn answered(result: &Result<Confirmed, Failed>, request_id: RequestId) -> Answered {
    let (status, body, retry_after_s) = match result {
        Ok(confirmed) => (200, confirmed.body.clone(), None),
        Err(failed) => {
            let response = Problem::from(failed).into_response(request_id);
            let wait = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
            (response.status().as_u16(), response.into_body(), wait)
        }
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    Answered { status, confirmed: result.is_ok(), body, retry_after_s }
}

/// Records the outcome. A record that fails changes nothing about what happened: it becomes part of the answer.
pub async fn conclude(reply: Reply, ledger: &dyn Ledger, trace: &mut Trace) -> Concluded {
    failpoint::hit("conclude");
    let started = moment();
    let Reply { recorded, result, slot, deadline, is_keyed } = reply;
    let (end, code, sent) = match &result {
        Ok(_) => (End::Deleted, None, Sent::Yes),
        Err(failed) => {
            let problem = Problem::from(failed);
            (end(failed), Some(problem.code), problem.sent)
        }
    };
    let status = provider_status(&result);
    let answered = is_keyed.then(|| answered(&result, recorded.request_id()));
    let outcome = Outcome { request_id: recorded.request_id(), outcome: end, status, code, sent, answer: None };
    // The record goes on where this ends. The caller does not wait for it longer than it waits for us.
    let recording = ledger.conclude(recorded, outcome, answered);
    let recording = tokio::time::timeout_at((started.max(deadline) + LAST_PATIENCE).into(), recording);
    let unrecorded = !matches!(recording.await, Ok(Ok(())));
    drop(slot);
    trace.mark("conclude", started);
    Concluded { result, end, unrecorded }
}
