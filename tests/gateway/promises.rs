//! What must hold after every crash, asked of three witnesses: what the provider read, what the callers heard,
//! and what the ledger says once it has been opened again.

use crate::provider::Provider;
use crate::running::{Gateway, TOKEN, command};
use crate::wire::request;
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A target that no other request of this process has.
pub fn fresh_target() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    format!("/sess1/groups/{}@g.us/picture", NEXT.fetch_add(1, Ordering::SeqCst))
}

/// What a caller heard.
#[derive(Debug)]
pub struct Heard {
    pub target: String,
    pub status: u16,
    pub warned: bool,
    pub sent: String,
    pub id: String,
}

/// Sends one deletion of a fresh target. Nothing, if the connection ends before the whole answer is there.
pub fn ask(stream: &mut TcpStream) -> Option<Heard> {
    let target = fresh_target();
    stream.write_all(request(&target, &format!("Authorization: Bearer {TOKEN}\r\n")).as_bytes()).ok()?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if let Some(heard) = heard(&target, &String::from_utf8_lossy(&bytes)) {
            return Some(heard);
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
            _ => return None,
        }
    }
}

fn heard(target: &str, text: &str) -> Option<Heard> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let field = |name: &str| {
        let mut fields = head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let complete = body.len() >= field("content-length")?.parse().ok()?;
    complete.then(|| Heard {
        target: target.to_owned(),
        status: head[9..12].parse().unwrap(),
        warned: field("ledger-warning").is_some(),
        sent: serde_json::from_str::<Value>(body)
            .ok()
            .and_then(|b| Some(b["sent"].as_str()?.to_owned()))
            .unwrap_or_default(),
        id: field("x-request-id").unwrap_or_default(),
    })
}

/// A connection to a process that may die at any moment.
pub fn connect(to: SocketAddr) -> Option<TcpStream> {
    let stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    Some(stream)
}

/// Everything that was sent, heard and recorded so far, over any number of crashes.
#[derive(Default)]
pub struct Promises {
    sent: HashMap<String, usize>,
    pub heard: Vec<Heard>,
    /// Request id of an intent, by target.
    intents: HashMap<String, String>,
    /// The outcomes of a request id.
    outcomes: HashMap<String, Vec<String>>,
    read: u64,
    faults: Vec<String>,
}

impl Promises {
    /// Looks at what the provider has read since the last look.
    pub fn look_at(&mut self, provider: &Provider) {
        self.saw(provider.take_targets());
    }

    pub fn saw(&mut self, targets: impl IntoIterator<Item = String>) {
        for target in targets {
            *self.sent.entry(target).or_default() += 1;
        }
    }

    /// Reads the entries that are new, from a process that has recovered.
    pub fn read(&mut self, gateway: &Gateway) {
        let output = command(&["audit", "export", "--from", &self.read.to_string()], &gateway.config());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (mut open, mut unknown) = (HashSet::new(), 0);
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let entry: Value = serde_json::from_str(line).unwrap();
            if entry["seq"] != self.read {
                self.faults.push(format!("entry {} stands where {} belongs", entry["seq"], self.read));
            }
            self.read += 1;
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            match text("kind").as_str() {
                "intent" => {
                    let target = format!("/{}/groups/{}/picture", text("session"), text("group"));
                    open.insert(text("request_id"));
                    if self.intents.insert(target.clone(), text("request_id")).is_some() {
                        self.faults.push(format!("{target} has two intents"));
                    }
                }
                "outcome" => {
                    open.remove(&text("request_id"));
                    unknown += u64::from(text("outcome") == "unknown");
                    self.outcomes.entry(text("request_id")).or_default().push(text("outcome"));
                }
                "start" if entry["recovered"].as_u64().unwrap() > unknown => {
                    self.faults.push("more intents were recovered than outcomes are unknown".to_owned());
                }
                _ => {}
            }
        }
        self.faults.extend(open.into_iter().map(|id| format!("the intent of {id} is still open after a start")));
    }

    /// Every promise that was broken.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = self.faults.clone();
        for (target, times) in &self.sent {
            if *times > 1 {
                broken.push(format!("{target} was sent {times} times"));
            }
            if !self.intents.contains_key(target) {
                broken.push(format!("{target} was sent without an intent"));
            }
        }
        for (target, id) in &self.intents {
            let outcomes = self.outcomes.get(id).map_or(&[][..], Vec::as_slice);
            if outcomes.len() != 1 {
                broken.push(format!("the intent for {target} has the outcomes {outcomes:?}"));
            }
        }
        for heard in &self.heard {
            broken.extend(self.unrecorded(heard));
            if heard.status == 200 && !self.sent.contains_key(&heard.target) {
                broken.push(format!("{heard:?} was answered, but never sent"));
            }
            if heard.sent == "no" && self.sent.contains_key(&heard.target) {
                broken.push(format!("{heard:?} was told that nothing was sent"));
            }
        }
        broken
    }

    /// What is wrong if a success was answered without its outcome.
    pub fn unrecorded(&self, heard: &Heard) -> Option<String> {
        let outcome = self.outcomes.get(&heard.id).and_then(|all| all.first()).map(String::as_str);
        let wrong = heard.status == 200 && !heard.warned && outcome != Some("deleted");
        wrong.then(|| format!("{heard:?} was answered, but its outcome is {outcome:?}"))
    }

    pub fn hold(&self, when: &str) {
        let broken = self.broken();
        assert!(broken.is_empty(), "{when}:\n{}", broken.join("\n"));
    }

    pub fn sent(&self) -> usize {
        self.sent.len()
    }

    /// How many intents have the outcome that the provider confirmed them.
    pub fn deleted(&self) -> usize {
        self.outcomes.values().filter(|outcomes| *outcomes == &["deleted"]).count()
    }

    pub fn recorded(&self) -> usize {
        self.intents.len()
    }
}
