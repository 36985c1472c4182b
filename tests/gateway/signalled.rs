//! Signals under load, again and again on one ledger: ended, stopped and continued at any moment.

use crate::crash::Load;
use crate::promises::Promises;
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TOKEN, caller, configuration, eventually};
use crate::soak::{Random, count};
use crate::wire::response;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn text(provider: &Provider, timeout_ms: usize) -> String {
    let timeout = format!("timeout_ms = {timeout_ms}");
    let sections = [("ledger", "reserve_kib = 64"), ("upstream", &*timeout)];
    configuration(&provider.url(), &sections, &caller("moderation", TOKEN, ""))
}

/// Spins a little, by chance.
fn turn(random: &mut Random) {
    for _ in 0..random.below(20_000) {
        std::hint::spin_loop();
    }
}

#[test]
fn told_to_end_at_random_moments_under_load_it_loses_no_outcome() {
    let (mut random, provider, mut promises, rounds) =
        (Random::new(), Provider::start(), Promises::default(), count(1000));
    let (folder, text) = (Arc::new(tempfile::tempdir().unwrap()), text(&provider, 25_000));
    for round in 0..rounds {
        // So that there is something under way at each moment.
        for _ in 0..64 {
            provider.next(Reply::Late(Duration::from_millis(random.below(20) as u64)));
        }
        let mut gateway = Gateway::in_folder(folder.clone(), &text, &[]);
        let (load, deletions) = (Load::on(gateway.listen), random.below(24));
        eventually("so many deletions", || provider.heads().len() > deletions);
        turn(&mut random);
        gateway.signal("TERM");
        assert_eq!(gateway.ended().code(), Some(0), "round {round}: {}", gateway.log());
        promises.heard.extend(load.heard());
        promises.read(&gateway);
        promises.look_at(&provider);
        promises.hold(&format!("round {round}"));
        let lost = promises.recorded() - promises.deleted();
        assert_eq!(lost, 0, "round {round}: the provider has answered everybody");
    }
    println!("{rounds} times; {} deletions", promises.sent());
    assert!(promises.sent() > rounds);
}

#[test]
fn stopped_and_continued_at_random_moments_it_answers_and_records_everything() {
    let (mut random, provider, mut promises, stops) =
        (Random::new(), Provider::start(), Promises::default(), count(1000));
    let mut gateway = Gateway::with(&text(&provider, 25_000));
    let load = Load::on(gateway.listen);
    for _ in 0..stops {
        let before = provider.heads().len();
        gateway.signal("STOP");
        turn(&mut random);
        gateway.signal("CONT");
        eventually("it goes on", || provider.heads().len() > before);
        turn(&mut random);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.ended().code(), Some(0));
    promises.heard.extend(load.heard());
    promises.read(&gateway);
    promises.look_at(&provider);
    promises.hold("at the end");
    assert_eq!(promises.deleted(), promises.recorded());
    println!("stopped {stops} times; {} deletions", promises.sent());
}

#[test]
fn stopped_until_the_deadline_is_over_it_says_of_each_request_what_it_knows() {
    let budget = Duration::from_millis(2500);
    let provider = Provider::start();
    let gateway = Gateway::with(&text(&provider, 2500));
    let go_on = Arc::new(AtomicBool::new(false));
    provider.next(Reply::When(Arc::clone(&go_on)));
    let mut answered = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    gateway.signal("STOP");
    let stopped = Instant::now();
    // The provider's answer waits in the socket; the deadline passes meanwhile.
    go_on.store(true, Ordering::SeqCst);
    std::thread::sleep((budget + Duration::from_millis(100)).saturating_sub(stopped.elapsed()));
    gateway.signal("CONT");
    let answer = response(&mut answered).unwrap();
    eventually("its outcome is recorded", || gateway.of_kind("outcome").len() == 1);
    let outcome = gateway.of_kind("outcome")[0]["outcome"].clone();
    match answer.status {
        200 => assert_eq!(outcome, "deleted"),
        504 => assert_eq!((answer.code(), outcome), ("outcome-unknown".to_owned(), "unknown".into())),
        _ => panic!("{answer:?}"),
    }
    assert_eq!(provider.heads().len(), 1, "not sent again");
    let again = response(&mut gateway.send()).unwrap();
    assert_eq!(again.status, 200, "it goes on");
}
