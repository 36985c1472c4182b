//! Identifiers, parsed once at the edge and valid ever after.
//!
//! The grammar is the gateway's own and narrower than HTTP's: session `[A-Za-z0-9_-]{1,64}`, group the
//! same with an optional `@g.us`. Nothing that could mean something else in a URL fits into it, so an id
//! can be put into a path without escaping.

use std::fmt;
use std::sync::Arc;
use uuid::Uuid;

const LONGEST: usize = 64;
const GROUP_SUFFIX: &str = "@g.us";

/// Why a text is not an id. The text itself is not repeated: it may hold anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdFault {
    /// No characters at all.
    Empty,
    /// More than 64 characters.
    TooLong,
    /// A character outside of `[A-Za-z0-9_-]`.
    Character,
    /// An `@` that is not the start of a final `@g.us`.
    NotAGroup,
}

impl fmt::Display for IdFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            IdFault::Empty => "is empty",
            IdFault::TooLong => "is longer than 64 characters",
            IdFault::Character => "holds a character outside of A-Z a-z 0-9 _ -",
            IdFault::NotAGroup => "is not a group: only @g.us may follow the id",
        })
    }
}

fn word(text: &str) -> Result<(), IdFault> {
    match text.len() {
        0 => Err(IdFault::Empty),
        1..=LONGEST => {
            if text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
                Ok(())
            } else {
                Err(IdFault::Character)
            }
        }
        _ => Err(IdFault::TooLong),
    }
}

/// A provider session: `[A-Za-z0-9_-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId(Arc<str>);

impl SessionId {
    /// Parses the text of one path segment.
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn parse(text: &str) -> Result<Self, IdFault> {
        word(text).map(|()| Self(Arc::from(text)))
    }

    /// The id as it was sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A WhatsApp group: `[A-Za-z0-9_-]{1,64}`, optionally followed by `@g.us`.
///
/// `X` and `X@g.us` name the same group at the provider, so [`GroupId::bare`] is what deny rules, rates
/// and budgets compare; allow rules compare [`GroupId::as_str`], which is what was sent.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(Arc<str>);

impl GroupId {
    /// Parses a group whose `@` is already literal (`%40` is resolved by the route, not here).
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn parse(text: &str) -> Result<Self, IdFault> {
        let bare = text.strip_suffix(GROUP_SUFFIX).unwrap_or(text);
        if bare.contains('@') {
            return Err(IdFault::NotAGroup);
        }
        word(bare).map(|()| Self(Arc::from(text)))
    }

    /// The id as it was sent, `@` literal.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id without `@g.us`: equal for both spellings of one group.
    #[must_use]
    pub fn bare(&self) -> &str {
        self.0.strip_suffix(GROUP_SUFFIX).unwrap_or(&self.0)
    }
}

/// What is to lose its picture.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Target {
    /// The provider session that acts.
    pub session: SessionId,
    /// The group whose picture is deleted.
    pub group: GroupId,
}

impl Target {
    /// The path of the one operation, as the provider gets it: `/{session}/groups/{group}/picture`.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/{}/groups/{}/picture", self.session, self.group)
    }
}

/// The name that the configuration gives a caller: `[A-Za-z0-9_-]{1,64}`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerName(Arc<str>);

impl CallerName {
    /// Parses a name from the configuration or the command line.
    ///
    /// # Errors
    /// Says which rule of the grammar the text breaks.
    pub fn parse(text: &str) -> Result<Self, IdFault> {
        word(text).map(|()| Self(Arc::from(text)))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text cannot be an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginFault {
    /// No characters at all.
    Empty,
    /// More than 255 bytes.
    TooLong,
    /// White space, a `+` or a control character.
    Character,
}

impl fmt::Display for OriginFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OriginFault::Empty => "is empty; write a name as of a host, such as gateway.example/deletions",
            OriginFault::TooLong => "is longer than 255 bytes",
            OriginFault::Character => "holds white space, a + or a control character",
        })
    }
}

/// The name of a log: the first line of its checkpoints and the name of its key (C2SP tlog-checkpoint, signed-note).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(Arc<str>);

impl Origin {
    /// Parses a name from the configuration, a key or a checkpoint.
    ///
    /// # Errors
    /// Says which rule the text breaks.
    pub fn parse(text: &str) -> Result<Self, OriginFault> {
        match text.len() {
            0 => Err(OriginFault::Empty),
            1..=255 if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') => {
                Err(OriginFault::Character)
            }
            1..=255 => Ok(Self(Arc::from(text))),
            _ => Err(OriginFault::TooLong),
        }
    }

    /// The name of the log that goes on after this one has lost entries: `name/2`, then `name/3` and so on.
    ///
    /// # Errors
    /// There is no room for the number.
    pub fn successor(&self) -> Result<Self, OriginFault> {
        let (first, number) = self.parts();
        Self::parse(&format!("{first}/{}", number.saturating_add(1)))
    }

    /// Whether this is that log, or one that goes on after it.
    #[must_use]
    pub fn is_or_follows(&self, first: &Origin) -> bool {
        self == first || (self.parts().1 > 1 && self.parts().0 == first.as_str())
    }

    /// Which log of this name it is: 1, or the number behind the name.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.parts().1
    }

    /// The first log's name, and which one after it this is, from 1.
    fn parts(&self) -> (&str, u64) {
        let parts = self.0.rsplit_once('/').and_then(|(first, number)| Some((first, number.parse().ok()?)));
        let fits =
            |(first, number): &(&str, u64)| !first.is_empty() && *number > 1 && self.0.ends_with(&format!("/{number}"));
        parts.filter(fits).unwrap_or((&self.0, 1))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The caller's key for one deletion (draft-ietf-httpapi-idempotency-key-header-07): quoted or bare, it is the same.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// Parses the value of an `Idempotency-Key` field. `None`: it is empty, longer than 255 characters, holds another
    /// one than visible ASCII, or a quote or backslash: one reader could take that for an escape, and another for itself.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let bare = if let [b'"', key @ .., b'"'] = value { key } else { value };
        let text = std::str::from_utf8(bare).ok()?;
        let may_be = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        let fits = (1..=255).contains(&text.len()) && text.bytes().all(may_be);
        fits.then(|| Self(Arc::from(text)))
    }

    /// The key, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Ours, one per request, a UUID of version 7 (RFC 9562 §5.7): in every answer, log line and entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(Uuid);

impl RequestId {
    /// A new id that sorts by the time it was made.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn new() -> Self {
        #[cfg(test)]
        if let Some(next) = crate::clock::simulated::next_id() {
            return Self(next);
        }
        Self(Uuid::now_v7())
    }

    /// Parses the hyphenated form.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(Self)
    }

    /// A few bits that differ from request to request, to spread retries with. Not a secret.
    #[must_use]
    pub fn spread(&self) -> u64 {
        self.0.as_u64_pair().1
    }
}

impl Default for RequestId {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! shown_as_text {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Display::fmt(&self.0, f) }
        }
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> { self.0.serialize(to) }
        }
    )*};
}
shown_as_text!(SessionId, GroupId, CallerName, Origin, IdempotencyKey, RequestId);

macro_rules! read_from_text {
    ($($name:ident),*) => {$(
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}
read_from_text!(SessionId, CallerName);

impl<'de> serde::Deserialize<'de> for RequestId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("is not a request id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idempotency_key_is_the_same_quoted_or_bare() {
        let key = |value: &str| IdempotencyKey::parse(value.as_bytes()).map(|key| key.as_str().to_owned());
        assert_eq!((key("\"a-1\""), key("a-1")), (Some("a-1".into()), Some("a-1".into())));
        assert!(key(&"k".repeat(255)).is_some() && key(&format!("\"{}\"", "k".repeat(255))).is_some());
        for bad in ["", "\"\"", "\"", "\"a", "a\"", "a b", "a\tb", "é", &"k".repeat(256)] {
            assert_eq!(key(bad), None, "{bad}");
        }
        for bad in r#"""k"" "k"" a"b "a"b" a\b "a\b" "a\"b" "a\\b" "a\" \"#.split(' ') {
            assert_eq!(key(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_log_that_goes_on_after_a_loss_has_the_next_number() {
        let origin = |text| Origin::parse(text).unwrap();
        for (name, next) in
            [("a/log", "a/log/2"), ("a/log/2", "a/log/3"), ("a/9", "a/10"), ("a/02", "a/02/2"), ("/7", "/7/2")]
        {
            assert_eq!(origin(name).successor(), Ok(origin(next)), "{name}");
            assert!(origin(next).is_or_follows(&origin(next)));
        }
        assert!(origin("a/log/3").is_or_follows(&origin("a/log")) && origin("a").is_or_follows(&origin("a")));
        for other in ["a/log/1", "a/log/03", "a/log/x", "b/log/2", "a/log2"] {
            assert!(!origin(other).is_or_follows(&origin("a/log")), "{other}");
        }
        assert!(origin(&"x".repeat(255)).successor().is_err());
    }

    #[test]
    fn a_group_is_a_word_with_or_without_its_suffix() {
        for good in ["yourGroupId", "120363043968066561@g.us", "1234567890-12345678@g.us", &"x".repeat(64)] {
            assert!(GroupId::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "@g.us",
            "1@G.US",
            "1@c.us",
            "1@g.us@evil",
            "1@g.us@g.us",
            "a/b",
            "..",
            "1%40g.us",
            "é",
            &"x".repeat(65),
        ] {
            assert!(GroupId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn both_spellings_of_a_group_are_one_target() {
        let (short, long) = (GroupId::parse("12-3"), GroupId::parse("12-3@g.us"));
        assert_eq!(short.as_ref().map(GroupId::bare), long.as_ref().map(GroupId::bare));
        assert_ne!(short, long);
    }

    #[test]
    fn an_origin_fits_on_the_signature_line_of_a_note() {
        for good in ["gateway", "gateway.example/deletions", "é.example", &"x".repeat(255)] {
            assert!(Origin::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Origin::parse(""), Err(OriginFault::Empty));
        assert_eq!(Origin::parse(&"x".repeat(256)), Err(OriginFault::TooLong));
        for bad in ["a b", "a+b", "a\nb", "a\u{a0}b", "a\u{7f}", "\u{2028}"] {
            assert_eq!(Origin::parse(bad), Err(OriginFault::Character), "{bad:?}");
        }
    }

    #[test]
    fn request_ids_are_version_7_and_read_back() {
        let id = RequestId::new();
        assert_eq!(id.0.get_version_num(), 7);
        assert_eq!(RequestId::parse(&id.to_string()), Some(id));
    }
}
