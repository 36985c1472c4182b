//! Fills a ledger with so many entries through the real writer, and says what that and the follower behind it
//! cost. For `benches/asking.sh`: `fill FOLDER ENTRIES`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::clone_on_ref_ptr,
    clippy::print_stderr,
    clippy::print_stdout,
    missing_docs,
    reason = "not part of the product"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wasend_gateway::config;
use wasend_gateway::error::Sent;
use wasend_gateway::id::{CallerName, GroupId, RequestId, SessionId};
use wasend_gateway::ledger::admission::Declined;
use wasend_gateway::ledger::entry::{Body, End, Intention, Outcome, Refusal};
use wasend_gateway::ledger::sqlite::Sqlite;
use wasend_gateway::ledger::{Intended, Ledger};
use wasend_gateway::telemetry::Metrics;

const WAITING: u64 = 256;

/// A number that looks random and is the same in each run.
fn mixed(number: u64) -> u64 {
    let mixed = (number ^ (number >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// Request `number`: 20 callers, 40 sessions, 100,000 groups; one in 50 is refused here, one in 20,000 is unknown.
async fn request(ledger: &Sqlite, number: u64) -> u64 {
    let random = mixed(number);
    let name = |text: String| CallerName::parse(&text).unwrap();
    let (caller, request_id) = (name(format!("caller{}", random % 20)), RequestId::new());
    if random % 50 == 1 {
        let peer = "10.0.0.1".parse().unwrap();
        let (code, detail) = ("not-allowed", "no rule allows it".to_owned());
        let refusal =
            Refusal { request_id, status: 403, code, detail, caller: Some(caller), peer, target: None, rule: None };
        return u64::from(ledger.note(Body::Refusal(refusal)));
    }
    let intention = Intention {
        request_id,
        credential: name("t1".into()),
        rule: format!("{caller}.allow[0]").into(),
        caller,
        peer: "10.0.0.1".parse().unwrap(),
        session: SessionId::parse(&format!("session{}", (random >> 8) % 40)).unwrap(),
        group: GroupId::parse(&format!("1203630{:011}@g.us", (random >> 16) % 100_000)).unwrap(),
        policy: "sha256:00000000000000000000000000000000000000000000000000000000000000aa".into(),
        trace_id: None,
        caller_request_id: None,
    };
    let recorded = match ledger.intend(intention.into()).await {
        Intended::Recorded(recorded) => recorded,
        Intended::Declined(Declined::InFlight) => return 0,
        Intended::Declined(_) | Intended::Replay(_) | Intended::Unavailable => panic!("not recorded"),
    };
    let (outcome, status, code, sent) = match (random >> 40) % 20_000 {
        0 => (End::Unknown, None, Some("outcome-unknown"), Sent::Unknown),
        1..600 => (End::Refused, Some(404), Some("upstream-refused"), Sent::Yes),
        _ => (End::Deleted, Some(200), None, Sent::Yes),
    };
    ledger.conclude(recorded, Outcome { request_id, outcome, status, code, sent, answer: None }, None).await.unwrap();
    2
}

/// CPU seconds of this process's threads by name.
fn seconds_of(name: &str) -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let of = tasks
        .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name));
    let nanoseconds = |task: std::fs::DirEntry| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        text.split(' ').next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
    };
    of.map(nanoseconds).sum::<f64>() / 1e9
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().unwrap();
    let entries: u64 = arguments.next().unwrap().parse().unwrap();
    let config = config::Ledger { path: folder.into(), reserve_bytes: 1 << 20, ..config::Ledger::default() };
    let (metrics, _) = Metrics::new();
    let (ledger, _) = Sqlite::open(&config, metrics.clone()).unwrap();
    let (ledger, done, started) = (Arc::new(ledger), Arc::new(AtomicU64::new(0)), Instant::now());
    let next = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..WAITING)
        .map(|_| {
            let (ledger, done, next) = (ledger.clone(), done.clone(), next.clone());
            tokio::spawn(async move {
                while done.load(Ordering::Relaxed) < entries {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    done.fetch_add(request(&ledger, number).await, Ordering::Relaxed);
                }
            })
        })
        .collect();
    while workers.iter().any(|worker| !worker.is_finished()) {
        tokio::time::sleep(Duration::from_secs(1)).await;
        eprintln!("{} of {entries} entries", done.load(Ordering::Relaxed));
    }
    let (seconds, recorded) = (started.elapsed().as_secs_f64(), done.load(Ordering::Relaxed) as f64);
    while metrics.follower_behind.get() > 4_096 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    println!(
        "{recorded} entries in {seconds:.1} s; CPU an entry: writer {:.2} us, sync {:.2} us, follower {:.2} us",
        seconds_of("ledger") / recorded * 1e6,
        seconds_of("sync") / recorded * 1e6,
        seconds_of("follower") / recorded * 1e6
    );
    ledger.close().await;
}
