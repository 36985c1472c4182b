//! The responses of the sandbox, the broken ones too.

use super::behaviour::Behaviour;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

const MARK: HeaderName = HeaderName::from_static("x-sandbox");
/// Where `answer-redirect` points: a well-formed target, so that a client which follows it is seen doing so.
const ELSEWHERE: &str = "/redirected/groups/redirected/picture";
/// What a body that is cut announces beyond what it has.
const MISSING_BYTES: u64 = 64;

/// The connection ends here, as it was asked to. hyper then closes the socket without another byte.
#[derive(Debug)]
pub(super) struct HangUp(pub(super) Behaviour);

impl fmt::Display for HangUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the sandbox was told to {}", self.0)
    }
}

impl std::error::Error for HangUp {}

/// A body that is whole, or one that announces more than it brings.
pub(super) struct Body {
    bytes: Option<Bytes>,
    end: End,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    /// The next poll waits once, for hyper to flush what it has; the one after it breaks off.
    Cut {
        flushed: bool,
    },
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = HangUp;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HangUp>>> {
        if let Some(bytes) = self.bytes.take() {
            return Poll::Ready(Some(Ok(Frame::data(bytes))));
        }
        match self.end {
            End::Whole => Poll::Ready(None),
            End::Cut { flushed: true } => Poll::Ready(Some(Err(HangUp(Behaviour::CutBody)))),
            End::Cut { flushed: false } => {
                self.end = End::Cut { flushed: true };
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_none() && self.end == End::Whole
    }

    fn size_hint(&self) -> SizeHint {
        let here = self.bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        SizeHint::with_exact(if self.end == End::Whole { here } else { here + MISSING_BYTES })
    }
}

fn response(status: StatusCode, content_type: &'static str, bytes: Bytes, end: End) -> Response<Body> {
    let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
    let mut response = Response::new(Body { bytes, end });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(MARK, HeaderValue::from_static("nothing-real-happened"));
    if !content_type.is_empty() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    response
}

/// JSON that is already text.
pub(super) fn json_text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    response(status, "application/json", text.into(), End::Whole)
}

/// JSON.
pub(super) fn json(status: StatusCode, value: &Value) -> Response<Body> {
    json_text(status, value.to_string())
}

/// 200, byte for byte as documented.
pub(super) fn success() -> Response<Body> {
    json_text(StatusCode::OK, r#"{"success": true}"#)
}

/// An error, in the shape from which the provider's SDKs read their message.
pub(super) fn refusal(status: StatusCode, message: &str) -> Response<Body> {
    json(status, &json!({"success": false, "message": message}))
}

/// 405 with what is allowed.
pub(super) fn not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = refusal(StatusCode::METHOD_NOT_ALLOWED, "this route has other methods");
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    response
}

/// What a DELETE is answered instead of `proper`.
///
/// # Errors
/// The order to hang up without an answer.
pub(super) fn instead(behaviour: Behaviour, proper: Response<Body>) -> Result<Response<Body>, HangUp> {
    match behaviour {
        Behaviour::Slow(_) => Ok(proper),
        Behaviour::Answer(status) => Ok(forced(status)),
        Behaviour::False => Ok(json(StatusCode::OK, &json!({"success": false}))),
        Behaviour::Garbage => Ok(response(StatusCode::OK, "text/html", Bytes::from("<p>{not: JSON"), End::Whole)),
        Behaviour::CutBody => {
            let cut = End::Cut { flushed: false };
            Ok(response(StatusCode::OK, "application/json", Bytes::from(r#"{"success":"#), cut))
        }
        Behaviour::Redirect => {
            let mut response = refusal(StatusCode::TEMPORARY_REDIRECT, "it is elsewhere, as asked");
            response.headers_mut().insert(LOCATION, HeaderValue::from_static(ELSEWHERE));
            Ok(response)
        }
        Behaviour::HangUpBeforeReading | Behaviour::HangUpAfterReading | Behaviour::HangUpLost => {
            Err(HangUp(behaviour))
        }
    }
}

fn forced(status: StatusCode) -> Response<Body> {
    if status == StatusCode::NO_CONTENT {
        return response(status, "", Bytes::new(), End::Whole);
    }
    if status.is_success() {
        return json(status, &json!({"success": true}));
    }
    let mut response = refusal(status, "the sandbox answers so, as asked");
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("7"));
    }
    response
}
