//! What a provider may do to a deletion, and what has to come of it: the classes of misbehaviour, a row each.

use crate::erratic::{Play, Reads, Step};
use std::time::Duration;

/// A play and what has to come of it: status, code, `sent`, outcome.
pub struct Row {
    pub play: Play,
    pub told: (u16, &'static str, &'static str, &'static str),
    /// It goes on until the deadline.
    pub is_slow: bool,
}

pub const YES: &str = "{\"success\": true}";
const DELETED: (u16, &str, &str, &str) = (200, "", "", "deleted");
const UNCONFIRMED: (u16, &str, &str, &str) = (502, "upstream-not-confirmed", "unknown", "unknown");
const LOST: (u16, &str, &str, &str) = (504, "outcome-unknown", "unknown", "unknown");

fn say(text: &str) -> Step {
    Step::Say(text.as_bytes().to_vec())
}

fn ok(fields: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}")
}

fn endless(text: &str) -> Step {
    Step::Endless(text.as_bytes().to_vec())
}

pub fn yes() -> String {
    ok("content-length: 17\r\n", YES)
}

/// Everything but `success: true` as documented stands in these: read to their end, they confirm nothing.
pub fn no() -> [String; 2] {
    let refused = "{\"message\": \"no such group\"}";
    [
        format!("HTTP/1.1 404 Not Found\r\ncontent-length: {}\r\n\r\n{refused}", refused.len()),
        ok("content-length: 18\r\n", "{\"success\": false}"),
    ]
}

/// It confirms, in whatever form.
fn confirming() -> Vec<Row> {
    let early = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
    let chunked = "11;a=\"b\"\r\n{\"success\": true}\r\n0\r\nx: y\r\n\r\n";
    let plays = [
        ("at once", vec![say(&yes())]),
        ("in chunks, with extension and trailer", vec![say(&ok("transfer-encoding: chunked\r\n", chunked))]),
        (
            "in chunks, with a length beside",
            vec![say(&ok("content-length: 3\r\ntransfer-encoding: chunked\r\n", chunked)), Step::Close],
        ),
        ("with its length twice", vec![say(&ok("content-length: 17\r\ncontent-length: 17\r\n", YES))]),
        ("until it closes", vec![say(&ok("", YES)), Step::Close]),
        ("as HTTP/1.0", vec![say(&yes().replace("HTTP/1.1", "HTTP/1.0")), Step::Close]),
        ("after interim answers", vec![say(early), say(&yes())]),
        ("after more interim answers than anybody sends", vec![say(&early.repeat(20)), say(&yes())]),
        ("byte by byte", vec![Step::Drip(yes().into_bytes(), Duration::from_micros(200))]),
        ("and closes though it had not said so", vec![say(&yes()), Step::Close]),
        ("and says that it closes", vec![say(&ok("connection: close\r\ncontent-length: 17\r\n", YES)), Step::Close]),
        ("encoded as itself", vec![say(&ok("content-encoding: identity\r\ncontent-length: 17\r\n", YES))]),
        ("with a second answer glued on", vec![say(&(yes() + &no()[0]))]),
        ("with rubbish glued on", vec![say(&(yes() + "\0\u{1}\u{2}HTTP"))]),
    ];
    plays.map(|(name, steps)| Row { play: Play::new(name, steps).confirming(), told: DELETED, is_slow: false }).into()
}

/// A whole answer that is no confirmation.
fn unconfirmed(elsewhere: &str) -> Vec<Row> {
    let status = |status: u16, fields: &str| {
        let text = format!("HTTP/1.1 {status} X\r\n{fields}content-length: 17\r\n\r\n{YES}");
        (format!("status {status} {}", fields.trim()), vec![say(&text), Step::Close])
    };
    let mut plays: Vec<(String, Vec<Step>)> = Vec::new();
    for code in [300, 301, 302, 303, 304, 305, 307, 308] {
        for to in ["/sess1/groups/1@g.us/picture", &format!("{elsewhere}/sess1/groups/1@g.us/picture"), "//[", ""] {
            plays.push(status(code, &format!("location: {to}\r\n")));
        }
    }
    plays.extend([201, 202, 203, 204, 205, 206, 226, 299, 402, 405, 418, 600, 999].map(|code| status(code, "")));
    for encoding in ["gzip", "x-gzip", "deflate", "br", "zstd", "gzip, identity", "aws-chunked"] {
        plays.push(status(200, &format!("content-encoding: {encoding}\r\n")));
    }
    plays.push(status(200, "content-encoding: identity\r\ncontent-encoding: gzip\r\n"));
    for body in [
        "",
        "true",
        "[true]",
        "{\"success\": \"true\"}",
        "{\"success\": 1}",
        "{\"Success\": true}",
        "{\"success\": true, \"success\": false}",
        "{\"success\": true}{\"success\": true}",
        "{\"success\": true",
        "\u{feff}{\"success\": true}",
        "<html>success: true</html>",
    ] {
        let text = ok(&format!("content-length: {}\r\n", body.len()), body);
        plays.push((format!("the body {body}"), vec![say(&text)]));
    }
    let rows = plays.into_iter().map(|(name, steps)| (Play::new(&name, steps), UNCONFIRMED));
    rows.map(|(play, told)| Row { play, told, is_slow: false }).collect()
}

/// Bytes that are no answer, or too many of them.
fn unreadable() -> Vec<Row> {
    let large = "x".repeat(65_537);
    let texts: Vec<(&str, String)> = vec![
        ("HTTP/0.9", YES.to_owned()),
        ("another protocol's greeting", "220 mail ESMTP\r\n".to_owned()),
        ("an HTTP/2 frame", "\0\0\0\u{4}\0\0\0\0\0".to_owned()),
        ("a TLS alert", "\u{15}\u{3}\u{3}\0\u{2}\u{2}\u{28}".to_owned()),
        ("HTTP/2 in its first line", yes().replace("HTTP/1.1", "HTTP/2.0")),
        ("a status of two digits", yes().replace("200", "20")),
        ("a status of four digits", yes().replace("200", "2000")),
        ("a status below 100", yes().replace("200", "099")),
        ("a folded field", ok("x: a\r\n b\r\ncontent-length: 17\r\n", YES)),
        ("a field without a name", ok(": a\r\ncontent-length: 17\r\n", YES)),
        ("a space before the colon", ok("content-length : 17\r\n", YES)),
        ("NUL in a field", ok("x: a\0b\r\ncontent-length: 17\r\n", YES)),
        ("two lengths", ok("content-length: 17\r\ncontent-length: 18\r\n", YES)),
        ("two lengths in one", ok("content-length: 17, 18\r\n", YES)),
        ("a length with a sign", ok("content-length: +17\r\n", YES)),
        ("a negative length", ok("content-length: -1\r\n", YES)),
        ("a length beyond all numbers", ok("content-length: 99999999999999999999\r\n", YES)),
        ("150 fields", ok(&("x: y\r\n".repeat(150) + "content-length: 17\r\n"), YES)),
        ("a body that is too large", ok("content-length: 65537\r\n", &large)),
    ];
    let mut plays: Vec<(String, Vec<Step>)> =
        texts.into_iter().map(|(name, text)| (name.to_owned(), vec![say(&text), Step::Close])).collect();
    let begun = |fields: &str| say(&format!("HTTP/1.1 200 OK\r\n{fields}"));
    plays.extend([
        (
            "a body that is not UTF-8".to_owned(),
            vec![begun("content-length: 25\r\n\r\n"), Step::Say(b"{\"success\":true,\"x\":\"\xff\xfe\"}".to_vec())],
        ),
        ("fields without an end".to_owned(), vec![begun(""), endless("x: y\r\n")]),
        ("a field without an end".to_owned(), vec![begun("x: "), endless("y")]),
        ("a reason without an end".to_owned(), vec![say("HTTP/1.1 200 "), endless("y")]),
        ("a body without an end".to_owned(), vec![begun("\r\n"), endless(" ")]),
        (
            "chunks without an end".to_owned(),
            vec![begun("transfer-encoding: chunked\r\n\r\n"), endless(&format!("1000\r\n{:4096}\r\n", ""))],
        ),
        (
            "another protocol after 101".to_owned(),
            vec![say("HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"), say(&yes()), Step::Close],
        ),
    ]);
    let rows = plays.into_iter().map(|(name, steps)| Play::new(&name, steps));
    rows.map(|play| Row { play, told: UNCONFIRMED, is_slow: false }).collect()
}

/// No whole answer, or none in time.
fn lost() -> Vec<Row> {
    let (apart, yes) = (Duration::from_millis(100), yes());
    let cut = |bytes: usize| say(&yes[..bytes]);
    let chunk = |text: &str| say(&ok("transfer-encoding: chunked\r\n", text));
    let reset = |name: &str, reads| Play::new(name, vec![Step::Close]).reading(reads);
    let mut rows: Vec<Row> = [
        reset("closes and reads nothing", Reads::Nothing),
        reset("reads a byte and closes", Reads::Some(1)),
        reset("reads all but a byte and closes", Reads::Some(usize::MAX)),
        Play::new("closes", vec![Step::Close]),
        Play::new("one byte of an answer", vec![cut(1), Step::Close]),
        Play::new("all of a head but a byte", vec![cut(yes.len() - YES.len() - 1), Step::Close]),
        Play::new("a head and no body", vec![cut(yes.len() - YES.len()), Step::Close]),
        Play::new("all of an answer but a byte", vec![cut(yes.len() - 1), Step::Close]),
        Play::new("an interim answer alone", vec![say("HTTP/1.1 100 C\r\n\r\n"), Step::Close]),
        Play::new("chunks that break off", vec![chunk("11\r\n{\"success\": true}\r\n"), Step::Close]),
        Play::new("a chunk without a size", vec![chunk("\r\n{\"success\": true}\r\n0\r\n\r\n"), Step::Close]),
        Play::new("a chunk of beyond all numbers", vec![chunk("fffffffffffffffffff\r\n"), Step::Close]),
        Play::new("a chunk with junk behind it", vec![chunk("11\r\n{\"success\": true}x\r\n0\r\n\r\n"), Step::Close]),
        Play::new("a refusal that breaks off", vec![say(&no()[0][..60]), Step::Close]),
    ]
    .map(|play| Row { play, told: LOST, is_slow: false })
    .into();
    let drip = |text: &str| Step::Drip(text.as_bytes().to_vec(), apart);
    let slow = [
        ("silence", vec![Step::Silence]),
        ("silence in the middle of the head", vec![cut(20), Step::Silence]),
        ("silence in the middle of the body", vec![cut(yes.len() - 4), Step::Silence]),
        ("a head, a byte at a time", vec![cut(17), drip(&"x: y\r\n".repeat(1000))]),
        ("a body, a byte at a time", vec![say(&ok("content-length: 9999\r\n", "")), drip(&" ".repeat(9999))]),
        ("interim answers, one at a time", vec![drip(&"HTTP/1.1 103 E\r\n\r\n".repeat(1000))]),
        ("nothing but interim answers", vec![endless("HTTP/1.1 103 E\r\n\r\n")]),
        (
            "nothing but long interim answers",
            vec![endless(&format!("HTTP/1.1 103 E\r\nx: {}\r\n\r\n", "y".repeat(8000)))],
        ),
    ];
    rows.extend(slow.map(|(name, steps)| Row { play: Play::new(name, steps), told: LOST, is_slow: true }));
    rows
}

/// All of it; redirects lead to `elsewhere`.
pub fn all(elsewhere: &str) -> Vec<Row> {
    let mut rows = confirming();
    for refusal in [400, 403, 404] {
        // Whoever reads on takes the second answer for that to the next deletion.
        let text = format!("HTTP/1.1 {refusal} X\r\ncontent-length: 2\r\n\r\n{{}}{}", yes());
        let play = Play::new(&format!("a {refusal} with a success glued on"), vec![say(&text)]);
        rows.push(Row { play, told: (refusal, "upstream-refused", "yes", "refused"), is_slow: false });
    }
    for (failure, told) in [(500, 500), (501, 502), (502, 502), (503, 502), (504, 502), (520, 502), (599, 502)] {
        let text = format!("HTTP/1.1 {failure} X\r\nretry-after: 0\r\ncontent-length: 17\r\n\r\n{YES}");
        let play = Play::new(&format!("status {failure}"), vec![say(&text)]);
        rows.push(Row { play, told: (told, "upstream-failed", "unknown", "unknown"), is_slow: false });
    }
    rows.extend(unconfirmed(elsewhere));
    rows.extend(unreadable());
    rows.extend(lost());
    rows
}
