//! The provider's key, as it is looked for in what the provider says: some servers repeat what they refuse.

use crate::plain::is_invisible;
use reqwest::Request;
use reqwest::header::{AUTHORIZATION, HeaderValue};

/// What is shorter is no secret, and stands in every other word.
const AT_LEAST: usize = 8;
/// Stands for it where it was taken out.
const MASK: &str = "***";

/// The key that a request was sent with.
pub(super) struct Key(HeaderValue);

impl Key {
    pub(super) fn of(request: &Request) -> Self {
        Self(request.headers().get(AUTHORIZATION).cloned().unwrap_or(HeaderValue::from_static("")))
    }

    /// Whether it is what this field holds.
    pub(super) fn is(&self, field: &HeaderValue) -> bool {
        self.0 == field
    }

    fn text(&self) -> Option<&str> {
        let key = std::str::from_utf8(self.0.as_bytes()).ok()?.strip_prefix("Bearer ")?;
        (key.len() >= AT_LEAST).then_some(key)
    }

    /// Whether JSON holds it: as it is, escaped, or with what nobody sees in between. No parser is asked: that keeps one
    /// of two members of the same name, and gives up where another one goes on.
    pub(super) fn is_in(&self, json: &[u8]) -> bool {
        let Some(key) = self.text() else { return false };
        let raw = json.windows(key.len()).any(|window| window == key.as_bytes());
        raw || visible(&String::from_utf8_lossy(&unescaped(json))).contains(key)
    }

    /// What can be seen of a text, without it.
    pub(super) fn masked(&self, text: &str) -> String {
        match self.text() {
            Some(key) => visible(text).replace(key, MASK),
            None => visible(text),
        }
    }
}

fn visible(text: &str) -> String {
    text.chars().filter(|c| !is_invisible(*c)).collect()
}

/// JSON with its escapes (RFC 8259 §7) undone wherever they stand. What is none loses its backslash alone, as with
/// readers that take it nevertheless.
fn unescaped(json: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(json.len());
    let mut rest = json;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let (b'\\', Some((escape, after))) = (byte, rest.split_first()) else {
            plain.push(*byte);
            continue;
        };
        rest = after;
        match escape {
            b'b' => plain.push(8),
            b'f' => plain.push(12),
            b'n' => plain.push(b'\n'),
            b'r' => plain.push(b'\r'),
            b't' => plain.push(b'\t'),
            b'u' => match character(rest) {
                Some((character, after)) => {
                    rest = after;
                    plain.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                }
                None => plain.push(b'u'),
            },
            other => plain.push(*other),
        }
    }
    plain
}

/// The character behind `\u`, which may be two of these, and what is behind it.
fn character(text: &[u8]) -> Option<(char, &[u8])> {
    let (first, rest) = unit(text)?;
    if let Some(character) = char::from_u32(first.into()) {
        return Some((character, rest));
    }
    let second = rest.strip_prefix(br"\u").and_then(unit);
    let pair = second.and_then(|(second, rest)| Some((char::decode_utf16([first, second]).next()?.ok()?, rest)));
    Some(pair.unwrap_or((char::REPLACEMENT_CHARACTER, rest)))
}

/// Four hexadecimal digits, and what is behind them.
fn unit(text: &[u8]) -> Option<(u16, &[u8])> {
    let (digits, rest) = text.split_at_checked(4)?;
    let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
    Some((u16::from_str_radix(digits, 16).ok()?, rest))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn key(text: &str) -> Key {
        Key(HeaderValue::from_str(&format!("Bearer {text}")).unwrap())
    }

    #[test]
    fn escapes_are_undone_and_what_is_none_stays() {
        for (json, plain) in [
            (r#"{"a":"b"}"#, r#"{"a":"b"}"#),
            (r#"\"\\\/\b\f\n\r\t"#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r"\u0063\u00E9\u6f22\ud83d\ude00", "cé漢\u{1f600}"),
            (r"\ud83d\u0063\ude00\ud83d", "\u{fffd}c\u{fffd}\u{fffd}"),
            (r"\\u0063\u+063\u006", r"\u0063u+063u006"),
            (r"\x\'\", r"x'\"),
        ] {
            assert_eq!(String::from_utf8(unescaped(json.as_bytes())).unwrap(), plain, "{json}");
        }
        assert_eq!(unescaped(b"\xff\\u0063\xfe"), b"\xffc\xfe");
    }

    #[test]
    fn the_key_is_found_however_json_spells_it() {
        let canary = key("canary/key\\\"");
        for json in [
            &br#"{"a":"canary/key\\\""}"#[..],
            br#"["\u0063anary\/key\u005c\u0022"]"#,
            br#"{"canary\u002fke\u0079\\\"":0"#,
            b"\xff\xfe canary/key\\\"",
            "[\"canary\u{200b}/key\\u202e\\\\\\udb40\\udc01\\\"\"]".as_bytes(),
        ] {
            assert!(canary.is_in(json), "{}", String::from_utf8_lossy(json));
        }
        assert!(!canary.is_in(br#"{"a":"canary/kex\\\""}"#) && !canary.is_in(b""));
        assert!(!key("short").is_in(b"short"), "it stands in every other word");
    }

    #[test]
    fn it_is_taken_out_of_a_text_and_so_is_what_nobody_sees() {
        let canary = key("canary-key");
        assert_eq!(canary.masked("no canary-key, no canary-\u{200b}key\n"), "no ***, no ***");
        assert_eq!(key("a").masked("a\u{202e} b"), "a b");
    }
}
