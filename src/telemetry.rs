//! What the process tells about itself: log lines on stderr, numbers for Prometheus. Never a secret, and
//! no id as a metric's label.

mod json;
mod lines;

pub use lines::LogEnd;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;

/// Text for people or JSON for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// Text.
    Text,
    /// A JSON object a line.
    Json,
}

/// Starts logging. The end writes what is left when it is dropped.
///
/// # Errors
/// When the system has no thread to give.
pub fn start_logging(level: tracing::Level, format: Format) -> std::io::Result<LogEnd> {
    let (writer, end) = lines::start(std::io::stderr())?;
    let terminal = std::io::stderr().is_terminal();
    let text = match format {
        Format::Auto => terminal,
        Format::Text => true,
        Format::Json => false,
    };
    let base =
        tracing_subscriber::fmt().with_writer(writer).with_max_level(LevelFilter::from_level(level)).with_target(false);
    if text {
        let _ = base.with_ansi(terminal).try_init();
    } else {
        let _ = base.event_format(json::Lines).try_init();
    }
    Ok(end)
}

/// What became of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Decision {
    /// `allowed`, `refused` or `dry-run`.
    pub decision: &'static str,
    /// The code that the caller hears, or `ok`.
    pub reason: &'static str,
}

/// One label.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Kind {
    /// Its value.
    pub kind: &'static str,
}

/// All numbers. Cheap to clone; clones are the same numbers.
#[derive(Clone)]
#[allow(missing_docs)] // their help texts, below, say it
pub struct Metrics {
    pub requests: Family<Decision, Counter>,
    pub upstream: Family<Kind, Counter>,
    pub outcomes: Family<Kind, Counter>,
    pub stages: Family<Kind, Histogram>,
    pub commit_entries: Histogram,
    pub commit_seconds: Histogram,
    pub follower_behind: Gauge,
    pub follower_failures: Counter,
    pub suppressed: Counter,
    pub connections: Gauge,
    pub connections_refused: Counter,
    pub in_flight: Gauge,
    pub unresolved: Gauge,
    pub resolutions: Family<Kind, Counter>,
    pub reloads: Family<Kind, Counter>,
    pub policy_stale: Gauge,
    pub limits_seconds: Histogram,
    pub limits_failures: Family<Kind, Counter>,
}

const LIMITS_FAILURES: [&str; 7] =
    ["timeout", "connection", "not-connected", "refused", "configuration", "foreign", "answer"];

fn seconds() -> Histogram {
    Histogram::new([0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 25.0])
}

/// Counters that are there from 0 on, so that the first time is seen, too.
fn counted(kinds: &[&'static str]) -> Family<Kind, Counter> {
    let family = Family::default();
    kinds.iter().for_each(|kind| drop(family.get_or_create(&Kind { kind })));
    family
}

/// Refusals that somebody has to do something about, in the same way.
fn refused(reasons: &[&'static str]) -> Family<Decision, Counter> {
    let family = Family::default();
    reasons.iter().for_each(|reason| drop(family.get_or_create(&Decision { decision: "refused", reason })));
    family
}

impl Metrics {
    /// Registers everything.
    #[must_use]
    pub fn new() -> (Self, Registry) {
        let metrics = Self {
            requests: refused(&["ledger-unavailable", "frozen", "budget-exhausted"]),
            upstream: counted(&["upstream-credentials-refused"]),
            outcomes: counted(&["deleted", "refused", "not-sent", "unknown"]),
            stages: Family::new_with_constructor(seconds),
            commit_entries: Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0]),
            commit_seconds: seconds(),
            follower_behind: Gauge::default(),
            follower_failures: Counter::default(),
            suppressed: Counter::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            in_flight: Gauge::default(),
            unresolved: Gauge::default(),
            resolutions: counted(&["absent", "present", "indeterminate"]),
            reloads: counted(&["applied", "refused"]),
            policy_stale: Gauge::default(),
            limits_seconds: seconds(),
            limits_failures: counted(&LIMITS_FAILURES),
        };
        let mut registry = Registry::with_prefix("wasend_gateway");
        registry.register("requests", "Requests by decision and reason", metrics.requests.clone());
        registry.register("upstream_answers", "What the provider answered, by class", metrics.upstream.clone());
        registry.register("outcomes", "Outcomes of intents", metrics.outcomes.clone());
        registry.register("stage_seconds", "Time spent in a stage of the path", metrics.stages.clone());
        registry.register("commit_entries", "Entries in one commit of the ledger", metrics.commit_entries.clone());
        registry.register("commit_seconds", "Time of one commit of the ledger", metrics.commit_seconds.clone());
        registry.register(
            "follower_behind",
            "Entries of the ledger that what is derived from it does not cover yet",
            metrics.follower_behind.clone(),
        );
        registry.register(
            "follower_failures",
            "Failed attempts to derive something from the ledger",
            metrics.follower_failures.clone(),
        );
        registry.register(
            "refusals_suppressed",
            "Refusals that have no entry of their own",
            metrics.suppressed.clone(),
        );
        registry.register("connections", "Open connections on the caller port", metrics.connections.clone());
        registry.register("connections_refused", "Connections over a limit", metrics.connections_refused.clone());
        registry.register("in_flight", "Requests between admission and answer", metrics.in_flight.clone());
        registry.register("unresolved", "Unknown outcomes without a resolution yet", metrics.unresolved.clone());
        registry.register(
            "resolutions",
            "What was seen of pictures after unknown outcomes",
            metrics.resolutions.clone(),
        );
        registry.register(
            "reloads",
            "Configurations applied; configurations, keys and certificates refused",
            metrics.reloads.clone(),
        );
        registry.register(
            "policy_stale",
            "1 while the newest configuration was refused and an older one is in force",
            metrics.policy_stale.clone(),
        );
        registry.register("limits_seconds", "Time to an answer of the shared rates", metrics.limits_seconds.clone());
        registry.register(
            "limits_failures",
            "Questions to the shared rates without a sure answer, and failed connections",
            metrics.limits_failures.clone(),
        );
        (metrics, registry)
    }
}
