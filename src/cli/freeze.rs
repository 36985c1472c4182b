//! `freeze`, `unfreeze`: the brake. Through the process that serves or, where none does, in the ledger itself.

use super::alone::{self, Alone, complain, silent};
use super::place::Place;
use super::{Exit, page};
use crate::clock::{Timestamp, moment, since};
use crate::config;
use crate::gateway::brake::{Stopped, doubts};
use crate::id::{CallerName, RequestId, SessionId};
use crate::ledger::freeze::{Covers, Freeze, Freezes, lasting, reason};
use crate::ledger::postgres::{Acting, NotActed};
use crate::ledger::sqlite::SqliteReader;
use crate::ledger::{Ledger, NotRecorded, OpenError, Reader};
use crate::server::control::{NotHeard, Said, Verb, ask};
use std::path::Path;
use std::time::Duration;

/// Between two questions what is still under way.
const PAUSE: Duration = Duration::from_millis(50);

/// Within this after a lease another replica closes what the dead one left open.
const AFTER_LEASE: Duration = Duration::from_secs(10);

const NOT_RECORDED: &str =
    "it could not be recorded, or nobody knows whether it was: ask for the status, and try again";

/// What is meant: exactly one of three.
#[derive(clap::Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Every deletion
    #[arg(long)]
    all: bool,
    /// Those of one caller
    #[arg(long, value_name = "NAME", value_parser = caller)]
    caller: Option<CallerName>,
    /// Those in one session, whoever calls
    #[arg(long, value_name = "ID", value_parser = session)]
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

fn caller(text: &str) -> Result<CallerName, String> {
    CallerName::parse(text).map_err(|fault| format!("a caller's name {fault}"))
}

fn session(text: &str) -> Result<SessionId, String> {
    SessionId::parse(text).map_err(|fault| format!("a session's id {fault}"))
}

#[derive(clap::Args)]
pub(super) struct Freezing {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    which: Which,
    /// For how long, such as 2h; without it until somebody unfreezes
    #[arg(long = "for", value_name = "SPAN", value_parser = lasting)]
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
    #[command(flatten)]
    place: Place,
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
    let section = match options.place.section() {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    let (covers, until) = (options.which.covers(), options.lasts.map(|span| Timestamp::now().after(span)));
    let verb = Verb::Freeze { covers: covers.clone(), until, reason: options.reason.clone() };
    if section.postgres.is_some() {
        return freeze_for_all(&section, options).unwrap_or_else(|exit| exit);
    }
    let said = Saying { json: options.json, covers: covers.clone(), until };
    match ask(&section.path, &verb, Said::stopped) {
        Ok(stopped) => said.until_nothing_is_open(&section.path, stopped),
        Err(NotHeard::No(words)) => complain(Exit::Restart, &words),
        Err(NotHeard::Silent(words)) => silent(&section.path, &words),
        Err(NotHeard::Nobody) => {
            let ledger = match Alone::open(&section) {
                Ok(ledger) => ledger,
                Err(exit) => return exit,
            };
            let freeze = Freeze { covers, until, reason: options.reason.clone(), by: ledger.by.clone() };
            let recorded = ledger.wait(ledger.store.freeze(freeze));
            let frozen = ledger.store.freezes();
            ledger.close();
            if recorded.is_err() {
                return complain(Exit::Restart, NOT_RECORDED);
            }
            said.frozen(frozen.end_of(&said.covers));
            said.doubt(options.place.policy().and_then(|policy| doubts(&policy, &said.covers)));
            said.end(&[])
        }
    }
}

/// Freezes in the database that replicas share, until a time by its clock: this one's may be another machine's.
fn freeze_for_all(section: &config::Ledger, options: &Freezing) -> Result<Exit, Exit> {
    let fails = |error: OpenError| page::ledger(&error);
    let ledger = Acting::open(section).map_err(fails)?;
    let now = options.lasts.map(|span| Ok((ledger.now()?, span))).transpose().map_err(fails)?;
    let (covers, until) = (options.which.covers(), now.map(|(now, span)| now.after(span)));
    let said = Saying { json: options.json, covers: covers.clone(), until };
    let freeze = Freeze { covers, until, reason: options.reason.clone(), by: alone::user() };
    ledger.freeze(freeze).map_err(|why| not_acted(&why))?;
    said.frozen_for_all(&ledger, &options.place)
}

/// What a database was asked for and did not confirm: as with a folder, 75 where nobody knows whether it is recorded.
fn not_acted(why: &NotActed) -> Exit {
    match why {
        NotActed::Refused(error) => page::ledger(error),
        NotActed::Doubtful(error) => complain(Exit::Restart, &error.to_string()),
    }
}

/// `unfreeze`: 0 when it was frozen and is not any more, 1 when it was not.
pub(super) fn unfreeze(options: &Unfreezing) -> Exit {
    let section = match options.place.section() {
        Ok(section) => section,
        Err(exit) => return exit,
    };
    let covers = options.which.covers();
    if section.postgres.is_some() {
        let unfrozen = Acting::open(&section).map_err(|error| page::ledger(&error)).and_then(|ledger| {
            let unfrozen = ledger.unfreeze(covers.clone(), options.reason.clone(), alone::user());
            unfrozen.map_err(|why| not_acted(&why))
        });
        return unfrozen.map_or_else(|exit| exit, |any| unfrozen_is(any, &covers, options.json));
    }
    let verb = Verb::Unfreeze { covers: covers.clone(), reason: options.reason.clone() };
    let any = match ask(&section.path, &verb, Said::unfrozen) {
        Ok(any) => any,
        Err(NotHeard::No(words)) => return complain(Exit::Restart, &words),
        Err(NotHeard::Silent(words)) => return silent(&section.path, &words),
        Err(NotHeard::Nobody) => {
            let ledger = match Alone::open(&section) {
                Ok(ledger) => ledger,
                Err(exit) => return exit,
            };
            let any = ledger.wait(ledger.store.unfreeze(covers.clone(), options.reason.clone(), ledger.by.clone()));
            ledger.close();
            match any {
                Ok(any) => any,
                Err(NotRecorded) => return complain(Exit::Restart, NOT_RECORDED),
            }
        }
    };
    unfrozen_is(any, &covers, options.json)
}

fn unfrozen_is(any: bool, covers: &Covers, json: bool) -> Exit {
    if json {
        page::line(serde_json::json!({"unfrozen": any}));
    } else if any {
        page::line(format_args!("the freeze of {covers} is taken back"));
    } else {
        page::complain(format_args!("there is no freeze of {covers}; `status` lists what is frozen"));
    }
    if any { Exit::Done } else { Exit::No }
}

/// Whether the ledger has the outcome of a request. `false` also where it cannot be read.
fn has_outcome(folder: &Path, request: RequestId) -> bool {
    let entries = SqliteReader::open(folder).and_then(|ledger| ledger.request(&request.to_string()));
    let is_outcome = |bytes: &Vec<u8>| {
        serde_json::from_slice::<serde_json::Value>(bytes)
            .is_ok_and(|entry| entry.get("kind").is_some_and(|kind| kind == "outcome"))
    };
    entries.is_ok_and(|entries| entries.iter().any(|(_, bytes)| is_outcome(bytes)))
}

/// What the command says on its way.
struct Saying {
    json: bool,
    covers: Covers,
    /// As it was asked for.
    until: Option<Timestamp>,
}

impl Saying {
    /// It is recorded, and ends then: perhaps later than asked for.
    fn frozen(&self, until: Option<Timestamp>) {
        if self.json {
            page::line(match until {
                Some(until) => serde_json::json!({"frozen": true, "until": until}),
                None => serde_json::json!({"frozen": true}),
            });
            return;
        }
        let end = until.map_or_else(|| "until somebody unfreezes it".to_owned(), |until| format!("until {until}"));
        let longer = if until == self.until { "" } else { ": an earlier freeze of it says so" };
        page::line(format_args!("frozen: {}; nothing new of it is sent, {end}{longer}", self.covers));
    }

    /// It holds, and may still not be what was meant.
    fn doubt(&self, warning: Option<String>) {
        if let Some(warning) = warning {
            page::complain(format_args!("warning: {warning}"));
        }
    }

    /// It is frozen in the database that replicas share. Waits for the outcomes of what they recorded before: those of
    /// one that died come when its lease is over.
    fn frozen_for_all(&self, ledger: &Acting, place: &Place) -> Result<Exit, Exit> {
        let frozen = ledger.freezes().unwrap_or_else(|_| Freezes::default());
        self.frozen(frozen.end_of(&self.covers));
        self.doubt(place.policy().and_then(|policy| doubts(&policy, &self.covers)));
        let unasked = |error: OpenError| complain(Exit::Restart, &format!("what is under way is not known: {error}"));
        let mut open = ledger.covered(&self.covers).map_err(unasked)?;
        let leases = ledger.replicas().map_err(unasked)?.iter().map(|replica| replica.lease_s).max();
        let (began, patience) = (moment(), Duration::from_secs(leases.unwrap_or(0)) + AFTER_LEASE);
        while !open.is_empty() && since(began) < patience {
            std::thread::sleep(PAUSE);
            let still = ledger.covered(&self.covers).map_err(unasked)?;
            open.retain(|id| still.contains(id));
        }
        Ok(self.end(&open))
    }

    /// Waits for the outcomes of what was recorded before the freeze.
    fn until_nothing_is_open(&self, folder: &Path, stopped: Stopped) -> Exit {
        self.frozen(stopped.until);
        self.doubt(stopped.warning);
        let (began, patience, mut open) = (moment(), Duration::from_secs(stopped.within_s), stopped.open);
        while !open.is_empty() && since(began) < patience {
            std::thread::sleep(PAUSE);
            match ask(folder, &Verb::Covered { covers: self.covers.clone() }, Said::open) {
                Ok(still) => open.retain(|id| still.contains(id)),
                Err(NotHeard::No(words)) => {
                    page::complain(words);
                    break;
                }
                // It has ended, or only its socket is gone: what is open is what has no outcome in the ledger.
                Err(NotHeard::Nobody) => open.retain(|id| !has_outcome(folder, *id)),
                Err(NotHeard::Silent(words)) => {
                    silent(folder, &words);
                    break;
                }
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
