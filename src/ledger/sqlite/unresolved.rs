//! The unknown outcomes that wait for a look at their picture, in the order in which they are due.
//!
//! A row is a pointer: it says since when the intent of that number waits and how often it was looked at. What the
//! intent was about stands in its entry and nowhere else. A new row has the newest time, so the table grows at its end.

use crate::clock::Timestamp;
use crate::id::{GroupId, RequestId, SessionId, Target};
use crate::ledger::Unresolved;
use rusqlite::{Connection, Result};
use serde_json::Value;

/// Makes the table where it is not there yet.
pub(super) fn set_up(db: &Connection) -> Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS unresolved (
             since_us INTEGER NOT NULL, seq INTEGER NOT NULL, attempts INTEGER NOT NULL, PRIMARY KEY (since_us, seq)
         ) STRICT, WITHOUT ROWID;",
    )
}

/// How many wait.
pub(super) fn count(db: &Connection) -> Result<i64> {
    db.query_row("SELECT count(*) FROM unresolved", [], |row| row.get(0))
}

/// The intents that wait, ascending; one that is there twice is named twice.
pub(super) fn all(db: &Connection) -> Result<Vec<u64>> {
    let mut statement = db.prepare("SELECT seq FROM unresolved ORDER BY seq")?;
    statement.query_map([], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?.collect()
}

/// Those that are due first.
pub(super) fn first(db: &Connection, count: usize) -> Result<Vec<u64>> {
    let mut statement = db.prepare("SELECT seq FROM unresolved ORDER BY since_us, seq LIMIT ?1")?;
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    statement.query_map([count], |row| row.get::<_, i64>(0).map(i64::cast_unsigned))?.collect()
}

/// The intent of this number waits from `since` on.
pub(super) fn wait(db: &Connection, seq: u64, since: Timestamp, attempts: u32) -> Result<()> {
    let mut statement = db.prepare_cached("INSERT INTO unresolved (since_us, seq, attempts) VALUES (?1, ?2, ?3)")?;
    statement.execute((since.as_micros(), seq.cast_signed(), attempts)).map(drop)
}

/// Takes a row away. `false`: it is not there any more, somebody else was first.
pub(super) fn take_away(db: &Connection, unresolved: &Unresolved) -> Result<bool> {
    let mut statement = db.prepare_cached("DELETE FROM unresolved WHERE since_us = ?1 AND seq = ?2")?;
    statement.execute((unresolved.since.as_micros(), unresolved.seq.cast_signed())).map(|rows| rows > 0)
}

/// The one that waits longest, if it has waited since `until` or longer, or would for longer than anything waits.
pub(super) fn longest(db: &Connection, until: Timestamp) -> Result<Option<Unresolved>> {
    Ok(due(db, "<=", until)?.or(due(db, ">", Unresolved::believed(until))?))
}

fn due(db: &Connection, is: &str, time: Timestamp) -> Result<Option<Unresolved>> {
    let mut statement = db.prepare_cached(&format!(
        "SELECT u.since_us, u.seq, u.attempts, e.bytes FROM unresolved AS u JOIN entry AS e ON e.seq = u.seq
         WHERE u.since_us {is} ?1 ORDER BY u.since_us, u.seq"
    ))?;
    let mut rows = statement.query([time.as_micros()])?;
    while let Some(row) = rows.next()? {
        let (since, seq) = (Timestamp::from_micros(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned());
        if let Some((request_id, target)) = intent(row.get_ref(3)?.as_blob()?) {
            let attempts = Unresolved::looks(row.get(2)?);
            return Ok(Some(Unresolved { seq, since, attempts, request_id, target }));
        }
        tracing::error!(seq, "an entry that should be an intent cannot be read: the ledger is damaged");
    }
    Ok(None)
}

/// What an intent was about, out of its entry.
pub(super) fn intent(bytes: &[u8]) -> Option<(RequestId, Target)> {
    let entry: Value = serde_json::from_slice(bytes).ok()?;
    let text = |member| entry.get(member).and_then(Value::as_str);
    let session = SessionId::parse(text("session")?).ok()?;
    let group = GroupId::parse(text("group")?).ok()?;
    (text("kind") == Some("intent"))
        .then_some(())
        .and_then(|()| RequestId::parse(text("request_id")?))
        .map(|request_id| (request_id, Target { session, group }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::error::Sent;
    use crate::id::CallerName;
    use crate::ledger::entry::{End, Intention, Outcome, Resolution};
    use crate::ledger::sqlite::{Sqlite, SqliteReader};
    use crate::ledger::{Intended, Ledger, Reader, Recorded};
    use crate::telemetry::Metrics;
    use std::path::Path;
    use std::time::Duration;

    fn open(folder: &Path) -> (Sqlite, Metrics) {
        let config = config::Ledger { path: folder.to_owned(), reserve_bytes: 65_536, ..config::Ledger::default() };
        let (metrics, _) = Metrics::new();
        (Sqlite::open(&config, metrics.clone()).unwrap().0, metrics)
    }

    async fn intend(ledger: &Sqlite, group: &str) -> Recorded {
        let name = |text| CallerName::parse(text).unwrap();
        let intention = Intention {
            request_id: RequestId::new(),
            caller: name("c"),
            credential: name("t"),
            peer: [127, 0, 0, 1].into(),
            session: SessionId::parse("s1").unwrap(),
            group: GroupId::parse(group).unwrap(),
            rule: "c.allow[0]".into(),
            policy: "sha256:x".into(),
            trace_id: None,
            caller_request_id: None,
        };
        match ledger.intend(intention.into()).await {
            Intended::Recorded(recorded) => recorded,
            Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable => panic!("not recorded"),
        }
    }

    async fn conclude(ledger: &Sqlite, recorded: Recorded, end: End) {
        let request_id = recorded.request_id();
        let outcome = Outcome { request_id, outcome: end, status: None, code: None, sent: Sent::Unknown, answer: None };
        ledger.conclude(recorded, outcome, None).await.unwrap();
    }

    fn resolutions(folder: &Path) -> Vec<Value> {
        let entries = SqliteReader::open(folder).unwrap().read(0, u64::MAX).unwrap();
        let entries = entries.iter().map(|(_, bytes)| serde_json::from_slice::<Value>(bytes).unwrap());
        entries.filter(|entry| entry["kind"] == "resolution").collect()
    }

    fn now() -> Timestamp {
        Timestamp::now()
    }

    #[tokio::test]
    async fn only_unknown_outcomes_wait_and_the_longest_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, metrics) = open(folder.path());
        for (group, end) in [
            ("1", End::Deleted),
            ("2@g.us", End::Unknown),
            ("3", End::Refused),
            ("4", End::NotSent),
            ("5", End::Unknown),
        ] {
            let recorded = intend(&ledger, group).await;
            conclude(&ledger, recorded, end).await;
        }
        assert_eq!(metrics.unresolved.get(), 2);
        let first = ledger.unresolved(now()).await.unwrap();
        assert_eq!((first.target().path().as_str(), first.attempts()), ("/s1/groups/2@g.us/picture", 0));
        assert_eq!(
            ledger.unresolved(now().before(Duration::from_secs(60))).await,
            None,
            "it has not waited long enough"
        );
        let later = now();
        ledger.postpone(first, later).await.unwrap();
        let second = ledger.unresolved(later).await.unwrap();
        assert_eq!(second.target().group.as_str(), "5");
        ledger.resolve(second, Resolution::Absent).await.unwrap();
        let first = ledger.unresolved(later).await.unwrap();
        assert_eq!((first.target().group.as_str(), first.attempts()), ("2@g.us", 1));
        ledger.resolve(first, Resolution::Indeterminate).await.unwrap();
        assert_eq!((ledger.unresolved(now()).await, metrics.unresolved.get()), (None, 0));
        assert_eq!(resolutions(folder.path()).len(), 2);
    }

    #[tokio::test]
    async fn what_waits_survives_a_restart_and_what_was_open_waits_too() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _) = open(folder.path());
        let recorded = intend(&ledger, "1").await;
        conclude(&ledger, recorded, End::Unknown).await;
        let waiting = ledger.unresolved(now()).await.unwrap();
        ledger.postpone(waiting, now()).await.unwrap();
        let open_at_the_end = intend(&ledger, "2").await;
        let id = open_at_the_end.request_id();
        ledger.close().await;
        drop(ledger);
        let (ledger, metrics) = open(folder.path());
        assert_eq!(metrics.unresolved.get(), 2);
        let first = ledger.unresolved(now()).await.unwrap();
        assert_eq!((first.target().group.as_str(), first.attempts()), ("1", 1));
        ledger.resolve(first, Resolution::Present).await.unwrap();
        assert_eq!(ledger.unresolved(now()).await.unwrap().request_id(), id);
    }

    #[tokio::test]
    async fn one_intent_is_resolved_once_however_often_it_is_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, metrics) = open(folder.path());
        let recorded = intend(&ledger, "1").await;
        conclude(&ledger, recorded, End::Unknown).await;
        let [one, two, three] = [(); 3].map(|()| ledger.unresolved(now()));
        let (one, two, three) = (one.await.unwrap(), two.await.unwrap(), three.await.unwrap());
        let first = ledger.resolve(one, Resolution::Present);
        let second = ledger.resolve(two, Resolution::Absent);
        let third = ledger.postpone(three, now());
        assert_eq!([first.await, second.await, third.await], [Ok(()); 3]);
        assert_eq!(ledger.unresolved(now()).await, None);
        assert_eq!(metrics.unresolved.get(), 0);
        let written = resolutions(folder.path());
        assert_eq!((written.len(), &written[0]["resolution"]), (1, &"present".into()));
    }

    #[tokio::test]
    async fn a_ledger_from_before_the_table_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let (ledger, _) = open(folder.path());
        let _open = intend(&ledger, "1").await;
        ledger.close().await;
        drop(ledger);
        let db = Connection::open(folder.path().join("ledger.db")).unwrap();
        db.execute_batch("DROP TABLE unresolved").unwrap();
        drop(db);
        let (ledger, _) = open(folder.path());
        assert_eq!(ledger.unresolved(now()).await.unwrap().target().group.as_str(), "1");
    }
}
