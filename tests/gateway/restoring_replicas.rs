//! `audit restore` in a database that lies behind what was signed.

use crate::cluster::Cluster;
use crate::crash::{FAILPOINTS, Held};
use crate::old::said;
use crate::promises::{ask, connect};
use crate::restoring::{exported, verify_receipts};
use crate::running::{BINARY, Gateway, TARGET, TOKEN, command, eventually};
use crate::wire::{Response, delete_with};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(cluster: &Cluster, words: &[&str]) -> (Option<i32>, String) {
    said(&command(words, &cluster.config()))
}

fn start(cluster: &Cluster) -> Gateway {
    cluster.start("").unwrap_or_else(|(_, log)| panic!("{log}"))
}

/// Deletes, as soon as the database is quick enough for it.
fn deletes(replica: &Gateway) -> String {
    let mut id = String::new();
    eventually("it deletes", || {
        let heard = ask(&mut connect(replica.listen).unwrap()).expect("an answer");
        id = heard.id;
        heard.status == 200
    });
    id
}

fn beside(file: &Path, end: &str) -> PathBuf {
    file.with_file_name(format!("{}.{end}", file.file_name().unwrap().to_str().unwrap()))
}

/// Stops the database, and starts it again on the data of that moment or of an earlier one.
fn at_rest(cluster: &mut Cluster, work: impl FnOnce(&Cluster)) {
    cluster.database.stop("INT");
    work(cluster);
    cluster.database.start_again();
}

fn key(cluster: &Cluster) -> String {
    run(cluster, &["audit", "checkpoint", "--vkey"]).1.lines().last().unwrap().to_owned()
}

/// A database that was put back to an earlier moment, after more had been signed.
struct Behind {
    cluster: Cluster,
    signing: PathBuf,
    copy: PathBuf,
    /// The newest checkpoint, and how many entries it covers; how many the database has.
    note: String,
    signed: u64,
    left: u64,
    old_key: String,
    receipts: PathBuf,
}

const KEYED: &str = "Idempotency-Key: one\r\n";

fn keyed(replica: &Gateway) -> Response {
    delete_with(replica.listen, TARGET, &format!("Authorization: Bearer {TOKEN}\r\n{KEYED}"))
}

fn lies_behind() -> Behind {
    let mut cluster = Cluster::empty();
    let (copy, signing) = (cluster.config().with_file_name("copy"), cluster.config().with_file_name("signing-key"));
    let lines =
        format!("kind = \"postgres\"\norigin = \"gateway.example/log\"\ncheckpoint_copy = \"{}\"\n", copy.display());
    cluster.text = cluster.text.replace("kind = \"postgres\"\n", &lines);
    std::fs::write(cluster.config(), &cluster.text).unwrap();
    assert_eq!(run(&cluster, &["migrate"]).0, Some(0));
    let mut replica = start(&cluster);
    eventually("it deletes", || keyed(&replica).status == 200);
    let receipts = cluster.config().with_file_name("receipts");
    let id = deletes(&replica);
    assert_eq!(run(&cluster, &["audit", "prove", &id, "--out", receipts.to_str().unwrap()]).0, Some(0));
    assert_eq!(run(&cluster, &["freeze", "--session", "sess9", "--reason", "an incident"]).0, Some(0));
    let old_key = key(&cluster);
    assert!(replica.stop().success());
    let behind = tempfile::tempdir().unwrap();
    at_rest(&mut cluster, |cluster| {
        let (data, to) = (cluster.database.data(), behind.path().join("data"));
        assert!(Command::new("cp").arg("-r").args([data, to]).status().unwrap().success());
    });
    let left = exported(&cluster.config(), &[]).len() as u64;
    let (code, words) = run(&cluster, &["audit", "restore"]);
    assert!(code == Some(0) && words.contains("the log gateway.example/log goes on"), "{words}");

    let mut replica = start(&cluster);
    deletes(&replica);
    let (code, words) = run(&cluster, &["audit", "restore", "--accept-loss"]);
    assert!(code == Some(69) && words.contains("a replica serves this ledger"), "{words}");
    assert!(replica.stop().success());
    at_rest(&mut cluster, |cluster| cluster.database.put_back(&behind.path().join("data")));
    let note = std::fs::read_to_string(&copy).unwrap();
    let signed: u64 = note.lines().nth(1).unwrap().parse().unwrap();
    assert!(signed > left);
    Behind { cluster, signing, copy, note, signed, left, old_key, receipts }
}

#[test]
fn a_database_that_lies_behind_goes_on_with_a_new_log_whose_first_entry_names_what_was_signed() {
    let behind = lies_behind();
    let Behind { cluster, signing, copy, note, signed, left, .. } = &behind;
    let (code, words) = run(cluster, &["serve"]);
    assert!(code == Some(74) && words.contains("it was signed for"), "{code:?} {words}");
    let before = std::fs::read(signing).unwrap();
    let (code, words) = run(cluster, &["audit", "restore"]);
    assert!(
        code == Some(1) && words.contains(&format!("entries {left} to {} are lost", signed - 1)),
        "{code:?} {words}"
    );
    assert_eq!(
        (std::fs::read(signing).unwrap(), std::fs::read_to_string(copy).unwrap()),
        (before.clone(), note.clone())
    );
    let (code, words) = run(cluster, &["audit", "restore", "--accept-loss", "--json"]);
    let told: Value = serde_json::from_str(&words).unwrap_or_else(|_| panic!("{code:?} {words}"));
    let expected = json!({"log": "begun", "origin": "gateway.example/log/2", "old_log": 1, "old_entries": left, "old_signed": signed, "carried": 0});
    assert_eq!((code, told), (Some(0), expected));
    assert_eq!(std::fs::read(beside(signing, "1")).unwrap(), before, "the old key stays");
    assert_eq!(std::fs::read_to_string(beside(copy, "1")).unwrap(), *note);
    assert_eq!(cluster.database.ask("SELECT count(*) FROM ledger_1.entry"), left.to_string());
    goes_on(&behind);

    // Interrupted between the transaction and the files: as if the old key had not changed its place yet.
    std::fs::rename(signing, beside(signing, "next")).unwrap();
    std::fs::rename(beside(signing, "1"), signing).unwrap();
    let (code, words) = run(cluster, &["serve"]);
    assert!(code == Some(69) && words.contains("this ledger is signed with the key"), "{code:?} {words}");
    std::fs::remove_file(copy).unwrap();
    let (code, words) = run(cluster, &["audit", "restore"]);
    assert!(code == Some(0) && words.contains("is finished"), "{code:?} {words}");
    deletes(&start(cluster));
}

/// It serves: what was frozen is, the key has its answer, and the old log's receipts are as good as before.
fn goes_on(behind: &Behind) {
    let Behind { cluster, note, signed, left, old_key, receipts, .. } = behind;
    let mut replica = start(cluster);
    let sent = cluster.provider.heads().len();
    eventually("the key has its answer", || {
        let again = keyed(&replica);
        again.status == 200 && again.header("idempotency-replayed") == Some("true")
    });
    assert_eq!(cluster.provider.heads().len(), sent, "nothing was sent again");
    let id = deletes(&replica);
    let begun = exported(&cluster.config(), &[]);
    let previous = &begun[0]["previous"];
    assert_eq!((&begun[0]["kind"], &previous["origin"]), (&json!("gap"), &json!("gateway.example/log")));
    assert_eq!((&previous["restored"], &previous["signed"]), (&json!(left), &json!(signed)));
    assert_eq!((&previous["checkpoint"], &previous["freezes"]), (&json!(note), &json!(1)));
    assert_eq!((&begun[1]["kind"], &begun[1]["session"]), (&json!("freeze"), &json!("sess9")));
    eventually("all of it is signed", || {
        let (code, text) = run(cluster, &["audit", "verify", "--json"]);
        code == Some(0) && text.contains("\"not_yet_covered\":0")
    });
    let new_key = key(cluster);
    assert!(new_key.starts_with("gateway.example/log/2+") && old_key.starts_with("gateway.example/log+"));
    assert_eq!(verify_receipts(receipts, old_key), [Some(0); 2]);
    assert_eq!(verify_receipts(receipts, &new_key), [Some(1); 2]);
    let more = cluster.config().with_file_name("more");
    assert_eq!(run(cluster, &["audit", "prove", &id, "--out", more.to_str().unwrap()]).0, Some(0));
    assert_eq!(verify_receipts(&more, &new_key), [Some(0); 2]);
    let status: Value = serde_json::from_str(&run(cluster, &["status", "--json"]).1).unwrap();
    assert_eq!(status["freezes"][0]["session"], json!("sess9"), "{status}");
    assert!(replica.stop().success());
}

/// Begins a new log, and does `work` while all of the old one is read and nothing is changed yet; it is to let the
/// restore go on.
fn restores_while<T>(cluster: &Cluster, work: impl FnOnce(&Held) -> T) -> ((Option<i32>, String), T) {
    let held = Held::new();
    let config = cluster.config();
    std::thread::scope(|scope| {
        let restoring = scope.spawn(|| {
            let mut restoring = Command::new(BINARY);
            restoring.args(["audit", "restore", "--accept-loss", "--config"]).arg(&config);
            said(&restoring.env(FAILPOINTS, held.at("restore-before-commit")).output().unwrap())
        });
        eventually("all of it is read", || held.is_reached());
        let worked = work(&held);
        (restoring.join().unwrap(), worked)
    })
}

#[test]
fn what_comes_to_the_old_log_while_it_is_read_ends_the_restore_and_nothing_is_put_aside() {
    let cluster = Cluster::empty();
    cluster.migrate();
    assert!(start(&cluster).stop().success());
    let untouched = || {
        assert_eq!(cluster.database.ask("SELECT to_regnamespace('ledger_1') IS NULL"), "t");
        assert_eq!(run(&cluster, &["audit", "verify"]).0, Some(0));
    };
    let freeze = ["freeze", "--session", "sess9", "--reason", "an incident"];
    let ((code, words), frozen) = restores_while(&cluster, |held| {
        let frozen = run(&cluster, &freeze);
        held.let_go();
        frozen
    });
    assert_eq!(frozen.0, Some(0), "{}", frozen.1);
    assert!(code == Some(69) && words.contains("stop all replicas, and run it again"), "{code:?} {words}");
    untouched();

    let ((code, words), mut replica) = restores_while(&cluster, |held| {
        let replica = start(&cluster);
        deletes(&replica);
        held.let_go();
        replica
    });
    assert!(code == Some(69) && words.contains("stop all replicas, and run it again"), "{code:?} {words}");
    deletes(&replica);
    assert!(replica.stop().success());
    untouched();

    let (code, words) = run(&cluster, &["audit", "restore", "--accept-loss"]);
    assert_eq!(code, Some(0), "{words}");
    deletes(&start(&cluster));
}

#[test]
fn a_replica_that_begins_while_a_restore_ends_does_not_go_on_with_the_new_log_under_the_old_key() {
    let cluster = Cluster::empty();
    cluster.migrate();
    assert!(start(&cluster).stop().success());
    let joining = Held::new();
    let ((code, words), joined) = std::thread::scope(|scope| {
        let (restored, joined) = restores_while(&cluster, |held| {
            let joined = scope.spawn(|| cluster.start(&joining.at("recovery-begin")).err());
            eventually("it has looked at the key", || joining.is_reached());
            held.let_go();
            joined
        });
        joining.let_go();
        (restored, joined.join().unwrap())
    });
    assert_eq!(code, Some(0), "{words}");
    let (joined, log) = joined.expect("it does not serve");
    assert!(joined == Some(69) && log.contains("this ledger is signed with the key"), "{joined:?} {log}");
    assert_eq!(cluster.database.ask("SELECT count(*) FROM ledger.replica WHERE NOT stopped"), "0");
    let replica = start(&cluster);
    deletes(&replica);
    eventually("all of it is signed", || run(&cluster, &["audit", "verify"]).0 == Some(0));
}

#[test]
fn who_verifies_a_database_needs_no_signing_key_also_where_its_checkpoint_is_lost() {
    let mut cluster = Cluster::of(1);
    deletes(&cluster.replicas[0]);
    assert!(cluster.replicas.remove(0).stop().success());
    let kept = cluster.config().with_file_name("kept");
    std::fs::write(&kept, run(&cluster, &["audit", "checkpoint"]).1).unwrap();
    std::fs::remove_file(cluster.config().with_file_name("signing-key")).unwrap();
    cluster.database.ask("UPDATE ledger.signed SET note = NULL");
    let (code, words) = run(&cluster, &["audit", "verify", "--checkpoint", kept.to_str().unwrap()]);
    assert!(code == Some(0) && words.contains("held against the kept one alone"), "{code:?} {words}");
}
