//! Search data in the database that do not say what the entries say.

use super::{Place, intend};
use crate::clock::Timestamp;
use crate::ledger::conformance::{conclude, eventually};
use crate::ledger::entry::{End, Resolution};
use crate::ledger::glance::Glance;
use crate::ledger::postgres::blocking::Blocking;
use crate::ledger::postgres::index;
use crate::ledger::postgres::session::Role;
use crate::ledger::search::Query;
use crate::ledger::stored::Stored;
use crate::ledger::{OpenError, ProofReader, Reader};
use tokio::task::block_in_place;

/// Each changes one thing that was derived; all of them find something to change.
const CHANGES: [&str; 16] = [
    "DELETE FROM search.request WHERE seq = (SELECT min(seq) FROM search.request)",
    "UPDATE search.request SET request_id = 'x' WHERE outcome = 'deleted'",
    "UPDATE search.request SET decision = 'refused' WHERE outcome = 'deleted'",
    "UPDATE search.request SET caller = 'x' WHERE outcome = 'deleted'",
    "UPDATE search.request SET session = 'x' WHERE outcome = 'deleted'",
    "UPDATE search.request SET bare_group = 'x' WHERE outcome = 'deleted'",
    "UPDATE search.request SET day = day + 1 WHERE outcome = 'deleted'",
    "UPDATE search.request SET outcome = 'refused' WHERE outcome = 'deleted'",
    "UPDATE search.request SET outcome_seq = outcome_seq + 1 WHERE outcome = 'deleted'",
    "UPDATE search.request SET outcome = 'deleted', outcome_seq = 1, settled = true WHERE outcome IS NULL",
    "UPDATE search.request SET outcome = 'deleted', outcome_seq = 999999, settled = true WHERE outcome IS NULL",
    "UPDATE search.request SET settled = true WHERE outcome IS NULL",
    "UPDATE search.request SET resolution_seq = NULL, settled = false WHERE resolution_seq IS NOT NULL",
    "UPDATE search.request SET settled = NOT settled WHERE resolution_seq IS NOT NULL",
    "INSERT INTO search.request SELECT 3 - seq, request_id, decision, caller, session, bare_group, day, outcome,
         outcome_seq, resolution_seq, settled FROM search.request WHERE outcome = 'deleted'",
    "UPDATE search.day SET count = count + 1 WHERE outcome = 'deleted'",
];

/// Holds the search data against the entries; how many they cover.
fn compared(stored: &Stored) -> Result<Option<u64>, OpenError> {
    let Some(mut data) = stored.search_data()? else { return Ok(None) };
    for (seq, bytes) in stored.read(0, u64::MAX)? {
        data.see(seq, &Glance::at(seq, &bytes)?)?;
    }
    data.done().map(Some)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_changed_row_of_the_search_data_is_found() {
    let place = Place::postgres();
    let ledger = place.open();
    for (group, end) in [("1", End::Deleted), ("2", End::Unknown), ("3", End::Unknown)] {
        conclude(&*ledger, intend(&*ledger, group).await, end).await.unwrap();
    }
    let unknown = ledger.unresolved(Timestamp::now()).await.unwrap();
    ledger.resolve(unknown, Resolution::Absent).await.unwrap();
    let open = intend(&*ledger, "4").await;
    let uncovered = |stored: &Stored| stored.search(&Query { limit: 1, ..Query::default() }).unwrap().uncovered;
    eventually("the search data reach the end", || place.read(uncovered) == 0).await;
    let compare = || place.read(compared).map_err(|e| e.to_string());
    let covered = compare().expect("nothing was changed").expect("there are search data");
    assert_eq!(covered, place.entries().len() as u64);
    let server = place.server.as_ref().unwrap();
    let ask = |sql: &str| block_in_place(|| server.ask(sql));
    ask(
        "CREATE SCHEMA saved; CREATE TABLE saved.request AS TABLE search.request; CREATE TABLE saved.day AS TABLE search.day",
    );
    for change in CHANGES {
        let changed = ask(&format!("WITH changed AS ({change} RETURNING 1) SELECT count(*) FROM changed"));
        assert_ne!(changed, "0", "{change}");
        let found = compare().expect_err(change);
        assert!(found.contains("search data") && found.contains("audit reindex mends them"), "{change}: {found}");
        ask("TRUNCATE search.request, search.day; INSERT INTO search.request SELECT * FROM saved.request;
             INSERT INTO search.day SELECT * FROM saved.day");
        assert_eq!(compare(), Ok(Some(covered)), "{change}, put back");
    }
    drop(open);
    ledger.close().await;
}

/// A ledger whose search data reach to its end and that nothing serves: an intent, its unknown outcome and its resolution.
async fn at_rest() -> Place {
    let place = Place::postgres();
    let ledger = place.open();
    conclude(&*ledger, intend(&*ledger, "1").await, End::Unknown).await.unwrap();
    let unknown = ledger.unresolved(Timestamp::now()).await.unwrap();
    ledger.resolve(unknown, Resolution::Absent).await.unwrap();
    let uncovered = |stored: &Stored| stored.search(&Query { limit: 1, ..Query::default() }).unwrap().uncovered;
    eventually("the search data reach the end", || place.read(uncovered) == 0).await;
    ledger.close().await;
    place
}

/// The database, as who keeps the search data has it.
fn keeping(place: &Place) -> Blocking {
    Blocking::open(place.config.postgres.as_ref().unwrap(), Role::Keeper).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_became_of_a_pruned_request_has_no_row_and_none_is_missed() {
    let place = at_rest().await;
    let intent = place.of_kind("intent")[0]["seq"].as_u64().unwrap();
    block_in_place(|| index::forget(&keeping(&place), intent + 1)).unwrap();
    let covered = place.read(compared).map_err(|e| e.to_string());
    assert!(matches!(covered, Ok(Some(2..))), "its outcome and its resolution: {covered:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn search_data_that_were_begun_anew_while_they_were_compared_are_not_called_wrong() {
    let place = at_rest().await;
    let found = place.read(|stored| {
        let mut data = stored.search_data().unwrap().unwrap();
        for (seq, bytes) in stored.read(0, u64::MAX).unwrap() {
            data.see(seq, &Glance::at(seq, &bytes).unwrap()).unwrap();
        }
        index::begin_anew(&keeping(&place)).unwrap();
        data.done()
    });
    assert!(matches!(&found, Err(OpenError::Unusable(words)) if words.contains("verify it again")), "{found:?}");
}
