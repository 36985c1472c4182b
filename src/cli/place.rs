//! Which ledger a command means: that of a configuration of which nothing else has to be right, or that of a folder.

use super::{Exit, page};
use crate::config;
use crate::policy::Policy;
use std::path::{Path, PathBuf};

/// One of two.
#[derive(clap::Args)]
pub(super) struct Place {
    /// The configuration, of which only [ledger] has to be right
    #[arg(long, value_name = "FILE", required_unless_present = "ledger")]
    config: Option<PathBuf>,
    /// The ledger's folder, where the configuration is gone or cannot be read
    #[arg(long, value_name = "FOLDER", conflicts_with = "config")]
    ledger: Option<PathBuf>,
}

impl Place {
    pub(super) fn new(config: Option<PathBuf>, ledger: Option<PathBuf>) -> Self {
        Self { config, ledger }
    }

    /// The ledger that is meant.
    ///
    /// # Errors
    /// The exit, after it was said why.
    pub(super) fn section(&self) -> Result<config::Ledger, Exit> {
        match (&self.config, &self.ledger) {
            (Some(config), _) => section(config).inspect_err(|_| {
                page::complain("where it is a folder that is known, --ledger FOLDER names it instead of --config");
            }),
            (None, Some(folder)) if folder.is_dir() => Ok(config::Ledger::in_folder(folder)),
            (None, Some(folder)) => {
                page::complain(format_args!("--ledger {}: it is no folder; --config names a file", folder.display()));
                Err(Exit::Usage)
            }
            (None, None) => Err(Exit::Usage),
        }
    }

    /// The rules of the configuration, but for lists in other files. `None`: it has a fault, or is not named.
    pub(super) fn policy(&self) -> Option<Policy> {
        Some(Policy::new(&config::load_callers(self.config.as_deref()?)?))
    }

    /// The configuration, for a command line that is shown.
    pub(super) fn config(&self) -> std::path::Display<'_> {
        self.config.as_deref().unwrap_or(Path::new("FILE")).display()
    }
}

/// `[ledger]`, by a configuration of which nothing else has to be right.
///
/// # Errors
/// The exit, after it was said why.
pub(super) fn section(file: &Path) -> Result<config::Ledger, Exit> {
    let (ledger, elsewhere) = config::load_ledger(file).map_err(|faults| page::faults(file, &faults))?;
    for fault in elsewhere {
        page::complain(format_args!("warning: {fault}"));
    }
    Ok(ledger)
}
