//! A guard in front of one irreversible API call.
//!
//! A request comes in by [`server`], which reads its bytes strictly ([`head`]), and goes down the path of [`gateway`]: who
//! calls ([`identity`]), may they ([`policy`]), how fast ([`rate`]); then the intent is durable in the [`ledger`], and only
//! then does [`upstream`] send it, once; the outcome is durable before the caller hears it ([`problem`]). What operators do
//! is a command ([`cli`]). ARCHITECTURE.md has the rest.
#![forbid(unsafe_code)]
pub mod cli;
pub mod clock;
pub mod config;
pub mod error;
pub mod failpoint;
pub mod gateway;
pub mod head;
pub mod id;
pub mod identity;
pub mod ledger;
pub mod plain;
pub mod policy;
pub mod problem;
pub mod rate;
pub mod resolver;
pub mod sandbox;
pub mod secret;
pub mod server;
#[cfg(test)]
#[path = "simulation/tests.rs"]
mod simulation;
pub mod tasks;
pub mod telemetry;
pub mod upstream;
