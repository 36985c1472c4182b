//! The configuration: compiled-in defaults, one file, the environment, in this order.
//!
//! All faults are reported together, each with its key, where the value came from, and what to do.
//! The only place that reads the environment.

#![expect(clippy::wildcard_enum_match_arm, reason = "every kind of value that is not named is shown as it is")]

mod alone;
mod budget;
mod callers;
mod expected;
pub mod file;
mod identity;
pub mod json;
mod jwks;
mod ledger;
mod limits;
mod listen;
mod operators;
mod reload;
mod resolver;
mod rules;
mod section;
#[cfg(test)]
mod tests;
mod upstream;

pub use alone::{load_callers, load_ledger};
pub use budget::{Budget, OnExhausted, Per};
pub use callers::{Caller, Rate, Token};
pub use expected::Expected;
pub use identity::{CertificateName, Issuer, Jwt};
pub use jwks::{Key, PublicKey};
pub use ledger::{Ledger, Postgres};
pub use limits::{Limits, Redis};
pub use listen::{ClientAuth, Listen, Ops, Tls};
pub use operators::{Operator, Role};
pub use reload::Reload;
pub use resolver::Resolver;
pub use rules::{Listed, Rule};
pub use section::Fault;
pub use upstream::{Confirm, Upstream};

use crate::clock::Timestamp;
#[cfg(debug_assertions)]
use crate::failpoint::Armed;
use crate::telemetry::Format;
use ::config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};
use file::Seen;
use section::{Reading, Section};
use std::path::{Path, PathBuf};

/// `config/default.toml`, compiled in.
pub const DEFAULTS: &str = include_str!("../config/default.toml");
/// A configuration is written by people.
const FILE_AT_MOST: u64 = 16 * 1024 * 1024;
const PREFIX: &str = "WASEND_GATEWAY";
/// Arms failpoints, in debug builds.
#[cfg(debug_assertions)]
const FAILPOINTS: &str = "WASEND_GATEWAY_FAILPOINTS";

/// A configuration without a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)] // each is documented in config/default.toml
pub struct Config {
    pub listen: Listen,
    pub ops: Ops,
    pub upstream: Upstream,
    pub ledger: Ledger,
    pub resolver: Resolver,
    pub reload: Reload,
    pub limits: Limits,
    pub rates: Vec<Rate>,
    pub log: Log,
    pub callers: Vec<Caller>,
    pub issuers: Vec<Issuer>,
}

/// How to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Log {
    pub level: tracing::Level,
    pub format: Format,
}

/// What was read, with what may be printed of it.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What works, but is probably not meant.
    pub warnings: Vec<String>,
    /// Key, value (hashes as `***`) and source of every setting.
    pub effective: Vec<[String; 3]>,
    /// Where this process is to fail.
    #[cfg(debug_assertions)]
    pub failpoints: Armed,
}

/// Reads and checks everything.
///
/// # Errors
/// Every fault of the file and the environment, at once.
pub fn load(file: &Path) -> Result<Loaded, Vec<Fault>> {
    load_seen(file).0
}

/// The same, with what each file that it is made of was when it was read: the configuration and its lists of groups.
pub fn load_seen(file: &Path) -> (Result<Loaded, Vec<Fault>>, Vec<Seen>) {
    let reading = reading(file);
    (load_with(file, &reading), reading.files.take())
}

fn load_with(file: &Path, reading: &Reading) -> Result<Loaded, Vec<Fault>> {
    let merged = merge(file, reading)?;
    let effective = effective(&merged);
    let mut root = Section::new(String::new(), merged, reading.clone());
    let config = read(&mut root);
    root.finish();
    #[cfg(debug_assertions)]
    let failpoints = failpoints().unwrap_or_else(|what| {
        let (key, source) = (FAILPOINTS.into(), "the environment".into());
        reading.faults.borrow_mut().push(Fault { key, source, what });
        Armed::default()
    });
    let faults = reading.faults.take();
    if faults.is_empty() {
        #[allow(unused_mut, reason = "failpoints add to them, in debug builds")]
        let mut warnings = warnings(&config);
        #[cfg(debug_assertions)]
        if !failpoints.is_empty() {
            warnings.push(format!("{FAILPOINTS} is set: this process is made to fail at {failpoints}"));
        }
        Ok(Loaded {
            config,
            warnings,
            effective,
            #[cfg(debug_assertions)]
            failpoints,
        })
    } else {
        Err(faults)
    }
}

/// Where this process is to fail.
///
/// # Errors
/// What is wrong with the variable that says so.
#[cfg(debug_assertions)]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn failpoints() -> Result<Armed, String> {
    Armed::parse(&std::env::var(FAILPOINTS).unwrap_or_default())
}

fn reading(file: &Path) -> Reading {
    let folder = file.parent().map(Path::to_path_buf).unwrap_or_default();
    let folder = std::path::absolute(&folder)
        .unwrap_or_else(|_| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder });
    let (faults, files, lists) = Default::default();
    Reading { faults, file: file.display().to_string(), folder, files, lists, without_files: false }
}

fn merge(file: &Path, reading: &Reading) -> Result<Map<String, Value>, Vec<Fault>> {
    let text = reading.read_text(file, FILE_AT_MOST);
    merge_text(file, text.map_err(|e| vec![Fault::of(file, format!("cannot be read: {e}"))])?)
}

/// The defaults, the file's text and the environment.
fn merge_text(file: &Path, text: String) -> Result<Map<String, Value>, Vec<Fault>> {
    let fault = |what: String| vec![Fault::of(file, what)];
    let environment = Environment::with_prefix(PREFIX).prefix_separator("__").separator("__");
    let merged = ::config::Config::builder()
        .add_source(File::from_str(DEFAULTS, FileFormat::Toml))
        .add_source(Named { name: file.display().to_string(), text })
        .add_source(environment)
        .build()
        .map_err(|e| fault(format!("is not TOML: {}", without_source(&e.to_string()))))?;
    merged.collect().map_err(|e| fault(e.to_string()))
}

/// What is wrong and where, without the lines of the file that come with it: somebody may have written a secret there,
/// and a reload tells the log.
fn without_source(said: &str) -> String {
    let quoted = |line: &str| line.trim_start_matches(|c: char| c == ' ' || c.is_ascii_digit()).starts_with('|');
    said.lines().filter(|line| !quoted(line)).collect::<Vec<_>>().join("\n")
}

/// A file's text whose values know the file's name.
#[derive(Debug, Clone)]
struct Named {
    name: String,
    text: String,
}

impl Source for Named {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ::config::ConfigError> {
        use ::config::Format as _;
        FileFormat::Toml.parse(Some(&self.name), &self.text).map_err(::config::ConfigError::Foreign)
    }
}

fn read(root: &mut Section) -> Config {
    let (limits, rates) = Limits::read(root.table_or_empty("limits"));
    let mut log = root.table_or_empty("log");
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
    ];
    let formats = [("auto", Format::Auto), ("text", Format::Text), ("json", Format::Json)];
    let (level, format) = (log.one_of("level", &levels), log.one_of("format", &formats));
    log.finish();
    let (ops, callers) = (Ops::read(root.table_or_empty("ops")), Caller::read_all(root));
    Operator::tell_apart(&ops.operators, &callers, root);
    let issuers = Issuer::read_all(root);
    Jwt::tell_apart(&issuers, &callers, root);
    Config {
        listen: Listen::read(root.table_or_empty("listen")),
        ops,
        upstream: Upstream::read(root.table_or_empty("upstream")),
        ledger: Ledger::read(root.table_or_empty("ledger"), &callers),
        resolver: Resolver::read(root.table_or_empty("resolver")),
        reload: Reload::read(root.table_or_empty("reload")),
        limits,
        rates,
        log: Log { level: level.unwrap_or(tracing::Level::INFO), format: format.unwrap_or(Format::Auto) },
        callers,
        issuers,
    }
}

fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.callers.is_empty() {
        warnings.push("there are no callers: every request will be refused".to_owned());
    }
    if config.ledger.postgres.is_some() && config.ledger.checkpoint_copy.is_none() {
        let what = "ledger.checkpoint_copy is not set: where the database loses entries, in a failover say, a start has \
                    nothing to hold it against and goes on with another log";
        warnings.push(what.to_owned());
    }
    if config.rates.is_empty() {
        warnings.push("limits.rates is empty: all callers together have no rate".to_owned());
    }
    if config.upstream.confirm == Confirm::Any2xx {
        warnings
            .push("upstream.confirm = \"any-2xx\": an answer that is not documented counts as a deletion".to_owned());
    }
    for operator in config.ops.operators.iter().filter(|operator| operator.tokens.is_empty()) {
        warnings.push(format!("operator `{}` has no tokens: it cannot ask", operator.name));
    }
    let asks_for_certificates = config.listen.tls.as_ref().is_some_and(|tls| tls.client_auth.is_some());
    warnings.extend(identity::warnings(&config.issuers, &config.callers, asks_for_certificates));
    let now = Timestamp::now();
    for caller in &config.callers {
        let name = &caller.name;
        if caller.allow.is_empty() {
            warnings.push(format!("caller `{name}` has no allow rules: everything is refused"));
        }
        if caller.rates.is_empty() {
            warnings.push(format!("caller `{name}` has no rates"));
        }
        let names_any = || caller.allow.iter().flat_map(|rule| &rule.sessions).any(|session| session.contains('*'));
        if !caller.rates.is_empty() && caller.rates.iter().all(|rate| rate.per == Per::Session) && names_any() {
            warnings.push(format!("caller `{name}` has rates per session alone: with ever other sessions it has none"));
        }
        if caller.budgets.is_empty() {
            warnings.push(format!("caller `{name}` has no budgets"));
        }
        for token in caller.tokens.iter().filter(|t| t.expires.is_some_and(|at| at <= now)) {
            warnings.push(format!("token `{}` of caller `{name}` has expired", token.id));
        }
        warnings.extend(rules::warnings(caller, now));
    }
    warnings
}

fn effective(merged: &Map<String, Value>) -> Vec<[String; 3]> {
    let mut rows = Vec::new();
    for (key, value) in merged {
        flatten(key, value, &mut rows);
    }
    rows.sort();
    rows
}

fn flatten(key: &str, value: &Value, rows: &mut Vec<[String; 3]>) {
    match &value.kind {
        ValueKind::Table(table) => {
            table.iter().for_each(|(name, value)| flatten(&format!("{key}.{name}"), value, rows))
        }
        ValueKind::Array(items) if items.iter().any(|i| matches!(i.kind, ValueKind::Table(_))) => {
            items.iter().enumerate().for_each(|(index, item)| flatten(&format!("{key}[{index}]"), item, rows));
        }
        _ => {
            let shown = if key.ends_with("sha256") { "***".to_owned() } else { shown(value) };
            rows.push([key.to_owned(), shown, value.origin().unwrap_or("default").to_owned()]);
        }
    }
}

fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        ValueKind::String(text) => format!("{text:?}"),
        _ => value.to_string(),
    }
}
