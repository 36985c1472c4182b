//! `audit prune` where replicas share a database: recorded by the command, carried out by the replica that keeps the tree.

use crate::cluster::Cluster;
use crate::crash::{FAILPOINTS, Held};
use crate::moving::{copy, give_key};
use crate::old::{Old, PHONE, said};
use crate::promises::{ask, connect};
use crate::running::{BINARY, Gateway, command, eventually};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// Entries 0 to 1999 of 400 days ago and 200 more of 20 days ago. The outcome of the intent in entry 10 came late.
const SEED: &str = r#"
INSERT INTO ledger.entry SELECT n, convert_to(format('{"v":1,"seq":%s,"time":"%s",%s}', n,
    to_char((CASE WHEN n < 2000 THEN now() - interval '400 days' + n * interval '1 minute'
        ELSE now() - interval '20 days' + n * interval '1 second' END) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS".000000Z"'),
    CASE WHEN n IN (11, 2000) THEN '"kind":"policy","policy":"p"'
        WHEN n % 10 = 4 THEN format('"kind":"refusal","request_id":"01900000-0000-7000-8000-%s","status":403,"code":"not-allowed","detail":"x","caller":"c%s","peer":"127.0.0.1"', lpad(to_hex(n + 100000), 12, '0'), n % 3)
        WHEN n % 10 = 5 THEN format('"kind":"refusals-suppressed","caller":"c%s","since":"2026-01-01T00:00:00.000000Z","count":3,"codes":{"not-allowed":3}', n % 3)
        WHEN n % 2 = 0 THEN format('"kind":"intent","request_id":"01900000-0000-7000-8000-%s","caller":"c%s","credential":"t1","peer":"127.0.0.1","session":"sess1","group":"%s@g.us","rule":"r","policy":"p"',
            lpad(to_hex(n), 12, '0'), n % 3, CASE WHEN n < 1500 THEN 'PHONE' ELSE n::text END)
        ELSE format('"kind":"outcome","request_id":"01900000-0000-7000-8000-%s","outcome":"%s","status":200,"sent":"yes"',
            lpad(to_hex(CASE WHEN n = 2001 THEN 10 ELSE n - 1 END), 12, '0'), CASE WHEN n % 7 = 0 THEN 'refused' ELSE 'deleted' END)
    END), 'UTF8') FROM generate_series(0, 2199) AS n;
UPDATE ledger.head SET length = 2200, latest_us = (extract(epoch FROM now() - interval '19 days') * 1000000)::int8"#;
const FIRST: u64 = 1_792;
/// 600 minutes after the first entry: 512 of the 600 are whole bundles.
const EARLY: &str = "9590h";
/// Whether somebody who is not the keeper reads what is signed.
const PLANS: &str = "SELECT count(*) > 0 FROM pg_stat_activity WHERE application_name LIKE 'wasend-gateway %'
    AND query LIKE '%ledger.tile%' AND application_name NOT LIKE '%keeper'";

fn run(cluster: &Cluster, words: &[&str]) -> (Option<i32>, String) {
    said(&command(words, &cluster.config()))
}

fn prune(cluster: &Cluster, before: &str) -> (Option<i32>, String) {
    run(cluster, &["audit", "prune", "--before", before])
}

/// The same, made to fail at these points.
fn prune_at(cluster: &Cluster, before: &str, failpoints: &str) -> (Option<i32>, String) {
    let mut pruning = Command::new(BINARY);
    pruning.args(["audit", "prune", "--before", before, "--config"]).arg(cluster.config());
    said(&pruning.env(FAILPOINTS, failpoints).output().unwrap())
}

fn start(cluster: &Cluster, failpoints: &str) -> Gateway {
    cluster.start(failpoints).unwrap_or_else(|(_, log)| panic!("{failpoints}: {log}"))
}

/// Waits until all of it is signed and searchable.
fn settle(cluster: &Cluster) {
    eventually("all is signed and searchable", || {
        let (code, text) = run(cluster, &["audit", "verify", "--json"]);
        let report: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).unwrap_or_default();
        let kept = report["entries"].as_u64().unwrap_or(0) - report["pruned"]["first"].as_u64().unwrap_or(0);
        code == Some(0) && report["not_yet_covered"] == 0 && report["search_data_entries"] == kept
    });
}

fn retaining() -> Cluster {
    let mut cluster = Cluster::empty();
    cluster.text = cluster.text.replace("kind = \"postgres\"\n", "kind = \"postgres\"\nretention_days = 30\n");
    std::fs::write(cluster.config(), &cluster.text).unwrap();
    cluster
}

fn seeded() -> Cluster {
    let cluster = retaining();
    assert_eq!(run(&cluster, &["migrate"]).0, Some(0));
    cluster.database.ask(&SEED.replace("PHONE", PHONE));
    cluster
}

fn deletes(replica: &Gateway) {
    eventually("it deletes", || ask(&mut connect(replica.listen).unwrap()).expect("an answer").status == 200);
}

/// Whether a text stands in a file of the database's tables.
fn stands_in(folder: &Path, bytes: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().flatten().any(|file| {
        let path = file.path();
        if path.is_dir() {
            return stands_in(&path, bytes);
        }
        std::fs::read(&path).unwrap_or_default().windows(bytes.len()).any(|window| window == bytes)
    })
}

#[test]
fn killed_after_each_step_the_next_replica_goes_on_until_nothing_is_left_and_the_rest_is_as_before() {
    let cluster = seeded();
    let mut replica = start(&cluster, "");
    settle(&cluster);
    let whole = run(&cluster, &["audit", "search", "--json", "--limit", "1000", "--since", "60d"]).1;
    assert!(whole.lines().count() > 50);
    assert!(replica.stop().success());
    let pruned = std::thread::scope(|scope| {
        let pruning = scope.spawn(|| prune(&cluster, "60d"));
        let points = ["signed", "begun", "forgotten", "deleted", "emptied", "ended"];
        for point in points {
            let mut killed = start(&cluster, &format!("prune-{point}=kill"));
            assert_eq!(killed.ended().code(), None, "prune-{point} was not reached");
            let (code, words) = run(&cluster, &["audit", "verify"]);
            assert!(code == Some(0) || (code == Some(69) && words.contains("being pruned")), "{point}: {words}");
        }
        pruning.join().unwrap()
    });
    assert!(pruned.0 == Some(0) && pruned.1.contains(&format!("{FIRST} entries are gone")), "{pruned:?}");
    let replica = start(&cluster, "");
    deletes(&replica);
    settle(&cluster);
    let (code, words) = run(&cluster, &["audit", "export"]);
    assert!(code == Some(0) && words.contains(&format!("entries before {FIRST} were pruned")), "{words}");
    assert!(words.starts_with(&format!("{{\"v\":1,\"seq\":{FIRST},")) && !words.contains(PHONE));
    let entry = replica_entry(&words);
    assert_eq!((&entry["first"], &entry["carried_outcomes"]), (&FIRST.into(), &1.into()), "{entry}");
    let (_, words) = run(&cluster, &["audit", "verify"]);
    assert!(words.contains("were pruned on"), "{words}");
    let now = run(&cluster, &["audit", "search", "--json", "--limit", "1000", "--since", "60d"]).1;
    assert!(whole.lines().all(|line| now.contains(line)), "what is kept is found as before");
    // What was subtracted is what would be counted anew.
    let stats = |cluster: &Cluster| run(cluster, &["audit", "stats", "--json"]);
    let subtracted = stats(&cluster);
    assert_eq!(run(&cluster, &["audit", "reindex"]).0, Some(0));
    assert_eq!(stats(&cluster), subtracted);
    assert_eq!(prune(&cluster, "60d").0, Some(0), "nothing more");
    // As far as the database lets one: its tables are written anew, and deletions wait for that.
    cluster.database.ask("VACUUM (FULL) ledger.entry, search.request");
    cluster.database.ask("CHECKPOINT");
    assert!(!stands_in(&cluster.database.data().join("base"), PHONE.as_bytes()));
    assert!(stands_in(&cluster.database.data().join("base"), b"2002@g.us"), "it can be found at all");
    deletes(&replica);
}

#[test]
fn a_ledger_that_was_pruned_before_it_moved_is_pruned_further_and_its_tree_goes_on_from_there() {
    let old = Old::new(2_000, 200, "retention_days = 30");
    let serving = old.settled();
    let time = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap();
        entry["time"].as_str().unwrap().to_owned()
    };
    let sixth = old.run(&["audit", "export"]).1.lines().nth(600).map(time).unwrap();
    let (code, words) = old.run(&["audit", "prune", "--before", &sixth]);
    assert!(code == Some(0) && words.contains("512 entries are gone"), "{words}");
    drop(serving);
    let mut cluster = retaining();
    give_key(&old.ledger(), &cluster);
    cluster.migrate();
    let (code, words) = copy(&old.config(), &cluster.config(), "");
    assert_eq!(code, Some(0), "{words}");
    cluster.join(1);
    settle(&cluster);
    let since = |cluster: &Cluster| run(cluster, &["audit", "search", "--json", "--limit", "1000", "--since", "60d"]).1;
    let whole = since(&cluster);
    assert!(whole.lines().count() > 50);
    let (code, words) = prune(&cluster, "60d");
    assert!(code == Some(0) && words.contains(&format!("{} entries are gone", FIRST - 512)), "{words}");
    settle(&cluster);
    assert_eq!(cluster.database.ask("SELECT min(seq) FROM ledger.entry"), FIRST.to_string());
    assert!(whole.lines().all(|line| since(&cluster).contains(line)), "what is kept is found as before");
    let subtracted = run(&cluster, &["audit", "stats", "--json"]).1;
    assert_eq!(run(&cluster, &["audit", "reindex"]).0, Some(0));
    assert_eq!(run(&cluster, &["audit", "stats", "--json"]).1, subtracted);
    // From the edge that the newer prune has kept, where the other hashes are lost.
    assert!(cluster.replicas.remove(0).stop().success());
    cluster.database.ask("DELETE FROM ledger.tile");
    cluster.join(1);
    eventually("the tree is built anew", || run(&cluster, &["audit", "verify"]).0 == Some(0));
    deletes(&cluster.replicas[0]);
    settle(&cluster);
}

fn replica_entry(export: &str) -> Value {
    let line = export.lines().find(|line| line.contains("\"kind\":\"prune\"")).expect("an entry");
    serde_json::from_str(line).unwrap()
}

#[test]
fn what_may_not_go_from_a_database_is_refused_in_words_and_an_older_schema_is_brought_up() {
    let cluster = seeded();
    let older = "DROP TABLE ledger.pruned, ledger.arriving; ALTER TABLE search.cursor DROP COLUMN base;
        UPDATE ledger.version SET version = 1";
    cluster.database.ask(older);
    let (code, words) = run(&cluster, &["serve"]);
    assert!(
        code == Some(69) && words.contains("is of version 1, this program needs 2: run `wasend-gateway migrate"),
        "{words}"
    );
    assert_eq!(run(&cluster, &["migrate"]).0, Some(0));
    let mut replica = start(&cluster, "");
    settle(&cluster);
    assert!(replica.stop().success());
    let refused = |before: &str, code: i32, words: &str| {
        let (is, said) = prune(&cluster, before);
        assert!(is == Some(code) && said.contains(words), "{is:?} {said}");
        assert_eq!(
            cluster.database.ask("SELECT min(seq), (SELECT count(*) FROM ledger.pruned) FROM ledger.entry"),
            "0|0"
        );
    };
    for young in ["29d", "1h", "2999-01-01"] {
        refused(young, 64, "by ledger.retention_days = 30, the budgets");
    }
    refused("500d", 0, "nothing to prune");
    cluster.database.ask("INSERT INTO ledger.unresolved VALUES (9000000000000000, 2, 0)");
    refused("60d", 1, "entry 2 is an intent whose outcome is unknown");
    cluster.database.ask("DELETE FROM ledger.unresolved");
    cluster.database.ask("UPDATE ledger.entry SET bytes = convert_to(replace(convert_from(bytes, 'UTF8'), '127.0.0.1', '127.0.0.2'), 'UTF8') WHERE seq = 6");
    refused("60d", 74, "are not those that were signed");
    // A row alone is believed by nobody.
    cluster.database.ask("INSERT INTO ledger.pruned VALUES (300, 256, '', 1)");
    let (code, words) = run(&cluster, &["audit", "verify"]);
    assert!(code == Some(74) && words.contains("entry 300 is to say where the log begins, and does not"), "{words}");
}

#[test]
fn a_prune_that_was_planned_before_another_one_is_not_recorded_after_it() {
    let cluster = seeded();
    let replica = start(&cluster, "");
    settle(&cluster);
    cluster.database.ask(
        "INSERT INTO ledger.idempotency SELECT decode(md5(n::text), 'hex'), n, 6, 'x', 'x', NULL FROM generate_series(1, 9000) AS n",
    );
    let held = Held::new();
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| prune_at(&cluster, EARLY, &held.at("prune-begin")));
        eventually("it holds what would go against what is signed", || cluster.database.ask(PLANS) == "t");
        let (code, words) = prune(&cluster, "60d");
        assert!(code == Some(0) && words.contains(&format!("{FIRST} entries are gone")), "{code:?} {words}");
        held.let_go();
        late.join().unwrap()
    });
    let (code, words) = run(&cluster, &["audit", "verify"]);
    assert!(code == Some(0) && words.contains("were pruned on"), "{words}");
    assert_eq!(cluster.database.ask("SELECT count(*) FROM ledger.idempotency"), "0", "its keys went too");
    assert!(late.0 == Some(69) && late.1.contains("was pruned or restored meanwhile"), "{late:?}");
    assert_eq!(cluster.database.ask("SELECT first, state FROM ledger.pruned"), format!("{FIRST}|2"));
    let (code, words) = prune(&cluster, EARLY);
    assert!(code == Some(0) && words.contains(&format!("after {FIRST} is older")), "{words}");
    settle(&cluster);
    deletes(&replica);
}

#[test]
fn a_prune_that_was_planned_for_a_log_is_not_recorded_in_the_one_that_was_begun_after_it() {
    let cluster = seeded();
    let mut replica = start(&cluster, "");
    settle(&cluster);
    assert!(replica.stop().success());
    let held = Held::new();
    let late = std::thread::scope(|scope| {
        let late = scope.spawn(|| prune_at(&cluster, "60d", &held.at("prune-begin")));
        eventually("it is planned", || cluster.database.ask(PLANS) == "t");
        let (code, words) = run(&cluster, &["audit", "restore", "--accept-loss"]);
        assert_eq!(code, Some(0), "{words}");
        held.let_go();
        late.join().unwrap()
    });
    assert!(late.0 == Some(69) && late.1.contains("was pruned or restored meanwhile"), "{late:?}");
    assert_eq!(cluster.database.ask("SELECT count(*) FROM ledger.pruned"), "0");
    deletes(&start(&cluster, ""));
}

#[test]
fn what_was_ordered_while_an_earlier_prune_is_under_way_is_done_after_it() {
    let cluster = seeded();
    let mut replica = start(&cluster, "");
    settle(&cluster);
    assert!(replica.stop().success());
    assert_eq!(prune_at(&cluster, EARLY, "prune-recorded=kill").0, None);
    let replica = start(&cluster, "prune-signed=linger");
    let (code, words) = prune(&cluster, "60d");
    let said = ["512 entries are gone".to_owned(), format!("{} entries are gone", FIRST - 512)];
    assert!(code == Some(0) && said.iter().all(|said| words.contains(said)), "{code:?} {words}");
    assert_eq!(cluster.database.ask("SELECT min(seq) FROM ledger.entry"), FIRST.to_string());
    settle(&cluster);
    deletes(&replica);
}

#[test]
fn what_may_go_goes_by_the_databases_clock_wherever_the_command_runs() {
    let cluster = seeded();
    let replica = start(&cluster, "");
    settle(&cluster);
    let pruned = |off: &str, before: &str| {
        let mut pruning = Command::new(BINARY);
        pruning.args(["audit", "prune", "--before", before, "--config"]).arg(cluster.config());
        said(&pruning.env("LD_PRELOAD", crate::steps::faketime()).env("FAKETIME", off).output().unwrap())
    };
    let recent = cluster.database.ask("SELECT to_char(now() - interval '20 days', 'YYYY-MM-DD')");
    for before in [&*recent, "20d"] {
        let (code, words) = pruned("+90d", before);
        assert!(code == Some(64) && words.contains("is too late"), "{before}: {code:?} {words}");
    }
    let (code, words) = pruned("-500d", "60d");
    assert!(code == Some(0) && words.contains("the log is kept from entry 1792 on"), "{code:?} {words}");
    drop(replica);
}

#[test]
fn what_stands_before_the_beginning_and_what_is_kept_of_it_are_verified() {
    let cluster = seeded();
    let mut replica = start(&cluster, "");
    settle(&cluster);
    assert_eq!(prune(&cluster, "60d").0, Some(0));
    settle(&cluster);
    assert!(replica.stop().success());
    cluster.database.ask("CREATE TABLE public.kept AS TABLE ledger.pruned");
    for (harm, words) in [
        ("INSERT INTO ledger.entry VALUES (5, 'x')", "entries go from 5 on; they begin at 1792"),
        ("INSERT INTO ledger.entry VALUES (-1, 'x')", "entries go from -1 on; they begin at 1792"),
        ("UPDATE ledger.pruned SET edge = set_byte(edge, 0, 255 - get_byte(edge, 0))", "are not whole"),
    ] {
        assert_eq!(run(&cluster, &["audit", "verify"]).0, Some(0), "before {harm}");
        cluster.database.ask(harm);
        let (code, said) = run(&cluster, &["audit", "verify"]);
        assert!(code == Some(74) && said.contains(words), "{harm}: {code:?} {said}");
        cluster.database.ask(
            "DELETE FROM ledger.entry WHERE seq < 1792; DELETE FROM ledger.pruned;
            INSERT INTO ledger.pruned SELECT * FROM public.kept",
        );
    }
}
