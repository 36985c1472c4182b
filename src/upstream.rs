//! The provider. The only file that knows its key, and the only one that knows reqwest.
//!
//! Closed down: HTTP/1.1, no retry, no redirect, no proxy, no referer, no cookies, no decompression, one
//! total deadline, and connections that are dropped before the server would.

mod answer;
mod backoff;
mod key;
mod picture;
mod resolver;
mod seen;
#[cfg(test)]
#[path = "simulation/tests/wire.rs"]
pub(crate) mod simulated;

pub use answer::{Confirmed, retry_after};
pub use picture::Picture;

use crate::clock::{Moment, moment};
use crate::config::{self, Confirm};
use crate::error::Failed;
use crate::failpoint;
#[cfg(test)]
use crate::failpoint::planted::{self, Fault};
use crate::id::Target;
use crate::secret::Secret;
use arc_swap::ArcSwapOption;
use backoff::{Backoff, UNSAID_S};
use key::Key;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Response, StatusCode};
use seen::Seen;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::context::TokioContext;

/// A pool that lets go well before servers do (many at 5 s) never races with them.
const IDLE: Duration = Duration::from_secs(2);
const CONNECT_AT_MOST: Duration = Duration::from_secs(5);
/// What the provider gets at least to answer in, once connected.
const LEAST_TO_ANSWER: Duration = Duration::from_secs(1);
const KEY_AT_MOST: usize = 4096;
const KEY_FILE_AT_MOST: u64 = 64 * 1024;

/// The way to the provider.
pub struct Upstream {
    way: Way,
    base: reqwest::Url,
    url: String,
    key: ArcSwapOption<HeaderValue>,
    key_file: PathBuf,
    connect_timeout: Duration,
    timeout: Duration,
    confirm: Confirm,
    seen: Seen,
    backoff: Backoff,
}

/// How a request goes out.
enum Way {
    /// Its connections live in a runtime apart from who waits for them.
    #[expect(clippy::disallowed_types, reason = "this is the one place")]
    Real(reqwest::Client, Handle),
    /// To a provider that a test holds in its hand.
    #[cfg(test)]
    Simulated(simulated::Way),
}

impl Way {
    /// Sends a request, once, and waits for the head of its answer.
    ///
    /// # Errors
    /// There was no connection, so that nothing was sent; or it was lost, and nobody knows.
    async fn execute(&self, request: reqwest::Request) -> Result<Response, Failed> {
        match self {
            Self::Real(client, connections) => {
                let executing = TokioContext::new(client.execute(request), connections.clone());
                executing.await.map_err(|e| answer::failed(&e))
            }
            #[cfg(test)]
            Self::Simulated(way) => way.execute(request).await,
        }
    }
}

/// A request whose URL was checked, ready to go. Made before the intent, so that a fault of ours refuses.
pub struct Prepared(reqwest::Request);

/// Why a request cannot be built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unprepared {
    /// There is no key to send with.
    NoKey,
    /// The URL would not be, byte for byte, the one that was meant.
    OtherUrl,
}

/// Why a key cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum KeyFault {
    /// The file is not there or empty: the key has been taken away.
    Gone(String),
    /// What is in it cannot be a key, or it could not be read: nobody has said that the old one is not to be used.
    Unfit(String),
}

impl std::fmt::Display for KeyFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (KeyFault::Gone(what) | KeyFault::Unfit(what)) = self;
        f.write_str(what)
    }
}

fn read_key(file: &Path) -> Result<HeaderValue, KeyFault> {
    let bytes = config::file::read(file, KEY_FILE_AT_MOST).map_err(|e| {
        let what = format!("{} cannot be read: {e}", file.display());
        if e.kind() == std::io::ErrorKind::NotFound { KeyFault::Gone(what) } else { KeyFault::Unfit(what) }
    })?;
    let key = bytes.expose().trim_ascii_end();
    if key.is_empty() {
        return Err(KeyFault::Gone(format!("{} is empty; put the provider's key into it", file.display())));
    }
    if key.len() > KEY_AT_MOST || !key.iter().all(u8::is_ascii_graphic) {
        let what = "holds more than a key: only visible ASCII may be in it, and a line end after it";
        return Err(KeyFault::Unfit(format!("{} {what}", file.display())));
    }
    let text = Secret::new([b"Bearer ", key].concat());
    let mut value = HeaderValue::from_bytes(text.expose())
        .map_err(|_| KeyFault::Unfit(format!("{} holds no key", file.display())))?;
    value.set_sensitive(true);
    Ok(value)
}

/// How long connecting may take.
fn connect_timeout(config: &config::Upstream) -> Duration {
    CONNECT_AT_MOST.min(config.timeout / 2)
}

impl Upstream {
    /// What is wrong with the files that the provider needs: a key of the configuration, and what.
    #[must_use]
    pub fn faults(config: &config::Upstream) -> Vec<(&'static str, String)> {
        let key = read_key(&config.api_key_file).err().map(|fault| ("upstream.api_key_file", fault.to_string()));
        let roots = config::file::roots(config.ca_file.as_deref()).err().map(|what| ("upstream.ca_file", what));
        key.into_iter().chain(roots).collect()
    }

    /// Builds the client and reads the key. Its connections live in the runtime of `connections`, apart from who waits
    /// for them: a provider that keeps these threads busy, with interim answers without an end, keeps nobody from
    /// noticing the deadline.
    ///
    /// # Errors
    /// In words, naming the configuration's key.
    pub fn new(config: &config::Upstream, connections: Handle) -> Result<Self, String> {
        let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?
            .with_root_certificates(
                config::file::roots(config.ca_file.as_deref()).map_err(|e| format!("upstream.ca_file: {e}"))?,
            )
            .with_no_client_auth();
        let loopback = config.url.starts_with("http://");
        #[expect(clippy::disallowed_types, reason = "this is the one place")]
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .https_only(!loopback)
            .http1_only()
            .retry(reqwest::retry::never())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(connect_timeout(config))
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(if config.reuse_connections { usize::MAX } else { 0 })
            .dns_resolver(Arc::new(resolver::Public { allow_private: loopback || config.allow_private }))
            .build()
            .map_err(|e| format!("upstream: {e}"))?;
        Self::over(Way::Real(client, connections), config)
    }

    /// Reads the key, for the configuration's URL.
    fn over(way: Way, config: &config::Upstream) -> Result<Self, String> {
        let key = read_key(&config.api_key_file).map_err(|e| format!("upstream.api_key_file: {e}"))?;
        Ok(Self {
            way,
            base: reqwest::Url::parse(&config.url).map_err(|e| format!("upstream.url: {e}"))?,
            url: config.url.clone(),
            key: ArcSwapOption::from_pointee(key),
            key_file: config.api_key_file.clone(),
            connect_timeout: connect_timeout(config),
            timeout: config.timeout,
            confirm: config.confirm,
            seen: Seen::default(),
            backoff: Backoff::new(),
        })
    }

    /// Reads the key file again. A file that is gone or empty takes the key away; one that cannot be a key
    /// leaves the old one.
    ///
    /// # Errors
    /// What was wrong with the file.
    pub fn reload_key(&self) -> Result<(), KeyFault> {
        match read_key(&self.key_file) {
            Ok(key) => {
                self.key.store(Some(Arc::new(key)));
                self.seen.key_is_new();
                Ok(())
            }
            Err(fault) => {
                if matches!(fault, KeyFault::Gone(_)) {
                    self.key.store(None);
                }
                Err(fault)
            }
        }
    }

    /// Whether there is a key to send with.
    #[must_use]
    pub fn has_key(&self) -> bool {
        self.key.load().is_some()
    }

    /// What is wrong with the provider as last seen, for readiness.
    #[must_use]
    pub fn degraded(&self) -> Vec<&'static str> {
        let mut reasons = self.seen.reasons();
        if self.held_back().is_some() {
            reasons.push("upstream-backoff");
        }
        reasons
    }

    /// For how many seconds more the provider asked to be left alone; `None`: it did not, or that is over.
    #[must_use]
    pub fn held_back(&self) -> Option<u64> {
        self.backoff.left(moment())
    }

    /// Builds the request and checks that its URL is, byte for byte, the one that was meant.
    ///
    /// # Errors
    /// See [`Unprepared`].
    pub fn prepare(&self, target: &Target) -> Result<Prepared, Unprepared> {
        self.ready(Method::DELETE, target, None).map(Prepared)
    }

    /// A request about a target, with the key; its URL is compared with what was meant.
    fn ready(&self, method: Method, target: &Target, query: Option<&str>) -> Result<reqwest::Request, Unprepared> {
        let mut meant = format!("{}{}", self.url, target.path());
        // Parsing the whole URL for each request costs a microsecond. Only what is as meant is ever sent.
        let mut url = self.base.clone();
        #[expect(clippy::disallowed_methods, reason = "its text is compared below")]
        url.set_path(&target.path());
        if let Some(query) = query {
            meant.extend(["?", query]);
            url.set_query(Some(query));
        }
        if url.as_str() != meant || failpoint::is_on("other-url") {
            return Err(Unprepared::OtherUrl);
        }
        let Some(key) = self.key.load_full() else { return Err(Unprepared::NoKey) };
        let mut request = reqwest::Request::new(method, url);
        request.headers_mut().insert(AUTHORIZATION, (*key).clone());
        Ok(request)
    }

    /// Sends the one DELETE and hears what came of it, at the latest at `deadline`.
    ///
    /// # Errors
    /// Everything but a confirmed deletion. Dropping the future closes the connection; what was sent stays sent.
    pub async fn delete(&self, prepared: Prepared, deadline: Moment) -> Result<Confirmed, Failed> {
        let left = deadline.saturating_duration_since(moment());
        if left < self.connect_timeout + LEAST_TO_ANSWER {
            return Err(Failed::TooLateToSend);
        }
        let key = Key::of(&prepared.0);
        let exchange = async {
            failpoint::hit("send");
            #[cfg(test)]
            let again = prepared.0.try_clone().filter(|_| planted::is(Fault::SentAgain));
            let response = self.way.execute(prepared.0).await;
            #[cfg(test)]
            let response = match (response, again) {
                (Err(_), Some(again)) => self.way.execute(again).await,
                (response, _) => response,
            };
            let response = response?;
            self.heed(&response, &key);
            failpoint::hit("answer-begun");
            answer::judge(response, self.confirm, &key).await
        };
        let result = tokio::time::timeout_at(deadline.into(), exchange).await;
        let result = result.unwrap_or(Err(Failed::OutcomeUnknown("the provider did not answer in time")));
        match &result {
            Err(Failed::UpstreamUnreachable) => self.seen.unreachable(),
            Err(Failed::TooLateToSend | Failed::Frozen(_)) => {}
            Ok(_) => {
                self.seen.key_accepted(|| self.is_current(&key));
                self.seen.reached();
            }
            Err(_) => self.seen.reached(),
        }
        result
    }

    /// What the head of an answer says holds for those that come after, whatever becomes of its body.
    fn heed(&self, response: &Response, key: &Key) {
        self.seen.answered(response.status());
        match response.status() {
            StatusCode::TOO_MANY_REQUESTS => {
                let wait_s = answer::wait_s(response.headers()).unwrap_or(UNSAID_S);
                if self.held_back().is_none() {
                    tracing::warn!(wait_s, "the provider asks to be left alone: nothing is sent meanwhile");
                }
                self.backoff.begin(moment(), wait_s);
            }
            StatusCode::UNAUTHORIZED if self.is_current(key) => self.seen.key_refused(),
            _ => {}
        }
    }

    /// Whether a request with this key would be sent with it again. What is said of one that was replaced meanwhile says
    /// nothing of its successor.
    fn is_current(&self, key: &Key) -> bool {
        self.key.load().as_deref().is_some_and(|current| key.is(current))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_of(bytes: &[u8]) -> Result<HeaderValue, KeyFault> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        read_key(file.path())
    }

    #[test]
    fn a_key_is_trimmed_of_line_ends_and_never_printed() {
        let key = key_of(b"obviously-fake\r\n").unwrap();
        assert_eq!(key.as_bytes(), b"Bearer obviously-fake");
        assert_eq!(format!("{key:?}"), "Sensitive");
    }

    #[test]
    fn a_key_is_gone_only_when_its_file_is() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(read_key(&folder.path().join("none")), Err(KeyFault::Gone(_))));
        assert!(matches!(read_key(folder.path()), Err(KeyFault::Unfit(_))));
        let pipe = folder.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
        assert!(matches!(read_key(&pipe), Err(KeyFault::Unfit(_))));
    }

    #[test]
    fn a_key_file_that_holds_no_key_is_refused() {
        assert!(matches!(key_of(b""), Err(KeyFault::Gone(_))));
        assert!(matches!(key_of(b"\n"), Err(KeyFault::Gone(_))));
        for bytes in [&b"a\nb"[..], b"a\0b", b"a b", b"\x1b[0m", "é".as_bytes()] {
            assert!(matches!(key_of(bytes), Err(KeyFault::Unfit(_))), "{bytes:?}");
        }
    }
}
