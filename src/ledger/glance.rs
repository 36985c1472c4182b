//! An entry read cheaply: the members that are asked for, borrowed from its bytes.

use super::OpenError;
use super::freeze::Covers;
use crate::id::{CallerName, GroupId, RequestId, SessionId, Target};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

/// A text that is borrowed where its bytes allow it; absent and `null` are empty.
#[derive(Debug, Default, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text<'a>(Cow<'a, str>);

impl Text<'_> {
    /// The same text, borrowed.
    #[must_use]
    pub fn borrowed(&self) -> Text<'_> {
        Text(Cow::Borrowed(&self.0))
    }
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }

            fn visit_unit<E: Error>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }
        from.deserialize_any(Borrow)
    }
}

/// The members of an entry that searching and counting look at.
#[derive(Debug, Default, serde::Deserialize)]
#[allow(missing_docs)] // the members as entries have them
pub struct Glance<'a> {
    #[serde(borrow)]
    pub time: Text<'a>,
    #[serde(borrow)]
    pub kind: Text<'a>,
    #[serde(borrow, default)]
    pub request_id: Text<'a>,
    #[serde(borrow, default)]
    pub caller: Text<'a>,
    #[serde(borrow, default)]
    pub peer: Text<'a>,
    #[serde(borrow, default)]
    pub session: Text<'a>,
    #[serde(borrow, default)]
    pub group: Text<'a>,
    #[serde(borrow, default)]
    pub rule: Text<'a>,
    #[serde(borrow, default)]
    pub outcome: Text<'a>,
    #[serde(default)]
    pub status: Option<u64>,
    #[serde(borrow, default)]
    pub code: Text<'a>,
    #[serde(borrow, default)]
    pub resolution: Text<'a>,
    #[serde(borrow, default)]
    pub codes: BTreeMap<Text<'a>, u64>,
}

impl<'a> Glance<'a> {
    /// Reads an entry's bytes.
    ///
    /// # Errors
    /// Names the entry that is not one.
    pub fn at(seq: u64, bytes: &'a [u8]) -> Result<Self, OpenError> {
        serde_json::from_slice(bytes).map_err(|e| OpenError::Damaged(format!("entry {seq} cannot be read: {e}")))
    }

    /// What was decided, where this is a request's first entry: `allowed`, `refused` or `dry-run`.
    #[must_use]
    pub fn decision(&self) -> Option<&'static str> {
        match &*self.kind {
            "intent" => Some("allowed"),
            "refusal" => Some("refused"),
            "dry-run" => Some("dry-run"),
            _ => None,
        }
    }

    /// The request of an intent, where this covers it. `None`: it is no intent, or cannot be read as one.
    #[must_use]
    pub fn covered_by(&self, covers: &Covers) -> Option<Option<RequestId>> {
        let (caller, (request_id, target)) = (CallerName::parse(&self.caller).ok()?, self.intended()?);
        Some(covers.includes(&caller, &target.session).then_some(request_id))
    }

    /// What an intent is about; `None` where this is none.
    #[must_use]
    pub fn intended(&self) -> Option<(RequestId, Target)> {
        let target =
            Target { session: SessionId::parse(&self.session).ok()?, group: GroupId::parse(&self.group).ok()? };
        (&*self.kind == "intent").then_some(())?;
        Some((RequestId::parse(&self.request_id)?, target))
    }

    /// The group without `@g.us`: equal for both spellings of one group.
    #[must_use]
    pub fn bare_group(&self) -> &str {
        bare(&self.group)
    }
}

/// A group without `@g.us`.
#[must_use]
pub fn bare(group: &str) -> &str {
    group.strip_suffix("@g.us").unwrap_or(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_borrowed_and_unknown_ones_are_passed_over() {
        let bytes = br#"{"v":1,"seq":3,"time":"2026-11-24T08:00:00.000000Z","kind":"intent","group":"1@g.us","caller":null,"new":{"a":[1]},"rule":"a\"b"}"#;
        let entry = Glance::at(3, bytes).unwrap();
        assert!(matches!(entry.group.0, Cow::Borrowed("1@g.us")));
        assert_eq!(
            (entry.bare_group(), entry.decision(), &*entry.caller, &*entry.rule),
            ("1", Some("allowed"), "", "a\"b")
        );
        assert!(Glance::at(9, b"{}").unwrap_err().to_string().contains("entry 9"));
    }
}
