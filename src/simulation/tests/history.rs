//! The oracle at the end: the whole log held against what the provider read and what the callers heard.

use super::caller::Call;
use super::world::State;
use super::{Scene, World};
use crate::clock::Timestamp;
use crate::id::RequestId;
use crate::ledger::admission::{Mark, Question};
use crate::ledger::entry::{self, End, Intention, Resolution};
use crate::ledger::simulated::disk::{By, Change};
use crate::upstream::simulated::Visit;
use crate::upstream::simulated::provider::Means;
use std::collections::BTreeMap;
use std::time::Duration;

/// The time for one request, and how long its outcome is waited for behind that.
const BUDGET_MS: u64 = 25_000;
const LAST_PATIENCE_MS: u64 = 2_000;
/// Timers end on whole milliseconds.
const SLACK_MS: u64 = 20;

/// An intent and all that came of it.
struct Story {
    seq: u64,
    time: Timestamp,
    asked: Question,
    intention: Intention,
    /// The call that it is for.
    call: usize,
    outcomes: Vec<(End, By, usize)>,
    resolutions: Vec<Resolution>,
    /// The visit for it whose head was handed over.
    visit: Option<usize>,
}

impl World {
    /// Looks at everything, once no process lives any more and a last one has recovered.
    pub(crate) fn judge(&self) {
        let mut state = self.lock();
        let stories = state.stories();
        state.judge_the_log();
        for story in stories.values() {
            state.judge_outcomes(story);
            state.judge_policy(story);
            state.judge_resolutions(story);
        }
        state.judge_budgets(&stories);
        let by_id: BTreeMap<RequestId, &Story> =
            stories.values().map(|story| (story.intention.request_id, story)).collect();
        for number in 0..state.calls.len() {
            let own = stories.values().find(|story| story.call == number);
            state.judge_answer(number, own, &by_id);
        }
    }
}

impl State {
    fn stories(&mut self) -> BTreeMap<u64, Story> {
        let mut stories: BTreeMap<u64, Story> = BTreeMap::new();
        for (at, committed) in self.disk.log.iter().enumerate() {
            match &committed.change {
                Change::Intent(asked, intention) => {
                    let (seq, time) = (committed.seq.unwrap(), committed.time);
                    let name = intention.caller_request_id.as_deref().unwrap_or_default();
                    let call = name.strip_prefix("call-").and_then(|number| number.parse().ok()).unwrap();
                    let visit = self.visits.iter().position(|visit| visit.handed && visit.of == Some(seq));
                    let (asked, intention) = ((**asked).clone(), (**intention).clone());
                    let (outcomes, resolutions) = (Vec::new(), Vec::new());
                    let story = Story { seq, time, asked, intention, call, outcomes, resolutions, visit };
                    stories.insert(seq, story);
                }
                Change::Outcome(of, end, _, by) => stories.get_mut(of).unwrap().outcomes.push((*end, *by, at)),
                Change::Resolution(of, is) => stories.get_mut(of).unwrap().resolutions.push(*is),
                Change::Freeze(_) | Change::Unfreeze(_) | Change::Postpone(..) | Change::Nothing => {}
            }
        }
        stories
    }

    /// The entries are one row, their time never runs back, and none of them holds a secret.
    fn judge_the_log(&mut self) {
        let mut next = 0;
        let mut latest = Timestamp::from_micros(i64::MIN);
        let mut wrong = Vec::new();
        for committed in &self.disk.log {
            if committed.time < latest {
                wrong.push((7, format!("time runs back at entry {:?}", committed.seq)));
            }
            latest = committed.time;
            let (Some(seq), Some(body)) = (committed.seq, &committed.body) else { continue };
            if seq != next {
                wrong.push((7, format!("entry {seq} stands where {next} belongs")));
            }
            next = seq + 1;
            let bytes = entry::encode(seq, committed.time, body).unwrap();
            if Scene::holds_a_secret(&bytes) {
                wrong.push((6, format!("entry {seq} holds a secret")));
            }
        }
        wrong.into_iter().for_each(|(promise, what)| self.breaks(promise, format_args!("{what}")));
    }

    /// Promises 3 and 4: one outcome each, and it is true.
    fn judge_outcomes(&mut self, story: &Story) {
        let seq = story.seq;
        let &[(end, by, _)] = story.outcomes.as_slice() else {
            return self.breaks(4, format_args!("intent {seq} has the outcomes {:?}", story.outcomes));
        };
        self.count(end.as_str());
        let visit = story.visit.map(|visit| &self.visits[visit]);
        let means = visit.and_then(|visit| visit.fate.reply.as_ref()).map(|reply| reply.means);
        let heard = visit.is_some_and(|visit| visit.read && visit.heard);
        let is_true = match end {
            End::Deleted => heard && means == Some(Means::Deleted),
            End::Refused => heard && means == Some(Means::Refused),
            End::NotSent => visit.is_none(),
            End::Unknown => true,
        };
        if !is_true {
            self.breaks(
                3,
                format_args!("intent {seq} is {} by {by:?}, but went {visit:?}", end.as_str(), visit = story.visit),
            );
        }
        match by {
            By::Lost => self.breaks(4, format_args!("the work on intent {seq} was lost")),
            By::Late if end != End::NotSent => self.breaks(4, format_args!("intent {seq} came late, and is {end:?}")),
            By::Start if end != End::Unknown => self.breaks(4, format_args!("a start guessed that {seq} is {end:?}")),
            By::Path if end == End::Unknown => self.judge_ignorance(story),
            By::Path | By::Late | By::Start => {}
        }
    }

    /// An outcome that the path calls unknown, though the whole answer was there in time.
    fn judge_ignorance(&mut self, story: &Story) {
        let (seq, call) = (story.seq, &self.calls[story.call]);
        let gave_up = self.gave_up.get(&call.life).copied();
        let Some(visit) = story.visit.map(|visit| &self.visits[visit]) else {
            // A process that gives up does not ask how far it has come.
            if gave_up.is_none() {
                self.breaks(4, format_args!("intent {seq} is unknown, though it was never sent"));
            }
            return;
        };
        let gave_up = gave_up.unwrap_or(u64::MAX);
        let end = (call.at_ms + BUDGET_MS).min(gave_up);
        let in_time = visit.arrived_ms.is_some_and(|arrived| arrived + SLACK_MS < end);
        if in_time && matches!(means(visit), Means::Deleted | Means::Refused) {
            self.breaks(4, format_args!("intent {seq} is unknown, though the answer was there in time"));
        }
    }

    /// Promise 5: by a rule of the policy that was in force when it was asked for, and by no other.
    fn judge_policy(&mut self, story: &Story) {
        let call = self.calls[story.call].clone();
        let (seq, intention) = (story.seq, &story.intention);
        let same = call.caller == intention.caller.as_str()
            && call.session == intention.session.as_str()
            && call.group == intention.group.as_str();
        if !same || call.is_dry_run || !Scene::allows(call.policy, &call) {
            self.breaks(5, format_args!("intent {seq} is for {call:?}"));
        }
    }

    /// At most one, for an unknown outcome, and as the provider has shown it.
    fn judge_resolutions(&mut self, story: &Story) {
        let [resolution] = story.resolutions.as_slice() else {
            if !story.resolutions.is_empty() {
                self.breaks(4, format_args!("intent {} has {:?}", story.seq, story.resolutions));
            }
            return;
        };
        self.count(resolution.as_str());
        let path = format!("/{}/groups/{}/picture", story.intention.session, story.intention.group);
        let shown = |meant| {
            let looks = self.visits.iter().filter(|visit| visit.method == "GET" && visit.path == path && visit.read);
            looks.into_iter().any(|visit| means(visit) == meant)
        };
        let is_true = match resolution {
            Resolution::Absent => shown(Means::Absent),
            Resolution::Present => shown(Means::Present),
            Resolution::Indeterminate => true,
        };
        if !is_true || story.outcomes.first().map(|(end, ..)| *end) != Some(End::Unknown) {
            self.breaks(3, format_args!("intent {} is resolved as {resolution:?}", story.seq));
        }
    }

    /// No intent stands in the log beyond its budget: counted anew, from the entries before it.
    fn judge_budgets(&mut self, stories: &BTreeMap<u64, Story>) {
        let mut wrong = Vec::new();
        for story in stories.values() {
            for budget in story.asked.budgets.iter() {
                let counter: Mark = story.asked.counter(budget);
                let opens = story.time.before(Duration::from_secs(budget.per_s.into()));
                let at = self.disk.log.iter().position(|committed| committed.seq == Some(story.seq)).unwrap();
                let counts = |other: &&Story| {
                    let given_back = other.outcomes.iter().any(|(end, _, when)| *end == End::NotSent && *when < at);
                    let counted = other.asked.counters().iter().any(|(mark, _)| *mark == counter);
                    other.seq < story.seq && counted && other.time > opens && !given_back
                };
                let spent = stories.values().filter(counts).count();
                if spent >= budget.max as usize {
                    wrong.push(format!("intent {} is number {} of {budget:?}", story.seq, spent + 1));
                }
            }
        }
        wrong.into_iter().for_each(|what| self.breaks(5, format_args!("{what}")));
    }

    /// Promise 3: what a caller heard is true.
    fn judge_answer(&mut self, number: usize, own: Option<&Story>, all: &BTreeMap<RequestId, &Story>) {
        let call = self.calls[number].clone();
        let Some(heard) = call.heard.clone() else {
            // A process that died or gave up answers nobody.
            if !call.hung_up && !self.gave_up.contains_key(&call.life) {
                self.breaks(3, format_args!("call {number} was never answered"));
            }
            return;
        };
        if heard.at_ms > call.at_ms + BUDGET_MS + LAST_PATIENCE_MS + SLACK_MS {
            self.breaks(3, format_args!("call {number} was answered after {} ms", heard.at_ms - call.at_ms));
        }
        if Scene::holds_a_secret(heard.body.as_bytes()) {
            self.breaks(6, format_args!("the answer to call {number} holds a secret"));
        }
        let end = own.and_then(|story| story.outcomes.first()).map(|(end, ..)| *end);
        let visit = own.and_then(|story| story.visit).map(|visit| &self.visits[visit]);
        let handed = visit.is_some();
        let is_true = if heard.is_replay {
            let first = heard.id.and_then(|id| all.get(&id));
            own.is_none() && first.is_some_and(|first| self.is_the_answer_of(&call, first))
        } else if heard.status == 200 && call.is_dry_run {
            own.is_none() && Scene::allows(call.policy, &call)
        } else if heard.status == 200 {
            end == Some(End::Deleted) || (heard.is_warned && end == Some(End::Unknown) && handed)
        } else {
            let allowed = Scene::allows(call.policy, &call);
            let fits_the_policy = match heard.code.as_str() {
                "unauthenticated" => call.caller == super::caller::CALLERS[2],
                "not-allowed" => !allowed,
                "shutting-down" => true,
                _ => allowed,
            };
            let fits_the_wire = match heard.sent.as_str() {
                "no" => !handed && !matches!(end, Some(End::Deleted | End::Refused)),
                "yes" => visit.is_some_and(|visit| visit.read) && (heard.is_warned || end == Some(End::Refused)),
                "unknown" => {
                    (handed || self.gave_up.contains_key(&call.life)) && (heard.is_warned || end == Some(End::Unknown))
                }
                _ => false,
            };
            fits_the_policy && fits_the_wire
        };
        if !is_true {
            self.breaks(3, format_args!("call {number} heard {heard:?}, and its intent came to {end:?}: {call:?}"));
        }
    }

    /// Whether what this call heard is what the first one with its key came to.
    fn is_the_answer_of(&self, call: &Call, first: &Story) -> bool {
        let (Some(heard), Some((end, ..))) = (&call.heard, first.outcomes.first()) else { return false };
        let before = &self.calls[first.call];
        let said = match end {
            End::Deleted => heard.status == 200,
            End::Refused => heard.sent == "yes" && heard.status != 200,
            End::Unknown => heard.code == "outcome-unknown" && heard.sent == "unknown",
            End::NotSent => false,
        };
        said && (before.caller, before.session, before.key) == (call.caller, call.session, call.key)
    }
}

fn means(visit: &Visit) -> Means {
    visit.fate.reply.as_ref().map_or(Means::Nothing, |reply| reply.means)
}
