//! One process from its start to its end, in the order of `cli/serve.rs`.

use super::{Scene, World, caller, operator};
use crate::clock::Timestamp;
use crate::gateway::Gateway;
use crate::ledger::Ledger;
use crate::ledger::simulated::Store as Simulated;
use crate::ledger::simulated::disk::Draft;
use crate::rate::Store;
use crate::resolver::Resolver;
use crate::tasks::Tasks;
use crate::telemetry::Metrics;
use crate::upstream::Upstream;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// It died of what happened.
    Crashed,
    /// It was told to stop, or its ledger broke.
    Stopped,
}

/// Lives until it is told to stop, its ledger breaks, or it dies.
pub(crate) async fn live(world: &Arc<World>, scene: &Arc<Scene>) -> End {
    tokio::select! {
        biased;
        () = world.crashed() => End::Crashed,
        () = serve(world, scene) => End::Stopped,
    }
}

/// Closes what an earlier process left open, before anything else.
async fn recover(world: &Arc<World>) {
    let draft = world.lock().disk.recover(Timestamp::now());
    world.happened(format_args!("it starts and closes {} entries", draft.added().len()));
    world.alive().await;
    world.keep(draft);
    world.happened(format_args!("it has started, and has not synced"));
    world.alive().await;
    world.lock().disk.sync();
}

#[expect(clippy::disallowed_methods, reason = "actors of this world, who are no part of the process")]
async fn serve(world: &Arc<World>, scene: &Arc<Scene>) {
    recover(world).await;
    let policy = world.lock().policy;
    let config = &scene.configs[policy];
    let (metrics, _registry) = Metrics::new();
    let ledger: Arc<dyn Ledger> = Simulated::open(world);
    let upstream = Arc::new(Upstream::simulated(world, &config.upstream).unwrap());
    let resolver = Resolver::new(config.resolver, Arc::clone(&ledger), Arc::clone(&upstream), metrics.clone());
    let gateway = Arc::new(Gateway::new(config, Store::Process, Arc::clone(&ledger), upstream, metrics));
    let stop = CancellationToken::new();
    let resolving = tokio::spawn(resolver.run(stop.clone()));
    let many = world.lock().chance.between(2, 6);
    let callers: Vec<_> =
        (0..many).map(|_| tokio::spawn(caller::calls(Arc::clone(world), Arc::clone(&gateway)))).collect();
    for _ in 0..2 {
        tokio::spawn(operator::brakes(Arc::clone(world), Arc::clone(&gateway)));
    }
    tokio::spawn(operator::reloads(Arc::clone(world), Arc::clone(&gateway), Arc::clone(scene)));
    tokio::spawn(operator::clocks(Arc::clone(world)));
    let told = {
        let chance = &mut world.lock().chance;
        // Some are told to stop in the middle of it; the others a while after the last answer, for the resolver's sake.
        if chance.one_in(2) { chance.below(20_000) } else { 600_000 }
    };
    tokio::select! {
        biased;
        () = ledger.broken() => world.happened(format_args!("it stops, for its ledger's sake")),
        () = world.wait(told) => world.happened(format_args!("it is told to stop")),
        () = done(world, callers) => world.happened(format_args!("everybody has been answered")),
    }
    world.alive().await;
    gateway.start_draining();
    stop.cancel();
    drain(world, scene, &gateway).await;
    let _ = tokio::time::timeout(Duration::from_secs(2), resolving).await;
    gateway.flush_refusals();
    ledger.close().await;
}

/// Everybody has asked for all that they wanted, and a while has passed.
async fn done(world: &Arc<World>, callers: Vec<tokio::task::JoinHandle<()>>) {
    for caller in callers {
        let _ = caller.await;
    }
    let while_ms = world.lock().chance.below(300_000);
    world.wait(while_ms).await;
}

/// Waits for what is under way, and notes when it gives that up.
async fn drain(world: &Arc<World>, scene: &Scene, gateway: &Gateway) {
    let patience = {
        let chance = &mut world.lock().chance;
        if chance.one_in(4) {
            Duration::from_millis(chance.below(2_000))
        } else {
            scene.configs[0].listen.drain_timeout
        }
    };
    let gives_up = async {
        tokio::time::sleep(patience).await;
        world.gives_up(&gateway.tasks);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = gives_up => {}
        drained = gateway.tasks.drain(patience) => world.happened(format_args!("drained: {drained}")),
    }
    world.alive().await;
}

impl World {
    /// What a start writes is on the disk.
    fn keep(&self, draft: Draft) {
        let mut state = self.lock();
        for committed in draft.added() {
            state.note(format_args!("start: {committed:?}"));
        }
        state.disk.commit(draft);
    }

    /// The process waits no longer for what is under way.
    fn gives_up(&self, tasks: &Tasks) {
        let mut state = self.lock();
        let (life, now) = (state.life, state.now_ms());
        if !tasks.is_empty() {
            state.gave_up.insert(life, now);
            state.count("drains that gave up");
        }
    }
}
