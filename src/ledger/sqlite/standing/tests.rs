//! Keys, freezes, budgets and what is in flight, through the writer and over restarts.

use crate::clock::Timestamp;
use crate::config::{self, Budget, OnExhausted, Per};
use crate::error::Sent;
use crate::id::{CallerName, IdempotencyKey, SessionId};
use crate::ledger::admission::tests::{asked, budget};
use crate::ledger::admission::{Answered, Asked, Declined, Replay};
use crate::ledger::entry::{End, Outcome};
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::sqlite::{Sqlite, SqliteReader};
use crate::ledger::{Intended, Ledger, Reader, Recorded};
use crate::telemetry::Metrics;
use std::path::Path;
use std::time::Duration;

fn open(folder: &Path) -> Sqlite {
    let config = config::Ledger { path: folder.to_owned(), reserve_bytes: 65_536, ..config::Ledger::default() };
    Sqlite::open(&config, Metrics::new().0).unwrap().0
}

async fn close(ledger: Sqlite) {
    ledger.close().await;
}

fn keyed(key: &str, group: &str) -> Asked {
    Asked { key: IdempotencyKey::parse(key.as_bytes()), ..asked("c", "s", group) }
}

async fn admitted(ledger: &Sqlite, asked: Asked) -> Recorded {
    match ledger.intend(asked).await {
        Intended::Recorded(recorded) => recorded,
        Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable => panic!("not recorded"),
    }
}

async fn declined(ledger: &Sqlite, asked: Asked) -> Declined {
    match ledger.intend(asked).await {
        Intended::Declined(declined) => declined,
        Intended::Recorded(_) | Intended::Replay(_) | Intended::Unavailable => panic!("not declined"),
    }
}

async fn conclude(ledger: &Sqlite, recorded: Recorded, end: End, answered: Option<Answered>) {
    let request_id = recorded.request_id();
    let outcome = Outcome { request_id, outcome: end, status: None, code: None, sent: Sent::Unknown, answer: None };
    ledger.conclude(recorded, outcome, answered).await.unwrap();
}

fn kinds(folder: &Path) -> Vec<String> {
    let entries = SqliteReader::open(folder).unwrap().read(0, u64::MAX).unwrap();
    let kind = |bytes: &Vec<u8>| {
        serde_json::from_slice::<serde_json::Value>(bytes).unwrap()["kind"].as_str().map(str::to_owned)
    };
    entries.iter().filter_map(|(_, bytes)| kind(bytes)).filter(|kind| kind != "start" && kind != "stop").collect()
}

#[tokio::test]
async fn of_one_target_in_any_spelling_one_intent_is_in_flight() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let first = admitted(&ledger, asked("c", "s", "1@g.us")).await;
    assert_eq!(declined(&ledger, asked("d", "s", "1")).await, Declined::InFlight);
    let other = admitted(&ledger, asked("c", "s2", "1@g.us")).await;
    for (recorded, end) in [(first, End::Unknown), (other, End::NotSent)] {
        conclude(&ledger, recorded, end, None).await;
    }
    let _again = admitted(&ledger, asked("d", "s", "1")).await;
    assert_eq!(
        kinds(folder.path()),
        ["intent", "intent", "outcome", "outcome", "intent"],
        "what is declined leaves none"
    );
}

#[tokio::test]
async fn a_key_replays_its_answer_and_survives_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let answered = Answered { status: 200, confirmed: true, body: "{\"success\":true}".into(), retry_after_s: None };
    let [deleted, unknown, unsent, open_at_the_end] =
        [("k1", "1"), ("k2", "2"), ("k3", "3"), ("k4", "4")].map(|(key, group)| keyed(key, group));
    let ids = [deleted.intention.request_id, unknown.intention.request_id, open_at_the_end.intention.request_id];
    let recorded = admitted(&ledger, deleted).await;
    assert_eq!(declined(&ledger, keyed("k1", "1")).await, Declined::InFlight);
    assert_eq!(declined(&ledger, keyed("k1", "9")).await, Declined::KeyReused);
    conclude(&ledger, recorded, End::Deleted, Some(answered.clone())).await;
    for (asked, end) in [(unknown, End::Unknown), (unsent, End::NotSent)] {
        let recorded = admitted(&ledger, asked).await;
        conclude(&ledger, recorded, end, Some(answered.clone())).await;
    }
    let _lost = admitted(&ledger, open_at_the_end).await;
    close(ledger).await;
    let ledger = open(folder.path());
    let replays = [(ids[0], Some(answered)), (ids[1], None), (ids[2], None)];
    for ((key, group), (request_id, answered)) in [("k1", "1"), ("k2", "2"), ("k4", "4")].into_iter().zip(replays) {
        let replay = ledger.intend(keyed(key, group)).await;
        let expected = Replay { request_id, answered };
        assert!(matches!(&replay, Intended::Replay(replay) if *replay == expected), "{key}: {replay:?}");
        assert_eq!(declined(&ledger, keyed(key, "9")).await, Declined::KeyReused);
    }
    let _free = admitted(&ledger, keyed("k3", "9")).await;
}

#[tokio::test]
async fn a_freeze_holds_from_its_entry_on_and_over_a_restart_until_it_is_taken_back_or_over() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = open(folder.path());
    let under_way = admitted(&ledger, asked("c", "s", "1")).await;
    let caller = Covers::Caller { caller: CallerName::parse("c").unwrap() };
    let session = Covers::Session { session: SessionId::parse("s2").unwrap() };
    let freeze = |covers: &Covers, reason: &str, until| Freeze {
        covers: covers.clone(),
        until,
        reason: reason.into(),
        by: "alice".into(),
    };
    ledger.freeze(freeze(&caller, "one", None)).await.unwrap();
    assert_eq!(declined(&ledger, asked("c", "s", "2")).await, Declined::Frozen("one".into()));
    assert_eq!(ledger.covered(caller.clone()).await, Some(vec![under_way.request_id()]));
    ledger.freeze(freeze(&session, "two", None)).await.unwrap();
    ledger.freeze(freeze(&Covers::All, "over", Some(Timestamp::now().before(Duration::from_secs(1))))).await.unwrap();
    conclude(&ledger, under_way, End::NotSent, None).await;
    assert_eq!(ledger.covered(Covers::All).await, Some(vec![]));
    close(ledger).await;
    let ledger = open(folder.path());
    assert_eq!(ledger.freezes().iter().count(), 3);
    assert_eq!(declined(&ledger, asked("c", "s", "2")).await, Declined::Frozen("one".into()));
    assert_eq!(declined(&ledger, asked("d", "s2", "2")).await, Declined::Frozen("two".into()));
    let _free = admitted(&ledger, asked("d", "s", "2")).await;
    assert_eq!(ledger.unfreeze(caller.clone(), "done".into(), "alice".into()).await, Ok(true));
    assert_eq!(ledger.unfreeze(caller, "done".into(), "alice".into()).await, Ok(false), "there is none any more");
    let _free = admitted(&ledger, asked("c", "s", "3")).await;
    assert_eq!(kinds(folder.path()).iter().filter(|kind| *kind == "unfreeze").count(), 1);
}

fn with(budgets: &[Budget], session: &str, group: usize) -> Asked {
    Asked { budgets: budgets.into(), ..asked("c", session, &group.to_string()) }
}

#[tokio::test]
async fn a_budget_is_exact_and_neither_a_restart_nor_anything_but_not_sent_gives_back() {
    let folder = tempfile::tempdir().unwrap();
    let budgets = [budget(5, 3600, Per::Caller), budget(3, 3600, Per::Session)];
    let exhausted = |declined: &Declined, budget: &Budget| matches!(declined, Declined::BudgetExhausted { budget: is, retry_after_s: 3500..=3600 } if is == budget);
    let mut ledger = open(folder.path());
    for (group, end) in [End::Deleted, End::NotSent, End::Refused, End::NotSent, End::Unknown].into_iter().enumerate() {
        let recorded = admitted(&ledger, with(&budgets, "s1", group)).await;
        conclude(&ledger, recorded, end, None).await;
        close(ledger).await;
        ledger = open(folder.path());
    }
    let said = declined(&ledger, with(&budgets, "s1", 9)).await;
    assert!(exhausted(&said, &budgets[1]), "three of five count: {said:?}");
    let open_ones =
        [admitted(&ledger, with(&budgets, "s2", 10)).await, admitted(&ledger, with(&budgets, "s2", 11)).await];
    let said = declined(&ledger, with(&budgets, "s3", 12)).await;
    assert!(exhausted(&said, &budgets[0]), "{said:?}");
    for recorded in open_ones {
        conclude(&ledger, recorded, End::NotSent, None).await;
    }
    for group in 13..15 {
        let _counted = admitted(&ledger, with(&budgets, "s3", group)).await;
    }
    assert!(exhausted(&declined(&ledger, with(&budgets, "s3", 15)).await, &budgets[0]));
}

#[tokio::test]
async fn a_used_up_budget_freezes_its_caller_where_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let budgets = [Budget { on_exhausted: OnExhausted::Freeze, ..budget(1, 60, Per::Caller) }];
    let ledger = open(folder.path());
    let _one = admitted(&ledger, with(&budgets, "s", 1)).await;
    assert!(matches!(declined(&ledger, with(&budgets, "s", 2)).await, Declined::BudgetExhausted { .. }));
    let frozen = Declined::Frozen("the budget of 1 deletions in 60 s was used up".into());
    assert_eq!(declined(&ledger, with(&budgets, "s", 2)).await, frozen);
    assert_eq!(declined(&ledger, with(&[], "s", 2)).await, frozen, "whatever its budgets are now");
    let _other = admitted(&ledger, asked("d", "s", "2")).await;
    close(ledger).await;
    assert_eq!(declined(&open(folder.path()), with(&[], "s", 2)).await, frozen);
}

#[tokio::test]
async fn callers_at_once_get_exactly_what_is_in_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = std::sync::Arc::new(open(folder.path()));
    let budgets = [budget(100, 3600, Per::Caller)];
    let callers = crate::tasks::Tasks::default();
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let ledger = std::sync::Arc::clone(&ledger);
            callers.spawn(async move {
                let mut passed = 0;
                for number in 0..5 {
                    if let Intended::Recorded(recorded) = ledger.intend(with(&budgets, "s", task * 5 + number)).await {
                        conclude(&ledger, recorded, End::Deleted, None).await;
                        passed += 1;
                    }
                }
                passed
            })
        })
        .collect();
    let mut passed = 0;
    for task in tasks {
        passed += task.await.unwrap();
    }
    assert_eq!(passed, 100);
}
