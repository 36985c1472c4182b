//! How long the provider asked to be left alone (429, RFC 9110 §10.2.3): that holds for everybody.

use crate::clock::{Moment, moment};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Where it does not say for how long.
pub(super) const UNSAID_S: u64 = 1;

/// Until when nothing is sent.
pub(super) struct Backoff {
    began: Moment,
    /// Milliseconds from `began`.
    until_ms: AtomicU64,
}

impl Backoff {
    pub(super) fn new() -> Self {
        Self { began: moment(), until_ms: AtomicU64::new(0) }
    }

    fn at(&self, time: Moment) -> u64 {
        u64::try_from(time.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// The provider asked for it, at `now`. An earlier wish that goes further stays.
    pub(super) fn begin(&self, now: Moment, wait_s: u64) {
        let until = self.at(now + Duration::from_secs(wait_s));
        self.until_ms.fetch_max(until, Ordering::Relaxed);
    }

    /// Whole seconds that are left at `now`, rounded up; `None` when it is over.
    pub(super) fn left(&self, now: Moment) -> Option<u64> {
        let left = self.until_ms.load(Ordering::Relaxed).saturating_sub(self.at(now));
        (left > 0).then(|| left.div_ceil(1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wish_holds_until_it_is_over() {
        let backoff = Backoff::new();
        let at = |ms| backoff.began + Duration::from_millis(ms);
        assert_eq!(backoff.left(at(0)), None);
        backoff.begin(at(100), 7);
        assert_eq!(
            (backoff.left(at(100)), backoff.left(at(101)), backoff.left(at(6_101))),
            (Some(7), Some(7), Some(1))
        );
        backoff.begin(at(200), UNSAID_S);
        assert_eq!((backoff.left(at(7_099)), backoff.left(at(7_100))), (Some(1), None));
        backoff.begin(at(9_000), UNSAID_S);
        assert_eq!((backoff.left(at(9_999)), backoff.left(at(10_000))), (Some(1), None));
    }
}
