//! A guard in front of one irreversible API call.
#![forbid(unsafe_code)]
pub mod clock;
pub mod error;
pub mod head;
pub mod id;
pub mod problem;
pub mod secret;
pub mod config;
pub mod gateway;
pub mod identity;
pub mod ledger;
pub mod policy;
pub mod rate;
pub mod server;
pub mod tasks;
pub mod telemetry;
pub mod upstream;
