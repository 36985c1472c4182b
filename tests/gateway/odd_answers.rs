//! Answers of the provider that are odd in one thing: what a caller hears of them, and what is remembered.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{Response, delete, delete_with, get};

const OURS: &str = "{\"success\":true}";

fn whole(status: u16, fields: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status} X\r\n{fields}content-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn keyed(gateway: &Gateway, key: &str) -> Response {
    delete_with(gateway.listen, TARGET, &format!("Authorization: Bearer {TOKEN}\r\nIdempotency-Key: {key}\r\n"))
}

/// A gateway with these lines in its section about the provider.
fn gateway(provider: &Provider, lines: &str) -> Gateway {
    Gateway::with(&configuration(&provider.url(), &[("upstream", lines)], &caller("moderation", TOKEN, "")))
}

/// The files of the ledger, as they are.
fn ledger(gateway: &Gateway) -> Vec<u8> {
    let files = std::fs::read_dir(gateway.folder.path().join("ledger")).unwrap();
    files.flat_map(|file| std::fs::read(file.unwrap().path()).unwrap_or_default()).collect()
}

#[test]
fn however_an_answer_spells_the_key_neither_the_caller_nor_the_ledger_gets_it() {
    let (first, tail) = KEY.split_at(1);
    let spelt = format!("\\u{:04x}{tail}", first.as_bytes()[0]);
    let nested = |levels: usize| format!("{}\"{spelt}\"{}", "[".repeat(levels), "]".repeat(levels));
    let yes = [
        format!("{{\"success\":true,\"n\":1e999,\"k\":\"{spelt}\"}}"),
        format!("{{\"success\":true,\"n\":\"\\ud800\",\"k\":\"{spelt}\"}}"),
        format!("{{\"success\":true,\"n\":{}}}", nested(200)),
        format!("{{\"success\":true,\"n\":{}}}", nested(9)),
        format!("{{\"success\":true,\"k\":\"{spelt}\",\"k\":\"last\"}}"),
        format!("{{\"success\":true,\"n\":{{\"k\":\"{spelt}\",\"k\":\"last\"}}}}"),
        format!("{{\"success\":true,\"{spelt}\":0}}"),
    ];
    let no = [
        format!("{{\"message\":\"{spelt}\"}}"),
        format!("{{\"error\":\"{spelt}\"}}"),
        format!("{{\"mess\\u0061ge\":\"no \\\"{spelt}\\\"\"}}"),
        format!("{{\"message\":\"{spelt}\",\"message\":\"{spelt} again\"}}"),
        format!("{{\"message\":{{\"message\":\"{spelt}\"}},\"error\":\"{spelt}\"}}"),
        format!("{{\"message\":\"{first}\\u200b\\ufe0f{tail} {first}\\udb40\\udc01{tail}\"}}"),
    ];
    let provider = Provider::start();
    for confirm in ["documented", "any-2xx"] {
        let gateway = gateway(&provider, &format!("confirm = \"{confirm}\"\n"));
        let statuses: &[u16] = if confirm == "any-2xx" { &[200, 202] } else { &[200] };
        let yes = statuses.iter().flat_map(|status| yes.iter().map(|body| (*status, body)));
        let no = [400, 404].into_iter().flat_map(|status| no.iter().map(move |body| (status, body)));
        for (number, (status, body)) in yes.chain(no).enumerate() {
            provider.next(Reply::Raw(whole(status, "", body.as_bytes())));
            let answer = keyed(&gateway, &number.to_string());
            let replay = keyed(&gateway, &number.to_string());
            assert_eq!((answer.status, &answer.body), (replay.status, &replay.body), "{body}");
            assert!(!answer.body.contains(tail), "{body}: {}", answer.body);
            match status {
                200 | 202 => assert_eq!((answer.status, answer.body.as_str()), (200, OURS), "{body}"),
                _ => assert_eq!((answer.status, answer.code()), (status, "upstream-refused".into()), "{body}"),
            }
        }
        assert!(!ledger(&gateway).windows(tail.len()).any(|window| window == tail.as_bytes()), "{confirm}");
    }
}

#[test]
fn a_yes_in_odd_json_is_one_in_our_words_and_what_is_no_text_is_none() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    for (body, status, said) in [
        (&b"{\"success\":true,\"n\":\"\\ud83d\\ude00\"}"[..], 200, Some("{\"success\":true,\"n\":\"\\ud83d\\ude00\"}")),
        (b"{\"success\":true,\"n\":1e999}", 200, Some(OURS)),
        (b"{\"success\":true,\"n\":1,\"n\":2}", 200, Some(OURS)),
        (b"{\"success\":true,\"n\":\"\xff\xfe\"}", 502, None),
        (b"{\"success\":true,\"\xc3\":0}", 502, None),
    ] {
        provider.next(Reply::Raw(whole(200, "", body)));
        let answer = delete(gateway.listen, TARGET, TOKEN);
        let shown = String::from_utf8_lossy(body);
        assert_eq!(answer.status, status, "{shown}: {answer:?}");
        match said {
            Some(said) => assert_eq!(answer.body, said),
            None => {
                assert_eq!((answer.code().as_str(), answer.sent().as_str()), ("upstream-not-confirmed", "unknown"));
                assert_eq!(gateway.of_kind("outcome").pop().unwrap()["outcome"], "unknown", "{shown}");
            }
        }
    }
}

#[test]
fn what_confirms_nothing_is_told_and_recorded_with_its_status() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let large = "x".repeat(70_000);
    let odd =
        [(202, "{\"success\":true}"), (200, "{}"), (307, ""), (409, "{}"), (999, "{}"), (200, &large), (503, &large)];
    for (status, body) in odd {
        provider.next(Reply::Raw(whole(status, "location: /elsewhere\r\n", body.as_bytes())));
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!((answer.status, answer.code()), (502, "upstream-not-confirmed".into()), "{status}");
        let detail = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with(&format!("the provider answered {status}, ")), "{detail}");
        let outcome = gateway.of_kind("outcome").pop().unwrap();
        assert_eq!((&outcome["outcome"], &outcome["status"]), (&"unknown".into(), &status.into()), "{outcome}");
    }
}

#[test]
fn any_2xx_is_no_deletion_where_its_body_says_otherwise() {
    let provider = Provider::start();
    let gateway = gateway(&provider, "confirm = \"any-2xx\"\n");
    for status in [200, 202] {
        for (body, confirms) in [
            (&b""[..], true),
            (b"done", true),
            (b"[false]", true),
            (b"{}", true),
            (b"{\"success\":true}", true),
            (b"{\"ok\":{\"success\":false}}", true),
            (b"{\"success\":false}", false),
            (b" {\"a\":1,\"success\":false,\"message\":\"no such group\"}", false),
            (b"{\"success\":\"true\"}", false),
            (b"{\"success\":0}", false),
            (b"{\"success\":null}", false),
            (b"{\"succ\\u0065ss\":false}", false),
            (b"{\"success\":false,\"success\":true}", false),
            (b"{\"success\":true,\"n\":\"\xff\"}", true),
            (b"\xef\xbb\xbf{\"success\":true}", true),
            (b"{\"success\":false,\"n\":\"\xff\"}", false),
            (b"\xef\xbb\xbf{\"success\":false}", false),
            (b"\n\xef\xbb\xbf {\"success\":false}", false),
            (b"{\"success\":false} x", false),
            (b"{\"success\":true} {\"success\":false}", false),
            (b"{\"success\":fal", false),
            (b"{", false),
        ] {
            provider.next(Reply::Raw(whole(status, "", body)));
            let answer = delete(gateway.listen, TARGET, TOKEN);
            let outcome = gateway.of_kind("outcome").pop().unwrap();
            let told = (answer.status, outcome["outcome"].as_str().unwrap(), &outcome["status"]);
            let expected = if confirms { (200, "deleted") } else { (502, "unknown") };
            assert_eq!(told, (expected.0, expected.1, &status.into()), "{status} {}: {answer:?}", body.escape_ascii());
        }
    }
    // What is in one that is encoded is not looked at.
    provider.next(Reply::Raw(whole(200, "content-encoding: br\r\n", b"{\x00\xff")));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
}

/// Answers of a status whose head is whole and whose body cannot be read.
fn spoilt(status: u16, fields: &str) -> [(&'static str, Reply); 4] {
    let large = vec![b'x'; 70_000];
    let cut = |text: &str| Reply::RawThenClose(format!("HTTP/1.1 {status} X\r\n{fields}{text}").into_bytes());
    [
        ("too large", Reply::Raw(whole(status, fields, &large))),
        ("cut off", cut("content-length: 9\r\n\r\n{")),
        ("in a broken chunk", cut("transfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n")),
        ("not there", cut("content-length: 9\r\n\r\n")),
    ]
}

#[test]
fn a_provider_that_asks_to_wait_is_left_alone_whatever_becomes_of_the_body() {
    for (what, reply) in spoilt(429, "retry-after: 30\r\n") {
        let provider = Provider::start();
        let gateway = Gateway::start(&provider.url());
        provider.next(reply);
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!(answer.sent(), "unknown", "{what}");
        let held_back = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!((held_back.status, held_back.code()), (429, "upstream-backoff".into()), "{what}");
        let after: u64 = held_back.header("retry-after").unwrap().parse().unwrap();
        assert!((20..=40).contains(&after), "{what}: {after}");
        assert!(get(gateway.ops, "/readyz").body.contains("upstream-backoff"), "{what}");
        assert_eq!(provider.heads().len(), 1, "{what}");
    }
}

#[test]
fn a_refused_key_degrades_readiness_whatever_becomes_of_the_body() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    for (what, reply) in spoilt(401, "") {
        provider.next(reply);
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).sent(), "unknown", "{what}");
        assert!(get(gateway.ops, "/readyz").body.contains("upstream-credentials-refused"), "{what}");
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "{what}");
        assert_eq!(get(gateway.ops, "/readyz").json()["status"], "ready", "{what}");
    }
}

#[test]
fn a_refusal_that_asks_to_wait_says_so_to_the_caller_never_shorter_and_the_same_when_it_is_replayed() {
    for (fields, asked) in [("retry-after: 2\r\n", 2), ("", 1), ("retry-after: 1\r\nretry-after: 2\r\n", 2)] {
        let provider = Provider::start();
        let mut gateway = Gateway::start(&provider.url());
        provider.next(Reply::Raw(whole(429, fields, b"{}")));
        let first = keyed(&gateway, "k");
        assert_eq!((first.status, first.code()), (429, "upstream-refused".into()));
        let after: u64 = first.header("retry-after").expect("it says when").parse().unwrap();
        assert!((asked..asked + 4).contains(&after), "{fields}: {after}");
        for round in 0..2 {
            let mut replay = None;
            eventually("it is replayed", || {
                let answer = keyed(&gateway, "k");
                let is_replayed = answer.header("idempotency-replayed").is_some();
                replay = Some(answer);
                is_replayed
            });
            let replay = replay.unwrap();
            assert_eq!((replay.status, &replay.body), (429, &first.body), "{round}");
            assert_eq!(replay.header("retry-after"), first.header("retry-after"), "{round}");
            gateway.kill();
            let text = std::fs::read_to_string(gateway.config()).unwrap();
            gateway = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
        }
        assert_eq!(provider.heads().len(), 1);
    }
}

#[test]
fn without_reuse_each_deletion_has_a_connection_of_its_own() {
    for (lines, is_own) in [("", false), ("reuse_connections = true\n", false), ("reuse_connections = false\n", true)] {
        let provider = Provider::start();
        let gateway = gateway(&provider, lines);
        for _ in 0..5 {
            assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
        }
        assert_eq!((provider.heads().len(), provider.accepted() == 5), (5, is_own), "{lines}");
    }
}

#[test]
fn a_redirect_is_not_followed_and_the_operators_hear_of_it_until_there_is_another_answer() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let said = |words: &str| gateway.log().matches(words).count();
    for (told, status) in (1..).zip([301, 302, 303, 307, 308]) {
        provider.next(Reply::Raw(whole(status, "location: /sess1/groups/2@g.us/picture\r\n", b"")));
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "upstream-not-confirmed", "{status}");
        assert_eq!(
            get(gateway.ops, "/readyz").json()["reasons"],
            serde_json::json!(["upstream-redirects"]),
            "{status}"
        );
        eventually("it is logged", || said("the provider redirects, which is not followed") == told);
        provider.next(Reply::Json(404, "{}"));
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 404);
        assert_eq!(get(gateway.ops, "/readyz").json()["status"], "ready", "{status}");
        eventually("its end is logged", || said("the provider does not redirect any more") == told);
    }
    assert_eq!(provider.heads().len(), 10);
}
