//! What heads are taken, what is refused, and that cutting them changes nothing.

use super::*;
use proptest::prelude::*;

const LINE: &str = "DELETE /s1/groups/1@g.us/picture HTTP/1.1\r\n";

fn read(text: &str) -> Result<Head, HeadFault> {
    let length = Progress::default().advance(text.as_bytes())?;
    Head::parse(&text.as_bytes()[..length.ok_or(HeadFault::TooSlow)?])
}

fn with(fields: &str) -> Result<Head, HeadFault> {
    read(&format!("{LINE}Host: gw\r\n{fields}\r\n"))
}

#[test]
fn a_plain_head_is_read_with_the_fields_that_matter() {
    let head = with("Authorization: Bearer a\r\nAUTHORIZATION: b\r\nAccept: */*\r\n").unwrap();
    assert_eq!((head.method(), head.target()), ("DELETE", "/s1/groups/1@g.us/picture"));
    assert_eq!(head.values("authorization").collect::<Vec<_>>(), [&b"Bearer a"[..], &b"b"[..]]);
}

#[test]
fn line_ends_are_cr_lf_alone() {
    for text in [
        LINE.replace('\r', "") + "Host: gw\n\n",
        format!("{LINE}Host: gw\n\r\n"),
        format!("{LINE}Host: g\rw\r\n\r\n"),
        format!("{LINE}Host: gw\r\n\n"),
    ] {
        assert!(matches!(read(&text), Err(HeadFault::Malformed(_))), "{text:?}");
    }
}

#[test]
fn exactly_one_well_formed_host_is_needed() {
    for fields in ["", "Host: a\r\nHost: a\r\n", "Host:\r\n", "Host: a b\r\n", "Host: u@a\r\n", "Host: a/b\r\n"] {
        assert!(matches!(read(&format!("{LINE}{fields}\r\n")), Err(HeadFault::Malformed(_))), "{fields:?}");
    }
    for good in ["[::1]:80", "gw.local:8080", "127.0.0.1"] {
        assert!(read(&format!("{LINE}Host: {good}\r\n\r\n")).is_ok(), "{good}");
    }
}

#[test]
fn a_host_is_a_name_or_an_address_and_its_port_a_number() {
    let of = |host: &str| read(&format!("{LINE}Host: {host}\r\n\r\n"));
    for good in [
        "gw",
        "gw.",
        "_",
        "a_b",
        "-a",
        "gw:",
        "gw:0",
        "gw:80",
        "gw:00080",
        "gw:65535",
        "1.2.3.4",
        "1.2.3.4:80",
        "[::1]",
        "[::1]:",
        "[::1]:8080",
        "[::ffff:1.2.3.4]:80",
    ] {
        assert!(of(good).is_ok(), "{good}");
    }
    for bad in [
        ":80",
        ":",
        "gw:x",
        "gw:-1",
        "gw:+1",
        "gw:99999",
        "gw:65536",
        "gw:80:80",
        "a:b:c",
        "::1",
        "[::1",
        "::1]",
        "[]",
        "[]:80",
        "[x]",
        "[[::1]]",
        "[::1]x",
        "[::1]80",
        "[::1]:x",
        "[::1]:65536",
        "[::1]::",
        "[1.2.3.4]",
        "[1::2::3]",
        "[v1.x]",
        "gw[::1]",
        "gw]",
        ".",
        "...",
        "-",
        "-.-:80",
    ] {
        assert!(matches!(of(bad), Err(HeadFault::Malformed(_))), "{bad}");
    }
}

#[test]
fn nothing_that_could_be_a_body_passes() {
    assert!(with("Content-Length: 0\r\n").is_ok());
    for (fields, fault) in [
        ("Content-Length: 2\r\n", HeadFault::HasBody),
        ("Content-Length: 18446744073709551615\r\n", HeadFault::HasBody),
        ("Expect: 100-continue\r\n", HeadFault::Expects),
        ("Expect: 200-ok\r\n", HeadFault::Expects),
    ] {
        assert_eq!(with(fields), Err(fault), "{fields}");
    }
    for length in ["", "+0", "-1", "0x2", "2, 2", "18446744073709551616", "00"] {
        assert!(matches!(with(&format!("Content-Length: {length}\r\n")), Err(HeadFault::Malformed(_))), "{length}");
    }
    for fields in
        ["Content-Length: 0\r\nContent-Length: 0\r\n", "Transfer-Encoding: chunked\r\n", "Transfer-Encoding:\r\n"]
    {
        assert!(matches!(with(fields), Err(HeadFault::Malformed(_))), "{fields}");
    }
}

#[test]
fn field_lines_are_strict() {
    for field in ["A : b\r\n", " A: b\r\n", "A: b\r\n c\r\n", ": b\r\n", "A\r\n", "A: b\0c\r\n", "A: \x0b\r\n"] {
        assert!(matches!(with(field), Err(HeadFault::Malformed(_))), "{field:?}");
    }
}

#[test]
fn names_that_can_be_taken_for_one_of_a_body_or_a_dry_run_are_refused() {
    for name in [
        "Content_Length",
        "ContentLength",
        "CONTENT--LENGTH",
        "Transfer_Encoding",
        "Transfer.Encoding",
        "-Transfer-Encoding",
        "X_Dry_Run",
        "X-DryRun",
    ] {
        assert!(matches!(with(&format!("{name}: 0\r\n")), Err(HeadFault::Malformed(_))), "{name}");
    }
    for name in ["Content-Lengths", "X-Content-Length", "Accept-Transfer-Encoding", "X-Dry-Run-Id", "Dry-Run"] {
        assert!(with(&format!("{name}: 0\r\n")).is_ok(), "{name}");
    }
}

#[test]
fn request_lines_are_strict() {
    for line in [
        "DELETE  /a HTTP/1.1",
        "DELETE /a  HTTP/1.1",
        "DELETE /a HTTP/1.1 ",
        "DELETE\t/a\tHTTP/1.1",
        "GET /a",
        "DELETE /a HTTP/1.0",
        "DELETE /a HTTP/1.2",
        "DELETE /a HTTP/2.0",
        "PRI * HTTP/2.0",
        "DELETE /é HTTP/1.1",
        "DELETE /\x7f HTTP/1.1",
        "DELETE /\t HTTP/1.1",
        "",
        " DELETE /a HTTP/1.1",
        "DELETE /a http/1.1",
    ] {
        let fault = read(&format!("{line}\r\nHost: gw\r\n\r\n"));
        assert!(matches!(fault, Err(HeadFault::Malformed(_))), "{line:?} {fault:?}");
    }
}

#[test]
fn limits_name_what_is_too_large() {
    let long = format!("DELETE /{} HTTP/1.1\r\nHost: gw\r\n\r\n", "x".repeat(256));
    assert_eq!(read(&long), Err(HeadFault::TargetTooLong));
    assert_eq!(read(&format!("DELETE /{}", "x".repeat(70_000))), Err(HeadFault::TargetTooLong));
    assert_eq!(with(&format!("A: {}\r\n", "x".repeat(17_000))), Err(HeadFault::TooLarge));
    let rest = format!("{LINE}Host: gw\r\nA: \r\n\r\n").len();
    let of_size = |bytes: usize| with(&format!("A: {}\r\n", "x".repeat(bytes - rest)));
    assert!(of_size(16_384).is_ok());
    assert_eq!(of_size(16_385), Err(HeadFault::TooLarge));
    assert_eq!(with(&"A: b\r\n".repeat(64)), Err(HeadFault::TooLarge));
    assert!(with(&"A: b\r\n".repeat(63)).is_ok());
}

#[test]
fn a_method_is_judged_alike_whether_its_line_is_whole_or_not() {
    for method in ["M".repeat(33), "D\u{e9}LETE".into(), "DEL\x01ETE".into()] {
        let text = format!("{method} /a HTTP/1.1\r\nHost: gw\r\n\r\n");
        let whole = Progress::default().advance(text.as_bytes());
        let cut = Progress::default().advance(&text.as_bytes()[..text.find(' ').unwrap()]);
        assert!(whole.is_err() && whole == cut, "{method:?} {whole:?} {cut:?}");
    }
}

proptest! {
    #[test]
    fn where_the_bytes_are_cut_never_changes_the_verdict(
        bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b' '), Just(b':'), any::<u8>()], 0..200),
        method in "[ -~é]{0,40}",
        cut in 0usize..200,
    ) {
        let mut text = if method.is_empty() { LINE.into() } else { LINE.replace("DELETE", &method).into_bytes() };
        text.extend(&bytes);
        let whole = Progress::default().advance(&text);
        let mut progress = Progress::default();
        let first = progress.advance(&text[..cut.min(text.len())]);
        let parts = match first { Ok(None) => progress.advance(&text), done => done };
        prop_assert_eq!(whole, parts);
    }
}
