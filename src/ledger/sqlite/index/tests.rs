//! Whatever was recorded, whatever is asked and whatever happened to the search data: the answer is that of a
//! naive reading of all entries.

mod pruned;

use super::Index;
use crate::clock::Timestamp;
use crate::ledger::glance::Glance;
use crate::ledger::search::{Query, Row};
use crate::ledger::sqlite::follower::{Follow, Forgot};
use crate::ledger::sqlite::{SqliteReader, database};
use crate::ledger::stats::{Span, Sum};
use crate::ledger::{OpenError, ProofReader, Reader};
use proptest::prelude::*;
use proptest::sample::{Index as Pick, select};
use serde_json::{Value, json};
use std::path::Path;

const WIDTH: u64 = 16;

#[derive(Debug, Clone)]
enum Event {
    Intent(u8, u8, u8),
    Outcome(Pick, &'static str),
    Resolution(Pick, &'static str),
    Refusal(Option<u8>, u8),
    DryRun(u8, u8),
    Suppressed(u8, u64),
    Start,
}

fn event() -> impl Strategy<Value = Event> {
    let outcome = || select(vec!["deleted", "refused", "not-sent", "unknown", "unknown"]);
    let resolution = || select(vec!["absent", "present", "indeterminate"]);
    prop_oneof![
        8 => (0..3u8, 0..2u8, 0..5u8).prop_map(|(c, s, g)| Event::Intent(c, s, g)),
        7 => (any::<Pick>(), outcome()).prop_map(|(at, end)| Event::Outcome(at, end)),
        2 => (any::<Pick>(), resolution()).prop_map(|(at, what)| Event::Resolution(at, what)),
        2 => (proptest::option::of(0..3u8), 0..5u8).prop_map(|(c, g)| Event::Refusal(c, g)),
        1 => (0..3u8, 0..5u8).prop_map(|(c, g)| Event::DryRun(c, g)),
        1 => (0..3u8, 1..9u64).prop_map(|(c, n)| Event::Suppressed(c, n)),
        1 => Just(Event::Start),
    ]
}

/// The entries of these events, each some seconds after the one before.
fn log(events: &[(Event, u32)]) -> Vec<Value> {
    let (mut micros, mut open, mut unknown) = (1_794_000_000_000_000_i64, Vec::new(), Vec::new());
    let mut entries = Vec::new();
    for (seq, (event, later)) in events.iter().enumerate() {
        micros += i64::from(*later) * 250_000;
        let id = format!("id{seq}");
        let group = |g: &u8| if g.is_multiple_of(2) { format!("g{}", g / 2) } else { format!("g{}@g.us", g / 2) };
        let mut entry = match event {
            Event::Intent(c, s, g) => {
                open.push(id.clone());
                json!({"kind": "intent", "request_id": id, "caller": format!("c{c}"), "session": format!("s{s}"), "group": group(g), "rule": "r"})
            }
            Event::Outcome(at, end) if !open.is_empty() => {
                let id = open.remove(at.index(open.len()));
                if *end == "unknown" {
                    unknown.push(id.clone());
                }
                json!({"kind": "outcome", "request_id": id, "outcome": end, "code": "x", "status": 200})
            }
            Event::Resolution(at, what) if !unknown.is_empty() => {
                json!({"kind": "resolution", "request_id": unknown[at.index(unknown.len())], "resolution": what})
            }
            Event::Refusal(c, g) => {
                json!({"kind": "refusal", "request_id": id, "caller": c.map(|c| format!("c{c}")), "status": 403, "code": "not-allowed", "session": "s0", "group": group(g)})
            }
            Event::DryRun(c, g) => {
                json!({"kind": "dry-run", "request_id": id, "caller": format!("c{c}"), "session": "s1", "group": group(g), "rule": "r"})
            }
            Event::Suppressed(c, n) => {
                json!({"kind": "refusals-suppressed", "caller": format!("c{c}"), "count": n + 1, "codes": {"not-allowed": n, "dry-run": 1}})
            }
            Event::Outcome(..) | Event::Resolution(..) | Event::Start => json!({"kind": "start"}),
        };
        entry["seq"] = json!(seq);
        entry["time"] = json!(Timestamp::from_micros(micros).to_string());
        entries.push(entry);
    }
    entries
}

fn word(entry: &Value, member: &str) -> String {
    entry[member].as_str().unwrap_or_default().to_owned()
}

/// Every request's row, ascending.
fn all_rows(entries: &[Value]) -> Vec<Row> {
    let first = entries.iter().filter(|entry| matches!(&*word(entry, "kind"), "intent" | "refusal" | "dry-run"));
    first
        .map(|entry| {
            let of = |kind| entries.iter().filter(move |e| e["kind"] == kind && e["request_id"] == entry["request_id"]);
            let (decision, told) = match &*word(entry, "kind") {
                "intent" => ("allowed", of("outcome").next().cloned().unwrap_or(json!({"outcome": "open"}))),
                "refusal" => {
                    ("refused", json!({"outcome": "refused-here", "status": entry["status"], "code": entry["code"]}))
                }
                _ => ("dry-run", json!({"outcome": "dry-run"})),
            };
            Row {
                seq: entry["seq"].as_u64().unwrap(),
                time: word(entry, "time"),
                request_id: word(entry, "request_id"),
                caller: word(entry, "caller"),
                session: word(entry, "session"),
                group: word(entry, "group"),
                decision: decision.into(),
                outcome: word(&told, "outcome"),
                resolution: of("resolution").next_back().map(|e| word(e, "resolution")).unwrap_or_default(),
                status: told["status"].as_u64(),
                code: word(&told, "code"),
                rule: word(entry, "rule"),
            }
        })
        .collect()
}

fn naive(entries: &[Value], query: &Query) -> Vec<Row> {
    let same = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|wanted| wanted == is);
    let settled = |row: &Row| {
        !(row.outcome == "open" || row.outcome == "unknown" && !["absent", "present"].contains(&&*row.resolution))
    };
    let fits = |row: &Row| {
        let time = Timestamp::parse(&row.time).unwrap();
        same(&query.caller, &row.caller)
            && same(&query.session, &row.session)
            && same(&query.group.as_ref().map(|g| g.replace("@g.us", "")), &row.group.replace("@g.us", ""))
            && same(&query.request_id, &row.request_id)
            && same(&query.outcome, &row.outcome)
            && same(&query.decision, &row.decision)
            && !(query.open && settled(row))
            && query.since.is_none_or(|since| time >= since)
            && query.until.is_none_or(|until| time < until)
            && query.before.is_none_or(|before| row.seq < before)
    };
    all_rows(entries).into_iter().rev().filter(fits).take(query.limit).collect()
}

prop_compose! {
    fn query()(
        caller in proptest::option::weighted(0.3, 0..4u8),
        session in proptest::option::weighted(0.2, 0..3u8),
        group in proptest::option::weighted(0.3, 0..4u8),
        request_id in proptest::option::weighted(0.1, 0..200u32),
        outcome in proptest::option::weighted(0.4, select(vec!["deleted", "refused", "not-sent", "unknown", "open", "refused-here", "dry-run"])),
        decision in proptest::option::weighted(0.2, select(vec!["allowed", "refused", "dry-run"])),
        open in proptest::bool::weighted(0.3),
        since in proptest::option::weighted(0.2, 0..2_000i64),
        until in proptest::option::weighted(0.2, 0..2_000i64),
        before in proptest::option::weighted(0.3, 0..250u64),
        limit in 0..60usize,
    ) -> Query {
        let time = |quarters: i64| Timestamp::from_micros(1_794_000_000_000_000 + quarters * 250_000);
        Query {
            caller: caller.map(|c| format!("c{c}")),
            session: session.map(|s| format!("s{s}")),
            group: group.map(|g| format!("g{}{}", g / 2, if g.is_multiple_of(2) { "" } else { "@g.us" })),
            request_id: request_id.map(|id| format!("id{id}")),
            outcome: outcome.map(str::to_owned),
            decision: decision.map(str::to_owned),
            open,
            since: since.map(time),
            until: until.map(time),
            before,
            limit,
        }
    }
}

/// What happens to the search data between two runs of the follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Harm {
    None,
    Deleted,
    Torn,
    Foreign,
}

fn record(folder: &Path, from: usize, entries: &[Value]) {
    let db = database::open_to_write(folder).unwrap();
    database::begin(&db).unwrap();
    for (seq, entry) in (from as u64..).zip(&entries[from..]) {
        database::Statements::new(&db).unwrap().append(seq, entry.to_string().as_bytes()).unwrap();
    }
    database::commit(&db).unwrap();
}

/// A run of the follower up to `until`, in batches.
fn follow(folder: &Path, entries: &[Value], batch: usize) -> Result<(), OpenError> {
    let mut index = Index::with_width(folder, WIDTH);
    index.rest(true)?;
    while index.next() < entries.len() as u64 {
        let first = index.next();
        let rest = entries[usize::try_from(first).unwrap()..].chunks(batch).next().unwrap();
        let bytes: Vec<Vec<u8>> = rest.iter().map(|entry| entry.to_string().into_bytes()).collect();
        index.take(first, &bytes)?;
    }
    Ok(())
}

fn harm(folder: &Path, harm: Harm) {
    let file = folder.join("search.db");
    match harm {
        Harm::None => {}
        Harm::Deleted => std::fs::remove_file(file).unwrap(),
        Harm::Torn => std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(5_000).unwrap(),
        Harm::Foreign => {
            let other = tempfile::tempdir().unwrap();
            let entries: Vec<Value> = (0..40).map(|seq| json!({"seq": seq, "time": "", "kind": "other"})).collect();
            record(other.path(), 0, &entries);
            follow(other.path(), &entries, 7).unwrap();
            std::fs::copy(other.path().join("search.db"), file).unwrap();
        }
    }
}

fn check(folder: &Path, entries: &[Value], queries: &[Query]) -> Result<(), TestCaseError> {
    let ledger = SqliteReader::open(folder).unwrap();
    for query in queries {
        let page = ledger.search(query).unwrap();
        prop_assert_eq!(&page.rows, &naive(entries, query), "{:?}", query);
        prop_assert_eq!(page.next.is_some(), query.limit > 0 && page.rows.len() == query.limit);
    }
    for entry in entries.iter().rev().step_by(7).filter(|entry| !entry["request_id"].is_null()) {
        let of_it = entries.iter().filter(|e| e["request_id"] == entry["request_id"]);
        let found = ledger.request(entry["request_id"].as_str().unwrap()).unwrap();
        let found: Vec<Value> = found.iter().map(|(_, bytes)| serde_json::from_slice(bytes).unwrap()).collect();
        prop_assert_eq!(found.iter().collect::<Vec<_>>(), of_it.collect::<Vec<_>>());
    }
    let mut sum = Sum::default();
    let day = |time: &str| Timestamp::parse(time).unwrap().as_micros().div_euclid(86_400_000_000);
    for row in all_rows(entries) {
        sum.add(day(&row.time), &row.caller, &row.outcome, 1);
    }
    for entry in entries.iter().filter(|entry| entry["kind"] == "refusals-suppressed") {
        let (day, caller) = (day(&word(entry, "time")), word(entry, "caller"));
        sum.add(day, &caller, "refused-here", entry["count"].as_u64().unwrap() - 1);
        sum.add(day, &caller, "dry-run", 1);
    }
    prop_assert_eq!(ledger.stats(Span::default()).unwrap(), sum.of((i64::MIN, i64::MAX)));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, ..ProptestConfig::default() })]

    #[test]
    fn the_indexed_answer_is_that_of_reading_everything(
        events in proptest::collection::vec((event(), prop_oneof![9 => 0..12u32, 1 => 100_000..400_000u32]), 1..220),
        stops in proptest::collection::vec(
            (any::<Pick>(), 1..40usize, prop_oneof![3 => Just(Harm::None), 1 => select(vec![Harm::Deleted, Harm::Torn, Harm::Foreign])]),
            1..4,
        ),
        queries in proptest::collection::vec(query(), 12),
    ) {
        let (folder, entries) = (tempfile::tempdir().unwrap(), log(&events));
        let mut stops: Vec<_> = stops.into_iter().map(|(at, batch, what)| (at.index(entries.len()), batch, what)).collect();
        stops.sort_by_key(|(at, _, _)| *at);
        let mut recorded = 0;
        for (at, batch, what) in stops {
            record(folder.path(), recorded, &entries[..at]);
            recorded = at;
            follow(folder.path(), &entries[..at], batch).unwrap();
            check(folder.path(), &entries[..at], &queries)?;
            harm(folder.path(), what);
            check(folder.path(), &entries[..at], &queries)?;
        }
        // The rest is in the ledger before the follower has seen it.
        record(folder.path(), recorded, &entries);
        check(folder.path(), &entries, &queries)?;
        follow(folder.path(), &entries, 9).unwrap();
        check(folder.path(), &entries, &queries)?;
        crate::ledger::sqlite::reindex(folder.path(), |_, _| {}).unwrap();
        check(folder.path(), &entries, &queries)?;
    }
}

/// Every kind of a changed row, `?1` being which one; and the tables and their rows that each changes.
const CHANGES: [&str; 17] = [
    "DELETE FROM posting WHERE (segment, term) = (SELECT segment, term FROM posting LIMIT 1 OFFSET ?1)",
    "UPDATE OR IGNORE posting SET term = term + 1 WHERE (segment, term) = (SELECT segment, term FROM posting LIMIT 1 OFFSET ?1)",
    "UPDATE OR IGNORE posting SET segment = segment + 1 WHERE (segment, term) = (SELECT segment, term FROM posting LIMIT 1 OFFSET ?1)",
    "UPDATE posting SET seqs = CAST(seqs || x'0f00' AS BLOB) WHERE (segment, term) = (SELECT segment, term FROM posting LIMIT 1 OFFSET ?1)",
    "UPDATE posting SET seqs = CAST(seqs || x'00' AS BLOB) WHERE (segment, term) = (SELECT segment, term FROM posting LIMIT 1 OFFSET ?1)",
    "UPDATE posting SET seqs = x'' WHERE (segment, term) = (SELECT segment, term FROM posting LIMIT 1 OFFSET ?1)",
    "DELETE FROM ending WHERE seq = (SELECT seq FROM ending LIMIT 1 OFFSET ?1)",
    "UPDATE ending SET outcome = outcome + 1 WHERE seq = (SELECT seq FROM ending LIMIT 1 OFFSET ?1)",
    "UPDATE ending SET resolution = coalesce(resolution, 0) + 1 WHERE seq = (SELECT seq FROM ending LIMIT 1 OFFSET ?1)",
    "DELETE FROM open WHERE seq = (SELECT seq FROM open LIMIT 1 OFFSET ?1)",
    "UPDATE open SET caller = caller || 'x' WHERE seq = (SELECT seq FROM open LIMIT 1 OFFSET ?1)",
    "UPDATE open SET day = day - 1 WHERE seq = (SELECT seq FROM open LIMIT 1 OFFSET ?1)",
    "DELETE FROM unknown WHERE request_id = (SELECT request_id FROM unknown LIMIT 1 OFFSET ?1)",
    "UPDATE unknown SET seq = seq + 1 WHERE request_id = (SELECT request_id FROM unknown LIMIT 1 OFFSET ?1)",
    "DELETE FROM unsettled WHERE seq = (SELECT seq FROM unsettled LIMIT 1 OFFSET ?1)",
    "INSERT OR IGNORE INTO unsettled VALUES (?1)",
    "UPDATE day SET count = count + 1 WHERE (day, caller, outcome) = (SELECT day, caller, outcome FROM day LIMIT 1 OFFSET ?1)",
];

/// Holds the search data against the entries; how many they cover.
fn compared(ledger: &SqliteReader, entries: std::ops::Range<u64>) -> Result<Option<u64>, OpenError> {
    let Some(mut data) = ledger.search_data()? else { return Ok(None) };
    for (seq, bytes) in ledger.read(entries.start, entries.end)? {
        data.see(seq, &Glance::at(seq, &bytes)?)?;
    }
    data.done().map(Some)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn search_data_are_found_to_say_what_the_entries_say_and_any_changed_row_is_found(
        events in proptest::collection::vec((event(), 0..12u32), 40..220),
        batch in 1..40_usize,
        at in proptest::collection::vec(0..60u32, CHANGES.len()),
    ) {
        let (folder, entries) = (tempfile::tempdir().unwrap(), log(&events));
        record(folder.path(), 0, &entries);
        follow(folder.path(), &entries, batch).unwrap();
        let ledger = SqliteReader::open(folder.path()).unwrap();
        let compare = || compared(&ledger, 0..entries.len() as u64).map_err(|e| e.to_string());
        prop_assert_eq!(compare(), Ok(Some(entries.len() as u64 / WIDTH * WIDTH)));
        let file = folder.path().join("search.db");
        let whole = std::fs::read(&file).unwrap();
        for (change, at) in CHANGES.iter().zip(at) {
            let db = rusqlite::Connection::open(&file).unwrap();
            let changed = db.execute(change, [at]).unwrap();
            drop(db);
            let said = compare();
            let found = said.as_ref().is_err_and(|words| words.contains("do not say what the entries say"));
            prop_assert_eq!(found, changed > 0, "{} at {}: {:?}", change, at, said);
            std::fs::write(&file, &whole).unwrap();
        }
        let db = rusqlite::Connection::open(&file).unwrap();
        db.execute_batch("CREATE TRIGGER t AFTER INSERT ON posting BEGIN DELETE FROM open; END").unwrap();
        drop(db);
        prop_assert!(compare().unwrap_err().contains("a trigger that no ledger has, `t`"));
        std::fs::remove_file(&file).unwrap();
        prop_assert_eq!(compare(), Ok(None));
    }
}

#[test]
fn search_data_that_are_ahead_of_the_ledger_are_built_anew() {
    let (folder, shorter) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entries: Vec<Value> = log(&vec![(Event::Intent(1, 1, 1), 1); 64]);
    record(folder.path(), 0, &entries);
    follow(folder.path(), &entries, 64).unwrap();
    record(shorter.path(), 0, &entries[..40]);
    std::fs::copy(folder.path().join("search.db"), shorter.path().join("search.db")).unwrap();
    let ledger = SqliteReader::open(shorter.path()).unwrap();
    let everything = Query { limit: 100, ..Query::default() };
    let page = ledger.search(&everything).unwrap();
    assert_eq!((page.rows.len(), page.uncovered), (40, 40));
    follow(shorter.path(), &entries[..40], 64).unwrap();
    let page = ledger.search(&everything).unwrap();
    assert_eq!((page.rows.len(), page.uncovered), (40, 8), "whole segments are covered");
}
