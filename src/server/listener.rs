//! Takes connections, no more than there may be.

use super::linger::{Linger, MOMENT};
use crate::error::Refused;
use crate::id::RequestId;
use crate::problem::Problem;
use crate::telemetry::Metrics;
use std::collections::HashMap;
use std::future::Future;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After a failed accept (no descriptors left, say): wait, don't spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// How many of those that are turned away may linger at once.
const LEAVING: usize = 16;

/// A bound port with its limits.
pub struct Listener {
    listener: TcpListener,
    most: usize,
    most_per_peer: usize,
    tls: bool,
}

#[derive(Default)]
struct Open {
    all: usize,
    by_peer: HashMap<IpAddr, usize>,
}

/// Counts one connection for as long as it lives.
struct Seat {
    open: Arc<Mutex<Open>>,
    peer: IpAddr,
    metrics: Metrics,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(count) = open.by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.by_peer.remove(&self.peer);
            }
        }
        self.metrics.connections.dec();
    }
}

impl Listener {
    /// Binds the port.
    ///
    /// # Errors
    /// The system's, such as the address being in use.
    pub async fn bind(address: SocketAddr, most: usize, most_per_peer: usize, tls: bool) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, most, most_per_peer, tls })
    }

    /// The address, with the port that the system chose where 0 was asked for.
    ///
    /// # Errors
    /// The system's.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    fn seat(&self, open: &Arc<Mutex<Open>>, peer: IpAddr, metrics: &Metrics) -> Option<Seat> {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = counts.by_peer.get(&peer).copied().unwrap_or(0);
        if counts.all >= self.most || of_peer >= self.most_per_peer {
            return None;
        }
        counts.all += 1;
        *counts.by_peer.entry(peer).or_default() += 1;
        metrics.connections.inc();
        Some(Seat { open: Arc::clone(open), peer, metrics: metrics.clone() })
    }

    /// Hands every connection to `serve` until `stop`, then waits for those that are open.
    pub async fn run<F, W>(self, metrics: Metrics, stop: CancellationToken, serve: F)
    where
        F: Fn(TcpStream, SocketAddr) -> W,
        W: Future<Output = ()> + Send + 'static,
    {
        let open = Arc::new(Mutex::new(Open::default()));
        let (connections, leaving) = (TaskTracker::new(), Arc::new(Semaphore::new(LEAVING)));
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(BACK_OFF).await;
                }
                Ok((stream, peer)) => match self.seat(&open, peer.ip(), &metrics) {
                    Some(seat) => {
                        let _ = stream.set_nodelay(true);
                        let work = serve(stream, peer);
                        connections.spawn(async move {
                            work.await;
                            drop(seat);
                        });
                    }
                    None => {
                        metrics.connections_refused.inc();
                        // Behind TLS there is nothing that could be said in time.
                        if !self.tls {
                            match Arc::clone(&leaving).try_acquire_owned() {
                                Ok(place) => drop(connections.spawn(async move {
                                    turn_away(stream).await;
                                    drop(place);
                                })),
                                Err(_) => drop(stream.try_write(&too_many())),
                            }
                        }
                    }
                },
            }
        }
        drop(self.listener);
        connections.close();
        connections.wait().await;
    }
}

/// Says why, and lingers: its request may be there already.
async fn turn_away(mut stream: TcpStream) {
    let telling = async {
        stream.write_all(&too_many()).await?;
        stream.shutdown().await
    };
    if let Ok(Ok(())) = tokio::time::timeout(MOMENT, telling).await {
        Linger::over(&mut stream).await;
    }
}

/// The whole answer to one connection too many.
fn too_many() -> Vec<u8> {
    let response = Problem::from(&Refused::TooManyConnections).into_response(RequestId::new());
    let mut bytes = Vec::with_capacity(1024);
    let length = response.body().len();
    let _ = write!(bytes, "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: {length}\r\n");
    for (name, value) in response.headers() {
        let _ = write!(bytes, "{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(response.body());
    bytes
}
