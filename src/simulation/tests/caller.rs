//! The callers: several at once, who share a few targets and keys, hang up, and come back with the same key.

use super::{Scene, World};
use crate::gateway::Gateway;
use crate::head::Head;
use crate::id::RequestId;
use http::Response;
use std::sync::Arc;
use std::time::Duration;

/// Who calls, by name and token; the last one's token is nobody's.
pub(crate) const CALLERS: [&str; 3] = ["a", "b", "nobody"];
const SESSIONS: [&str; 2] = ["s1", "s2"];
/// Two spellings of one group, and others.
const GROUPS: [&str; 4] = ["1", "1@g.us", "2@g.us", "3@g.us"];

/// Long after the last moment at which an answer may come.
const LONG_ENOUGH_MS: u64 = 40_000;

/// One request, and what its caller heard.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) caller: &'static str,
    pub(crate) session: &'static str,
    pub(crate) group: &'static str,
    pub(crate) key: Option<&'static str>,
    pub(crate) is_dry_run: bool,
    /// The process that was asked, and the policy that was in force when it was.
    pub(crate) life: u32,
    pub(crate) policy: usize,
    pub(crate) at_ms: u64,
    pub(crate) hung_up: bool,
    pub(crate) heard: Option<Heard>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) status: u16,
    pub(crate) code: String,
    pub(crate) sent: String,
    pub(crate) id: Option<RequestId>,
    pub(crate) is_replay: bool,
    pub(crate) is_warned: bool,
    pub(crate) body: String,
    pub(crate) at_ms: u64,
}

impl Heard {
    fn new(response: &Response<()>, body: &[u8], at_ms: u64) -> Self {
        let field = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok());
        let json: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let member = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        Self {
            status: response.status().as_u16(),
            code: member("code"),
            sent: member("sent"),
            id: field("x-request-id").and_then(RequestId::parse),
            is_replay: field("idempotency-replayed").is_some(),
            is_warned: field("ledger-warning").is_some(),
            body: String::from_utf8_lossy(body).into_owned(),
            at_ms,
        }
    }
}

impl Call {
    fn draw(world: &World) -> Self {
        let mut state = world.lock();
        let chance = &mut state.chance;
        let caller = if chance.one_in(20) { CALLERS[2] } else { *chance.pick(&CALLERS[..2]) };
        let (session, group) = (*chance.pick(&SESSIONS), *chance.pick(&GROUPS));
        // A key mostly goes with its target, as a client that repeats a request has it.
        let keys = ["k1", "k2", "k3", "k4"];
        let own = GROUPS.iter().position(|one| *one == group).map(|at| keys[at]);
        let key = match chance.below(8) {
            0..=3 => None,
            4..=6 => own,
            _ => Some(*chance.pick(&keys)),
        };
        let is_dry_run = chance.one_in(12);
        let (life, policy, at_ms) = (state.life, state.policy, state.now_ms());
        Self { caller, session, group, key, is_dry_run, life, policy, at_ms, hung_up: false, heard: None }
    }

    fn head(&self, number: usize) -> Vec<u8> {
        let Self { caller, session, group, .. } = self;
        let key = self.key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let dry = if self.is_dry_run { "X-Dry-Run: true\r\n" } else { "" };
        format!(
            "DELETE /{session}/groups/{group}/picture HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {}\r\n\
             X-Request-Id: call-{number}\r\n{key}{dry}\r\n",
            Scene::token(caller)
        )
        .into_bytes()
    }
}

/// Asks for some deletions, one after the other.
pub(crate) async fn calls(world: Arc<World>, gateway: Arc<Gateway>) {
    let many = world.lock().chance.between(2, 6);
    for _ in 0..many {
        let gap = {
            let chance = &mut world.lock().chance;
            if chance.one_in(12) { chance.between(1_000, 90_000) } else { chance.below(400) }
        };
        world.wait(gap).await;
        call(&world, &gateway).await;
    }
}

async fn call(world: &Arc<World>, gateway: &Arc<Gateway>) {
    let call = Call::draw(world);
    let (number, head) = {
        let mut state = world.lock();
        let number = state.calls.len();
        state.calls.push(call.clone());
        (number, call.head(number))
    };
    world.happened(format_args!("call {number}: {call:?}"));
    world.alive().await;
    let hangs_up = {
        let mut state = world.lock();
        let hang_up = state.weather.hang_up;
        state.chance.permille(hang_up).then(|| state.chance.below(300))
    };
    let patience = hangs_up.unwrap_or(LONG_ENOUGH_MS);
    let asked = gateway.handle(Head::parse(&head), [10, 0, 0, 1].into(), None);
    let answer = tokio::time::timeout(Duration::from_millis(patience), asked).await;
    world.alive().await;
    let Ok(response) = answer else {
        let mut state = world.lock();
        state.calls[number].hung_up = true;
        if hangs_up.is_some() {
            state.count("hang-ups");
        } else {
            state.breaks(3, format_args!("call {number} has waited in vain for {LONG_ENOUGH_MS} ms"));
        }
        drop(state);
        return world.happened(format_args!("call {number} hangs up"));
    };
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    let heard = Heard::new(&Response::from_parts(parts, ()), &body, world.lock().now_ms());
    world.hears(number, heard);
}
