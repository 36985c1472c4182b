//! `freeze`, `unfreeze`: the brake. Through the process that serves or, where none does, in the ledger itself.

use super::audit::section;
use super::{Exit, page};
use crate::clock::{Timestamp, moment, parse_span, since};
use crate::config;
use crate::gateway::brake::Stopped;
use crate::id::{CallerName, RequestId, SessionId};
use crate::ledger::freeze::{Covers, Freeze, reason};
use crate::ledger::sqlite::{Sqlite, SqliteReader};
use crate::ledger::{Ledger, NotRecorded, OpenError};
use crate::server::control::{NotHeard, Said, Verb, ask, by};
use crate::telemetry::Metrics;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two questions what is still under way.
const PAUSE: Duration = Duration::from_millis(50);

/// What is meant: exactly one of three.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Every deletion
    #[arg(long)]
    all: bool,
    /// Those of one caller
    #[arg(long, value_name = "NAME", value_parser = |text: &str| CallerName::parse(text))]
    caller: Option<CallerName>,
    /// Those in one session, whoever calls
    #[arg(long, value_name = "ID", value_parser = |text: &str| SessionId::parse(text))]
    session: Option<SessionId>,
}

impl Which {
    fn covers(&self) -> Covers {
        match (&self.caller, &self.session) {
            (Some(caller), _) => Covers::Caller { caller: caller.clone() },
            (None, Some(session)) => Covers::Session { session: session.clone() },
            (None, None) => Covers::All,
        }
    }
}

#[derive(clap::Args)]
pub(super) struct Freezing {
    /// The configuration, of which only [ledger] has to be right
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    which: Which,
    /// For how long, such as 2h; without it until somebody unfreezes
    #[arg(long = "for", value_name = "SPAN", value_parser = |text: &str| parse_span(text).ok_or("is not a span such as 90s, 15m, 2h, 7d"))]
    lasts: Option<Duration>,
    /// Why: callers are shown it, and it is recorded
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(super) struct Unfreezing {
    /// The configuration, of which only [ledger] has to be right
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    which: Which,
    /// Why: it is recorded
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `freeze`: 0 when nothing that it covers is sent any more, 75 while something recorded before it is still under way.
pub(super) fn freeze(options: &Freezing) -> Exit {
    let section = match section(&options.config) {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    let (covers, until) = (options.which.covers(), options.lasts.map(|span| Timestamp::now().after(span)));
    let verb = Verb::Freeze { covers: covers.clone(), until, reason: options.reason.clone() };
    let said = Saying { json: options.json, covers: covers.clone() };
    match ask(&section.path, &verb) {
        Ok(Said::Stopped(stopped)) => said.until_nothing_is_open(&section.path, stopped),
        Ok(Said::No(words)) => complain(Exit::Restart, &words),
        Ok(_) => complain(Exit::Unavailable, "the process that serves answers something else"),
        Err(NotHeard::Silent(words)) => page::silent(&section.path, &words),
        Err(NotHeard::Nobody) => {
            let done = alone(&section, |ledger, by| {
                let freeze = Freeze { covers, until, reason: options.reason.clone(), by };
                ledger.block(ledger.store.freeze(freeze))
            });
            match done {
                Err(exit) => exit,
                Ok(Err(NotRecorded)) => complain(Exit::Restart, "it could not be recorded: ask for the status"),
                Ok(Ok(())) => {
                    said.frozen();
                    said.end(&[])
                }
            }
        }
    }
}

/// `unfreeze`: 0 when it was frozen and is not any more, 1 when it was not.
pub(super) fn unfreeze(options: &Unfreezing) -> Exit {
    let section = match section(&options.config) {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    let covers = options.which.covers();
    let any = match ask(&section.path, &Verb::Unfreeze { covers: covers.clone(), reason: options.reason.clone() }) {
        Ok(Said::Unfrozen { any }) => any,
        Ok(Said::No(words)) => return complain(Exit::Restart, &words),
        Ok(_) => return complain(Exit::Unavailable, "the process that serves answers something else"),
        Err(NotHeard::Silent(words)) => return page::silent(&section.path, &words),
        Err(NotHeard::Nobody) => {
            let done = alone(&section, |ledger, by| {
                ledger.block(ledger.store.unfreeze(covers.clone(), options.reason.clone(), by))
            });
            match done {
                Err(exit) => return exit,
                Ok(Err(NotRecorded)) => return complain(Exit::Restart, "it could not be recorded: ask for the status"),
                Ok(Ok(any)) => any,
            }
        }
    };
    if options.json {
        page::line(serde_json::json!({"unfrozen": any}));
    } else if any {
        page::line(format_args!("{covers} is not frozen any more"));
    } else {
        page::complain(format_args!("{covers} is not frozen; `status` lists what is"));
    }
    if any { Exit::Done } else { Exit::No }
}

fn complain(exit: Exit, words: &str) -> Exit {
    page::complain(words);
    exit
}

/// The ledger, held by this command: no process serves it.
struct Alone {
    store: Sqlite,
    runtime: tokio::runtime::Runtime,
}

impl Alone {
    fn block<T>(&self, answer: impl Future<Output = T>) -> T {
        self.runtime.block_on(answer)
    }
}

/// Opens the ledger as a start of `serve` would, so that what was under way is closed, and does one thing.
fn alone<T>(section: &config::Ledger, act: impl FnOnce(&Alone, String) -> T) -> Result<T, Exit> {
    // Asked first: where there is no ledger, none is made.
    SqliteReader::open(&section.path).map_err(|error| page::ledger(&error))?;
    let user = page::owner(&section.path)?;
    let store = match Sqlite::open(section, Metrics::new().0) {
        Ok((store, _)) => store,
        Err(OpenError::Held(_)) => return Err(page::silent(&section.path, "it does not listen on control.sock")),
        Err(error) => return Err(page::ledger(&error)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| complain(Exit::Unavailable, &format!("the runtime cannot be started: {e}")))?;
    let ledger = Alone { store, runtime };
    let done = act(&ledger, by(user));
    ledger.block(ledger.store.close());
    Ok(done)
}

/// What the command says on its way.
struct Saying {
    json: bool,
    covers: Covers,
}

impl Saying {
    fn frozen(&self) {
        if self.json {
            page::line(serde_json::json!({"frozen": true}));
        } else {
            page::line(format_args!("frozen: of {} nothing new is sent", self.covers));
        }
    }

    /// Waits for the outcomes of what was recorded before the freeze.
    fn until_nothing_is_open(&self, folder: &Path, stopped: Stopped) -> Exit {
        self.frozen();
        let (began, patience, mut open) = (moment(), Duration::from_secs(stopped.within_s), stopped.open);
        while !open.is_empty() && since(began) < patience {
            std::thread::sleep(PAUSE);
            match ask(folder, &Verb::Covered { covers: self.covers.clone() }) {
                Ok(Said::Open { open: still }) => open.retain(|id| still.contains(id)),
                Ok(Said::No(words)) => return complain(Exit::Restart, &words),
                // What it had under way, its next start records as unknown, and does not send.
                Err(NotHeard::Nobody) => open.clear(),
                Err(NotHeard::Silent(words)) => return page::silent(folder, &words),
                Ok(_) => return complain(Exit::Unavailable, "the process that serves answers something else"),
            }
        }
        self.end(&open)
    }

    fn end(&self, open: &[RequestId]) -> Exit {
        if self.json {
            page::line(serde_json::json!({"open": open}));
        } else if open.is_empty() {
            page::line("what was under way has its outcome");
        } else {
            page::complain(format_args!("{} requests from before are still under way:", open.len()));
            open.iter().for_each(|id| page::complain(format_args!("  {id}")));
        }
        if open.is_empty() { Exit::Done } else { Exit::Restart }
    }
}
