//! What the sandbox can be told to do wrong: one list, read from group ids and from the control route alike.

use hyper::StatusCode;
use std::fmt;
use std::time::Duration;

/// One way to treat a DELETE other than as a provider in good health would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Behaviour {
    /// This status at once; the picture stays.
    Answer(StatusCode),
    /// 200 with `success: false`; the picture stays.
    False,
    /// 307 to another path of the same host; the picture stays.
    Redirect,
    /// 200 with a body that is not JSON; the picture stays.
    Garbage,
    /// 200 whose body ends before its Content-Length does; the picture is gone.
    CutBody,
    /// As it should be, but late.
    Slow(Duration),
    /// The connection ends as soon as it was accepted. Only the control route can ask for this: a group id
    /// is known too late.
    HangUpBeforeReading,
    /// The connection ends without an answer; the picture is gone.
    HangUpAfterReading,
    /// The connection ends without an answer; the picture stays.
    HangUpLost,
}

/// All of them by name, apart from `slow-<ms>`.
const NAMED: [(&str, Behaviour); 17] = [
    ("answer-202", Behaviour::Answer(StatusCode::ACCEPTED)),
    ("answer-204", Behaviour::Answer(StatusCode::NO_CONTENT)),
    ("answer-400", Behaviour::Answer(StatusCode::BAD_REQUEST)),
    ("answer-401", Behaviour::Answer(StatusCode::UNAUTHORIZED)),
    ("answer-403", Behaviour::Answer(StatusCode::FORBIDDEN)),
    ("answer-404", Behaviour::Answer(StatusCode::NOT_FOUND)),
    ("answer-429", Behaviour::Answer(StatusCode::TOO_MANY_REQUESTS)),
    ("answer-500", Behaviour::Answer(StatusCode::INTERNAL_SERVER_ERROR)),
    ("answer-502", Behaviour::Answer(StatusCode::BAD_GATEWAY)),
    ("answer-503", Behaviour::Answer(StatusCode::SERVICE_UNAVAILABLE)),
    ("answer-false", Behaviour::False),
    ("answer-redirect", Behaviour::Redirect),
    ("answer-garbage", Behaviour::Garbage),
    ("cut-body", Behaviour::CutBody),
    ("hang-up-before-reading", Behaviour::HangUpBeforeReading),
    ("hang-up-after-reading", Behaviour::HangUpAfterReading),
    ("hang-up-lost", Behaviour::HangUpLost),
];
const SLOW: &str = "slow-";
const SLOW_SHOWN: &str = "slow-<ms>";
const SLOWEST_MS: u64 = 60_000;

/// What no group's id begins with, unless it means a behaviour.
const BEGINNINGS: [&str; 4] = ["answer", "slow", "cut", "hang"];

/// The names of all behaviours, `slow-<ms>` last.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMED.iter().map(|(name, _)| *name).chain([SLOW_SHOWN])
}

/// The names of those that a group id can ask for.
pub(super) fn of_groups() -> impl Iterator<Item = &'static str> {
    let asked = NAMED.iter().filter(|(_, behaviour)| *behaviour != Behaviour::HangUpBeforeReading);
    asked.map(|(name, _)| *name).chain([SLOW_SHOWN])
}

impl Behaviour {
    /// The behaviour that this is the whole name of. More than 60 s of `slow-<ms>` are 60 s.
    pub(super) fn named(text: &str) -> Option<Self> {
        if let Some(ms) = text.strip_prefix(SLOW) {
            let all_digits = !ms.is_empty() && ms.bytes().all(|byte| byte.is_ascii_digit());
            // What does not even fit into the number is more than the most there can be, too.
            let ms = ms.parse().unwrap_or(SLOWEST_MS).min(SLOWEST_MS);
            return all_digits.then_some(Self::Slow(Duration::from_millis(ms)));
        }
        NAMED.iter().find(|(name, _)| *name == text).map(|(_, behaviour)| *behaviour)
    }

    /// The behaviour that a group id without its `@g.us` asks for: the name alone, or the name, `-` and
    /// anything.
    pub(super) fn of_group(bare: &str) -> Option<Self> {
        let ends = bare.match_indices('-').map(|(at, _)| at).chain([bare.len()]);
        ends.filter_map(|end| bare.get(..end).and_then(Self::named)).find(|asked| *asked != Self::HangUpBeforeReading)
    }

    /// Whether a group id without its `@g.us` means a behaviour that there is not: who wrote it waits for something else
    /// than a deletion.
    pub(super) fn is_misspelt(bare: &str) -> bool {
        let begins = |word: &&str| bare.strip_prefix(*word).is_some_and(|rest| rest.starts_with('-'));
        BEGINNINGS.iter().any(begins) && Self::of_group(bare).is_none()
    }

    /// Whether a picture that was there is gone after it.
    pub(super) fn takes_down(self) -> bool {
        match self {
            Self::CutBody | Self::Slow(_) | Self::HangUpAfterReading => true,
            Self::Answer(_)
            | Self::False
            | Self::Redirect
            | Self::Garbage
            | Self::HangUpBeforeReading
            | Self::HangUpLost => false,
        }
    }
}

impl fmt::Display for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Slow(wait) = self {
            return write!(f, "{SLOW}{}", wait.as_millis());
        }
        let named = NAMED.iter().find(|(_, behaviour)| behaviour == self);
        f.write_str(named.map_or("unnamed", |(name, _)| name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back_as_itself() {
        for (name, behaviour) in NAMED {
            assert_eq!(Behaviour::named(name), Some(behaviour));
            assert_eq!(behaviour.to_string(), name);
        }
        assert_eq!(Behaviour::named("slow-7").map(|slow| slow.to_string()).as_deref(), Some("slow-7"));
    }

    #[test]
    fn a_group_may_say_more_after_a_dash_and_nothing_else() {
        let asked = Behaviour::of_group;
        assert_eq!(asked("answer-404"), Behaviour::named("answer-404"));
        assert_eq!(asked("answer-404-a-b"), Behaviour::named("answer-404"));
        assert_eq!(asked("slow-20-slow-90"), Some(Behaviour::Slow(Duration::from_millis(20))));
        for other in
            ["answer-4040", "answer-404_a", "answer-418", "an-answer-404", "slow-", "slow-1a", "slow-+1", "slow"]
        {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn no_group_can_end_a_connection_before_it_was_read() {
        assert_eq!(Behaviour::of_group("hang-up-before-reading"), None);
        assert_eq!(Behaviour::named("hang-up-before-reading"), Some(Behaviour::HangUpBeforeReading));
    }

    #[test]
    fn what_begins_like_a_switch_and_is_none_is_told_from_a_group() {
        let asked = Behaviour::is_misspelt;
        for wrong in ["answer-418", "answer-4040", "slow-", "slow-1s", "hang-up", "hang-up-before-reading", "cut-off"] {
            assert!(asked(wrong), "{wrong}");
        }
        let groups =
            ["120363000000000001", "1234567890-12345678", "yourGroupId", "an-answer-404", "slowly", "answers-1"];
        for right in groups.into_iter().chain(["answer-404-a-b", "slow-20", "hang-up-lost", "cut-body-7"]) {
            assert!(!asked(right), "{right}");
        }
        assert!(of_groups().all(|name| !asked(&name.replace("<ms>", "7"))));
    }

    #[test]
    fn slow_is_at_most_a_minute() {
        for long in ["slow-60001", "slow-99999999999999999999999999"] {
            assert_eq!(Behaviour::named(long), Some(Behaviour::Slow(Duration::from_secs(60))), "{long}");
        }
    }
}
