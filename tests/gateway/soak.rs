//! How much the crash tests do, and the numbers that they choose by chance.

use std::hash::{BuildHasher, Hasher, RandomState};

/// How many of `full` are done: a fiftieth, or as many fiftieths as `WASEND_SOAK` says (`make soak`: 50).
pub fn count(full: usize) -> usize {
    let fiftieths = std::env::var("WASEND_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    (full * fiftieths).div_ceil(50).min(full)
}

/// Chance that can be had again: its seed is printed, and `WASEND_SEED` sets it.
pub struct Random(u64);

/// Where chance begins; it is printed.
pub fn seed() -> u64 {
    let by_chance = || RandomState::new().build_hasher().finish();
    let seed = std::env::var("WASEND_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(by_chance);
    println!("WASEND_SEED={seed}");
    seed
}

impl Random {
    pub fn new() -> Self {
        Self(seed())
    }

    /// Chance for one thing alone, by its number: the same in whatever order they come.
    pub fn of(&self, number: u64) -> Self {
        Self(self.0 ^ number.wrapping_mul(0xd134_2543_de82_ef95))
    }

    /// A number below `bound` (splitmix64).
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % bound.max(1) as u64).unwrap()
    }
}
