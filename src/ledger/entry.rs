//! Entries: one JSON object each, in the order of their members below, at most 65,535 bytes.

use super::admission::{Asked, Mark, remembered};
use super::freeze::{Covers, Freeze};
use crate::clock::Timestamp;
use crate::config::Per;
use crate::error::Sent;
use crate::id::{CallerName, GroupId, Origin, RequestId, SessionId, Target};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// The version of the entries' form.
const VERSION: u8 = 1;
/// The most bytes of an entry.
const LONGEST: usize = 65_535;

/// An intent to delete: who, what, from where, and by which rule of which policy.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)] // the members as entries have them
pub struct Intention {
    pub request_id: RequestId,
    pub caller: CallerName,
    pub credential: CallerName,
    pub peer: IpAddr,
    pub session: SessionId,
    pub group: GroupId,
    pub rule: Arc<str>,
    pub policy: Arc<str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller_request_id: Option<String>,
}

/// An intent as it is recorded: with what the tables beside the entries keep because of it, so that they can be made
/// anew. An intent without `budgets` was recorded by a version that did not say so.
#[derive(Debug, Clone, Serialize)]
pub struct Intent {
    #[serde(flatten)]
    intention: Intention,
    /// What its idempotency key is kept under.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Mark>,
    budgets: Counted,
}

/// How many intents are remembered of each counter that this one was added to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counted {
    /// Of its caller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) caller: Option<u32>,
    /// Of its caller in its session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) session: Option<u32>,
}

impl From<Asked> for Intent {
    fn from(Asked { intention, key, budgets, .. }: Asked) -> Self {
        let key = key.map(|key| Mark::of_key(intention.caller.as_str(), key.as_str()));
        let most = |per| budgets.iter().filter(|budget| budget.per == per).map(|budget| remembered(budget.max)).max();
        let budgets = Counted { caller: most(Per::Caller), session: most(Per::Session) };
        Self { intention, key, budgets }
    }
}

/// A target as `session` and `group`.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Named {
    pub session: SessionId,
    pub group: GroupId,
}

impl From<&Target> for Named {
    fn from(target: &Target) -> Self {
        Self { session: target.session.clone(), group: target.group.clone() }
    }
}

/// What came of an intent.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Outcome {
    pub request_id: RequestId,
    pub outcome: End,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<&'static str>,
    pub sent: Sent,
    /// The answer that the intent's idempotency key keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<Mark>,
}

impl Outcome {
    /// What is recorded where nobody can know what happened.
    #[must_use]
    pub fn unknown(request_id: RequestId) -> Self {
        let (status, code) = (None, Some("outcome-unknown"));
        Self { request_id, outcome: End::Unknown, status, code, sent: Sent::Unknown, answer: None }
    }

    /// What is recorded where an intent became durable only after its request had been answered.
    #[must_use]
    pub fn never_sent(request_id: RequestId) -> Self {
        let (status, code) = (None, Some("ledger-unavailable"));
        Self { request_id, outcome: End::NotSent, status, code, sent: Sent::No, answer: None }
    }
}

/// The four ends of an intent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// The provider confirmed the deletion.
    Deleted,
    /// The provider refused it.
    Refused,
    /// Nothing left for the provider.
    NotSent,
    /// It may or may not have happened.
    Unknown,
}

impl End {
    /// The word that entries have.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            End::Deleted => "deleted",
            End::Refused => "refused",
            End::NotSent => "not-sent",
            End::Unknown => "unknown",
        }
    }
}

/// What was seen of the picture after an outcome that is `unknown`. It never changes that outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Resolution {
    /// The provider shows no picture. This does not claim that we deleted it: somebody else may have.
    Absent,
    /// There is a picture. This does not claim that it is the same one: somebody may have set it since.
    Present,
    /// It could not be read, as often as it was tried.
    Indeterminate,
}

impl Resolution {
    /// The word that entries have.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Resolution::Absent => "absent",
            Resolution::Present => "present",
            Resolution::Indeterminate => "indeterminate",
        }
    }
}

/// A refusal before any intent.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Refusal {
    pub request_id: RequestId,
    pub status: u16,
    pub code: &'static str,
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<CallerName>,
    pub peer: IpAddr,
    #[serde(flatten)]
    pub target: Option<Named>,
    /// The rule that refused it, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<Arc<str>>,
}

/// The log before this one, and what is left of it.
#[derive(Debug, Clone, Serialize)]
#[allow(missing_docs)]
pub struct Previous {
    pub origin: Origin,
    /// How many of its entries are there, from 0 on, and their root.
    pub restored: u64,
    pub restored_root: String,
    /// How many were signed, as far as is known: those from `restored` on are lost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed: Option<u64>,
    /// The signed note that says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// How many of its intents have no known end: they follow, each with an outcome.
    pub carried: u64,
    /// How many of its freezes hold on: they follow after those.
    pub freezes: u64,
}

/// Everything that an entry can say.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[allow(missing_docs)]
pub enum Body {
    Intent(Intent),
    Outcome(Outcome),
    Resolution {
        request_id: RequestId,
        resolution: Resolution,
    },
    Refusal(Refusal),
    /// Refusals and dry runs that have no entry of their own, counted by code.
    RefusalsSuppressed {
        #[serde(skip_serializing_if = "Option::is_none")]
        caller: Option<CallerName>,
        since: Timestamp,
        count: u64,
        codes: BTreeMap<&'static str, u64>,
    },
    DryRun(Intention),
    /// The policy in force from here on.
    Policy {
        policy: Arc<str>,
    },
    /// Another one was refused for faults under these keys, and this one stays in force.
    PolicyRefused {
        policy: Arc<str>,
        faults: Vec<String>,
    },
    Freeze(Freeze),
    /// A freeze was taken back.
    Unfreeze {
        #[serde(flatten)]
        covers: Covers,
        reason: String,
        by: String,
    },
    Start {
        version: &'static str,
        recovered: u64,
    },
    Stop {},
    /// Entries before `first` were removed, all older than `before`; the root over them stays. So many of their intents
    /// and `unknown` outcomes have what came of them among the kept entries.
    Prune {
        before: Timestamp,
        first: u64,
        root: String,
        carried_outcomes: u64,
        carried_resolutions: u64,
        /// What was frozen there, as far as the entries said it.
        #[serde(skip_serializing_if = "Option::is_none")]
        freezes: Option<Vec<Freeze>>,
        by: String,
    },
    /// The entries before this one were copied from another store, and have this root: the log goes on here.
    Copy {
        from: &'static str,
        to: &'static str,
        entries: u64,
        root: String,
        by: String,
    },
    /// A known loss.
    Gap {
        reason: &'static str,
        /// The first entry of a log that begins where another one lost entries.
        #[serde(skip_serializing_if = "Option::is_none")]
        previous: Option<Box<Previous>>,
    },
}

/// A body as it stands in its entry, behind the members that every entry has. Whoever wants something recorded makes
/// it, so that the one writer need not.
#[derive(Debug, Clone)]
pub struct Encoded(Vec<u8>);

impl Encoded {
    /// Encodes a body.
    ///
    /// # Errors
    /// Never for the bodies above; the error is there because serialisation has one.
    pub fn new(body: &Body) -> serde_json::Result<Self> {
        let mut bytes = Vec::with_capacity(448);
        serde_json::to_writer(&mut bytes, body)?;
        Ok(Self(bytes))
    }

    /// Writes the bytes of an entry: what is stored, exported and hashed. `time` as [`Timestamp`] prints it.
    pub fn write_entry(&self, to: &mut Vec<u8>, seq: u64, time: &str) {
        let _ = write!(to, "{{\"v\":{VERSION},\"seq\":{seq},\"time\":\"{time}\",");
        // A body is an object: its members come behind the common ones.
        to.extend_from_slice(self.0.get(1..).unwrap_or_default());
    }
}

/// The bytes of one entry.
///
/// # Errors
/// As [`Encoded::new`].
pub fn encode(seq: u64, time: Timestamp, body: &Body) -> serde_json::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(512);
    Encoded::new(body)?.write_entry(&mut bytes, seq, &time.to_string());
    Ok(bytes)
}

/// How the member begins that says where an intent stood before it was taken over; it is the last one.
pub(super) const CARRIED: &str = ",\"carried\":{\"origin\":";

/// The bytes of an intent that is taken over from another log: its members, and where it stood. `None`: these are not
/// the bytes of an entry, or there would be too many.
#[must_use]
pub fn encode_carried(seq: u64, time: Timestamp, bytes: &[u8], origin: &Origin, was: u64) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(bytes).ok()?;
    let members = text.get(text.find(",\"kind\":")?..)?.strip_suffix('}')?;
    // It may have been taken over before: that log says from where. No text within an entry has a quote that is bare.
    let members = members.rfind(CARRIED).map_or(members, |at| members.get(..at).unwrap_or(members));
    let origin = serde_json::to_string(origin).ok()?;
    let carried = format!("{CARRIED}{origin},\"seq\":{was}}}");
    let entry = format!("{{\"v\":{VERSION},\"seq\":{seq},\"time\":\"{time}\"{members}{carried}}}").into_bytes();
    (entry.len() <= LONGEST && serde_json::from_slice::<serde::de::IgnoredAny>(&entry).is_ok()).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Budget, OnExhausted};
    use crate::id::IdempotencyKey;

    #[test]
    fn an_intent_reads_as_the_design_says() {
        let id = RequestId::new();
        let name = |text| CallerName::parse(text).unwrap();
        let target = Target { session: SessionId::parse("s1").unwrap(), group: GroupId::parse("1@g.us").unwrap() };
        let intention = Intention {
            request_id: id,
            caller: name("c"),
            credential: name("t"),
            peer: "10.0.0.1".parse().unwrap(),
            session: target.session,
            group: target.group,
            rule: "c.allow[0]".into(),
            policy: "sha256:x".into(),
            trace_id: None,
            caller_request_id: Some("a\"b".into()),
        };
        let budgets = [Budget { max: 5_000, per_s: 60, per: Per::Caller, on_exhausted: OnExhausted::Refuse }];
        let key = IdempotencyKey::parse(b"k");
        let mark = Mark::of_key("c", "k");
        let body = Body::Intent(Asked { key, budgets: budgets.into(), ..intention.into() }.into());
        let text = String::from_utf8(encode(7, Timestamp::from_micros(0), &body).unwrap()).unwrap();
        let expected = format!(
            r#"{{"v":1,"seq":7,"time":"1970-01-01T00:00:00.000000Z","kind":"intent","request_id":"{id}","caller":"c","credential":"t","peer":"10.0.0.1","session":"s1","group":"1@g.us","rule":"c.allow[0]","policy":"sha256:x","caller_request_id":"a\"b","key":"{mark}","budgets":{{"caller":5000}}}}"#
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn a_resolution_reads_as_the_design_says() {
        let request_id = RequestId::new();
        for resolution in [Resolution::Absent, Resolution::Present, Resolution::Indeterminate] {
            let body = Body::Resolution { request_id, resolution };
            let text = String::from_utf8(encode(8, Timestamp::from_micros(0), &body).unwrap()).unwrap();
            let expected = format!(
                r#"{{"v":1,"seq":8,"time":"1970-01-01T00:00:00.000000Z","kind":"resolution","request_id":"{request_id}","resolution":"{}"}}"#,
                resolution.as_str()
            );
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn an_intent_that_is_taken_over_again_says_once_where_it_stood_last() {
        let bytes = br#"{"v":1,"seq":7,"time":"2026-01-01T00:00:00.000000Z","kind":"intent","peer":",\"carried\":{\"origin\":"}"#;
        let origin = |name| Origin::parse(name).unwrap();
        let one = encode_carried(1, Timestamp::from_micros(0), bytes, &origin("a.example/log"), 7).unwrap();
        let two = encode_carried(3, Timestamp::from_micros(0), &one, &origin("a.example/log/2"), 1).unwrap();
        let text = String::from_utf8(two).unwrap();
        assert!(text.ends_with(r#"\"origin\":","carried":{"origin":"a.example/log/2","seq":1}}"#), "{text}");
        assert_eq!(text.matches(CARRIED).count(), 1, "{text}");
    }
}
