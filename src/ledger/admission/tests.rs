//! The order of the rules, and the budgets at the edges of their windows.

use super::*;
use crate::config::OnExhausted;
use crate::id::GroupId;
use crate::ledger::freeze::Covers;

pub(in crate::ledger) fn asked(caller: &str, session: &str, group: &str) -> Asked {
    let name = |text| CallerName::parse(text).unwrap();
    Asked::from(Intention {
        request_id: RequestId::new(),
        caller: name(caller),
        credential: name("t"),
        peer: [127, 0, 0, 1].into(),
        session: SessionId::parse(session).unwrap(),
        group: GroupId::parse(group).unwrap(),
        rule: "c.allow[0]".into(),
        policy: "sha256:x".into(),
        trace_id: None,
        caller_request_id: None,
    })
}

pub(in crate::ledger) fn budget(max: u32, per_s: u32, per: Per) -> Budget {
    Budget { max, per_s, per, on_exhausted: OnExhausted::Refuse }
}

fn question(group: &str) -> Question {
    Question::from(&asked("c", "s", group))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

#[test]
fn both_spellings_of_a_group_are_one_target_and_nothing_else_is() {
    let mark = |session, group| Question::from(&asked("c", session, group)).target;
    assert_eq!(mark("s", "1"), mark("s", "1@g.us"));
    let others = [mark("s", "1"), mark("s", "2"), mark("s1", "1"), mark("s", "11"), mark("s1", "2")];
    for (index, one) in others.iter().enumerate() {
        assert!(others.iter().skip(index + 1).all(|other| one != other), "{index}");
    }
}

#[test]
fn a_key_is_the_callers_own() {
    let key = |caller: &str, key: &str| {
        let key = IdempotencyKey::parse(key.as_bytes());
        Question::from(&Asked { key, ..asked(caller, "s", "1") }).key
    };
    assert_eq!(key("c", "k"), key("c", "\"k\""));
    assert_ne!(key("c", "k"), key("d", "k"));
    assert_ne!(key("c", "dk"), key("cd", "k"));
}

#[test]
fn a_freeze_is_heard_before_a_replay_and_a_replay_before_what_is_in_flight() {
    let freeze = Freeze { covers: Covers::All, until: None, reason: "stop".into(), by: "alice".into() };
    let asked = question("1");
    let answered = Answered { status: 200, confirmed: true, body: "{}".into(), retry_after_s: None };
    let kept =
        || Kept { target: asked.target, request_id: asked.request_id, standing: Standing::Answered(answered.clone()) };
    let known = Known { freeze: Some(&freeze), key: Some(kept()), in_flight: true, before: vec![] };
    assert_eq!(decide(&asked, known, at(0)), Decided::Decline(Declined::Frozen("stop".into())));
    let known = Known { key: Some(kept()), in_flight: true, ..Known::default() };
    let replay = Replay { request_id: asked.request_id, answered: Some(answered.clone()) };
    assert_eq!(decide(&asked, known, at(0)), Decided::Replay(replay));
    let known = Known { in_flight: true, ..Known::default() };
    assert_eq!(decide(&asked, known, at(0)), Decided::Decline(Declined::InFlight));
    assert_eq!(decide(&asked, Known::default(), at(0)), Decided::Admit);
}

#[test]
fn an_answer_of_before_reads_and_has_the_same_mark_as_ever() {
    let text = r#"{"status":429,"confirmed":false,"body":"{}"}"#;
    let answered: Answered = serde_json::from_str(text).unwrap();
    assert_eq!((answered.retry_after_s, serde_json::to_string(&answered).unwrap().as_str()), (None, text));
    let later = Answered { retry_after_s: Some(7), ..answered };
    assert_eq!(serde_json::from_str::<Answered>(&serde_json::to_string(&later).unwrap()).unwrap(), later);
}

#[test]
fn a_key_says_what_became_of_its_first_request() {
    let asked = question("1");
    let decide = |target, standing| {
        let key = Some(Kept { target, request_id: asked.request_id, standing });
        decide(&asked, Known { key, ..Known::default() }, at(0))
    };
    assert_eq!(decide(asked.target, Standing::InFlight), Decided::Decline(Declined::InFlight));
    let unknown = Replay { request_id: asked.request_id, answered: None };
    assert_eq!(decide(asked.target, Standing::Unknown), Decided::Replay(unknown));
    for standing in [Standing::InFlight, Standing::Unknown] {
        assert_eq!(decide(question("2").target, standing), Decided::Decline(Declined::KeyReused));
    }
}

#[test]
fn a_budget_counts_the_seconds_up_to_now_and_without_their_first_moment() {
    let budgets = [budget(3, 60, Per::Caller), budget(5, 600, Per::Session)];
    let asked = Question { budgets: budgets.into(), ..question("1") };
    let decide = |before: [Option<i64>; 2], now| {
        let before = before.map(|second| second.map(at)).to_vec();
        decide(&asked, Known { before, ..Known::default() }, now)
    };
    let exhausted = |budget, retry_after_s| Decided::Decline(Declined::BudgetExhausted { budget, retry_after_s });
    assert_eq!(decide([None, None], at(100)), Decided::Admit);
    assert_eq!(decide([Some(40), None], at(100)), Decided::Admit, "(40, 100] does not hold it");
    assert_eq!(decide([Some(41), None], at(100)), exhausted(budgets[0], 1));
    assert_eq!(decide([Some(100), None], at(100)), exhausted(budgets[0], 60));
    let almost = Timestamp::from_micros(at(100).as_micros() - 1);
    assert_eq!(decide([Some(40), None], almost), exhausted(budgets[0], 1), "whole seconds, rounded up");
    assert_eq!(decide([Some(1), Some(2)], at(100)), exhausted(budgets[1], 502));
    assert_eq!(decide([Some(100), Some(2)], at(100)), exhausted(budgets[1], 502), "both have to be free again");
}

#[test]
fn a_used_up_budget_that_freezes_does_so_whatever_else_is_used_up() {
    let freezing = Budget { on_exhausted: OnExhausted::Freeze, ..budget(3, 60, Per::Caller) };
    for budgets in [[freezing, budget(3, 3600, Per::Caller)], [budget(3, 3600, Per::Caller), freezing]] {
        let asked = Question { budgets: budgets.into(), ..question("1") };
        let decide = |before: [i64; 2]| {
            decide(
                &asked,
                Known { before: before.map(|second| Some(at(second))).to_vec(), ..Known::default() },
                at(100),
            )
        };
        let Decided::Decline(Declined::BudgetExhausted { budget, .. }) = decide([90, 90]) else { panic!() };
        assert_eq!(budget, freezing);
        let Decided::Decline(Declined::BudgetExhausted { budget, .. }) = decide([30, 30]) else { panic!() };
        assert_ne!(budget, freezing, "it is free again");
    }
}
