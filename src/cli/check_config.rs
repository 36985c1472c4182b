//! `check-config`: all faults, or all effective values with where each comes from.

use super::{Exit, page};
use crate::config::{self, Config, Fault};
use crate::ledger::postgres;
use crate::rate::Store;
use crate::server::Certificate;
use crate::upstream::Upstream;
use std::path::Path;

pub(super) fn run(file: &Path) -> Exit {
    let loaded = match config::load(file) {
        Ok(loaded) => loaded,
        Err(faults) => return page::faults(file, &faults),
    };
    let faults = of_files(&loaded.config);
    if !faults.is_empty() {
        return page::faults(file, &faults);
    }
    page::line(page::table(&["key", "value", "from"], loaded.effective.into_iter().map(Vec::from)));
    let warnings = loaded.warnings.len();
    for warning in loaded.warnings {
        page::complain(format_args!("warning: {warning}"));
    }
    page::line(format_args!("no faults, {warnings} {}", if warnings == 1 { "warning" } else { "warnings" }));
    Exit::Done
}

/// What is wrong with the files that a configuration names: the provider's key, certificates and their keys,
/// where the shared rates are.
pub(super) fn of_files(config: &Config) -> Vec<Fault> {
    let fault = |key: &str, what: String| Fault { key: key.to_owned(), source: "a file".to_owned(), what };
    let mut faults: Vec<Fault> =
        Upstream::faults(&config.upstream).into_iter().map(|(key, what)| fault(key, what)).collect();
    faults.extend(Store::faults(&config.limits).into_iter().map(|(key, what)| fault(key, what)));
    faults.extend(postgres::faults(&config.ledger).map(|what| fault("ledger", what)));
    for (key, tls) in [("listen.tls", &config.listen.tls), ("ops.tls", &config.ops.tls)] {
        faults.extend(tls.as_ref().and_then(|tls| Certificate::new(tls).err()).map(|what| fault(key, what)));
    }
    faults
}
