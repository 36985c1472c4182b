//! Keys, counters and freezes where the entries do not tell all of them: what is a day old, what was pruned, the log
//! before this one, intents of an earlier version, and stores that give back at the end of a transaction.

use super::*;
use crate::clock::Timestamp;
use crate::ledger::admission::Mark;
use crate::ledger::freeze::{Covers, Freeze};

const START_S: i64 = 1_790_000_000;

fn micros(second: i64) -> i64 {
    (START_S + second) * 1_000_000
}

fn id(n: u128) -> RequestId {
    RequestId::parse(&format!("{n:032x}")).unwrap()
}

/// An intent of caller `c` for the group of its number; `more` are the members that say what was kept of it.
fn intent(n: u128, more: &str) -> String {
    format!(r#""kind":"intent","request_id":"{}","caller":"c","session":"s","group":"{n}@g.us"{more}"#, id(n))
}

fn outcome(n: u128, end: &str) -> String {
    format!(r#""kind":"outcome","request_id":"{}","outcome":"{end}""#, id(n))
}

fn keyed(n: u128, key: &str) -> String {
    intent(n, &format!(r#","key":"{}","budgets":{{}}"#, Mark::of_key("c", key)))
}

fn counted(n: u128, most: u32) -> String {
    intent(n, &format!(r#","budgets":{{"caller":{most}}}"#))
}

fn key_row(n: u128, key: &str, seq: i64, second: i64) -> KeyRow {
    let target = Mark::of_target("s", &n.to_string());
    let (key, request_id) = (Mark::of_key("c", key), id(n).to_string());
    KeyRow { key, since_us: micros(second), seq, target, request_id, answered: None }
}

/// Rows of caller `c`, by ordinal, number and second.
fn spent(rows: &[(i64, i64, i64)]) -> Vec<SpentRow> {
    let counter = Mark::of_counter("c", None);
    let row = |(ordinal, seq, second): &(i64, i64, i64)| (*ordinal, *seq, micros(*second));
    rows.iter().map(row).map(|(ordinal, seq, time_us)| SpentRow { counter, ordinal, time_us, seq }).collect()
}

/// A log of entries, each with its second, and what is kept beside it.
fn log(bodies: &[(i64, String)], tables: Tables) -> Log {
    let line = |(seq, (second, body)): (u64, &(i64, String))| {
        let time = Timestamp::from_micros(micros(*second));
        (seq, format!(r#"{{"v":1,"seq":{seq},"time":"{time}",{body}}}"#).into_bytes())
    };
    let mut log = Log::signed((0..).zip(bodies).map(line).collect(), bodies.len() as u64, &key(7));
    log.standing.tables = tables;
    log
}

fn beyond(log: &Log) -> u64 {
    log.verify(None).expect("nothing is bad").beyond.expect("it is compared")
}

#[test]
fn a_key_may_be_forgotten_once_it_is_a_day_old_and_not_before() {
    const DAY: i64 = 86_400;
    let kept = |end: i64, rows: Vec<KeyRow>| {
        let bodies = [(0, keyed(1, "k")), (1, outcome(1, "unknown")), (end, "\"kind\":\"stop\"".to_owned())];
        let ages = Some(rows.iter().map(|row| (row.since_us, row.key)).collect());
        log(&bodies, Tables { keys: rows, ages, ..Tables::default() })
    };
    let row = key_row(1, "k", 0, 0);
    for end in [DAY - 1, DAY, DAY + 1] {
        assert_eq!(beyond(&kept(end, vec![row.clone()])), 0, "{end}: it may be there");
    }
    assert_eq!(beyond(&kept(DAY, Vec::new())), 0, "it may be forgotten");
    assert!(kept(DAY - 1, Vec::new()).fault(None).contains("entry 0 brought a key less than a day before"));
    // As old as it is, it has to be right.
    let wrong = KeyRow { target: Mark::of_target("s", "2"), ..row.clone() };
    assert!(kept(DAY + 1, vec![wrong]).fault(None).contains("the key of entry 0 is listed otherwise"));
    let mut unlisted = kept(DAY - 1, vec![row.clone()]);
    unlisted.standing.tables.ages = Some(Vec::new());
    assert!(unlisted.fault(None).contains("is not listed among those that will be forgotten"));
    unlisted.standing.tables.ages = None;
    assert_eq!(beyond(&unlisted), 0, "a store without such a list");
}

#[test]
fn a_key_that_was_used_again_or_given_back_is_its_newest_intents_or_nobodys() {
    let bodies = [
        (0, keyed(1, "k")),
        (1, outcome(1, "not-sent")),
        (2, keyed(2, "k")),
        (3, outcome(2, "deleted")),
        (4, keyed(3, "j")),
        (5, outcome(3, "not-sent")),
    ];
    let said =
        |keys: Vec<KeyRow>| log(&bodies, Tables { keys, ..Tables::default() }).verify(None).map(|report| report.beyond);
    let newest = key_row(2, "k", 2, 2);
    assert_eq!(said(vec![newest.clone()]).unwrap(), Some(0));
    let fault = |keys| said(keys).unwrap_err().to_string();
    assert!(fault(vec![key_row(1, "k", 0, 0)]).contains("for entry 0, but entry 2 has used it since"));
    assert!(fault(vec![newest.clone(), key_row(3, "j", 4, 4)]).contains("for entry 4, which gave it back"));
    assert!(fault(vec![newest.clone(), key_row(2, "x", 2, 2)]).contains("for entry 2, which is no intent"));
    let answered = Some(Mark::of_answer("{}"));
    assert!(fault(vec![KeyRow { answered, ..newest }]).contains("is not the one of its outcome, entry 3"));
}

#[test]
fn intents_of_an_earlier_version_may_be_listed_and_need_not_be() {
    let bodies = [(0, intent(1, "")), (1, outcome(1, "deleted")), (2, intent(2, "")), (3, outcome(2, "not-sent"))];
    let of = |keys: Vec<KeyRow>, rows: &[(i64, i64, i64)]| {
        log(&bodies, Tables { keys, spent: spent(rows), ages: None, in_log_order: true })
    };
    assert_eq!(beyond(&of(Vec::new(), &[])), 0);
    assert_eq!(beyond(&of(vec![key_row(1, "k", 0, 0)], &[(4, 0, 0)])), 2);
    let fault = |keys, rows| of(keys, rows).fault(None);
    assert!(fault(vec![key_row(1, "k", 0, 1)], &[]).contains("the key of entry 0 is listed otherwise"));
    assert!(fault(vec![key_row(2, "k", 2, 2)], &[]).contains("entry 2, which gave it back"));
    assert!(fault(vec![key_row(2, "k", 1, 1)], &[]).contains("entry 1, which is no intent"));
    assert!(fault(Vec::new(), &[(1, 0, 1)]).contains("entry 0 is listed as counted by a budget, which does not"));
    assert!(fault(Vec::new(), &[(1, 2, 2)]).contains("entry 2 is listed as counted by a budget, which does not"));
    // What comes after it is held to all it says.
    let mut after = bodies.to_vec();
    after.extend([(4, counted(3, 2)), (5, outcome(3, "deleted")), (6, counted(4, 2)), (7, outcome(4, "deleted"))]);
    let of = |rows: &[(i64, i64, i64)]| {
        log(&after, Tables { spent: spent(rows), in_log_order: true, ..Tables::default() })
            .verify(None)
            .map(|report| report.beyond)
    };
    assert_eq!(of(&[(2, 4, 4), (3, 6, 6)]).unwrap(), Some(0));
    assert_eq!(of(&[(1, 0, 0), (2, 4, 4), (3, 6, 6)]).unwrap(), Some(1));
    assert!(of(&[(3, 6, 6)]).unwrap_err().to_string().contains("entry 4 is counted by a budget, but is not listed"));
}

#[test]
fn a_counter_remembers_the_newest_and_what_is_given_back_moves_the_others_up() {
    let bodies: Vec<(i64, String)> = (0..4)
        .flat_map(|n| {
            let end = if n == 1 { "not-sent" } else { "deleted" };
            [(2 * i64::try_from(n).unwrap(), counted(n, 2)), (2 * i64::try_from(n).unwrap() + 1, outcome(n, end))]
        })
        .collect();
    let said = |rows: &[(i64, i64, i64)]| {
        let tables = Tables { spent: spent(rows), in_log_order: true, ..Tables::default() };
        log(&bodies, tables).verify(None).map(drop).map_err(|error| error.to_string())
    };
    // Intents at 0, 4 and 6; the one at 2 gave back.
    assert_eq!(said(&[(2, 4, 4), (3, 6, 6)]), Ok(()));
    for (rows, words) in [
        (&[(1, 4, 4), (2, 6, 6)][..], "in another place"),
        (&[(1, 0, 0), (2, 4, 4), (3, 6, 6)], "entry 0 is listed as counted by a budget"),
        (&[(2, 4, 4), (3, 6, 5)], "entry 6 is listed as counted by a budget, but with another time"),
        (&[(3, 6, 6)], "entry 4 is counted by a budget, but is not listed"),
        (&[(2, 4, 4)], "is listed as counted by a budget, where it is entry 6"),
        (&[(2, 2, 2), (3, 6, 6)], "entry 2 is listed as counted by a budget, where it is entry 4"),
        (&[(1, 4, 4), (3, 6, 6)], "in another place"),
        (&[], "entry 4 is counted by a budget, but is not listed"),
    ] {
        let said = said(rows).unwrap_err();
        assert!(said.contains(words), "{rows:?}: {said}");
    }
}

#[test]
fn a_store_that_gives_back_at_the_end_of_its_transaction_may_have_forgotten_more() {
    // One transaction: what the first one took is given back, and another one is counted.
    let bodies = [(0, counted(0, 2)), (1, counted(1, 2)), (2, outcome(1, "not-sent")), (2, counted(2, 2))];
    let said = |in_log_order: bool, rows: &[(i64, i64, i64)]| {
        let log = log(&bodies, Tables { spent: spent(rows), in_log_order, ..Tables::default() });
        log.verify(None).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(said(true, &[(1, 0, 0), (2, 3, 2)]), Ok(()));
    assert!(said(true, &[(2, 3, 2)]).is_err());
    assert_eq!(said(false, &[(1, 0, 0), (2, 3, 2)]), Ok(()), "two transactions of the same time");
    assert_eq!(said(false, &[(2, 3, 2)]), Ok(()));
    assert!(said(false, &[]).is_err());
    assert!(said(false, &[(1, 0, 0)]).is_err());
}

fn freeze(covers: Covers) -> Freeze {
    Freeze { covers, until: None, reason: "r".to_owned(), by: "b".to_owned() }
}

#[test]
fn what_was_taken_over_from_the_log_before_is_let_pass_as_far_as_it_can_be_from_there() {
    let gap = |freezes: &str| format!(r#""kind":"gap","reason":"r","previous":{{"carried":0{freezes}}}"#);
    let of = |freezes: &str, since: i64| {
        let bodies = [(9, gap(freezes)), (10, counted(1, 5)), (11, outcome(1, "deleted"))];
        let keys = vec![key_row(1, "k", -1, since)];
        let spent = spent(&[(3, -1, since), (4, -1, since), (5, 1, 10)]);
        log(&bodies, Tables { keys, spent, ages: None, in_log_order: true })
    };
    assert_eq!(beyond(&of(r#","freezes":0"#, 9)), 3);
    assert!(of(r#","freezes":0"#, 10).fault(None).contains("for entry -1, which is no intent that brought it"));
    // A version before this one took freezes over without a word.
    let mut frozen = of("", 9);
    frozen.standing.freezes = vec![freeze(Covers::All)];
    assert_eq!(beyond(&frozen), 4);
    let mut frozen = of(r#","freezes":0"#, 9);
    frozen.standing.freezes = vec![freeze(Covers::All)];
    assert!(frozen.fault(None).contains("a freeze of everything is listed, but no entry says"));
}

#[test]
fn freezes_are_exactly_those_that_entries_say() {
    let covers = r#""covers":"caller","caller":"c""#;
    let bodies = [
        (0, r#""kind":"freeze","covers":"all","reason":"r","by":"b""#.to_owned()),
        (1, format!(r#""kind":"freeze",{covers},"reason":"r","by":"b""#)),
        (2, format!(r#""kind":"unfreeze",{covers},"reason":"r","by":"b""#)),
    ];
    let said = |freezes: Vec<Freeze>| {
        let mut log = log(&bodies, Tables::default());
        log.standing.freezes = freezes;
        log.verify(None).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(said(vec![freeze(Covers::All)]), Ok(()));
    let caller = freeze(Covers::Caller { caller: crate::id::CallerName::parse("c").unwrap() });
    for (freezes, words) in [
        (vec![], "entry 0 says that everything is frozen, but that freeze is not listed"),
        (vec![freeze(Covers::All), caller], "a freeze of caller c is listed, but entry 2 takes it back"),
        (vec![Freeze { by: "x".to_owned(), ..freeze(Covers::All) }], "otherwise than entry 0 says it"),
        (vec![freeze(Covers::All), freeze(Covers::All)], "listed twice"),
    ] {
        let said = said(freezes).unwrap_err();
        assert!(said.contains(words), "{said}");
    }
}
