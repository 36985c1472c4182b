//! What a store keeps beside the entries to decide about intents: whatever is changed there, `verify` finds it.

use super::{Place, admitted, conclude, conclude_with};
use crate::config::{Budget, Per};
use crate::id::{CallerName, IdempotencyKey, SessionId};
use crate::ledger::admission::tests::{asked, budget};
use crate::ledger::admission::{Answered, Asked, Declined};
use crate::ledger::entry::End;
use crate::ledger::freeze::{Covers, Freeze};
use crate::ledger::stored::Stored;
use crate::ledger::verify::verify;
use crate::ledger::{Intended, Ledger, OpenError, ProofReader};
use rusqlite::Connection;
use std::time::Duration;

/// A table, what tells its rows apart, and changes of one row of it, `@`.
type Edits = (&'static str, &'static str, &'static [&'static str]);

/// Of both stores alike. `BLOB` is 16 bytes that nothing is kept under.
const EDITS: [Edits; 2] = [
    (
        "idempotency",
        "key",
        &[
            "UPDATE @ SET key = BLOB",
            "UPDATE @ SET since_us = since_us + 1",
            "UPDATE @ SET since_us = since_us - 90000000000",
            "UPDATE @ SET seq = seq + 1",
            "UPDATE @ SET seq = -1",
            "UPDATE @ SET target = BLOB",
            "UPDATE @ SET request_id = '00000000-0000-0000-0000-000000000001'",
            "UPDATE @ SET answered = coalesce(answered, '') || ' '",
            "UPDATE @ SET answered = CASE WHEN answered IS NULL THEN '{}' END",
            "DELETE FROM @",
        ],
    ),
    (
        "spent",
        "(counter, ordinal)",
        &[
            "UPDATE @ SET counter = BLOB",
            "UPDATE @ SET ordinal = ordinal + 100",
            "UPDATE @ SET ordinal = ordinal - 100",
            "UPDATE @ SET time_us = time_us + 1",
            "UPDATE @ SET time_us = time_us - 90000000000",
            "UPDATE @ SET seq = seq + 1",
            "UPDATE @ SET seq = -1",
            "DELETE FROM @",
        ],
    ),
];
const SQLITE: [Edits; 2] = [
    (
        "freeze",
        "covers",
        &[
            "UPDATE @ SET covers = 'caller z'",
            "UPDATE @ SET freeze = replace(freeze, 'alice', 'bob')",
            "UPDATE @ SET freeze = replace(freeze, '}', ',\"until\":\"2026-01-01T00:00:00.000000Z\"}')",
            "UPDATE @ SET freeze = freeze || ' '",
            "DELETE FROM @",
        ],
    ),
    (
        "idempotency_age",
        "(since_us, key)",
        &["UPDATE @ SET since_us = since_us + 1", "UPDATE @ SET key = BLOB", "DELETE FROM @"],
    ),
];
const POSTGRES: [Edits; 1] = [(
    "frozen",
    "place",
    &[
        "UPDATE @ SET place = place + 100",
        "UPDATE @ SET body = replace(body, 'alice', 'bob')",
        "UPDATE @ SET body = replace(body, '}', ',\"until\":\"2026-01-01T00:00:00.000000Z\"}')",
        "UPDATE @ SET body = body || ' '",
        "DELETE FROM @",
    ],
)];
/// Rows that somebody adds; `@` is the schema.
const ADDED: [&str; 3] = [
    "INSERT INTO @idempotency (key, since_us, seq, target, request_id) VALUES (BLOB, 1, 3, BLOB, 'x')",
    "INSERT INTO @idempotency (key, since_us, seq, target, request_id)
        SELECT BLOB, since_us, seq, target, request_id FROM @idempotency ORDER BY seq LIMIT 1",
    "INSERT INTO @spent (counter, ordinal, time_us, seq)
        SELECT counter, max(ordinal) + 1, max(time_us), max(seq) + 1 FROM @spent GROUP BY counter LIMIT 1",
];

impl Place {
    fn verified(&self) -> Result<Option<u64>, OpenError> {
        self.read(|stored: &Stored| {
            let key = stored.verifying_key()?;
            verify(stored, &key, &[], |_, _| ()).map(|report| report.beyond)
        })
    }

    fn sql(&self, statement: &str) {
        match &self.server {
            Some(server) => {
                drop(server.ask(&statement.replace("BLOB", "'\\x00112233445566778899aabbccddeeff'::bytea")))
            }
            None => {
                let db = Connection::open(self.config.path.join("ledger.db")).unwrap();
                db.execute_batch(&statement.replace("BLOB", "x'00112233445566778899aabbccddeeff'")).unwrap();
            }
        }
    }

    fn count(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM {table}");
        match &self.server {
            Some(server) => server.ask(&sql).trim().parse().unwrap(),
            None => {
                let db = Connection::open(self.config.path.join("ledger.db")).unwrap();
                db.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap().cast_unsigned()
            }
        }
    }

    fn words_after(&self, statement: &str) -> Option<String> {
        let file = self.config.path.join("ledger.db");
        let before = if self.server.is_none() { std::fs::read(&file).unwrap() } else { Vec::new() };
        self.sql(statement);
        let words = match self.verified() {
            Err(OpenError::Damaged(words)) => Some(words),
            Ok(_) => None,
            Err(other) => panic!("{statement}: {other}"),
        };
        match &self.server {
            Some(_) => {
                let back =
                    |table| format!("DELETE FROM ledger.{table}; INSERT INTO ledger.{table} TABLE public.{table};");
                self.sql(&["frozen", "idempotency", "spent"].map(back).concat());
            }
            None => std::fs::write(&file, before).unwrap(),
        }
        words
    }
}

fn keyed(key: &str, group: &str, budgets: &[Budget]) -> Asked {
    let key = IdempotencyKey::parse(key.as_bytes());
    Asked { key, budgets: budgets.into(), ..asked("c", if group.len() > 1 { "s2" } else { "s1" }, group) }
}

/// Intents with and without keys, with every end; counters that have forgotten some; freezes that came, changed, went.
async fn something_of_all(ledger: &dyn Ledger) {
    let budgets = [budget(6, 1, Per::Caller), budget(3, 1, Per::Session)];
    let answered = Answered { status: 200, confirmed: true, body: "{\"success\":true}".into(), retry_after_s: None };
    let ends = [End::Deleted, End::NotSent, End::Unknown, End::Refused, End::Deleted, End::NotSent, End::Deleted];
    for (round, group) in ["1", "21"].into_iter().enumerate() {
        for (number, end) in ends.into_iter().enumerate() {
            // So that counters forget, what they count leaves their windows.
            let asked = keyed(&format!("k{number}{group}"), group, if round == 0 { &budgets } else { &budgets[..1] });
            let recorded = loop {
                match ledger.intend(asked.clone()).await {
                    Intended::Recorded(recorded) => break recorded,
                    Intended::Declined(Declined::BudgetExhausted { .. }) => {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    other @ (Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable) => {
                        panic!("{other:?}")
                    }
                }
            };
            conclude_with(ledger, recorded, end, Some(answered.clone())).await.unwrap();
        }
    }
    // A smaller budget forgets nothing of what a larger one has counted.
    let smaller = [budget(1, 1, Per::Caller)];
    let counted = loop {
        match ledger.intend(keyed("smaller", "8", &smaller)).await {
            Intended::Recorded(recorded) => break recorded,
            Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    conclude(ledger, counted, End::Deleted).await.unwrap();
    let plain = admitted(ledger, asked("d", "s1", "5")).await;
    conclude(ledger, plain, End::Deleted).await.unwrap();
    let again = admitted(ledger, keyed("k11", "7", &[])).await;
    conclude_with(ledger, again, End::Deleted, Some(answered)).await.unwrap();
    let freeze = |covers, reason: &str| Freeze { covers, until: None, reason: reason.into(), by: "alice".into() };
    let caller = |name: &str| Covers::Caller { caller: CallerName::parse(name).unwrap() };
    let session = Covers::Session { session: SessionId::parse("s9").unwrap() };
    for covers in [caller("x"), session.clone(), caller("y"), caller("x")] {
        ledger.freeze(freeze(covers, "r")).await.unwrap();
    }
    assert_eq!(ledger.unfreeze(caller("y"), "r".into(), "alice".into()).await, Ok(true));
    // Those in flight are closed as unknown by the next start.
    drop(ledger.intend(keyed("open", "9", &budgets[..1])).await);
}

pub(super) async fn any_row_beside_the_entries_that_is_not_as_they_say_is_found(place: Place) {
    for last in [false, true] {
        let ledger = place.open();
        if !last {
            something_of_all(&*ledger).await;
        }
        ledger.close().await;
        place.end_leases();
    }
    assert_eq!(place.verified().unwrap(), Some(0), "nothing is bad, and nothing is left out");
    let (schema, own): (_, &[Edits]) = if place.server.is_some() { ("ledger.", &POSTGRES) } else { ("", &SQLITE) };
    if place.server.is_some() {
        for table in ["frozen", "idempotency", "spent"] {
            place.sql(&format!("CREATE TABLE public.{table} AS TABLE ledger.{table}"));
        }
    }
    let (mut tried, mut missed) = (0, Vec::new());
    for (table, key, edits) in EDITS.iter().chain(own) {
        let (table, rows) = (format!("{schema}{table}"), place.count(&format!("{schema}{table}")));
        assert!(rows > 1, "{table}");
        // A server is asked through programs: there, one of the middle and the last.
        let of_all = place.server.is_none();
        for row in (0..rows).filter(|row| of_all || [rows / 2, rows - 1].contains(row)) {
            let columns = key.trim_matches(['(', ')']);
            let which = format!("{key} = (SELECT {columns} FROM {table} ORDER BY {columns} LIMIT 1 OFFSET {row})");
            for edit in *edits {
                let statement = format!("{} WHERE {which}", edit.replace('@', &table));
                tried += 1;
                match place.words_after(&statement) {
                    None => missed.push(statement),
                    Some(words) => assert!(words.len() > 20, "{words}"),
                }
            }
        }
    }
    for added in ADDED {
        let statement = added.replace('@', schema);
        tried += 1;
        if place.words_after(&statement).is_none() {
            missed.push(statement);
        }
    }
    assert_eq!(missed, Vec::<String>::new(), "of {tried}");
    assert_eq!(place.verified().unwrap(), Some(0), "it is as before");
}
