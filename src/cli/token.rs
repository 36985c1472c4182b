//! `token new`: a token for a caller or an operator.

use super::{Exit, page};
use crate::identity;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Print a new token once, and its SHA-256 for the configuration
    New,
}

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::New => match identity::new_token() {
            Ok((token, hash)) => {
                if page::line(format_args!("token   {token}")) && page::line(format_args!("sha256  {hash}")) {
                    page::complain(
                        "Give the token to the caller; it is shown this once. Put the hash into callers.tokens (an operator's: ops.operators.token_sha256).",
                    );
                }
                Exit::Done
            }
            Err(error) => {
                page::complain(format_args!("the system gives no randomness: {error}"));
                Exit::Unavailable
            }
        },
    }
}
