//! What a replica makes of it when the last entry that it knows is not there any more.

use super::{Place, WRITERS, asked, intend};
use crate::ledger::conformance::conclude;
use crate::ledger::entry::End;
use crate::ledger::freeze::Covers;
use crate::ledger::{Health, Intended, Ledger};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::block_in_place;

/// A replica without traffic whose last entry is gone, as `row` says: a row of `ledger.pruned`, after `first` where the
/// log would begin. Its connection was cut since then. The other replica has gone on writing.
async fn idle(place: &Place, row: impl FnOnce(u64) -> String) -> Arc<dyn Ledger> {
    let idle = place.open();
    let server = place.server.as_ref().unwrap();
    let first: u64 = server.ask("SELECT length FROM ledger.head").parse().unwrap();
    let busy = place.open();
    for target in ["1", "2"] {
        conclude(&*busy, intend(&*busy, target).await, End::Deleted).await.unwrap();
    }
    busy.close().await;
    server.ask(&row(first));
    server.ask(&format!("DELETE FROM ledger.entry WHERE seq < {first}"));
    block_in_place(|| server.ask(WRITERS));
    idle
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_replica_whose_last_entry_was_pruned_goes_on_over_a_new_connection() {
    let place = Place::postgres();
    let ledger = idle(&place, |first| format!("INSERT INTO ledger.pruned VALUES ({first}, {first}, '', 2)")).await;
    let next = ledger.intend(asked("c", "s", "3")).await;
    assert!(matches!(next, Intended::Recorded(_)) && ledger.health() == Health::Writable, "{next:?}");
    drop(next);
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_entry_that_stands_for_a_pruned_one_has_to_be_there_from_then_on() {
    let place = Place::postgres();
    let ledger = idle(&place, |first| format!("INSERT INTO ledger.pruned VALUES ({first}, {first}, '', 2)")).await;
    // The first to ask finds that the connection was cut, the second has a new one. It writes nothing.
    let _ = ledger.covered(Covers::All).await;
    assert_eq!(ledger.covered(Covers::All).await, Some(vec![]));
    let server = place.server.as_ref().unwrap();
    block_in_place(|| {
        server.ask("DELETE FROM ledger.entry WHERE seq = (SELECT length - 1 FROM ledger.head)");
        server.ask(WRITERS)
    });
    let broken = tokio::time::timeout(Duration::from_secs(20), ledger.broken()).await;
    assert!(broken.is_ok(), "it notices");
    ledger.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_no_prune_has_removed_is_lost_however_much_was_written_since() {
    let nothing = |_| "SELECT 1".to_owned();
    // Its entry is never signed, so that no keeper begins it.
    let only_recorded = |first| format!("INSERT INTO ledger.pruned VALUES (9000, {first}, '', 0)");
    let kept = |first: u64| format!("INSERT INTO ledger.pruned VALUES ({first}, {}, '', 2)", first - 1);
    let no_end = |first| {
        format!(
            "INSERT INTO ledger.pruned VALUES ({first}, {first}, '', 2); DELETE FROM ledger.entry
            WHERE seq = (SELECT length - 1 FROM ledger.head)"
        )
    };
    let rows: [&dyn Fn(u64) -> String; 4] = [&nothing, &only_recorded, &kept, &no_end];
    for (case, row) in rows.into_iter().enumerate() {
        let place = Place::postgres();
        let ledger = idle(&place, row).await;
        let broken = tokio::time::timeout(Duration::from_secs(20), ledger.broken()).await;
        assert!(broken.is_ok(), "case {case}");
        assert!(matches!(ledger.intend(asked("c", "s", "3")).await, Intended::Unavailable), "case {case}");
        ledger.close().await;
    }
}
