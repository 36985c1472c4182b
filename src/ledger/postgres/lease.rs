//! How long this replica may forward: until the end of its lease, which is shorter here than in the database.
//!
//! After the lease another replica closes what is open as `unknown`. So nothing may be sent after it, by a process that
//! was stopped and wakes in between neither: while an intent is open, a kernel timer kills the process at the lease's
//! end. It counts through the machine's suspension. What it cannot see is a virtual machine that stands still.

use crate::clock::Uptime;
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What the lease is longer than a request's budget.
pub(super) const BEYOND_BUDGET: Duration = Duration::from_secs(10);
/// From one renewal to the next.
pub(super) const RENEW: Duration = Duration::from_secs(3);

/// How many intents are durable and could still be sent: from before they are answered until their end is known here.
pub(super) type Open = Arc<AtomicUsize>;

/// The lease of this process, in its own time.
pub(super) struct Lease {
    length: Duration,
    end: Uptime,
    open: Open,
    timer: Timer,
    armed_for: Option<Uptime>,
}

impl Lease {
    /// None yet. `length` is what the database is told.
    ///
    /// # Errors
    /// The system has no timer.
    pub(super) fn new(length: Duration, open: Open) -> nix::Result<Self> {
        let kill = SigEvent::new(SigevNotify::SigevSignal { signal: Signal::SIGKILL, si_value: 0 });
        let timer = Timer::new(ClockId::CLOCK_BOOTTIME, kill)?;
        Ok(Self { length, end: Uptime::now(), open, timer, armed_for: None })
    }

    /// What the database is told.
    pub(super) fn length(&self) -> Duration {
        self.length
    }

    /// Until when, in this process's time.
    pub(super) fn end(&self) -> Uptime {
        self.end
    }

    /// The database has said yes to a renewal that was sent at `asked` or later.
    pub(super) fn renewed(&mut self, asked: Uptime) {
        self.end = asked.after(self.length);
        self.guard();
    }

    /// So many intents are about to be answered.
    pub(super) fn opened(&mut self, intents: usize) {
        self.open.fetch_add(intents, Ordering::SeqCst);
        self.guard();
    }

    /// Sets the timer where an intent is open, and takes it back where none is. Called after each thing that the
    /// writer does, and more often than leases end.
    pub(super) fn guard(&mut self) {
        let wanted = (self.open.load(Ordering::SeqCst) > 0).then_some(self.end);
        if wanted == self.armed_for {
            return;
        }
        let at = wanted.map_or(Duration::ZERO, Uptime::since_start);
        match self.timer.set(Expiration::OneShot(at.into()), TimerSetTimeFlags::TFD_TIMER_ABSTIME) {
            Ok(()) => self.armed_for = wanted,
            Err(error) => tracing::error!(%error, "the timer of the lease cannot be set"),
        }
    }
}
