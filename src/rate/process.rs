//! Windows in this process, decided by `governor`, kept by us.

use super::sessions::Sessions;
use super::{Mode, Standing, Terms, Verdict, narrowest_first};
use crate::clock::moment;
use crate::config::{Caller, Per, Rate};
use crate::error::Refused;
use crate::id::{CallerName, SessionId};
use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The one place that reads time, as governor asks for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Monotonic;

impl Clock for Monotonic {
    type Instant = crate::clock::Moment;
    fn now(&self) -> Self::Instant {
        moment()
    }
}

/// Cells of GCRA state, 0 meaning never used; a key is a cell and whether to write it.
pub(super) struct Cells(Box<[AtomicU64]>);

impl Cells {
    pub(super) fn new(cells: usize) -> Self {
        Self((0..cells).map(|_| AtomicU64::new(0)).collect())
    }

    pub(super) fn get(&self, index: usize) -> Option<Nanos> {
        let held = self.0.get(index).map_or(0, |cell| cell.load(Ordering::Acquire));
        (held != 0).then(|| Nanos::new(held))
    }
}

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

type Limiter<S, C> = RateLimiter<<S as StateStore>::Key, S, C, StateInformationMiddleware>;

pub(super) fn limiter<S: StateStore, C: Clock>(rate: Rate, store: S, clock: C) -> Limiter<S, C> {
    let max = NonZeroU32::new(rate.max).unwrap_or(NonZeroU32::MIN);
    let period = (Duration::from_secs(u64::from(rate.per_s)) / max.get()).max(Duration::from_nanos(1));
    let quota = Quota::with_period(period).unwrap_or(Quota::per_second(max)).allow_burst(max);
    Limiter::new(quota, store, clock)
}

/// One window. Its clock is another one in tests alone.
pub(super) struct Window<C: Clock = Monotonic> {
    terms: Terms,
    counted: Counted<C>,
}

/// What a window counts together.
enum Counted<C: Clock> {
    All(Limiter<Cells, C>),
    EachSession(Limiter<Sessions, C>),
}

impl<C: Clock> Window<C> {
    pub(super) fn new(terms: Terms, clock: C) -> Self {
        let counted = match terms.rate.per {
            Per::Caller => Counted::All(limiter(terms.rate, Cells::new(1), clock)),
            Per::Session => Counted::EachSession(limiter(terms.rate, Sessions::new(), clock)),
        };
        Self { terms, counted }
    }

    /// How many more would pass behind this one.
    fn check(&self, session: &SessionId, mode: Mode) -> Result<u32, (Standing, Refused)> {
        let (asked, clock) = match &self.counted {
            Counted::All(limiter) => (limiter.check_key(&(0, mode)), limiter.clock()),
            Counted::EachSession(limiter) => (limiter.check_key(&(session.clone(), mode)), limiter.clock()),
        };
        asked.map(|state| state.remaining_burst_capacity()).map_err(|not_until| {
            let wait = not_until.wait_time_from(clock.now());
            self.terms.refused(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    fn ask(&self, session: &SessionId, mode: Mode) -> Result<Standing, (Standing, Refused)> {
        self.check(session, mode).map(|remaining| self.terms.passed(remaining))
    }

    /// How it stands when nothing is asked: the one that would pass now is still to be had.
    fn standing(&self, session: &SessionId) -> Standing {
        let looked = self.check(session, Mode::Look);
        looked.map_or_else(|(standing, _)| standing, |behind| self.terms.passed(behind + 1))
    }
}

/// Asks one window after the other, until one refuses.
pub(super) fn ask<'a, C: Clock + 'a>(
    windows: impl Iterator<Item = &'a Window<C>>,
    session: &SessionId,
    mode: Mode,
) -> Verdict {
    let mut standings = Vec::with_capacity(windows.size_hint().0);
    for window in windows {
        match window.ask(session, mode) {
            Ok(standing) => standings.push(standing),
            Err((standing, refused)) => {
                standings.push(standing);
                return (standings, Err(refused));
            }
        }
    }
    (standings, Ok(()))
}

/// All windows of all callers.
pub struct Windows {
    callers: HashMap<CallerName, Vec<Arc<Window>>>,
    all: Vec<Arc<Window>>,
}

fn windows(rates: &[Rate], terms: impl Fn(Rate) -> Terms, old: Option<&Vec<Arc<Window>>>) -> Vec<Arc<Window>> {
    let kept = |rate: &Rate| old.and_then(|old| old.iter().find(|window| window.terms.rate == *rate)).map(Arc::clone);
    let new = |rate| Arc::new(Window::new(terms(rate), Monotonic));
    narrowest_first(rates).into_iter().map(|rate| kept(&rate).unwrap_or_else(|| new(rate))).collect()
}

impl Windows {
    pub(super) fn new(callers: &[Caller], all: &[Rate], old: Option<&Self>) -> Self {
        let all = windows(all, Terms::of_all, old.map(|old| &old.all));
        let of = |caller: &Caller| {
            let old = old.and_then(|old| old.callers.get(&caller.name));
            (caller.name.clone(), windows(&caller.rates, |rate| Terms::of_caller(&caller.name, rate), old))
        };
        Self { callers: callers.iter().map(of).collect(), all }
    }

    /// The caller's windows, then those of all.
    fn of(&self, caller: &CallerName) -> impl Iterator<Item = &Window> {
        let own = self.callers.get(caller).map(Vec::as_slice).unwrap_or_default();
        own.iter().chain(&self.all).map(Arc::as_ref)
    }

    pub(super) fn ask(&self, caller: &CallerName, session: &SessionId, mode: Mode) -> Verdict {
        ask(self.of(caller), session, mode)
    }

    pub(super) fn standings(&self, caller: &CallerName, session: &SessionId) -> Vec<Standing> {
        self.of(caller).map(|window| window.standing(session)).collect()
    }
}

/// Failed authentications by peer, on fixed memory: peers share cells by a keyed hash. Always counted here: a peer
/// that fails at one replica is nothing that the others have to wait for.
pub struct FailedAuthentications {
    limiter: Limiter<Cells, Monotonic>,
    hasher: RandomState,
}

const FAILED_CELLS: usize = 4096;
const FAILED_RATE: Rate = Rate { max: 30, per_s: 60, per: Per::Caller };

impl FailedAuthentications {
    /// Nobody has failed yet.
    #[must_use]
    pub fn new() -> Self {
        Self { limiter: limiter(FAILED_RATE, Cells::new(FAILED_CELLS), Monotonic), hasher: RandomState::new() }
    }

    /// Counts one. Asked only when an authentication failed, so that a valid credential is never held back.
    ///
    /// # Errors
    /// [`Refused::RateLimited`] when this peer has failed too often.
    pub fn count(&self, peer: IpAddr) -> Result<(), Refused> {
        // Who has one address of IPv6 has the /64 around it, to take another one from for each attempt.
        let peer = match peer {
            IpAddr::V4(_) => peer,
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        };
        let cell = usize::try_from(self.hasher.hash_one(peer) % FAILED_CELLS as u64).unwrap_or(0);
        self.limiter.check_key(&(cell, Mode::Take)).map(|_| ()).map_err(|not_until| Refused::RateLimited {
            whose: "too many failed authentications from this address or its network".to_owned(),
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

    fn rate(max: u32, per_s: u32, per: Per) -> Rate {
        Rate { max, per_s, per }
    }

    fn terms(rate: Rate) -> Terms {
        Terms::of_caller(&CallerName::parse("c").unwrap(), rate)
    }

    fn window(max: u32, per_s: u32) -> Window {
        Window::new(terms(rate(max, per_s, Per::Caller)), Monotonic)
    }

    fn session(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    #[test]
    fn a_window_lets_its_burst_through_and_says_when_to_come_back() {
        let window = window(3, 3600);
        assert_eq!(
            (0..3).map(|_| window.ask(&session("s"), Mode::Take).unwrap().remaining).collect::<Vec<_>>(),
            [2, 1, 0]
        );
        let (standing, refused) = window.ask(&session("s"), Mode::Take).unwrap_err();
        assert_eq!(standing.remaining, 0);
        assert!((1100..=1200).contains(&standing.reset_s), "{standing:?}");
        assert!(matches!(refused, Refused::RateLimited { retry_after_s, .. } if retry_after_s == standing.reset_s));
    }

    #[test]
    fn looking_takes_nothing_and_answers_the_same() {
        let window = window(1, 3600);
        for _ in 0..5 {
            assert!(window.ask(&session("s"), Mode::Look).is_ok());
        }
        assert!(window.ask(&session("s"), Mode::Take).is_ok());
        assert!(window.ask(&session("s"), Mode::Look).is_err() && window.ask(&session("s"), Mode::Take).is_err());
    }

    #[test]
    fn a_reload_keeps_the_state_of_unchanged_windows_and_of_their_sessions() {
        for per in [Per::Caller, Per::Session] {
            let (kept, other, s1) = (rate(1, 3600, per), rate(9, 60, per), session("s1"));
            let first = windows(&[kept], terms, None);
            assert!(first[0].ask(&s1, Mode::Take).is_ok());
            let second = windows(&[other, kept], terms, Some(&first));
            assert!(second[0].ask(&s1, Mode::Take).is_ok());
            assert!(second[1].ask(&s1, Mode::Take).is_err());
            let changed = if per == Per::Caller { Per::Session } else { Per::Caller };
            let third = windows(&[rate(1, 3600, changed)], terms, Some(&second));
            assert!(third[0].ask(&s1, Mode::Take).is_ok(), "what counts something else is another window");
        }
    }

    #[test]
    fn a_window_per_session_holds_each_session_on_its_own_and_is_named_so() {
        let both = windows(&[rate(3, 3600, Per::Caller), rate(1, 3600, Per::Session)], terms, None);
        let ask = |name| ask(both.iter().map(Arc::as_ref), &session(name), Mode::Take);
        let (standings, passed) = ask("s1");
        let names: Vec<&str> = standings.iter().map(|standing| &*standing.name).collect();
        assert_eq!((names, passed.is_ok()), (vec!["session-1-3600s", "caller-3-3600s"], true));
        let (standings, refused) = ask("s1");
        assert_eq!(standings.len(), 1, "the first refusal ends it: nothing is taken from the caller's");
        assert!(
            matches!(refused, Err(Refused::RateLimited { whose, .. }) if whose == "the rate of caller `c` in each session is 1 in 3600 s")
        );
        assert!(ask("s2").1.is_ok() && ask("s3").1.is_ok());
        assert_eq!(ask("s4").0.len(), 2, "the caller's is used up");
    }

    #[test]
    fn failed_authentications_of_one_peer_are_limited_and_others_are_not() {
        let failed = FailedAuthentications::new();
        let peer = |n: u8| IpAddr::from([10, 0, 0, n]);
        let refused = (0..100).filter(|_| failed.count(peer(1)).is_err()).count();
        assert_eq!(refused, 70);
        assert!((2..12).filter(|n| failed.count(peer(*n)).is_ok()).count() >= 8);
    }

    #[test]
    fn who_has_a_network_of_ipv6_is_one_peer() {
        let failed = FailedAuthentications::new();
        let peer = |network: u16, host: u16| IpAddr::from([0x2001, 0xdb8, 0, network, host, 0, 0, host]);
        assert_eq!((0..100).filter(|host| failed.count(peer(1, *host)).is_err()).count(), 70);
        assert!((2..12).filter(|network| failed.count(peer(*network, 1)).is_ok()).count() >= 8);
    }
}
