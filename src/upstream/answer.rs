//! What the provider's answer means. Only what it documents counts as a yes.

use crate::clock::Timestamp;
use crate::config::Confirm;
use crate::error::Failed;
#[cfg(test)]
use crate::failpoint::planted::{self, Fault};
use crate::plain::is_invisible;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, HeaderValue, RETRY_AFTER};
use reqwest::{Request, Response};
use serde_json::Value;
use std::error::Error;

/// More than this is not read.
const BODY_AT_MOST: usize = 64 * 1024;
const MESSAGE_AT_MOST: usize = 300;
const RETRY_AT_MOST_S: u64 = 3600;
/// Stands for a yes whose own words cannot be relayed.
const OURS: &[u8] = b"{\"success\":true}";
/// What is shorter is no secret, and stands in every other word.
const KEY_AT_LEAST: usize = 8;

/// The provider's key, to be looked for in its answers.
pub(super) struct Key(HeaderValue);

impl Key {
    /// The one that a request is sent with.
    pub(super) fn of(request: &Request) -> Self {
        Self(request.headers().get(AUTHORIZATION).cloned().unwrap_or(HeaderValue::from_static("")))
    }

    fn text(&self) -> Option<&str> {
        let key = std::str::from_utf8(self.0.as_bytes()).ok()?.strip_prefix("Bearer ")?;
        (key.len() >= KEY_AT_LEAST).then_some(key)
    }

    /// Whether a text of the answer holds it, however the JSON spells that.
    fn is_in(&self, json: &Value) -> bool {
        let holds = |text: &str| self.text().is_some_and(|key| text.contains(key));
        match json {
            Value::String(text) => holds(text),
            Value::Array(values) => values.iter().any(|value| self.is_in(value)),
            Value::Object(fields) => fields.iter().any(|(name, value)| holds(name) || self.is_in(value)),
            Value::Null | Value::Bool(_) => false,
            Value::Number(number) => holds(&number.to_string()),
        }
    }
}

/// The provider's yes, with its own words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmed {
    /// The status, 200 unless `confirm = "any-2xx"`.
    pub status: u16,
    /// The body, JSON; at most 64 KiB.
    pub body: Bytes,
}

/// Judges an error of the exchange. Before the connection stands, nothing was sent.
pub(super) fn failed(error: &reqwest::Error) -> Failed {
    if error.is_connect() { Failed::UpstreamUnreachable } else { lost(error) }
}

/// Judges an error behind which nobody knows.
pub(super) fn lost(error: &(dyn Error + 'static)) -> Failed {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(http) = inner.downcast_ref::<hyper::Error>()
            && http.is_parse()
        {
            return Failed::UpstreamNotConfirmed("the provider's answer is not HTTP");
        }
        cause = inner.source();
    }
    #[cfg(test)]
    if planted::is(Fault::ReadIsNotSent) {
        return Failed::UpstreamUnreachable;
    }
    Failed::OutcomeUnknown("the connection to the provider was lost before its answer was whole")
}

/// Judges an answer. Nothing that is relayed of it holds `key`, with which it was asked: some servers repeat what they
/// refuse.
pub(super) async fn judge(response: Response, confirm: Confirm, key: &Key) -> Result<Confirmed, Failed> {
    let status = response.status().as_u16();
    let retry_after_s = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(retry_after);
    let encoded =
        response.headers().get(CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if !matches!(status, 200..=299 | 400..=599) {
        return Err(Failed::UpstreamNotConfirmed("the provider answered with a status that says neither yes nor no"));
    }
    let body = body(response).await?;
    let json = || -> Option<Value> { if encoded { None } else { serde_json::from_slice(&body).ok() } };
    match status {
        200 if !encoded && says_success(&body) => Ok(Confirmed { status, body: relayed(body, key) }),
        200..=299 if confirm == Confirm::Any2xx => {
            let body = if json().is_none() { Bytes::from_static(OURS) } else { relayed(body, key) };
            Ok(Confirmed { status, body })
        }
        200 => Err(Failed::UpstreamNotConfirmed("the provider answered 200 without `success: true`")),
        201..=299 => Err(Failed::UpstreamNotConfirmed("the provider answered with a 2xx that it does not document")),
        400 | 403 | 404 | 429 => Err(Failed::UpstreamRefused {
            status,
            message: json().as_ref().and_then(|json| message(json, key)),
            retry_after_s: retry_after_s.filter(|_| status == 429),
        }),
        401 => Err(Failed::UpstreamCredentialsRefused),
        500..=599 => Err(Failed::UpstreamFailed { status }),
        _ => Err(Failed::UpstreamNotConfirmed("the provider answered with a status that it does not document")),
    }
}

pub(super) async fn body(mut response: Response) -> Result<Bytes, Failed> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.into()),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_AT_MOST => body.extend_from_slice(&chunk),
            Ok(Some(_)) => return Err(Failed::UpstreamNotConfirmed("the provider's answer is too large")),
            Err(_) => return Err(Failed::OutcomeUnknown("the provider's answer broke off")),
        }
    }
}

/// `success: true`, once.
#[derive(serde::Deserialize)]
struct Yes {
    success: bool,
}

/// An array of its fields' values would be read as one too, which nobody documents.
fn says_success(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(b"{") && serde_json::from_slice::<Yes>(body).is_ok_and(|yes| yes.success)
}

/// A body that says yes, unless it holds the key; ours then.
fn relayed(body: Bytes, key: &Key) -> Bytes {
    // Each name counts, also one that stands twice; parsing keeps the last alone.
    let raw = key.text().is_some_and(|key| body.windows(key.len()).any(|window| window == key.as_bytes()));
    let held = raw || serde_json::from_slice(&body).is_ok_and(|json| key.is_in(&json));
    if held { Bytes::from_static(OURS) } else { body }
}

/// The provider's words, as plain text, without the key.
fn message(json: &Value, key: &Key) -> Option<String> {
    let text = json.get("message").or_else(|| json.get("error"))?.as_str()?;
    let mut plain: String = text.chars().filter(|c| !is_invisible(*c)).collect();
    // Before it is cut: half a key is too much as well.
    if let Some(key) = key.text() {
        plain = plain.replace(key, "***");
    }
    let plain: String = plain.chars().take(MESSAGE_AT_MOST).collect();
    (!plain.is_empty()).then_some(plain)
}

/// `Retry-After` in both forms (RFC 9110 §10.2.3) as seconds from now, 1 to 3,600; `None`: it is in neither.
#[must_use]
pub fn retry_after(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let seconds = if digits {
        text.parse().unwrap_or(u64::MAX)
    } else {
        Timestamp::parse_http_date(text)?.seconds_since(Timestamp::now())
    };
    Some(seconds.clamp(1, RETRY_AT_MOST_S))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        assert_eq!(retry_after("7"), Some(7));
        assert_eq!(retry_after("1000000000000000000000"), Some(3600));
        assert_eq!(retry_after("Tue, 24 Nov 2015 08:00:00 GMT"), Some(1));
        assert_eq!(retry_after("Tue, 24 Nov 2093 08:00:00 GMT"), Some(3600));
        for junk in ["", "soon", "-1", "7.5"] {
            assert_eq!(retry_after(junk), None, "{junk}");
        }
    }

    #[test]
    fn only_one_unmistakable_success_is_one() {
        assert!(says_success(b"{\"success\": true}") && says_success(b" {\"a\": 1, \"success\": true} "));
        for body in [
            &b"{\"success\": false}"[..],
            b"{\"success\": \"true\"}",
            b"{\"success\": 1}",
            b"{\"success\": false, \"success\": true}",
            b"{\"success\": true, \"success\": true}",
            b"[{\"success\": true}]",
            b"[true]",
            b"{\"success\": true} x",
            b"{}",
            b"",
        ] {
            assert!(!says_success(body), "{}", String::from_utf8_lossy(body));
        }
    }

    #[test]
    fn a_message_is_bounded_plain_text() {
        let json = serde_json::json!({"message": format!("a\u{1b}\n\u{202e}{}", "x".repeat(1000))});
        let text = message(&json, &key("canary-key")).unwrap();
        assert_eq!((text.len(), text.starts_with("axx")), (300, true));
        assert_eq!(message(&serde_json::json!({"message": {"a": 1}}), &key("canary-key")), None);
    }

    fn key(text: &str) -> Key {
        Key(HeaderValue::from_str(&format!("Bearer {text}")).unwrap())
    }

    #[test]
    fn words_that_repeat_the_key_are_relayed_without_it() {
        let said = |text: &str| message(&serde_json::json!({ "message": text }), &key("canary-key")).unwrap();
        assert_eq!(said("no canary-key, no canary-\u{200b}key"), "no ***, no ***");
        let cut = said(&format!("{}canary-key", "x".repeat(295)));
        assert_eq!((cut.len(), cut.ends_with("x***")), (298, true));
        assert_eq!(message(&serde_json::json!({"message": "a b"}), &key("a")).as_deref(), Some("a b"));
    }

    #[test]
    fn a_yes_that_repeats_the_key_is_relayed_in_our_words() {
        let relayed = |body: &'static str| relayed(Bytes::from_static(body.as_bytes()), &key("canary-key"));
        let harmless = r#"{"success": true, "key": "canary-kex"}"#;
        assert_eq!(relayed(harmless), harmless);
        for body in [
            r#"{"success": true, "key": "canary-key"}"#,
            r#"{"success": true, "key": "\u0063anary-key", "a": 1}"#,
            r#"{"success": true, "key": "canary-key", "key": "last"}"#,
            r#"{"success": true, "a": [{"Bearer \u0063anary-key": null}]}"#,
        ] {
            assert_eq!(relayed(body), OURS, "{body}");
        }
    }
}
