//! What the caller hears.

use super::conclude::Concluded;
use super::trace::{Ending, Trace};
use crate::error::{Failed, Sent};
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::admission::Replay;
use crate::problem::{self, Problem};
use crate::rate::Standing;
use crate::telemetry::{Kind, Metrics};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use std::fmt::Write;

pub(super) fn word(sent: Sent) -> &'static str {
    match sent {
        Sent::No => "no",
        Sent::Yes => "yes",
        Sent::Unknown => "unknown",
    }
}

/// Builds the answer of a request that had an intent, logs it and counts it.
pub fn answer(concluded: Concluded, trace: &Trace, metrics: &Metrics) -> Response<Bytes> {
    failpoint::hit("answer");
    let (mut response, code, sent, detail) = match concluded.result {
        Ok(confirmed) => (success(confirmed.body, trace.id), "ok", Sent::Yes, String::new()),
        Err(failed) => {
            let problem = Problem::from(&failed);
            let (code, sent, detail) = (problem.code, problem.sent, problem.detail.to_string());
            (problem.into_response(trace.id), code, sent, detail)
        }
    };
    rate_fields(response.headers_mut(), &trace.standings);
    if concluded.unrecorded {
        response.headers_mut().insert("ledger-warning", HeaderValue::from_static("outcome-unrecorded"));
    }
    let status = response.status().as_u16();
    trace.finish(&Ending { decision: "allowed", code, status, sent: word(sent), detail }, metrics);
    metrics.upstream.get_or_create(&Kind { kind: code }).inc();
    metrics.outcomes.get_or_create(&Kind { kind: concluded.end.as_str() }).inc();
    response
}

/// 200 with a JSON body and our request id.
pub(super) fn success(body: Bytes, id: RequestId) -> Response<Bytes> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// The answer that an earlier request under the same idempotency key got: its own, with its own request id.
pub(super) fn replay(replay: Replay, trace: &Trace, metrics: &Metrics) -> Response<Bytes> {
    let Replay { request_id, answered } = replay;
    let mut response = match answered {
        Some(answered) if answered.confirmed => success(answered.body.into(), request_id),
        Some(answered) => {
            let mut response = problem::document(answered.status, answered.body.into(), request_id);
            let wait = answered.retry_after_s.map(HeaderValue::from);
            wait.and_then(|wait| response.headers_mut().insert(RETRY_AFTER, wait));
            response
        }
        None => {
            Problem::from(&Failed::OutcomeUnknown("it was not known when it was first asked")).into_response(request_id)
        }
    };
    response.headers_mut().insert("idempotency-replayed", HeaderValue::from_static("true"));
    rate_fields(response.headers_mut(), &trace.standings);
    let (status, detail) = (response.status().as_u16(), format!("the answer to request {request_id}"));
    trace.finish(&Ending { decision: "replayed", code: "ok", status, sent: word(Sent::No), detail }, metrics);
    response
}

/// The answer when the work itself was lost: after the intent nobody can say that nothing was sent.
pub(super) fn lost(id: RequestId) -> Response<Bytes> {
    Problem::from(&Failed::OutcomeUnknown("the gateway failed")).into_response(id)
}

/// `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11), where a rate applies.
pub(super) fn rate_fields(headers: &mut HeaderMap, standings: &[Standing]) {
    if standings.is_empty() {
        return;
    }
    let room = || String::with_capacity(64 * standings.len());
    let (mut policy, mut state) = (room(), room());
    for (index, standing) in standings.iter().enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let name = &standing.name;
        let _ = write!(policy, "{comma}\"{name}\";q={};w={}", standing.rate.max, standing.rate.per_s);
        let _ = write!(state, "{comma}\"{name}\";r={};t={}", standing.remaining, standing.reset_s);
    }
    for (field, value) in [("ratelimit-policy", policy), ("ratelimit", state)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(field, value);
        }
    }
}
