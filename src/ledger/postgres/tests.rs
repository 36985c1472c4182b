//! What only a database that several replicas share can do to a ledger.

mod joining;
mod pruned_away;
mod searched;
mod unfit;

use super::{Acting, Postgres};
use crate::config::{Budget, Per};
use crate::ledger::admission::tests::{asked, budget};
use crate::ledger::admission::{Asked, Declined};
use crate::ledger::conformance::instance::Instance;
use crate::ledger::conformance::{BUDGET, Place, conclude, eventually, intend};
use crate::ledger::entry::End;
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::{Health, Intended, Ledger, NotRecorded, OpenError, Recorded};
use crate::telemetry::Metrics;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;

const WRITERS: &str = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%writer'";

impl Place {
    fn server(&mut self) -> &mut Instance {
        self.server.as_mut().unwrap()
    }

    /// Why it does not open.
    fn refused(&self) -> OpenError {
        let (metrics, _) = Metrics::new();
        match Postgres::open(&self.config, BUDGET, metrics) {
            Ok(_) => panic!("it opens"),
            Err(error) => error,
        }
    }

    fn copy_data(&self, to: &str) -> std::path::PathBuf {
        let copy = self.folder.path().join(to);
        let data = self.server.as_ref().unwrap().data();
        assert!(std::process::Command::new("cp").arg("-r").arg(data).arg(&copy).status().unwrap().success());
        copy
    }
}

async fn writable(ledger: &Arc<dyn Ledger>) {
    eventually("it can be written", || ledger.health() == Health::Writable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_was_cut_while_nobody_asked_costs_nobody_an_answer() {
    let mut place = Place::postgres();
    let ledger = place.open();
    for round in 0..3 {
        conclude(&*ledger, intend(&*ledger, "1").await, End::Deleted).await.unwrap();
        block_in_place(|| place.server().ask(WRITERS));
        let next = ledger.intend(asked("c", "s", &round.to_string())).await;
        assert!(matches!(next, Intended::Recorded(_)), "round {round}");
    }
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_database_intents_are_refused_and_outcomes_wait_until_it_is_back() {
    let mut place = Place::postgres();
    let ledger = place.open();
    let recorded = intend(&*ledger, "1").await;
    let id = recorded.request_id();
    block_in_place(|| place.server().stop("QUIT"));
    let concluding = conclude(&*ledger, recorded, End::Deleted);
    let mut concluding = std::pin::pin!(concluding);
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut concluding).await.is_err(), "it waits");
    assert!(matches!(ledger.intend(asked("c", "s1", "2")).await, Intended::Unavailable));
    assert_eq!(ledger.health(), Health::Unreachable);
    assert!(!ledger.note(crate::ledger::entry::Body::Stop {}), "what nobody waits for is counted instead");
    block_in_place(|| place.server().start_again());
    assert_eq!(concluding.await, Ok(()));
    writable(&ledger).await;
    assert!(matches!(ledger.intend(asked("c", "s1", "3")).await, Intended::Recorded(_)));
    ledger.close().await;
    assert_eq!(place.outcomes(id), ["deleted"]);
    assert_eq!(place.of_kind("intent").len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_replicas_intents_are_closed_once_and_what_it_knew_comes_too_late() {
    let place = Place::postgres();
    let (dead, one, two) = (place.open(), place.open(), place.open());
    let recorded = intend(&*dead, "1").await;
    let id = recorded.request_id();
    // As if it had not renewed for long, however often it does; the others look every three seconds.
    let server = place.server.as_ref().unwrap();
    let is_closed = "UPDATE ledger.replica SET lease_until = clock_timestamp() - interval '1 second'
        WHERE id = (SELECT replica FROM ledger.in_flight); SELECT count(*) = 0 FROM ledger.in_flight";
    eventually("it is closed", || server.ask(is_closed) == "t").await;
    assert_eq!(conclude(&*dead, recorded, End::Deleted).await, Err(NotRecorded));
    assert_eq!(place.outcomes(id), ["unknown"]);
    // It goes on under a new name.
    conclude(&*dead, intend(&*dead, "2").await, End::Deleted).await.unwrap();
    for ledger in [dead, one, two] {
        ledger.close().await;
    }
    assert_eq!(place.outcomes(id).len(), 1);
    assert_eq!(place.entries().iter().zip(0..).filter(|(entry, seq)| entry["seq"] != *seq).count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_lost_commits_ends_the_replica() {
    let mut place = Place::postgres();
    let ledger = place.open();
    conclude(&*ledger, intend(&*ledger, "1").await, End::Deleted).await.unwrap();
    block_in_place(|| place.server().stop("INT"));
    let behind = place.copy_data("behind");
    block_in_place(|| place.server().start_again());
    writable(&ledger).await;
    eventually("it goes on", || ledger.health() == Health::Writable).await;
    let recorded = intend(&*ledger, "2").await;
    block_in_place(|| {
        place.server().stop("INT");
        place.server().put_back(&behind);
        place.server().start_again();
    });
    tokio::time::timeout(Duration::from_secs(20), ledger.broken()).await.expect("it notices");
    assert_eq!(conclude(&*ledger, recorded, End::Deleted).await, Err(NotRecorded));
    assert!(matches!(ledger.intend(asked("c", "s1", "3")).await, Intended::Unavailable));
    ledger.close().await;
    assert_eq!(place.of_kind("stop").len(), 0, "it says nothing more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_could_take_commits_back_is_refused() {
    for (setting, word) in [("fsync=off", "fsync"), ("full_page_writes=off", "full_page_writes")] {
        let server = Instance::with(&[setting]);
        let place = Place::unmigrated(server);
        let words = block_in_place(|| super::migrate(&place.config)).unwrap_err().to_string();
        assert!(words.contains(word) && words.contains("set it on"), "{words}");
    }
    let mut place = Place::postgres();
    let server = place.server();
    server.ask("ALTER SYSTEM SET synchronous_commit = off");
    server.ask("SELECT pg_reload_conf()");
    let ledger = place.open();
    drop(intend(&*ledger, "1").await);
    let server = place.server.as_ref().unwrap();
    server.ask("ALTER SYSTEM SET fsync = off");
    server.ask("SELECT pg_reload_conf()");
    eventually("it notices while it runs", || ledger.health() == Health::Unreachable).await;
    server.ask("ALTER SYSTEM SET fsync = on");
    server.ask("SELECT pg_reload_conf()");
    writable(&ledger).await;
    ledger.close().await;
    // A standby: the same data, in recovery.
    block_in_place(|| {
        place.server().stop("INT");
        std::fs::write(place.server().data().join("standby.signal"), "").unwrap();
        place.server().start_again();
    });
    assert!(place.refused().to_string().contains("standby"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_or_a_key_that_is_not_this_ledgers_is_refused_with_what_to_do() {
    let place = Place::unmigrated(Instance::start());
    assert!(place.refused().to_string().contains("wasend-gateway migrate --config"));
    let (migrated, is_new_key) = block_in_place(|| super::migrate(&place.config)).unwrap();
    assert_eq!((migrated.from, is_new_key), (0, true));
    let (again, is_new_key) = block_in_place(|| super::migrate(&place.config)).unwrap();
    assert_eq!((again.from, again.to, is_new_key), (migrated.to, migrated.to, false));
    place.open().close().await;
    // As an earlier version made it.
    let server = place.server.as_ref().unwrap();
    server.ask(
        "DROP TABLE ledger.pruned, ledger.arriving; ALTER TABLE search.cursor DROP COLUMN base;
        UPDATE ledger.version SET version = 1",
    );
    assert!(place.refused().to_string().contains("run `wasend-gateway migrate"));
    let (later, _) = block_in_place(|| super::migrate(&place.config)).unwrap();
    assert_eq!((later.from, later.to), (1, migrated.to));
    place.open().close().await;

    let key = place.config.signing_key_file.clone().unwrap();
    std::fs::rename(&key, key.with_extension("kept")).unwrap();
    let missing = block_in_place(|| super::migrate(&place.config)).unwrap_err().to_string();
    assert!(missing.contains("put it back"), "{missing}");
    crate::ledger::sqlite::make_key(None, &key).unwrap();
    assert!(place.refused().to_string().contains("another log"));
    std::fs::rename(key.with_extension("kept"), &key).unwrap();

    let server = place.server.as_ref().unwrap();
    server.ask("UPDATE ledger.version SET version = 99");
    for words in
        [place.refused().to_string(), block_in_place(|| super::migrate(&place.config)).unwrap_err().to_string()]
    {
        assert!(words.contains("of version 99") && words.contains("newer"), "{words}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_signed_has_to_be_there() {
    let mut place = Place::postgres();
    place.config.checkpoint_copy = Some(place.folder.path().join("copy"));
    let ledger = place.open();
    drop(intend(&*ledger, "1").await);
    ledger.close().await;
    let server = place.server.as_ref().unwrap();
    server.ask("CREATE TABLE public.kept AS SELECT * FROM ledger.entry");
    // The end is cut off, and the head with it.
    server.ask("DELETE FROM ledger.entry WHERE seq > 1; UPDATE ledger.head SET length = 2");
    assert!(matches!(place.refused(), OpenError::Damaged(words) if words.contains("cut off")));
    // The stored checkpoint too, but not the copy.
    server.ask("UPDATE ledger.signed SET note = NULL");
    assert!(matches!(place.refused(), OpenError::Damaged(words) if words.contains("copy")));
    server.ask("INSERT INTO ledger.entry SELECT * FROM public.kept WHERE seq > 1; UPDATE ledger.head SET length = 4");
    place.open().close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_put_back_as_a_whole_is_found_by_the_copy_of_the_checkpoint() {
    let mut place = Place::postgres();
    let copy = place.folder.path().join("copy");
    place.config.checkpoint_copy = Some(copy.clone());
    place.open().close().await;
    block_in_place(|| place.server().stop("INT"));
    let behind = place.copy_data("behind");
    block_in_place(|| place.server().start_again());
    place.open().close().await;
    block_in_place(|| {
        place.server().stop("INT");
        place.server().put_back(&behind);
        place.server().start_again();
    });
    let kept = std::fs::read_to_string(&copy).unwrap();
    assert!(matches!(place.refused(), OpenError::Damaged(words) if words.contains("copy")));
    assert_eq!(std::fs::read_to_string(&copy).unwrap(), kept, "what shows it is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_is_reached_by_a_socket_too() {
    let place = Place::unmigrated(Instance::with(&["unix_socket_directories=."]));
    let server = place.server.as_ref().unwrap();
    let folder = server.data().display().to_string().replace('/', "%2F");
    let url_file = &place.config.postgres.as_ref().unwrap().url_file;
    std::fs::write(url_file, server.url(server.port).replace("127.0.0.1", &folder)).unwrap();
    block_in_place(|| super::migrate(&place.config)).unwrap();
    let ledger = place.open();
    conclude(&*ledger, intend(&*ledger, "1").await, End::Deleted).await.unwrap();
    let by_socket = "SELECT bool_and(client_addr IS NULL) FROM pg_stat_activity WHERE application_name LIKE 'wasend%'";
    assert_eq!(server.ask(by_socket), "t");
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_certificate_is_verified_for_the_host_of_the_url() {
    let made = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (ours, other, elsewhere) = (made("localhost"), made("localhost"), made("db.example"));
    for (server, trusted, is_right) in [(&ours, &ours, true), (&ours, &other, false), (&elsewhere, &elsewhere, false)] {
        let files = [("crt.pem", server.cert.pem()), ("key.pem", server.signing_key.serialize_pem())];
        let files = files.each_ref().map(|(name, text)| (*name, text.as_str()));
        let instance = Instance::holding(&["ssl=on", "ssl_cert_file=crt.pem", "ssl_key_file=key.pem"], &files);
        let mut place = Place::unmigrated(instance);
        let ca = place.folder.path().join("ca.pem");
        std::fs::write(&ca, trusted.cert.pem()).unwrap();
        let postgres = place.config.postgres.as_mut().unwrap();
        let url = std::fs::read_to_string(&postgres.url_file).unwrap().replace("127.0.0.1", "localhost");
        std::fs::write(&postgres.url_file, format!("{url}?sslmode=require")).unwrap();
        postgres.ca_file = Some(ca);
        let migrated = block_in_place(|| super::migrate(&place.config));
        if !is_right {
            let words = migrated.unwrap_err().to_string();
            assert!(words.to_lowercase().contains("certificate"), "{words}");
            continue;
        }
        migrated.unwrap();
        let ledger = place.open();
        let encrypted = "SELECT bool_and(s.ssl) FROM pg_stat_ssl s JOIN pg_stat_activity a USING (pid)
            WHERE a.application_name LIKE 'wasend-gateway %'";
        assert_eq!(place.server.as_ref().unwrap().ask(encrypted), "t");
        ledger.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_with_other_policies_are_seen() {
    let place = Place::postgres();
    let (one, two) = (place.open(), place.open());
    let policy = |name: &str| crate::ledger::entry::Body::Policy { policy: name.into() };
    assert!(one.note(policy("sha256:a")) && two.note(policy("sha256:b")));
    eventually("both see it", || [&one, &two].iter().all(|l| l.degraded().contains(&"replicas-differ"))).await;
    assert!(two.note(policy("sha256:a")));
    eventually("it is over", || [&one, &two].iter().all(|l| l.degraded().is_empty())).await;
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_frozen_by_a_command_or_a_replica_is_frozen_for_all_of_them_at_once() {
    let place = Place::postgres();
    let (one, two) = (place.open(), place.open());
    let under_way = intend(&*one, "1").await;
    let id = under_way.request_id();
    let freeze = Freeze { covers: Covers::All, until: None, reason: "stop".into(), by: "alice".into() };
    block_in_place(|| {
        let acting = Acting::open(&place.config).unwrap();
        acting.freeze(freeze).unwrap();
        assert_eq!(acting.covered(&Covers::All).unwrap(), [id], "it is of another process");
        let replicas = acting.replicas().unwrap();
        assert_eq!(
            replicas.iter().map(|replica| (replica.is_dead, replica.open)).collect::<Vec<_>>(),
            [(false, 1), (false, 0)]
        );
    });
    for ledger in [&one, &two] {
        let declined = ledger.intend(asked("c", "s1", "2")).await;
        assert!(matches!(declined, Intended::Declined(Declined::Frozen(_))), "{declined:?}");
        assert_eq!(ledger.freezes().iter().count(), 1, "its gate is shut too");
    }
    conclude(&*one, under_way, End::Deleted).await.unwrap();
    assert_eq!(two.covered(Covers::All).await, Some(vec![]));
    assert_eq!(two.unfreeze(Covers::All, "done".into(), "bob".into()).await, Ok(true));
    let acting = block_in_place(|| Acting::open(&place.config).unwrap());
    block_in_place(|| {
        assert!(acting.freezes().unwrap().iter().next().is_none());
        assert!(!acting.unfreeze(Covers::All, "again".into(), "bob".into()).unwrap());
        drop(acting);
    });
    drop(intend(&*one, "3").await);
    // A gate that nobody asks anything of opens and shuts with the next renewal.
    eventually("both know", || [&one, &two].iter().all(|ledger| ledger.freezes().iter().next().is_none())).await;
    one.close().await;
    two.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_target_one_key_and_one_budget_are_shared_by_all_replicas() {
    let place = Place::postgres();
    let replicas = [place.open(), place.open(), place.open()];
    let budgets: Arc<[Budget]> = vec![budget(7, 3600, Per::Caller)].into();
    let asks = (0..30).map(|n| {
        let ask = Asked { budgets: Arc::clone(&budgets), ..asked("c", "s", &(n / 3).to_string()) };
        replicas[n % 3].intend(ask)
    });
    // Ten targets, each asked of all three at once, and a budget of seven.
    let answers = futures_util::future::join_all(asks).await;
    let recorded: Vec<Recorded> = answers
        .into_iter()
        .filter_map(|one| match one {
            Intended::Recorded(recorded) => Some(recorded),
            Intended::Declined(_) => None,
            other @ (Intended::Replay(_) | Intended::Unavailable) => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(recorded.len(), 7);
    let intents = place.of_kind("intent");
    let targets: std::collections::BTreeSet<&str> =
        intents.iter().filter_map(|entry| entry["group"].as_str()).collect();
    assert_eq!((intents.len(), targets.len()), (7, 7));
    drop(recorded);
    for ledger in replicas {
        ledger.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_replica_that_signs_goes_another_one_goes_on() {
    let place = Place::postgres();
    let (one, two) = (place.open(), place.open());
    drop(intend(&*one, "1").await);
    one.close().await;
    drop(intend(&*two, "2").await);
    let server = place.server.as_ref().unwrap();
    let signed =
        || server.ask("SELECT split_part(note, E'\\n', 2) = (SELECT length::text FROM ledger.head) FROM ledger.signed");
    eventually("all of it is signed", || signed() == "t").await;
    two.close().await;
    assert_eq!(signed(), "t", "the end too");
}
