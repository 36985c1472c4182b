//! The ways in which the sandbox can be told to answer a DELETE.

use std::time::Duration;

/// One way to answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// This status with a message; `Retry-After: 7` with 429.
    Status(u16),
    /// 200 with `success: false`.
    False,
    /// 307 to another path.
    Redirect,
    /// 200 with a body that is not JSON.
    Garbage,
    /// A whole success after this long.
    Slow(Duration),
    /// Deletes, then closes without a byte.
    HangUpAfterReading,
    /// Closes without a byte, and deletes nothing.
    HangUpLost,
    /// Deletes, then sends a part of its answer and closes.
    CutBody,
    /// Closes connections before anything is read from them.
    HangUpBeforeReading,
}

const SLOWEST_MS: u64 = 60_000;
const STATUSES: [u16; 10] = [400, 401, 403, 404, 429, 500, 502, 503, 202, 204];
const WORDS: [(&str, Behaviour); 7] = [
    ("answer-false", Behaviour::False),
    ("answer-redirect", Behaviour::Redirect),
    ("answer-garbage", Behaviour::Garbage),
    ("hang-up-after-reading", Behaviour::HangUpAfterReading),
    ("hang-up-lost", Behaviour::HangUpLost),
    ("cut-body", Behaviour::CutBody),
    ("hang-up-before-reading", Behaviour::HangUpBeforeReading),
];

/// What a word, or a group id that begins with one, asks for.
pub(super) fn parse(text: &str) -> Option<Behaviour> {
    let begins = |word: &str| text.strip_prefix(word).filter(|rest| rest.is_empty() || rest.starts_with(['-', '@']));
    if let Some((_, behaviour)) = WORDS.iter().find(|(word, _)| begins(word).is_some()) {
        return Some(*behaviour);
    }
    if let Some(rest) = text.strip_prefix("slow-") {
        let digits = rest.split(['-', '@']).next()?;
        return digits.parse().ok().filter(|ms| *ms <= SLOWEST_MS).map(|ms| Behaviour::Slow(Duration::from_millis(ms)));
    }
    STATUSES
        .iter()
        .find(|status| begins(&format!("answer-{status}")).is_some())
        .map(|status| Behaviour::Status(*status))
}

/// All words, for people.
pub(super) fn words() -> String {
    let statuses = STATUSES.iter().map(|status| format!("answer-{status}"));
    let words = WORDS.iter().map(|(word, _)| (*word).to_owned());
    statuses.chain(words).chain(["slow-<ms>".to_owned()]).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_id_asks_for_a_behaviour_by_how_it_begins() {
        assert_eq!(parse("answer-404"), Some(Behaviour::Status(404)));
        assert_eq!(parse("answer-404-a@g.us"), Some(Behaviour::Status(404)));
        assert_eq!(parse("slow-1500@g.us"), Some(Behaviour::Slow(Duration::from_millis(1500))));
        assert_eq!(parse("cut-body"), Some(Behaviour::CutBody));
        for other in ["answer-4040", "answer-418", "slow-", "slow-99999999", "cut-bodyx", "120363000000000001@g.us"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
