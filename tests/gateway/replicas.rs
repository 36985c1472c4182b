//! Several replicas on one database: what a lost commit, a lost database and a dead replica come to, seen from outside.

use crate::cluster::{Cluster, Load, Whereabouts};
use crate::promises::{Heard, Promises, ask, connect};
use crate::provider::Reply;
use crate::running::{command, eventually};
use crate::soak::{Random, count};
use crate::wedge::Cut;
use crate::wire::get;
use serde_json::Value;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn deletion(to: SocketAddr) -> Heard {
    ask(&mut connect(to).unwrap()).expect("an answer")
}

/// The outcomes of the request with this id.
fn outcomes(cluster: &Cluster, id: &str) -> Vec<Value> {
    let all = cluster.replicas[0].of_kind("outcome");
    all.into_iter().filter(|entry| entry["request_id"] == id).collect()
}

#[test]
fn an_intent_whose_commit_has_no_answer_is_never_sent_whether_it_is_there_or_not() {
    let cluster = Cluster::of(1);
    let replica = cluster.replicas[0].listen;
    assert_eq!(deletion(replica).status, 200);
    for (cut, intents) in [(Cut::Before, 0), (Cut::After, 1), (Cut::Late, 1)] {
        cluster.wedge.cut_next(cut);
        let cuts = cluster.wedge.cuts();
        let heard = deletion(replica);
        eventually("it was cut", || cluster.wedge.cuts() > cuts);
        assert_eq!((heard.status, heard.sent.as_str()), (503, "no"), "{cut:?}: {heard:?}");
        cluster.settle();
        let all = cluster.replicas[0].of_kind("intent");
        let of_it: Vec<&Value> = all.iter().filter(|entry| entry["request_id"] == heard.id).collect();
        assert_eq!(of_it.len(), intents, "{cut:?}");
        let outcomes = outcomes(&cluster, &heard.id);
        assert_eq!(outcomes.iter().map(|o| &o["outcome"]).collect::<Vec<_>>(), vec!["not-sent"; intents], "{cut:?}");
        assert_eq!(deletion(replica).status, 200, "it goes on");
    }
    assert_eq!(cluster.provider.take_targets().len(), 4, "nothing of them was sent");
}

#[test]
fn an_outcome_whose_commit_has_no_answer_is_recorded_once_whether_it_is_there_or_not() {
    let cluster = Cluster::of(1);
    let replica = cluster.replicas[0].listen;
    for cut in [Cut::Before, Cut::After, Cut::Late] {
        let (go_on, sent) = (Arc::new(AtomicBool::new(false)), cluster.provider.heads().len());
        cluster.provider.next(Reply::When(go_on.clone()));
        let answer = std::thread::spawn(move || deletion(replica));
        eventually("it is at the provider", || cluster.provider.heads().len() > sent);
        cluster.wedge.cut_next(cut);
        go_on.store(true, Ordering::SeqCst);
        let heard = answer.join().unwrap();
        assert_eq!((heard.status, heard.warned), (200, false), "{cut:?}: {heard:?}");
        cluster.settle();
        let outcomes = outcomes(&cluster, &heard.id);
        assert_eq!(outcomes.iter().map(|o| &o["outcome"]).collect::<Vec<_>>(), ["deleted"], "{cut:?}");
    }
    assert_eq!(cluster.wedge.cuts(), 3);
}

#[test]
fn without_the_database_nothing_is_sent_and_the_replica_goes_on_by_itself() {
    let mut cluster = Cluster::of(1);
    let (listen, ops) = (cluster.replicas[0].listen, cluster.replicas[0].ops);
    assert_eq!(deletion(listen).status, 200);
    for signal in ["INT", "QUIT"] {
        let sent = cluster.provider.heads().len();
        cluster.database.stop(signal);
        let heard = deletion(listen);
        assert_eq!((heard.status, heard.sent.as_str()), (503, "no"));
        let ready = get(ops, "/readyz");
        assert!(ready.status == 503 && ready.body.contains("ledger-unavailable"), "{ready:?}");
        assert_eq!(cluster.provider.heads().len(), sent, "nothing is sent");
        cluster.database.start_again();
        eventually("it goes on", || deletion(listen).status == 200);
        eventually("it is ready, and signs again", || get(ops, "/readyz").json()["status"] == "ready");
    }
}

#[test]
fn a_stopped_replica_with_an_open_intent_is_killed_at_its_leases_end_and_one_without_lives_on() {
    let mut cluster = Cluster::of(3);
    cluster.provider.next(Reply::Silent);
    let mut caller = cluster.replicas[1].send();
    eventually("it is at the provider", || cluster.provider.heads().len() == 1);
    cluster.replicas[1].signal("STOP");
    cluster.replicas[2].signal("STOP");
    let status = cluster.replicas[1].ended();
    assert_eq!(status.signal(), Some(9), "the kernel has killed it while it was stopped");
    cluster.settle();
    let outcomes = cluster.replicas[0].of_kind("outcome");
    assert_eq!(outcomes.iter().map(|o| &o["outcome"]).collect::<Vec<_>>(), ["unknown"]);
    assert_eq!(std::io::Read::read(&mut caller, &mut [0; 1]).unwrap_or(0), 0, "its caller heard nothing");
    cluster.replicas[2].signal("CONT");
    let listen = cluster.replicas[2].listen;
    eventually("it goes on", || deletion(listen).status == 200);
    assert!(cluster.replicas[2].stop().success());
    assert!(cluster.replicas[0].stop().success());
}

#[test]
fn a_failover_that_lost_commits_ends_the_replicas_with_a_word() {
    let mut cluster = Cluster::of(1);
    let listen = cluster.replicas[0].listen;
    cluster.database.stop("INT");
    let behind = tempfile::tempdir().unwrap();
    let copied =
        std::process::Command::new("cp").arg("-r").args([cluster.database.data(), behind.path().join("data")]).status();
    assert!(copied.unwrap().success());
    cluster.database.start_again();
    eventually("it goes on", || deletion(listen).status == 200);
    cluster.database.stop("INT");
    cluster.database.put_back(&behind.path().join("data"));
    cluster.database.start_again();
    let status = cluster.replicas[0].ended();
    assert_eq!(status.code(), Some(75), "{}", cluster.replicas[0].log());
    assert!(cluster.replicas[0].log().contains("failover"));
}

#[test]
fn the_commands_that_ask_work_with_a_database_too() {
    let cluster = Cluster::empty();
    let config = cluster.config();
    let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let without = command(&["serve"], &config);
    assert_eq!(without.status.code(), Some(69));
    assert!(said(&without).contains("wasend-gateway migrate --config"), "{}", said(&without));
    for words in ["version 2 now", "version 2 already"] {
        let migrated = command(&["migrate"], &config);
        assert!(String::from_utf8_lossy(&migrated.stdout).contains(words) && migrated.status.success());
    }
    let replica = cluster.start("").unwrap_or_else(|(_, log)| panic!("{log}"));
    let heard: Vec<Heard> = (0..3).map(|_| deletion(replica.listen)).collect();
    assert!(heard.iter().all(|heard| heard.status == 200));
    let proof = tempfile::tempdir().unwrap();
    let out = proof.path().join("proof");
    let questions: [&[&str]; 8] = [
        &["audit", "search"],
        &["audit", "show", &heard[0].id],
        &["audit", "tail"],
        &["audit", "stats"],
        &["audit", "prove", &heard[0].id, "--out", out.to_str().unwrap()],
        &["audit", "checkpoint", "--vkey"],
        &["audit", "verify"],
        &["audit", "reindex"],
    ];
    for question in questions {
        let output = command(question, &config);
        assert!(output.status.success(), "{question:?}: {}", said(&output));
    }
    let found = command(&["audit", "search", "--json"], &config);
    assert_eq!(String::from_utf8_lossy(&found.stdout).lines().count(), 3);
    let backup = command(&["audit", "backup", "--to", "x"], &config);
    assert!(backup.status.code() == Some(64) && said(&backup).contains("pg_dump"));
    let all = [said(&without), replica.log(), format!("{:?}", cluster.replicas.len())].concat();
    assert!(!all.contains("canary-password"), "the password is in no log");
}

#[test]
fn a_freeze_holds_for_every_replica_and_ends_when_what_was_under_way_has_its_outcome() {
    let cluster = Cluster::of(2);
    let (go_on, config) = (Arc::new(AtomicBool::new(false)), cluster.config());
    cluster.provider.next(Reply::When(go_on.clone()));
    let under_way = cluster.replicas[0].listen;
    let under_way = std::thread::spawn(move || deletion(under_way));
    eventually("it is at the provider", || !cluster.provider.heads().is_empty());
    let at = config.clone();
    let freezing = std::thread::spawn(move || command(&["freeze", "--all", "--reason", "stop"], &at));
    eventually("every replica refuses", || {
        cluster.replicas.iter().map(|replica| deletion(replica.listen).status).all(|status| status == 403)
    });
    assert!(!freezing.is_finished(), "one is still under way");
    let status = command(&["status", "--json"], &config);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["replicas"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!(status["freezes"][0]["open"].as_array().unwrap().len(), 1, "{status}");
    go_on.store(true, Ordering::SeqCst);
    assert_eq!(under_way.join().unwrap().status, 200);
    let frozen = freezing.join().unwrap();
    assert_eq!(frozen.status.code(), Some(0), "{}", String::from_utf8_lossy(&frozen.stderr));
    let unfreeze = ["unfreeze", "--all", "--reason", "done"];
    assert_eq!(command(&unfreeze, &config).status.code(), Some(0));
    assert_eq!(command(&unfreeze, &config).status.code(), Some(1), "it is not frozen");
    for replica in &cluster.replicas {
        eventually("it goes on", || deletion(replica.listen).status == 200);
    }
}

#[test]
fn a_brake_that_the_database_refuses_says_that_nothing_is_frozen() {
    let cluster = Cluster::of(1);
    assert_eq!(deletion(cluster.replicas[0].listen).status, 200);
    cluster.database.ask(
        "CREATE ROLE auditor LOGIN; GRANT USAGE ON SCHEMA ledger, search TO auditor;
        GRANT SELECT ON ALL TABLES IN SCHEMA ledger, search TO auditor",
    );
    let url = cluster.config().with_file_name("url");
    let whole = std::fs::read_to_string(&url).unwrap();
    std::fs::write(&url, whole.replace("postgres://postgres:", "postgres://auditor:")).unwrap();
    for words in [["freeze", "--all", "--reason", "x"], ["unfreeze", "--all", "--reason", "x"]] {
        let output = command(&words, &cluster.config());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(69) && said.contains("nothing was recorded"), "{words:?}: {said}");
    }
    for words in [&["status"][..], &["audit", "verify"], &["audit", "search"]] {
        assert!(command(words, &cluster.config()).status.success(), "{words:?}");
    }
}

#[test]
fn a_brake_whose_commit_has_no_answer_says_that_it_may_be_frozen() {
    let cluster = Cluster::of(1);
    assert_eq!(deletion(cluster.replicas[0].listen).status, 200);
    // The connection ends within COMMIT.
    cluster.database.ask(
        "CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
            'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER cut AFTER INSERT ON ledger.frozen DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION cut()",
    );
    let output = command(&["freeze", "--all", "--reason", "x"], &cluster.config());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(75) && said.contains("it may be recorded all the same"), "{said}");
    assert!(!said.contains("nothing was recorded"), "{said}");
}

/// Where a process is made to kill itself, now and then.
const POINTS: [&str; 11] = [
    "intent-before-begin",
    "intent-after-begin",
    "intent-before-commit",
    "intent-after-commit",
    "forward",
    "send",
    "answer-begun",
    "conclude",
    "outcome-before-begin",
    "outcome-before-commit",
    "outcome-after-commit",
];

/// Replicas that are killed, stopped and started again under load, on a database that has its own troubles.
struct Trouble {
    cluster: Cluster,
    places: Vec<Whereabouts>,
    random: Random,
}

impl Trouble {
    fn restart(&mut self, at: usize) {
        *self.places[at].lock().unwrap() = None;
        self.cluster.replicas[at].kill();
        let point = POINTS[self.random.below(POINTS.len())];
        let failpoint = format!("{point}=kill@{}", 1 + self.random.below(200));
        let is_armed = self.random.below(2) == 0;
        self.begin(at, if is_armed { &failpoint } else { "" });
    }

    /// Starts anew what has killed itself.
    fn mend(&mut self) {
        for at in 0..self.places.len() {
            if !self.cluster.replicas[at].is_running() {
                self.begin(at, "");
            }
        }
    }

    /// Starts a replica in the place of one that is gone; the database may be away at first.
    fn begin(&mut self, at: usize, failpoints: &str) {
        let mut begun = None;
        eventually("a replica starts", || {
            begun = self.cluster.start(failpoints).ok();
            begun.is_some()
        });
        self.cluster.replicas[at] = begun.unwrap();
        *self.places[at].lock().unwrap() = Some(self.cluster.replicas[at].listen);
    }

    fn strike(&mut self) -> &'static str {
        self.mend();
        let at = self.random.below(self.places.len());
        match self.random.below(12) {
            0..2 => {
                self.restart(at);
                "killed"
            }
            2..4 => {
                self.cluster.replicas[at].signal("STOP");
                std::thread::sleep(Duration::from_millis(self.random.below(2500) as u64));
                self.cluster.replicas[at].signal("CONT");
                "stopped for a while"
            }
            4..6 => {
                self.cluster.database.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'wasend%'",
                );
                "terminated"
            }
            6..8 => {
                self.cluster.wedge.cut_next(Cut::Before);
                "cut before a commit"
            }
            8..10 => {
                self.cluster.wedge.cut_next(Cut::After);
                "cut after a commit"
            }
            10 => {
                self.cluster.wedge.cut_all();
                "all cut"
            }
            _ => {
                self.cluster.database.stop(if self.random.below(2) == 0 { "INT" } else { "QUIT" });
                self.cluster.database.start_again();
                "restarted the database"
            }
        }
    }
}

#[test]
fn three_replicas_in_every_trouble_keep_one_log_and_every_promise() {
    let (cluster, random, strikes) = (Cluster::of(3), Random::new(), count(1000));
    let places: Vec<Whereabouts> =
        cluster.replicas.iter().map(|replica| Arc::new(Mutex::new(Some(replica.listen)))).collect();
    let loads: Vec<Load> = places.iter().map(|place| Load::on(place, 2)).collect();
    let mut trouble = Trouble { cluster, places, random };
    for strike in 0..strikes {
        let pause = Duration::from_millis(trouble.random.below(400) as u64);
        if trouble.random.below(8) == 0 {
            trouble.cluster.provider.next(Reply::HangUp);
        }
        println!("strike {strike}: {}", trouble.strike());
        std::thread::sleep(pause);
    }
    trouble.mend();
    let mut promises = Promises::default();
    promises.heard.extend(loads.into_iter().flat_map(Load::end));
    for at in 0..trouble.places.len() {
        eventually("each goes on", || {
            trouble.mend();
            let answered = connect(trouble.cluster.replicas[at].listen).and_then(|mut stream| ask(&mut stream));
            answered.is_some_and(|heard| heard.status == 200)
        });
    }
    let Trouble { cluster, .. } = trouble;
    cluster.settle();
    let verified = command(&["audit", "verify"], &cluster.config());
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    promises.look_at(&cluster.provider);
    promises.read(&cluster.replicas[0]);
    promises.hold("after all troubles");
    let answered = promises.heard.iter().filter(|heard| heard.status == 200).count();
    println!(
        "{strikes} strikes, {} cuts in mid-commit: {} intents, {} sent, {answered} answered 200",
        cluster.wedge.cuts(),
        promises.recorded(),
        promises.sent()
    );
    assert!(answered > strikes && promises.sent() >= answered);
}
