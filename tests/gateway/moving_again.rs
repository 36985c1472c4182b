//! A copy that is gone on with: after a prune, after a restore, and long after its end.

use crate::cluster::Cluster;
use crate::moving::{Moving, OTHER, copy, done, give_key, run};
use crate::old::{Old, python};
use crate::running::{TARGET, TOKEN, eventually};
use crate::wire::delete;

#[test]
fn a_log_that_was_pruned_while_its_copy_was_interrupted_moves_with_its_beginning() {
    let old = Old::new(5_000, 100, "retention_days = 30");
    let mut cluster = Cluster::empty();
    assert!(old.settled().stop().success());
    give_key(&old.ledger(), &cluster);
    cluster.migrate();
    let to = cluster.config();
    assert_eq!(copy(&old.config(), &to, "copy-entries=kill").0, None);
    assert_eq!(cluster.database.ask("SELECT next FROM ledger.arriving"), "4096");
    let (code, words) = old.prune();
    assert!(code == Some(0) && words.contains("4864 entries are gone"), "{words}");
    // As if the process had been stopped before the end of it.
    let begun = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('UPDATE pruned SET state = 1'); db.commit()";
    python(begun, &[&old.ledger().join("ledger.db")]);
    let (code, words) = copy(&old.config(), &to, "");
    assert!(code == Some(69) && words.contains("a prune of this ledger is not at its end"), "{code:?} {words}");
    assert_eq!(old.prune().0, Some(0));
    let (code, words) = copy(&old.config(), &to, "");
    assert_eq!(code, Some(0), "{words}");
    assert_eq!(cluster.database.ask("SELECT min(seq) FROM ledger.entry"), "4864", "what was pruned is not in the copy");
    let flat = |text: String| text.replace(['│', '\n'], " ").split_whitespace().collect::<Vec<_>>().join(" ");
    let verified = || flat(done(&["audit", "verify"], &to));
    assert!(verified().contains("entries 0 to 4863, all before") && verified().contains("lead to the signed root"));
    let questions: [&[&str]; 3] = [
        &["audit", "stats", "--json"],
        &["audit", "search", "--json", "--limit", "1000", "--caller", "c1"],
        &["audit", "search", "--json", "--since", "30d", "--limit", "1000"],
    ];
    cluster.join(1);
    for _ in 0..2 {
        for question in questions {
            assert_eq!(done(question, &to), done(question, &old.config()), "{question:?}");
        }
        done(&["audit", "reindex"], &to);
    }
    // The tree goes on from its edge, also where the hashes before it are lost.
    let mut replica = cluster.replicas.remove(0);
    assert_eq!(delete(replica.listen, TARGET, TOKEN).status, 200);
    assert!(replica.stop().success());
    assert!(verified().contains("their hashes lead to the signed root"));
    cluster.database.ask("DELETE FROM ledger.tile");
    cluster.join(1);
    eventually("the tree is built anew", || run(&["audit", "verify"], &to).0 == Some(0));
    assert!(verified().contains("only the last ones are left"));
}

#[test]
fn a_log_that_was_begun_after_its_predecessors_copy_was_interrupted_moves_without_a_trace_of_that() {
    let mut moving = Moving::new();
    let backup = moving.ledger().with_file_name("backup").to_str().unwrap().to_owned();
    let mut gateway = moving.serve();
    done(&["audit", "backup", "--to", &backup], &moving.config());
    assert_eq!(delete(gateway.listen, TARGET, OTHER).status, 200);
    assert!(gateway.stop().success());
    moving.ready();
    assert_eq!(moving.copy("copy-entries=kill").0, None);
    done(&["audit", "restore", "--from", &backup, "--accept-loss"], &moving.config());
    let (code, words) = moving.copy("");
    assert!(code == Some(64) && words.contains("put the ledger's own key there"), "{code:?} {words}");
    give_key(&moving.ledger(), &moving.cluster);
    let (code, words) = moving.copy("");
    assert!(code == Some(0) && words.contains("the log gateway.example/log/2 goes on"), "{code:?} {words}");
    moving.cluster.join(1);
    assert_eq!(delete(moving.cluster.replicas[0].listen, TARGET, OTHER).status, 200);
    done(&["audit", "verify"], &moving.cluster.config());
}

#[test]
fn a_move_is_known_as_done_when_the_entry_that_says_so_was_pruned() {
    let moving = Moving::new();
    assert!(moving.serve().stop().success());
    moving.ready();
    assert_eq!(moving.copy("").0, Some(0));
    let root = "A".repeat(43) + "=";
    let prune = format!(
        "{{\"seq\":256,\"time\":\"2026-01-01T00:00:00.000000Z\",\"kind\":\"prune\",\"before\":\"2025-01-01T00:00:00.000000Z\",\
         \"first\":256,\"root\":\"{root}\",\"carried_outcomes\":0,\"carried_resolutions\":0,\"by\":\"uid 0\"}}"
    );
    moving.cluster.database.ask(&format!(
        "INSERT INTO ledger.entry VALUES (256, convert_to('{prune}', 'UTF8'));
         INSERT INTO ledger.pruned VALUES (256, 256, '', 2);
         DELETE FROM ledger.entry WHERE seq < 256; UPDATE ledger.head SET length = 257"
    ));
    let (code, words) = moving.copy("");
    assert!(code == Some(0) && words.contains("had moved before"), "{code:?} {words}");
    // Another log's key says that this is another one.
    moving.cluster.database.ask("UPDATE ledger.signed SET verifying_key = 'other+00000000+AA=='");
    let (code, words) = moving.copy("");
    assert!(code == Some(69) && words.contains("is not that database"), "{code:?} {words}");
}

#[test]
fn broken_search_data_stay_behind_and_keep_no_ledger_from_moving() {
    let moving = Moving::new();
    let mut gateway = moving.serve();
    moving.ready();
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(gateway.stop().success());
    std::fs::write(moving.ledger().join("search.db"), "no database").unwrap();
    assert_eq!(run(&["audit", "verify"], &moving.config()).0, Some(74));
    let (code, words) = moving.copy("");
    assert_eq!(code, Some(0), "{words}");
    done(&["audit", "verify"], &moving.cluster.config());
}
