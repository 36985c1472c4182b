//! One connection to Redis: opened over a stream of ours, tried out before it is used, given up when in doubt.

use super::script::{BODY, CLOCK, Call, Key};
use crate::config::{self, Per, Rate, file};
use crate::rate::{Mode, Terms};
use crate::secret::Secret;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError};
use rustls::pki_types::ServerName;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

const URL_AT_MOST: u64 = 4096;

/// Why there is no sure answer.
#[derive(Debug)]
pub(super) struct Unsure {
    /// The label in the metrics.
    pub(super) kind: &'static str,
    /// In words; never with the URL in it.
    pub(super) what: String,
    pub(super) ends_the_connection: bool,
}

impl Unsure {
    pub(super) fn timeout(what: &str) -> Self {
        Self { kind: "timeout", what: what.to_owned(), ends_the_connection: true }
    }

    pub(super) fn not_connected() -> Self {
        Self { kind: "not-connected", what: "there is no connection".to_owned(), ends_the_connection: false }
    }

    pub(super) fn senseless(answer: &[i64]) -> Self {
        Self { kind: "answer", what: format!("it answered {answer:?}"), ends_the_connection: false }
    }

    fn set_up(what: String) -> Self {
        Self { kind: "configuration", what, ends_the_connection: true }
    }

    fn connection(error: &dyn std::fmt::Display) -> Self {
        Self { kind: "connection", what: error.to_string(), ends_the_connection: true }
    }
}

impl From<RedisError> for Unsure {
    fn from(error: RedisError) -> Self {
        let code = error.code().map(str::to_owned);
        match (error.kind(), code) {
            (ErrorKind::AuthenticationFailed, _) => {
                Self::set_up("it does not accept the user or the password in limits.url_file".to_owned())
            }
            // The state of one window: the others are none the worse for it.
            (_, Some(code)) if code == "FOREIGN" => {
                Self { kind: "foreign", what: error.to_string(), ends_the_connection: false }
            }
            (_, Some(_)) => Self { kind: "refused", what: error.to_string(), ends_the_connection: true },
            (_, None) => Self::connection(&error),
        }
    }
}

/// Where Redis is and how to speak with it.
struct Address {
    info: ConnectionInfo,
    tls: bool,
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Reads the URL. Its text is in no fault: there is a password in it.
fn address(config: &config::Redis) -> Result<Address, String> {
    let name = config.url_file.display();
    let bytes = file::read(&config.url_file, URL_AT_MOST).map_err(|e| format!("{name} cannot be read: {e}"))?;
    let text = std::str::from_utf8(bytes.expose()).map_err(|_| format!("{name} is not UTF-8"))?.trim();
    // TLS is ours, so the library gets the URL of a connection without it.
    let (plain, tls) = match text.split_once("://") {
        Some(("rediss" | "valkeys", rest)) => (Secret::new(format!("redis://{rest}")), true),
        Some(_) | None => (Secret::new(text.to_owned()), false),
    };
    if text.contains('#') {
        return Err(format!("{name} holds a `#`; write %23 in a password. Certificates are always verified"));
    }
    let wrong = |_| {
        format!(
            "{name} holds no URL that is understood; write rediss://user:password@host:6380/0, \
             redis+unix:///path/of/socket, or redis:// for a loopback address, with %-escapes in the password"
        )
    };
    let info = plain.expose().as_str().into_connection_info().map_err(wrong)?;
    match info.addr() {
        ConnectionAddr::Tcp(host, _) if !tls && !is_loopback(host) => Err(format!(
            "{name} would send password and state in clear text; write rediss:// (redis:// is for loopback alone)"
        )),
        ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) | ConnectionAddr::TcpTls { .. } => Ok(Address { info, tls }),
        _ => Err(format!("{name} holds an address of a kind that is not known")),
    }
}

/// What is wrong with the files that are named.
pub(in crate::rate) fn faults(config: &config::Redis) -> Vec<(&'static str, String)> {
    let url = address(config).err().map(|what| ("limits.url_file", what));
    let roots = file::roots(config.ca_file.as_deref()).err().map(|what| ("limits.ca_file", what));
    url.into_iter().chain(roots).collect()
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

async fn stream(address: &Address, config: &config::Redis) -> Result<Box<dyn Stream>, Unsure> {
    let failed = |e: std::io::Error| Unsure::connection(&e);
    let (host, port) = match address.info.addr() {
        ConnectionAddr::Unix(path) => return Ok(Box::new(UnixStream::connect(path).await.map_err(failed)?)),
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => (host, *port),
        _ => return Err(Unsure::set_up("an address of a kind that is not known".to_owned())),
    };
    let tcp = TcpStream::connect((host.as_str(), port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    if !address.tls {
        return Ok(Box::new(tcp));
    }
    let roots = file::roots(config.ca_file.as_deref()).map_err(|e| Unsure::set_up(format!("limits.ca_file: {e}")))?;
    let tls = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Unsure::connection(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.clone()).map_err(|e| Unsure::set_up(e.to_string()))?;
    Ok(Box::new(TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.map_err(failed)?))
}

/// Reads and writes a connection, until it is lost.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A connection that has answered.
pub(super) struct Link {
    connection: MultiplexedConnection,
    script: String,
    hash: String,
    /// Somebody heard nothing sure on it: it is not used any more.
    pub(super) given_up: CancellationToken,
}

impl Link {
    /// Connects, looks at the server and asks it a trial question that writes. Returns with it what has to run as long
    /// as it is used.
    pub(super) async fn open(config: &config::Redis) -> Result<(Self, Driver), Unsure> {
        let address = address(config).map_err(|what| Unsure::set_up(format!("limits.url_file: {what}")))?;
        let stream = stream(&address, config).await?;
        let (connection, driver) = MultiplexedConnection::new_with_config(
            address.info.redis_settings(),
            stream,
            AsyncConnectionConfig::new().set_response_timeout(None),
        )
        .await?;
        let mut driver: Driver = Box::pin(driver);
        let (script, hash) = ([CLOCK, BODY].concat(), String::new());
        let mut link = Self { connection, script, hash, given_up: CancellationToken::new() };
        tokio::select! {
            () = driver.as_mut() => return Err(Unsure::connection(&"the server closed it")),
            tried = link.try_out(config) => tried?,
        }
        Ok((link, driver))
    }

    async fn try_out(&mut self, config: &config::Redis) -> Result<(), Unsure> {
        is_fit(&self.query::<String>(&redis::cmd("INFO")).await)?;
        self.hash = self.query(redis::cmd("SCRIPT").arg("LOAD").arg(&self.script)).await?;
        let terms = Terms::new("trial", "", Rate { max: 1_000_000, per_s: 1, per: Per::Caller });
        let trial = Call::new(Mode::Take, vec![Key::One(format!("{{{}}}:trial", config.prefix))], &[terms]);
        let asked = tokio::time::timeout(config.timeout, self.ask(&trial, "")).await;
        asked.map_err(|_| Unsure::timeout("its answers take longer than limits.timeout_ms"))?.map(drop)
    }

    async fn query<T: redis::FromRedisValue>(&self, command: &Cmd) -> Result<T, RedisError> {
        command.query_async(&mut self.connection.clone()).await
    }

    /// Asks the script. A server that does not know it has not run it: it gets the text.
    pub(super) async fn ask(&self, call: &Call, session: &str) -> Result<Vec<i64>, Unsure> {
        match self.query(&call.command("EVALSHA", &self.hash, session)).await {
            Err(error) if error.code() == Some("NOSCRIPT") => {
                Ok(self.query(&call.command("EVAL", &self.script, session)).await?)
            }
            answered => Ok(answered?),
        }
    }
}

/// Refuses a server that is too old, or that throws keys away when its memory is full: rates would begin anew, and nobody
/// would notice.
fn is_fit(info: &Result<String, RedisError>) -> Result<(), Unsure> {
    let info = match info {
        Ok(info) => info,
        Err(error) if error.code() == Some("NOPERM") => {
            tracing::warn!("the user of the shared rates may not ask INFO: whether keys are evicted is not known");
            return Ok(());
        }
        Err(error) => return Err(error.clone().into()),
    };
    let of = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    // Valkey names the version of Redis that it is compatible with.
    let version = of("redis_version:").unwrap_or("6");
    if version.split('.').next().and_then(|major| major.parse().ok()).is_some_and(|major: u32| major < 6) {
        return Err(Unsure::set_up(format!("its version is {version}; the rates need Redis or Valkey 6 or newer")));
    }
    match (of("maxmemory:"), of("maxmemory_policy:")) {
        (None | Some("0"), _) | (_, None | Some("noeviction")) => Ok(()),
        (Some(_), Some(policy)) => Err(Unsure::set_up(format!(
            "it throws keys away when its memory is full (maxmemory-policy {policy}); set maxmemory-policy noeviction"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn read(text: &str) -> Result<Address, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        address(&config::Redis {
            url_file: file.path().to_owned(),
            ca_file: None,
            prefix: "p".to_owned(),
            timeout: Duration::from_millis(50),
        })
    }

    #[test]
    fn a_password_never_goes_out_in_clear_text_and_certificates_are_always_verified() {
        for (good, tls) in [
            ("redis://127.0.0.1:6379", false),
            ("redis://[::1]", false),
            ("valkey://localhost/3\n", false),
            ("redis+unix:///run/valkey.sock?pass=canary", false),
            ("rediss://user:canary%40@redis.example:6380/0", true),
            ("valkeys://redis.example", true),
        ] {
            assert_eq!(read(good).map(|address| address.tls).ok(), Some(tls), "{good}");
        }
        for bad in [
            "",
            "canary",
            "http://canary@127.0.0.1",
            "redis://canary@redis.example",
            "valkey://:canary@10.0.0.1",
            "redis://127.0.0.1.evil.example",
            "rediss://:canary@redis.example#insecure",
            "rediss://:can#ary@redis.example",
            "redis://127.0.0.1:x/canary",
        ] {
            let fault = read(bad).map(|_| ()).unwrap_err();
            assert!(!fault.contains("canary"), "{bad}: {fault}");
        }
        let file = read("rediss://user:canary%40@redis.example").unwrap();
        assert_eq!(file.info.redis_settings().password(), Some("canary@"));
    }

    #[test]
    fn a_server_that_is_too_old_or_throws_keys_away_is_refused() {
        let info = |version: &str, limit: &str, policy: &str| {
            is_fit(&Ok(format!("redis_version:{version}\r\nmaxmemory:{limit}\r\nmaxmemory_policy:{policy}\r\n")))
        };
        let of = |limit: &str, policy: &str| info("7.0.15", limit, policy);
        assert!(info("5.0.14", "0", "noeviction").unwrap_err().what.contains("6 or newer"));
        assert!(info("6.0.0", "0", "noeviction").is_ok() && info("10.0", "0", "noeviction").is_ok());
        assert!(of("0", "allkeys-lru").is_ok() && of("1000000", "noeviction").is_ok());
        for policy in ["allkeys-lru", "volatile-ttl", "volatile-lru", "allkeys-random"] {
            assert!(of("1000000", policy).unwrap_err().what.contains("noeviction"), "{policy}");
        }
    }
}
