//! The two ports. Nothing of one answers on the other.

mod api;
mod connection;
pub mod control;
mod guard;
mod hurried;
mod linger;
mod listener;
mod ops;
mod proxy;
mod tiles;
mod tls;

pub use listener::Listener;
pub use tiles::Published;
pub use tls::Certificate;

use crate::config;
use crate::gateway::Gateway;
use connection::Connection;
use prometheus_client::registry::Registry;
use std::future::Future;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves the caller port until `stop`; connections end between two requests then.
pub fn serve_callers(
    config: &config::Listen,
    listener: Listener,
    certificate: Option<Arc<Certificate>>,
    gateway: Arc<Gateway>,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let metrics = gateway.metrics.clone();
    let connection = Arc::new(Connection::new(config, certificate, gateway, stop.clone()));
    listener.run(metrics, stop, move |stream, peer| Arc::clone(&connection).serve(stream, peer))
}

/// Serves the operators' port until `stop`. Waits for nothing that the callers' port keeps busy, so that on a runtime
/// of its own it answers whatever that one does.
pub fn serve_ops(
    listener: Listener,
    certificate: Option<Arc<Certificate>>,
    gateway: Arc<Gateway>,
    registry: Registry,
    log: Published,
    stop: CancellationToken,
) -> impl Future<Output = ()> + use<> {
    let (metrics, _) = crate::telemetry::Metrics::new();
    let router = ops::router(gateway, registry, log);
    let stopped = stop.clone();
    listener.run(metrics, stop, move |stream, peer| {
        ops::serve((stream, peer), certificate.clone(), router.clone(), stopped.clone())
    })
}
