//! The demo's folder and processes. They end with it, whatever happens.

use super::call::{Answer, delete};
use crate::cli::Exit;
use crate::identity::hex;
use crate::ledger::search::{Query, Row};
use crate::ledger::sqlite::SqliteReader;
use crate::ledger::{ProofReader, Reader};
use futures_util::future::select_all;
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

pub(super) const MODERATION: &str = "obviously-fake-token-moderation";
pub(super) const RUNAWAY: &str = "obviously-fake-token-runaway";
const KEY: &str = "obviously-fake-provider-key";

pub(super) struct Stage {
    folder: PathBuf,
    /// The sandbox, then the gateway.
    children: Vec<Child>,
    gateway: SocketAddr,
    ops: String,
    ends: Ends,
}

/// The demo was told to end.
pub(super) struct Told;

/// Why nothing can be shown.
pub(super) enum NotSet {
    Told,
    Fault(String),
}

impl From<Told> for NotSet {
    fn from(_: Told) -> Self {
        Self::Told
    }
}

/// What ends the demo, in order: Ctrl-C, SIGTERM, and the end of the terminal, unless that was meant to end nothing
/// (`nohup`).
struct Ends {
    runtime: Runtime,
    signals: Vec<Signal>,
}

/// Whether who started this ignores the end of the terminal, as far as the system says so.
fn outlives_its_terminal() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set & 1 == 1)
}

impl Ends {
    fn new() -> std::io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let mut kinds = vec![SignalKind::interrupt(), SignalKind::terminate()];
        if !outlives_its_terminal() {
            kinds.push(SignalKind::hangup());
        }
        let within = runtime.enter();
        let signals = kinds.into_iter().map(signal).collect::<Result<_, _>>()?;
        drop(within);
        Ok(Self { runtime, signals })
    }

    /// What comes of something that may take long, unless the demo is told to end before.
    fn unless<T: Send + 'static>(&mut self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Told> {
        let (done, result) = oneshot::channel();
        std::thread::spawn(move || done.send(work()));
        let signals = &mut self.signals;
        self.runtime.block_on(async {
            let told = select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
            tokio::select! {
                biased;
                _ = told => Err(Told),
                result = result => result.map_err(|_| Told),
            }
        })
    }

    fn wait(&mut self) {
        let told = select_all(self.signals.iter_mut().map(|signal| Box::pin(signal.recv())));
        self.runtime.block_on(told);
    }
}

fn hash(token: &str) -> String {
    hex(&Sha256::digest(token.as_bytes()))
}

fn configuration(sandbox: &str) -> String {
    format!(
        r#"# Made by the demo.
[listen]
address = "127.0.0.1:0"
[ops]
address = "127.0.0.1:0"
[upstream]
url = "http://{sandbox}"
api_key_file = "provider.key"
[ledger]
path = "ledger"
[limits]
rates = [{{ max = 20, per_s = 1 }}]
[[callers]]
name = "moderation"
tokens = [{{ id = "demo", sha256 = "{}" }}]
rates = [{{ max = 60, per_s = 60 }}]
[[callers.allow]]
sessions = ["sess1"]
groups = ["*@g.us"]
[[callers.deny]]
sessions = ["*"]
groups = ["120363000000000999@g.us"]
[[callers]]
name = "runaway"
tokens = [{{ id = "demo", sha256 = "{}" }}]
rates = [{{ max = 2, per_s = 60 }}]
[[callers.allow]]
sessions = ["sess1"]
groups = ["*@g.us"]
"#,
        hash(MODERATION),
        hash(RUNAWAY)
    )
}

fn text(ready: &serde_json::Value, member: &str) -> String {
    ready.get(member).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
}

/// The first line of a process. Whatever else it says is taken from it.
fn first_line(out: ChildStdout) -> String {
    let (mut out, mut line) = (BufReader::new(out), String::new());
    let _ = out.read_line(&mut line);
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    line
}

impl Stage {
    pub(super) fn set() -> Result<Self, NotSet> {
        let fault = |e: std::io::Error| NotSet::Fault(e.to_string());
        let ends = Ends::new().map_err(fault)?;
        let folder = std::env::temp_dir().join(format!("wasend-gateway-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| NotSet::Fault(format!("{}: {e}", folder.display())))?;
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut stage = Self { folder, children: Vec::new(), gateway: nowhere, ops: String::new(), ends };
        let ready = stage.start(&["sandbox", "--listen", "127.0.0.1:0", "--api-key", KEY])?;
        let config = stage.folder.join("gateway.toml");
        std::fs::write(&config, configuration(&text(&ready, "listen"))).map_err(fault)?;
        std::fs::write(stage.folder.join("provider.key"), KEY).map_err(fault)?;
        let ready = stage.start(&["serve", "--config", &config.display().to_string()])?;
        let unsaid = |_| NotSet::Fault("the gateway did not say where it listens".to_owned());
        (stage.gateway, stage.ops) = (text(&ready, "listen").parse().map_err(unsaid)?, text(&ready, "ops"));
        Ok(stage)
    }

    /// Starts this binary; its first line says where it listens. What it logs goes to a file.
    fn start(&mut self, arguments: &[&str]) -> Result<serde_json::Value, NotSet> {
        let fault = |e: std::io::Error| NotSet::Fault(e.to_string());
        let name = arguments.first().copied().unwrap_or_default();
        let place = self.folder.join(format!("{name}.log"));
        let (binary, log) = (std::env::current_exe().map_err(fault)?, std::fs::File::create(&place).map_err(fault)?);
        let mut child =
            Command::new(binary).args(arguments).stdout(Stdio::piped()).stderr(log).spawn().map_err(fault)?;
        let out = child.stdout.take();
        self.children.push(child);
        let line = self.ends.unless(move || out.map(first_line).unwrap_or_default())?;
        let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        if ready.get("ready").is_none() {
            let said = std::fs::read_to_string(&place).unwrap_or_default();
            return Err(NotSet::Fault(format!("`{name}` did not start; it said\n{said}")));
        }
        Ok(ready)
    }

    /// One call of the gateway.
    pub(super) fn call(&mut self, target: &'static str, token: &'static str) -> Result<Answer, Told> {
        let gateway = self.gateway;
        self.ends.unless(move || delete(gateway, target, token).unwrap_or_default())
    }

    /// Every request that the ledger has a row for. Refusals are recorded without anybody waiting, so the
    /// last ones may come a moment later.
    pub(super) fn recorded(&mut self) -> Result<Vec<Row>, Told> {
        let ledger = self.folder.join("ledger");
        let read = move || {
            let ledger = SqliteReader::open(&ledger).ok()?;
            Some(ledger.search(&Query { limit: 100, ..Query::default() }).ok()?.rows)
        };
        self.ends.unless(move || {
            let mut rows = read().unwrap_or_default();
            for _ in 0..20 {
                std::thread::sleep(std::time::Duration::from_millis(25));
                let again = read().unwrap_or_default();
                if again.len() == rows.len() {
                    break;
                }
                rows = again;
            }
            rows
        })
    }

    /// Whether `audit verify` finds everything as it was signed; it says so itself. It waits for the checkpoint that covers
    /// what the demo has done, which comes within a second or so.
    pub(super) fn verified(&mut self) -> Result<bool, Told> {
        let (ledger, config) = (self.folder.join("ledger"), self.folder.join("gateway.toml"));
        let covered = move || {
            let ledger = SqliteReader::open(&ledger).ok()?;
            let size: u64 = ledger.checkpoint().ok()??.lines().nth(1)?.parse().ok()?;
            Some(size >= ledger.length().ok()?)
        };
        self.ends.unless(move || {
            for _ in 0..100 {
                if covered() == Some(true) {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            crate::cli::audit::verified(config) == Exit::Done
        })
    }

    pub(super) fn next_steps(&self) -> String {
        let (gateway, ops, config) = (self.gateway, &self.ops, self.folder.join("gateway.toml").display().to_string());
        let binary =
            std::env::current_exe().map_or_else(|_| "wasend-gateway".to_owned(), |path| path.display().to_string());
        format!(
            "\nIt goes on running until Ctrl-C. Next:\n  \
             curl -i -X DELETE -H 'Authorization: Bearer {MODERATION}' http://{gateway}/sess1/groups/120363000000000005@g.us/picture\n  \
             curl -s http://{ops}/readyz ; curl -s http://{ops}/metrics\n  \
             {binary} audit tail -f --config {config}\n  \
             {binary} audit show 2 --config {config}\n  \
             {binary} audit verify --config {config}\n  \
             {binary} explain --caller moderation --session sess2 --group 1@g.us --config {config}\n\
             Then the README: put it in front of your service."
        )
    }

    /// Waits until it is told to end.
    pub(super) fn wait(&mut self) {
        self.ends.wait();
    }

    /// Ends everything in order. Returns whether the gateway ended well.
    pub(super) fn strike(&mut self) -> bool {
        let Some(serve) = self.children.last_mut() else { return false };
        let pid = i32::try_from(serve.id()).ok().and_then(rustix::process::Pid::from_raw);
        let told = pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok());
        told && serve.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
