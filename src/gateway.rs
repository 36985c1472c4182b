//! The path of a request, a stage a file, each taking the value of the stage before it:
//!
//! ```text
//! accept → Accepted → authenticate → Caller → authorize → Permit → limit → Admission
//!        → intend → Intent → forward → Reply → conclude → Concluded → answer
//! ```
//!
//! The values have private fields and one constructor each, so what was skipped cannot be had. Forwarding
//! takes an `Intent`, and only the ledger's word that an entry is durable makes one:
//!
//! ```compile_fail,E0308
//! # use wasend_gateway::{gateway::{forward::forward, limit::Admission}, ledger::Ledger, tasks::Tasks, upstream::Upstream};
//! async fn forward_without_a_record(admission: Admission, ledger: &dyn Ledger, upstream: &Upstream, tasks: &Tasks) {
//!     forward(admission, ledger, upstream, tasks).await;
//! }
//! ```
//! ```compile_fail,E0451
//! # use wasend_gateway::{clock::Moment, gateway::intend::Intent, id::{CallerName, SessionId}, ledger::Recorded, upstream::Prepared};
//! # type Who = (CallerName, SessionId);
//! fn an_intent_out_of_nothing(recorded: Recorded, prepared: Prepared, deadline: Moment, (caller, session): Who) -> Intent {
//!     Intent { recorded, prepared, deadline, slot: None, caller, session, is_keyed: false }
//! }
//! ```
//! ```compile_fail,E0599
//! # use wasend_gateway::gateway::intend::Intent;
//! fn one_record_for_two_deletions(intent: Intent) -> (Intent, Intent) {
//!     (intent.clone(), intent)
//! }
//! ```
//! With an intent it compiles:
//! ```
//! # use wasend_gateway::{gateway::{forward::forward, intend::Intent}, ledger::Ledger, tasks::Tasks, upstream::Upstream};
//! async fn forward_what_is_recorded(intent: Intent, ledger: &dyn Ledger, upstream: &Upstream, tasks: &Tasks) {
//!     forward(intent, ledger, upstream, tasks).await;
//! }
//! ```

pub mod accept;
pub mod answer;
pub mod authenticate;
pub mod authorize;
pub mod brake;
pub mod conclude;
pub mod forward;
pub mod intend;
pub mod limit;
mod policies;
pub mod refusal;
pub mod trace;

use crate::clock::moment;
use crate::config::Config;
use crate::error::Refused;
#[cfg(test)]
use crate::failpoint::planted::{self, Fault};
use crate::head::{Head, HeadFault};
use crate::identity::{Identity, Proven};
use crate::ledger::Ledger;
use crate::policy::Policy;
use crate::rate::{FailedAuthentications, Rates, Store};
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use arc_swap::ArcSwap;
use authorize::Budgets;
use axum::body::Body as HttpBody;
use futures_util::FutureExt;
use http::Response;
use intend::Unintended;
use ipnet::IpNet;
use limit::{Admission, Limiting};
use policies::Policies;
use refusal::Refusals;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use trace::Trace;

/// What a reload replaces, at once.
pub struct Live {
    identity: Identity,
    policy: Policy,
    rates: Rates,
    budgets: Budgets,
}

impl Live {
    fn new(config: &Config, store: &Store, old: Option<&Self>) -> Self {
        Self {
            identity: Identity::new(&config.callers, &config.issuers),
            policy: Policy::new(&config.callers),
            rates: Rates::new(config, store, old.map(|old| &old.rates)),
            budgets: Budgets::new(&config.callers),
        }
    }
}

/// Where the configuration names the file with the provider's key.
pub const KEY_FILE: &str = "upstream.api_key_file";

/// Everything that the path needs.
pub struct Gateway {
    live: ArcSwap<Live>,
    /// Where rates are counted. Public for the operators' port, which asks for its health.
    pub store: Store,
    failed: FailedAuthentications,
    /// Public for the operators' port, which asks for its health.
    pub ledger: Arc<dyn Ledger>,
    /// Public for the operators' port and for a reload of the key.
    pub upstream: Arc<Upstream>,
    /// Public for the process, which drains them.
    pub tasks: Tasks,
    /// Public for the operators' port.
    pub metrics: Metrics,
    policies: Policies,
    refusals: Refusals,
    slots: Arc<Semaphore>,
    forwarders: Vec<IpNet>,
    timeout: Duration,
    draining: AtomicBool,
}

/// What the decision stages came to.
enum Decided {
    Go(Admission),
    DryRun(Admission),
}

impl Gateway {
    /// Puts the path together and records the policy that it starts with.
    #[must_use]
    pub fn new(
        config: &Config,
        store: Store,
        ledger: Arc<dyn Ledger>,
        upstream: Arc<Upstream>,
        metrics: Metrics,
    ) -> Self {
        let live = Live::new(config, &store, None);
        let policies = Policies::new(Arc::clone(&ledger), metrics.clone());
        policies.begins(live.policy.hash());
        Self {
            policies,
            live: ArcSwap::from_pointee(live),
            store,
            failed: FailedAuthentications::new(),
            refusals: Refusals::new(Arc::clone(&ledger), metrics.clone()),
            ledger,
            upstream,
            tasks: Tasks::default(),
            metrics,
            slots: Arc::new(Semaphore::new(config.listen.max_requests)),
            forwarders: config.listen.forwarders().to_vec(),
            timeout: config.upstream.timeout,
            draining: AtomicBool::new(false),
        }
    }

    /// Replaces callers, rules and rates at once; unchanged rates keep their state. A request is decided by what was in
    /// force when it came, from its first stage to its last. Returns the new policy's hash.
    pub fn reload(&self, config: &Config) -> Arc<str> {
        let live = Live::new(config, &self.store, Some(&self.live.load()));
        let policy = Arc::clone(live.policy.hash());
        self.policies.applied(&policy);
        self.live.store(Arc::new(live));
        policy
    }

    /// A configuration was not taken over, for faults under these keys: it is recorded, and readiness says so until one
    /// is taken over.
    pub fn not_reloaded(&self, keys: impl Iterator<Item = String>) {
        self.policies.refused(&self.policy(), keys);
    }

    /// The file that a key of the configuration names, [`KEY_FILE`] or a port's certificate, was read again.
    pub fn file_reloaded(&self, key: &'static str) {
        self.policies.file_taken(key);
    }

    /// It could not be used, which is recorded, and readiness says so until one can.
    pub fn file_not_reloaded(&self, key: &'static str) {
        self.policies.file_refused(&self.policy(), key);
    }

    /// Records which policies there were, where the ledger had no room for it; called now and then.
    pub fn record_policies(&self) {
        self.policies.catch_up(&self.policy());
    }

    /// The hash of the policy in force.
    #[must_use]
    pub fn policy(&self) -> Arc<str> {
        Arc::clone(self.live.load().policy.hash())
    }

    /// The longest window in which a budget of the policy in force counts: entries of that time are not pruned.
    #[must_use]
    pub fn longest_budget(&self) -> Duration {
        self.live.load().budgets.longest()
    }

    /// From now on every request is refused with `shutting-down`.
    pub fn start_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Whether [`Gateway::start_draining`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Records counted refusals; called now and then, and at the end.
    pub fn flush_refusals(&self) {
        self.refusals.flush();
    }

    /// One request, from its head to its answer. Dropping the future drops the answer, not the work: from
    /// the intent on it is a task of its own. `certificate` is what the client proved when it connected.
    pub async fn handle(
        self: &Arc<Self>,
        head: Result<Head, HeadFault>,
        peer: IpAddr,
        certificate: Option<Arc<Proven>>,
    ) -> Response<HttpBody> {
        let mut trace = Trace::new(peer);
        let deciding = AssertUnwindSafe(self.decide(head, certificate.as_deref(), &mut trace)).catch_unwind();
        let decided = deciding.await.unwrap_or(Err(Refused::Internal));
        let response = match decided {
            Err(refused) => self.refusals.refuse(&refused, trace),
            Ok(Decided::DryRun(admission)) => self.refusals.dry_run(admission, trace),
            Ok(Decided::Go(admission)) => {
                let (gateway, id) = (Arc::clone(self), trace.id);
                #[cfg(test)]
                if planted::is(Fault::WorkGoesWithItsCaller) {
                    return gateway.carry_out(admission, trace).await.map(HttpBody::from);
                }
                // Boxed where it is made: it is some kilobytes, and spawning moves it about.
                let work = self.tasks.spawn(Box::pin(async move { gateway.carry_out(admission, trace).await }));
                work.await.unwrap_or_else(|_| answer::lost(id))
            }
        };
        response.map(HttpBody::from)
    }

    /// The stages that decide. Nothing here waits except for shared rates, and nothing here leaves a trace outside
    /// except what is taken from rates.
    async fn decide(
        &self,
        head: Result<Head, HeadFault>,
        certificate: Option<&Proven>,
        trace: &mut Trace,
    ) -> Result<Decided, Refused> {
        let limiting = self.consider(head, certificate, trace)?;
        let admission = limiting.settled(trace).await?;
        // While the rates were asked, it may have begun.
        if self.is_draining() {
            return Err(Refused::ShuttingDown);
        }
        Ok(if admission.permit.is_dry_run() { Decided::DryRun(admission) } else { Decided::Go(admission) })
    }

    /// Those of them that wait for nothing at all, with one snapshot of callers, rules and rates. Who is known, and
    /// refused before the rates were asked, hears how they stand.
    fn consider(
        &self,
        head: Result<Head, HeadFault>,
        certificate: Option<&Proven>,
        trace: &mut Trace,
    ) -> Result<Limiting, Refused> {
        let live = self.live.load();
        let considered = self.consider_by(&live, head, certificate, trace);
        if let (Err(_), Some(caller), Some(target)) = (&considered, &trace.caller, &trace.target) {
            trace.standings = live.rates.standings(caller, &target.session);
        }
        considered
    }

    fn consider_by(
        &self,
        live: &Live,
        head: Result<Head, HeadFault>,
        certificate: Option<&Proven>,
        trace: &mut Trace,
    ) -> Result<Limiting, Refused> {
        let accepted = accept::accept(head?, &self.forwarders, trace)?;
        if self.is_draining() {
            return Err(Refused::ShuttingDown);
        }
        let caller = authenticate::authenticate(accepted, certificate, &live.identity, &self.failed, trace)?;
        let permit = authorize::authorize(caller, &live.policy, &live.budgets, &*self.ledger, trace)?;
        limit::limit(permit, self.upstream.held_back(), &live.rates, &self.slots)
    }

    /// The stages that act. Runs to its end whatever the caller does.
    async fn carry_out(&self, admission: Admission, mut trace: Trace) -> Response<bytes::Bytes> {
        let _counted = InFlight::begin(&self.metrics);
        let deadline = trace.started + self.timeout;
        match intend::intend(admission, deadline, &self.upstream, self.ledger.as_ref(), &mut trace).await {
            Err(Unintended::Refused(refused)) => self.refusals.refuse(&refused, trace),
            #[cfg(test)]
            Err(Unintended::Replay(_)) if planted::is(Fault::NeverAnswered) => std::future::pending().await,
            Err(Unintended::Replay(replay)) => answer::replay(replay, &trace, &self.metrics),
            Ok(intent) => {
                let started = moment();
                let reply = forward::forward(intent, self.ledger.as_ref(), &self.upstream, &self.tasks).await;
                trace.mark("forward", started);
                let concluded = conclude::conclude(reply, self.ledger.as_ref(), &mut trace).await;
                answer::answer(concluded, &trace, &self.metrics)
            }
        }
    }
}

/// One request in the gauge, until this is dropped, by a panic too.
struct InFlight<'a>(&'a Metrics);

impl<'a> InFlight<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.in_flight.inc();
        Self(metrics)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.dec();
    }
}
