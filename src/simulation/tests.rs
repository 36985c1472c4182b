//! The path in a world of chance: the real stages, resolver and brake, over a store, a clock and a provider that crash,
//! lose answers, step and misbehave as a seed says. The promises of the README are the oracle.
//!
//! One seed is one history, byte for byte: everything runs on one thread, in a paused runtime whose time jumps from timer to
//! timer, and whatever is chosen is drawn from the seed. A history is several processes, one after the other, over one
//! disk and one provider. Each ends because it is told to, because its ledger breaks, or behind any event that can be seen
//! from outside, with or without the power. `WASEND_SEED=N` begins with the history that a failure names.
//!
//! - **An actor** (`caller.rs`, `operator.rs`) is a function that takes the world and the gateway, draws what it does, waits
//!   with `world.wait`, and says what it did with `world.happened`; `life.rs` spawns it.
//! - **A fault** is drawn where it strikes: of the store in `world.rs` (`commit_fate`, `pause`), of the provider in
//!   `provider.rs`. Its likelihood is a member of `Weather`, so that there are worlds without it, and it is counted, so that
//!   `every_kind_of_trouble_is_met` sees it.
//! - **An oracle** of a moment stands in `promises.rs`, one of the whole history in `history.rs`; both call `breaks`.
//!   Plant a fault that it finds (`planted.rs`), and add it to the test below.
//!
//! Not here: the bytes of callers and hyper's connections to them, SQLite and PostgreSQL themselves, the proof of the log,
//! replicas and Redis. Those have tests of their own.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "these are tests"
)]

#[path = "tests/caller.rs"]
mod caller;
#[path = "tests/chance.rs"]
mod chance;
#[path = "tests/history.rs"]
mod history;
#[path = "tests/life.rs"]
mod life;
#[path = "tests/operator.rs"]
mod operator;
#[path = "tests/promises.rs"]
mod promises;
#[path = "tests/scene.rs"]
mod scene;
#[path = "../../tests/gateway/soak.rs"]
#[allow(clippy::disallowed_methods, unreachable_pub, dead_code, reason = "the tests of the binary use all of it")]
mod soak;
#[path = "tests/world.rs"]
mod world;

pub(crate) use chance::Chance;
pub(crate) use scene::Scene;
use world::State;
pub(crate) use world::{CommitFate, Pause, Weather, World};

use crate::clock::{Timestamp, simulated};
use crate::failpoint::planted::{Fault, plant};
use life::{End, live};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What came of one seed.
struct History {
    seed: u64,
    trace: Vec<String>,
    broken: Vec<String>,
    tally: BTreeMap<&'static str, u64>,
}

/// Plays one history.
fn play(seed: u64, scene: &Arc<Scene>) -> History {
    let world = Arc::new(World::new(seed));
    let (mut at, mut wall) = (Duration::ZERO, Timestamp::parse("2026-11-25T00:00:00Z").unwrap());
    let lives = world.lock().chance.between(1, 4);
    for _ in 0..lives {
        (at, wall) = one_life(&world, scene, at, wall);
    }
    // What the last one left open, too, gets its outcome from a start.
    let draft = world.lock().disk.recover(wall);
    let mut state = world.lock();
    state.disk.commit(draft);
    drop(state);
    world.judge();
    simulated::end();
    let mut state = world.lock();
    let (trace, broken) = (std::mem::take(&mut state.trace), std::mem::take(&mut state.broken));
    History { seed, trace, broken, tally: state.tally.clone() }
}

/// Plays one process; returns when it is over.
fn one_life(world: &Arc<World>, scene: &Arc<Scene>, at: Duration, wall: Timestamp) -> (Duration, Timestamp) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let (end, over) = runtime.block_on(async {
        let dies_in = {
            let chance = &mut world.lock().chance;
            if chance.one_in(2) { Some(chance.between(1, 200)) } else { None }
        };
        world.begin_life(at, wall, dies_in);
        let end = live(world, scene).await;
        (end, world.end_life(end == End::Crashed))
    });
    drop(runtime);
    let mut state = world.lock();
    if end == End::Crashed && state.chance.one_in(2) {
        state.count("power failures");
        let State { disk, chance, .. } = &mut *state;
        disk.lose(chance);
    }
    let pause = Duration::from_millis(state.chance.below(100_000));
    drop(state);
    world.aftermath();
    (over.0 + pause, over.1.after(pause))
}

/// Plays so many, from a seed that is printed; ends with the first that breaks a promise.
fn play_all(first: u64, many: usize, mut each: impl FnMut(&History) -> bool) -> usize {
    let scene = Arc::new(Scene::new());
    for (played, seed) in (0..many).map(|offset| first.wrapping_add(offset as u64)).enumerate() {
        if !each(&play(seed, &scene)) {
            return played + 1;
        }
    }
    many
}

/// How many histories are played; `make soak` plays all.
const HISTORIES: usize = 25_000;

#[test]
fn every_promise_holds_in_every_history() {
    let (first, many) = (soak::seed(), soak::count(HISTORIES));
    let mut met: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    play_all(first, many, |history| {
        history.tally.iter().for_each(|(what, count)| *met.entry(what).or_default() += count);
        if let Some(first) = history.broken.first() {
            if broken.is_empty() {
                println!("{}", history.trace.join("\n"));
            }
            broken.push(format!("WASEND_SEED={} begins with it: {first}", history.seed));
        }
        broken.len() < 20
    });
    assert!(broken.is_empty(), "the first of these histories stands above:\n{}", broken.join("\n"));
    println!("{many} histories: {met:?}");
    for what in MET {
        assert!(met.contains_key(what), "no history has met {what}: {met:?}");
    }
}

/// What a fiftieth of them must have met: who waits in vain for trouble has tested nothing.
const MET: [&str; 25] = [
    "DELETEs",
    "absent",
    "clock steps",
    "commits in doubt",
    "commits in doubt that are there",
    "crashes",
    "deleted",
    "drains that gave up",
    "failed commits",
    "failed commits that are there",
    "failed syncs",
    "freezes that held",
    "full disks",
    "hang-ups",
    "heads read behind the end",
    "indeterminate",
    "not-sent",
    "power failures",
    "present",
    "refused",
    "reloads",
    "replays",
    "slow stores",
    "unknown",
    "warnings",
];

#[test]
fn one_seed_is_one_history_byte_for_byte() {
    let (first, many) = (soak::seed(), soak::count(2_000));
    let mut lines = 0;
    let scene = Arc::new(Scene::new());
    play_all(first, many, |history| {
        let again = play(history.seed, &scene);
        let differs = history.trace.iter().zip(&again.trace).find(|(one, other)| one != other);
        assert_eq!(differs, None, "WASEND_SEED={}", history.seed);
        assert_eq!(history.trace.len(), again.trace.len(), "WASEND_SEED={}", history.seed);
        lines += again.trace.len();
        true
    });
    println!("{many} histories twice, {lines} lines");
}

#[test]
fn a_fault_that_is_planted_is_found() {
    let (first, many) = (soak::seed(), HISTORIES / 50);
    for (fault, promise) in [
        (Fault::AnsweredBeforeDurable, "promise 1"),
        (Fault::SentThoughFrozen, "promise 8"),
        (Fault::FreezeDoesNotWait, "promise 8"),
        (Fault::SentAgain, "promise 2"),
        (Fault::ReadIsNotSent, "promise 3"),
        (Fault::WorkGoesWithItsCaller, "promise 4"),
        (Fault::NeverAnswered, "promise 3"),
    ] {
        plant(Some(fault));
        let mut found = None;
        let played = play_all(first, many, |history| {
            found = history.broken.iter().find(|broken| broken.starts_with(promise)).cloned();
            found.is_none()
        });
        plant(None);
        println!("{fault:?}: found in history {played}: {found:?}");
        assert!(found.is_some(), "{fault:?} was not found in {many} histories");
    }
}
