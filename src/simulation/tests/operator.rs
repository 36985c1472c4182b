//! The operators: who freeze and unfreeze, who put another policy in force, and who set the clock.

use super::{Scene, World};
use crate::clock::{Timestamp, simulated};
use crate::gateway::Gateway;
use crate::id::{CallerName, SessionId};
use crate::ledger::freeze::{Covers, Freeze};
use std::sync::Arc;
use std::time::Duration;

/// How far a freeze has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holds {
    /// It is asked for, or nobody knows whether it was recorded, or somebody has begun to take it back.
    Nothing,
    /// What was recorded and not sent yet is not sent any more.
    Unsent,
    /// The command has returned 0: nothing that it covers leaves any more.
    All,
}

/// One freeze.
#[derive(Debug, Clone)]
pub(crate) struct Brake {
    pub(crate) covers: Covers,
    pub(crate) until: Option<Timestamp>,
    pub(crate) holds: Holds,
    /// Somebody has begun to take it back, or to put another one in its place.
    is_taken_back: bool,
}

impl World {
    /// Whoever freezes or unfreezes what this covers takes away what held it before.
    fn loosen(&self, covers: &Covers) {
        for brake in self.lock().brakes.iter_mut().filter(|brake| brake.covers == *covers) {
            (brake.holds, brake.is_taken_back) = (Holds::Nothing, true);
        }
    }

    fn draw_covers(&self) -> Covers {
        let chance = &mut self.lock().chance;
        match chance.below(4) {
            0 => Covers::All,
            1 | 2 => Covers::Caller { caller: CallerName::parse(chance.pick::<&str>(&["a", "b"])).unwrap() },
            _ => Covers::Session { session: SessionId::parse(chance.pick::<&str>(&["s1", "s2"])).unwrap() },
        }
    }
}

/// Freezes and unfreezes, as the commands do.
pub(crate) async fn brakes(world: Arc<World>, gateway: Arc<Gateway>) {
    let many = world.lock().chance.below(5);
    for _ in 0..many {
        let gap = world.lock().chance.below(2_500);
        world.wait(gap).await;
        let covers = world.draw_covers();
        if world.lock().chance.one_in(2) {
            freeze(&world, &gateway, covers).await;
        } else {
            unfreeze(&world, &gateway, covers).await;
        }
    }
    // Nobody leaves everything frozen for good.
    let gap = world.lock().chance.below(3_000);
    world.wait(gap).await;
    unfreeze(&world, &gateway, Covers::All).await;
}

async fn unfreeze(world: &Arc<World>, gateway: &Arc<Gateway>, covers: Covers) {
    world.loosen(&covers);
    world.happened(format_args!("unfreeze {covers}"));
    world.alive().await;
    let said = gateway.unfreeze(covers, "go on".to_owned(), "uid 0".to_owned()).await;
    world.alive().await;
    world.happened(format_args!("unfreeze is answered {said:?}"));
}

/// Returns, as the command does, when every covered intent has its outcome.
async fn freeze(world: &Arc<World>, gateway: &Arc<Gateway>, covers: Covers) {
    world.loosen(&covers);
    let (number, until) = {
        let mut state = world.lock();
        let lasts = if state.chance.one_in(4) { Some(state.chance.between(1, 60)) } else { None };
        let until = lasts.map(|lasts| Timestamp::now().after(Duration::from_secs(lasts)));
        state.brakes.push(Brake { covers: covers.clone(), until, holds: Holds::Nothing, is_taken_back: false });
        (state.brakes.len() - 1, until)
    };
    world.happened(format_args!("freeze {number}: {covers}, until {until:?}"));
    world.alive().await;
    let freeze = Freeze { covers: covers.clone(), until, reason: "stop".to_owned(), by: "uid 0".to_owned() };
    let Ok(stopped) = gateway.freeze(freeze).await else { return };
    let mut open = Some(stopped.open);
    world.alive().await;
    world.tightens(number, Holds::Unsent);
    world.happened(format_args!("freeze {number} is recorded, {open:?} is under way"));
    world.alive().await;
    // The command asks again and again; what it may not know yet counts as open.
    while !open.as_ref().is_some_and(Vec::is_empty) {
        world.wait(100).await;
        open = gateway.ledger.covered(covers.clone()).await;
        world.alive().await;
        if gateway.ledger.health() == crate::ledger::Health::Broken {
            return;
        }
    }
    world.tightens(number, Holds::All);
    world.lock().count("freezes that held");
    world.happened(format_args!("freeze {number} has returned"));
}

impl World {
    /// Unless somebody has taken it back meanwhile, or its time is over.
    fn tightens(&self, number: usize, holds: Holds) {
        let now = Timestamp::now();
        let brake = &mut self.lock().brakes[number];
        // What did not hold for a moment may have let something through.
        let goes_on = holds == Holds::Unsent || brake.holds == Holds::Unsent;
        if goes_on && !brake.is_taken_back && brake.until.is_none_or(|until| now < until) {
            brake.holds = holds;
        }
    }
}

/// Puts other policies in force.
pub(crate) async fn reloads(world: Arc<World>, gateway: Arc<Gateway>, scene: Arc<Scene>) {
    let many = world.lock().chance.below(6);
    for _ in 0..many {
        let (gap, policy) = {
            let chance = &mut world.lock().chance;
            (chance.below(2_000), usize::try_from(chance.below(scene.configs.len() as u64)).unwrap())
        };
        world.wait(gap).await;
        gateway.reload(&scene.configs[policy]);
        let mut state = world.lock();
        state.policy = policy;
        state.count("reloads");
        drop(state);
        world.happened(format_args!("policy {policy} is in force"));
    }
}

/// Sets the wall clock, forwards and back.
pub(crate) async fn clocks(world: Arc<World>) {
    let many = world.lock().chance.below(4);
    for _ in 0..many {
        let gap = world.lock().chance.below(5_000);
        world.wait(gap).await;
        let span = Duration::from_millis(world.lock().chance.between(1, 1_200_000));
        let forward = world.lock().chance.one_in(2);
        let to = if forward { Timestamp::now().after(span) } else { Timestamp::now().before(span) };
        world.expire();
        simulated::step(to);
        world.expire();
        world.lock().count("clock steps");
        world.happened(format_args!("the clock is set to {to}"));
    }
}

impl World {
    /// A freeze whose time has come holds nothing any more, whatever the clock says later.
    pub(crate) fn expire(&self) {
        let now = Timestamp::now();
        let mut state = self.lock();
        let over = |brake: &&mut Brake| brake.until.is_some_and(|until| until <= now);
        state.brakes.iter_mut().filter(over).for_each(|brake| brake.holds = Holds::Nothing);
    }
}
