//! What arms the points, in debug builds alone: `point=action`, or `point=action@n` for the n-th time that it
//! is reached, or a `switch`; several with `;` between them.

use std::fmt;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Every point, in the order in which a process and a request reach them.
const POINTS: &[&str] = &[
    "recovery-begin",
    "recovery-before-commit",
    "recovery-after-commit",
    "accept",
    "authenticate",
    "authorize",
    "limit",
    "intend",
    "prepare",
    "intent-before-begin",
    "intent-after-begin",
    "intent-before-insert",
    "intent-after-insert",
    "intent-before-commit",
    "intent-after-commit",
    "intent-after-sync",
    "forward",
    "send",
    "answer-begun",
    "conclude",
    "outcome-before-begin",
    "outcome-after-begin",
    "outcome-before-insert",
    "outcome-after-insert",
    "outcome-before-commit",
    "outcome-after-commit",
    "outcome-after-sync",
    "answer",
    "reload",
    "prune-begin",
    "prune-recorded",
    "prune-signed",
    "prune-begun",
    "prune-forgotten",
    "prune-deleted",
    "prune-emptied",
    "prune-ended",
    "copy-begun",
    "copy-entries",
    "copy-lists",
    "copy-before-mark",
    "copy-after-mark",
    "copy-arrived",
    "restore-before-commit",
    "stop",
    "stop-begin",
    "stop-before-commit",
    "stop-after-commit",
];

/// Faults of ours that a test must notice: without them nobody knows whether the crash tests could fail. And one way of
/// two (`sync-elsewhere`: a thread of its own syncs each commit) that would take more load than a test makes.
const SWITCHES: &[&str] = &["answer-before-commit", "synchronous-normal", "sync-elsewhere", "other-url"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Action {
    Kill,
    Panic,
    Stall,
    /// Goes on after a second.
    Pause,
    /// Goes on after five: long enough that another process can act meanwhile.
    Linger,
    /// Goes on once this file is there: so another process can act meanwhile, however long that takes. That it waits is
    /// said by a file beside it, with the extension `reached`.
    Until(PathBuf),
}

/// How often a file is looked for: for about a minute.
const LOOKS_AT_MOST: u32 = 6_000;

const ACTIONS: [&str; 6] = ["kill", "panic", "stall", "pause", "linger", "until:FILE"];

#[derive(Debug)]
struct Point {
    name: &'static str,
    action: Action,
    at: u64,
    reached: AtomicU64,
}

/// What is armed.
#[derive(Debug, Default)]
pub struct Armed {
    points: Vec<Point>,
    switches: Vec<&'static str>,
}

static ARMED: OnceLock<Armed> = OnceLock::new();

impl Armed {
    /// Reads the text of the variable.
    ///
    /// # Errors
    /// What is wrong with it, with the words that there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut armed = Self::default();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let Some((name, action)) = part.split_once('=') else {
                let switch = SWITCHES.iter().find(|switch| **switch == part);
                armed.switches.push(switch.ok_or_else(|| unknown("switch", part, SWITCHES))?);
                continue;
            };
            let (action, at) = action.split_once('@').unwrap_or((action, "1"));
            let name = POINTS.iter().find(|point| **point == name).ok_or_else(|| unknown("point", name, POINTS))?;
            let action = match action {
                "kill" => Action::Kill,
                "panic" => Action::Panic,
                "stall" => Action::Stall,
                "pause" => Action::Pause,
                "linger" => Action::Linger,
                other => match other.strip_prefix("until:") {
                    Some(file) => Action::Until(file.into()),
                    None => return Err(unknown("action", other, &ACTIONS)),
                },
            };
            let at = at.parse().map_err(|_| format!("`@{at}` is not a number of times"))?;
            armed.points.push(Point { name, action, at, reached: AtomicU64::new(0) });
        }
        Ok(armed)
    }

    /// Whether nothing is armed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.points.is_empty() && self.switches.is_empty()
    }
}

fn unknown(what: &str, word: &str, known: &[&str]) -> String {
    format!("`{word}` is no {what}; there are: {}", known.join(", "))
}

impl fmt::Display for Armed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let points = self.points.iter().map(|point| point.name);
        f.write_str(&points.chain(self.switches.iter().copied()).collect::<Vec<_>>().join(", "))
    }
}

/// Arms the points of this process, once.
pub fn arm(armed: Armed) {
    let _ = ARMED.set(armed);
}

#[expect(clippy::panic, reason = "to panic is what it is told to do")]
pub(super) fn hit(name: &'static str) {
    debug_assert!(POINTS.contains(&name), "{name} is in no list");
    for point in ARMED.get().into_iter().flat_map(|armed| &armed.points).filter(|point| point.name == name) {
        if point.reached.fetch_add(1, Ordering::SeqCst) + 1 != point.at {
            continue;
        }
        match &point.action {
            Action::Panic => panic!("failpoint {name}"),
            Action::Kill => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            Action::Pause => {
                std::thread::sleep(Duration::from_secs(1));
                continue;
            }
            Action::Linger => {
                tracing::warn!(name, "is lingered at");
                std::thread::sleep(Duration::from_secs(5));
                continue;
            }
            Action::Until(file) => {
                let _ = std::fs::write(file.with_extension("reached"), name);
                for _ in (0..LOOKS_AT_MOST).take_while(|_| !file.exists()) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                continue;
            }
            Action::Stall => {}
        }
        loop {
            std::thread::park();
        }
    }
}

pub(super) fn is_on(name: &'static str) -> bool {
    debug_assert!(SWITCHES.contains(&name), "{name} is in no list");
    ARMED.get().is_some_and(|armed| armed.switches.contains(&name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_with_their_count_and_switches_are_read() {
        let armed = Armed::parse("intent-before-commit=kill@3; forward=panic;synchronous-normal;").unwrap();
        assert_eq!(armed.to_string(), "intent-before-commit, forward, synchronous-normal");
        assert_eq!((&armed.points[0].action, armed.points[0].at), (&Action::Kill, 3));
        assert_eq!((&armed.points[1].action, armed.points[1].at), (&Action::Panic, 1));
        assert!(Armed::parse("").unwrap().is_empty());
        let until = Armed::parse("send=until:/tmp/x/go@2").unwrap();
        assert_eq!((&until.points[0].action, until.points[0].at), (&Action::Until("/tmp/x/go".into()), 2));
    }

    #[test]
    fn a_word_that_is_not_known_is_a_fault_that_lists_the_known_ones() {
        for (text, known) in [("x=kill", "answer-begun"), ("send=x", "stall"), ("x", "synchronous-normal")] {
            assert!(Armed::parse(text).unwrap_err().contains(known), "{text}");
        }
        assert!(Armed::parse("send=kill@x").is_err());
    }
}
