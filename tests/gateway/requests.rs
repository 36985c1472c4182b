//! What must not reach the provider, byte for byte over raw sockets: each with its status, a problem that
//! names it, a request id, and 0 bytes upstream.

use crate::hostile::connect_as;
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{connect, exchange, get, request, response};
use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

/// Sends each case on a connection of its own and asks for this status.
fn all(status: u16, cases: &[String]) {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    for case in cases {
        let answers = exchange(gateway.listen, case.as_bytes(), 1);
        let shown = case.escape_debug().to_string().chars().take(200).collect::<String>();
        let [answer] = answers.as_slice() else { panic!("{shown}: no answer") };
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        assert_eq!(answer.sent(), "no", "{shown}");
        assert_eq!(answer.header("x-request-id"), answer.json()["request_id"].as_str(), "{shown}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{shown}");
    }
    assert_eq!((provider.bytes(), gateway.of_kind("intent").len()), (0, 0));
    println!("{} requests refused with {status}", cases.len());
}

fn auth() -> String {
    format!("Authorization: Bearer {TOKEN}\r\n")
}

fn with(fields: &str) -> String {
    request(TARGET, &format!("{}{fields}", auth()))
}

fn line(line: &str) -> String {
    format!("{line}\r\nHost: gw\r\n{}\r\n", auth())
}

#[test]
fn targets_that_could_mean_something_else_are_refused() {
    let targets = [
        "/s1%40x/groups/1@g.us/picture",
        "/sess1/groups/1%2f2@g.us/picture",
        "/s1%2Fgroups%2Fx/groups/1@g.us/picture",
        "/sess1/groups/1%5c2/picture",
        "/sess1/groups/%00/picture",
        "/sess1/groups/1%0d%0aX-Evil:1/picture",
        "/sess1/groups/../picture",
        "/sess1/groups/%2e%2e/picture",
        "/sess1/groups/.%2E/picture",
        "/%2e%2e/groups/1@g.us/picture",
        "/../groups/1@g.us/picture",
        "/./sess1/groups/1@g.us/picture",
        "/x/../sess1/groups/1@g.us/picture",
        "/sess1/groups/1@g.us%3F/picture",
        "/sess1/groups/%201@g.us/picture",
        "/sess1/groups//picture",
        "/sess1/groups/1@g.us/picture?force=1",
        "/sess1/groups/1@g.us/picture?",
        "/sess1/groups/1@g.us/picture?_method=GET&path=/s2",
        "/sess1/groups/1@G.US/picture",
        "/sess1/groups/15551234567@c.us/picture",
        "/sess1/groups/1@s.whatsapp.net/picture",
        "/sess1/groups/1@g.us@evil/picture",
        "/sess1/groups/1@g.us#/picture",
        "/sess1/groups/1@g.us/picture#",
        "/sessions/abc#/groups/1@g.us/picture",
        "/sess1/groups/1\\2/picture",
        "/sess1/groups/1|2/picture",
        "/sess1/groups/\"1\"/picture",
        "/sess1/groups/<1>/picture",
        "/sess1/groups/é/picture",
        "/sess1/groups/1\t/picture",
        "/sess1/groups/1\x7f/picture",
        "http://gw/sess1/groups/1@g.us/picture",
        "http://evil.example/sess1/groups/1@g.us/picture",
        "*",
        "gw.local:80",
    ];
    all(400, &targets.map(|target| request(target, &auth())));
}

#[test]
fn other_routes_are_not_found() {
    let targets = [
        "/",
        "//sess1/groups/1@g.us/picture",
        "/sess1//groups/1@g.us/picture",
        "/sess1/groups/1@g.us/picture/",
        "/sess1/groups/1@g.us/picture;x=1",
        "/sess1/groups/1@g.us/PICTURE",
        "/S1/GROUPS/1@g.us/picture",
        "/sessions/abc",
        "/dry-run/dry-run/s/groups/g/picture",
    ];
    all(404, &targets.map(|target| request(target, &auth())));
}

#[test]
fn other_methods_are_not_allowed() {
    let methods = ["GET", "OPTIONS", "TRACE", "PUT", "PATCH", "POST", "delete", "DELETEX"];
    let mut cases = methods.map(|method| line(&format!("{method} {TARGET} HTTP/1.1"))).to_vec();
    cases.push(line("CONNECT gw:443 HTTP/1.1"));
    cases.push(line("OPTIONS * HTTP/1.1"));
    cases.push(format!("POST {TARGET} HTTP/1.1\r\nHost: gw\r\nX-HTTP-Method-Override: DELETE\r\n\r\n"));
    all(405, &cases);
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let mut stream = connect(gateway.listen);
    stream.write_all(line(&format!("HEAD {TARGET} HTTP/1.1")).as_bytes()).unwrap();
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).unwrap();
    assert!(text.starts_with("HTTP/1.1 405") && text.ends_with("\r\n\r\n"), "no body for HEAD: {text}");
}

#[test]
fn request_lines_versions_and_line_ends_are_strict() {
    let mut cases: Vec<String> = [
        format!("DELETE  {TARGET} HTTP/1.1"),
        format!("DELETE {TARGET} HTTP/1.1 "),
        format!("DELETE\t{TARGET}\tHTTP/1.1"),
        format!("DELETE {TARGET} HTTP/1.0"),
        format!("DELETE {TARGET} HTTP/1.2"),
        format!("DELETE {TARGET} HTTP/2.0"),
        format!("DELETE {TARGET}"),
        format!(" DELETE {TARGET} HTTP/1.1"),
    ]
    .iter()
    .map(|text| line(text))
    .collect();
    cases.extend([
        with("").replace("\r\n", "\n"),
        with("").replace("Host: gw\r\n", "Host: gw\n"),
        "\r\n\r\n\r\n".to_owned() + &with(""),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "GET /\r\n".to_owned(),
        "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03".to_owned(),
    ]);
    all(400, &cases);
}

#[test]
fn host_and_field_lines_are_strict() {
    let mut cases: Vec<String> =
        ["", "Host: gw\r\nHost: gw\r\n", "Host:\r\n", "Host: a b\r\n", "Host: user@gw\r\n", "Host: gw/x\r\n"]
            .map(|host| format!("DELETE {TARGET} HTTP/1.1\r\n{host}{}\r\n", auth()))
            .to_vec();
    cases.extend(
        ["X : y\r\n", " X: y\r\n", "X: y\r\n z\r\n", ": y\r\n", "X\r\n", "X: a\0b\r\n", "X: a\rb\r\n", "X: \x0b\r\n"]
            .map(with),
    );
    all(400, &cases);
}

#[test]
fn no_framing_trick_passes() {
    let mut cases = Vec::new();
    for coding in ["chunked", "chunked, identity", "identity", "xchunked", "\x0bchunked", "chunked;q=1", ""] {
        cases.push(with(&format!("Transfer-Encoding: {coding}\r\n")) + "0\r\n\r\n");
        cases.push(with(&format!("Content-Length: 0\r\nTransfer-Encoding: {coding}\r\n")) + "0\r\n\r\n");
        cases.push(with(&format!("Transfer-Encoding: {coding}\r\nContent-Length: 0\r\n")) + "0\r\n\r\n");
    }
    for length in ["2, 2", "+2", "-1", "0x2", "18446744073709551616", "", "00", "1 2"] {
        cases.push(with(&format!("Content-Length: {length}\r\n")));
    }
    cases.push(with("Content-Length: 0\r\nContent-Length: 0\r\n"));
    cases.push(with("Content-Length: 2\r\nContent-Length: 3\r\n"));
    all(400, &cases);
}

#[test]
fn bodies_long_targets_large_heads_and_expectations_are_refused() {
    all(
        413,
        &[
            with("Content-Length: 2\r\n") + "{}",
            with("Content-Length: 3000000\r\n") + &"x".repeat(3_000_000),
            with("Content-Length: 2\r\nExpect: 100-continue\r\n"),
        ],
    );
    all(
        414,
        &[
            request(&format!("/{}", "x".repeat(256)), ""),
            request(&format!("/{}", "x".repeat(2_000)), ""),
            request(&format!("/{}", "x".repeat(70_000)), ""),
        ],
    );
    all(
        431,
        &[
            with(&format!("X: {}\r\n", "x".repeat(17_000))),
            with(&"X: y\r\n".repeat(100)),
            with(&format!("X: {}\r\n", "x".repeat(500_000))),
        ],
    );
    all(417, &[with("Expect: 200-ok\r\n"), with("Expect: 100-continue\r\n")]);
}

#[test]
fn a_refused_head_ends_its_connection_and_what_follows_is_never_read() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let smuggled = with("Content-Length: 2\r\n") + &with("");
    let answers = exchange(gateway.listen, smuggled.as_bytes(), 2);
    assert_eq!(answers.iter().map(|a| a.status).collect::<Vec<_>>(), [413]);
    assert_eq!(provider.bytes(), 0);
}

#[test]
fn pipelined_requests_are_each_judged_recorded_and_answered_in_order() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let row =
        [with(""), request(TARGET, ""), with(""), request("/nowhere", ""), with("Transfer-Encoding: chunked\r\n")]
            .concat();
    let statuses: Vec<u16> = exchange(gateway.listen, row.as_bytes(), 9).iter().map(|a| a.status).collect();
    assert_eq!(statuses, [200, 401, 200, 404, 400]);
    assert_eq!((provider.heads().len(), gateway.of_kind("intent").len()), (2, 2));
}

#[test]
fn a_head_may_come_byte_by_byte_and_behind_one_empty_line() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let mut stream = connect(gateway.listen);
    stream.set_nodelay(true).unwrap();
    for byte in format!("\r\n{}", with("")).bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(response(&mut stream).unwrap().status, 200);
}

#[test]
fn half_a_head_is_answered_and_an_idle_connection_closed_in_time() {
    let provider = Provider::start();
    let limits = "head_timeout_ms = 300\nidle_timeout_ms = 300";
    let gateway =
        Gateway::with(&configuration(&provider.url(), &[("listen", limits)], &caller("moderation", TOKEN, "")));
    let mut half = connect(gateway.listen);
    half.write_all(b"DELETE /sess1/gro").unwrap();
    let answer = response(&mut half).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (408, "bad-request"));
    assert!(response(&mut half).is_none());
    assert!(response(&mut connect(gateway.listen)).is_none());
    let mut gone = connect(gateway.listen);
    gone.write_all(b"DELETE /sess1/gro").unwrap();
    gone.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(response(&mut gone).unwrap().status, 400);
}

#[test]
fn connections_over_the_limit_are_told_so() {
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(
        &provider.url(),
        &[("listen", "max_connections_per_peer = 2")],
        &caller("moderation", TOKEN, ""),
    ));
    let mut open: Vec<_> = (0..2).map(|_| connect(gateway.listen)).collect();
    for stream in &mut open {
        stream.write_all(with("").as_bytes()).unwrap();
        assert_eq!(response(stream).unwrap().status, 200);
    }
    let answer = response(&mut connect(gateway.listen)).unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert!(answer.body.contains("connections") && !answer.body.contains("requests"), "{answer:?}");
    // Its request is there when it is turned away.
    let heard = heard(&gateway, &with(""), 2);
    assert!(heard.starts_with("HTTP/1.1 503 "), "{heard}");
    // Who stays all the same keeps no seat.
    let mut crowd: Vec<_> = (0..100).map(|_| connect(gateway.listen)).collect();
    for stream in &mut crowd {
        assert!(response(stream).is_none_or(|answer| answer.status == 503));
    }
    drop(open);
    eventually("there is a seat again", || {
        exchange(gateway.listen, with("").as_bytes(), 1).first().is_some_and(|answer| answer.status == 200)
    });
    drop(crowd);
}

/// What a caller hears whose bytes are all there before the first is read, up to a clean end of its connection, of which
/// nothing is left but `others` then.
fn heard(gateway: &Gateway, text: &str, others: usize) -> String {
    gateway.signal("STOP");
    let status = format!("/proc/{}/status", gateway.process_id());
    eventually("it is stopped", || std::fs::read_to_string(&status).unwrap().contains("State:\tT"));
    let mut stream = connect(gateway.listen);
    stream.write_all(text.as_bytes()).unwrap();
    gateway.signal("CONT");
    let mut heard = String::new();
    let ended = stream.read_to_string(&mut heard);
    ended.unwrap_or_else(|error| panic!("{error}, after {heard:?}"));
    stream.shutdown(std::net::Shutdown::Write).expect("it is not reset");
    let left = format!("wasend_gateway_connections {others}\n");
    eventually("it is closed", || get(gateway.ops, "/metrics").body.contains(&left));
    let reset = stream.take_error().unwrap();
    assert!(reset.is_none(), "{reset:?}, after {heard:?}");
    heard
}

#[test]
fn a_connection_that_we_close_after_an_answer_ends_cleanly_whatever_else_was_sent_on_it() {
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(
        &provider.url(),
        &[("listen", "max_age_ms = 1000")],
        &caller("moderation", TOKEN, ""),
    ));
    let tail = "x".repeat(20_000);
    let heard = |text: &str| heard(&gateway, &format!("{text}{tail}"), 0);
    assert!(heard(&with("Connection: close\r\n")).starts_with("HTTP/1.1 200 "));
    assert!(heard(&line(&format!("HEAD {TARGET} HTTP/1.1"))).starts_with("HTTP/1.1 405 "));
    assert!(heard(&request(TARGET, "Content-Length: 20000\r\n")).starts_with("HTTP/1.1 413 "));
    // It has its age when this is answered.
    provider.next(Reply::Late(Duration::from_secs(3)));
    let old = heard(&with(""));
    assert!(old.starts_with("HTTP/1.1 200 ") && old.contains("connection: close\r\n"), "{old}");
}

#[test]
fn behind_a_proxy_the_address_comes_from_it_alone() {
    let provider = Provider::start();
    let inside = caller("moderation", TOKEN, "from = [\"10.0.0.0/8\"]");
    let gateway =
        Gateway::with(&configuration(&provider.url(), &[("listen", "trusted_proxies = [\"127.0.0.1\"]")], &inside));
    let ask = |fields: &str| exchange(gateway.listen, with(fields).as_bytes(), 1)[0].status;
    assert_eq!(
        [
            ask("X-Forwarded-For: 10.1.2.3\r\n"),
            ask("X-Forwarded-For: 10.1.2.3, 9.9.9.9\r\n"),
            ask("X-Forwarded-For: x\r\n"),
            ask("X-Forwarded-For: \u{a0}10.1.2.3\r\n"),
            ask("X-Forwarded-For: 10.1.2.3:51234\r\n"),
            ask("X-Forwarded-For: 10.1.2.3, 9.9.9.9:51234\r\n"),
            ask("")
        ],
        [200, 403, 400, 400, 200, 403, 403]
    );
    let gateway = Gateway::with(&configuration(
        &provider.url(),
        &[("listen", "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.0/8\"]")],
        &inside,
    ));
    let ask = |start: &str| {
        exchange(gateway.listen, format!("{start}{}", with("X-Forwarded-For: 10.1.2.3\r\n")).as_bytes(), 1)
            .first()
            .map(|a| a.status)
    };
    assert_eq!(
        [
            ask("PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n"),
            ask("PROXY TCP4 9.9.9.9 127.0.0.1 1 2\r\n"),
            // The proxy's own connections, and such as come from its host: the field is the caller's all the same.
            ask("PROXY UNKNOWN\r\n"),
            ask("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"),
            ask("PROXY TCP4 127.0.0.2 127.0.0.1 1 2\r\n"),
            ask("")
        ],
        [Some(200), Some(403), Some(403), Some(403), Some(403), None]
    );
    let is_named = |entry: &serde_json::Value| entry["peer"] == "127.0.0.2";
    eventually("the refusal is recorded", || gateway.of_kind("refusal").iter().any(is_named));
}

#[test]
fn who_is_no_trusted_proxy_takes_no_seat_where_connections_begin_with_a_proxy_header() {
    let provider = Provider::start();
    let listen =
        "proxy_protocol = true\ntrusted_proxies = [\"127.0.0.1\"]\nmax_connections = 16\nhead_timeout_ms = 60000";
    let gateway =
        Gateway::with(&configuration(&provider.url(), &[("listen", listen)], &caller("moderation", TOKEN, "")));
    for number in 0..32 {
        // Not even waited for: it need not say anything.
        let ended = connect_as(number, gateway.listen).read(&mut [0]);
        let is_ended =
            ended.as_ref().map_or_else(|error| error.kind() == ErrorKind::ConnectionReset, |read| *read == 0);
        assert!(is_ended, "connection {number}: {ended:?}");
    }
    let words = "PROXY TCP4 10.0.0.1 127.0.0.1 1 2\r\n".to_owned() + &with("");
    assert_eq!(exchange(gateway.listen, words.as_bytes(), 1)[0].status, 200);
}
