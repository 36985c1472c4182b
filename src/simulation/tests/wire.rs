//! The way to a provider that is the world's: a connection is a pair of buffers, and the bytes on it are real. hyper
//! writes the request and reads the answer, so that what is cut, late or no HTTP is judged as from the network.
//!
//! A write is the moment at which the kernel has the bytes. Whether and when the provider reads them is its own matter,
//! also when the process that wrote them is no more.

#[path = "provider.rs"]
pub(crate) mod provider;

use super::{Upstream, answer};
use crate::config;
use crate::error::Failed;
use crate::simulation::World;
use http::header::{HOST, HeaderValue};
use hyper_util::rt::TokioIo;
use provider::{Fate, Then};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One request on its way, and what became of it.
#[derive(Debug)]
pub(crate) struct Visit {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) fate: Fate,
    /// The number of the intent that it was handed over for.
    pub(crate) of: Option<u64>,
    /// The kernel has its head.
    pub(crate) handed: bool,
    /// The provider has read its head.
    pub(crate) read: bool,
    /// When the whole answer was there, in milliseconds.
    pub(crate) arrived_ms: Option<u64>,
    /// The whole answer was read by the gateway.
    pub(crate) heard: bool,
}

impl Upstream {
    /// One that reaches this world's provider.
    pub(crate) fn simulated(world: &Arc<World>, config: &config::Upstream) -> Result<Self, String> {
        Self::over(super::Way::Simulated(Way(Arc::clone(world))), config)
    }
}

pub(crate) struct Way(Arc<World>);

impl Way {
    /// Connects and sends, as reqwest does with a client like ours.
    #[expect(clippy::disallowed_methods, reason = "the client's own task, which dies with the process")]
    pub(super) async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, Failed> {
        self.0.alive().await;
        let (visit, fate) = self.0.sets_out(request.method().as_str(), request.url().path());
        let patience = u64::try_from(super::CONNECT_AT_MOST.as_millis()).unwrap();
        self.0.wait(fate.connects_in_ms.min(patience)).await;
        if fate.is_refused || fate.connects_in_ms > patience {
            self.0.happened(format_args!("visit {visit} finds no connection"));
            return Err(Failed::UpstreamUnreachable);
        }
        let wire = Wire { world: Arc::clone(&self.0), visit, fate, pipe: Arc::default() };
        let lost = |error: hyper::Error| answer::lost(&error);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await.map_err(lost)?;
        tokio::spawn(connection);
        let mut request = http::Request::<reqwest::Body>::try_from(request).map_err(|error| answer::lost(&error))?;
        let path = request.uri().path_and_query().unwrap().clone();
        *request.uri_mut() = path.into();
        request.headers_mut().insert(HOST, HeaderValue::from_static("provider.invalid"));
        let response = sender.send_request(request).await.map_err(lost)?;
        Ok(response.map(reqwest::Body::wrap).into())
    }
}

/// What is on the wire.
#[derive(Default)]
struct Pipe {
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    taken: usize,
    then: Option<Then>,
    waker: Option<Waker>,
}

/// The gateway's end of a connection.
struct Wire {
    world: Arc<World>,
    visit: usize,
    fate: Fate,
    pipe: Arc<Mutex<Pipe>>,
}

impl AsyncWrite for Wire {
    #[expect(clippy::disallowed_methods, reason = "the provider does not end with a request's task")]
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.world.is_dead() {
            return Poll::Pending;
        }
        let mut pipe = self.pipe.lock().unwrap();
        if pipe.then == Some(Then::Reset) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let was_whole = is_whole(&pipe.inbox);
        pipe.inbox.extend_from_slice(bytes);
        if !was_whole && is_whole(&pipe.inbox) {
            self.world.handed_over(self.visit, &pipe.inbox);
            tokio::spawn(answers(Arc::clone(&self.world), self.visit, self.fate.clone(), Arc::clone(&self.pipe)));
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|four| four == b"\r\n\r\n")
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.world.is_dead() {
            return Poll::Pending;
        }
        let mut pipe = self.pipe.lock().unwrap();
        let length = (pipe.outbox.len() - pipe.taken).min(into.remaining());
        if length > 0 {
            into.put_slice(&pipe.outbox[pipe.taken..pipe.taken + length]);
            let had = pipe.taken;
            pipe.taken += length;
            if self.fate.reply.as_ref().is_some_and(|reply| (had + 1..=pipe.taken).contains(&reply.length)) {
                self.world.heard(self.visit);
            }
            return Poll::Ready(Ok(()));
        }
        match pipe.then {
            Some(Then::Ends) => Poll::Ready(Ok(())),
            Some(Then::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Then::Stays) | None => {
                pipe.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Pipe {
    fn push(&mut self, bytes: &[u8], then: Option<Then>) {
        self.outbox.extend_from_slice(bytes);
        self.then = then;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The provider's end of it, once a head has been handed over.
async fn answers(world: Arc<World>, visit: usize, fate: Fate, pipe: Arc<Mutex<Pipe>>) {
    world.wait(fate.reads_in_ms).await;
    if fate.is_read {
        world.reads(visit);
        world.alive().await;
    }
    let Some(reply) = fate.reply.filter(|_| fate.is_read) else {
        if let Some(after_ms) = fate.resets_in_ms {
            world.wait(after_ms).await;
            pipe.lock().unwrap().push(b"", Some(Then::Reset));
        }
        return;
    };
    world.wait(reply.after_ms).await;
    let piece = reply.bytes.len().div_ceil(reply.pieces);
    for piece in reply.bytes.chunks(piece.max(1)) {
        pipe.lock().unwrap().push(piece, None);
        world.wait(reply.gap_ms).await;
    }
    pipe.lock().unwrap().push(b"", Some(reply.then));
    world.arrived(visit);
}
