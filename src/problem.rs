//! The only place that turns an error into a response: RFC 9457 `application/problem+json`, with the
//! two members that the provider's SDKs read (`success`, `message`) beside the standard ones.

#[cfg(test)]
mod tests;
mod withheld;

use crate::error::{Failed, NotAdmitted, NotAllowed, Refused, Sent};
use crate::head::HeadFault;
use crate::id::RequestId;
use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::Serialize;
use std::borrow::Cow;

/// Where the codes are explained; a code is appended as fragment. Relative on purpose (RFC 9457 §3.1.1
/// allows it): the gateway has no public address.
const TYPE_BASE: &str = "/problems#";
/// `Retry-After` where no better time is known: this plus a few seconds that differ from request to
/// request, so that callers do not come back all at once.
const RETRY_BASE_S: u64 = 1;
const RETRY_SPREAD_S: u64 = 4;

/// What a caller is told about one error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// The stable code, as the README lists it, the same in log, ledger and metric.
    pub code: &'static str,
    /// What the code means, for people; the same for every occurrence.
    pub title: &'static str,
    /// What happened this time, for people.
    pub detail: Cow<'static, str>,
    /// Whether something was sent.
    pub sent: Sent,
    /// When to come back.
    pub retry: Retry,
    /// Which methods there are, where the one that was used is not among them.
    pub allow: &'static str,
}

/// Whether and when calling again makes sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// No `Retry-After`.
    Unsaid,
    /// After exactly this many seconds.
    After(u64),
    /// After this many seconds, and up to a quarter more, so that not all come back at once.
    Around(u64),
    /// Soon, spread over a few seconds.
    Soon,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    request_id: RequestId,
    sent: Sent,
    success: bool,
    message: &'a str,
}

impl Problem {
    fn refused(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { status, code, title, detail: detail.into(), sent: Sent::No, retry: Retry::Unsaid, allow: "DELETE" }
    }

    fn bad_request(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::refused(status, "bad-request", "The request is not acceptable", detail)
    }

    fn frozen(reason: &str) -> Self {
        let detail = format!("deletions are stopped: {reason}");
        Self::refused(StatusCode::FORBIDDEN, "frozen", "Deletions are stopped", detail)
    }

    fn held_back(seconds: u64) -> Self {
        let detail = format!("the provider asked to be left alone for {seconds} s more; nothing was sent");
        let title = "The provider asked to wait";
        Self {
            retry: Retry::Around(seconds),
            ..Self::refused(StatusCode::TOO_MANY_REQUESTS, "upstream-backoff", title, detail)
        }
    }

    fn unavailable(code: &'static str, title: &'static str, detail: &'static str) -> Self {
        Self { retry: Retry::Soon, ..Self::refused(StatusCode::SERVICE_UNAVAILABLE, code, title, detail) }
    }

    fn overloaded(detail: &'static str) -> Self {
        Self::unavailable("overloaded", "The gateway is overloaded", detail)
    }

    fn unknown(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { sent: Sent::Unknown, ..Self::refused(status, code, title, detail) }
    }

    /// The response. Its body is complete; `X-Request-Id` is set.
    #[must_use]
    pub fn into_response(self, id: RequestId) -> Response<Bytes> {
        let said = Document {
            r#type: format!("{TYPE_BASE}{}", self.code),
            title: self.title,
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            request_id: id,
            sent: self.sent,
            success: false,
            message: &self.detail,
        };
        let body = serde_json::to_vec(&said).unwrap_or_default();
        let mut response = document(self.status.as_u16(), body.into(), id);
        let headers = response.headers_mut();
        match self.retry {
            Retry::Unsaid => {}
            Retry::After(seconds) => drop(headers.insert(RETRY_AFTER, seconds.into())),
            Retry::Around(seconds) => {
                let spread = id.spread() % (seconds / 4).max(RETRY_SPREAD_S);
                headers.insert(RETRY_AFTER, (seconds + spread).into());
            }
            Retry::Soon => drop(headers.insert(RETRY_AFTER, (RETRY_BASE_S + id.spread() % RETRY_SPREAD_S).into())),
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static(self.allow));
        }
        response
    }
}

/// A document that was made before, for the request that it was made for.
#[must_use]
pub fn document(status: u16, body: Bytes, id: RequestId) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

impl From<&NotAdmitted> for Problem {
    fn from(reason: &NotAdmitted) -> Self {
        match reason {
            NotAdmitted::Frozen(reason) => Self::frozen(reason),
            NotAdmitted::InFlight => Self::refused(
                StatusCode::CONFLICT,
                "in-flight",
                "The same is under way",
                "a deletion of this picture, or one with this Idempotency-Key, is under way; ask again when it is done",
            ),
            NotAdmitted::KeyReused => Self::refused(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The Idempotency-Key was used before",
                "this Idempotency-Key was used for another picture; make a new one for each deletion",
            ),
            NotAdmitted::BudgetExhausted { whose, retry_after_s } => Self {
                retry: Retry::After(*retry_after_s),
                ..Self::refused(
                    StatusCode::TOO_MANY_REQUESTS,
                    "budget-exhausted",
                    "The budget is used up",
                    format!("{whose}; there is room again in {retry_after_s} s"),
                )
            },
        }
    }
}

impl From<&Refused> for Problem {
    fn from(error: &Refused) -> Self {
        match error {
            Refused::Unauthenticated(why) => {
                Self::refused(StatusCode::UNAUTHORIZED, "unauthenticated", "The caller is not known", *why)
            }
            Refused::Head(fault) => Self::bad_request(head_status(*fault), fault.to_string()),
            Refused::BadTarget(why) => Self::bad_request(StatusCode::BAD_REQUEST, why.clone()),
            Refused::BadField(why) => Self::bad_request(StatusCode::BAD_REQUEST, *why),
            Refused::NoSuchRoute => Self::refused(
                StatusCode::NOT_FOUND,
                "no-such-route",
                "There is no such route",
                "the only route here is DELETE /{sessionId}/groups/{groupId}/picture, with or without /dry-run before it",
            ),
            Refused::MethodNotAllowed => Self::refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The method is not allowed",
                "only DELETE is allowed here",
            ),
            Refused::NotAllowed(reason) => {
                Self::refused(StatusCode::FORBIDDEN, "not-allowed", "The caller may not do this", not_allowed(reason))
            }
            Refused::RateLimited { whose, retry_after_s } => Self {
                retry: Retry::After(*retry_after_s),
                ..Self::refused(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate-limited",
                    "Too many requests",
                    format!("{whose}; try again in {retry_after_s} s"),
                )
            },
            Refused::UpstreamBackoff(seconds) => Self::held_back(*seconds),
            Refused::NotAdmitted(reason) => Self::from(reason),
            Refused::LedgerUnavailable => Self::unavailable(
                "ledger-unavailable",
                "The ledger takes no entries",
                "the ledger cannot record this deletion, so nothing was sent",
            ),
            Refused::LimitsUnavailable => Self::unavailable(
                "limits-unavailable",
                "The rates cannot be asked",
                "the store of the rates gave no sure answer in time, so nothing was sent",
            ),
            Refused::KeyUnavailable => Self::unavailable(
                "key-unavailable",
                "There is no key for the provider",
                "the gateway has no key for the provider, so nothing was sent",
            ),
            Refused::Overloaded => Self::overloaded("as many requests are under way as may be; nothing was sent"),
            Refused::TooManyConnections => Self::overloaded(
                "as many connections are open as may be, in all or from this address; nothing was sent",
            ),
            Refused::ShuttingDown => Self::unavailable(
                "shutting-down",
                "The gateway is shutting down",
                "this process takes no new requests; nothing was sent",
            ),
            Refused::Internal => Self::refused(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "The gateway failed",
                "a fault in the gateway; nothing was sent",
            ),
        }
    }
}

fn head_status(fault: HeadFault) -> StatusCode {
    match fault {
        HeadFault::Malformed(_) => StatusCode::BAD_REQUEST,
        HeadFault::TargetTooLong => StatusCode::URI_TOO_LONG,
        HeadFault::TooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        HeadFault::HasBody => StatusCode::PAYLOAD_TOO_LARGE,
        HeadFault::Expects => StatusCode::EXPECTATION_FAILED,
        HeadFault::TooSlow => StatusCode::REQUEST_TIMEOUT,
    }
}

fn not_allowed(reason: &NotAllowed) -> String {
    match reason {
        NotAllowed::NoRule(caller) => format!("no rule allows caller `{caller}` to delete this group's picture"),
        NotAllowed::Denied(caller, rule) => format!("rule {rule} denies it to caller `{caller}`"),
        NotAllowed::From(caller) => format!("caller `{caller}` may not call from this address"),
    }
}

impl From<&Failed> for Problem {
    fn from(error: &Failed) -> Self {
        let unconfirmed = "The provider did not confirm the deletion";
        match error {
            Failed::UpstreamUnreachable => Self::refused(
                StatusCode::BAD_GATEWAY,
                "upstream-unreachable",
                "The provider cannot be reached",
                "no connection to the provider; nothing was sent",
            ),
            Failed::Frozen(reason) => Self::frozen(reason),
            Failed::TooLateToSend => {
                Self::overloaded("too little time was left to send the deletion; nothing was sent")
            }
            Failed::UpstreamRefused { status, message, retry_after_s } => Self {
                sent: Sent::Yes,
                retry: retry_after_s.map_or(Retry::Unsaid, Retry::Around),
                ..Self::refused(
                    StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_GATEWAY),
                    "upstream-refused",
                    "The provider refused",
                    message.clone().unwrap_or_else(|| format!("the provider answered {status}")),
                )
            },
            Failed::UpstreamCredentialsRefused => Self {
                sent: Sent::Yes,
                ..Self::refused(
                    StatusCode::BAD_GATEWAY,
                    "upstream-credentials-refused",
                    "The provider does not accept the gateway's key",
                    "the provider refused the gateway's key; the operators have to replace it",
                )
            },
            Failed::UpstreamFailed { status } => Self::unknown(
                if *status == 500 { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::BAD_GATEWAY },
                "upstream-failed",
                "The provider failed",
                format!("the provider answered {status}; the picture may or may not be deleted"),
            ),
            Failed::UpstreamNotConfirmed { status, why } => Self::unknown(
                StatusCode::BAD_GATEWAY,
                "upstream-not-confirmed",
                unconfirmed,
                match status {
                    Some(status) => {
                        format!("the provider answered {status}, {why}; the picture may or may not be deleted")
                    }
                    None => format!("the provider's answer {why}; the picture may or may not be deleted"),
                },
            ),
            Failed::OutcomeUnknown(why) => Self::unknown(
                StatusCode::GATEWAY_TIMEOUT,
                "outcome-unknown",
                "It is not known whether the deletion happened",
                format!("{why}; do not send it again, ask the ledger for this request id"),
            ),
        }
    }
}
