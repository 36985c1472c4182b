//! The brake: what an operator has stopped, until when, and why. Pure.

use crate::clock::Timestamp;
use crate::id::{CallerName, SessionId};
use crate::plain::is_invisible;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a freeze covers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "covers", rename_all = "lowercase")]
pub enum Covers {
    /// Every deletion.
    All,
    /// Those of one caller.
    Caller {
        /// Which.
        caller: CallerName,
    },
    /// Those in one session, whoever calls.
    Session {
        /// Which.
        session: SessionId,
    },
}

impl Covers {
    /// Whether it covers a deletion by this caller in this session.
    #[must_use]
    pub fn includes(&self, caller: &CallerName, session: &SessionId) -> bool {
        match self {
            Covers::All => true,
            Covers::Caller { caller: covered } => covered == caller,
            Covers::Session { session: covered } => covered == session,
        }
    }
}

impl fmt::Display for Covers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Covers::All => f.write_str("everything"),
            Covers::Caller { caller } => write!(f, "caller {caller}"),
            Covers::Session { session } => write!(f, "session {session}"),
        }
    }
}

/// The longest reason, in characters.
const REASON_AT_MOST: usize = 300;

/// Reads an operator's reason, which callers and entries will show.
///
/// # Errors
/// In words, when it is empty, longer than 300 characters, or holds what cannot be seen.
pub fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > REASON_AT_MOST || text.contains(is_invisible) {
        return Err(format!("a reason is 1 to {REASON_AT_MOST} visible characters on one line"));
    }
    Ok(text.to_owned())
}

/// One freeze: no intent that it covers is recorded while it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// What it covers.
    #[serde(flatten)]
    pub covers: Covers,
    /// From when on it covers nothing any more; `None`: until somebody unfreezes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub until: Option<Timestamp>,
    /// Why, in the operator's words: callers are shown it.
    pub reason: String,
    /// Who.
    pub by: String,
}

impl Freeze {
    /// Whether it is in force.
    #[must_use]
    pub fn is_in_force(&self, now: Timestamp) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// All freezes that nobody has taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freezes(Vec<Freeze>);

impl Freezes {
    /// Of these.
    #[must_use]
    pub fn new(freezes: Vec<Freeze>) -> Self {
        Self(freezes)
    }

    /// The first one in force that covers a deletion by this caller in this session.
    #[must_use]
    pub fn covering(&self, caller: &CallerName, session: &SessionId, now: Timestamp) -> Option<&Freeze> {
        self.0.iter().find(|freeze| freeze.covers.includes(caller, session) && freeze.is_in_force(now))
    }

    /// Every one, the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Freeze> {
        self.0.iter()
    }

    /// With this one, which takes the place of an earlier one that covers the same.
    #[must_use]
    pub fn with(&self, freeze: Freeze) -> Self {
        let mut all = self.without(&freeze.covers);
        all.0.push(freeze);
        all
    }

    /// Without what covers this.
    #[must_use]
    pub fn without(&self, covers: &Covers) -> Self {
        Self(self.0.iter().filter(|freeze| freeze.covers != *covers).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(covers: Covers, until: Option<i64>) -> Freeze {
        let until = until.map(|second| Timestamp::from_micros(second * 1_000_000));
        Freeze { covers, until, reason: "r".into(), by: "b".into() }
    }

    #[test]
    fn a_freeze_covers_what_it_names_until_its_time_and_one_of_the_same_takes_its_place() {
        let caller = |name| CallerName::parse(name).unwrap();
        let session = |name| SessionId::parse(name).unwrap();
        let freezes = Freezes::default()
            .with(freeze(Covers::Caller { caller: caller("c") }, Some(100)))
            .with(freeze(Covers::Session { session: session("s") }, None));
        let covered = |who, at, second: i64| {
            freezes.covering(&caller(who), &session(at), Timestamp::from_micros(second * 1_000_000)).is_some()
        };
        assert_eq!([covered("c", "x", 99), covered("c", "x", 100), covered("d", "x", 0)], [true, false, false]);
        assert_eq!([covered("d", "s", 0), covered("c", "s", 1 << 30)], [true, true]);
        let longer = freezes.with(freeze(Covers::Caller { caller: caller("c") }, None));
        assert_eq!(
            (
                longer.iter().count(),
                longer.covering(&caller("c"), &session("x"), Timestamp::from_micros(1 << 60)).is_some()
            ),
            (2, true)
        );
        assert_eq!(longer.without(&Covers::All), longer);
        assert_eq!(longer.without(&Covers::Caller { caller: caller("c") }).iter().count(), 1);
    }

    #[test]
    fn a_freeze_reads_back_as_it_is_written() {
        for covers in [
            Covers::All,
            Covers::Caller { caller: CallerName::parse("c").unwrap() },
            Covers::Session { session: SessionId::parse("s").unwrap() },
        ] {
            let freeze = freeze(covers, Some(1));
            let text = serde_json::to_string(&freeze).unwrap();
            assert_eq!(serde_json::from_str::<Freeze>(&text).unwrap(), freeze, "{text}");
        }
    }

    #[test]
    fn a_reason_can_be_read_by_whom_it_is_shown_to() {
        assert_eq!(reason(" stop it ").as_deref(), Ok("stop it"));
        for bad in ["", "  ", "a\nb", "a\u{202e}b", &"x".repeat(301)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }
}
