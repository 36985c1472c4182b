//! What the provider's answer means. Only what it documents counts as a yes.

use super::backoff::UNSAID_S;
use super::key::Key;
use crate::clock::Timestamp;
use crate::config::{Confirm, json};
use crate::error::Failed;
#[cfg(test)]
use crate::failpoint::planted::{self, Fault};
use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_ENCODING, HeaderMap, RETRY_AFTER};
use serde_json::{Map, Value};
use std::error::Error;

/// More than this is not read.
const BODY_AT_MOST: usize = 64 * 1024;
const MESSAGE_AT_MOST: usize = 300;
const RETRY_AT_MOST_S: u64 = 3600;
/// Stands for a yes whose own words cannot be relayed.
const OURS: &[u8] = b"{\"success\":true}";

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
            return Failed::UpstreamNotConfirmed { status: None, why: "is not HTTP" };
        }
        cause = inner.source();
    }
    #[cfg(test)]
    if planted::is(Fault::ReadIsNotSent) {
        return Failed::UpstreamUnreachable;
    }
    Failed::OutcomeUnknown("the connection to the provider was lost before its answer was whole")
}

/// Judges an answer. Nothing that is relayed of it holds `key`, with which it was asked.
pub(super) async fn judge(response: Response, confirm: Confirm, key: &Key) -> Result<Confirmed, Failed> {
    let status = response.status().as_u16();
    let wait_s = wait_s(response.headers());
    let encoded = is_encoded(response.headers());
    let not_confirmed = |why| Err(Failed::UpstreamNotConfirmed { status: Some(status), why });
    if !matches!(status, 200..=299 | 400..=599) {
        return not_confirmed("which says neither yes nor no");
    }
    let body = body(response).await?;
    match status {
        200 if !encoded && says_success(&body) => Ok(Confirmed { status, body: relayed(body, key) }),
        200..=299 if confirm == Confirm::Any2xx && !says_otherwise(&body, encoded) => {
            let body = if encoded { Bytes::from_static(OURS) } else { relayed(body, key) };
            Ok(Confirmed { status, body })
        }
        200 => not_confirmed("without `success: true`"),
        201..=299 if confirm == Confirm::Any2xx => not_confirmed("with a body that says otherwise, or cannot be read"),
        201..=299 => not_confirmed("a 2xx that it does not document"),
        400 | 403 | 404 | 429 => Err(Failed::UpstreamRefused {
            status,
            message: if encoded { None } else { json::object(&body).ok().and_then(|json| message(&json, key)) },
            retry_after_s: (status == 429).then(|| wait_s.unwrap_or(UNSAID_S)),
        }),
        401 => Err(Failed::UpstreamCredentialsRefused),
        500..=599 => Err(Failed::UpstreamFailed { status }),
        _ => not_confirmed("which it does not document"),
    }
}

/// Whether a body is compressed, by any of the fields that may say so.
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
    headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"))
}

pub(super) async fn body(mut response: Response) -> Result<Bytes, Failed> {
    let (status, mut body) = (response.status().as_u16(), Vec::new());
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body.into()),
            Ok(Some(chunk)) if body.len() + chunk.len() <= BODY_AT_MOST => body.extend_from_slice(&chunk),
            Ok(Some(_)) => {
                return Err(Failed::UpstreamNotConfirmed {
                    status: Some(status),
                    why: "with a body that is too large",
                });
            }
            Err(_) => return Err(Failed::OutcomeUnknown("the provider's answer broke off")),
        }
    }
}

/// `success: true`, once.
#[derive(serde::Deserialize)]
struct Yes {
    success: bool,
}

/// What a body says of it, where it says anything.
#[derive(serde::Deserialize)]
struct Said {
    #[serde(default, deserialize_with = "said")]
    success: Option<Value>,
}

/// `null` is said, too.
fn said<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Value>, D::Error> {
    serde::Deserialize::deserialize(from).map(Some)
}

/// An array of its fields' values would be read as one too, which nobody documents. What is not UTF-8 is no JSON
/// (RFC 8259 §8.1), also where it stands in what is passed over.
fn says_success(body: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(body) else { return false };
    text.trim_ascii_start().starts_with('{') && serde_json::from_str::<Yes>(text).is_ok_and(|yes| yes.success)
}

/// Whether a body begins as an object, and says of `success` something else than `true`, or twice something, or nobody
/// knows what: it is cut off, or goes on behind its end. Of one that is encoded nobody can know.
fn says_otherwise(body: &[u8], encoded: bool) -> bool {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_start_matches(|c: char| c == '\u{feff}' || c.is_ascii_whitespace());
    let said = || match serde_json::from_str::<Said>(text) {
        Ok(said) => said.success.is_some_and(|success| success != true),
        Err(error) => error.is_data() || !encoded,
    };
    text.starts_with('{') && said()
}

/// A body that says yes, if every reader reads the same in it and none reads the key; else ours.
fn relayed(body: Bytes, key: &Key) -> Bytes {
    if json::object(&body).is_ok() && !key.is_in(&body) { body } else { Bytes::from_static(OURS) }
}

/// The provider's words, as plain text, without the key.
fn message(json: &Map<String, Value>, key: &Key) -> Option<String> {
    let text = json.get("message").or_else(|| json.get("error"))?.as_str()?;
    // Masked before it is cut: half a key is too much as well.
    let plain: String = key.masked(text).chars().take(MESSAGE_AT_MOST).collect();
    (!plain.is_empty()).then_some(plain)
}

/// For how long an answer asks to be left alone, in seconds; the longest, where it says so more than once.
pub(super) fn wait_s(headers: &HeaderMap) -> Option<u64> {
    headers.get_all(RETRY_AFTER).iter().filter_map(|value| retry_after(value.to_str().ok()?)).max()
}

/// `Retry-After` in both forms (RFC 9110 §10.2.3), the date in any of its own, as seconds from now, 1 to 3,600; `None`: it is in neither.
#[must_use]
pub fn retry_after(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let seconds = if digits {
        text.parse().unwrap_or(u64::MAX)
    } else {
        let now = Timestamp::now();
        Timestamp::parse_http_date(text, now)?.seconds_since(now)
    };
    Some(seconds.clamp(1, RETRY_AT_MOST_S))
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::key;
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms_and_clamped() {
        assert_eq!(retry_after("7"), Some(7));
        assert_eq!(retry_after("1000000000000000000000"), Some(3600));
        assert_eq!(retry_after("Tue, 24 Nov 2015 08:00:00 GMT"), Some(1));
        assert_eq!(retry_after("Tue, 24 Nov 2093 08:00:00 GMT"), Some(3600));
        assert_eq!(retry_after("Tue Nov 24 08:00:00 2093"), Some(3600));
        assert_eq!(retry_after("Tuesday, 24-Nov-15 08:00:00 GMT"), Some(1));
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
            b"{\"success\":true,\"x\":\"\xff\xfe\"}",
            b"{}",
            b"",
        ] {
            assert!(!says_success(body), "{}", String::from_utf8_lossy(body));
        }
    }

    fn message(text: impl Into<Value>) -> Option<String> {
        let json = Map::from_iter([("message".to_owned(), text.into())]);
        super::message(&json, &key("canary-key"))
    }

    #[test]
    fn a_message_is_bounded_plain_text() {
        let text = message(format!("a\u{1b}\n\u{202e}{}", "x".repeat(1000))).unwrap();
        assert_eq!((text.len(), text.starts_with("axx")), (300, true));
        assert_eq!(message(serde_json::json!({"a": 1})), None);
    }

    #[test]
    fn words_that_repeat_the_key_are_relayed_without_it() {
        assert_eq!(message("no canary-key").as_deref(), Some("no ***"));
        let cut = message(format!("{}canary-key", "x".repeat(295))).unwrap();
        assert_eq!((cut.len(), cut.ends_with("x***")), (298, true));
    }

    #[test]
    fn a_yes_that_repeats_the_key_or_could_be_read_in_two_ways_is_relayed_in_our_words() {
        let relayed = |body: &str| relayed(Bytes::from(body.to_owned()), &key("canary-key"));
        for harmless in [r#"{"success": true, "key": "canary-kex"}"#, r#"{"success": true, "a": ["\u006f", 1e9]}"#] {
            assert_eq!(relayed(harmless), harmless);
        }
        for body in [
            r#"{"success": true, "key": "canary-key"}"#,
            r#"{"success": true, "key": "\u0063anary-key", "a": 1}"#,
            r#"{"success": true, "key": "canary-key", "key": "last"}"#,
            r#"{"success": true, "a": [{"Bearer \u0063anary-key": null}]}"#,
            r#"{"success": true, "a": 1e999}"#,
            r#"{"success": true, "a": "\ud800"}"#,
            r#"{"success": true, "a": [{"b": 1, "b": 1}]}"#,
            &format!(r#"{{"success": true, "a": {}{}}}"#, "[".repeat(200), "]".repeat(200)),
            "[true]",
        ] {
            assert_eq!(relayed(body), OURS, "{body}");
        }
    }
}
