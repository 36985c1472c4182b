//! The clocks of a simulated world: the monotonic one is the runtime's, which is paused and jumps from timer to timer; the
//! wall clock goes with it and can be stepped. Of one thread: everywhere else the real ones are read.

use super::{Moment, Timestamp};
use std::cell::Cell;
use uuid::{Builder, Uuid};

thread_local! {
    /// The wall clock's time at a moment.
    static WALL: Cell<Option<(Moment, Timestamp)>> = const { Cell::new(None) };
    static IDS: Cell<u64> = const { Cell::new(0) };
}

/// From now on this thread's clocks are simulated, and it is this time. Called inside of a paused runtime.
pub(crate) fn begin(wall: Timestamp) {
    WALL.set(Some((paused(), wall)));
}

/// The real clocks again; the row of request ids begins anew.
pub(crate) fn end() {
    WALL.set(None);
    IDS.set(0);
}

/// From now on the wall clock goes on from here.
pub(crate) fn step(to: Timestamp) {
    begin(to);
}

#[expect(clippy::disallowed_methods, reason = "the paused runtime's clock is the one of this world")]
fn paused() -> Moment {
    tokio::time::Instant::now().into_std()
}

pub(super) fn moment() -> Option<Moment> {
    WALL.get().map(|_| paused())
}

pub(super) fn wall() -> Option<Timestamp> {
    WALL.get().map(|(then, wall)| wall.after(paused().saturating_duration_since(then)))
}

/// The next request id.
pub(crate) fn next_id() -> Option<Uuid> {
    let now = wall()?;
    let number = IDS.get();
    IDS.set(number + 1);
    let mut random = [0; 10];
    random[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    random[8..].copy_from_slice(&u16::try_from(number % 0x1_0000).unwrap().to_be_bytes());
    let millis = u64::try_from(now.as_micros() / 1000).unwrap_or_default();
    Some(Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}
