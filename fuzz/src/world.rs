//! The gateway as it is served, in this process: its caller port, its path, its ledger, and a provider that keeps
//! every byte it read. All of it runs on the thread that asks, so one input at a time is at work.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;
use wasend_gateway::config::load;
use wasend_gateway::gateway::Gateway;
use wasend_gateway::ledger::sqlite::Sqlite;
use wasend_gateway::rate::Store;
use wasend_gateway::server::{Listener, serve_callers};
use wasend_gateway::telemetry::Metrics;
use wasend_gateway::upstream::Upstream;

/// SHA-256 of the token.
const HASH: &str = "e632b7095b0bf32c260fa4c539e9fd7b852d0de454e9be26f24d0d6f91d069d3";
const KEY: &str = "fake";
const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 16\r\n\r\n{\"success\":true}";

pub(crate) struct World {
    pub(crate) runtime: Runtime,
    pub(crate) callers: SocketAddr,
    provider: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    _folder: tempfile::TempDir,
}

/// Keeps what one connection sends, a head at a time; half a head is kept as it is.
async fn provide(mut stream: TcpStream, heads: Arc<Mutex<Vec<String>>>) {
    let (mut arrived, mut buffer) = (Vec::new(), [0; 4096]);
    let keep = |bytes: &[u8]| {
        heads.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(bytes).into_owned());
    };
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        arrived.extend_from_slice(&buffer[..count]);
        while let Some(end) = arrived.windows(4).position(|window| window == b"\r\n\r\n") {
            keep(&arrived.drain(..end + 4).collect::<Vec<u8>>());
            if stream.write_all(ANSWER).await.is_err() {
                return;
            }
        }
    }
    if !arrived.is_empty() {
        keep(&arrived);
    }
}

impl World {
    pub(crate) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = tempfile::tempdir().expect("a folder");
        let (callers, provider, heads) = runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the provider");
            let provider = listener.local_addr().expect("its address");
            let heads = Arc::new(Mutex::new(Vec::new()));
            let kept = Arc::clone(&heads);
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(provide(stream, Arc::clone(&kept)));
                }
            });
            (serve(folder.path(), provider).await, provider, heads)
        });
        Self { runtime, callers, provider, heads, _folder: folder }
    }

    /// What the provider has read since this was last asked.
    pub(crate) fn take_heads(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The only bytes that may ever reach the provider for this path.
    pub(crate) fn canonical(&self, path: &str) -> String {
        format!(
            "DELETE {path} HTTP/1.1\r\nauthorization: Bearer {KEY}\r\naccept: */*\r\nhost: {}\r\n\r\n",
            self.provider
        )
    }
}

/// The parts of `serve` that a caller can reach.
async fn serve(folder: &std::path::Path, provider: SocketAddr) -> SocketAddr {
    let text = format!(
        "[upstream]\nurl = \"http://{provider}\"\napi_key_file = \"key\"\n[ledger]\npath = \"ledger\"\n[[callers]]\nname = \"c\"\n\
         tokens = [{{ id = \"t\", sha256 = \"{HASH}\" }}]\n[[callers.allow]]\nsessions = [\"*\"]\ngroups = [\"*\"]\n"
    );
    let file = folder.join("gateway.toml");
    std::fs::write(folder.join("key"), KEY).expect("a key file");
    std::fs::write(&file, text).expect("a configuration");
    let config = load(&file).expect("a good configuration").config;
    let (metrics, _) = Metrics::new();
    let (ledger, _) = Sqlite::open(&config.ledger, metrics.clone()).expect("a ledger");
    let upstream = Upstream::new(&config.upstream, tokio::runtime::Handle::current()).expect("a way to the provider");
    let store = Store::new(&config.limits, metrics.clone()).expect("rates");
    let gateway = Arc::new(Gateway::new(&config, store, Arc::new(ledger), Arc::new(upstream), metrics));
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let listener = Listener::bind(any, 1024, 1024, false).await.expect("a port for callers");
    let address = listener.address().expect("its address");
    tokio::spawn(serve_callers(&config.listen, listener, None, gateway, CancellationToken::new()));
    address
}
