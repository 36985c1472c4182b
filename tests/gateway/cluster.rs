//! Several replicas of the real binary on one database of the test's own, with a wedge in between.

use crate::instance::Instance;
use crate::promises::{Heard, ask, connect};
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, command, configuration, eventually};
use crate::wedge::Wedge;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// A request's budget; a lease is ten seconds longer.
const BUDGET_MS: u64 = 2500;

pub struct Cluster {
    pub database: Instance,
    pub wedge: Wedge,
    pub provider: Provider,
    pub replicas: Vec<Gateway>,
    folder: Arc<tempfile::TempDir>,
    pub text: String,
}

impl Cluster {
    /// So many replicas, running.
    pub fn of(replicas: usize) -> Self {
        let mut cluster = Self::empty();
        cluster.migrate();
        cluster.join(replicas);
        cluster
    }

    /// Makes the tables.
    pub fn migrate(&self) {
        let migrated = command(&["migrate"], &self.config());
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
    }

    /// So many more replicas.
    pub fn join(&mut self, replicas: usize) {
        for _ in 0..replicas {
            let replica = self.start("").unwrap_or_else(|(_, log)| panic!("not ready: {log}"));
            self.replicas.push(replica);
        }
    }

    /// A database without a ledger, and a configuration for it.
    pub fn empty() -> Self {
        Self::for_callers(&caller("moderation", TOKEN, ""))
    }

    /// The same for other callers than the usual one.
    pub fn for_callers(callers: &str) -> Self {
        let (database, provider) = (Instance::start(), Provider::start());
        let (wedge, folder) = (Wedge::before(database.port), tempfile::tempdir().unwrap());
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("url"), database.url(wedge.port)).unwrap();
        std::fs::write(at("key"), "canary-provider-key-000\n").unwrap();
        let ledger = format!(
            "kind = \"postgres\"\nurl_file = \"{}\"\nsigning_key_file = \"{}\"\n",
            at("url").display(),
            at("signing-key").display()
        );
        let upstream = format!("timeout_ms = {BUDGET_MS}");
        let text = configuration(&provider.url(), &[("upstream", &upstream)], callers);
        // One look, at once: so that resolutions are among the entries.
        let text = text.replace("path = \"ledger\"\n", &ledger) + "[resolver]\ndelay_s = 1\nattempts = 1\n";
        std::fs::write(at("gateway.toml"), &text).unwrap();
        Self { database, wedge, provider, replicas: Vec::new(), folder: Arc::new(folder), text }
    }

    pub fn config(&self) -> std::path::PathBuf {
        self.folder.path().join("gateway.toml")
    }

    /// Starts a replica, made to fail at these points.
    pub fn start(&self, failpoints: &str) -> Result<Gateway, (Option<i32>, String)> {
        let environment = [(crate::crash::FAILPOINTS, failpoints)];
        Gateway::attempt(Arc::new(tempfile::tempdir().unwrap()), &self.text, &environment, &[])
    }

    /// Waits until nothing is open any more: the leases of the dead are over, and somebody has closed what they left.
    pub fn settle(&self) {
        let open = || self.database.ask("SELECT count(*) FROM ledger.in_flight");
        eventually("nothing is open any more", || open() == "0");
    }
}

/// Callers of one replica, which may come and go, until they are told to end.
pub struct Load {
    ended: Arc<AtomicBool>,
    callers: Vec<JoinHandle<Vec<Heard>>>,
}

/// Where a replica is at the moment; none: it is not there.
pub type Whereabouts = Arc<std::sync::Mutex<Option<SocketAddr>>>;

impl Load {
    pub fn on(replica: &Whereabouts, callers: usize) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let call = || {
            let (replica, ended) = (Arc::clone(replica), Arc::clone(&ended));
            std::thread::spawn(move || {
                let mut heard = Vec::new();
                while !ended.load(Ordering::SeqCst) {
                    let address = *replica.lock().unwrap();
                    let stream = address.and_then(connect);
                    let Some(mut stream) = stream else {
                        std::thread::sleep(std::time::Duration::from_millis(20));
                        continue;
                    };
                    while !ended.load(Ordering::SeqCst)
                        && let Some(answer) = ask(&mut stream)
                    {
                        // Who is refused tries again a little later, as callers do.
                        if answer.status == 503 {
                            std::thread::sleep(std::time::Duration::from_millis(20));
                        }
                        heard.push(answer);
                    }
                }
                heard
            })
        };
        let callers = (0..callers).map(|_| call()).collect();
        Self { ended, callers }
    }

    pub fn end(self) -> Vec<Heard> {
        self.ended.store(true, Ordering::SeqCst);
        self.callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    }
}
