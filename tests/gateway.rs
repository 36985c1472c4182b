//! Drives the real binary from outside: raw sockets in front of it, a scripted provider behind it, and its
//! ledger read by its own commands. Nothing here knows the code.
#![cfg(test)]
#![allow(clippy::disallowed_methods, reason = "tests wait with a deadline")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what a failing test has to say")]
#![allow(unreachable_pub, clippy::clone_on_ref_ptr, reason = "no one imports a test")]

#[path = "gateway/admitting.rs"]
mod admitting;
#[path = "gateway/answers.rs"]
mod answers;
#[path = "gateway/asking.rs"]
mod asking;
#[path = "gateway/backup.rs"]
mod backup;
#[path = "gateway/braking.rs"]
mod braking;
#[path = "gateway/clients.rs"]
mod clients;
#[path = "gateway/cluster.rs"]
mod cluster;
#[path = "gateway/configuration.rs"]
mod configuration;
#[path = "gateway/corpus.rs"]
mod corpus;
#[path = "gateway/crash.rs"]
mod crash;
#[path = "gateway/crowding.rs"]
mod crowding;
#[path = "gateway/desync.rs"]
mod desync;
#[path = "gateway/erratic.rs"]
mod erratic;
#[path = "gateway/evidence.rs"]
mod evidence;
#[path = "gateway/faults.rs"]
mod faults;
#[path = "gateway/freezing.rs"]
mod freezing;
#[path = "gateway/fronted.rs"]
mod fronted;
#[path = "gateway/full.rs"]
mod full;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "gateway/injected.rs"]
mod injected;
#[path = "postgres/instance.rs"]
mod instance;
#[path = "gateway/misplayed.rs"]
mod misplayed;
#[path = "gateway/moving.rs"]
mod moving;
#[path = "gateway/moving_again.rs"]
mod moving_again;
#[path = "gateway/mutated.rs"]
mod mutated;
#[path = "gateway/mutual.rs"]
mod mutual;
#[path = "gateway/odd_answers.rs"]
mod odd_answers;
#[path = "gateway/old.rs"]
mod old;
#[path = "gateway/operators.rs"]
mod operators;
#[path = "gateway/others.rs"]
mod others;
#[path = "gateway/panics.rs"]
mod panics;
#[path = "gateway/platter.rs"]
mod platter;
#[path = "gateway/plays.rs"]
mod plays;
#[path = "gateway/policies.rs"]
mod policies;
#[path = "gateway/power.rs"]
mod power;
#[path = "gateway/promises.rs"]
mod promises;
#[path = "gateway/provider.rs"]
mod provider;
#[path = "gateway/proving.rs"]
mod proving;
#[path = "gateway/proxied.rs"]
mod proxied;
#[path = "gateway/prune.rs"]
mod prune;
#[path = "gateway/prune_full.rs"]
mod prune_full;
#[path = "gateway/pruned.rs"]
mod pruned;
#[path = "gateway/pruning_replicas.rs"]
mod pruning_replicas;
#[path = "gateway/rates.rs"]
mod rates;
#[path = "gateway/record.rs"]
mod record;
#[path = "gateway/redis.rs"]
mod redis;
#[path = "gateway/reloading.rs"]
mod reloading;
#[path = "gateway/replicas.rs"]
mod replicas;
#[path = "gateway/requests.rs"]
mod requests;
#[path = "gateway/resolving.rs"]
mod resolving;
#[path = "gateway/restoring.rs"]
mod restoring;
#[path = "gateway/restoring_again.rs"]
mod restoring_again;
#[path = "gateway/restoring_replicas.rs"]
mod restoring_replicas;
#[path = "gateway/running.rs"]
mod running;
#[path = "gateway/sandbox.rs"]
mod sandbox;
#[path = "gateway/sealing.rs"]
mod sealing;
#[path = "gateway/searched.rs"]
mod searched;
#[path = "gateway/secrets.rs"]
mod secrets;
#[path = "gateway/shared_rates.rs"]
mod shared_rates;
#[path = "gateway/shutdown.rs"]
mod shutdown;
#[path = "gateway/signalled.rs"]
mod signalled;
#[path = "gateway/signed.rs"]
mod signed;
#[path = "gateway/soak.rs"]
mod soak;
#[path = "gateway/starved.rs"]
mod starved;
#[path = "gateway/steps.rs"]
mod steps;
#[path = "gateway/stopping.rs"]
mod stopping;
#[path = "gateway/tls.rs"]
mod tls;
#[path = "gateway/unreached.rs"]
mod unreached;
#[path = "gateway/unwritten.rs"]
mod unwritten;
#[path = "gateway/wedge.rs"]
mod wedge;
#[path = "gateway/wire.rs"]
mod wire;
#[path = "gateway/wire_forms.rs"]
mod wire_forms;
