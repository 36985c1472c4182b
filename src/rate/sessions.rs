//! GCRA state for each session of one caller, on bounded memory.
//!
//! A session has a place of its own as long as there is room. Places whose windows are unused again are given away, which
//! decides nothing differently; those in use never are, so that nobody gets rid of what it has taken by naming other
//! sessions. Sessions without a place share cells by a keyed hash, and one that gets a place later begins with what
//! stands in its cell: more is refused then than the rate says, never less.

use super::Mode;
use super::process::Cells;
use crate::id::SessionId;
use governor::nanos::Nanos;
use governor::state::StateStore;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

/// So many sessions have a place: half a megabyte for a window, where a caller uses that many at once.
const PLACES: usize = 16_384;
const SHARED: usize = 1_024;

/// The sessions of one window; a key is a session and whether to write it.
pub(super) struct Sessions {
    hasher: RandomState,
    places: usize,
    own: Mutex<Own>,
    shared: Cells,
    cells: u64,
}

#[derive(Default)]
struct Own {
    /// By a keyed hash, since callers choose the names.
    states: HashMap<u64, Nanos>,
    /// How many have found no place since it was last looked whose windows are unused.
    missed: usize,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self::with(PLACES, SHARED)
    }

    /// So many places, and so many cells for those without one.
    fn with(places: usize, cells: usize) -> Self {
        let (hasher, own) = (RandomState::new(), Mutex::default());
        Self { hasher, places, own, shared: Cells::new(cells), cells: cells as u64 }
    }
}

impl Own {
    /// Whether there is room for one more, after those that `is_unused` have gone. It is looked now and then alone: a
    /// look costs as much as there are places.
    fn has_room(&mut self, places: usize, is_unused: impl Fn(Nanos) -> bool) -> bool {
        if self.states.len() < places {
            return true;
        }
        if self.missed == 0 {
            self.states.retain(|_, state| !is_unused(*state));
        }
        self.missed = (self.missed + 1) % (places / 16).max(1);
        self.states.len() < places
    }
}

impl StateStore for Sessions {
    type Key = (SessionId, Mode);

    fn measure_and_replace<T, F, E>(&self, (session, mode): &Self::Key, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let hash = self.hasher.hash_one(session.as_str());
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = own.states.get_mut(&hash) {
            let (answer, after) = decide(Some(*state))?;
            if *mode == Mode::Take {
                *state = after;
            }
            return Ok(answer);
        }
        let cell = usize::try_from(hash % self.cells).unwrap_or(0);
        if *mode == Mode::Look {
            return self.shared.measure_and_replace(&(cell, *mode), decide);
        }
        // As one that was never used: it stands after the next request where that would.
        let next = |state| decide(state).ok().map(|(_, after)| after);
        let unused = next(None);
        if !own.has_room(self.places, |state| next(Some(state)) == unused) {
            return self.shared.measure_and_replace(&(cell, *mode), decide);
        }
        let (answer, after) = decide(self.shared.get(cell))?;
        own.states.insert(hash, after);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Per, Rate};
    use crate::rate::process::limiter;
    use governor::clock::FakeRelativeClock;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use std::time::Duration;

    const RATE: Rate = Rate { max: 2, per_s: 10, per: Per::Session };

    fn session(number: usize) -> SessionId {
        SessionId::parse(&format!("s{number}")).unwrap()
    }

    /// Asks a store with few places and one with a place for everybody, which is what the rate says.
    fn asked(places: usize, steps: &[(usize, u64)]) -> Vec<(bool, bool)> {
        let clock = FakeRelativeClock::default();
        let few = limiter(RATE, Sessions::with(places, 2), clock.clone());
        let exact = limiter(RATE, Sessions::with(usize::MAX, 1), clock.clone());
        let ask = |(number, span_ms): &(usize, u64)| {
            clock.advance(Duration::from_millis(*span_ms));
            let passes = few.check_key(&(session(*number), Mode::Take)).is_ok();
            if !passes {
                return (false, exact.check_key(&(session(*number), Mode::Look)).is_ok());
            }
            (true, exact.check_key(&(session(*number), Mode::Take)).is_ok())
        };
        steps.iter().map(ask).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn whatever_sessions_are_named_never_more_passes_than_the_rate_says(
            places in 1_usize..6,
            steps in vec((0_usize..9, prop_oneof![3 => Just(0), 2 => 0_u64..4_000, 1 => 0_u64..30_000]), 1..120),
        ) {
            for (number, (passed, may)) in asked(places, &steps).into_iter().enumerate() {
                prop_assert!(may || !passed, "step {number} of {steps:?}");
            }
        }

        #[test]
        fn as_long_as_there_is_room_each_session_gets_just_what_the_rate_says(
            steps in vec((0_usize..6, 0_u64..4_000), 1..120),
        ) {
            prop_assert!(asked(6, &steps).into_iter().all(|(passed, may)| passed == may));
        }
    }

    #[test]
    fn a_flood_of_other_sessions_gives_nothing_back_to_a_used_up_one_and_takes_bounded_memory() {
        let clock = FakeRelativeClock::default();
        let store = limiter(RATE, Sessions::with(64, 8), clock.clone());
        let take = |number| store.check_key(&(session(number), Mode::Take)).is_ok();
        assert!(take(0) && take(0) && !take(0));
        assert!((1..5_000).filter(|number| take(*number)).count() < 5_000);
        assert!(!take(0));
        clock.advance(Duration::from_secs(5));
        assert!(take(0) && !take(0), "it gets back what the rate says");
        clock.advance(Duration::from_secs(20));
        assert!(take(9_999) && take(9_999) && !take(9_999), "a new one has room once the others are unused again");
        assert!(store.into_state_store().own.into_inner().unwrap().states.len() <= 64);
    }
}
