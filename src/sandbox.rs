//! A stand-in for the provider, in memory: the picture routes (GET, PUT, DELETE), and ways to be told to
//! fail. For the demo, for tests, and for people who integrate against the gateway. Nothing real happens.
//!
//! A group id that begins with a word of [`words`] is answered in that way (`answer-404-x@g.us`); the next
//! requests can be told so too: `POST /_sandbox/next {"behave": "answer-500", "times": 2}`.

mod behaviour;

use crate::id::{GroupId, SessionId};
use crate::secret::Secret;
use behaviour::Behaviour;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::task::TaskTracker;

/// No more deleted pictures are remembered.
const GROUPS_AT_MOST: usize = 100_000;
/// No more requests are remembered.
const SEEN_AT_MOST: usize = 10_000;
/// How long other connections have to end.
const LET_GO_AT_MOST_MS: u32 = 1000;
const BODY_AT_MOST: usize = 64 * 1024;

/// A picture request that the sandbox has read. Names of headers alone: values could be secrets.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    sandbox: bool,
    note: &'static str,
    method: String,
    path: String,
    authorization: &'static str,
    headers: Vec<String>,
    answer: String,
}

#[derive(Default)]
struct Memory {
    deleted: HashSet<(SessionId, String)>,
    seen: VecDeque<Seen>,
    next: Option<(Behaviour, u64)>,
}

/// The stand-in.
pub struct Sandbox {
    key: Secret<String>,
    memory: Mutex<Memory>,
    /// Connections between two requests end, so that the next request needs a new one.
    let_go: Notify,
    connections: TaskTracker,
    tell: Box<dyn Fn(&Seen) + Send + Sync>,
}

/// All words by which the sandbox can be told to fail.
#[must_use]
pub fn words() -> String {
    behaviour::words()
}

/// What is sent, or that nothing is.
type Said = Result<Response<Full<Bytes>>, std::io::Error>;

fn say(status: u16, body: &Value) -> Response<Full<Bytes>> {
    raw(status, body.to_string())
}

fn raw(status: u16, body: String) -> Response<Full<Bytes>> {
    let response = Response::builder().status(status).header("content-type", "application/json");
    response.header("x-sandbox", "nothing-real-happened").body(Full::from(body)).unwrap_or_default()
}

fn no(status: u16, message: &str) -> Response<Full<Bytes>> {
    say(status, &json!({"success": false, "message": message}))
}

fn hang_up() -> Said {
    Err(std::io::Error::other("told to hang up"))
}

impl Sandbox {
    /// A sandbox that accepts this key and tells `tell` about each picture request.
    pub fn new(key: Secret<String>, tell: impl Fn(&Seen) + Send + Sync + 'static) -> Self {
        Self {
            key,
            memory: Mutex::default(),
            let_go: Notify::new(),
            connections: TaskTracker::new(),
            tell: Box::new(tell),
        }
    }

    fn memory<T>(&self, act: impl FnOnce(&mut Memory) -> T) -> T {
        act(&mut self.memory.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves until `stop`.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: impl Future<Output = ()>) {
        let accept = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                if self.is_next(Behaviour::HangUpBeforeReading) {
                    drop(stream);
                    continue;
                }
                self.connections.spawn(Arc::clone(&self).connection(stream));
            }
        };
        tokio::select! {
            () = accept => {}
            () = stop => {}
        }
    }

    async fn connection(self: Arc<Self>, stream: TcpStream) {
        let sandbox = Arc::clone(&self);
        let service = service_fn(move |request| Arc::clone(&sandbox).answer(request));
        let mut serving = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        tokio::select! {
            _ = serving.as_mut() => return,
            () = self.let_go.notified() => {}
        }
        serving.as_mut().graceful_shutdown();
        let _ = serving.await;
    }

    /// Whether the next request is to be answered so; uses one up if it is.
    fn is_next(&self, wanted: Behaviour) -> bool {
        self.memory(|memory| memory.next.is_some_and(|(next, _)| next == wanted) && take_next(memory).is_some())
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Said {
        let path = request.uri().path().to_owned();
        match (request.method().as_str(), path.as_str()) {
            ("GET", "/_sandbox/seen") => {
                let seen = self.memory(|memory| json!(memory.seen));
                return Ok(say(200, &seen));
            }
            ("POST", "/_sandbox/reset") => {
                self.memory(|memory| *memory = Memory::default());
                return Ok(say(200, &json!({"sandbox": true})));
            }
            ("POST", "/_sandbox/next") => return Ok(self.tell_next(request).await),
            _ => {}
        }
        self.picture(request, &path).await
    }

    async fn tell_next(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = Limited::new(request.into_body(), BODY_AT_MOST).collect().await;
        let told: Value = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok()).unwrap_or_default();
        let times = told.get("times").and_then(Value::as_u64).unwrap_or(1);
        match told.get("behave").and_then(Value::as_str).and_then(behaviour::parse) {
            Some(behaviour) => {
                self.memory(|memory| memory.next = Some((behaviour, times)));
                if behaviour == Behaviour::HangUpBeforeReading {
                    self.let_go.notify_waiters();
                    // Answer once the others are closed, this one excepted; busy ones are not waited for longer.
                    for _ in 0..LET_GO_AT_MOST_MS {
                        if self.connections.len() <= 1 {
                            break;
                        }
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                }
                say(200, &json!({"sandbox": true}))
            }
            None => no(400, &format!("`behave` is one of: {}", behaviour::words())),
        }
    }

    fn authorization(&self, headers: &HeaderMap) -> &'static str {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => "missing",
            (Some(value), None) => {
                let key = value.as_bytes().strip_prefix(b"Bearer ").unwrap_or_default();
                if bool::from(key.ct_eq(self.key.expose().as_bytes())) { "ok" } else { "wrong" }
            }
            (Some(_), Some(_)) => "wrong",
        }
    }

    async fn picture(&self, request: Request<Incoming>, path: &str) -> Said {
        let method = request.method().as_str().to_owned();
        let authorization = self.authorization(request.headers());
        let headers = request.headers().keys().map(ToString::to_string).collect();
        let said = self.decide(&method, path, authorization, request).await;
        let answer =
            said.as_ref().map_or_else(|_| "hang-up".to_owned(), |response| response.status().as_u16().to_string());
        let seen = Seen {
            sandbox: true,
            note: "nothing real happened",
            method,
            path: path.to_owned(),
            authorization,
            headers,
            answer,
        };
        (self.tell)(&seen);
        self.memory(|memory| {
            memory.seen.push_back(seen);
            if memory.seen.len() > SEEN_AT_MOST {
                memory.seen.pop_front();
            }
        });
        said
    }

    async fn decide(&self, method: &str, path: &str, authorization: &str, request: Request<Incoming>) -> Said {
        let segments: Vec<&str> = path.split('/').collect();
        let ["", session, "groups", group, "picture"] = segments.as_slice() else {
            return Ok(no(404, "there is no such route"));
        };
        let (Ok(session), Ok(group)) = (SessionId::parse(session), GroupId::parse(&group.replace("%40", "@"))) else {
            return Ok(no(400, "the session or the group is not an id"));
        };
        if authorization != "ok" {
            return Ok(no(401, "Invalid or missing API key"));
        }
        let picture = (session, group.bare().to_owned());
        match method {
            "GET" if self.memory(|memory| memory.deleted.contains(&picture)) => Ok(no(404, "the group has no picture")),
            "GET" => {
                let url = format!("https://sandbox.invalid/{}.jpg", group.bare());
                Ok(say(200, &json!({"success": true, "picture": {"url": url, "type": "image/jpeg", "size": 12345}})))
            }
            "PUT" => Ok(self.put(picture, request).await),
            "DELETE" => {
                let told = self.memory(take_next).or_else(|| behaviour::parse(group.as_str()));
                self.answer_delete(picture, told).await
            }
            _ => Ok(no(405, "GET, PUT or DELETE")),
        }
    }

    async fn put(&self, picture: (SessionId, String), request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = Limited::new(request.into_body(), BODY_AT_MOST).collect().await;
        let told: Option<Value> = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
        if told.as_ref().and_then(|told| told.get("url")).is_none_or(|url| !url.is_string()) {
            return no(400, "`url` is missing");
        }
        self.memory(|memory| memory.deleted.remove(&picture));
        say(200, &json!({"success": true}))
    }

    async fn answer_delete(&self, picture: (SessionId, String), told: Option<Behaviour>) -> Said {
        if let Some(Behaviour::Slow(span)) = told {
            tokio::time::sleep(span).await;
        }
        let delete = || {
            self.memory(|memory| {
                if memory.deleted.len() >= GROUPS_AT_MOST {
                    memory.deleted.clear();
                }
                memory.deleted.insert(picture.clone())
            })
        };
        match told {
            Some(Behaviour::Status(status)) => {
                let mut response = if status == 204 {
                    raw(204, String::new())
                } else {
                    no(status, &format!("the sandbox was told to answer {status}"))
                };
                if status == 429 {
                    response.headers_mut().insert("retry-after", 7.into());
                }
                Ok(response)
            }
            Some(Behaviour::False) => Ok(no(200, "the sandbox was told to say no")),
            Some(Behaviour::Garbage) => Ok(raw(200, "<html>".to_owned())),
            Some(Behaviour::Redirect) => {
                let mut response = no(307, "elsewhere");
                response.headers_mut().insert("location", hyper::header::HeaderValue::from_static("/elsewhere"));
                Ok(response)
            }
            Some(Behaviour::HangUpLost | Behaviour::HangUpBeforeReading) => hang_up(),
            Some(Behaviour::HangUpAfterReading) => {
                delete();
                hang_up()
            }
            Some(Behaviour::CutBody) => {
                delete();
                let mut response = raw(200, "{\"success\": tr".to_owned());
                response.headers_mut().insert("content-length", 100.into());
                Ok(response)
            }
            Some(Behaviour::Slow(_)) | None if delete() => Ok(raw(200, "{\"success\": true}".to_owned())),
            Some(Behaviour::Slow(_)) | None => Ok(no(404, "the group has no picture")),
        }
    }
}

fn take_next(memory: &mut Memory) -> Option<Behaviour> {
    let (behaviour, times) = memory.next?;
    memory.next = (times > 1).then_some((behaviour, times - 1));
    Some(behaviour)
}
