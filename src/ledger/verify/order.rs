//! What an entry must be by itself and behind those before it: numbered, dated, of a known kind, paired.

use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::entry::{CARRIED, Counted};
use crate::ledger::glance::{Glance, Text};
use crate::ledger::prune::Pruned;
use std::collections::{BTreeMap, HashMap};

const VERSION: u64 = 1;
const LONGEST: usize = 65_535;
/// How every time is spelt; a 0 stands for any digit. So texts compare as times do.
const TIME: &[u8] = b"0000-00-00T00:00:00.000000Z";
/// Up to the second.
const SECOND: usize = 19;

/// The members that are looked at, borrowed from the entry's bytes.
#[derive(serde::Deserialize)]
pub(in crate::ledger) struct Members<'a> {
    v: u64,
    pub(super) seq: u64,
    #[serde(borrow)]
    pub(super) time: Text<'a>,
    #[serde(borrow)]
    pub(super) kind: Text<'a>,
    #[serde(borrow, default)]
    pub(super) request_id: Text<'a>,
    #[serde(borrow, default)]
    pub(super) outcome: Text<'a>,
    #[serde(borrow, default)]
    resolution: Text<'a>,
    #[serde(borrow, default)]
    pub(super) caller: Text<'a>,
    #[serde(borrow, default)]
    pub(super) session: Text<'a>,
    #[serde(borrow, default)]
    pub(super) group: Text<'a>,
    #[serde(borrow, default)]
    pub(super) key: Text<'a>,
    pub(super) budgets: Option<Counted>,
    #[serde(borrow, default)]
    pub(super) answer: Text<'a>,
    #[serde(borrow, default)]
    codes: BTreeMap<Text<'a>, u64>,
    /// It was taken over from another log. An earlier version could have said so twice.
    #[serde(skip)]
    pub(super) is_carried: bool,
    /// The log before this one.
    pub(super) previous: Option<Previous>,
}

impl Members<'_> {
    /// What search data are made of.
    pub(super) fn glance(&self) -> Glance<'_> {
        Glance {
            time: self.time.borrowed(),
            kind: self.kind.borrowed(),
            request_id: self.request_id.borrowed(),
            caller: self.caller.borrowed(),
            session: self.session.borrowed(),
            group: self.group.borrowed(),
            outcome: self.outcome.borrowed(),
            resolution: self.resolution.borrowed(),
            codes: self.codes.iter().map(|(code, count)| (code.borrowed(), *count)).collect(),
            ..Glance::default()
        }
    }
}

/// What the first entry of a log says about the one before it.
#[derive(serde::Deserialize)]
pub(super) struct Previous {
    /// How many freezes follow; a version before this one took them over without a word.
    pub(super) freezes: Option<u64>,
}

/// Reads the entry of that number, or says what it is instead.
pub(in crate::ledger) fn read(seq: u64, bytes: &[u8]) -> Result<Members<'_>, String> {
    if bytes.len() > LONGEST {
        return Err(format!("has {} bytes; {LONGEST} is the most", bytes.len()));
    }
    let mut entry: Members<'_> = serde_json::from_slice(bytes).map_err(|e| format!("cannot be read: {e}"))?;
    if entry.seq != seq {
        return Err(format!("says that it is entry {}", entry.seq));
    }
    if entry.v != VERSION {
        return Err(format!("is of version {}; this program knows version {VERSION}", entry.v));
    }
    entry.is_carried = bytes.ends_with(b"}}") && std::str::from_utf8(bytes).is_ok_and(|text| text.contains(CARRIED));
    Ok(entry)
}

/// What the entries so far mean for the next one.
#[derive(Default)]
pub(in crate::ledger) struct Order {
    time: String,
    open: HashMap<RequestId, u64>,
    /// Intents whose outcome is `unknown` and that have no resolution.
    unknown: HashMap<RequestId, u64>,
    /// Outcomes and resolutions that are still to come of what was pruned.
    carried: (u64, u64),
}

impl Order {
    /// Behind what was pruned: so much of what became of it is among the kept entries.
    pub(in crate::ledger) fn after(pruned: &Pruned) -> Self {
        Self { carried: (pruned.carried_outcomes, pruned.carried_resolutions), ..Self::default() }
    }

    /// How many outcomes and resolutions of the entries so far are still to come.
    pub(in crate::ledger) fn carried(&self) -> (u64, u64) {
        (self.carried.0 + self.open.len() as u64, self.carried.1 + self.unknown.len() as u64)
    }

    /// How many outcomes of pruned intents have not come.
    pub(in crate::ledger) fn awaited(&self) -> u64 {
        self.carried.0
    }

    /// Takes the next entry in, or says what it does instead of what it should.
    pub(in crate::ledger) fn see(&mut self, entry: &Members<'_>) -> Result<(), String> {
        self.see_time(&entry.time)?;
        self.pair(entry.seq, entry)
    }

    fn see_time(&mut self, time: &str) -> Result<(), String> {
        let (is, was) = (time.as_bytes(), self.time.as_bytes());
        let fits = |(is, form): (&u8, &u8)| if *form == b'0' { is.is_ascii_digit() } else { is == form };
        let spelt = is.len() == TIME.len() && is.iter().zip(TIME).all(fits);
        if !spelt || (is.get(..SECOND) != was.get(..SECOND) && Timestamp::parse(time).is_none()) {
            return Err(format!("has a time that is none, `{}`", time.escape_debug()));
        }
        if is < was {
            return Err(format!("has the time {time}, and the one before it the later {}", self.time));
        }
        self.time.clear();
        self.time.push_str(time);
        Ok(())
    }

    fn pair(&mut self, seq: u64, entry: &Members<'_>) -> Result<(), String> {
        let id = || RequestId::parse(&entry.request_id).ok_or_else(|| "has no request id".to_owned());
        match &*entry.kind {
            "intent" => match self.open.insert(id()?, seq) {
                None => Ok(()),
                Some(first) => {
                    Err(format!("is a second intent of request {}, after entry {first}", &*entry.request_id))
                }
            },
            "outcome" => {
                let id = id()?;
                // Of what was pruned, the outcome stands for its intent: a resolution is among what is kept, too.
                let intent = self.open.remove(&id).or_else(|| expected(&mut self.carried.0).then_some(seq));
                let Some(intent) = intent else {
                    return Err(format!("is an outcome of request {id}, of which no intent is open"));
                };
                match &*entry.outcome {
                    "unknown" => {
                        self.unknown.insert(id, intent);
                        Ok(())
                    }
                    "deleted" | "refused" | "not-sent" => Ok(()),
                    other => Err(format!("has an outcome that is none, `{}`", other.escape_debug())),
                }
            }
            "resolution" => {
                let id = id()?;
                if self.unknown.remove(&id).is_none() && !expected(&mut self.carried.1) {
                    return Err(format!("is a resolution of request {id}, of which no unknown outcome waits for one"));
                }
                match &*entry.resolution {
                    "absent" | "present" | "indeterminate" => Ok(()),
                    other => Err(format!("has a resolution that is none, `{}`", other.escape_debug())),
                }
            }
            "refusal"
            | "refusals-suppressed"
            | "dry-run"
            | "policy"
            | "policy-refused"
            | "freeze"
            | "unfreeze"
            | "start"
            | "stop"
            | "gap"
            | "prune"
            | "copy" => Ok(()),
            other => Err(format!("is of a kind that this program does not know, `{}`", other.escape_debug())),
        }
    }

    /// Intents without an outcome, ascending.
    pub(in crate::ledger) fn open(&self) -> Vec<(u64, RequestId)> {
        let mut open: Vec<_> = self.open.iter().map(|(id, seq)| (*seq, *id)).collect();
        open.sort_unstable();
        open
    }

    /// Intents whose outcome is `unknown` and that have no resolution, ascending.
    pub(super) fn unresolved(&self) -> Vec<u64> {
        let mut unresolved: Vec<u64> = self.unknown.values().copied().collect();
        unresolved.sort_unstable();
        unresolved
    }
}

/// Takes one of what is still to come, if there is one.
fn expected(left: &mut u64) -> bool {
    let is = *left > 0;
    *left = left.saturating_sub(1);
    is
}
