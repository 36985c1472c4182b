//! The script that decides, and how it is called.

use crate::config::Rate;
use crate::rate::{Mode, Terms};
use redis::{Cmd, cmd};

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

/// What the script is called with for the windows of one request.
pub(super) struct Call {
    keys: Vec<String>,
    arguments: Vec<String>,
}

impl Call {
    pub(super) fn new(mode: Mode, keys: &[String], terms: &[Terms]) -> Self {
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
        Self { keys: keys.to_vec(), arguments }
    }

    /// The command: `EVALSHA` with a hash, or `EVAL` with the text.
    pub(super) fn command(&self, word: &str, script: &str) -> Cmd {
        let mut command = cmd(word);
        command.arg(script).arg(self.keys.len()).arg(&self.keys).arg(&self.arguments);
        command
    }
}
