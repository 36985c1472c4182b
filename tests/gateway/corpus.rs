//! The corpus of raw requests in `tests/corpus/*.txt`, and its form. A row is one case, or one case for each item of
//! a list that its text names:
//!
//! ```text
//! STATUSES CODES kept|closed PLACE NAME TEXT
//! = LIST ITEM ITEM …
//! ```
//!
//! Statuses and codes of the answers, in order: `200 -` is a deletion that is forwarded once, `200 dry-run` and every
//! other status send nothing; `-` beside an error is an answer without a body (to HEAD). `kept`: the next request on the
//! connection is answered; `closed`: it is not even read. The place is what TEXT stands for in the usual deletion:
//! `target`, the whole `line`, the `host` or `auth` line, more `fields`, or some `before` Host; or it is all that is sent
//! (`raw`, and `half`: then the sending side is closed). In TEXT stand `\r \n \t \0 \s \\ \xHH`, `<LIST>`, `{group}` (a
//! number that no other case has), `{token}`, `{line}`, `{auth}`, `{head}` (without its end), `{good}` (a whole deletion
//! of another group, which must not be sent) and `{80*ab}`: `ab` 80 times.

use crate::running::TOKEN;
use std::collections::BTreeMap;

const FILES: [(&str, &str); 4] = [
    ("targets", include_str!("../corpus/targets.txt")),
    ("lines", include_str!("../corpus/lines.txt")),
    ("fields", include_str!("../corpus/fields.txt")),
    ("framing", include_str!("../corpus/framing.txt")),
];
/// How groups begin whose deletion stands in a case for what must not be read, stands before it, or behind it.
pub const SMUGGLED: char = '9';
pub const BEFORE: char = '8';
pub const BEHIND: char = '7';

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// Its own group, without a suffix.
    pub group: String,
    pub bytes: Vec<u8>,
    pub statuses: Vec<u16>,
    pub codes: Vec<String>,
    pub is_kept: bool,
    pub is_half: bool,
}

impl Case {
    /// The paths that the provider gets, in order.
    pub fn forwarded(&self) -> Vec<String> {
        let bare = format!("/groups/{}/picture", self.group);
        let suffix = if contains(&self.bytes, bare.as_bytes()) { "" } else { "@g.us" };
        let sent = self.statuses.iter().zip(&self.codes).filter(|(status, code)| **status == 200 && *code == "-");
        sent.map(|_| path(&format!("{}{suffix}", self.group))).collect()
    }

    /// What is sent, for people.
    pub fn shown(&self) -> String {
        self.bytes.escape_ascii().to_string().chars().take(300).collect()
    }
}

pub fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

pub fn path(group: &str) -> String {
    format!("/sess1/groups/{group}/picture")
}

/// A whole deletion that is allowed.
pub fn good(mark: char, group: &str) -> String {
    let path = path(&format!("{mark}{group}@g.us"));
    format!("DELETE {path} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
}

fn unescaped(text: &str) -> Vec<u8> {
    let (mut bytes, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        bytes.push(match (byte, if byte == b'\\' { rest.next() } else { None }) {
            (b'\\', Some(b'r')) => b'\r',
            (b'\\', Some(b'n')) => b'\n',
            (b'\\', Some(b't')) => b'\t',
            (b'\\', Some(b's')) => b' ',
            (b'\\', Some(b'0')) => 0,
            (b'\\', Some(b'\\')) => b'\\',
            (b'\\', Some(b'x')) => {
                let digits =
                    [rest.next(), rest.next()].map(|digit| digit.unwrap_or_else(|| panic!("half a \\x: {text}")));
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            (b'\\', other) => panic!("no such escape: \\{other:?} in {text}"),
            (byte, _) => byte,
        });
    }
    bytes
}

/// `{80*ab}`.
fn repeated(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        all.push_str(&rest[..open]);
        rest = &rest[open + 1..];
        let repeat = rest.split_once('}').and_then(|(inside, after)| {
            let (count, what) = inside.split_once('*')?;
            Some((what.repeat(count.parse().ok()?), after))
        });
        match repeat {
            Some((what, after)) => (all, rest) = (all + &what, after),
            None => all.push('{'),
        }
    }
    all + rest
}

/// The texts that a text with lists in it stands for, each with the items that were taken.
fn spread(text: &str, lists: &BTreeMap<&str, Vec<&str>>) -> Vec<(String, String)> {
    let named = lists.iter().find(|(name, _)| text.contains(&format!("<{name}>")));
    let Some((name, items)) = named else { return vec![(text.to_owned(), String::new())] };
    let one = |item: &&str| {
        let (text, others) = (text.replace(&format!("<{name}>"), item), lists.clone());
        let others = others.into_iter().filter(|(other, _)| other != name).collect();
        spread(&text, &others).into_iter().map(|(text, taken)| (text, format!(" {item}{taken}"))).collect::<Vec<_>>()
    };
    items.iter().flat_map(one).collect()
}

fn placed(place: &str, text: &str) -> String {
    match place {
        "target" => format!("DELETE {text} HTTP/1.1\r\nHost: gw\r\n{{auth}}\r\n\r\n"),
        "line" => format!("{text}\r\nHost: gw\r\n{{auth}}\r\n\r\n"),
        "host" => format!("{{line}}\r\n{text}\r\n{{auth}}\r\n\r\n"),
        "auth" => format!("{{line}}\r\nHost: gw\r\n{text}\r\n\r\n"),
        "fields" => format!("{{head}}\r\n{text}\r\n\r\n"),
        "before" => format!("{{line}}\r\n{text}\r\nHost: gw\r\n{{auth}}\r\n\r\n"),
        "raw" | "half" => text.to_owned(),
        other => panic!("no such place: {other}"),
    }
}

/// The bytes of a text that stands in a place, for a case with this group.
pub fn bytes(place: &str, text: &str, group: &str) -> Vec<u8> {
    let text = placed(place, text)
        .replace("{good}", &good(SMUGGLED, group))
        .replace("{head}", "{line}\r\nHost: gw\r\n{auth}")
        .replace("{line}", &format!("DELETE {} HTTP/1.1", path("{group}@g.us")))
        .replace("{auth}", "Authorization: Bearer {token}")
        .replace("{token}", TOKEN)
        .replace("{group}", group);
    unescaped(&repeated(&text))
}

/// A group that no other case has.
pub fn group(number: usize) -> String {
    format!("120363{number:08}")
}

/// Every case.
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for (file, text) in FILES {
        let mut lists = BTreeMap::new();
        for row in text.lines().filter(|row| !row.is_empty() && !row.starts_with('#')) {
            if let Some(list) = row.strip_prefix("= ") {
                let mut words = list.split_whitespace();
                lists.insert(words.next().unwrap(), words.collect());
                continue;
            }
            let mut rest = row;
            let [statuses, codes, connection, place, name] = [(); 5].map(|()| {
                let (word, after) = rest.split_once(' ').unwrap_or_else(|| panic!("{file}: {row}"));
                rest = after.trim_start();
                word
            });
            for (text, taken) in spread(rest, &lists) {
                let group = group(cases.len());
                let case = Case {
                    name: format!("{file}: {name}{taken}"),
                    bytes: bytes(place, &text, &group),
                    group,
                    statuses: statuses.split(',').map(|status| status.parse().unwrap()).collect(),
                    codes: codes.split(',').map(str::to_owned).collect(),
                    is_kept: connection == "kept",
                    is_half: place == "half",
                };
                assert!(case.is_kept || connection == "closed", "{row}");
                assert_eq!(case.statuses.len(), case.codes.len(), "{row}");
                cases.push(case);
            }
        }
    }
    cases
}
