//! A replica that joins while others write.

use super::{Place, intend};
use crate::ledger::conformance::{BUDGET, conclude, eventually};
use crate::ledger::entry::End;
use crate::ledger::postgres::Postgres;
use crate::ledger::postgres::session::{Role, Session};
use crate::telemetry::Metrics;
use tokio::task::block_in_place;

async fn holding(place: &Place, lock: &str) -> Session {
    let mut session = Session::open(place.config.postgres.as_ref().unwrap(), Role::Migration).await.unwrap();
    let held = format!("SET idle_in_transaction_session_timeout = 0; BEGIN; {lock}");
    session.ask(async |client| client.batch_execute(&held).await).await.unwrap();
    session
}

async fn let_go(mut session: Session) {
    session.ask(async |client| client.batch_execute("COMMIT").await).await.unwrap();
    session.close().await;
}

/// Where the log ends is read in one with how long it is: else what others write in between makes it look damaged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_writes_while_a_replica_that_joins_reads_where_the_log_ends() {
    let place = Place::postgres();
    let one = place.open();
    conclude(&*one, intend(&*one, "1").await, End::Deleted).await.unwrap();
    one.close().await;
    let server = place.server.as_ref().unwrap();
    let waits = |what: &str| {
        let sql =
            "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE '%writer' AND wait_event_type = 'Lock'";
        server.ask(&format!("{sql} AND query LIKE '%{what}%'")) == "1"
    };
    let head = holding(&place, "SELECT FROM ledger.head FOR UPDATE").await;
    let config = place.config.clone();
    let joining = std::thread::spawn(move || Postgres::open(&config, BUDGET, Metrics::new().0));
    eventually("it waits for the head", || waits("ledger.head")).await;
    let entries = holding(&place, "LOCK TABLE ledger.entry IN ACCESS EXCLUSIVE MODE").await;
    let_go(head).await;
    eventually("it waits for the last entry", || waits("ledger.entry")).await;
    let free = server.ask("SELECT count(*) FROM (SELECT FROM ledger.head FOR UPDATE SKIP LOCKED) AS free");
    let_go(entries).await;
    let (joined, unknown) = block_in_place(|| joining.join().unwrap()).unwrap();
    assert_eq!((free.as_str(), unknown), ("0", 0));
    crate::ledger::Ledger::close(&joined).await;
}
