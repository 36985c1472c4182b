//! A stand-in for the provider: the routes for the picture of a group, in memory, on a port of this machine.
//!
//! Demo, tests and integrators send to it what would otherwise be irreversible. Every well-formed group has a
//! picture until it is deleted, per session; a deleted one is 404 until it is set again. `X` and `X@g.us` are
//! one group. Only DELETE can be made to misbehave, so that GET always tells what really became of a picture.
//!
//! It misbehaves where the group id says so (`answer-500`, `answer-500-anything@g.us`; one that begins so and means
//! nothing, such as `answer-501`, is 400), or where the control route was told so, which goes before. A DELETE without the key is 401 and uses no order up. The control
//! routes need no key:
//! - `POST /_sandbox/next` with `{"behave": "answer-500", "times": 2}`: the next two DELETEs. Orders wait in a
//!   row. `hang-up-before-reading` means the next connections instead, and ends those that are idle.
//! - `GET /_sandbox/seen`: what was seen, oldest first. Control requests are not in it.
//! - `POST /_sandbox/reset`: as after the start.
//!
//! | name | answer to DELETE | picture |
//! |---|---|---|
//! | `answer-202` `-204` `-400` `-401` `-403` `-404` `-429` `-500` `-502` `-503` | that status; 429 with `Retry-After: 7` | stays |
//! | `answer-false` | 200 with `success: false` | stays |
//! | `answer-redirect` | 307 to another path here | stays |
//! | `answer-garbage` | 200 with what is not JSON | stays |
//! | `cut-body` | 200 with less body than announced | gone |
//! | `slow-<ms>` | the proper one, at most 60 s late | gone at once |
//! | `hang-up-before-reading` | none | stays |
//! | `hang-up-after-reading` | none | gone |
//! | `hang-up-lost` | none | stays |

mod behaviour;
mod pictures;
mod plan;
mod provider;
mod reply;
mod seen;
#[cfg(test)]
mod tests;

pub use seen::{Answer, Authorization, Seen};

use crate::secret::Secret;
use behaviour::Behaviour;
use bytes::Bytes;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use provider::{Provider, Treatment};
use reply::{Body, HangUp};
use seen::{Key, Log};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

const MOST_CONNECTIONS: usize = 1024;
const MOST_SEEN: usize = 10_000;
const LARGEST_HEAD: usize = 16 * 1024;
const LARGEST_BODY: usize = 64 * 1024;
const READ_WITHIN: Duration = Duration::from_secs(30);
/// After a failed accept (no descriptors left, say): wait, don't spin.
const BACK_OFF: Duration = Duration::from_millis(50);

/// The stand-in. It answers to one key, which it shows to nobody.
pub struct Sandbox {
    key: Key,
    state: Mutex<State>,
    /// Grows when the connections there are have to end.
    generation: watch::Sender<u64>,
    tell: Box<dyn Fn(&Seen) + Send + Sync>,
}

/// The words by which a group id tells the sandbox to misbehave, for a help text.
#[must_use]
pub fn words() -> String {
    behaviour::of_groups().collect::<Vec<_>>().join(", ")
}

struct State {
    provider: Provider,
    log: Log,
}

impl State {
    fn new() -> Self {
        Self { provider: Provider::new(), log: Log::new(MOST_SEEN) }
    }
}

enum Control {
    Next,
    Seen,
    Reset,
}

impl Control {
    fn route(path: &str) -> Option<Self> {
        match path {
            "/_sandbox/next" => Some(Self::Next),
            "/_sandbox/seen" => Some(Self::Seen),
            "/_sandbox/reset" => Some(Self::Reset),
            _ => None,
        }
    }
}

impl Sandbox {
    /// Takes the key that requests must bring as `Authorization: Bearer <key>`; an empty one lets nobody in.
    /// `tell` is called once for each request, control requests aside, before it is answered. It must not block.
    #[must_use]
    pub fn new(key: Secret<String>, tell: impl Fn(&Seen) + Send + Sync + 'static) -> Self {
        Self {
            key: Key::new(&key),
            state: Mutex::new(State::new()),
            generation: watch::Sender::new(0),
            tell: Box::new(tell),
        }
    }

    /// Serves until `stop` resolves; whatever is under way then is cut off.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                    Ok((stream, _)) => self.admit(stream, &mut connections),
                    Err(_) => tokio::time::sleep(BACK_OFF).await,
                },
            }
        }
        connections.shutdown().await;
    }

    fn admit(self: &Arc<Self>, stream: TcpStream, connections: &mut JoinSet<()>) {
        // Joined before the plan is asked: an order that comes in between then ends this connection as an idle one.
        let generation = self.generation.subscribe();
        if self.state().provider.plan.next_connection_hangs_up() {
            drop(stream);
            self.note(Seen::nothing());
            return;
        }
        connections.spawn(Arc::clone(self).attend(stream, generation));
    }

    async fn attend(self: Arc<Self>, stream: TcpStream, mut generation: watch::Receiver<u64>) {
        let born = *generation.borrow_and_update();
        // Without it an answer can wait for the peer's delayed acknowledgement; it works without, too.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.answer(request, born));
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(READ_WITHIN)
                .max_buf_size(LARGEST_HEAD)
                .serve_connection(TokioIo::new(stream), service)
        );
        loop {
            tokio::select! {
                // An error here is the peer's, or a hang-up that was ordered and noted.
                _ = connection.as_mut() => return,
                _ = generation.changed() => connection.as_mut().graceful_shutdown(),
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>, born: u64) -> Result<Response<Body>, HangUp> {
        let (head, body) = request.into_parts();
        // The order to hang up reached this connection together with a request: nothing of it counts as read.
        if *self.generation.borrow() != born {
            self.note(Seen::nothing());
            return Err(HangUp(Behaviour::HangUpBeforeReading));
        }
        let body = read(body).await;
        if let Some(control) = Control::route(head.uri.path()) {
            return Ok(body.map_or_else(unread, |body| self.control(&control, &head.method, &body)));
        }
        let treatment = self.treat(&head, body);
        let answer = match &treatment.reply {
            Ok(response) => Answer::Status(response.status().as_u16()),
            Err(HangUp(how)) => Answer::HungUp(how.to_string()),
        };
        self.note(self.key.describe(&head, answer, treatment.behaviour));
        if !treatment.wait.is_zero() {
            tokio::time::sleep(treatment.wait).await;
        }
        treatment.reply
    }

    fn treat(&self, head: &Parts, body: Result<Bytes, StatusCode>) -> Treatment {
        match body {
            Ok(body) => self.state().provider.treat(head, self.key.judge(head), &body),
            Err(status) => Treatment::proper(unread(status)),
        }
    }

    fn control(&self, route: &Control, method: &Method, body: &[u8]) -> Response<Body> {
        let mut response = match (route, method) {
            (Control::Seen, &Method::GET) => reply::json_text(StatusCode::OK, self.state().log.to_json()),
            (Control::Next, &Method::POST) => self.order(body),
            (Control::Reset, &Method::POST) => {
                *self.state() = State::new();
                reply::success()
            }
            (Control::Seen, _) => reply::not_allowed("GET"),
            (Control::Next | Control::Reset, _) => reply::not_allowed("POST"),
        };
        // A client would otherwise keep a connection that its own next order may end.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn order(&self, body: &[u8]) -> Response<Body> {
        let ordered = self.state().provider.plan.add(body);
        match ordered {
            Ok(Behaviour::HangUpBeforeReading) => {
                self.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
                reply::success()
            }
            Ok(_) => reply::success(),
            Err(told) => reply::json(StatusCode::BAD_REQUEST, &told),
        }
    }

    fn note(&self, seen: Seen) {
        (self.tell)(&seen);
        self.state().log.push(seen);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unread(status: StatusCode) -> Response<Body> {
    reply::refusal(status, "the body is not whole, or larger than 64 KiB")
}

/// Reads a body to its end.
async fn read(body: Incoming) -> Result<Bytes, StatusCode> {
    match tokio::time::timeout(READ_WITHIN, Limited::new(body, LARGEST_BODY).collect()).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(fault)) if fault.is::<LengthLimitError>() => Err(StatusCode::PAYLOAD_TOO_LARGE),
        Ok(Err(_)) => Err(StatusCode::BAD_REQUEST),
        Err(_) => Err(StatusCode::REQUEST_TIMEOUT),
    }
}
