//! The process is killed at random moments and at every named point, under load, again and again on one ledger.

use crate::injected::WAYS;
use crate::promises::{Heard, Promises, ask, connect};
use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, caller, command, configuration, eventually};
use crate::soak::{Random, count};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

const CALLERS: usize = 4;
pub const FAILPOINTS: &str = "WASEND_GATEWAY_FAILPOINTS";

/// A point at which a process waits until it is let go.
pub struct Held(tempfile::TempDir);

impl Held {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("go")
    }

    /// What arms it.
    pub fn at(&self, point: &str) -> String {
        format!("{point}=until:{}", self.file().display())
    }

    pub fn is_reached(&self) -> bool {
        self.file().with_extension("reached").exists()
    }

    pub fn let_go(&self) {
        std::fs::write(self.file(), "").unwrap();
    }
}

/// One ledger and one provider over many processes.
struct Crashes {
    provider: Provider,
    folder: Arc<tempfile::TempDir>,
    text: String,
    promises: Promises,
}

/// Callers that call until nobody answers any more.
pub struct Load(Vec<JoinHandle<Vec<Heard>>>);

impl Load {
    pub fn on(address: SocketAddr) -> Self {
        let call = move || {
            let mut heard = Vec::new();
            while let Some(mut stream) = connect(address) {
                while let Some(answer) = ask(&mut stream) {
                    heard.push(answer);
                }
            }
            heard
        };
        Self((0..CALLERS).map(|_| std::thread::spawn(call)).collect())
    }

    pub fn heard(self) -> Vec<Heard> {
        self.0.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
    }
}

impl Crashes {
    fn new() -> Self {
        let provider = Provider::start();
        let text = configuration(&provider.url(), &[("ledger", "reserve_kib = 64")], &caller("moderation", TOKEN, ""));
        Self { provider, folder: Arc::new(tempfile::tempdir().unwrap()), text, promises: Promises::default() }
    }

    fn start(&self, failpoints: &str) -> Result<Gateway, (Option<i32>, String)> {
        Gateway::attempt(self.folder.clone(), &self.text, &[(FAILPOINTS, failpoints)], &[])
    }

    /// After the death of a process: starts another one, which must record what is open, and asks everybody.
    fn recover(&mut self) -> Gateway {
        eventually("the provider has read what was sent", || self.provider.connections() == 0);
        let gateway = self.start("").unwrap();
        self.promises.read(&gateway);
        self.promises.look_at(&self.provider);
        gateway
    }

    /// Kills the process by chance, once so many deletions have reached the provider.
    fn kill_by_chance(&mut self, mut gateway: Gateway, random: &mut Random) -> Gateway {
        let load = Load::on(gateway.listen);
        let (deletions, turns) = (random.below(24), random.below(20_000));
        eventually("so many deletions", || self.provider.heads().len() >= deletions);
        for _ in 0..turns {
            std::hint::spin_loop();
        }
        gateway.kill();
        self.promises.heard.extend(load.heard());
        self.recover()
    }
}

#[test]
fn killed_at_random_moments_under_load_it_keeps_every_promise() {
    let (mut random, mut crashes, kills) = (Random::new(), Crashes::new(), count(2000));
    let mut gateway = crashes.start("").unwrap();
    for kill in 0..kills {
        gateway = crashes.kill_by_chance(gateway, &mut random);
        crashes.promises.hold(&format!("kill {kill}"));
    }
    let promises = &crashes.promises;
    let answered = promises.heard.iter().filter(|heard| heard.status == 200).count();
    assert!(answered > 0 && promises.sent() >= answered && promises.recorded() >= promises.sent());
    println!("{kills} kills: {} intents, {} sent, {answered} answered 200", promises.recorded(), promises.sent());
}

/// The points that there are, as the process lists them when it is asked for one that there is not.
fn points() -> Vec<String> {
    let crashes = Crashes::new();
    let (code, complaint) = crashes.start("x=kill").err().expect("it does not start");
    assert_eq!(code, Some(64), "{complaint}");
    let list = complaint.split_once("there are: ").expect("a list").1;
    // Not passed by who serves: `prune.rs`, `moving.rs` and `restoring_replicas.rs` have them.
    let elsewhere = ["prune-", "copy-", "restore-"];
    let points = list.lines().next().unwrap().split(", ");
    points.filter(|point| !elsewhere.iter().any(|begins| point.starts_with(begins))).map(str::to_owned).collect()
}

#[test]
fn killed_at_every_named_point_it_keeps_every_promise() {
    let (mut random, mut crashes, points) = (Random::new(), Crashes::new(), points());
    let mut way = WAYS.iter().cycle();
    assert!(points.len() >= 25, "{points:?}");
    let rounds = count(50);
    for round in 0..rounds {
        for point in &points {
            let once = ["recovery", "stop", "reload"].iter().any(|begins| point.starts_with(begins));
            let at = if once { 1 } else { 1 + random.below(12) };
            match crashes.start(&format!("{point}=kill@{at};{}", way.next().unwrap())) {
                Err((code, _)) => assert!(code.is_none() && point.starts_with("recovery"), "{point}"),
                Ok(mut gateway) => {
                    let load = Load::on(gateway.listen);
                    for (begins, signal) in [("stop", "TERM"), ("reload", "HUP")] {
                        if point.starts_with(begins) {
                            eventually("deletions", || crashes.provider.heads().len() >= 3);
                            gateway.signal(signal);
                        }
                    }
                    assert_eq!(gateway.ended().code(), None, "{point}@{at} was not reached");
                    crashes.promises.heard.extend(load.heard());
                }
            }
            crashes.recover().kill();
            crashes.promises.hold(&format!("{point}@{at} in round {round}"));
        }
    }
    println!("{} kills at {} named points: {} sent", rounds * points.len(), points.len(), crashes.promises.sent());
}

#[test]
fn the_kills_notice_an_intent_that_is_answered_before_its_commit() {
    let mut crashes = Crashes::new();
    let mut gateway = crashes.start("answer-before-commit;intent-before-commit=stall@3").unwrap();
    let load = Load::on(gateway.listen);
    // What was sent is counted first: else a commit in between would look like one that stalls. And more than once: a
    // commit that does not stall is late only for a moment.
    let mut seen = 0;
    eventually("the deletion of a stalled commit is at the provider", || {
        let sent = crashes.provider.heads().len();
        seen = if sent > gateway.of_kind("intent").len() { seen + 1 } else { 0 };
        seen >= 3
    });
    gateway.kill();
    crashes.promises.heard.extend(load.heard());
    drop(crashes.recover());
    let broken = crashes.promises.broken();
    assert!(broken.iter().any(|fault| fault.contains("sent without an intent")), "{broken:?}");
}

#[test]
fn a_process_that_is_made_to_fail_says_so_and_a_wrong_word_ends_it() {
    let crashes = Crashes::new();
    let gateway = crashes.start("stop=kill").unwrap();
    eventually("it warns", || gateway.log().contains("this process is made to fail at stop"));
    let check = command(&["check-config"], &gateway.config());
    assert!(check.status.success() && !String::from_utf8_lossy(&check.stderr).contains("made to fail"));
    for wrong in ["stop=die", "stop=kill@x", "nothing"] {
        assert_eq!(crashes.start(wrong).err().unwrap().0, Some(64), "{wrong}");
    }
}
