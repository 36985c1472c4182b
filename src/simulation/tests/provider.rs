//! What the simulated provider does with a request, drawn beforehand: when it can be connected to, whether it reads the
//! head, and what it answers, cut and late in every way that one can think of.

use crate::simulation::{Chance, Weather};

/// What an answer means, whoever judges it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// It confirms the deletion.
    Deleted,
    /// It refuses it.
    Refused,
    /// It shows a picture, or shows that there is none.
    Present,
    Absent,
    /// It says nothing that one could rely on.
    Nothing,
}

/// How a connection goes on behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Then {
    Stays,
    Ends,
    Reset,
}

#[derive(Clone)]
pub(crate) struct Reply {
    pub(crate) name: &'static str,
    pub(crate) means: Means,
    pub(crate) bytes: Vec<u8>,
    /// So many of them are the answer; what is glued on behind it is nobody's.
    pub(crate) length: usize,
    pub(crate) after_ms: u64,
    pub(crate) pieces: usize,
    pub(crate) gap_ms: u64,
    pub(crate) then: Then,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, means, after_ms, pieces, gap_ms, then, .. } = self;
        write!(f, "`{name}` ({means:?}) after {after_ms} ms in {pieces} pieces {gap_ms} ms apart, {then:?}")
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    pub(crate) connects_in_ms: u64,
    pub(crate) is_refused: bool,
    /// Whether the head is read at all, and when.
    pub(crate) is_read: bool,
    pub(crate) reads_in_ms: u64,
    /// `None`: it is never answered, and may be reset.
    pub(crate) reply: Option<Reply>,
    pub(crate) resets_in_ms: Option<u64>,
}

fn whole(status: &str, fields: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

const YES: &str = r#"{"success":true}"#;
const NO: &str = r#"{"success":false,"message":"no"}"#;

/// Answers to a DELETE that confirm it.
fn confirming(chance: &mut Chance) -> (&'static str, Vec<u8>) {
    let two = [whole("200 OK", "", YES), whole("200 OK", "", NO)].concat();
    let early = [b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".to_vec(), whole("200 OK", "", YES)].concat();
    let pieces = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"succes\r\n8\r\ns\":true}\r\n0\r\n\r\n";
    let all = [
        ("yes", whole("200 OK", "Content-Type: application/json\r\n", YES)),
        ("yes, in chunks", pieces.to_vec()),
        ("yes, behind a 103", early),
        ("yes, and another answer glued on", two),
    ];
    chance.pick(&all).clone()
}

fn refusing(chance: &mut Chance) -> (&'static str, Vec<u8>) {
    let all = [
        ("400", whole("400 Bad Request", "", NO)),
        ("403", whole("403 Forbidden", "", NO)),
        ("404", whole("404 Not Found", "", NO)),
        ("401", whole("401 Unauthorized", "", NO)),
        ("429", whole("429 Too Many Requests", "Retry-After: 1\r\n", NO)),
    ];
    chance.pick(&all).clone()
}

/// Answers that confirm nothing and refuse nothing.
fn meaningless(chance: &mut Chance) -> (&'static str, Vec<u8>) {
    let cut = |bytes: Vec<u8>, by: usize| bytes[..bytes.len() - by].to_vec();
    let huge = format!("{{\"success\":true,\"x\":\"{}\"}}", "x".repeat(70_000));
    let all = [
        ("500", whole("500 Internal Server Error", "", NO)),
        ("503", whole("503 Service Unavailable", "Retry-After: 1\r\n", YES)),
        ("200 without success", whole("200 OK", "", NO)),
        ("200 with success twice", whole("200 OK", "", r#"{"success":true,"success":true}"#)),
        ("202", whole("202 Accepted", "", YES)),
        ("204", b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()),
        ("307", whole("307 Temporary Redirect", "Location: /s1/groups/1/picture\r\n", YES)),
        ("418", whole("418 Teapot", "", YES)),
        ("no HTTP", b"\x16\x03\x01 hello\r\n\r\n".to_vec()),
        ("compressed", whole("200 OK", "Content-Encoding: gzip\r\n", YES)),
        ("a cut head", b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        ("a cut body", cut(whole("200 OK", "", YES), 1)),
        ("a huge body", whole("200 OK", "", &huge)),
    ];
    chance.pick(&all).clone()
}

/// Answers to a GET.
fn showing(chance: &mut Chance) -> (&'static str, Means, Vec<u8>) {
    let there = r#"{"success":true,"picture":{"url":"https://x.invalid/a.jpg"}}"#;
    let all = [
        ("there is a picture", Means::Present, whole("200 OK", "", there)),
        ("there is none", Means::Absent, whole("200 OK", "", r#"{"success":true,"picture":null}"#)),
        ("404", Means::Absent, whole("404 Not Found", "", NO)),
        ("429", Means::Nothing, whole("429 Too Many Requests", "Retry-After: 30\r\n", NO)),
        ("500", Means::Nothing, whole("500 Internal Server Error", "", NO)),
    ];
    chance.pick(&all).clone()
}

fn reply(chance: &mut Chance, weather: &Weather, method: &str) -> Reply {
    let odd = chance.permille(weather.odd);
    let (name, means, bytes) = if method != "DELETE" {
        showing(chance)
    } else if !odd {
        let (name, bytes) = confirming(chance);
        (name, Means::Deleted, bytes)
    } else if chance.one_in(3) {
        let (name, bytes) = refusing(chance);
        (name, Means::Refused, bytes)
    } else {
        let (name, bytes) = meaningless(chance);
        (name, Means::Nothing, bytes)
    };
    let slow = chance.permille(weather.slow);
    let (after_ms, pieces) = if slow { (chance.between(500, 40_000), 4) } else { (chance.below(120), 1) };
    let gap_ms = if slow { chance.below(3_000) } else { 0 };
    let then = *chance.pick(&[Then::Stays, Then::Ends, Then::Reset]);
    // What has no end of its own ends with the connection.
    let then = if name.starts_with("a cut") && then == Then::Stays { Then::Ends } else { then };
    let length = if name.ends_with("glued on") { whole("200 OK", "", YES).len() } else { bytes.len() };
    Reply { name, means, bytes, length, after_ms, pieces, gap_ms, then }
}

impl Fate {
    pub(crate) fn draw(chance: &mut Chance, weather: &Weather, method: &str) -> Self {
        let odd = weather.odd / 4;
        let slow = chance.permille(weather.slow);
        let connects_in_ms = if slow { chance.between(100, 8_000) } else { chance.below(30) };
        Self {
            connects_in_ms,
            is_refused: chance.permille(odd),
            is_read: !chance.permille(odd),
            reads_in_ms: if slow || chance.one_in(8) { chance.below(3_000) } else { chance.below(10) },
            reply: if chance.permille(odd) { None } else { Some(reply(chance, weather, method)) },
            resets_in_ms: if chance.one_in(2) { Some(chance.below(30_000)) } else { None },
        }
    }
}
