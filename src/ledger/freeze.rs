//! The brake: what an operator has stopped, until when, and why. Pure.

use crate::clock::{Timestamp, parse_span};
use crate::id::{CallerName, SessionId};
use crate::plain::{is_invisible, is_variation};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

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

/// Reads an operator's reason, which callers and entries will show. What only chooses the look of an emoji is left out:
/// no brake fails over that.
///
/// # Errors
/// In words, when it is empty, longer than 300 characters, or holds what cannot be seen.
pub fn reason(text: &str) -> Result<String, String> {
    let text: String = text.trim().chars().filter(|c| !is_variation(*c)).collect();
    if text.is_empty() || text.chars().count() > REASON_AT_MOST || text.contains(is_invisible) {
        return Err(format!("a reason is 1 to {REASON_AT_MOST} visible characters on one line"));
    }
    Ok(text)
}

/// The longest time for a freeze that ends by itself.
const LASTS_AT_MOST: Duration = Duration::from_secs(3_650 * 86_400);

/// Reads how long a freeze is to last.
///
/// # Errors
/// In words, when it is no span, not even a second, or longer than ten years.
pub fn lasting(text: &str) -> Result<Duration, String> {
    let span = parse_span(text).ok_or("is not a span such as 90s, 15m, 2h, 7d")?;
    if span.is_zero() || span > LASTS_AT_MOST {
        return Err("is not from 1s to 3650d; a freeze without it lasts until somebody unfreezes".to_owned());
    }
    Ok(span)
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

    /// Those in force, the oldest first.
    #[must_use]
    pub fn in_force(&self, now: Timestamp) -> Vec<Freeze> {
        self.0.iter().filter(|freeze| freeze.is_in_force(now)).cloned().collect()
    }

    /// When the freeze of just this ends, if it ends by itself.
    #[must_use]
    pub fn end_of(&self, covers: &Covers) -> Option<Timestamp> {
        self.0.iter().find(|freeze| freeze.covers == *covers).and_then(|freeze| freeze.until)
    }

    /// Whether just this is frozen.
    #[must_use]
    pub fn has(&self, covers: &Covers, now: Timestamp) -> bool {
        self.0.iter().any(|freeze| freeze.covers == *covers && freeze.is_in_force(now))
    }

    /// This freeze, until the end of one in force that covers the same and ends later: only who unfreezes ends that.
    #[must_use]
    pub fn outlasting(&self, freeze: Freeze, now: Timestamp) -> Freeze {
        let same = |is: &&Freeze| is.covers == freeze.covers && is.is_in_force(now);
        let Some(earlier) = self.0.iter().find(same) else { return freeze };
        let until = earlier.until.zip(freeze.until).map(|(earlier, until)| earlier.max(until));
        Freeze { until, ..freeze }
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
    fn a_freeze_does_not_end_one_that_is_in_force_and_lasts_longer() {
        let (now, c) =
            (Timestamp::from_micros(10_000_000), || Covers::Caller { caller: CallerName::parse("c").unwrap() });
        for (earlier, later, meant) in [
            (None, Some(20), None),
            (Some(20), None, None),
            (Some(30), Some(20), Some(30)),
            (Some(20), Some(30), Some(30)),
            (Some(10), Some(20), Some(20)),
        ] {
            let freezes = Freezes::default().with(freeze(c(), earlier)).with(freeze(Covers::All, None));
            let until = freezes.outlasting(freeze(c(), later), now).until;
            assert_eq!(until, freeze(c(), meant).until, "{earlier:?} {later:?}");
        }
        let over = Freezes::default().with(freeze(c(), Some(10)));
        assert_eq!(
            [over.has(&c(), now), over.has(&c(), Timestamp::from_micros(9)), over.has(&Covers::All, now)],
            [false, true, false]
        );
    }

    #[test]
    fn a_freeze_lasts_from_a_second_to_ten_years_or_until_it_is_taken_back() {
        assert_eq!(lasting("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(lasting("3650d"), Ok(LASTS_AT_MOST));
        for bad in ["0s", "0d", "3651d", "9999999d", "+1s", "soon", ""] {
            assert!(lasting(bad).is_err(), "{bad}");
        }
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
        assert_eq!(reason("\u{26a0}\u{fe0f} stop").as_deref(), Ok("\u{26a0} stop"));
        for bad in ["", "  ", "\u{fe0f}", "a\nb", "a\u{202e}b", "a\u{3164}b", "a\u{e0041}b", &"x".repeat(301)] {
            assert!(reason(bad).is_err(), "{bad:?}");
        }
    }
}
