//! What the process asks of the system before it serves: that nobody reads its memory, enough descriptors, and threads
//! for callers, for the provider and for the operators' port.

use crate::config;
use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit, umask};
use std::num::NonZero;
use tokio::runtime::{Handle, Runtime};

/// For the operators' port, connections that are turned away, the ledger, the log, and files that a reload reads.
const KEPT: u64 = 192;
const CONNECTIONS_AT_LEAST: u64 = 16;

/// Before the first secret is in this memory: no core dumps of it, and no debugger or reader of `/proc` of the same user
/// (`prctl(2)`, `PR_SET_DUMPABLE`; `RLIMIT_CORE` for who looks whether there can be dumps).
///
/// # Errors
/// The system's: what it refused, the other is done all the same.
pub(in crate::cli) fn keep_memory_to_ourselves() -> std::io::Result<()> {
    let undumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(undumpable?)
}

/// What is written is for this user alone: group ids of the old form hold phone numbers.
pub(super) fn keep_files_to_ourselves() {
    umask(Mode::from_raw_mode(0o077));
}

/// A file that may not grow any longer (`RLIMIT_FSIZE`) is an error of the write, as a full disk is, and does not kill
/// the process without a word: so the signal has to be heard, though nobody listens. Within a runtime.
///
/// # Errors
/// The system's.
pub(super) fn outlive_long_files() -> std::io::Result<()> {
    let too_long = tokio::signal::unix::SignalKind::from_raw(nix::sys::signal::Signal::SIGXFSZ as i32);
    tokio::signal::unix::signal(too_long).map(drop)
}

/// The runtime of callers, with a thread for each core, and that of connections to the provider, which do less: a thread
/// for each two. More threads than cores only wake each other.
///
/// # Errors
/// The system's, when there are no threads to be had.
pub(super) fn runtimes() -> std::io::Result<(Runtime, Runtime)> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let runtime = |name: &str, threads| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).thread_name(name).enable_all().build()
    };
    Ok((runtime("callers", cores)?, runtime("provider", cores.div_ceil(2))?))
}

/// A runtime of one thread for the operators' port, which must answer whatever keeps the callers' threads busy. It runs
/// until the process ends.
///
/// # Errors
/// The system's, when there is no thread to be had.
pub(super) fn operators_runtime() -> std::io::Result<Handle> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let run = move || runtime.block_on(std::future::pending::<()>());
    std::thread::Builder::new().name("operators".to_owned()).spawn(run)?;
    Ok(handle)
}

/// Raises the limit of open files to what the configuration can need, and says how many connections there may be:
/// what the ledger and the provider need is kept apart from them.
///
/// # Errors
/// In words, when there are too few even so.
pub(super) fn connections(listen: &config::Listen) -> Result<usize, String> {
    let (wanted, requests) = (listen.max_connections as u64, listen.max_requests as u64);
    let limit = raised(wanted + requests + KEPT);
    let left = limit.saturating_sub(requests + KEPT);
    if left < CONNECTIONS_AT_LEAST {
        return Err(format!(
            "{limit} open files are too few for listen.max_requests = {requests}; raise the limit (LimitNOFILE, \
             ulimit -n) to at least {}, or lower listen.max_requests",
            requests + KEPT + CONNECTIONS_AT_LEAST
        ));
    }
    if left < wanted {
        tracing::warn!(
            open_files = limit,
            connections = left,
            "the limit of open files leaves room for fewer connections than listen.max_connections"
        );
    }
    Ok(usize::try_from(left.min(wanted)).unwrap_or(usize::MAX))
}

/// The soft limit of open files, raised as far as it may and has to be.
fn raised(needed: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (soft, hard) = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let aim = needed.min(hard);
    if soft >= aim {
        return soft;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(aim), maximum: limit.maximum }) {
        Ok(()) => aim,
        Err(_) => soft,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_memory_that_holds_the_key_is_not_dumped() {
        super::keep_memory_to_ourselves().unwrap();
        let is = rustix::process::dumpable_behavior().unwrap();
        assert_eq!(is, rustix::process::DumpableBehavior::NotDumpable);
        let core = rustix::process::getrlimit(rustix::process::Resource::Core);
        assert_eq!((core.current, core.maximum), (Some(0), Some(0)));
    }
}
