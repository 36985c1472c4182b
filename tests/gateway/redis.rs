//! A private Redis or Valkey, on a socket in a folder of its own, that can be stopped, broken and started again.

use crate::running::{Gateway, TOKEN, caller, configuration, eventually};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

pub const PASSWORD: &str = "canary-redis-password-000";

/// What the gateway has to get along with (tests/setup.sh installs both).
pub const SERVERS: [&str; 2] =
    ["redis-server", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/valkey-server")];

pub struct Redis {
    server: &'static str,
    pub folder: tempfile::TempDir,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Redis {
    /// Makes a folder for it; nothing runs yet.
    pub fn prepare(server: &'static str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Self { server, folder: tempfile::tempdir().unwrap(), arguments, child: None }
    }

    pub fn start() -> Self {
        Self::start_as(SERVERS[0])
    }

    pub fn start_as(server: &'static str) -> Self {
        let mut redis = Self::prepare(server, &[]);
        redis.run();
        redis
    }

    /// Starts it, for the first time or again, and waits until it answers.
    pub fn run(&mut self) {
        let child = Command::new(self.server)
            .args(["--port", "0", "--save", "", "--requirepass", PASSWORD, "--unixsocket"])
            .arg(self.socket())
            .args(&self.arguments)
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error} (tests/setup.sh installs it)", self.server));
        self.child = Some(child);
        eventually("redis answers", || self.try_ask(&["PING"]).is_ok());
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn url(&self) -> String {
        format!("redis+unix://{}?pass={PASSWORD}", self.socket().display())
    }

    fn try_ask(&self, words: &[&str]) -> ::redis::RedisResult<::redis::Value> {
        let mut connection = ::redis::Client::open(self.url())?.get_connection()?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut command = ::redis::cmd(words[0]);
        command.arg(&words[1..]).query(&mut connection)
    }

    /// Sends a command of an administrator.
    pub fn ask(&self, words: &[&str]) -> ::redis::Value {
        self.try_ask(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Whether a client waits for the end of a pause.
    pub fn holds_a_question_up(&self) -> bool {
        format!("{:?}", self.ask(&["CLIENT", "LIST"])).contains(" flags=b")
    }

    pub fn signal(&self, signal: &str) {
        let id = self.child.as_ref().expect("it runs").id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A gateway that counts in it; `limits` and `callers` are lines of the configuration.
    pub fn gateway(&self, upstream: &str, limits: &str, callers: &str) -> Gateway {
        self.gateway_with(&self.url(), &configuration_for(upstream, limits, callers))
    }

    /// The same, with the URL and the configuration as they are given.
    pub fn gateway_with(&self, url: &str, configuration: &str) -> Gateway {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("redis-url"), format!("{url}\n")).unwrap();
        Gateway::in_folder(folder, configuration, &[])
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Patient, since a busy machine is no fault of Redis, unless `limits` says otherwise.
pub fn configuration_for(upstream: &str, limits: &str, callers: &str) -> String {
    let patience = if limits.contains("timeout_ms") { "" } else { "timeout_ms = 5000\n" };
    let limits = format!("kind = \"redis\"\nurl_file = \"redis-url\"\n{patience}{limits}");
    configuration(upstream, &[("limits", &limits)], callers)
}

/// The usual caller, with these rates.
pub fn held_to(rates: &str) -> String {
    caller("moderation", TOKEN, &format!("rates = [{rates}]"))
}
