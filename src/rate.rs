//! How fast: GCRA windows of callers and of all together, counted in this process or in a shared Redis.
//!
//! Windows are asked narrowest first, a caller's own before those of all; the first refusal ends it, and what
//! earlier windows took stays taken. Their number is fixed by the configuration, and sessions that have one each by a
//! bound: memory is bounded whatever callers send. Both stores decide the same: one property suite asks them side by side.

mod process;
mod redis;
mod sessions;

pub use process::FailedAuthentications;
pub use redis::Redis;

use crate::config::{self, Limits, Per, Rate};
use crate::error::Refused;
use crate::id::{CallerName, SessionId};
use crate::telemetry::Metrics;
use std::sync::Arc;

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

/// How each asked window stands, the refusing one last; and whether the request passes.
pub type Verdict = (Vec<Standing>, Result<(), Refused>);

/// What one window is called and what it allows, wherever it is counted.
#[derive(Debug, PartialEq, Eq)]
struct Terms {
    name: Arc<str>,
    whose: String,
    rate: Rate,
}

impl Terms {
    /// One of a caller's own.
    fn of_caller(caller: &CallerName, rate: Rate) -> Self {
        match rate.per {
            Per::Caller => Self::new("caller", &format!("the rate of caller `{caller}`"), rate),
            Per::Session => Self::new("session", &format!("the rate of caller `{caller}` in each session"), rate),
        }
    }

    fn of_all(rate: Rate) -> Self {
        Self::new("all", "the rate of all callers together", rate)
    }

    fn new(owner: &str, whose: &str, rate: Rate) -> Self {
        Self {
            name: format!("{owner}-{}-{}s", rate.max, rate.per_s).into(),
            whose: format!("{whose} is {} in {} s", rate.max, rate.per_s),
            rate,
        }
    }

    /// One passed, and so many more would now.
    fn passed(&self, remaining: u32) -> Standing {
        let used = u64::from(self.rate.max.saturating_sub(remaining));
        let reset_s = (used * u64::from(self.rate.per_s)).div_ceil(u64::from(self.rate.max));
        Standing { name: Arc::clone(&self.name), rate: self.rate, remaining, reset_s }
    }

    /// None passes before `wait_ns` from now.
    fn refused(&self, wait_ns: u64) -> (Standing, Refused) {
        let retry_after_s = wait_ns.div_ceil(1_000_000_000).max(1);
        let standing = Standing { name: Arc::clone(&self.name), rate: self.rate, remaining: 0, reset_s: retry_after_s };
        (standing, Refused::RateLimited { whose: self.whose.clone(), retry_after_s })
    }
}

/// Rates, narrowest window first; of two that are as long, the one of each session.
fn narrowest_first(rates: &[Rate]) -> Vec<Rate> {
    let mut rates = rates.to_vec();
    rates.sort_by_key(|rate| (rate.per_s, rate.per == Per::Caller));
    rates
}

/// Where the windows are counted; the same from start to end of the process.
pub enum Store {
    /// In this process: an answer costs no waiting.
    Process,
    /// In Redis, for all replicas.
    Redis(Arc<Redis>),
}

impl Store {
    /// The store that is configured. Nothing is connected yet: see [`Redis::run`].
    ///
    /// # Errors
    /// In words, naming the configuration's key.
    pub fn new(limits: &Limits, metrics: Metrics) -> Result<Self, String> {
        match limits {
            Limits::Process => Ok(Self::Process),
            Limits::Redis(config) => {
                let (redis, faults) = (Redis::new(config.clone(), metrics), Self::faults(limits));
                let said = faults.into_iter().map(|(key, what)| format!("{key}: {what}")).next();
                said.map_or(Ok(Self::Redis(Arc::new(redis))), Err)
            }
        }
    }

    /// What is wrong with the files that the store needs: a key of the configuration, and what. Nothing is contacted.
    #[must_use]
    pub fn faults(limits: &Limits) -> Vec<(&'static str, String)> {
        match limits {
            Limits::Process => Vec::new(),
            Limits::Redis(config) => redis::faults(config),
        }
    }

    /// What is wrong with it now, for readiness.
    #[must_use]
    pub fn degraded(&self) -> Vec<&'static str> {
        match self {
            Self::Redis(redis) if !redis.is_reachable() => vec!["limits-unavailable"],
            Self::Process | Self::Redis(_) => Vec::new(),
        }
    }
}

/// All windows of all callers.
pub enum Rates {
    /// Counted here.
    Process(process::Windows),
    /// Counted in Redis.
    Redis(redis::Windows),
}

/// An answer, or a question whose answer has to be waited for.
pub enum Asked {
    /// Decided here.
    Known(Verdict),
    /// To be asked of Redis.
    Open(redis::Question),
}

impl Rates {
    /// The windows of a configuration. In the process, those that `old` has too keep their state; in Redis all do.
    #[must_use]
    pub fn new(config: &config::Config, store: &Store, old: Option<&Self>) -> Self {
        match store {
            Store::Process => {
                let old = match old {
                    Some(Self::Process(old)) => Some(old),
                    Some(Self::Redis(_)) | None => None,
                };
                Self::Process(process::Windows::new(&config.callers, &config.rates, old))
            }
            Store::Redis(redis) => Self::Redis(redis::Windows::new(redis, &config.callers, &config.rates)),
        }
    }

    /// Asks the caller's windows, then those of all callers together. Waits for nothing.
    #[must_use]
    pub fn ask(&self, caller: &CallerName, session: &SessionId, mode: Mode) -> Asked {
        match self {
            Self::Process(windows) => Asked::Known(windows.ask(caller, session, mode)),
            Self::Redis(windows) => {
                windows.ask(caller, session, mode).map_or(Asked::Known((Vec::new(), Ok(()))), Asked::Open)
            }
        }
    }

    /// How the caller's windows and those of all callers stand, as far as that is known here without asking anybody.
    #[must_use]
    pub fn standings(&self, caller: &CallerName, session: &SessionId) -> Vec<Standing> {
        match self {
            Self::Process(windows) => windows.standings(caller, session),
            Self::Redis(_) => Vec::new(),
        }
    }
}
