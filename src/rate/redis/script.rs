//! The script that decides, and how it is called.

use crate::config::Rate;
use crate::rate::{Mode, Terms};
use redis::{Cmd, cmd};
use std::borrow::Cow;

/// The deciding text; `now` is set before it.
pub(super) const BODY: &str = include_str!("gcra.lua");
/// The time of the server: the clocks of the replicas don't matter.
pub(super) const CLOCK: &str = "local now = redis.call('TIME')\n";

/// Nanoseconds that one request takes up, the same as in process.
fn one_ns(rate: Rate) -> u64 {
    (u64::from(rate.per_s) * 1_000_000_000 / u64::from(rate.max.max(1))).max(1)
}

/// How many more would pass, when so many nanoseconds are taken up.
pub(super) fn remaining(rate: Rate, taken_ns: u64) -> u32 {
    let left = (one_ns(rate) * u64::from(rate.max)).saturating_sub(taken_ns);
    u32::try_from(left / one_ns(rate)).unwrap_or(u32::MAX)
}

/// Where the state of a window is.
#[derive(Clone)]
pub(super) enum Key {
    /// Under this name.
    One(String),
    /// Under this name and the session behind it, for each session that is asked about.
    EachSession(String),
}

impl Key {
    fn of(&self, session: &str) -> Cow<'_, str> {
        match self {
            Self::One(name) => Cow::Borrowed(name),
            Self::EachSession(name) => Cow::Owned(format!("{name}:{session}")),
        }
    }
}

/// What the script is called with for the windows of one request.
pub(super) struct Call {
    keys: Vec<Key>,
    arguments: Vec<String>,
}

impl Call {
    pub(super) fn new(mode: Mode, keys: Vec<Key>, terms: &[Terms]) -> Self {
        let word = match mode {
            Mode::Take => "take",
            Mode::Look => "look",
        };
        let mut arguments = vec![word.to_owned()];
        for terms in terms {
            let one = one_ns(terms.rate);
            arguments.push(one.to_string());
            arguments.push((one * u64::from(terms.rate.max.saturating_sub(1))).to_string());
        }
        Self { keys, arguments }
    }

    /// The command for a request in a session: `EVALSHA` with a hash, or `EVAL` with the text.
    pub(super) fn command(&self, word: &str, script: &str, session: &str) -> Cmd {
        let mut command = cmd(word);
        command.arg(script).arg(self.keys.len());
        for key in &self.keys {
            command.arg(&*key.of(session));
        }
        command.arg(&self.arguments);
        command
    }
}
