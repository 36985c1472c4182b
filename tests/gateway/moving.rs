//! `ledger copy`: a ledger moves from its folder to a database. The same log goes on there, and never in two places.

use crate::cluster::Cluster;
use crate::crash::{FAILPOINTS, Held};
use crate::old::{python, said};
use crate::provider::Reply;
use crate::running::{BINARY, Gateway, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::wire::{Response, delete, delete_with};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

pub const OTHER: &str = "canary-token-other-000";
const STOPPED: &str = "canary-token-stopped-000";

type Said = (Option<i32>, String);

/// A ledger in a folder, and a database that it can move to.
pub struct Moving {
    pub cluster: Cluster,
    folder: Arc<tempfile::TempDir>,
    text: String,
}

impl Moving {
    pub fn new() -> Self {
        let budget = "budgets = [{ max = 3, per_s = 3600 }]";
        let callers =
            [caller("moderation", TOKEN, budget), caller("other", OTHER, ""), caller("stopped", STOPPED, "")].concat();
        let cluster = Cluster::for_callers(&callers);
        let ledger = ("ledger", "origin = \"gateway.example/log\"\nreserve_kib = 64");
        // Nothing is looked at before it has moved.
        let text = configuration(&cluster.provider.url(), &[ledger], &callers) + "[resolver]\ndelay_s = 600\n";
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("gateway.toml"), &text).unwrap();
        Self { cluster, folder, text }
    }

    pub fn serve(&self) -> Gateway {
        Gateway::in_folder(self.folder.clone(), &self.text, &[])
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("gateway.toml")
    }

    pub fn ledger(&self) -> PathBuf {
        self.folder.path().join("ledger")
    }

    /// Gives the database the key of the folder, and its tables.
    pub fn ready(&self) {
        give_key(&self.ledger(), &self.cluster);
        self.cluster.migrate();
    }

    pub fn copy(&self, failpoints: &str) -> Said {
        copy(&self.config(), &self.cluster.config(), failpoints)
    }

    /// What is said when the folder is served that has moved.
    fn is_gone(&self) {
        let refused = Gateway::attempt(self.folder.clone(), &self.text, &[], &[]);
        let (code, log) = refused.err().expect("it is not served");
        let words = ["this ledger has moved", "database `ledger` at 127.0.0.1", "signed twice"];
        assert!(code == Some(69) && words.iter().all(|words| log.contains(words)), "{code:?} {log}");
    }

    /// What is said when a copy is served that is not whole, or is to be gone on with as another log.
    fn is_not_there(&self) {
        let (code, log) = self.cluster.start("").err().expect("it is not served");
        assert!(code == Some(69) && log.contains("not whole yet"), "{code:?} {log}");
        // Nor does another log begin in it.
        let (code, words) = run(&["audit", "restore", "--accept-loss"], &self.cluster.config());
        assert!(code == Some(69) && words.contains("not whole yet"), "{code:?} {words}");
    }
}

pub fn give_key(ledger: &Path, cluster: &Cluster) {
    std::fs::copy(ledger.join("signing-key"), cluster.config().with_file_name("signing-key")).unwrap();
}

pub fn copy(from: &Path, to: &Path, failpoints: &str) -> Said {
    let mut copying = Command::new(BINARY);
    copying.args(["ledger", "copy", "--from"]).arg(from).arg("--to").arg(to).env(FAILPOINTS, failpoints);
    said(&copying.output().unwrap())
}

fn keyed(gateway: &Gateway) -> Response {
    delete_with(gateway.listen, TARGET, &format!("Authorization: Bearer {OTHER}\r\nIdempotency-Key: k\r\n"))
}

fn target(group: usize) -> String {
    format!("/sess1/groups/12036300000000{group:04}@g.us/picture")
}

pub fn run(words: &[&str], config: &Path) -> Said {
    said(&command(words, config))
}

pub fn done(words: &[&str], config: &Path) -> String {
    let (code, words_said) = run(words, config);
    assert_eq!(code, Some(0), "{words:?}: {words_said}");
    words_said
}

fn export(config: &Path) -> Vec<String> {
    done(&["audit", "export"], config).lines().map(str::to_owned).collect()
}

/// Everything that can stand in a ledger: a kept key, a budget that is used up, an unknown outcome, a freeze, and a
/// deletion that is at the provider when the process is killed. The id of the first request.
fn lived_in(moving: &Moving) -> String {
    let mut gateway = moving.serve();
    moving.ready();
    let first = keyed(&gateway);
    for group in 1..4 {
        assert_eq!(delete(gateway.listen, &target(group), TOKEN).status, 200);
    }
    assert_eq!(delete(gateway.listen, &target(4), TOKEN).code(), "budget-exhausted");
    moving.cluster.provider.next(Reply::RawThenClose(Vec::new()));
    assert_eq!(delete(gateway.listen, &target(5), OTHER).code(), "outcome-unknown");
    done(&["freeze", "--caller", "stopped", "--reason", "call 42"], &moving.config());
    let (code, words) = moving.copy("");
    let holder = format!("process {}", gateway.process_id());
    assert!(code == Some(69) && words.contains(&holder) && words.contains("nothing was moved"), "{code:?} {words}");
    let sent = moving.cluster.provider.heads().len();
    moving.cluster.provider.next(Reply::Silent);
    let listen = gateway.listen;
    let waiting = std::thread::spawn(move || {
        let mut stream = crate::wire::connect(listen);
        let fields = format!("Authorization: Bearer {OTHER}\r\n");
        let head = crate::wire::request(&target(6), &fields);
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let _ = std::io::Read::read(&mut stream, &mut [0; 1]);
    });
    eventually("it is at the provider", || moving.cluster.provider.heads().len() > sent);
    gateway.kill();
    waiting.join().unwrap();
    first.header("x-request-id").unwrap().to_owned()
}

#[test]
fn a_ledger_that_moves_goes_on_with_everything_that_stood_in_it_and_three_replicas_serve_it() {
    let mut moving = Moving::new();
    let id = lived_in(&moving);
    let at = |name: &str| moving.folder.path().join(name);
    let proofs = at("proofs").to_str().unwrap().to_owned();
    let (code, words) = moving.copy("");
    assert!(code == Some(0) && words.contains("the log gateway.example/log goes on"), "{code:?} {words}");
    assert!(words.contains("copied: ") && words.contains("/s") && !words.contains("canary-password"), "{words}");
    moving.is_gone();
    // What was signed there is kept elsewhere, and a request of then is proven by what is there.
    std::fs::write(at("kept"), done(&["audit", "checkpoint"], &moving.config())).unwrap();
    done(&["audit", "prove", &id, "--out", &proofs], &moving.config());
    let before = export(&moving.config());

    moving.cluster.join(3);
    let (cluster, to) = (&moving.cluster, moving.cluster.config());
    let after = export(&to);
    assert_eq!(after[..before.len()], before, "the same bytes");
    let entry: Value = serde_json::from_str(&after[before.len()]).unwrap();
    assert_eq!((&entry["kind"], &entry["entries"]), (&"copy".into(), &before.len().into()), "{entry}");
    assert!(entry["by"].as_str().unwrap().starts_with("uid "), "{entry}");
    for (at, replica) in cluster.replicas.iter().enumerate() {
        assert_eq!(delete(replica.listen, &target(10 + at), TOKEN).code(), "budget-exhausted");
        assert_eq!(delete(replica.listen, &target(20 + at), STOPPED).code(), "frozen");
        assert_eq!(delete(replica.listen, &target(30 + at), OTHER).status, 200);
        let replay = keyed(replica);
        assert_eq!((replay.status, replay.header("idempotency-replayed")), (200, Some("true")), "{replay:?}");
        assert_eq!(replay.header("x-request-id"), Some(id.as_str()));
    }
    // Of both unknown outcomes the picture is looked at here.
    eventually("they are resolved", || cluster.replicas[0].of_kind("resolution").len() == 2);
    let unknown = cluster.replicas[0].of_kind("outcome").into_iter().filter(|outcome| outcome["outcome"] == "unknown");
    assert_eq!(unknown.count(), 2);
    done(&["audit", "verify", "--checkpoint", at("kept").to_str().unwrap()], &to);
    let vkey = done(&["audit", "checkpoint", "--vkey"], &to).lines().last().unwrap().to_owned();
    let seq = before.iter().position(|line| line.contains(&id)).unwrap();
    let file = |end: &str| format!("{proofs}/{seq}.{end}");
    let receipt = ["audit", "verify", "--receipt", &file("entry"), &file("tlog-proof"), "--vkey", &vkey];
    let (code, words) = said(&Command::new(BINARY).args(receipt).output().unwrap());
    assert!(code == Some(0) && words.contains(&format!("is entry {seq} of gateway.example/log")), "{words}");
    assert!(done(&["audit", "show", &id], &to).contains("deleted"));
}

#[test]
fn what_has_moved_is_read_and_never_served_or_changed_or_put_back_again() {
    let moving = Moving::new();
    let mut gateway = moving.serve();
    assert_eq!(delete(gateway.listen, TARGET, OTHER).status, 200);
    let backup = moving.folder.path().join("backup").to_str().unwrap().to_owned();
    assert!(gateway.stop().success());
    done(&["audit", "backup", "--to", &backup], &moving.config());
    moving.ready();
    // By the folder alone, too.
    let (code, words) = copy(&moving.ledger(), &moving.cluster.config(), "");
    assert_eq!(code, Some(0), "{words}");
    moving.is_gone();
    let other = format!("{backup}-2");
    for refused in [
        &["freeze", "--all", "--reason", "x"][..],
        &["audit", "backup", "--to", &other],
        &["audit", "restore"],
        &["audit", "restore", "--from", &backup],
        &["audit", "restore", "--from", &backup, "--accept-loss"],
    ] {
        let (code, words) = run(refused, &moving.config());
        assert!(code == Some(69) && words.contains("this ledger has moved"), "{refused:?}: {code:?} {words}");
    }
    for asked in [&["audit", "verify"][..], &["audit", "search"], &["audit", "tail"], &["status"]] {
        done(asked, &moving.config());
    }
    // The mark goes with the files, and with the database alone.
    for names in [&["ledger.db", "tree.db", "signing-key"][..], &["ledger.db", "signing-key"]] {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        std::fs::create_dir(folder.path().join("ledger")).unwrap();
        for name in names {
            std::fs::copy(moving.ledger().join(name), folder.path().join("ledger").join(name)).unwrap();
        }
        let (code, log) = Gateway::attempt(folder, &moving.text, &[], &[]).err().expect("it is not served");
        assert!(code == Some(69) && log.contains("this ledger has moved"), "{names:?} {code:?} {log}");
    }
    let (code, words) = moving.copy("");
    assert!(code == Some(0) && words.contains("had moved before"), "{code:?} {words}");
    let elsewhere = Cluster::empty();
    give_key(&moving.ledger(), &elsewhere);
    elsewhere.migrate();
    let (code, words) = copy(&moving.config(), &elsewhere.config(), "");
    assert!(code == Some(69) && words.contains("is not that database"), "to a second place: {code:?} {words}");
}

#[test]
fn killed_at_any_point_it_goes_on_and_at_no_moment_both_may_serve() {
    let mut moving = Moving::new();
    assert!(moving.serve().stop().success());
    moving.ready();
    for (point, is_served) in
        [("copy-begun", true), ("copy-entries", false), ("copy-lists", true), ("copy-before-mark", false)]
    {
        let (code, words) = moving.copy(&format!("{point}=kill"));
        assert_eq!(code, None, "{point}: {words}");
        moving.is_not_there();
        if is_served {
            // It was not finished: the folder is the ledger, and grows.
            let mut gateway = moving.serve();
            assert_eq!(delete(gateway.listen, TARGET, OTHER).status, 200, "{point}");
            assert!(gateway.stop().success());
        }
    }
    // What came is held against what was signed, and nothing else is believed.
    moving.cluster.database.ask("UPDATE ledger.entry SET bytes = bytes || ' ' WHERE seq = 1");
    let (code, words) = moving.copy("");
    assert!(code == Some(74) && words.contains("entry 1 was changed"), "{code:?} {words}");
    moving.cluster.database.ask("UPDATE ledger.entry SET bytes = substr(bytes, 1, length(bytes) - 1) WHERE seq = 1");
    moving
        .cluster
        .database
        .ask("INSERT INTO ledger.tile VALUES (0, '')  ON CONFLICT (place) DO UPDATE SET hashes = ''");
    assert_eq!(moving.copy("copy-after-mark=kill").0, None);
    moving.is_gone();
    moving.is_not_there();
    let (code, words) = moving.copy("copy-arrived=kill");
    assert_eq!(code, None, "{words}");
    moving.is_gone();
    moving.cluster.join(1);
    assert_eq!(delete(moving.cluster.replicas[0].listen, TARGET, OTHER).status, 200);
    let (code, words) = moving.copy("");
    assert!(code == Some(0) && words.contains("had moved before"), "{code:?} {words}");
    let to = moving.cluster.config();
    let kinds = |kind: &str| moving.cluster.replicas[0].of_kind(kind).len();
    assert_eq!((kinds("copy"), kinds("intent"), kinds("outcome")), (1, 3, 3), "each entry came once");
    assert!(moving.cluster.replicas[0].stop().success());
    done(&["audit", "verify"], &to);
}

#[test]
fn what_cannot_be_a_move_is_refused_and_leaves_both_as_they_were() {
    let moving = Moving::new();
    let refused = |code: i32, words: &str| {
        let (is, said) = moving.copy("");
        assert!(is == Some(code) && said.contains(words), "{is:?} {said}");
    };
    moving.cluster.migrate();
    refused(69, "there is no ledger in");
    assert!(moving.serve().stop().success());
    // `migrate` has made a key of the database's own.
    refused(64, "put the ledger's own key there");
    give_key(&moving.ledger(), &moving.cluster);
    let sql = |sql: &str| {
        let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(sys.argv[2]); db.commit()";
        python(script, &[&moving.ledger().join("ledger.db"), Path::new(sql)]);
    };
    sql("PRAGMA user_version = 2");
    refused(74, "is a ledger of version 2; this program knows versions up to 1");
    sql("PRAGMA user_version = 1");
    moving.cluster.database.ask("UPDATE ledger.version SET version = 99");
    refused(69, "of version 99");
    moving.cluster.database.ask("UPDATE ledger.version SET version = 2");
    sql("UPDATE entry SET bytes = CAST(replace(bytes, '0.1.0', '0.1.1') AS BLOB) WHERE seq = 0");
    refused(74, "entry 0 was changed");
    sql("UPDATE entry SET bytes = CAST(replace(bytes, '0.1.1', '0.1.0') AS BLOB) WHERE seq = 0");
    for (from, to) in [(moving.config(), moving.config()), (moving.cluster.config(), moving.cluster.config())] {
        assert_eq!(copy(&from, &to, "").0, Some(64));
    }
    drop(moving.cluster.start("").err().expect("what was begun is not served"));
    let full = Cluster::of(1);
    let (code, words) = copy(&moving.config(), &full.config(), "");
    assert!(code == Some(64) && words.contains("holds a ledger of"), "{code:?} {words}");
    // What was kept elsewhere and cannot be read is not taken for nothing.
    let odd = moving.config().with_file_name("odd.toml");
    let lines = "[ledger]\ncheckpoint_copy = \"gateway.toml/copy\"\n";
    std::fs::write(&odd, moving.text.replacen("[ledger]\n", lines, 1)).unwrap();
    let (code, words) = copy(&odd, &moving.cluster.config(), "");
    assert!(code == Some(69) && words.contains("ledger.checkpoint_copy"), "{code:?} {words}");
    // All the same it can go.
    let (code, words) = moving.copy("");
    assert_eq!(code, Some(0), "{words}");
}

#[test]
fn a_database_that_goes_away_in_the_middle_ends_the_copy_with_a_word_and_the_next_one_goes_on() {
    let mut moving = Moving::new();
    assert!(moving.serve().stop().success());
    moving.ready();
    let (from, to) = (moving.config(), moving.cluster.config());
    let held = Held::new();
    let armed = held.at("copy-entries");
    let copying = std::thread::spawn(move || copy(&from, &to, &armed));
    let begun = || moving.cluster.database.ask("SELECT next > first FROM ledger.arriving") == "t";
    eventually("entries have come", begun);
    let (code, words) = moving.copy("");
    assert!(code == Some(69) && words.contains("another copy into this database is under way"), "{code:?} {words}");
    moving.cluster.database.stop("QUIT");
    held.let_go();
    let (code, words) = copying.join().unwrap();
    assert!(code == Some(69) && words.contains("goes on where this one ended"), "{code:?} {words}");
    moving.cluster.database.start_again();
    moving.is_not_there();
    let (code, words) = moving.copy("");
    assert_eq!(code, Some(0), "{words}");
    moving.cluster.join(1);
    assert_eq!(delete(moving.cluster.replicas[0].listen, TARGET, OTHER).status, 200);
}
