//! The real binary, in a folder of its own.

use crate::wire::{connect, request};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub const BINARY: &str = env!("CARGO_BIN_EXE_wasend-gateway");
pub const KEY: &str = "canary-provider-key-000";
pub const TOKEN: &str = "canary-token-moderation-000";
pub const TARGET: &str = "/sess1/groups/120363000000000001@g.us/picture";
const PATIENCE: Duration = Duration::from_secs(20);

/// Polls until it holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

/// A caller that may delete `*@g.us` in `sess1`; `extra` goes into its table.
pub fn caller(name: &str, token: &str, extra: &str) -> String {
    let hash = sha256(token);
    format!(
        "[[callers]]\nname = \"{name}\"\ntokens = [{{ id = \"t1\", sha256 = \"{hash}\" }}]\n{extra}\n[[callers.allow]]\nsessions = [\"sess1\"]\ngroups = [\"*@g.us\"]\n"
    )
}

/// A whole configuration; `sections` gives lines for sections, e.g. `("upstream", "timeout_ms = 2500")`.
pub fn configuration(upstream: &str, sections: &[(&str, &str)], callers: &str) -> String {
    let of = |name| {
        sections
            .iter()
            .filter(|(section, _)| *section == name)
            .map(|(_, lines)| format!("{lines}\n"))
            .collect::<String>()
    };
    format!(
        "[listen]\naddress = \"127.0.0.1:0\"\n{}[ops]\naddress = \"127.0.0.1:0\"\n{}[upstream]\nurl = \"{upstream}\"\napi_key_file = \"key\"\n{}[ledger]\npath = \"ledger\"\n{}[limits]\n{}{callers}",
        of("listen"),
        of("ops"),
        of("upstream"),
        of("ledger"),
        of("limits")
    )
}

pub struct Gateway {
    pub folder: Arc<tempfile::TempDir>,
    child: Child,
    pub listen: SocketAddr,
    pub ops: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

/// Hands on each line with its end, until the other side closes.
fn each_line(from: impl Read, mut take: impl FnMut(&str)) {
    let (mut from, mut line) = (BufReader::new(from), Vec::new());
    while let Ok(1..) = from.read_until(b'\n', &mut line) {
        take(&String::from_utf8_lossy(&line));
        line.clear();
    }
}

impl Gateway {
    /// Starts with the usual caller.
    pub fn start(upstream: &str) -> Self {
        Self::with(&configuration(upstream, &[], &caller("moderation", TOKEN, "")))
    }

    pub fn with(configuration: &str) -> Self {
        Self::in_folder(Arc::new(tempfile::tempdir().unwrap()), configuration, &[])
    }

    pub fn in_folder(folder: Arc<tempfile::TempDir>, configuration: &str, environment: &[(&str, &str)]) -> Self {
        Self::attempt(folder, configuration, environment, &[]).unwrap_or_else(|(_, log)| panic!("not ready: {log}"))
    }

    /// Starts it, behind the words of `wrapper`. If it ends before it is ready: its exit code and what it said.
    pub fn attempt(
        folder: Arc<tempfile::TempDir>,
        configuration: &str,
        environment: &[(&str, &str)],
        wrapper: &[&str],
    ) -> Result<Self, (Option<i32>, String)> {
        std::fs::write(folder.path().join("gateway.toml"), configuration).unwrap();
        let key = folder.path().join("key");
        if !key.exists() {
            std::fs::write(key, format!("{KEY}\n")).unwrap();
        }
        let words = [wrapper, &[BINARY, "serve", "--config"]].concat();
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .arg(folder.path().join("gateway.toml"))
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (stderr, shared) = (child.stderr.take().unwrap(), Arc::clone(&log));
        let reader = std::thread::spawn(move || each_line(stderr, |line| shared.lock().unwrap().push_str(line)));
        let (stdout, (send, lines)) = (child.stdout.take().unwrap(), std::sync::mpsc::channel());
        std::thread::spawn(move || each_line(stdout, |line| drop(send.send(line.to_owned()))));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Self { listen: nowhere, ops: nowhere, folder, child, log, reader: Some(reader) };
        let Ok(line) = lines.recv_timeout(PATIENCE) else {
            return Err((gateway.ended().code(), gateway.log()));
        };
        let ready: Value = serde_json::from_str(&line).unwrap();
        let address = |name: &str| ready[name].as_str().unwrap().parse().unwrap();
        (gateway.listen, gateway.ops) = (address("listen"), address("ops"));
        Ok(gateway)
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end; what it logged is complete then.
    pub fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        self.reader.take().map(JoinHandle::join);
        status.unwrap()
    }

    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.ended();
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// How much memory it has, in KiB.
    pub fn resident_kib(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// Sends the usual deletion and does not wait for its answer.
    pub fn send(&self) -> TcpStream {
        let mut stream = connect(self.listen);
        stream.write_all(request(TARGET, &format!("Authorization: Bearer {TOKEN}\r\n")).as_bytes()).unwrap();
        stream
    }

    /// Every entry, through `audit export`.
    pub fn entries(&self) -> Vec<Value> {
        entries(&self.config())
    }

    /// The entries of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<Value> {
        self.entries().into_iter().filter(|entry| entry["kind"] == kind).collect()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.reader.take().map(JoinHandle::join);
        if std::thread::panicking() {
            eprintln!("the gateway's log:\n{}", self.log());
        }
    }
}

pub fn command(arguments: &[&str], config: &Path) -> Output {
    Command::new(BINARY).args(arguments).arg("--config").arg(config).output().unwrap()
}

pub fn entries(config: &Path) -> Vec<Value> {
    let output = command(&["audit", "export"], config);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
