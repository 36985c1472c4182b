//! What the provider showed last, for readiness and the log: each is said once when it begins, and once when it is over.

use http::StatusCode;
use std::sync::atomic::{AtomicBool, Ordering};

/// See the module.
#[derive(Default)]
pub(super) struct Seen {
    key_refused: AtomicBool,
    unreachable: AtomicBool,
    redirects: AtomicBool,
}

/// Whether this changes it. Mostly it is so already, and then nothing is written.
fn turns(flag: &AtomicBool, to: bool) -> bool {
    flag.load(Ordering::Relaxed) != to && flag.swap(to, Ordering::Relaxed) != to
}

impl Seen {
    /// Nothing is known yet of a new key.
    pub(super) fn key_is_new(&self) {
        self.key_refused.store(false, Ordering::Relaxed);
    }

    /// It answered 401 to the key that is in use.
    pub(super) fn key_refused(&self) {
        if turns(&self.key_refused, true) {
            tracing::error!("the provider refuses the gateway's key: it has to be replaced");
        }
    }

    /// It has done what it was asked with a key that is in use if `is_current` says so.
    pub(super) fn key_accepted(&self, is_current: impl FnOnce() -> bool) {
        if self.key_refused.load(Ordering::Relaxed) && is_current() && turns(&self.key_refused, false) {
            tracing::info!("the provider accepts the gateway's key again");
        }
    }

    /// No connection came about.
    pub(super) fn unreachable(&self) {
        if turns(&self.unreachable, true) {
            tracing::error!("the provider cannot be reached: nothing is deleted");
        }
    }

    /// A connection came about.
    pub(super) fn reached(&self) {
        if turns(&self.unreachable, false) {
            tracing::info!("the provider can be reached again");
        }
    }

    /// It answered with this status.
    pub(super) fn answered(&self, status: StatusCode) {
        let redirects = matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
        match (turns(&self.redirects, redirects), redirects) {
            (true, true) => tracing::warn!(
                status = status.as_u16(),
                "the provider redirects, which is not followed: is upstream.url right?"
            ),
            (true, false) => tracing::info!("the provider does not redirect any more"),
            (false, _) => {}
        }
    }

    /// What is wrong with it, for readiness.
    pub(super) fn reasons(&self) -> Vec<&'static str> {
        let reasons = [
            (&self.key_refused, "upstream-credentials-refused"),
            (&self.unreachable, "upstream-unreachable"),
            (&self.redirects, "upstream-redirects"),
        ];
        reasons.into_iter().filter(|(is, _)| is.load(Ordering::Relaxed)).map(|(_, reason)| reason).collect()
    }
}
