//! `Retry-After`: seconds or a date, never longer than an hour, and nothing else.

use wasend_gateway::upstream::retry_after;

/// Holds one field value against what a slow reader says of it.
pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let seconds = retry_after(text);
    assert!(seconds.is_none_or(|seconds| (1..=3600).contains(&seconds)), "{text:?}: {seconds:?}");
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = text.trim_start_matches('0');
        // Whatever has more than four digits is more than an hour.
        let meant = if digits.len() > 4 { 3600 } else { digits.parse().unwrap_or(0).clamp(1, 3600) };
        assert_eq!(seconds, Some(meant), "{text:?}");
    } else if seconds.is_some() {
        // A date of HTTP has a zone, but for asctime's five words, and no digit that is not ASCII.
        let is_asctime = text.split_ascii_whitespace().count() == 5;
        assert!(text.is_ascii() && (text.contains("GMT") || is_asctime), "{text:?} was taken for a date");
    }
}
