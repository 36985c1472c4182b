//! Windows in Redis or Valkey, for all processes that ask the same one: all windows of a request in one atomic step.
//!
//! What is not answered surely and in time is a refusal. There is no second, local limiter for that time or beside it: a
//! request that Redis refuses would have taken from it, and the replicas would refuse more than the rates say.

mod link;
mod script;
#[cfg(test)]
mod tests;

use super::{Mode, Terms, Verdict, narrowest_first};
use crate::clock::{moment, since};
use crate::config::{self, Caller, Per, Rate};
use crate::error::Refused;
use crate::id::{CallerName, SessionId};
use crate::telemetry::{Kind, Metrics};
use arc_swap::ArcSwapOption;
pub(super) use link::faults;
use link::{Link, Unsure};
use script::{Call, Key};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The wait before a new connection: doubling from the first to the last, each of them by chance half as long at least.
const WAITS: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(1)];
/// Connecting, with name lookup and TLS; it holds up nobody.
const CONNECT_AT_MOST: Duration = Duration::from_secs(2);

/// The way to Redis: one connection at a time, which all questions share.
pub struct Redis {
    config: config::Redis,
    metrics: Metrics,
    /// None while there is no connection that answers: then nothing waits, everything is refused at once.
    link: ArcSwapOption<Link>,
    first: CancellationToken,
}

impl Redis {
    pub(super) fn new(config: config::Redis, metrics: Metrics) -> Self {
        Self { config, metrics, link: ArcSwapOption::empty(), first: CancellationToken::new() }
    }

    /// Whether there is a connection that answers, as far as is known.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.link.load().is_some()
    }

    /// Waits until there has been a connection once, for a moment at most: a process that has just started should not
    /// refuse for that alone.
    pub async fn reached(&self) {
        let _ = tokio::time::timeout(CONNECT_AT_MOST, self.first.cancelled()).await;
    }

    /// Connects, and again whenever the connection is lost or has not answered, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut failures, mut said) = (0_u32, String::new());
        while !stop.is_cancelled() {
            let connecting = tokio::time::timeout(CONNECT_AT_MOST, Link::open(&self.config));
            match connecting.await.unwrap_or_else(|_| Err(Unsure::timeout("it did not answer while connecting"))) {
                Err(unsure) => {
                    failures = failures.saturating_add(1);
                    self.count(&unsure);
                    if said != unsure.what {
                        tracing::error!(reason = unsure.kind, error = %unsure.what, "the shared rates cannot be asked: every request that has a rate is refused");
                        said = unsure.what;
                    }
                }
                Ok((link, driver)) => {
                    (failures, said) = (0, String::new());
                    let link = Arc::new(link);
                    self.link.store(Some(Arc::clone(&link)));
                    self.first.cancel();
                    tracing::info!("the shared rates can be asked");
                    tokio::select! {
                        () = driver => tracing::warn!("the connection to the shared rates was lost"),
                        () = link.given_up.cancelled() => {}
                        () = stop.cancelled() => {}
                    }
                    self.link.store(None);
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait(failures)) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Asks. An answer that may be another one the next time, or none, ends the connection for all: what waits behind it
    /// is late as well, and the next connection may lead to another server.
    async fn ask(&self, call: &Call, session: &str) -> Result<Vec<i64>, Unsure> {
        let Some(link) = self.link.load_full() else { return Err(Unsure::not_connected()) };
        let started = moment();
        let asked = tokio::time::timeout(self.config.timeout, link.ask(call, session)).await;
        let asked = asked.unwrap_or_else(|_| Err(Unsure::timeout("it did not answer in time")));
        self.metrics.limits_seconds.observe(since(started).as_secs_f64());
        if let Err(unsure) = &asked {
            let ends = unsure.ends_the_connection;
            if !link.given_up.is_cancelled() {
                tracing::warn!(reason = unsure.kind, error = %unsure.what, reconnecting = ends, "the shared rates gave no sure answer");
            }
            if ends {
                link.given_up.cancel();
                self.link.compare_and_swap(&link, None);
            }
        }
        asked
    }

    fn count(&self, unsure: &Unsure) {
        self.metrics.limits_failures.get_or_create(&Kind { kind: unsure.kind }).inc();
    }
}

/// How long to wait after so many failures in a row.
fn wait(failures: u32) -> Duration {
    let [first, last] = WAITS;
    let full = first.saturating_mul(1 << failures.min(10)).min(last);
    let chance = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
    full.mul_f64(0.5 + chance / 2.0)
}

/// The windows of one caller with those of all behind them.
struct Row {
    terms: Vec<Terms>,
    calls: [Arc<Call>; 2],
}

/// All windows of all callers; their state is in Redis, under names made of prefix, owner, session where it has one, and rate.
pub struct Windows {
    redis: Arc<Redis>,
    rows: HashMap<CallerName, Arc<Row>>,
}

impl Row {
    fn new(prefix: &str, caller: &Caller, all: &[Rate]) -> Self {
        // In braces, so that all keys lie in one slot where a cluster's proxy asks for that.
        let key = |owner: &str, rate: Rate| format!("{{{prefix}}}:{owner}:{}-{}s", rate.max, rate.per_s);
        let (mut terms, mut keys) = (Vec::new(), Vec::new());
        for rate in narrowest_first(&caller.rates) {
            keys.push(match rate.per {
                Per::Caller => Key::One(key(&format!("caller:{}", caller.name), rate)),
                Per::Session => Key::EachSession(key(&format!("session:{}", caller.name), rate)),
            });
            terms.push(Terms::of_caller(&caller.name, rate));
        }
        for rate in narrowest_first(all) {
            keys.push(Key::One(key("all", rate)));
            terms.push(Terms::of_all(rate));
        }
        let calls = [Mode::Take, Mode::Look].map(|mode| Arc::new(Call::new(mode, keys.clone(), &terms)));
        Self { terms, calls }
    }

    /// What an answer of the script means.
    fn verdict(&self, answer: &[i64]) -> Option<Verdict> {
        let mut standings = Vec::with_capacity(answer.len());
        for (terms, taken) in self.terms.iter().zip(answer) {
            if *taken < 0 {
                let (standing, refused) = terms.refused(taken.unsigned_abs());
                standings.push(standing);
                return (standings.len() == answer.len()).then_some((standings, Err(refused)));
            }
            standings.push(terms.passed(script::remaining(terms.rate, taken.unsigned_abs())));
        }
        (answer.len() == self.terms.len()).then_some((standings, Ok(())))
    }
}

impl Windows {
    pub(super) fn new(redis: &Arc<Redis>, callers: &[Caller], all: &[Rate]) -> Self {
        let row = |caller: &Caller| (caller.name.clone(), Arc::new(Row::new(&redis.config.prefix, caller, all)));
        Self { redis: Arc::clone(redis), rows: callers.iter().map(row).collect() }
    }

    /// The question, where there is anything to ask.
    pub(super) fn ask(&self, caller: &CallerName, session: &SessionId, mode: Mode) -> Option<Question> {
        let row = self.rows.get(caller).filter(|row| !row.terms.is_empty())?;
        Some(Question { redis: Arc::clone(&self.redis), row: Arc::clone(row), session: session.clone(), mode })
    }
}

/// A question that has to be waited for.
pub struct Question {
    redis: Arc<Redis>,
    row: Arc<Row>,
    session: SessionId,
    mode: Mode,
}

impl Question {
    /// Asks, and waits for the answer as long as is configured. No sure answer is [`Refused::LimitsUnavailable`].
    /// Dropping the future gives the answer up; what was taken stays taken, as it may after a lost answer.
    pub async fn answer(self) -> Verdict {
        let [take, look] = &self.row.calls;
        let call = match self.mode {
            Mode::Take => take,
            Mode::Look => look,
        };
        let asked = self.redis.ask(call, self.session.as_str()).await;
        let judged = asked.and_then(|answer| self.row.verdict(&answer).ok_or_else(|| Unsure::senseless(&answer)));
        judged.unwrap_or_else(|unsure| {
            self.redis.count(&unsure);
            (Vec::new(), Err(Refused::LimitsUnavailable))
        })
    }
}
