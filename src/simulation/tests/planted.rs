//! Faults that the simulation plants on purpose, to see that it would find them. Each stands as a `cfg(test)` seam in the
//! code that it makes faulty, so that no build but that of the tests has any of it.

use std::cell::Cell;

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// An intent is answered before it is durable.
    AnsweredBeforeDurable,
    /// What was recorded is sent, though it was frozen since.
    SentThoughFrozen,
    /// A freeze does not name what is still under way, so that nobody waits for it.
    FreezeDoesNotWait,
    /// A DELETE whose answer was lost is sent again.
    SentAgain,
    /// A lost answer counts as a connection that was never there.
    ReadIsNotSent,
    /// The work goes with the caller who hangs up.
    WorkGoesWithItsCaller,
    /// Who asks again with a key waits for ever.
    NeverAnswered,
}

thread_local! {
    static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
}

/// Plants this fault in this thread, instead of what was planted before.
pub(crate) fn plant(fault: Option<Fault>) {
    PLANTED.set(fault);
}

/// Whether this fault is planted in this thread.
pub(crate) fn is(fault: Fault) -> bool {
    PLANTED.get() == Some(fault)
}
