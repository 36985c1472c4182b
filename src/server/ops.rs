//! The operators' port: is it alive, is it ready, its numbers; and the log.

use super::api::Api;
use super::hurried::Hurried;
use super::tiles::Published;
use super::tls::Certificate;
use crate::error::Withheld;
use crate::gateway::Gateway;
use crate::gateway::brake::Reasons;
use crate::id::RequestId;
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use prometheus_client::registry::Registry;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

const HEAD: Duration = Duration::from_secs(10);
const NOT_THERE: &str = "there are /livez, /readyz, /metrics, /log/ and /api/v1/";

#[derive(Clone)]
struct Operations {
    gateway: Arc<Gateway>,
    registry: Arc<Registry>,
}

pub(super) fn router(gateway: Arc<Gateway>, registry: Registry, log: Published) -> Router {
    let log = Arc::new(log);
    let api = Arc::new(Api::new(log.operators(), Arc::clone(&gateway)));
    let api = any(move |request: Request| plain(request, Arc::clone(&api), Api::answer));
    // Who may not read the log is told so for whatever is under it.
    let log = any(move |request: Request| plain(request, Arc::clone(&log), Published::answer));
    Router::new()
        .route("/log", log.clone())
        .route("/log/", log.clone())
        .route("/log/{*path}", log)
        .route("/api/v1", api.clone())
        .route("/api/v1/", api.clone())
        .route("/api/v1/{*path}", api)
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(async || withheld(Withheld::NotFound(NOT_THERE)))
        .method_not_allowed_fallback(async || withheld(Withheld::MethodNotAllowed("GET, HEAD")))
        .with_state(Operations { gateway, registry: Arc::new(registry) })
}

/// What is asked with a token has to be plain: HTTP/1.1, one `Host`, and no body but one whose length stands in its head.
/// hyper takes more than that, which something in front could read in another way. Probes may ask as they like.
async fn plain<H, A: Future<Output = Response>>(request: Request, of: H, answer: impl Fn(H, Request) -> A) -> Response {
    let fields = request.headers();
    let one_host = fields.get_all(header::HOST).iter().count() == 1;
    let peer = request.extensions().get::<Peer>().map(|Peer(ip)| ip.to_string());
    let refused = |status: StatusCode| {
        tracing::warn!(status = status.as_u16(), peer, "the operators' port refused who asked");
    };
    if request.version() == Version::HTTP_11 && one_host && !fields.contains_key(header::TRANSFER_ENCODING) {
        let response = answer(of, request).await;
        if matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            refused(response.status());
        }
        return response;
    }
    let what =
        "send HTTP/1.1 with one `Host` and, where there is a body, `Content-Length` instead of `Transfer-Encoding`";
    let mut response = withheld(Withheld::BadRequest(what.to_owned()));
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    refused(response.status());
    response
}

/// Red (503) for what keeps this process from serving; `degraded` (200) for what does not. The hash of the policy in force
/// tells replicas apart.
async fn readyz(State(Operations { gateway, .. }): State<Operations>) -> Response {
    let Reasons { red, degraded } = gateway.reasons();
    let (code, status) = match (red.is_empty(), degraded.is_empty()) {
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "unready"),
        (true, false) => (StatusCode::OK, "degraded"),
        (true, true) => (StatusCode::OK, "ready"),
    };
    let reasons = [red, degraded].concat();
    let body = serde_json::json!({"status": status, "reasons": reasons, "policy": &*gateway.policy()});
    (code, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn metrics(State(Operations { registry, .. }): State<Operations>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

fn withheld(why: Withheld) -> Response {
    Problem::from(why).into_response(RequestId::new()).map(Body::from)
}

/// Who asks, as far as its connection knows.
#[derive(Clone)]
struct Peer(IpAddr);

pub(super) async fn serve(
    (stream, peer): (TcpStream, SocketAddr),
    certificate: Option<Arc<Certificate>>,
    router: Router,
    stop: CancellationToken,
) {
    let router = router.layer(Extension(Peer(peer.ip().to_canonical())));
    match certificate {
        None => speak(stream, router, stop).await,
        Some(certificate) => {
            let handshake = tokio::time::timeout(HEAD, certificate.acceptor().accept(stream)).await;
            if let Ok(Ok(stream)) = handshake {
                speak(stream, router, stop).await;
            }
        }
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, router: Router, stop: CancellationToken) {
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(crate::head::MAX_BYTES)
        .serve_connection(TokioIo::new(Hurried::new(stream)), TowerToHyperService::new(router));
    let mut serving = pin!(serving);
    tokio::select! {
        _ = serving.as_mut() => return,
        () = stop.cancelled() => {}
    }
    serving.as_mut().graceful_shutdown();
    let _ = serving.await;
}
