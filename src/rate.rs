//! How fast: GCRA windows in this process, decided by `governor`, kept by us.
//!
//! Windows are asked narrowest first; the first refusal ends it, and what earlier windows took stays
//! taken. Their number is fixed by the configuration, so memory is bounded whatever callers send.

use crate::clock::moment;
use crate::config::{self, Rate};
use crate::error::Refused;
use crate::id::CallerName;
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Whether asking uses something up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A real request.
    Take,
    /// A dry run: the same answer, and nothing is taken.
    Look,
}

/// How a window stands after a request, for the `RateLimit` fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The window's name in the fields.
    pub name: Arc<str>,
    /// What it allows.
    pub rate: Rate,
    /// How many more would pass now.
    pub remaining: u32,
    /// Seconds until it is as if nothing had been asked (or, when refused, until one passes).
    pub reset_s: u64,
}

#[derive(Debug, Clone, Copy)]
struct Monotonic;

impl Clock for Monotonic {
    type Instant = crate::clock::Moment;
    fn now(&self) -> Self::Instant {
        moment()
    }
}

/// Cells of GCRA state, 0 meaning never used; a key is a cell and whether to write it.
struct Cells(Box<[AtomicU64]>);

impl StateStore for Cells {
    type Key = (usize, Mode);

    fn measure_and_replace<T, F, E>(&self, (index, mode): &Self::Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let unused = AtomicU64::new(0);
        let cell = self.0.get(*index).unwrap_or(&unused);
        let mut before = cell.load(Ordering::Acquire);
        loop {
            let (answer, after) = decide((before != 0).then(|| Nanos::new(before)))?;
            if *mode == Mode::Look {
                return Ok(answer);
            }
            match cell.compare_exchange_weak(before, after.as_u64(), Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(answer),
                Err(now) => before = now,
            }
        }
    }
}

type Limiter = RateLimiter<(usize, Mode), Cells, Monotonic, StateInformationMiddleware>;

fn limiter(rate: Rate, cells: usize) -> Limiter {
    let max = NonZeroU32::new(rate.max).unwrap_or(NonZeroU32::MIN);
    let period = (Duration::from_secs(u64::from(rate.per_s)) / max.get()).max(Duration::from_nanos(1));
    let quota = Quota::with_period(period).unwrap_or(Quota::per_second(max)).allow_burst(max);
    let cells = Cells((0..cells).map(|_| AtomicU64::new(0)).collect());
    Limiter::new(quota, cells, Monotonic)
}

struct Window {
    name: Arc<str>,
    whose: String,
    rate: Rate,
    limiter: Limiter,
}

impl Window {
    fn new(owner: &str, whose: &str, rate: Rate) -> Self {
        Self {
            name: format!("{owner}-{}-{}s", rate.max, rate.per_s).into(),
            whose: format!("{whose} is {} in {} s", rate.max, rate.per_s),
            rate,
            limiter: limiter(rate, 1),
        }
    }

    fn ask(&self, mode: Mode) -> Result<Standing, (Standing, u64)> {
        let standing =
            |remaining, reset_s| Standing { name: Arc::clone(&self.name), rate: self.rate, remaining, reset_s };
        match self.limiter.check_key(&(0, mode)) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity();
                let used = u64::from(self.rate.max.saturating_sub(remaining));
                let reset = (used * u64::from(self.rate.per_s)).div_ceil(u64::from(self.rate.max));
                Ok(standing(remaining, reset))
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(moment());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err((standing(0, seconds.max(1)), seconds.max(1)))
            }
        }
    }
}

/// All windows of all callers.
pub struct Rates {
    callers: HashMap<CallerName, Vec<Arc<Window>>>,
    all: Vec<Arc<Window>>,
}

fn windows(owner: &str, whose: &str, rates: &[Rate], old: Option<&Vec<Arc<Window>>>) -> Vec<Arc<Window>> {
    let kept = |rate: &Rate| old.and_then(|old| old.iter().find(|window| window.rate == *rate)).map(Arc::clone);
    let mut windows: Vec<_> =
        rates.iter().map(|rate| kept(rate).unwrap_or_else(|| Arc::new(Window::new(owner, whose, *rate)))).collect();
    windows.sort_by_key(|window| window.rate.per_s);
    windows
}

impl Rates {
    /// The windows of a configuration; those that `old` has too keep their state.
    #[must_use]
    pub fn new(config: &config::Config, old: Option<&Self>) -> Self {
        let all = windows("all", "the rate of all callers together", &config.rates, old.map(|old| &old.all));
        let of_caller = |caller: &config::Caller| {
            let old = old.and_then(|old| old.callers.get(&caller.name));
            let whose = format!("the rate of caller `{}`", caller.name);
            (caller.name.clone(), windows("caller", &whose, &caller.rates, old))
        };
        Self { callers: config.callers.iter().map(of_caller).collect(), all }
    }

    /// Asks the caller's windows, then those of all callers together. Returns how each asked window
    /// stands, the refusing one last.
    pub fn admit(&self, caller: &CallerName, mode: Mode) -> (Vec<Standing>, Result<(), Refused>) {
        let own = self.callers.get(caller).map(Vec::as_slice).unwrap_or_default();
        let mut standings = Vec::with_capacity(own.len() + self.all.len());
        for window in own.iter().chain(&self.all) {
            match window.ask(mode) {
                Ok(standing) => standings.push(standing),
                Err((standing, retry_after_s)) => {
                    standings.push(standing);
                    return (standings, Err(Refused::RateLimited { whose: window.whose.clone(), retry_after_s }));
                }
            }
        }
        (standings, Ok(()))
    }
}

/// Failed authentications by peer, on fixed memory: peers share cells by a keyed hash.
pub struct FailedAuthentications {
    limiter: Limiter,
    hasher: RandomState,
}

const FAILED_CELLS: usize = 4096;
const FAILED_RATE: Rate = Rate { max: 30, per_s: 60 };

impl FailedAuthentications {
    /// Nobody has failed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { limiter: limiter(FAILED_RATE, FAILED_CELLS), hasher: RandomState::new() }
    }

    /// Counts one. Asked only when an authentication failed, so that a valid credential is never held back.
    ///
    /// # Errors
    /// [`Refused::RateLimited`] when this peer has failed too often.
    pub fn count(&self, peer: IpAddr) -> Result<(), Refused> {
        let cell = usize::try_from(self.hasher.hash_one(peer) % FAILED_CELLS as u64).unwrap_or(0);
        self.limiter.check_key(&(cell, Mode::Take)).map(|_| ()).map_err(|not_until| Refused::RateLimited {
            whose: "too many failed authentications from this address".to_owned(),
            retry_after_s: not_until.wait_time_from(moment()).as_secs() + 1,
        })
    }
}

impl Default for FailedAuthentications {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(max: u32, per_s: u32) -> Window {
        Window::new("caller", "the rate", Rate { max, per_s })
    }

    #[test]
    fn a_window_lets_its_burst_through_and_says_when_to_come_back() {
        let window = window(3, 3600);
        assert_eq!((0..3).map(|_| window.ask(Mode::Take).unwrap().remaining).collect::<Vec<_>>(), [2, 1, 0]);
        let (standing, wait) = window.ask(Mode::Take).unwrap_err();
        assert_eq!(standing.remaining, 0);
        assert!((1100..=1200).contains(&wait), "{wait}");
    }

    #[test]
    fn looking_takes_nothing_and_answers_the_same() {
        let window = window(1, 3600);
        for _ in 0..5 {
            assert!(window.ask(Mode::Look).is_ok());
        }
        assert!(window.ask(Mode::Take).is_ok());
        assert!(window.ask(Mode::Look).is_err() && window.ask(Mode::Take).is_err());
    }

    #[test]
    fn a_reload_keeps_the_state_of_unchanged_windows() {
        let rate = Rate { max: 1, per_s: 3600 };
        let first = windows("caller", "w", &[rate], None);
        assert!(first[0].ask(Mode::Take).is_ok());
        let second = windows("caller", "w", &[Rate { max: 9, per_s: 60 }, rate], Some(&first));
        assert!(second[0].ask(Mode::Take).is_ok());
        assert!(second[1].ask(Mode::Take).is_err());
    }

    #[test]
    fn failed_authentications_of_one_peer_are_limited_and_others_are_not() {
        let failed = FailedAuthentications::new();
        let peer = |n: u8| IpAddr::from([10, 0, 0, n]);
        let refused = (0..100).filter(|_| failed.count(peer(1)).is_err()).count();
        assert_eq!(refused, 70);
        assert!((2..12).filter(|n| failed.count(peer(*n)).is_ok()).count() >= 8);
    }
}
