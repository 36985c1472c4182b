//! The oracle while it happens: what must hold whenever a request sets out for the provider, and whenever the kernel gets
//! its head. The rest is asked of the whole history, in `history.rs`.

use super::Scene;
use super::caller::Heard;
use super::operator::Holds;
use super::world::{State, World};
use crate::ledger::admission::KEPT;
use crate::ledger::simulated::disk::{Change, Committed, Open};
use crate::upstream::simulated::Visit;
use crate::upstream::simulated::provider::Fate;

impl World {
    /// A request begins its way: what becomes of it is drawn now.
    pub(crate) fn sets_out(&self, method: &str, path: &str) -> (usize, Fate) {
        self.expire();
        let (visit, fate) = {
            let mut state = self.lock();
            let weather = state.weather.clone();
            let fate = Fate::draw(&mut state.chance, &weather, method);
            if method == "DELETE" {
                state.must_not_be_frozen(path, Holds::Unsent, "was sent");
            }
            let (method, path) = (method.to_owned(), path.to_owned());
            let (of, handed, read, arrived_ms, heard) = (None, false, false, None, false);
            let visit = Visit { method, path, fate: fate.clone(), of, handed, read, arrived_ms, heard };
            state.visits.push(visit);
            (state.visits.len() - 1, fate)
        };
        self.happened(format_args!("visit {visit}: {method} {path}: {fate:?}"));
        (visit, fate)
    }

    /// The kernel has a whole head.
    pub(crate) fn handed_over(&self, visit: usize, head: &[u8]) {
        self.expire();
        let line = String::from_utf8_lossy(head).lines().next().unwrap_or_default().to_owned();
        {
            let mut state = self.lock();
            let meant = format!("{} {} HTTP/1.1", state.visits[visit].method, state.visits[visit].path);
            let key = format!("authorization: Bearer {}\r\n", Scene::KEY);
            if state.visits[visit].method == "DELETE" {
                state.count("DELETEs");
                if line != meant || !String::from_utf8_lossy(head).contains(&key) {
                    state.breaks(2, format_args!("visit {visit} wrote {line}, where {meant} was meant"));
                }
                state.must_be_recorded(visit);
            }
            state.visits[visit].handed = true;
        }
        self.happened(format_args!("visit {visit} is handed over: {line}"));
    }

    /// The provider has read it.
    pub(crate) fn reads(&self, visit: usize) {
        self.lock().visits[visit].read = true;
        self.happened(format_args!("visit {visit} is read"));
    }

    /// The whole answer is on the wire.
    pub(crate) fn arrived(&self, visit: usize) {
        let mut state = self.lock();
        let now = state.now_ms();
        state.visits[visit].arrived_ms = Some(now);
        drop(state);
        self.happened(format_args!("visit {visit} is answered"));
    }

    /// The gateway has read all of the answer.
    pub(crate) fn heard(&self, visit: usize) {
        self.lock().visits[visit].heard = true;
        self.happened(format_args!("visit {visit} has been heard"));
    }

    /// A caller hears.
    pub(crate) fn hears(&self, number: usize, heard: Heard) {
        let line = format!("call {number} hears {heard:?}");
        let mut state = self.lock();
        if heard.is_replay {
            state.count("replays");
        }
        if heard.is_warned {
            state.count("warnings");
        }
        state.calls[number].heard = Some(heard);
        drop(state);
        self.happened(format_args!("{line}"));
    }

    /// The process is gone. What it had handed over is the kernel's: the provider reads it, or does not.
    pub(crate) fn aftermath(&self) {
        let mut state = self.lock();
        for visit in 0..state.visits.len() {
            let Visit { handed, read, fate, .. } = &state.visits[visit];
            if *handed && !*read && fate.is_read && state.chance.one_in(2) {
                state.visits[visit].read = true;
                state.note(format_args!("visit {visit} is read, behind the end"));
                state.count("heads read behind the end");
            }
        }
    }
}

impl State {
    /// The intent without an outcome for this path, with its number. There is one at the most: of one target one alone
    /// is in flight.
    fn open_intent(&self, path: &str) -> Option<(u64, Open)> {
        let is_it =
            |open: &&Open| format!("/{}/groups/{}/picture", open.intention.session, open.intention.group) == path;
        self.disk.standing.open.iter().find(|(_, open)| is_it(open)).map(|(seq, open)| (*seq, open.clone()))
    }

    /// Promise 8.
    fn must_not_be_frozen(&mut self, path: &str, from: Holds, what: &str) {
        let Some((seq, open)) = self.open_intent(path) else { return };
        let covering = self
            .brakes
            .iter()
            .position(|brake| brake.holds >= from && brake.covers.includes(&open.asked.caller, &open.asked.session));
        if let Some(brake) = covering {
            self.breaks(8, format_args!("{path}, intent {seq}, {what} though freeze {brake} holds"));
        }
    }

    /// Promises 1, 2, 5 and 8.
    fn must_be_recorded(&mut self, visit: usize) {
        let path = self.visits[visit].path.clone();
        let Some((seq, open)) = self.open_intent(&path) else {
            return self.breaks(1, format_args!("visit {visit} has no intent without an outcome"));
        };
        if open.at >= self.disk.synced {
            self.breaks(1, format_args!("visit {visit} is sent before its intent {seq} is durable"));
        }
        self.must_not_be_frozen(&path, Holds::All, "left");
        if let Some(earlier) = self.visits.iter().position(|earlier| earlier.handed && earlier.of == Some(seq)) {
            self.breaks(2, format_args!("visit {visit} is the second for intent {seq}, after {earlier}"));
        }
        if open.asked.key.is_some()
            && let Some(earlier) = self.of_the_same_key(seq, &open)
        {
            self.breaks(2, format_args!("visit {visit} has the idempotency key of visit {earlier}"));
        }
        self.visits[visit].of = Some(seq);
    }

    /// A visit that was handed over for an earlier intent with the same key, while that is kept.
    fn of_the_same_key(&self, seq: u64, open: &Open) -> Option<usize> {
        let time = self.disk.log[open.at].time;
        let same = |committed: &Committed| {
            let Change::Intent(asked, _) = &committed.change else { return false };
            committed.seq != Some(seq) && asked.key == open.asked.key && committed.time > time.before(KEPT)
        };
        let earlier: Vec<u64> = self.disk.log.iter().filter(|c| same(c)).filter_map(|c| c.seq).collect();
        self.visits.iter().position(|visit| visit.handed && visit.of.is_some_and(|of| earlier.contains(&of)))
    }
}
