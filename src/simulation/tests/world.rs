//! The world around the gateway: what time it is, what goes wrong, what is on the disk, what the provider has read, who
//! has asked for what. It outlives every process in it, and it writes down all that happens.

use super::Chance;
use super::caller::Call;
use super::operator::Brake;
use crate::clock::{Timestamp, moment, simulated};
use crate::ledger::simulated::disk::Disk;
use crate::upstream::simulated::Visit;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// How likely each thing is to go wrong in this world, in thousandths.
#[derive(Debug, Clone)]
pub(crate) struct Weather {
    /// A pause of the store or the provider is a long one.
    pub(crate) slow: u64,
    /// A commit finds no room.
    full: u64,
    /// A write or a sync fails.
    torn: u64,
    /// A commit gets no answer.
    in_doubt: u64,
    /// The provider does something else than to confirm.
    pub(crate) odd: u64,
    /// A caller hangs up.
    pub(crate) hang_up: u64,
}

impl Weather {
    fn new(chance: &mut Chance) -> Self {
        // Each kind of trouble is absent in most worlds, so that it is seen alone, too.
        let mut some = |most: u64| if chance.one_in(3) { chance.between(1, most) } else { 0 };
        Self { slow: some(150), full: some(60), torn: some(30), in_doubt: some(80), odd: some(900), hang_up: some(500) }
    }
}

/// What becomes of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitFate {
    Done,
    /// There is no room, and nothing is written.
    Full,
    /// It fails, and may have been written all the same.
    Torn {
        kept: bool,
    },
    /// No answer comes.
    InDoubt {
        kept: bool,
    },
}

/// What the store takes its time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    Begin,
    Commit,
    Sync,
    LookUp,
}

/// See the module.
pub(crate) struct World {
    state: Mutex<State>,
    crashed: Notify,
}

pub(crate) struct State {
    pub(crate) chance: Chance,
    pub(crate) weather: Weather,
    /// All that has happened, a line each.
    pub(crate) trace: Vec<String>,
    /// Promises that were broken.
    pub(crate) broken: Vec<String>,
    /// How often each thing has happened that a simulation has to reach.
    pub(crate) tally: BTreeMap<&'static str, u64>,
    /// The process that lives, or lived last.
    pub(crate) life: u32,
    dead: bool,
    /// After so many more events it dies.
    dies_in: Option<u64>,
    /// The world's time when this process began, and the runtime's.
    began: (Duration, crate::clock::Moment),
    /// When the last process had ended: between two of them time stands still.
    ended: Option<Duration>,
    pub(crate) disk: Disk,
    pub(crate) calls: Vec<Call>,
    pub(crate) visits: Vec<Visit>,
    pub(crate) brakes: Vec<Brake>,
    /// The policy in force.
    pub(crate) policy: usize,
    /// When each process gave up what was under way, or died, in milliseconds.
    pub(crate) gave_up: BTreeMap<u32, u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let weather = Weather::new(&mut chance);
        let state = State {
            trace: vec![format!("{weather:?}")],
            chance,
            weather,
            broken: Vec::new(),
            tally: BTreeMap::new(),
            life: 0,
            dead: true,
            dies_in: None,
            began: (Duration::ZERO, moment()),
            ended: Some(Duration::ZERO),
            disk: Disk::new(),
            calls: Vec::new(),
            visits: Vec::new(),
            brakes: Vec::new(),
            policy: 0,
            gave_up: BTreeMap::new(),
        };
        Self { state: Mutex::new(state), crashed: Notify::new() }
    }

    /// Never across an `await`.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process begins, this long after the world did; it may die after so many events.
    pub(crate) fn begin_life(&self, at: Duration, wall: Timestamp, dies_in: Option<u64>) {
        simulated::begin(wall);
        let mut state = self.lock();
        state.life += 1;
        (state.dead, state.dies_in, state.began, state.ended) = (false, dies_in, (at, moment()), None);
        let life = state.life;
        state.note(format_args!("process {life} begins; it is {wall}"));
    }

    /// The process is no more, whatever of it still runs.
    pub(crate) fn end_life(&self, has_crashed: bool) -> (Duration, Timestamp) {
        let mut state = self.lock();
        let (now, life) = (state.now(), state.life);
        state.note(format_args!("process {life} is gone"));
        (state.dead, state.ended) = (true, Some(now));
        if has_crashed {
            state.gave_up.entry(life).or_insert(u64::try_from(now.as_millis()).unwrap());
        }
        (now, Timestamp::now())
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Resolves when the process has died of what happened.
    pub(crate) async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// Something has happened that can be seen from outside: behind each such event the process may die.
    pub(crate) fn happened(&self, what: fmt::Arguments<'_>) {
        let mut state = self.lock();
        if state.dead {
            return;
        }
        state.note(what);
        state.dies_in = state.dies_in.map(|left| left.saturating_sub(1));
        if state.dies_in == Some(0) {
            state.dead = true;
            state.count("crashes");
            self.crashed.notify_one();
        }
    }

    /// In a dead process nothing goes on.
    pub(crate) async fn alive(&self) {
        if self.is_dead() {
            std::future::pending::<()>().await;
        }
    }

    pub(crate) async fn wait(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
        self.alive().await;
    }

    /// The store takes its time.
    pub(crate) async fn pause(&self, pause: Pause) {
        let millis = {
            let mut state = self.lock();
            let slow = state.weather.slow / 4;
            if state.chance.permille(slow) {
                state.count("slow stores");
                state.chance.between(100, 40_000)
            } else {
                match pause {
                    Pause::Begin => state.chance.below(2),
                    Pause::Commit | Pause::Sync => state.chance.below(8),
                    Pause::LookUp => state.chance.between(10, 5_000),
                }
            }
        };
        if millis > 0 {
            self.wait(millis).await;
        }
        self.alive().await;
    }

    pub(crate) fn commit_fate(&self) -> CommitFate {
        let mut state = self.lock();
        let Weather { full, torn, in_doubt, .. } = state.weather;
        let kept = state.chance.one_in(2);
        let (fate, word) = if state.chance.permille(full) {
            (CommitFate::Full, "full disks")
        } else if state.chance.permille(torn) {
            (CommitFate::Torn { kept }, if kept { "failed commits that are there" } else { "failed commits" })
        } else if state.chance.permille(in_doubt) {
            (CommitFate::InDoubt { kept }, if kept { "commits in doubt that are there" } else { "commits in doubt" })
        } else {
            (CommitFate::Done, "commits")
        };
        state.count(word);
        fate
    }

    /// After how long somebody hears an answer, if not at once.
    pub(crate) fn hesitates(&self) -> Option<u64> {
        let chance = &mut self.lock().chance;
        chance.one_in(8).then(|| chance.below(300))
    }

    pub(crate) fn sync_fails(&self) -> bool {
        let mut state = self.lock();
        let torn = state.weather.torn;
        let fails = state.chance.permille(torn);
        if fails {
            state.count("failed syncs");
        }
        fails
    }

    pub(crate) fn has_room_again(&self) -> bool {
        self.lock().chance.one_in(4)
    }

    pub(crate) fn reserve_is_enough(&self) -> bool {
        !self.lock().chance.one_in(4)
    }

    pub(crate) fn all_is_synced(&self) -> bool {
        let state = self.lock();
        state.disk.synced == state.disk.log.len()
    }
}

impl State {
    /// Since the world began.
    pub(crate) fn now(&self) -> Duration {
        self.ended.unwrap_or_else(|| self.began.0 + moment().saturating_duration_since(self.began.1))
    }

    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap()
    }

    pub(crate) fn note(&mut self, what: fmt::Arguments<'_>) {
        let now = self.now();
        self.trace.push(format!("{:>10.3} {what}", now.as_secs_f64()));
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    /// A promise of the README is broken, in words.
    pub(crate) fn breaks(&mut self, promise: u8, what: fmt::Arguments<'_>) {
        self.note(format_args!("BROKEN: promise {promise}: {what}"));
        self.broken.push(format!("promise {promise}: {what}"));
    }

    /// The store was closed: what was under way has its outcome, where the store had no trouble.
    pub(crate) fn stopped_well(&mut self, well: bool) {
        let open: Vec<u64> = self.disk.standing.open.keys().copied().collect();
        self.note(format_args!("the store stops, {open:?} open"));
        let gave_up = self.gave_up.contains_key(&self.life);
        if well && !gave_up && !open.is_empty() {
            self.breaks(4, format_args!("the intents {open:?} have no outcome though the process stopped by itself"));
        }
    }
}
