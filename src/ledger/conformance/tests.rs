//! What every store has to do, asked of each of them: a test here runs once for SQLite and once for PostgreSQL.

#![allow(clippy::unwrap_used, clippy::print_stderr, clippy::disallowed_methods, reason = "these are tests")]

#[path = "../../../tests/postgres/instance.rs"]
#[allow(dead_code, unreachable_pub, reason = "the tests of the binary use all of it")]
pub(super) mod instance;

#[path = "tests/admitting.rs"]
mod admitting;
#[path = "tests/kept.rs"]
mod kept;

use super::admission::tests::asked;
use super::admission::{Answered, Asked, Declined};
use super::entry::{Body, End, Outcome, Resolution};
use super::postgres::{self, Postgres};
use super::search::{Query, Row};
use super::sqlite::Sqlite;
use super::stats::Span;
use super::stored::Stored;
use super::verify::verify;
use super::{Health, Intended, Ledger, NotRecorded, ProofReader, Reader, Recorded, receipt};
use crate::clock::Timestamp;
use crate::config;
use crate::error::Sent;
use crate::id::RequestId;
use crate::telemetry::Metrics;
use instance::Instance;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::block_in_place;

/// How long a request may take here; a lease is ten seconds longer.
pub(super) const BUDGET: Duration = Duration::from_millis(2_500);

/// A place for a ledger, and what keeps it there.
pub(super) struct Place {
    pub(super) config: config::Ledger,
    pub(super) server: Option<Instance>,
    pub(super) folder: tempfile::TempDir,
}

impl Place {
    pub(super) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger");
        let config = config::Ledger { path, reserve_bytes: 65_536, ..config::Ledger::default() };
        Self { config, server: None, folder }
    }

    pub(super) fn postgres() -> Self {
        let place = Self::unmigrated(Instance::start());
        block_in_place(|| postgres::migrate(&place.config)).unwrap();
        place
    }

    pub(super) fn unmigrated(server: Instance) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url_file = folder.path().join("url");
        std::fs::write(&url_file, server.url(server.port)).unwrap();
        let config = config::Ledger {
            postgres: Some(config::Postgres { url_file, ca_file: None }),
            signing_key_file: Some(folder.path().join("signing-key")),
            ..config::Ledger::default()
        };
        Self { config, server: Some(server), folder }
    }

    /// Opens the ledger to write.
    pub(super) fn open(&self) -> Arc<dyn Ledger> {
        let (metrics, _) = Metrics::new();
        match self.config.postgres {
            Some(_) => Arc::new(Postgres::open(&self.config, BUDGET, metrics).unwrap().0),
            None => Arc::new(Sqlite::open(&self.config, metrics).unwrap().0),
        }
    }

    /// Where replicas have leases, all of them are over.
    pub(super) fn end_leases(&self) {
        if let Some(server) = &self.server {
            server.ask("UPDATE ledger.replica SET lease_until = clock_timestamp() - interval '1 second'");
        }
    }

    pub(super) fn read<T>(&self, ask: impl FnOnce(&Stored) -> T) -> T {
        block_in_place(|| ask(&Stored::open(&self.config).unwrap()))
    }

    pub(super) fn entries(&self) -> Vec<Value> {
        let entries = self.read(|stored| stored.read(0, u64::MAX).unwrap());
        entries.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect()
    }

    pub(super) fn of_kind(&self, kind: &str) -> Vec<Value> {
        self.entries().into_iter().filter(|entry| entry["kind"] == kind).collect()
    }

    /// The outcomes of a request.
    pub(super) fn outcomes(&self, id: RequestId) -> Vec<String> {
        let all = self.of_kind("outcome").into_iter().filter(|entry| entry["request_id"] == id.to_string());
        all.map(|entry| entry["outcome"].as_str().unwrap().to_owned()).collect()
    }
}

pub(super) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !block_in_place(&mut holds) {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn admitted(ledger: &dyn Ledger, asked: Asked) -> Recorded {
    match ledger.intend(asked).await {
        Intended::Recorded(recorded) => recorded,
        other @ (Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable) => panic!("{other:?}"),
    }
}

async fn declined(ledger: &dyn Ledger, asked: Asked) -> Declined {
    match ledger.intend(asked).await {
        Intended::Declined(declined) => declined,
        other @ (Intended::Recorded(_) | Intended::Replay(_) | Intended::Unavailable) => panic!("{other:?}"),
    }
}

pub(super) async fn intend(ledger: &dyn Ledger, group: &str) -> Recorded {
    admitted(ledger, asked("c", "s1", group)).await
}

pub(super) async fn conclude(ledger: &dyn Ledger, recorded: Recorded, end: End) -> Result<(), NotRecorded> {
    conclude_with(ledger, recorded, end, None).await
}

async fn conclude_with(
    ledger: &dyn Ledger,
    recorded: Recorded,
    end: End,
    answered: Option<Answered>,
) -> Result<(), NotRecorded> {
    let request_id = recorded.request_id();
    let outcome = Outcome { request_id, outcome: end, status: None, code: None, sent: Sent::Unknown, answer: None };
    ledger.conclude(recorded, outcome, answered).await
}

async fn an_intent_and_its_outcome_stand_in_their_order_between_start_and_stop(place: Place) {
    let ledger = place.open();
    let recorded = intend(&*ledger, "1@g.us").await;
    let (seq, id) = (recorded.seq(), recorded.request_id());
    assert!(recorded.outlasts(crate::clock::moment() + BUDGET));
    conclude(&*ledger, recorded, End::Deleted).await.unwrap();
    ledger.close().await;
    let entries = place.entries();
    let kinds: Vec<&str> = entries.iter().map(|entry| entry["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["start", "intent", "outcome", "stop"]);
    assert!(entries.iter().zip(0..).all(|(entry, seq)| entry["seq"] == seq), "{entries:?}");
    assert!(entries.windows(2).all(|pair| pair[0]["time"].as_str() <= pair[1]["time"].as_str()));
    assert_eq!((entries[1]["seq"].as_u64(), &entries[2]["request_id"]), (Some(seq), &id.to_string().into()));
}

async fn many_at_once_are_one_row_of_entries_and_each_has_one_outcome(place: Place) {
    let ledger = place.open();
    let one = |group: usize| {
        let ledger = Arc::clone(&ledger);
        async move {
            let recorded = intend(&*ledger, &group.to_string()).await;
            let id = recorded.request_id();
            conclude(&*ledger, recorded, End::Deleted).await.unwrap();
            id
        }
    };
    let ids = futures_util::future::join_all((1..=300).map(one)).await;
    ledger.close().await;
    let entries = place.entries();
    assert!(entries.iter().zip(0..).all(|(entry, seq)| entry["seq"] == seq));
    assert_eq!(entries.len(), 602);
    let outcomes: Vec<&Value> = entries.iter().filter(|entry| entry["kind"] == "outcome").collect();
    for id in ids {
        assert_eq!(outcomes.iter().filter(|entry| entry["request_id"] == id.to_string()).count(), 1);
    }
}

async fn an_intent_that_nobody_waits_for_is_never_sent_and_a_lost_proof_is_unknown(place: Place) {
    let ledger = place.open();
    let gone = asked("c", "s1", "1");
    let (late, lost) = (gone.intention.request_id, intend(&*ledger, "2").await);
    let id = lost.request_id();
    drop(ledger.intend(gone));
    drop(lost);
    eventually("both have their outcome", || place.of_kind("outcome").len() == 2).await;
    assert_eq!((place.outcomes(late), place.outcomes(id)), (vec!["not-sent".into()], vec!["unknown".into()]));
    ledger.close().await;
}

async fn what_nobody_waits_for_at_the_end_is_never_sent_and_not_unknown(place: Place) {
    let ledger = place.open();
    let gone = asked("c", "s1", "1");
    let late = gone.intention.request_id;
    drop(ledger.intend(gone));
    ledger.close().await;
    assert_eq!(place.outcomes(late), ["not-sent"]);
    assert_eq!(place.entries().last().unwrap()["kind"], "stop");
}

async fn what_was_open_at_the_end_is_unknown_once(place: Place) {
    let ledger = place.open();
    let open = intend(&*ledger, "1").await;
    let done = intend(&*ledger, "2").await;
    let (open_id, done_id) = (open.request_id(), done.request_id());
    conclude(&*ledger, done, End::Refused).await.unwrap();
    ledger.close().await;
    place.end_leases();
    for _ in 0..2 {
        let ledger = place.open();
        assert_eq!(
            (place.outcomes(open_id), place.outcomes(done_id)),
            (vec!["unknown".into()], vec!["refused".into()])
        );
        assert_eq!((place.of_kind("gap").len(), &place.of_kind("start")[1]["recovered"]), (0, &1.into()));
        ledger.close().await;
    }
    drop(open);
}

async fn unknown_outcomes_wait_in_turn_and_each_is_resolved_once(place: Place) {
    let ledger = place.open();
    for (group, end) in [("1", End::Deleted), ("2@g.us", End::Unknown), ("3", End::NotSent), ("4", End::Unknown)] {
        conclude(&*ledger, intend(&*ledger, group).await, end).await.unwrap();
    }
    let now = Timestamp::now;
    let first = ledger.unresolved(now()).await.unwrap();
    assert_eq!((first.target().path().as_str(), first.attempts()), ("/s1/groups/2@g.us/picture", 0));
    assert_eq!(ledger.unresolved(now().before(Duration::from_secs(60))).await, None, "it has not waited long enough");
    let later = now();
    ledger.postpone(first, later).await.unwrap();
    let second = ledger.unresolved(later).await.unwrap();
    assert_eq!(second.target().group.as_str(), "4");
    ledger.resolve(second, Resolution::Absent).await.unwrap();
    let [one, two, three] = [(); 3].map(|()| ledger.unresolved(now()));
    let (one, two, three) = (one.await.unwrap(), two.await.unwrap(), three.await.unwrap());
    assert_eq!((one.target().group.as_str(), one.attempts()), ("2@g.us", 1));
    let answers = [
        ledger.resolve(one, Resolution::Present),
        ledger.resolve(two, Resolution::Absent),
        ledger.postpone(three, now()),
    ];
    assert_eq!(futures_util::future::join_all(answers).await, [Ok(()); 3]);
    assert_eq!(ledger.unresolved(now()).await, None);
    ledger.close().await;
    let written = place.of_kind("resolution");
    assert_eq!(written.iter().map(|entry| &entry["resolution"]).collect::<Vec<_>>(), ["absent", "present"]);
}

async fn notes_are_kept_and_after_the_end_nothing_is_recorded(place: Place) {
    let ledger = place.open();
    assert!(ledger.note(Body::Policy { policy: "sha256:new".into() }));
    let recorded = intend(&*ledger, "1").await;
    ledger.close().await;
    assert_eq!(place.of_kind("policy")[0]["policy"], "sha256:new");
    assert!(matches!(ledger.intend(asked("c", "s1", "2")).await, Intended::Unavailable));
    assert_eq!(conclude(&*ledger, recorded, End::Deleted).await, Err(NotRecorded));
    assert_eq!((place.entries().len(), ledger.health()), (4, Health::Writable));
}

/// The rows of a query, as their groups and outcomes.
fn found(place: &Place, query: &Query) -> Vec<(String, String)> {
    let row = |row: Row| (row.group, row.outcome);
    let limit = if query.limit == 0 { 50 } else { query.limit };
    let page = place.read(|stored| stored.search(&Query { limit, ..query.clone() }).unwrap());
    page.rows.into_iter().map(row).collect()
}

async fn every_question_has_one_answer_before_and_after_the_search_data_are_there(place: Place) {
    let ledger = place.open();
    let ends = [("1", End::Deleted), ("2@g.us", End::Unknown), ("3", End::Refused), ("2", End::Deleted)];
    for (group, end) in ends {
        conclude(&*ledger, intend(&*ledger, group).await, end).await.unwrap();
    }
    let unknown = ledger.unresolved(Timestamp::now()).await.unwrap();
    let id = unknown.request_id();
    ledger.resolve(unknown, Resolution::Indeterminate).await.unwrap();
    let open = intend(&*ledger, "5").await;
    let of = |change: fn(&mut Query)| {
        let mut query = Query::default();
        change(&mut query);
        query
    };
    let questions = [
        (of(|_| {}), "5 open, 2 deleted, 3 refused, 2@g.us unknown, 1 deleted"),
        (of(|q| q.group = Some("2".into())), "2 deleted, 2@g.us unknown"),
        (of(|q| q.outcome = Some("deleted".into())), "2 deleted, 1 deleted"),
        (of(|q| q.outcome = Some("open".into())), "5 open"),
        (of(|q| q.open = true), "5 open, 2@g.us unknown"),
        (of(|q| (q.limit, q.caller) = (2, Some("c".into()))), "5 open, 2 deleted"),
        (of(|q| q.before = Some(5)), "2@g.us unknown, 1 deleted"),
        (of(|q| q.session = Some("s2".into())), ""),
        (of(|q| q.decision = Some("refused".into())), ""),
    ];
    let hold = |when: &str| {
        for (query, expected) in &questions {
            let rows: Vec<String> = found(&place, query).iter().map(|(group, end)| format!("{group} {end}")).collect();
            assert_eq!(rows.join(", "), *expected, "{when}: {query:?}");
        }
        let kinds = place.read(|stored| stored.request(&id.to_string()).unwrap()).len();
        let tallies = place.read(|stored| stored.stats(Span::default()).unwrap());
        let counts: Vec<[u64; 4]> = tallies.iter().map(|t| [t.deleted, t.unknown, t.refused, t.open]).collect();
        assert_eq!((kinds, counts), (3, vec![[2, 1, 1, 1]]), "{when}");
    };
    hold("while it runs");
    if place.config.postgres.is_some() {
        let uncovered = |stored: &Stored| stored.search(&Query { limit: 1, ..Query::default() }).unwrap().uncovered;
        eventually("the search data reach the end", || place.read(uncovered) == 0).await;
    }
    hold("with search data");
    drop(open);
    ledger.close().await;
    match place.config.postgres {
        Some(_) => block_in_place(|| postgres::reindex(&place.config, |_, _| {})).unwrap(),
        None => super::sqlite::reindex(&place.config.path, |_, _| {}).unwrap(),
    };
    assert_eq!(found(&place, &Query::default())[0], ("5".into(), "unknown".into()));
}

async fn what_is_committed_is_signed_and_proved_and_goes_on_after_a_restart(place: Place) {
    let mut kept: Option<(Vec<u8>, String)> = None;
    for round in 0..2 {
        let ledger = place.open();
        // More than one tile's worth, so that complete ones and partial ones are stored.
        let groups: Vec<String> = (1..=300).map(|group| group.to_string()).collect();
        let recorded = futures_util::future::join_all(groups.iter().map(|group| intend(&*ledger, group))).await;
        let ends = recorded.into_iter().map(|recorded| conclude(&*ledger, recorded, End::Deleted));
        assert!(futures_util::future::join_all(ends).await.iter().all(Result::is_ok));
        ledger.close().await;
        place.read(|stored| {
            let (key, note) = (stored.verifying_key().unwrap(), stored.checkpoint().unwrap().unwrap());
            let report = verify(stored, &key, &[], |_, _| {}).unwrap();
            assert_eq!(
                (report.uncovered(), report.open.len()),
                (0, 0),
                "round {round}: all of it is signed at the end"
            );
            let (seq, bytes) = stored.read(7, 8).unwrap().remove(0);
            let issued = receipt::issue(&bytes, seq, &note, &key, stored).unwrap();
            receipt::verify(&bytes, &issued, &key).unwrap();
            if let Some((bytes, receipt)) = kept.replace((bytes, issued)) {
                receipt::verify(&bytes, &receipt, &key).unwrap();
            }
        });
    }
}

use admitting::{
    a_budget_is_kept_by_many_at_once_and_gives_back_what_was_not_sent,
    a_budget_that_is_made_smaller_and_larger_again_finds_what_it_had_counted,
    a_freeze_ends_when_the_longest_of_its_kind_does_and_is_not_there_after_that,
    a_freeze_holds_from_its_entry_on_and_over_a_restart, a_key_replays_its_answer_and_survives_a_restart,
    of_one_target_in_any_spelling_one_intent_is_in_flight,
};
use kept::any_row_beside_the_entries_that_is_not_as_they_say_is_found;

/// Each test for each store.
macro_rules! conform {
    ($($test:ident),* $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Place::sqlite()).await;
            })*
        }
        mod postgresql {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                super::$test(super::Place::postgres()).await;
            })*
        }
    };
}

conform! {
    an_intent_and_its_outcome_stand_in_their_order_between_start_and_stop,
    many_at_once_are_one_row_of_entries_and_each_has_one_outcome,
    an_intent_that_nobody_waits_for_is_never_sent_and_a_lost_proof_is_unknown,
    what_nobody_waits_for_at_the_end_is_never_sent_and_not_unknown,
    what_was_open_at_the_end_is_unknown_once,
    unknown_outcomes_wait_in_turn_and_each_is_resolved_once,
    notes_are_kept_and_after_the_end_nothing_is_recorded,
    every_question_has_one_answer_before_and_after_the_search_data_are_there,
    what_is_committed_is_signed_and_proved_and_goes_on_after_a_restart,
    of_one_target_in_any_spelling_one_intent_is_in_flight,
    a_key_replays_its_answer_and_survives_a_restart,
    a_freeze_holds_from_its_entry_on_and_over_a_restart,
    a_freeze_ends_when_the_longest_of_its_kind_does_and_is_not_there_after_that,
    a_budget_is_kept_by_many_at_once_and_gives_back_what_was_not_sent,
    a_budget_that_is_made_smaller_and_larger_again_finds_what_it_had_counted,
    any_row_beside_the_entries_that_is_not_as_they_say_is_found,
}
