//! argv in, exit code out.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    wasend_gateway::cli::run().into()
}
