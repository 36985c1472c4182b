//! Looks at the picture after an outcome that is `unknown`, and records what it saw: a `resolution`.
//!
//! It only reads. A resolution says what the provider shows now, not what a deletion did, so the outcome stays
//! `unknown`, in the ledger and for whoever asks again. One look at a time and two a second at the most: deletions
//! come first. What waits is kept by the ledger, so a restart forgets nothing.

use crate::config;
use crate::id::RequestId;
use crate::ledger::entry::Resolution;
use crate::ledger::{Health, Ledger, NotRecorded, Unresolved};
use crate::telemetry::{Kind, Metrics};
use crate::upstream::{Picture, Upstream};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// From the end of one look to the next one.
const BETWEEN: Duration = Duration::from_millis(500);
/// How often the ledger is asked when nothing is due.
const IDLE: Duration = Duration::from_secs(1);
const WAIT_AT_MOST: Duration = Duration::from_secs(3600);

/// Looks, one after the other, until it is told to stop.
pub struct Resolver {
    config: config::Resolver,
    ledger: Arc<dyn Ledger>,
    upstream: Arc<Upstream>,
    metrics: Metrics,
}

impl Resolver {
    /// Takes what it reads from and writes to. Nothing happens before [`Resolver::run`].
    #[must_use]
    pub fn new(config: config::Resolver, ledger: Arc<dyn Ledger>, upstream: Arc<Upstream>, metrics: Metrics) -> Self {
        Self { config, ledger, upstream, metrics }
    }

    /// Runs until `stop`. A look that is under way then is dropped and made again after the next start; a record that
    /// is under way is waited for.
    pub async fn run(self, stop: CancellationToken) {
        if !self.config.enabled {
            return;
        }
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            let Some(unresolved) = self.due().await else {
                pause = IDLE;
                continue;
            };
            let picture = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                picture = self.upstream.picture(unresolved.target()) => picture,
            };
            pause = self.record(unresolved, picture).await;
        }
    }

    /// What is to be looked at now. Without a key it cannot be seen, and without room it cannot be recorded: neither
    /// counts as an attempt.
    async fn due(&self) -> Option<Unresolved> {
        if !self.upstream.has_key() || self.upstream.held_back().is_some() || self.ledger.health() != Health::Writable {
            return None;
        }
        self.ledger.unresolved(self.ledger.now().before(self.config.delay)).await
    }

    /// Records what was seen; returns how long to leave the provider alone.
    async fn record(&self, unresolved: Unresolved, picture: Picture) -> Duration {
        let (why, retry_after) = match picture {
            Picture::Present => return self.resolve(unresolved, Resolution::Present).await,
            Picture::Absent => return self.resolve(unresolved, Resolution::Absent).await,
            Picture::Unclear { why, retry_after } => (why, retry_after.unwrap_or_default()),
        };
        let (request_id, attempts) = (unresolved.request_id(), unresolved.attempts().saturating_add(1));
        if attempts >= self.config.attempts {
            return self.resolve(unresolved, Resolution::Indeterminate).await.max(retry_after);
        }
        let wait = wait(self.config.delay, attempts, request_id).max(retry_after);
        tracing::info!(%request_id, attempts, why, wait_s = wait.as_secs(), "the picture could not be read");
        // Whatever waits is due `delay` after its time, so that is taken off again.
        let since = self.ledger.now().after(wait).before(self.config.delay);
        self.said(self.ledger.postpone(unresolved, since).await).max(retry_after)
    }

    async fn resolve(&self, unresolved: Unresolved, resolution: Resolution) -> Duration {
        let (request_id, target) = (unresolved.request_id(), unresolved.target().clone());
        let recorded = self.ledger.resolve(unresolved, resolution).await;
        if recorded.is_ok() {
            self.metrics.resolutions.get_or_create(&Kind { kind: resolution.as_str() }).inc();
            tracing::info!(
                %request_id,
                session = target.session.as_str(),
                group = target.group.as_str(),
                resolution = resolution.as_str(),
                "an unknown outcome was resolved"
            );
        }
        self.said(recorded)
    }

    /// What is not recorded still waits, and is looked at again.
    fn said(&self, recorded: Result<(), NotRecorded>) -> Duration {
        match recorded {
            Ok(()) => BETWEEN,
            Err(NotRecorded) => IDLE,
        }
    }
}

/// From the attempt of this number to the next: `delay`, then twice as long each time, at most an hour (or `delay`,
/// where that is more), and up to a quarter more, so that what failed together is not tried together again.
fn wait(delay: Duration, attempts: u32, request_id: RequestId) -> Duration {
    let doublings = attempts.saturating_sub(1).min(16);
    let wait = delay.saturating_mul(1 << doublings).min(WAIT_AT_MOST.max(delay));
    let quarter_ms = u64::try_from(wait.as_millis() / 4).unwrap_or(u64::MAX).max(1);
    wait + Duration::from_millis(request_id.spread() % quarter_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wait_is_twice_the_one_before_up_to_an_hour_and_a_quarter() {
        let id = RequestId::new();
        for (attempts, least) in [(1, 60), (2, 120), (3, 240), (7, 3600), (8, 3600), (u32::MAX, 3600)] {
            let (wait, least) = (wait(Duration::from_secs(60), attempts, id), Duration::from_secs(least));
            assert!(least <= wait && wait <= least + least / 4, "{attempts}: {wait:?}");
        }
        let day = Duration::from_secs(86_400);
        assert!(wait(day, 5, id) >= day, "never sooner than the first look");
    }

    #[test]
    fn what_failed_together_is_not_tried_together_again() {
        let waits: Vec<_> = (0..20).map(|_| wait(Duration::from_secs(60), 1, RequestId::new())).collect();
        assert!(waits.iter().any(|wait| *wait != waits[0]), "{waits:?}");
    }
}
