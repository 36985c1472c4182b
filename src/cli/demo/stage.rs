//! The demo's folder and processes. They end with it, whatever happens.

use crate::cli::Exit;
use crate::identity::hex;
use crate::ledger::search::{Query, Row};
use crate::ledger::sqlite::SqliteReader;
use crate::ledger::{ProofReader, Reader};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) const MODERATION: &str = "obviously-fake-token-moderation";
pub(super) const RUNAWAY: &str = "obviously-fake-token-runaway";
const KEY: &str = "obviously-fake-provider-key";

pub(super) struct Stage {
    folder: PathBuf,
    sandbox: Child,
    serve: Child,
    gateway: SocketAddr,
    ops: String,
    runtime: Runtime,
    signals: [Signal; 3],
}

/// What ends the demo, from now on in order.
fn signals(runtime: &Runtime) -> std::io::Result<[Signal; 3]> {
    let _within = runtime.enter();
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?])
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

/// Starts this binary; its first line says where it listens. What it logs goes to a file.
fn start(folder: &Path, arguments: &[&str]) -> Result<(Child, serde_json::Value), String> {
    let name = arguments.first().copied().unwrap_or_default();
    let binary = std::env::current_exe().map_err(|e| e.to_string())?;
    let log = std::fs::File::create(folder.join(format!("{name}.log"))).map_err(|e| e.to_string())?;
    let mut child =
        Command::new(binary).args(arguments).stdout(Stdio::piped()).stderr(log).spawn().map_err(|e| e.to_string())?;
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().ok_or("no output")?);
    let _ = out.read_line(&mut line);
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
    if ready.get("ready").is_none() {
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("`{name}` did not start; see {}", folder.join(format!("{name}.log")).display()));
    }
    std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
    Ok((child, ready))
}

fn text(ready: &serde_json::Value, member: &str) -> String {
    ready.get(member).and_then(|v| v.as_str()).unwrap_or_default().to_owned()
}

impl Stage {
    pub(super) fn set() -> Result<Self, String> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        let signals = signals(&runtime).map_err(|e| e.to_string())?;
        let folder = std::env::temp_dir().join(format!("wasend-gateway-demo-{}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let (mut sandbox, ready) = start(&folder, &["sandbox", "--listen", "127.0.0.1:0", "--api-key", KEY])?;
        let config = folder.join("gateway.toml");
        let written = std::fs::write(&config, configuration(&text(&ready, "listen")))
            .and_then(|()| std::fs::write(folder.join("provider.key"), KEY))
            .map_err(|e| e.to_string());
        let serving = written.and_then(|()| start(&folder, &["serve", "--config", &config.display().to_string()]));
        match serving {
            Ok((serve, ready)) => {
                let gateway = text(&ready, "listen").parse().map_err(|_| "the gateway did not say where it listens")?;
                Ok(Self { folder, sandbox, serve, gateway, ops: text(&ready, "ops"), runtime, signals })
            }
            Err(what) => {
                let _ = sandbox.kill();
                let _ = sandbox.wait();
                Err(what)
            }
        }
    }

    pub(super) fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// Every request that the ledger has a row for. Refusals are recorded without anybody waiting, so the
    /// last ones may come a moment later.
    pub(super) fn recorded(&self) -> Vec<Row> {
        let read = || {
            let ledger = SqliteReader::open(&self.folder.join("ledger")).ok()?;
            Some(ledger.search(&Query { limit: 100, ..Query::default() }).ok()?.rows)
        };
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
    }

    /// Whether `audit verify` finds everything as it was signed; it says so itself. It waits for the checkpoint that covers
    /// what the demo has done, which comes within a second or so.
    pub(super) fn verified(&self) -> bool {
        let covered = || {
            let ledger = SqliteReader::open(&self.folder.join("ledger")).ok()?;
            let size: u64 = ledger.checkpoint().ok()??.lines().nth(1)?.parse().ok()?;
            Some(size >= ledger.length().ok()?)
        };
        for _ in 0..100 {
            if covered() == Some(true) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        crate::cli::audit::verified(self.folder.join("gateway.toml")) == Exit::Done
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

    /// Waits for Ctrl-C, SIGTERM, or the end of the terminal.
    pub(super) fn wait(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        self.runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
    }

    /// Ends everything in order. Returns whether the gateway ended well.
    pub(super) fn strike(&mut self) -> bool {
        let pid = i32::try_from(self.serve.id()).ok().and_then(rustix::process::Pid::from_raw);
        let told = pid.is_some_and(|pid| rustix::process::kill_process(pid, rustix::process::Signal::TERM).is_ok());
        told && self.serve.wait().is_ok_and(|status| status.success())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in [&mut self.serve, &mut self.sandbox] {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
