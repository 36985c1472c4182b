//! The published cases of `http_desync_guardian`: requests that servers in a row read differently. They are not kept
//! here: `tests/setup.sh` fetches the crate, pinned, and writes down what its files say. Each is sent twice: as it is
//! published, and with its fields in our own deletion, where only they can be the reason of a refusal.

use crate::hostile::{answer, connect_as};
use crate::provider::Provider;
use crate::running::{Gateway, TARGET, TOKEN};
use serde_json::Value;
use std::io::Write;

/// The verdicts of the crate on the fields of a request, and our statuses; the connection is closed after each.
const REQUIRED: [(&str, &[u16]); 11] = [
    ("EmptyHeader", &[400]),
    ("SuspiciousHeader", &[400]),
    ("DuplicateContentLength", &[400]),
    ("BothTeClPresent", &[400]),
    // 400 where another field holds a forbidden byte.
    ("UndefinedContentLengthSemantics", &[413, 400]),
    ("UndefinedTransferEncodingSemantics", &[400]),
    ("BadContentLength", &[400]),
    ("BadTransferEncoding", &[400]),
    ("BadHeader", &[400]),
    ("MultipleContentLength", &[400]),
    ("MultipleTransferEncodingChunked", &[400]),
];
/// Those on its line: with another line there is nothing wrong with it.
const OF_THE_LINE: [&str; 4] = ["AmbiguousUri", "BadUri", "BadMethod", "BadVersion"];
const KNOWN: usize = 159;

/// Its texts have escapes of their own, and characters below 256 that stand for bytes.
fn bytes(text: &str) -> Vec<u8> {
    let (mut plain, mut rest) = (String::new(), text.chars());
    while let Some(letter) = rest.next() {
        plain.push(match letter {
            '\\' => match rest.next().unwrap() {
                'x' => {
                    let digits: String = rest.by_ref().take(2).collect();
                    char::from(u8::from_str_radix(&digits, 16).unwrap())
                }
                't' => '\t',
                'r' => '\r',
                'n' => '\n',
                other => other,
            },
            other => other,
        });
    }
    let narrow = plain.chars().map(|letter| u8::try_from(u32::from(letter)).ok()).collect::<Option<Vec<u8>>>();
    narrow.unwrap_or_else(|| plain.into_bytes())
}

struct Published {
    name: String,
    is_dangerous: bool,
    reason: String,
    line: Vec<u8>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

fn published() -> Vec<Published> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/.work/desync.json");
    let text = std::fs::read_to_string(file).expect("tests/setup.sh makes it");
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let read = |case: &Value| {
        let text = |name: &str| bytes(case[name].as_str().unwrap_or_else(|| panic!("{name}: {case}")));
        let line = [text("method"), text("uri"), text("version")].join(&b' ');
        let fields = case["fields"].as_array().unwrap().iter();
        Published {
            name: format!("{}: {}", case["file"].as_str().unwrap(), case["name"].as_str().unwrap()),
            is_dangerous: matches!(case["tier"].as_str().unwrap(), "Ambiguous" | "Severe"),
            reason: case["reason"].as_str().unwrap().to_owned(),
            line: line.strip_suffix(b" ").map_or(line.clone(), <[u8]>::to_vec),
            fields: fields
                .map(|field| (bytes(field[0].as_str().unwrap()), bytes(field[1].as_str().unwrap())))
                .collect(),
        }
    };
    cases.iter().map(read).collect()
}

/// The request with another line, or with its own; it is ours in everything else, so that nothing else is refused.
fn request(case: &Published, line: &[u8]) -> Vec<u8> {
    let mut text = [line, b"\r\nHost: gw\r\nAuthorization: Bearer ", TOKEN.as_bytes(), b"\r\n"].concat();
    let ours = |name: &[u8]| name.eq_ignore_ascii_case(b"host") || name.eq_ignore_ascii_case(b"authorization");
    for (name, value) in case.fields.iter().filter(|(name, _)| !ours(name)) {
        text.extend([name.as_slice(), b": ", value, b"\r\n"].concat());
    }
    [text.as_slice(), b"\r\n"].concat()
}

/// The statuses that come back, of at most two requests: this one, and a good one behind it.
fn statuses(number: usize, gateway: &Gateway, bytes: &[u8], name: &str) -> Vec<u16> {
    let mut stream = connect_as(number, gateway.listen);
    let behind = format!("DELETE {TARGET} HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
    let _ = stream.write_all(&[bytes, behind.as_bytes()].concat());
    let is_head = bytes.starts_with(b"HEAD ");
    let heard = (0..2).map_while(|_| answer(&mut stream, !is_head).unwrap_or_else(|what| panic!("{name}: {what}")));
    heard.map(|(status, _)| status).collect()
}

#[test]
fn the_published_desync_requests_are_refused_and_nothing_behind_them_is_read() {
    let (provider, cases) = (Provider::start(), published());
    let gateway = Gateway::start(&provider.url());
    assert_eq!(cases.len(), KNOWN, "another release of the crate: see tests/setup.sh");
    let (mut dangerous, mut forwarded) = (0, 0);
    for (number, case) in cases.iter().enumerate() {
        // None of them is our operation.
        let heard = statuses(number, &gateway, &request(case, &case.line), &case.name);
        assert!((400..500).contains(&heard[0]), "{}: {heard:?}", case.name);
        assert!(heard.len() == 1 || heard[1] == 200, "{}: {heard:?}", case.name);
        forwarded += heard.len() - 1;
        let ours = request(case, format!("DELETE {TARGET} HTTP/1.1").as_bytes());
        let in_our_deletion = || statuses(number, &gateway, &ours, &case.name);
        if case.is_dangerous {
            dangerous += 1;
            assert!(heard.len() == 1, "{}: read on: {heard:?}", case.name);
            if OF_THE_LINE.contains(&case.reason.as_str()) {
                continue;
            }
            let heard = in_our_deletion();
            let (_, required) =
                REQUIRED.iter().find(|(reason, _)| *reason == case.reason).unwrap_or_else(|| panic!("{}", case.reason));
            assert!(heard.len() == 1 && required.contains(&heard[0]), "{}, in our deletion: {heard:?}", case.name);
        } else {
            let heard = in_our_deletion();
            let framed = |name: &[u8]| {
                name.eq_ignore_ascii_case(b"content-length") || name.eq_ignore_ascii_case(b"transfer-encoding")
            };
            let has_body = case.fields.iter().any(|(name, value)| framed(name) && value.trim_ascii() != b"0");
            assert!(!has_body || heard[0] >= 400, "{}, in our deletion: {heard:?}", case.name);
            forwarded += heard.iter().filter(|status| **status == 200).count();
        }
    }
    assert_eq!(provider.heads().len(), forwarded);
    assert!(dangerous > 100, "{dangerous}");
    println!("{} published cases, {dangerous} of them ambiguous or severe: none was forwarded", cases.len());
}
