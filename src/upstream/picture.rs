//! Looks whether a group has a picture, and changes nothing.
//!
//! The one method here is GET. A [`Prepared`](super::Prepared) deletion is neither made nor taken, the path has a
//! query that no deletion has, and the client follows no redirect: nothing that is built here can become a DELETE.

use super::{Unprepared, Upstream, answer};
use crate::config::json;
use crate::error::Failed;
use crate::id::Target;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use std::time::Duration;

/// What a look at a picture showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Picture {
    /// The provider shows one.
    Present,
    /// The provider shows none.
    Absent,
    /// It showed neither; look again, and not before the provider's `Retry-After`, where it gave one (at most an hour).
    Unclear {
        /// What it was instead, in words.
        why: &'static str,
        /// How long it asked to be left alone.
        retry_after: Option<Duration>,
    },
}

/// Asks the provider to look itself instead of answering from what it kept: that may be older than the deletion.
const FRESH: &str = "refresh=true";

impl Upstream {
    /// Reads `GET /{session}/groups/{group}/picture?refresh=true`, within the time that a deletion would get. What it
    /// finds changes nothing here, readiness neither. Dropping the future is safe: nothing is lost but the look.
    pub async fn picture(&self, target: &Target) -> Picture {
        let request = match self.ready(Method::GET, target, Some(FRESH)) {
            Ok(request) => request,
            Err(Unprepared::NoKey) => return unclear("there is no key to read with"),
            Err(Unprepared::OtherUrl) => return unclear("the URL would not be the one that was meant"),
        };
        let exchange = async {
            match self.way.execute(request).await {
                Ok(response) => judge(response).await,
                Err(Failed::UpstreamUnreachable) => unclear("the provider was not reached"),
                Err(_) => unclear("the connection to the provider was lost"),
            }
        };
        let looked = tokio::time::timeout(self.timeout, exchange).await;
        looked.unwrap_or(unclear("the provider did not answer in time"))
    }
}

fn unclear(why: &'static str) -> Picture {
    Picture::Unclear { why, retry_after: None }
}

async fn judge(response: reqwest::Response) -> Picture {
    let (status, headers) = (response.status(), response.headers());
    let retry_after = answer::wait_s(headers);
    let why = match status {
        // The documentation gives this status to a session, a group and a picture that are not there, and does not
        // tell them apart. In each case the provider shows no picture, and `absent` claims no more than that.
        StatusCode::NOT_FOUND => return Picture::Absent,
        StatusCode::OK if answer::is_encoded(headers) => "the provider's answer is compressed",
        StatusCode::OK => match answer::body(response).await {
            Ok(body) => return read(&body),
            Err(_) => "the provider's answer broke off or is too large",
        },
        StatusCode::TOO_MANY_REQUESTS => "the provider asked to wait",
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "the provider did not let us look",
        _ if status.is_server_error() => "the provider failed",
        _ => "the provider answered with a status that it does not document",
    };
    Picture::Unclear { why, retry_after: retry_after.map(Duration::from_secs) }
}

/// Reads both documented forms: `{"success":true,"picture":{"url","type","size"}}` and the SDK's `{"url","format",…}`.
/// What they share says that there is a picture. A member that is there twice says neither.
fn read(body: &[u8]) -> Picture {
    let Ok(answer) = json::object(body) else {
        return unclear("the provider's answer is not the JSON that it documents");
    };
    if answer.get("success") != Some(&Value::Bool(true)) {
        return unclear("the provider answered 200 without `success: true`");
    }
    let url = |picture: &Value| picture.get("url").and_then(Value::as_str).is_some_and(|url| !url.is_empty());
    match answer.get("picture") {
        Some(Value::Null) => Picture::Absent,
        None if answer.len() == 1 => Picture::Absent,
        Some(picture) if url(picture) => Picture::Present,
        Some(_) | None => unclear("the provider's answer has another form than it documents"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_documented_forms_say_that_there_is_a_picture() {
        for picture in [
            r#"{"url":"https://x.invalid/a.jpg","type":"image/jpeg","size":1}"#,
            r#"{"url":"https://x.invalid/a","format":"jpeg","size":1,"dimensions":{"width":1,"height":1}}"#,
        ] {
            assert_eq!(read(format!(r#"{{"success":true,"picture":{picture}}}"#).as_bytes()), Picture::Present);
        }
    }

    #[test]
    fn success_without_a_picture_says_that_there_is_none() {
        for body in [r#"{"success":true}"#, r#"{"success":true,"picture":null}"#] {
            assert_eq!(read(body.as_bytes()), Picture::Absent, "{body}");
        }
    }

    #[test]
    fn what_is_not_documented_says_neither() {
        for body in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"picture":null}"#,
            r#"{"success":"true","picture":null}"#,
            r#"{"success":false,"picture":null}"#,
            r#"{"success":true,"picture":{}}"#,
            r#"{"success":true,"picture":{"url":""}}"#,
            r#"{"success":true,"picture":{"url":null}}"#,
            r#"{"success":true,"picture":"https://x.invalid/a.jpg"}"#,
            r#"{"success":false,"success":true,"picture":null}"#,
            r#"{"success":true,"picture":{"url":"https://x.invalid/a.jpg"},"picture":null}"#,
            r#"{"success":true,"picture":null,"picture":{"url":"https://x.invalid/a.jpg"}}"#,
            r#"{"success":true,"picture":{"url":"https://x.invalid/a.jpg","url":"https://x.invalid/b.jpg"}}"#,
            r#"{"success":true,"data":{"url":"https://x.invalid/a.jpg"}}"#,
        ] {
            assert!(matches!(read(body.as_bytes()), Picture::Unclear { .. }), "{body}");
        }
    }
}
