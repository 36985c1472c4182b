//! What is decided inside an intent's transaction: freezes, keys, single flight and budgets, by each store.

use super::{Place, admitted, conclude, conclude_with, declined};
use crate::clock::Timestamp;
use crate::config::{Budget, OnExhausted, Per};
use crate::id::{CallerName, IdempotencyKey, SessionId};
use crate::ledger::Intended;
use crate::ledger::admission::tests::{asked, budget};
use crate::ledger::admission::{Answered, Asked, Declined, Replay};
use crate::ledger::entry::End;
use crate::ledger::freeze::{Covers, Freeze};
use std::sync::Arc;

pub(super) async fn of_one_target_in_any_spelling_one_intent_is_in_flight(place: Place) {
    let ledger = place.open();
    let first = admitted(&*ledger, asked("c", "s", "1@g.us")).await;
    assert_eq!(declined(&*ledger, asked("d", "s", "1")).await, Declined::InFlight);
    let other = admitted(&*ledger, asked("c", "s2", "1@g.us")).await;
    // At once, in one transaction: one of them.
    let both = [ledger.intend(asked("c", "s", "2")), ledger.intend(asked("d", "s", "2@g.us"))];
    let both = futures_util::future::join_all(both).await;
    assert_eq!(both.iter().filter(|one| matches!(one, Intended::Recorded(_))).count(), 1);
    for (recorded, end) in [(first, End::Unknown), (other, End::NotSent)] {
        conclude(&*ledger, recorded, end).await.unwrap();
    }
    drop(admitted(&*ledger, asked("d", "s", "1")).await);
    ledger.close().await;
    assert_eq!((place.of_kind("intent").len(), place.of_kind("refusal").len()), (4, 0), "what is declined leaves none");
}

fn keyed(key: &str, group: &str) -> Asked {
    Asked { key: IdempotencyKey::parse(key.as_bytes()), ..asked("c", "s", group) }
}

pub(super) async fn a_key_replays_its_answer_and_survives_a_restart(place: Place) {
    let ledger = place.open();
    let answered = Answered { status: 200, confirmed: true, body: "{\"success\":true}".into(), retry_after_s: Some(7) };
    let [deleted, unknown, unsent, open] =
        [("k1", "1"), ("k2", "2"), ("k3", "3"), ("k4", "4")].map(|(k, g)| keyed(k, g));
    let ids = [&deleted, &unknown, &open].map(|asked| asked.intention.request_id);
    let recorded = admitted(&*ledger, deleted).await;
    assert_eq!(declined(&*ledger, keyed("k1", "1")).await, Declined::InFlight);
    assert_eq!(declined(&*ledger, keyed("k1", "9")).await, Declined::KeyReused);
    conclude_with(&*ledger, recorded, End::Deleted, Some(answered.clone())).await.unwrap();
    for (asked, end) in [(unknown, End::Unknown), (unsent, End::NotSent)] {
        let recorded = admitted(&*ledger, asked).await;
        conclude_with(&*ledger, recorded, end, Some(answered.clone())).await.unwrap();
    }
    let lost = admitted(&*ledger, open).await;
    ledger.close().await;
    place.end_leases();
    let ledger = place.open();
    let replays = [(ids[0], Some(answered)), (ids[1], None), (ids[2], None)];
    for ((key, group), (request_id, answered)) in [("k1", "1"), ("k2", "2"), ("k4", "4")].into_iter().zip(replays) {
        let replay = ledger.intend(keyed(key, group)).await;
        let expected = Replay { request_id, answered };
        assert!(matches!(&replay, Intended::Replay(replay) if *replay == expected), "{key}: {replay:?}");
        assert_eq!(declined(&*ledger, keyed(key, "9")).await, Declined::KeyReused);
        // What cannot be sent is answered from its key all the same, and from nothing else.
        let unsendable = |key, group| Asked { can_be_sent: false, ..keyed(key, group) };
        assert!(matches!(ledger.intend(unsendable(key, group)).await, Intended::Replay(replay) if replay == expected));
        assert_eq!(declined(&*ledger, unsendable(key, "9")).await, Declined::KeyReused);
        assert_eq!(declined(&*ledger, unsendable("k9", group)).await, Declined::Unsendable);
    }
    drop(admitted(&*ledger, keyed("k3", "9")).await);
    ledger.close().await;
    drop(lost);
}

pub(super) async fn a_freeze_holds_from_its_entry_on_and_over_a_restart(place: Place) {
    let ledger = place.open();
    let under_way = admitted(&*ledger, asked("c", "s", "1")).await;
    let id = under_way.request_id();
    let caller = Covers::Caller { caller: CallerName::parse("c").unwrap() };
    let freeze = Freeze { covers: caller.clone(), until: None, reason: "stop".into(), by: "alice".into() };
    ledger.freeze(freeze.clone()).await.unwrap();
    assert_eq!(declined(&*ledger, asked("c", "s", "2")).await, Declined::Frozen("stop".into()));
    assert_eq!(ledger.freezes().iter().cloned().collect::<Vec<_>>(), [freeze]);
    assert_eq!(ledger.covered(caller.clone()).await, Some(vec![id]));
    let session = Covers::Session { session: SessionId::parse("s9").unwrap() };
    assert_eq!(ledger.covered(session.clone()).await, Some(vec![]));
    conclude(&*ledger, under_way, End::Deleted).await.unwrap();
    assert_eq!(ledger.covered(Covers::All).await, Some(vec![]));
    drop(admitted(&*ledger, asked("d", "s", "3")).await);
    ledger.close().await;
    let ledger = place.open();
    assert_eq!(declined(&*ledger, asked("c", "s", "2")).await, Declined::Frozen("stop".into()));
    assert_eq!(ledger.unfreeze(session, "why".into(), "bob".into()).await, Ok(false));
    assert_eq!(ledger.unfreeze(caller, "done".into(), "bob".into()).await, Ok(true));
    drop(admitted(&*ledger, asked("c", "s", "2")).await);
    ledger.close().await;
    assert_eq!((place.of_kind("freeze").len(), place.of_kind("unfreeze").len()), (1, 1));
}

pub(super) async fn a_budget_is_kept_by_many_at_once_and_gives_back_what_was_not_sent(place: Place) {
    let budgets: Arc<[Budget]> = vec![budget(5, 3600, Per::Caller), budget(3, 3600, Per::Session)].into();
    let of = |session: &str, group: usize| Asked {
        budgets: Arc::clone(&budgets),
        ..asked("c", session, &group.to_string())
    };
    let ledger = place.open();
    let asks = (0..20).map(|group| ledger.intend(of(if group % 2 == 0 { "s1" } else { "s2" }, group)));
    let mut recorded = Vec::new();
    for one in futures_util::future::join_all(asks).await {
        match one {
            Intended::Recorded(one) => recorded.push(one),
            Intended::Declined(Declined::BudgetExhausted { .. }) => {}
            other @ (Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable) => panic!("{other:?}"),
        }
    }
    assert_eq!(recorded.len(), 5);
    // The first and the third were not sent: two are free again, whoever asks, and no more.
    for (index, one) in recorded.into_iter().enumerate() {
        let end = if index == 0 || index == 2 { End::NotSent } else { End::Deleted };
        conclude(&*ledger, one, end).await.unwrap();
    }
    ledger.close().await;
    let ledger = place.open();
    for group in [100, 101] {
        conclude(&*ledger, admitted(&*ledger, of("s3", group)).await, End::Refused).await.unwrap();
    }
    assert!(
        matches!(declined(&*ledger, of("s3", 102)).await, Declined::BudgetExhausted { budget, .. } if budget.max == 5)
    );
    let freezing: Arc<[Budget]> = vec![Budget { on_exhausted: OnExhausted::Freeze, ..budgets[0] }].into();
    let asked = Asked { budgets: freezing, ..of("s4", 103) };
    assert!(matches!(declined(&*ledger, asked).await, Declined::BudgetExhausted { .. }));
    assert!(matches!(declined(&*ledger, of("s5", 104)).await, Declined::Frozen(_)), "it froze its caller");
    ledger.close().await;
}

pub(super) async fn a_budget_that_is_made_smaller_and_larger_again_finds_what_it_had_counted(place: Place) {
    let of = |max, per_s, group: usize| Asked {
        budgets: vec![budget(max, per_s, Per::Caller)].into(),
        ..asked("c", "s", &group.to_string())
    };
    let ledger = place.open();
    for group in 0..5 {
        conclude(&*ledger, admitted(&*ledger, of(5, 86_400, group)).await, End::Deleted).await.unwrap();
    }
    assert!(matches!(declined(&*ledger, of(5, 86_400, 5)).await, Declined::BudgetExhausted { .. }));
    // One more than there were in the day passes a budget that counts no longer than a moment.
    let passed = loop {
        match ledger.intend(of(1, 1, 6)).await {
            Intended::Recorded(recorded) => break recorded,
            Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable => {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
    };
    conclude(&*ledger, passed, End::Deleted).await.unwrap();
    assert!(matches!(declined(&*ledger, of(5, 86_400, 7)).await, Declined::BudgetExhausted { .. }));
    ledger.close().await;
}

pub(super) async fn a_freeze_ends_when_the_longest_of_its_kind_does_and_is_not_there_after_that(place: Place) {
    let ledger = place.open();
    let caller = Covers::Caller { caller: CallerName::parse("c").unwrap() };
    let freeze =
        |until: Option<Timestamp>| Freeze { covers: caller.clone(), until, reason: "stop".into(), by: "alice".into() };
    let soon = Timestamp::now().after(std::time::Duration::from_secs(60));
    let later = soon.after(std::time::Duration::from_secs(60));
    for (asked, end) in [(Some(later), Some(later)), (Some(soon), Some(later)), (None, None), (Some(later), None)] {
        ledger.freeze(freeze(asked)).await.unwrap();
        assert_eq!(ledger.freezes().end_of(&caller), end, "{asked:?}");
    }
    let says = |entry: &serde_json::Value| entry.get("until").cloned();
    let entries: Vec<_> = place.of_kind("freeze").iter().map(says).collect();
    let spelt = Some(serde_json::Value::from(later.to_string()));
    assert_eq!(entries, [spelt.clone(), spelt, None, None], "its entry says it");
    assert_eq!(ledger.unfreeze(caller.clone(), "done".into(), "bob".into()).await, Ok(true));
    ledger.freeze(freeze(Some(Timestamp::now()))).await.unwrap();
    assert_eq!(ledger.unfreeze(caller.clone(), "done".into(), "bob".into()).await, Ok(false), "it was over");
    drop(admitted(&*ledger, asked("c", "s", "1")).await);
    ledger.close().await;
}
