//! What people would write themselves, as a point of reference: an axum handler that forwards with reqwest.
//! No ledger, no policy, no limits, no strictness. `benches/whole.sh` measures it beside the gateway.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::unwrap_used,
    missing_docs,
    reason = "not part of the product"
)]

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::delete;

type Upstream = (reqwest::Client, String, String);

async fn forward(
    State((client, url, key)): State<Upstream>,
    Path((session, group)): Path<(String, String)>,
) -> (StatusCode, String) {
    let url = format!("{url}/{session}/groups/{group}/picture");
    match client.delete(url).bearer_auth(key).send().await {
        Ok(response) => {
            let status = StatusCode::from_u16(response.status().as_u16()).unwrap();
            (status, response.text().await.unwrap_or_default())
        }
        Err(_) => (StatusCode::BAD_GATEWAY, String::new()),
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let (listen, url, key) = (arguments.next().unwrap(), arguments.next().unwrap(), arguments.next().unwrap());
    let _ = rustls::crypto::ring::default_provider().install_default();
    let router = Router::new().route("/{session}/groups/{group}/picture", delete(forward));
    let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
    axum::serve(listener, router.with_state((reqwest::Client::new(), url, key))).await.unwrap();
}
