//! What the sandbox saw, without anything that could be a secret.

use super::behaviour::Behaviour;
use crate::secret::Secret;
use http::request::Parts;
use serde::Serialize;
use std::collections::VecDeque;
use subtle::ConstantTimeEq;

const LONGEST_TEXT: usize = 1024;
const HIDDEN: &str = "***";

/// One request, as it is told to whoever runs the sandbox. Holds names of headers and never a value.
///
/// `method`, `path` and `authorization` are absent where the connection ended before anything was read.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// Always true: so that no reader of a log takes the line for a deletion.
    pub sandbox: bool,
    /// The same, in words.
    pub note: &'static str,
    /// The method, as it was sent.
    pub method: Option<String>,
    /// Path and query, as they were sent; at most 1024 bytes, and `***` if the key stands in it.
    pub path: Option<String>,
    /// What the `Authorization` header was worth.
    pub authorization: Option<Authorization>,
    /// The names of all headers, in lower case; a name that holds the key is `***`.
    pub headers: Vec<String>,
    /// What the sandbox did.
    pub answer: Answer,
    /// The behaviour that a group id or the control route asked for, where one did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behaviour: Option<String>,
}

/// What an `Authorization` header was worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authorization {
    /// Exactly one, `Bearer` and the right key.
    Ok,
    /// Another key or scheme, or more than one header.
    Wrong,
    /// There was none.
    Missing,
}

/// What the sandbox did: a status, or the name of the way in which it hung up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// A response with this status.
    Status(u16),
    /// No response: `hang-up-…`.
    HungUp(String),
}

impl Seen {
    /// A connection that was ended before anything was read.
    pub(super) fn nothing() -> Self {
        let behaviour = Behaviour::HangUpBeforeReading.to_string();
        Self {
            sandbox: true,
            note: "nothing real happened",
            method: None,
            path: None,
            authorization: None,
            headers: Vec::new(),
            answer: Answer::HungUp(behaviour.clone()),
            behaviour: Some(behaviour),
        }
    }
}

/// The one key that the sandbox takes.
pub(super) struct Key {
    bearer: Secret<String>,
    folded: Secret<String>,
}

impl Key {
    pub(super) fn new(key: &Secret<String>) -> Self {
        Self {
            bearer: Secret::new(format!("Bearer {}", key.expose())),
            folded: Secret::new(key.expose().to_ascii_lowercase()),
        }
    }

    /// Judges the credential of a request.
    pub(super) fn judge(&self, head: &Parts) -> Authorization {
        let mut values = head.headers.get_all(hyper::header::AUTHORIZATION).iter();
        match (values.next(), values.next()) {
            (None, _) => Authorization::Missing,
            (Some(value), None) if value.as_bytes().ct_eq(self.bearer.expose().as_bytes()).into() => Authorization::Ok,
            (Some(_), _) => Authorization::Wrong,
        }
    }

    /// The text as it may be shown: a key that was put where none belongs is not repeated.
    fn shown(&self, text: &str) -> String {
        if text.to_ascii_lowercase().contains(self.folded.expose()) {
            return String::from(HIDDEN);
        }
        text.get(..text.floor_char_boundary(LONGEST_TEXT)).unwrap_or_default().to_owned()
    }

    /// Describes a request.
    pub(super) fn describe(&self, head: &Parts, answer: Answer, behaviour: Option<Behaviour>) -> Seen {
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        Seen {
            method: Some(self.shown(head.method.as_str())),
            path: Some(self.shown(path)),
            authorization: Some(self.judge(head)),
            headers: head.headers.keys().map(|name| self.shown(name.as_str())).collect(),
            answer,
            behaviour: behaviour.map(|behaviour| behaviour.to_string()),
            ..Seen::nothing()
        }
    }
}

/// The latest requests, the oldest forgotten first.
pub(super) struct Log {
    latest: VecDeque<Seen>,
    most: usize,
}

impl Log {
    pub(super) fn new(most: usize) -> Self {
        Self { latest: VecDeque::new(), most }
    }

    pub(super) fn push(&mut self, seen: Seen) {
        if self.latest.len() >= self.most {
            self.latest.pop_front();
        }
        self.latest.push_back(seen);
    }

    /// All of them as a JSON array, oldest first.
    pub(super) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&self.latest).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_requests_are_forgotten_when_there_are_too_many() {
        let mut log = Log::new(3);
        for number in 0..10 {
            log.push(Seen { answer: Answer::Status(number), ..Seen::nothing() });
        }
        let kept: Vec<_> = log.latest.iter().map(|seen| seen.answer.clone()).collect();
        assert_eq!(kept, [7, 8, 9].map(Answer::Status));
    }

    #[test]
    fn a_long_path_is_shown_in_part() {
        let key = Key::new(&Secret::new(String::from("canary-provider-key-000")));
        let shown = key.shown(&"é".repeat(LONGEST_TEXT));
        assert_eq!(shown, "é".repeat(LONGEST_TEXT / 2));
        assert_eq!(key.shown(&format!("{}{}", "x".repeat(LONGEST_TEXT), "canary-provider-key-000")), HIDDEN);
    }
}
