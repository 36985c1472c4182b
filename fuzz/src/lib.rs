//! What must hold for any bytes. Each target is a module with one function, `hold`, which panics where it does not:
//! libFuzzer finds the bytes.

#[allow(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/gateway/corpus.rs"]
mod corpus;
pub mod files;
mod model;
pub mod records;
pub mod requests;
pub mod retry_after;
pub mod seeds;
pub mod targets;
mod world;

/// What the corpus needs of the tests.
mod running {
    pub(crate) const TOKEN: &str = "T";
}
