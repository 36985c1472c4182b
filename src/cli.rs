//! The command line: a command a file. No command deletes a picture.

mod alone;
mod audit;
mod check_config;
mod demo;
mod explain;
mod freeze;
mod ledger;
mod migrate;
mod page;
mod place;
mod policy;
mod sandbox;
mod serve;
mod status;
mod token;

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// How a command ends; the README has the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// As asked.
    Done = 0,
    /// The answer is no.
    No = 1,
    /// The words or the configuration are wrong.
    Usage = 64,
    /// A store or a process is not there for us.
    Unavailable = 69,
    /// The ledger is broken.
    Damaged = 74,
    /// Restart me.
    Restart = 75,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

const EXITS: &str = "Exit codes:
  0   done
  1   the answer is no
  64  the command line or the configuration is wrong
  69  a store, an address or a process is not available, or stdout cannot be written
  74  the ledger is broken
  75  try again, or restart me; of freeze: something that it covers is still under way,
      or nobody knows whether it is frozen";

#[derive(Parser)]
#[command(name = "wasend-gateway", version = version(), about = "A guard in front of one irreversible API call: deleting WhatsApp group pictures", after_help = EXITS)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway
    Serve(File),
    /// Check a configuration and print its effective values, without secrets
    CheckConfig(File),
    /// Make a token for a caller or an operator: printed once, with the hash for the configuration
    Token {
        #[command(subcommand)]
        command: token::Command,
    },
    /// Say whether a caller may delete a group's picture, and by which rule
    Explain(explain::Options),
    /// Test, compare and show rules
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Stop deletions at once: all, a caller's, or a session's. 0 when nothing more is sent, 75 while something still is
    Freeze(freeze::Freezing),
    /// Take a freeze back
    Unfreeze(freeze::Unfreezing),
    /// What is frozen, and how the process that serves stands
    Status(status::Options),
    /// Make the ledger's schema in PostgreSQL, or bring it up to this version
    Migrate(File),
    /// Move the ledger
    Ledger {
        #[command(subcommand)]
        command: ledger::Command,
    },
    /// Ask the ledger
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Run a stand-in for the provider, in memory: nothing real happens
    Sandbox(sandbox::Options),
    /// Show it all: sandbox, gateway, a few deletions, and the ledger's record of them
    Demo(demo::Options),
}

#[derive(clap::Args)]
struct File {
    /// The configuration
    #[arg(long = "config", value_name = "FILE")]
    config: PathBuf,
}

fn version() -> String {
    format!("{} (SQLite {})", env!("CARGO_PKG_VERSION"), crate::ledger::sqlite::version())
}

/// Reads the command line and does what it says.
#[must_use]
pub fn run() -> Exit {
    let line = match Line::try_parse() {
        Ok(line) => line,
        Err(error) => {
            let is_printed = error.print();
            if error.use_stderr() {
                return Exit::Usage;
            }
            page::written(is_printed);
            return page::end(Exit::Done);
        }
    };
    if let Err(error) = serve::process::keep_memory_to_ourselves() {
        page::complain(format_args!("this process's memory can be dumped: {error}"));
    }
    page::end(match line.command {
        Command::Serve(file) => serve::run(&file.config),
        Command::CheckConfig(file) => check_config::run(&file.config),
        Command::Token { command } => token::run(&command),
        Command::Explain(options) => explain::run(&options),
        Command::Policy { command } => policy::run(&command),
        Command::Freeze(options) => freeze::freeze(&options),
        Command::Unfreeze(options) => freeze::unfreeze(&options),
        Command::Status(options) => status::run(&options),
        Command::Migrate(file) => migrate::run(&file.config),
        Command::Ledger { command } => ledger::run(&command),
        Command::Audit { command } => audit::run(&command),
        Command::Sandbox(options) => sandbox::run(options),
        Command::Demo(options) => demo::run(&options),
    })
}
