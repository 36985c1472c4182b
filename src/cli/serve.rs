//! `serve`: builds everything, in the order in which it can fail, and runs it until it is told to stop.

pub(super) mod process;
mod reload;

use super::{Exit, page};
use crate::config::{self, Config};
use crate::failpoint;
use crate::gateway::Gateway;
use crate::identity::Operators;
use crate::ledger::Ledger;
use crate::ledger::postgres::Postgres;
use crate::ledger::sqlite::Sqlite;
use crate::ledger::stored::Stored;
use crate::rate::Store;
use crate::resolver::Resolver;
use crate::server::control::{Control, Reach};
use crate::server::{Certificate, Listener, Published, serve_callers, serve_ops};
use crate::telemetry::{Metrics, start_logging};
use crate::upstream::Upstream;
use reload::Beginning;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const FLUSH: Duration = Duration::from_secs(60);
/// On the operators' port, in all and from one address: one peer alone keeps no probe of others out.
const OPS_CONNECTIONS: (usize, usize) = (64, 32);

pub(super) fn run(file: &Path) -> Exit {
    let (loaded, seen) = reload::read_as_one(file);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(faults) => return page::faults(file, &faults),
    };
    let watched = Beginning::new(&loaded.config, seen);
    let _log = match start_logging(loaded.config.log.level, loaded.config.log.format) {
        Ok(end) => end,
        Err(error) => {
            page::complain(format_args!("the log's thread cannot be started: {error}"));
            return Exit::Unavailable;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    process::keep_files_to_ourselves();
    #[cfg(debug_assertions)]
    crate::failpoint::arm(loaded.failpoints);
    let runtimes = process::operators_runtime().and_then(|operators| Ok((process::runtimes()?, operators)));
    let ((runtime, provider), operators) = match runtimes {
        Ok(runtimes) => runtimes,
        Err(error) => {
            page::complain(format_args!("the runtime cannot be started: {error}"));
            return Exit::Unavailable;
        }
    };
    let apart = (provider.handle(), &operators);
    let served = runtime.block_on(serve(file, (loaded.config, loaded.effective), watched, apart));
    // Not waited for: a question for the provider's address may have no answer for long.
    provider.shutdown_background();
    served.unwrap_or_else(|exit| exit)
}

fn usage(what: impl Display) -> Exit {
    page::complain(what);
    Exit::Usage
}

fn certificate(key: &str, tls: Option<&config::Tls>) -> Result<Option<Arc<Certificate>>, Exit> {
    let Some(tls) = tls else { return Ok(None) };
    Certificate::new(tls)
        .map(|certificate| Some(Arc::new(certificate)))
        .map_err(|what| usage(format_args!("{key}: {what}")))
}

async fn bind(
    key: &'static str,
    address: SocketAddr,
    limits: (usize, usize),
    tls: bool,
) -> Result<(Listener, SocketAddr), Exit> {
    let bound = async {
        let listener = Listener::bind(address, limits.0, limits.1, tls).await?;
        let address = listener.address()?;
        Ok((listener, address))
    };
    bound.await.map_err(|error: std::io::Error| {
        page::complain(format_args!("{key}: {address} cannot be listened on: {error}"));
        Exit::Unavailable
    })
}

/// A ledger in a folder is held by this process alone: it alone removes entries, and listens there for commands.
type Held = (Arc<Sqlite>, Control);

fn ledger(config: &Config, metrics: &Metrics) -> Result<(Arc<dyn Ledger>, Option<Held>), Exit> {
    let (config, budget, metrics) = (&config.ledger, config.upstream.timeout, metrics.clone());
    if config.postgres.is_some() {
        let (ledger, _) = Postgres::open(config, budget, metrics).map_err(|error| page::ledger(&error))?;
        return Ok((Arc::new(ledger), None));
    }
    let (ledger, recovered) = Sqlite::open(config, metrics).map_err(|error| page::ledger(&error))?;
    if recovered.unknown > 0 {
        tracing::warn!(
            intents = recovered.unknown,
            "intents of an earlier process had no outcome: they are unknown now"
        );
    }
    // Bound by who holds the lock, and nobody else.
    let control = Control::bind(&config.path).map_err(|error| {
        page::complain(format_args!("{}: control.sock cannot be made: {error}", config.path.display()));
        Exit::Unavailable
    })?;
    let ledger = Arc::new(ledger);
    Ok((Arc::<Sqlite>::clone(&ledger), Some((ledger, control))))
}

/// Does what commands ask for, until `stop`, where this process alone holds the ledger.
async fn controlled(held: Option<Held>, gateway: Arc<Gateway>, stop: CancellationToken) {
    if let Some((store, control)) = held {
        control.run(Reach { store, gateway }, stop).await;
    }
}

/// The log for the operators' port: each request reads the ledger on its own, beside the writer.
fn published(ledger: &config::Ledger, operators: Arc<Operators>) -> Published {
    let ledger = ledger.clone();
    Published::new(operators, Box::new(move || Ok(Box::new(Stored::open(&ledger)?))))
}

/// Connects to the shared rates, where there are some, until `stop`. Without them it goes on: it refuses.
async fn reach(store: &Store, ports: &TaskTracker, stop: &CancellationToken) {
    if let Store::Redis(redis) = store {
        ports.spawn(Arc::clone(redis).run(stop.clone()));
        redis.reached().await;
    }
}

/// Waits for what is under way, at most `patience`. `false`: a second signal ends the process at once.
async fn drained(gateway: &Gateway, patience: Duration, signals: &mut Signals) -> bool {
    tracing::info!(under_way = gateway.tasks.len(), "stopping: no new requests; what is under way is finished");
    tokio::select! {
        drained = gateway.tasks.drain(patience) => if !drained {
            tracing::error!(left = gateway.tasks.len(), "requests are still under way: the next start records them as unknown");
        },
        () = signals.terminated() => {
            tracing::error!(left = gateway.tasks.len(), "told twice: ending at once; what is under way is recorded as unknown, by the next start at the latest");
            return false;
        }
    }
    true
}

async fn serve(
    file: &Path,
    (mut config, effective): (Config, Vec<[String; 3]>),
    watched: Beginning,
    (provider_runtime, ops_runtime): (&Handle, &Handle),
) -> Result<Exit, Exit> {
    let faults = super::check_config::of_files(&config);
    if !faults.is_empty() {
        return Err(page::faults(file, &faults));
    }
    process::outlive_long_files().map_err(|_| Exit::Unavailable)?;
    let upstream = Upstream::new(&config.upstream, provider_runtime.clone()).map_err(usage)?;
    let callers_tls = certificate("listen.tls", config.listen.tls.as_ref())?;
    let ops_tls = certificate("ops.tls", config.ops.tls.as_ref())?;
    let connections = process::connections(&config.listen).map_err(|what| {
        page::complain(what);
        Exit::Unavailable
    })?;
    let limits =
        (connections, if config.listen.proxy_protocol { usize::MAX } else { config.listen.max_connections_per_peer });
    let (callers, listen) = bind("listen.address", config.listen.address, limits, callers_tls.is_some()).await?;
    let ports = TaskTracker::new();
    let ops = bind("ops.address", config.ops.address, OPS_CONNECTIONS, ops_tls.is_some());
    let (ops_listener, ops) = ports.spawn_on(ops, ops_runtime).await.unwrap_or(Err(Exit::Unavailable))?;
    let (metrics, registry) = Metrics::new();
    let (ledger, held) = ledger(&config, &metrics)?;
    let upstream = Arc::new(upstream);
    let resolver = Resolver::new(config.resolver, Arc::clone(&ledger), Arc::clone(&upstream), metrics.clone());
    let store = Store::new(&config.limits, metrics.clone()).map_err(usage)?;
    let gateway = Arc::new(Gateway::new(&config, store, Arc::clone(&ledger), upstream, metrics));
    // The gateway has its own form of them.
    config.callers = Vec::new();
    let (stop, stop_ops) = (CancellationToken::new(), CancellationToken::new());
    let mut signals = Signals::new()?;
    let accepting =
        ports.spawn(serve_callers(&config.listen, callers, callers_tls.clone(), Arc::clone(&gateway), stop.clone()));
    let operators = Arc::new(Operators::new(&config.ops.operators));
    let log = published(&config.ledger, Arc::clone(&operators));
    let serving = serve_ops(ops_listener, ops_tls.clone(), Arc::clone(&gateway), registry, log, stop_ops.clone());
    ports.spawn_on(serving, ops_runtime);
    let stop_control = CancellationToken::new();
    let controlled = ports.spawn(controlled(held, Arc::clone(&gateway), stop_control.clone()));
    let resolving = ports.spawn(resolver.run(stop.clone()));
    let shared = (Arc::clone(&gateway), operators);
    let reload = watched.start((file.to_owned(), effective), shared, [callers_tls, ops_tls])?;
    reach(&gateway.store, &ports, &stop_ops).await;
    page::json(&Ready { ready: true, listen, ops });
    tracing::info!(%listen, %ops, version = env!("CARGO_PKG_VERSION"), policy = &*gateway.policy(), "ready");

    let exit = signals.until_told(&gateway, &reload).await;
    failpoint::hit("stop");
    gateway.start_draining();
    stop.cancel();
    if !drained(&gateway, config.listen.drain_timeout, &mut signals).await {
        return Ok(Exit::Restart);
    }
    let ended = futures_util::future::join(accepting, resolving);
    let _ = tokio::time::timeout(Duration::from_secs(2), ended).await;
    gateway.flush_refusals();
    // Before the lock goes: the socket of the next process must stay.
    stop_control.cancel();
    let _ = controlled.await;
    ledger.close().await;
    stop_ops.cancel();
    tracing::info!("stopped");
    Ok(exit)
}

/// What is printed when callers can call.
#[derive(serde::Serialize)]
struct Ready {
    ready: bool,
    listen: SocketAddr,
    ops: SocketAddr,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self, Exit> {
        let on = |kind| signal(kind).map_err(|_| Exit::Unavailable);
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
            hangup: on(SignalKind::hangup())?,
        })
    }

    async fn terminated(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Serves until a signal or the ledger ends it. SIGHUP goes to `reload`.
    async fn until_told(&mut self, gateway: &Gateway, reload: &Sender<()>) -> Exit {
        let mut flush = tokio::time::interval(FLUSH);
        let mut broken = gateway.ledger.broken();
        loop {
            tokio::select! {
                () = &mut broken => return Exit::Restart,
                _ = flush.tick() => gateway.flush_refusals(),
                _ = self.hangup.recv() => if reload.send(()).is_err() {
                    tracing::error!("the thread that reloads has ended: SIGHUP and changed files do nothing until a restart");
                },
                _ = self.terminate.recv() => return Exit::Done,
                _ = self.interrupt.recv() => return Exit::Done,
            }
        }
    }
}
