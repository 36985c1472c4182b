//! Databases, users and poolers that are set up otherwise than a ledger needs.

use super::{Instance, Place, asked, budget, intend, writable};
use crate::config::{Per, Postgres as Address};
use crate::id::IdempotencyKey;
use crate::ledger::conformance::{conclude, eventually};
use crate::ledger::entry::End;
use crate::ledger::postgres::batch::Prepared;
use crate::ledger::postgres::plan::Asked;
use crate::ledger::postgres::session::{Role, Session};
use crate::ledger::postgres::{migrate, runtime, schema};
use crate::ledger::{Health, Intended};
use tokio::task::block_in_place;

impl Place {
    fn address(&self) -> &Address {
        self.config.postgres.as_ref().unwrap()
    }

    /// From now on the URL is another one.
    fn connects(&self, from: &str, to: &str) {
        let url = std::fs::read_to_string(&self.address().url_file).unwrap();
        assert!(url.contains(from));
        std::fs::write(&self.address().url_file, url.replace(from, to)).unwrap();
    }
}

const DISK_FULL: &str = "53100";
const SERIALIZATION_FAILURE: &str = "40001";

/// Makes every insert into a table fail, with this code.
fn refuse_inserts(server: &Instance, table: &str, code: &str) {
    server.ask(&format!(
        "CREATE OR REPLACE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = '{code}'; END $$;
        CREATE TRIGGER refuse BEFORE INSERT ON ledger.{table} EXECUTE FUNCTION public.refuse()"
    ));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_refuses_entries_is_not_writable_until_it_takes_them_again() {
    let place = Place::postgres();
    let (ledger, server) = (place.open(), place.server.as_ref().unwrap());
    let recorded = intend(&*ledger, "1").await;
    refuse_inserts(server, "entry", DISK_FULL);
    assert!(matches!(ledger.intend(asked("c", "s1", "2")).await, Intended::Unavailable));
    assert_eq!(ledger.health(), Health::Unreachable);
    let renewed = "SELECT max(lease_until) FROM ledger.replica";
    let before = block_in_place(|| server.ask(renewed));
    eventually("it has renewed its lease", || server.ask(renewed) != before).await;
    assert_eq!(ledger.health(), Health::Unreachable, "a lease is no entry");
    server.ask("DROP TRIGGER refuse ON ledger.entry");
    writable(&ledger).await;
    // The same while an outcome waits to be written.
    refuse_inserts(server, "entry", DISK_FULL);
    let mut concluding = std::pin::pin!(conclude(&*ledger, recorded, End::Deleted));
    let waits = async { eventually("it notices", || ledger.health() == Health::Unreachable).await };
    tokio::select! {
        biased;
        concluded = &mut concluding => panic!("{concluded:?}"),
        () = waits => {}
    }
    server.ask("DROP TRIGGER refuse ON ledger.entry");
    assert_eq!(concluding.await, Ok(()));
    assert_eq!(ledger.health(), Health::Writable);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_takes_entries_and_nothing_beside_them_is_not_writable_either() {
    let place = Place::postgres();
    let (ledger, server) = (place.open(), place.server.as_ref().unwrap());
    // With a budget and a key, so that each table is written to.
    let keyed = |group: &str| {
        let mut asked = asked("c", "s1", group);
        asked.key = IdempotencyKey::parse(b"k");
        asked.budgets = [budget(9, 3600, Per::Caller)].into();
        asked
    };
    for table in ["in_flight", "idempotency", "spent"] {
        refuse_inserts(server, table, DISK_FULL);
        assert!(matches!(ledger.intend(keyed(table)).await, Intended::Unavailable), "{table}");
        for _ in 0..2 {
            let renewed = "SELECT max(lease_until) FROM ledger.replica";
            let before = block_in_place(|| server.ask(renewed));
            eventually("it has renewed its lease", || server.ask(renewed) != before).await;
            assert_eq!(ledger.health(), Health::Unreachable, "{table}");
        }
        server.ask(&format!("DROP TRIGGER refuse ON ledger.{table}"));
        writable(&ledger).await;
    }
    assert_eq!(server.ask("SELECT count(*) FROM ledger.in_flight"), "0", "a trial leaves nothing");
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_that_passes_by_itself_leaves_the_ledger_writable() {
    let place = Place::postgres();
    let (ledger, server) = (place.open(), place.server.as_ref().unwrap());
    refuse_inserts(server, "entry", SERIALIZATION_FAILURE);
    assert!(matches!(ledger.intend(asked("c", "s1", "1")).await, Intended::Unavailable));
    assert_eq!(ledger.health(), Health::Writable);
    server.ask("DROP TRIGGER refuse ON ledger.entry");
    conclude(&*ledger, intend(&*ledger, "1").await, End::Deleted).await.unwrap();
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_cannot_hold_every_character_is_refused() {
    let place = Place::unmigrated(Instance::start());
    let server = place.server.as_ref().unwrap();
    for (name, encoding, is_fit) in [("latin", "LATIN1", false), ("plain", "SQL_ASCII", true)] {
        server.ask(&format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"
        ));
        place.connects("/ledger", &format!("/{name}"));
        let migrated = block_in_place(|| migrate(&place.config)).map_err(|error| error.to_string());
        match migrated {
            Ok(_) => assert!(is_fit, "{encoding}"),
            Err(words) => assert!(!is_fit && words.contains(encoding) && words.contains("UTF8"), "{words}"),
        }
        place.connects(&format!("/{name}"), "/ledger");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_read_and_write_rows_may_serve_and_finds_nothing_to_migrate() {
    let place = Place::postgres();
    place.server.as_ref().unwrap().ask(
        "CREATE ROLE rows LOGIN; GRANT USAGE ON SCHEMA ledger, search TO rows;
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA ledger, search TO rows",
    );
    place.connects("postgres://postgres:", "postgres://rows:");
    let (migrated, is_new_key) = block_in_place(|| migrate(&place.config)).unwrap();
    assert_eq!((migrated.from, is_new_key), (migrated.to, false));
    let ledger = place.open();
    conclude(&*ledger, intend(&*ledger, "1").await, End::Deleted).await.unwrap();
    ledger.close().await;
}

/// A pooler in transaction mode has each transaction in another session, with settings of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_whose_commit_would_not_be_durable_is_not_begun() {
    let place = Place::postgres();
    let mut session = Session::open(place.address(), Role::Writer).await.unwrap();
    let prepared = session.ask(Prepared::on).await.unwrap();
    for (setting, is_fit) in [("on", true), ("remote_apply", true), ("off", false), ("local", false)] {
        let set = format!("ROLLBACK; SET synchronous_commit = {setting}");
        session.ask(async |client| client.batch_execute(&set).await).await.unwrap();
        let learnt = prepared.lock_and_learn(&mut session, &Asked::default(), "").await;
        match learnt.map(drop).map_err(|fault| fault.to_string()) {
            Ok(()) => assert!(is_fit, "{setting}"),
            Err(words) => assert!(!is_fit && words.contains("synchronous_commit"), "{words}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_who_migrate_at_once_only_one_is_told_that_its_new_key_is_the_ledgers() {
    let place = Place::unmigrated(Instance::start());
    block_in_place(|| runtime().unwrap().block_on(schema::migrate(place.address()))).unwrap();
    // Somebody else is a moment faster.
    place.server.as_ref().unwrap().ask(
        "CREATE FUNCTION public.faster() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN INSERT INTO ledger.signed (verifying_key) VALUES ('another'); RETURN NEW; END $$;
        CREATE TRIGGER faster BEFORE INSERT ON ledger.signed FOR EACH ROW WHEN (pg_trigger_depth() = 0)
            EXECUTE FUNCTION public.faster()",
    );
    let words = block_in_place(|| migrate(&place.config)).unwrap_err().to_string();
    assert!(words.contains("signed with the key another"), "{words}");
}
