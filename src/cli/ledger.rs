//! `ledger`: what is done to a ledger as a whole.

mod copy;

use super::Exit;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Move the ledger of a folder to PostgreSQL: the same log goes on there. Nothing may be serving it
    Copy(copy::Options),
}

pub(super) fn run(command: &Command) -> Exit {
    match command {
        Command::Copy(options) => copy::run(options),
    }
}
