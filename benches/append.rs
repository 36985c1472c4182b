//! How fast the ledger takes entries from callers who wait for each, beside the rate at which the same disk takes the
//! same bytes with one `fdatasync` a batch: in batches as large as the ledger's own were, and in batches of as many
//! entries as there are callers. All in one run, in turn: `append FOLDER [WAITING] [SECONDS]`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::clone_on_ref_ptr,
    clippy::print_stdout,
    missing_docs,
    reason = "not part of the product"
)]

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wasend_gateway::config;
use wasend_gateway::error::Sent;
use wasend_gateway::id::{CallerName, GroupId, RequestId, SessionId};
use wasend_gateway::ledger::admission::Asked;
use wasend_gateway::ledger::entry::{Body, End, Intention, Outcome, encode};
use wasend_gateway::ledger::sqlite::Sqlite;
use wasend_gateway::ledger::{Intended, Ledger};
use wasend_gateway::telemetry::Metrics;

/// Each caller deletes another group's picture: of one target one deletion is under way.
fn intention(request_id: RequestId, caller: u64) -> Intention {
    let name = |text: &str| CallerName::parse(text).unwrap();
    Intention {
        request_id,
        caller: name("moderation"),
        credential: name("2026-11"),
        peer: "10.0.0.1".parse().unwrap(),
        session: SessionId::parse("sess1").unwrap(),
        group: GroupId::parse(&format!("{}@g.us", 120_363_000_000_000_000 + caller)).unwrap(),
        rule: "moderation.allow[0]".into(),
        policy: "sha256:00000000000000000000000000000000000000000000000000000000000000aa".into(),
        trace_id: None,
        caller_request_id: None,
    }
}

fn outcome(request_id: RequestId) -> Outcome {
    Outcome { request_id, outcome: End::Deleted, status: Some(200), code: None, sent: Sent::Yes, answer: None }
}

/// Entries a second through the ledger, and how many it took in one batch on average.
async fn through_the_ledger(folder: &Path, waiting: u64, span: Duration) -> (f64, u64) {
    let config = config::Ledger { path: folder.into(), reserve_bytes: 1 << 20, ..config::Ledger::default() };
    let (metrics, registry) = Metrics::new();
    let ledger = Arc::new(Sqlite::open(&config, metrics).unwrap().0);
    let (done, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let callers: Vec<_> = (0..waiting)
        .map(|caller| {
            let (ledger, done) = (ledger.clone(), done.clone());
            tokio::spawn(async move {
                while started.elapsed() < span {
                    let id = RequestId::new();
                    let Intended::Recorded(recorded) = ledger.intend(intention(id, caller).into()).await else {
                        panic!()
                    };
                    ledger.conclude(recorded, outcome(id), None).await.unwrap();
                    done.fetch_add(2, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    ledger.close().await;
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let number =
        |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse::<f64>().unwrap();
    let batch = number("wasend_gateway_commit_entries_sum ") / number("wasend_gateway_commit_entries_count ");
    (rate, (batch.round() as u64).max(1))
}

/// Entries a second where the same bytes go to a file, so many in a batch.
fn straight_to_the_disk(file: &Path, waiting: u64, span: Duration) -> f64 {
    let id = RequestId::new();
    let now = wasend_gateway::clock::Timestamp::now();
    let pair = [Body::Intent(Asked::from(intention(id, 0)).into()), Body::Outcome(outcome(id))]
        .map(|body| encode(1 << 20, now, &body).unwrap());
    let batch: Vec<u8> = pair.iter().cycle().take(usize::try_from(waiting).unwrap()).flatten().copied().collect();
    let mut to = std::fs::File::create(file).unwrap();
    let (mut done, started) = (0, Instant::now());
    while started.elapsed() < span {
        to.write_all(&batch).unwrap();
        to.sync_data().unwrap();
        done += waiting;
    }
    done as f64 / started.elapsed().as_secs_f64()
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = arguments.first().unwrap();
    let number = |at: usize, or: u64| arguments.get(at).map_or(or, |text| text.parse().unwrap());
    let (waiting, span) = (number(1, 64), Duration::from_secs(number(2, 3)));
    for round in 0..3 {
        let at = |name: &str| Path::new(folder).join(format!("{name}-{round}"));
        let (ledger, batch) = through_the_ledger(&at("ledger"), waiting, span).await;
        let same = straight_to_the_disk(&at("same"), batch, span);
        let all = straight_to_the_disk(&at("all"), waiting, span);
        println!(
            "ledger {ledger:7.0} entries/s   disk in batches of {batch}: {same:7.0}, ratio {:.2}   of {waiting}: {all:7.0}, ratio {:.2}",
            ledger / same,
            ledger / all
        );
    }
}
