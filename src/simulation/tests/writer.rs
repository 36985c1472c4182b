//! The writing side of a simulated store, and the task that syncs behind it.

use super::disk::{By, Draft, Owed};
use super::{Op, Queue};
use crate::clock::Timestamp;
use crate::failpoint::planted::{self, Fault};
use crate::ledger::entry::{Body, Outcome};
use crate::ledger::freeze::Freezes;
use crate::ledger::{Abandoned, Health, Intended, NotRecorded, Recorded};
use crate::simulation::{CommitFate, Pause, World};
use arc_swap::ArcSwap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, channel};
use tokio::sync::{oneshot, watch};

/// How often what could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What the writer and the task that syncs share.
#[derive(Clone)]
struct Shared {
    world: Arc<World>,
    health: watch::Sender<Health>,
    ops: Weak<Queue>,
    /// Held by each answer that is not told yet.
    underway: Arc<()>,
}

impl Shared {
    fn health(&self) -> Health {
        *self.health.borrow()
    }

    /// Broken stays broken: the task that syncs may have said so meanwhile.
    fn turn(&self, to: Health) {
        self.health.send_if_modified(|is| *is != Health::Broken && std::mem::replace(is, to) != to);
    }

    fn break_down(&self, what: &str, ops: Vec<Op>) {
        self.health.send_replace(Health::Broken);
        self.world.happened(format_args!("the ledger breaks: {what}"));
        refuse(ops);
    }

    /// Tells a caller's task, now or a while later: between an answer and who hears it there is a scheduler.
    #[expect(clippy::disallowed_methods, reason = "it stands for a scheduler, and dies with the process")]
    fn tell(&self, answer: oneshot::Sender<Intended>, intended: Intended) {
        let tell = |answer: oneshot::Sender<Intended>, intended| {
            if let Err(Intended::Recorded(recorded)) = answer.send(intended) {
                recorded.never_sent();
            }
        };
        let Some(millis) = self.world.hesitates() else { return tell(answer, intended) };
        let (world, underway) = (Arc::clone(&self.world), Arc::clone(&self.underway));
        tokio::spawn(async move {
            world.wait(millis).await;
            tell(answer, intended);
            drop(underway);
        });
    }

    /// Tells everybody that it is durable.
    fn answer(&self, ops: Vec<Op>, owed: Vec<Owed>) {
        for (op, owed) in ops.into_iter().zip(owed) {
            match op {
                Op::Intend(_, answer) => {
                    let intended = match owed {
                        Owed::Recorded { seq, request_id, time } => {
                            let store = self.ops.upgrade().map(|queue| queue as Arc<dyn Abandoned>);
                            Intended::Recorded(Recorded { seq, request_id, time, store, until: None })
                        }
                        Owed::Declined(declined) => Intended::Declined(declined),
                        Owed::Replay(replay) => Intended::Replay(replay),
                        Owed::Nothing | Owed::Unfrozen(_) => Intended::Unavailable,
                    };
                    self.tell(answer, intended);
                }
                Op::Unfreeze(.., answer) => drop(answer.send(Ok(matches!(owed, Owed::Unfrozen(true))))),
                Op::Conclude(.., receipt) => drop(receipt.map(|receipt| receipt.send(Ok(())))),
                Op::Resolve(.., receipt) | Op::Postpone(.., receipt) | Op::Freeze(_, receipt) => {
                    let _ = receipt.send(Ok(()));
                }
                Op::Note(_) | Op::Unresolved(..) | Op::Covered(..) | Op::Close(_) => {}
            }
        }
    }
}

/// Tells everybody that nothing of theirs is recorded.
fn refuse(ops: Vec<Op>) {
    for op in ops {
        match op {
            Op::Intend(_, answer) => drop(answer.send(Intended::Unavailable)),
            Op::Unfreeze(.., answer) => drop(answer.send(Err(NotRecorded))),
            Op::Conclude(.., receipt) => drop(receipt.map(|receipt| receipt.send(Err(NotRecorded)))),
            Op::Resolve(.., receipt) | Op::Postpone(.., receipt) | Op::Freeze(_, receipt) => {
                let _ = receipt.send(Err(NotRecorded));
            }
            Op::Note(_) | Op::Unresolved(..) | Op::Covered(..) | Op::Close(_) => {}
        }
    }
}

/// A transaction that is committed, and that nobody has heard of yet.
struct Unsynced {
    ops: Vec<Op>,
    owed: Vec<Owed>,
    /// How long the log is with it.
    length: usize,
}

/// Syncs, then answers.
async fn sync(shared: Shared, mut committed: Receiver<Unsynced>) {
    while let Some(Unsynced { ops, owed, length }) = committed.recv().await {
        shared.world.pause(Pause::Sync).await;
        if shared.health() == Health::Broken {
            refuse(ops);
        } else if shared.world.sync_fails() {
            shared.break_down("a sync failed", ops);
        } else {
            shared.world.lock().disk.synced = length;
            shared.world.happened(format_args!("synced up to {length}"));
            if !shared.world.is_dead() {
                shared.answer(ops, owed);
            }
        }
    }
}

pub(super) struct Writer {
    shared: Shared,
    queue: UnboundedReceiver<Op>,
    commits: Sender<Unsynced>,
    freezes: Arc<ArcSwap<Freezes>>,
    /// Outcomes that could not be written.
    unwritten: Vec<Op>,
}

impl Writer {
    /// Starts both tasks.
    #[expect(clippy::disallowed_methods, reason = "they stand for threads, and die with the process")]
    pub(super) fn start(
        world: &Arc<World>,
        queue: UnboundedReceiver<Op>,
        (health, ops): (watch::Sender<Health>, Weak<Queue>),
        freezes: Arc<ArcSwap<Freezes>>,
    ) {
        let (commits, committed) = channel(1);
        let shared = Shared { world: Arc::clone(world), health, ops, underway: Arc::default() };
        let writer = Self { shared: shared.clone(), queue, commits, freezes, unwritten: Vec::new() };
        tokio::spawn(sync(shared, committed));
        tokio::spawn(writer.run());
    }

    async fn run(mut self) {
        let mut closing = None;
        while closing.is_none() {
            let waited = if self.shared.health() == Health::Full || !self.unwritten.is_empty() {
                tokio::time::timeout(TRY_AGAIN, self.queue.recv()).await
            } else {
                Ok(self.queue.recv().await)
            };
            let mut batch = Vec::new();
            match waited {
                Ok(None) => return,
                Ok(first) => batch.extend(first),
                Err(_) => {}
            }
            self.shared.world.pause(Pause::Begin).await;
            while let Ok(op) = self.queue.try_recv() {
                batch.push(op);
            }
            let mut ops = Vec::new();
            for op in batch {
                if let Op::Close(answer) = op {
                    closing = Some(answer);
                } else {
                    ops.extend(self.read(op));
                }
            }
            self.write(ops).await;
        }
        self.stop().await;
        let _ = closing.map(|answer| answer.send(()));
    }

    /// Waits until all is synced, and says that it has stopped, behind the outcomes of what nobody waited for.
    async fn stop(mut self) {
        // The writer and the task that syncs hold it, too.
        let told = || Arc::strong_count(&self.shared.underway) == 2;
        while self.shared.health() != Health::Broken && !(self.shared.world.all_is_synced() && told()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        self.shared.world.alive().await;
        if self.shared.health() == Health::Broken {
            return;
        }
        let mut world = self.shared.world.lock();
        let mut draft = Draft::behind(&world.disk, Timestamp::now());
        while let Ok(op) = self.queue.try_recv() {
            if matches!(op, Op::Conclude(..)) {
                perform(&mut draft, &op);
            }
        }
        draft.note(Body::Stop {});
        world.disk.commit(draft);
        world.disk.sync();
        world.stopped_well(self.unwritten.is_empty() && self.shared.health() == Health::Writable);
    }

    /// Answers what only reads, and gives back the rest.
    fn read(&self, op: Op) -> Option<Op> {
        let readable = self.shared.health() != Health::Broken;
        let world = self.shared.world.lock();
        if let Op::Unresolved(until, answer) = op {
            let found = if readable { world.disk.standing.longest_waiting(until) } else { None };
            let _ = answer.send(found);
            return None;
        }
        let Op::Covered(covers, answer) = op else { return Some(op) };
        let _ = answer.send(readable.then(|| world.disk.standing.covered(&covers)));
        None
    }

    async fn write(&mut self, ops: Vec<Op>) {
        if self.shared.health() == Health::Full && self.shared.world.has_room_again() {
            self.shared.turn(Health::Writable);
        }
        let mut all = std::mem::take(&mut self.unwritten);
        all.extend(ops);
        if all.is_empty() {
            return;
        }
        match self.shared.health() {
            Health::Broken | Health::Unreachable => refuse(all),
            Health::Full => self.write_outcomes(all).await,
            Health::Writable => match self.shared.world.commit_fate() {
                CommitFate::Full => {
                    self.shared.turn(Health::Full);
                    self.write_outcomes(all).await;
                }
                fate @ (CommitFate::Done | CommitFate::Torn { .. } | CommitFate::InDoubt { .. }) => {
                    self.commit(all, fate).await;
                }
            },
        }
    }

    /// On a full disk: outcomes alone, in the room that was kept for them, if that is enough.
    async fn write_outcomes(&mut self, ops: Vec<Op>) {
        let (outcomes, rest): (Vec<Op>, Vec<Op>) = ops.into_iter().partition(|op| matches!(op, Op::Conclude(..)));
        refuse(rest);
        if outcomes.is_empty() {
            return;
        }
        if self.shared.world.reserve_is_enough() {
            return self.commit(outcomes, CommitFate::Done).await;
        }
        self.shared.world.happened(format_args!("{} outcomes found no room", outcomes.len()));
        for op in outcomes {
            if let Op::Conclude(seq, outcome, answered, by, receipt) = op {
                receipt.map(|receipt| receipt.send(Err(NotRecorded)));
                self.unwritten.push(Op::Conclude(seq, outcome, answered, by, None));
            }
        }
    }

    async fn commit(&mut self, ops: Vec<Op>, fate: CommitFate) {
        let mut draft = Draft::behind(&self.shared.world.lock().disk, Timestamp::now());
        let owed: Vec<Owed> = ops.iter().map(|op| perform(&mut draft, op)).collect();
        self.shared.world.pause(Pause::Commit).await;
        // A sync that failed meanwhile: whoever writes on cannot know behind what.
        if self.shared.health() == Health::Broken {
            return refuse(ops);
        }
        let length = self.keep(draft, fate);
        match fate {
            CommitFate::Done | CommitFate::Full => {
                self.freezes.store(Arc::new(self.shared.world.lock().disk.standing.freezes.clone()));
                if planted::is(Fault::AnsweredBeforeDurable) {
                    self.shared.answer(ops, owed);
                    let _ = self.commits.send(Unsynced { ops: Vec::new(), owed: Vec::new(), length }).await;
                    return;
                }
                let _ = self.commits.send(Unsynced { ops, owed, length }).await;
            }
            CommitFate::Torn { .. } => self.shared.break_down("a write failed", ops),
            CommitFate::InDoubt { kept } => self.look_up(ops, owed, kept).await,
        }
    }

    /// Puts it on the disk, if that is what becomes of it.
    fn keep(&self, draft: Draft, fate: CommitFate) -> usize {
        let kept = match fate {
            CommitFate::Done | CommitFate::Full => true,
            CommitFate::Torn { kept } | CommitFate::InDoubt { kept } => kept,
        };
        let mut world = self.shared.world.lock();
        let lines: Vec<String> = draft.added().iter().map(|committed| format!("{committed:?}")).collect();
        world.note(format_args!("commit ({fate:?}): {lines:?}"));
        if kept {
            world.disk.commit(draft);
        }
        let length = world.disk.log.len();
        drop(world);
        self.shared.world.happened(format_args!("committed up to {length}"));
        length
    }

    /// A commit without an answer: once it is known what became of it, intents are closed as never sent, and the rest is
    /// answered, or written again.
    async fn look_up(&mut self, ops: Vec<Op>, owed: Vec<Owed>, kept: bool) {
        self.shared.turn(Health::Unreachable);
        self.shared.world.pause(Pause::LookUp).await;
        {
            let mut world = self.shared.world.lock();
            world.disk.sync();
            self.freezes.store(Arc::new(world.disk.standing.freezes.clone()));
        }
        self.shared.turn(Health::Writable);
        for (op, owed) in ops.into_iter().zip(owed) {
            match (op, owed) {
                (Op::Intend(_, answer), Owed::Recorded { seq, request_id, .. }) if kept => {
                    let never = Outcome::never_sent(request_id);
                    self.unwritten.push(Op::Conclude(seq, never, None, By::Late, None));
                    let _ = answer.send(Intended::Unavailable);
                }
                (op @ Op::Conclude(..), _) if !kept => self.unwritten.push(op),
                (Op::Conclude(.., receipt), _) => drop(receipt.map(|receipt| receipt.send(Ok(())))),
                (op, _) => refuse(vec![op]),
            }
        }
    }
}

/// Does one thing in an open transaction.
fn perform(draft: &mut Draft, op: &Op) -> Owed {
    match op {
        Op::Intend(asked, _) => return draft.intend(asked),
        Op::Unfreeze(covers, reason, by, _) => {
            return Owed::Unfrozen(draft.unfreeze(covers.clone(), reason.clone(), by.clone()));
        }
        Op::Conclude(seq, outcome, answered, by, _) => draft.conclude(*seq, outcome.clone(), answered.clone(), *by),
        Op::Resolve(unresolved, resolution, _) => draft.resolve(unresolved, *resolution),
        Op::Postpone(unresolved, since, _) => draft.postpone(unresolved, *since),
        Op::Freeze(freeze, _) => draft.freeze(freeze.clone()),
        Op::Note(body) => draft.note(body.clone()),
        Op::Unresolved(..) | Op::Covered(..) | Op::Close(_) => {}
    }
    Owed::Nothing
}
