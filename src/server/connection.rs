//! One connection of a caller, from its first byte to its last.

use super::guard::{Desk, Guard, Patience};
use super::proxy;
use super::tls::Certificate;
use crate::clock::Timestamp;
use crate::config;
use crate::gateway::Gateway;
use crate::head::{Head, HeadFault};
use crate::identity::Proven;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONNECTION;
use axum::response::Response;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use ipnet::IpNet;
use rustls::ServerConnection;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// What every connection needs.
pub(super) struct Connection {
    router: Router,
    certificate: Option<Arc<Certificate>>,
    proxy_protocol: bool,
    trusted_proxies: Vec<IpNet>,
    patience: Patience,
    max_age: Duration,
    stop: CancellationToken,
}

/// What the guard found, for the path.
#[derive(Clone)]
struct Arrived {
    head: Result<Head, HeadFault>,
    peer: IpAddr,
    certificate: Option<Arc<Proven>>,
}

/// The router has no routes on purpose: a route would be matched on a decoded path, and the path decides on
/// the raw bytes that the guard judged.
async fn path(State(gateway): State<Arc<Gateway>>, mut request: Request) -> Response {
    let arrived = request.extensions_mut().remove::<Arrived>();
    let Arrived { head, peer, certificate } = arrived.unwrap_or_else(|| Arrived {
        head: Err(HeadFault::Malformed("the request was not judged")),
        peer: IpAddr::from([0, 0, 0, 0]),
        certificate: None,
    });
    let mut response = gateway.handle(head, peer, certificate.clone()).await;
    // Who connects anew has to show one that is valid.
    if certificate.is_some_and(|proven| proven.has_expired(Timestamp::now())) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// What the client proved in its handshake, if it showed a certificate.
fn proven(session: &ServerConnection) -> Result<Option<Arc<Proven>>, &'static str> {
    let Some(certificate) = session.peer_certificates().and_then(<[_]>::first) else { return Ok(None) };
    Proven::read(certificate).map(|proven| Some(Arc::new(proven))).ok_or("its certificate cannot be read")
}

impl Connection {
    pub(super) fn new(
        config: &config::Listen,
        certificate: Option<Arc<Certificate>>,
        gateway: Arc<Gateway>,
        stop: CancellationToken,
    ) -> Self {
        Self {
            router: Router::new().fallback(path).with_state(gateway),
            certificate,
            proxy_protocol: config.proxy_protocol,
            trusted_proxies: config.trusted_proxies.clone(),
            patience: Patience { head: config.head_timeout, idle: config.idle_timeout },
            max_age: config.max_age,
            stop,
        }
    }

    /// Serves until the caller or we close. Never fails: what goes wrong on a connection ends it.
    pub(super) async fn serve(self: Arc<Self>, mut stream: TcpStream, peer: SocketAddr) {
        let mut peer = peer.ip().to_canonical();
        if self.proxy_protocol {
            // Who is not trusted is not waited for: there is no limit for each peer here, and it would keep its seat.
            if !self.trusted_proxies.iter().any(|net| net.contains(&peer)) {
                tracing::warn!(%peer, "a connection that is not from a trusted proxy was closed");
                return;
            }
            let told = tokio::time::timeout(self.patience.head, proxy::read(&mut stream)).await;
            let Ok(Some(told)) = told else {
                tracing::warn!(%peer, "a connection without a PROXY header was closed");
                return;
            };
            peer = told.unwrap_or(peer);
        }
        match &self.certificate {
            None => self.speak(stream, peer, None).await,
            Some(certificate) => {
                let handshake = tokio::time::timeout(self.patience.head, certificate.acceptor().accept(stream)).await;
                match handshake {
                    Ok(Ok(stream)) => match proven(stream.get_ref().1) {
                        Ok(proven) => self.speak(stream, peer, proven).await,
                        Err(what) => tracing::warn!(%peer, what, "a connection was closed"),
                    },
                    Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
                    Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
                }
            }
        }
    }

    async fn speak<S>(&self, stream: S, peer: IpAddr, certificate: Option<Arc<Proven>>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let desk = Desk::default();
        let guard = Guard::new(stream, desk.clone(), self.patience);
        let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
            let (router, desk, certificate) = (self.router.clone(), desk.clone(), certificate.clone());
            async move {
                let mut request = request.map(Body::new);
                if let Some(head) = desk.take() {
                    request.extensions_mut().insert(Arrived { head, peer, certificate });
                }
                let response = router.oneshot(request).await;
                desk.done();
                response
            }
        });
        // The guard times the heads: hyper reads what stands ready, and needs no timer of its own for each request.
        let serving = http1::Builder::new()
            .header_read_timeout(None)
            .half_close(true)
            .max_buf_size(2 * crate::head::MAX_BYTES)
            .serve_connection(TokioIo::new(guard), service);
        let mut serving = pin!(serving);
        tokio::select! {
            _ = serving.as_mut() => return,
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(self.max_age) => {}
        }
        // hyper would close on a head of which it has seen nothing yet, since the guard still collects it.
        if desk.stop() {
            serving.as_mut().graceful_shutdown();
        }
        let _ = serving.await;
    }
}
