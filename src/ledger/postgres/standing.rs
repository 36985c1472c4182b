//! What makes a replica able to write: a connection, a ledger that is where it was left, no doubt, and a lease. And
//! what it does for those that died.

use super::batch::Ended;
use super::lease::RENEW;
use super::op::{Concluding, hold};
use super::plan::{Asked, Known, Plan};
use super::session::Fault;
use super::statements::Writing;
use super::writer::{Writer, asked_now};
use crate::clock::{Timestamp, moment, since};
use crate::failpoint;
use crate::id::RequestId;
use crate::ledger::entry::{Body, Encoded, Outcome};
use crate::ledger::glance::Glance;
use crate::ledger::{Health, OpenError};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// More than an answer may take.
const CLOCKS_DIFFER_US: u64 = 10_000_000;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const PAUSE_AT_MOST: Duration = Duration::from_secs(5);
const GAP: &str = "a replica did not stop by itself; refusals that it had only counted are lost";

impl Writer {
    /// Whether a batch can be written now; does what is missing for it. Waits at most as long as a connection may take.
    pub(super) async fn is_ready(&mut self) -> bool {
        let was_away = self.database.is_none();
        if was_away && !self.reconnect().await {
            self.set_health(Health::Unreachable);
            return false;
        }
        let due = self.asked_for_lease.is_none_or(|asked| since(asked) >= RENEW);
        if (was_away || due || !self.is_registered) && !self.renew().await {
            self.set_health(Health::Unreachable);
            return false;
        }
        // Else a new connection that is unfit, too, would be followed by the next one at once.
        if !self.refused {
            (self.failures, self.failed) = (0, None);
            self.taken();
        }
        self.health() != Health::Broken
    }

    /// An entry was taken, or nothing speaks against it.
    pub(super) fn taken(&mut self) {
        self.refused = false;
        if self.health() == Health::Unreachable {
            tracing::info!("the ledger can be written again");
        }
        self.set_health(Health::Writable);
    }

    /// The database answers, and takes no entries: its disk is full, say, or a right is missing. It is said once.
    pub(super) fn not_taken(&mut self, fault: &Fault) {
        if !std::mem::replace(&mut self.refused, true) {
            tracing::error!(%fault, "the ledger takes no entries: nothing was written, it is tried again and again");
        }
        self.set_health(Health::Unreachable);
    }

    /// After a refusal: whether an entry would be taken now. Else nobody would find out, since who is not ready is not
    /// asked for deletions.
    pub(super) async fn try_out(&mut self) {
        let Some(database) = self.database.as_mut().filter(|_| self.refused) else { return };
        let known = match database.lock_and_learn(&Asked::default(), &self.who.id).await {
            Ok((known, _)) => known,
            Err(fault) => return self.give_back_after(&fault).await,
        };
        match database.try_out(&Plan::trial(known), &self.who.id).await {
            Ended::Committed => self.taken(),
            Ended::Refused(_) => {}
            Ended::Doubtful(fault) => self.lost(&fault),
        }
    }

    /// Ends a transaction that the database refused, or the connection that was lost. Over a new one it may be fit, and
    /// may be so again and again: that is waited for as for a database that is away.
    pub(super) async fn give_back_after(&mut self, fault: &Fault) {
        match fault {
            Fault::Refused(..) => self.give_back().await,
            Fault::Lost(_) => self.lost(fault),
            Fault::Unfit(_) => {
                self.lost(fault);
                self.failed_again();
            }
        }
    }

    fn failed_again(&mut self) {
        (self.failures, self.failed) = (self.failures.saturating_add(1), Some(moment()));
    }

    /// From one attempt to connect to the next: twice as long each time, at most five seconds, and up to half as much
    /// again, so that replicas that lost it together do not come back together.
    pub(super) fn back_off(&self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.saturating_sub(1).min(6)).min(PAUSE_AT_MOST);
        let half_ms = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX).max(1);
        pause + Duration::from_millis(RequestId::new().spread() % half_ms)
    }

    async fn reconnect(&mut self) -> bool {
        if self.failed.is_some_and(|failed| since(failed) < self.back_off() / 2) {
            return false;
        }
        let opened = {
            let place = self.place.clone();
            let mut opening = Box::pin(async move { Writing::open(&place).await });
            loop {
                tokio::select! {
                    biased;
                    opened = &mut opening => break opened,
                    Some(op) = self.queue.recv() => {
                        self.see(&op);
                        self.unwritten.extend(hold(vec![op]));
                        self.lease.guard();
                    }
                }
            }
        };
        let settled = match opened {
            Ok(database) => {
                self.database = Some(database);
                self.settle().await
            }
            Err(error) => Err(Fault::Lost(error.to_string())),
        };
        let Err(fault) = settled else { return true };
        self.database = None;
        if self.failures == 0 {
            tracing::error!(%fault, "the ledger cannot be written: it takes no intents until the database is back");
        }
        self.failed_again();
        false
    }

    /// On a new connection: is what was committed still there, and is what was in doubt? Locking the head row waits for
    /// whoever had it, which may be our own backend that still commits. What was pruned is not lost: the newest entry
    /// stands for it.
    async fn settle(&mut self) -> Result<(), Fault> {
        let Some(database) = self.database.as_mut() else { return Ok(()) };
        let (known, _) = database.lock_and_learn(&Asked::default(), &self.who.id).await?;
        let latest = match &self.latest {
            Some((seq, _)) => database.entries(*seq, seq + 1).await?.pop(),
            None => None,
        };
        // Behind the head's lock: whoever deletes has said before from where on the log is kept.
        let standing_in = match &self.latest {
            Some((seq, _)) if latest.is_none() && *seq < known.length && *seq < database.first().await? => {
                database.entries(known.length - 1, known.length).await?.pop()
            }
            Some(_) | None => None,
        };
        let doubtful = match &self.doubt {
            Some(doubt) => database.entries(doubt.base, doubt.base + doubt.entries.len() as u64).await?,
            None => Vec::new(),
        };
        database.roll_back().await?;
        if standing_in.is_some() {
            tracing::info!("the last entry that this replica knew was pruned: it goes by the newest one from now on");
            self.latest = standing_in;
        } else if let Some((seq, _)) = &self.latest
            && latest != self.latest
        {
            let what = match latest {
                None => format!("its head is at {} entries, and entry {seq} is gone", known.length),
                Some(_) => format!("entry {seq} is another one now"),
            };
            self.break_down(&what);
            return Err(Fault::Unfit(what));
        }
        if let Some(doubt) = self.doubt.take() {
            let is_there = doubtful.iter().map(|(_, bytes)| bytes).eq(&doubt.entries);
            tracing::warn!(
                is_there,
                first = doubt.base,
                entries = doubt.entries.len(),
                "a commit that had no answer was looked up"
            );
            if is_there && let Some(last) = doubtful.into_iter().last() {
                self.latest = Some(last);
            }
            self.unwritten.extend(doubt.settled(is_there));
        }
        Ok(())
    }

    /// Renews the lease, or takes one where there is none; then buries the dead.
    async fn renew(&mut self) -> bool {
        let ((asked, from), before) = (asked_now(), Timestamp::now());
        self.asked_for_lease = Some(asked);
        let length = self.lease.length();
        self.who.policy = self.seen.policy.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(database) = self.database.as_mut() else { return false };
        if !self.is_registered {
            // A new name: what was left open under the old one is another replica's to close, or closed.
            self.who.id = RequestId::new().to_string();
            if let Err(fault) = database.register(&self.who, length).await {
                self.lost(&fault);
                return false;
            }
            self.is_registered = true;
        }
        let renewed = match database.renew(&self.who, length).await {
            Ok(renewed) => renewed,
            Err(fault) => {
                self.lost(&fault);
                return false;
            }
        };
        if !renewed.is_fit {
            let what = "fsync or full_page_writes is off now: a crash could take back what was committed; set them on";
            self.lost(&Fault::Unfit(what.to_owned()));
            return false;
        }
        if !renewed.is_ours {
            tracing::warn!("another replica took this one for dead, since its lease was over: it takes a new one");
            self.is_registered = false;
            self.asked_for_lease = None;
            return false;
        }
        self.lease.renewed(from);
        self.frozen(&renewed.freezes);
        self.metrics.unresolved.set(renewed.unresolved);
        self.compare_clocks(before, renewed.now);
        self.seen.trouble("replicas-differ", !renewed.others.is_empty());
        if renewed.others != self.others {
            if renewed.others.is_empty() {
                tracing::info!("all replicas are of one version and policy");
            } else {
                tracing::warn!(
                    version = self.who.version,
                    policy = self.who.policy,
                    others = renewed.others.join("; "),
                    "replicas differ"
                );
            }
            self.others = renewed.others;
        }
        if renewed.somebody_died
            && let Err(error) = self.bury(false).await
        {
            tracing::error!(%error, "what a dead replica left open could not be closed");
        }
        self.database.is_some()
    }

    /// Entries go by the database's clock, which was asked for since `before`; rules, tokens and the log of this process
    /// by its own.
    pub(super) fn compare_clocks(&self, before: Timestamp, database: Timestamp) {
        let off_us = ahead_us(before, database, Timestamp::now());
        self.seen.off_us.store(off_us, Ordering::Relaxed);
        let differs = off_us.unsigned_abs() >= CLOCKS_DIFFER_US;
        if self.seen.trouble("clock-differs", differs) {
            let off_s = off_us / 1_000_000;
            if differs {
                tracing::warn!(off_s, "this replica's clock is not that of the database: set one of them right");
            } else {
                tracing::info!(off_s, "this replica's clock is that of the database again");
            }
        }
    }

    /// Removes replicas whose lease is over, and closes what they left open as `unknown`, exactly once: the head row is
    /// locked. With `starting`, this replica begins in the same transaction. Returns how many were closed.
    ///
    /// # Errors
    /// In words; then nothing has happened, or another replica will do it.
    pub(super) async fn bury(&mut self, starting: bool) -> Result<u64, OpenError> {
        let length = self.lease.length();
        let (asked, from) = asked_now();
        let Some(database) = self.database.as_mut() else { return Ok(0) };
        let buried = async {
            let (known, _) = database.lock_and_learn(&Asked::default(), &self.who.id).await?;
            let (dead, left) = database.bury(&self.who.id).await?;
            if starting {
                database.register(&self.who, length).await?;
            }
            Ok::<_, Fault>((known, dead, left))
        };
        let (known, dead, left) = match buried.await {
            Ok(buried) => buried,
            Err(fault) => {
                self.give_back().await;
                return Err(fault.into());
            }
        };
        let plan = match last_words(known, dead, left, starting) {
            Ok(plan) => plan,
            Err(error) => {
                self.give_back().await;
                return Err(error);
            }
        };
        failpoint::hit("recovery-before-commit");
        let closed = plan.landed.len() as u64;
        let Some(database) = self.database.as_mut() else { return Ok(0) };
        match database.write(&plan, &self.who.id).await {
            Ended::Committed => {}
            Ended::Refused(fault) | Ended::Doubtful(fault) => {
                self.give_back().await;
                return Err(fault.into());
            }
        }
        failpoint::hit("recovery-after-commit");
        self.advance(plan);
        if starting {
            self.is_registered = true;
            self.asked_for_lease = Some(asked);
            self.lease.renewed(from);
        }
        if closed > 0 {
            tracing::warn!(
                intents = closed,
                replicas = dead,
                "intents of a dead replica had no outcome: they are unknown now"
            );
        }
        Ok(closed)
    }
}

/// How far the clock that said `before` and `after` is ahead of the one that was asked in between. How long the answer
/// took is most likely half of it the way there, and half of it the way back.
fn ahead_us(before: Timestamp, asked: Timestamp, after: Timestamp) -> i64 {
    let (before, after) = (before.as_micros(), after.as_micros());
    before.saturating_add(after.saturating_sub(before) / 2).saturating_sub(asked.as_micros())
}

/// What is written for the dead. Each intent has to be one: what is concluded here cannot be taken back.
fn last_words(known: Known, dead: u64, left: Vec<(u64, String, Vec<u8>)>, starting: bool) -> Result<Plan, OpenError> {
    let damaged = |seq: u64| OpenError::Damaged(format!("entry {seq} is said to be in flight, but is no such intent"));
    let mut plan = Plan::behind(known);
    let recovered = left.len() as u64;
    let mut write = || -> serde_json::Result<Result<(), OpenError>> {
        for (seq, request_id, bytes) in &left {
            let intended = Glance::at(*seq, bytes).ok().and_then(|entry| entry.intended());
            let Some((id, _)) = intended.filter(|(id, _)| id.to_string() == *request_id) else {
                return Ok(Err(damaged(*seq)));
            };
            plan.conclude(*seq, &Concluding::new(Outcome::unknown(id), None)?);
        }
        for _ in 0..dead {
            plan.append(&Encoded::new(&Body::Gap { reason: GAP, previous: None })?);
        }
        if starting {
            plan.append(&Encoded::new(&Body::Start { version: env!("CARGO_PKG_VERSION"), recovered })?);
        }
        Ok(Ok(()))
    };
    write().map_err(|e| OpenError::Unusable(e.to_string()))??;
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_comes_late_makes_no_clock_differ() {
        for (before, database, after, ahead) in [(5, 5, 5, 0), (0, 4, 8, 0), (100, 4, 108, 100), (0, 104, 8, -100)] {
            let [before, database, after] = [before, database, after].map(Timestamp::from_micros);
            assert_eq!(ahead_us(before, database, after), ahead, "{before} {database} {after}");
        }
    }
}
