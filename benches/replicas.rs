//! How many deletions a second replicas record in one database: one replica and three, each with many who wait, so that
//! batches are large, and with one who waits, so that each batch holds one operation. All in one run, in turn:
//! `replicas CONFIG [WAITING] [SECONDS] [ROUNDS]`. CONFIG names a database without a ledger.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::clone_on_ref_ptr,
    clippy::print_stdout,
    missing_docs,
    reason = "not part of the product"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use wasend_gateway::config::{self, load_ledger};
use wasend_gateway::error::Sent;
use wasend_gateway::id::{CallerName, GroupId, RequestId, SessionId};
use wasend_gateway::ledger::entry::{End, Intention, Outcome};
use wasend_gateway::ledger::postgres::{Postgres, migrate};
use wasend_gateway::ledger::{Intended, Ledger};
use wasend_gateway::telemetry::Metrics;

const BUDGET: Duration = Duration::from_secs(25);

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

/// Deletions a second, and how many operations were in one batch on average.
async fn record(config: &config::Ledger, replicas: u64, waiting: u64, span: Duration) -> (f64, f64) {
    let mut open = Vec::new();
    for _ in 0..replicas {
        let (config, (metrics, registry)) = (config.clone(), Metrics::new());
        let opened = tokio::task::spawn_blocking(move || Postgres::open(&config, BUDGET, metrics).unwrap().0);
        open.push((Arc::new(opened.await.unwrap()), registry));
    }
    let (done, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let call = |caller: u64| {
        let at = usize::try_from(caller % replicas).unwrap();
        let (ledger, done) = (open.get(at).unwrap().0.clone(), done.clone());
        tokio::spawn(async move {
            while started.elapsed() < span {
                let id = RequestId::new();
                let Intended::Recorded(recorded) = ledger.intend(intention(id, caller).into()).await else { panic!() };
                let (outcome, status) = (End::Deleted, Some(200));
                let outcome = Outcome { request_id: id, outcome, status, code: None, sent: Sent::Yes, answer: None };
                ledger.conclude(recorded, outcome, None).await.unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    for caller in (0..waiting).map(call).collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let rate = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    let (mut operations, mut batches) = (0.0, 0.0);
    for (ledger, registry) in open {
        ledger.close().await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let number =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().parse::<f64>().unwrap();
        operations += number("wasend_gateway_commit_entries_sum ");
        batches += number("wasend_gateway_commit_entries_count ");
    }
    (rate, operations / batches)
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, or: u64| arguments.get(at).map_or(or, |text| text.parse().unwrap());
    let (waiting, span, rounds) = (number(1, 64), Duration::from_secs(number(2, 3)), number(3, 3));
    let (config, _) = load_ledger(Path::new(arguments.first().unwrap())).unwrap();
    let made = config.clone();
    tokio::task::spawn_blocking(move || migrate(&made).unwrap()).await.unwrap();
    let arrangements = [(1, 1), (3, 3), (1, waiting), (3, waiting), (3, 3 * waiting)];
    let mut rates = vec![Vec::new(); arrangements.len()];
    for _ in 0..rounds {
        for ((replicas, waiting), rates) in arrangements.iter().zip(&mut rates) {
            rates.push(record(&config, *replicas, *waiting, span).await);
        }
    }
    let middle = |rates: &mut Vec<(f64, f64)>| {
        rates.sort_by(|a, b| a.0.total_cmp(&b.0));
        *rates.get(rates.len() / 2).unwrap()
    };
    let rates: Vec<(f64, f64)> = rates.iter_mut().map(middle).collect();
    let (alone, one) = (rates.first().unwrap().0, rates.get(2).unwrap().0);
    println!("replicas  waiting  deletions/s  a batch  to batches of one  to one replica");
    for ((replicas, waiting), (rate, batch)) in arrangements.iter().zip(&rates) {
        let (to_alone, to_one) = (rate / alone, rate / one);
        println!("{replicas:8}  {waiting:7}  {rate:11.0}  {batch:7.1}  {to_alone:17.2}  {to_one:14.2}");
    }
}
