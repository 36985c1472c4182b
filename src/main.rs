//! argv in, exit code out.
#![forbid(unsafe_code)]

/// musl's allocator, which a static binary would get, takes one lock for all threads. Without huge pages: idle, they would
/// make up half of the memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    wasend_gateway::cli::run().into()
}
