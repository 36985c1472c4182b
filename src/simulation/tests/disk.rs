//! What a simulated ledger keeps: a log of what was committed, how far it is synced, and what stands after it.
//!
//! A killed process loses nothing that was committed; a machine without power keeps any beginning of the log that holds
//! at least what was synced.

use crate::clock::Timestamp;
use crate::config::OnExhausted;
use crate::id::RequestId;
use crate::ledger::Unresolved;
use crate::ledger::admission::{
    Answered, Asked, Decided, Declined, KEPT, Kept, Known, Mark, Question, Replay, Standing as Stands, decide,
};
use crate::ledger::entry::{Body, End, Intention, Outcome, Resolution};
use crate::ledger::freeze::{Covers, Freeze, Freezes};
use crate::simulation::Chance;
use std::collections::BTreeMap;

/// Who has recorded an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The path.
    Path,
    /// A start, for what it found open.
    Start,
    /// The store, for an intent whose proof came too late to be taken.
    Late,
    /// The store, for a proof that was dropped.
    Lost,
}

/// What an entry changes.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    Intent(Box<Question>, Box<Intention>),
    Outcome(u64, End, Option<Answered>, By),
    Freeze(Freeze),
    Unfreeze(Covers),
    Resolution(u64, Resolution),
    Postpone(u64, Timestamp, u32),
    Nothing,
}

/// One thing in the log. Only a look in vain has no entry, and so no number.
#[derive(Debug, Clone)]
pub(crate) struct Committed {
    pub(crate) seq: Option<u64>,
    pub(crate) time: Timestamp,
    pub(crate) body: Option<Body>,
    pub(crate) change: Change,
}

/// An intent without an outcome, and where it stands in the log.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) asked: Question,
    pub(crate) intention: Intention,
    pub(crate) at: usize,
}

#[derive(Debug, Clone)]
struct Keyed {
    since: Timestamp,
    seq: u64,
    target: Mark,
    request_id: RequestId,
    answered: Option<Answered>,
}

/// What the log comes to.
#[derive(Debug, Clone)]
pub(crate) struct Standing {
    pub(crate) open: BTreeMap<u64, Open>,
    pub(crate) freezes: Freezes,
    keys: BTreeMap<Mark, Keyed>,
    spent: BTreeMap<Mark, Vec<(Timestamp, u64)>>,
    /// Unknown outcomes: since when they wait, and how often they were looked at.
    waiting: BTreeMap<u64, (Timestamp, u32)>,
    intentions: BTreeMap<u64, Intention>,
    latest: Timestamp,
    next: u64,
    length: usize,
}

impl Standing {
    fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            freezes: Freezes::default(),
            keys: BTreeMap::new(),
            spent: BTreeMap::new(),
            waiting: BTreeMap::new(),
            intentions: BTreeMap::new(),
            latest: Timestamp::from_micros(i64::MIN),
            next: 0,
            length: 0,
        }
    }

    fn apply(&mut self, committed: &Committed) {
        let at = self.length;
        self.length += 1;
        self.latest = committed.time;
        self.next = committed.seq.map_or(self.next, |seq| seq + 1);
        match &committed.change {
            Change::Intent(asked, intention) => {
                let (seq, time) = (committed.seq.unwrap(), committed.time);
                if let Some(key) = asked.key {
                    let (target, request_id) = (asked.target, asked.request_id);
                    self.keys.insert(key, Keyed { since: time, seq, target, request_id, answered: None });
                }
                for (counter, _) in asked.counters() {
                    self.spent.entry(counter).or_default().push((time, seq));
                }
                self.intentions.insert(seq, (**intention).clone());
                self.open.insert(seq, Open { asked: (**asked).clone(), intention: (**intention).clone(), at });
            }
            Change::Outcome(of, end, answered, _) => self.land(*of, *end, answered.as_ref(), committed.time),
            Change::Freeze(freeze) => self.freezes = self.freezes.with(freeze.clone()),
            Change::Unfreeze(covers) => self.freezes = self.freezes.without(covers),
            Change::Resolution(of, _) => drop(self.waiting.remove(of)),
            Change::Postpone(of, since, attempts) => drop(self.waiting.insert(*of, (*since, *attempts))),
            Change::Nothing => {}
        }
    }

    fn land(&mut self, of: u64, end: End, answered: Option<&Answered>, time: Timestamp) {
        let Some(open) = self.open.remove(&of) else { return };
        if let Some(key) = open.asked.key {
            match end {
                End::NotSent => drop(self.keys.remove(&key)),
                End::Unknown => {}
                End::Deleted | End::Refused => {
                    if let Some(kept) = self.keys.get_mut(&key) {
                        kept.answered = answered.cloned();
                    }
                }
            }
        }
        match end {
            End::NotSent => self.spent.values_mut().for_each(|spent| spent.retain(|(_, seq)| *seq != of)),
            End::Unknown => drop(self.waiting.insert(of, (time, 0))),
            End::Deleted | End::Refused => {}
        }
    }

    fn kept(&self, key: Mark, now: Timestamp) -> Option<Kept> {
        let kept = self.keys.get(&key).filter(|kept| kept.since > now.before(KEPT))?;
        let standing = match &kept.answered {
            Some(answered) => Stands::Answered(answered.clone()),
            None if self.open.contains_key(&kept.seq) => Stands::InFlight,
            None => Stands::Unknown,
        };
        Some(Kept { target: kept.target, request_id: kept.request_id, standing })
    }

    fn decide(&self, asked: &Question, now: Timestamp) -> Decided {
        let before = |(mark, max): (Mark, u32)| {
            let spent = self.spent.get(&mark)?;
            Some(spent[spent.len().checked_sub(max as usize)?].0)
        };
        let known = Known {
            freeze: self.freezes.covering(&asked.caller, &asked.session, now),
            key: asked.key.and_then(|key| self.kept(key, now)),
            in_flight: self.open.values().any(|open| open.asked.target == asked.target),
            before: asked.budgets.iter().map(|budget| before((asked.counter(budget), budget.max))).collect(),
        };
        decide(asked, known, now)
    }

    /// What waits longest for a look at its picture, if it has waited since `until`.
    pub(crate) fn longest_waiting(&self, until: Timestamp) -> Option<Unresolved> {
        let (seq, (since, attempts)) = self.waiting.iter().min_by_key(|(seq, (since, _))| (*since, **seq))?;
        let intention = &self.intentions[seq];
        let target = crate::id::Target { session: intention.session.clone(), group: intention.group.clone() };
        let (seq, since, attempts, request_id) = (*seq, *since, *attempts, intention.request_id);
        (since <= until).then_some(Unresolved { seq, since, attempts, request_id, target })
    }

    pub(crate) fn covered(&self, covers: &Covers) -> Vec<RequestId> {
        let covered = |open: &&Open| covers.includes(&open.asked.caller, &open.asked.session);
        self.open.values().filter(covered).map(|open| open.asked.request_id).collect()
    }
}

/// What somebody is owed once it is durable.
#[derive(Debug)]
pub(crate) enum Owed {
    Nothing,
    Recorded { seq: u64, request_id: RequestId, time: Timestamp },
    Declined(Declined),
    Replay(Replay),
    Unfrozen(bool),
}

/// One transaction, not committed yet.
pub(crate) struct Draft {
    standing: Standing,
    added: Vec<Committed>,
    time: Timestamp,
}

impl Draft {
    pub(crate) fn behind(disk: &Disk, now: Timestamp) -> Self {
        Self { standing: disk.standing.clone(), added: Vec::new(), time: now.max(disk.standing.latest) }
    }

    fn append(&mut self, body: Option<Body>, change: Change) -> u64 {
        let (seq, time) = (self.standing.next, self.time);
        let committed = Committed { seq: body.is_some().then_some(seq), time, body, change };
        self.standing.apply(&committed);
        self.added.push(committed);
        seq
    }

    pub(crate) fn intend(&mut self, asked: &Asked) -> Owed {
        let question = Question::from(asked);
        match self.standing.decide(&question, self.time) {
            Decided::Admit => {}
            Decided::Replay(replay) => return Owed::Replay(replay),
            Decided::Decline(declined) => {
                if let Declined::BudgetExhausted { budget, .. } = declined
                    && budget.on_exhausted == OnExhausted::Freeze
                {
                    let (covers, reason) = (Covers::Caller { caller: question.caller }, "used up".to_owned());
                    self.freeze(Freeze { covers, until: None, reason, by: "the gateway".to_owned() });
                }
                return Owed::Declined(declined);
            }
        }
        let (request_id, time, intention) = (question.request_id, self.time, asked.intention.clone());
        let change = Change::Intent(Box::new(question), Box::new(intention));
        let seq = self.append(Some(Body::Intent(asked.clone().into())), change);
        Owed::Recorded { seq, request_id, time }
    }

    pub(crate) fn conclude(&mut self, of: u64, outcome: Outcome, answered: Option<Answered>, by: By) {
        let end = outcome.outcome;
        self.append(Some(Body::Outcome(outcome)), Change::Outcome(of, end, answered, by));
    }

    pub(crate) fn freeze(&mut self, freeze: Freeze) {
        self.append(Some(Body::Freeze(freeze.clone())), Change::Freeze(freeze));
    }

    pub(crate) fn unfreeze(&mut self, covers: Covers, reason: String, by: String) -> bool {
        let any = self.standing.freezes.iter().any(|freeze| freeze.covers == covers);
        if any {
            self.append(Some(Body::Unfreeze { covers: covers.clone(), reason, by }), Change::Unfreeze(covers));
        }
        any
    }

    fn waits(&self, unresolved: &Unresolved) -> bool {
        self.standing.waiting.get(&unresolved.seq) == Some(&(unresolved.since, unresolved.attempts))
    }

    pub(crate) fn resolve(&mut self, unresolved: &Unresolved, resolution: Resolution) {
        if self.waits(unresolved) {
            let body = Body::Resolution { request_id: unresolved.request_id, resolution };
            self.append(Some(body), Change::Resolution(unresolved.seq, resolution));
        }
    }

    pub(crate) fn postpone(&mut self, unresolved: &Unresolved, since: Timestamp) {
        if self.waits(unresolved) {
            self.append(None, Change::Postpone(unresolved.seq, since, unresolved.attempts + 1));
        }
    }

    pub(crate) fn note(&mut self, body: Body) {
        self.append(Some(body), Change::Nothing);
    }

    pub(crate) fn added(&self) -> &[Committed] {
        &self.added
    }
}

/// See the module.
pub(crate) struct Disk {
    pub(crate) log: Vec<Committed>,
    pub(crate) synced: usize,
    pub(crate) standing: Standing,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self { log: Vec::new(), synced: 0, standing: Standing::new() }
    }

    pub(crate) fn commit(&mut self, draft: Draft) {
        self.log.extend(draft.added);
        self.standing = draft.standing;
    }

    /// Everything is durable.
    pub(crate) fn sync(&mut self) {
        self.synced = self.log.len();
    }

    /// The power fails.
    pub(crate) fn lose(&mut self, chance: &mut Chance) {
        let loose = (self.log.len() - self.synced) as u64;
        self.log.truncate(self.synced + usize::try_from(chance.below(loose + 1)).unwrap());
        self.standing = Standing::new();
        self.log.iter().for_each(|committed| self.standing.apply(committed));
    }

    /// What a start does: it syncs before it believes what it reads, and closes what is open.
    pub(crate) fn recover(&mut self, now: Timestamp) -> Draft {
        self.sync();
        let mut draft = Draft::behind(self, now);
        let open: Vec<(u64, RequestId)> =
            self.standing.open.iter().map(|(seq, o)| (*seq, o.asked.request_id)).collect();
        let recovered = open.len() as u64;
        for (seq, request_id) in open {
            draft.conclude(seq, Outcome::unknown(request_id), None, By::Start);
        }
        draft.note(Body::Start { version: env!("CARGO_PKG_VERSION"), recovered });
        draft
    }
}
