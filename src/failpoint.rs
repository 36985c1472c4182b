//! Named points at which a debug build can be made to die, so that tests can ask what a crash leaves behind.
//!
//! A release build has none of it: no point, no name of one, and no variable that arms them.

#[cfg(debug_assertions)]
mod armed;
#[cfg(test)]
#[path = "simulation/tests/planted.rs"]
pub(crate) mod planted;

#[cfg(debug_assertions)]
pub use armed::{Armed, arm};

/// Whether this build has failpoints at all.
pub const BUILT_IN: bool = cfg!(debug_assertions);

/// Does at this point what it was armed for, if it was.
#[inline]
pub fn hit(point: &'static str) {
    #[cfg(debug_assertions)]
    armed::hit(point);
    #[cfg(not(debug_assertions))]
    let _ = point;
}

/// Whether a fault is switched on. Never in a release build.
#[inline]
#[must_use]
pub fn is_on(switch: &'static str) -> bool {
    #[cfg(debug_assertions)]
    return armed::is_on(switch);
    #[cfg(not(debug_assertions))]
    {
        let _ = switch;
        false
    }
}
