//! Every row of the table of answers, through the real binary: status, code, what was sent, what was recorded.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{connect, delete, delete_with, get, response};
use rustix::net::{AddressFamily, SocketType};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::time::Duration;

/// A whole answer of the provider, as bytes.
fn raw(text: &str) -> Reply {
    Reply::Raw(text.as_bytes().to_vec())
}

fn cut(text: &str) -> Reply {
    Reply::RawThenClose(text.as_bytes().to_vec())
}

#[test]
fn an_allowed_deletion_is_forwarded_once_with_the_real_key_and_recorded() {
    let (provider, fields) = (
        Provider::start(),
        "Content-Length: 0\r\nUser-Agent: x\r\nCookie: a=b\r\nX-Request-Id: theirs-1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
    );
    let gateway = Gateway::start(&provider.url());
    let answer = delete_with(gateway.listen, TARGET, &format!("Authorization: Bearer {TOKEN}\r\n{fields}"));
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"success\": true}"));
    let heads = provider.heads();
    assert_eq!(heads.len(), 1);
    let head = heads[0].to_lowercase();
    assert!(heads[0].starts_with(&format!("DELETE {TARGET} HTTP/1.1\r\n")), "{head}");
    assert!(heads[0].contains(&format!("authorization: Bearer {KEY}\r\n")));
    for absent in
        [TOKEN, "cookie", "user-agent", "upgrade", "http2-settings", "x-request-id", "referer", "accept-encoding"]
    {
        assert!(!head.contains(absent), "{absent}: {head}");
    }
    for absent in ["set-cookie", "server", "connection: upgrade"] {
        assert!(!answer.head.to_lowercase().contains(absent), "{absent}");
    }
    let (intents, outcomes) = (gateway.of_kind("intent"), gateway.of_kind("outcome"));
    let id = answer.header("x-request-id").unwrap();
    assert_eq!((intents.len(), outcomes.len()), (1, 1));
    assert_eq!((intents[0]["request_id"].as_str(), outcomes[0]["request_id"].as_str()), (Some(id), Some(id)));
    assert_eq!(
        (&intents[0]["caller"], &intents[0]["rule"], &intents[0]["caller_request_id"]),
        (&"moderation".into(), &"moderation.allow[0]".into(), &"theirs-1".into())
    );
    assert_eq!((&outcomes[0]["outcome"], &outcomes[0]["sent"]), (&"deleted".into(), &"yes".into()));
}

#[test]
fn what_the_provider_says_is_told_truly() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let huge = format!("HTTP/1.1 200 OK\r\ncontent-length: 70000\r\n\r\n{}", "x".repeat(70_000));
    let wide =
        format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 17\r\n\r\n{{\"success\": true}}", "x".repeat(1_000_000));
    let redirect = "HTTP/1.1 307 X\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n";
    let early = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"success\": true}";
    for (reply, status, code, sent, outcome) in [
        (Reply::Json(400, "{\"message\":\"no such id\"}"), 400, "upstream-refused", "yes", "refused"),
        (Reply::Json(403, "{}"), 403, "upstream-refused", "yes", "refused"),
        (Reply::Json(404, "{}"), 404, "upstream-refused", "yes", "refused"),
        (Reply::Json(401, "{}"), 502, "upstream-credentials-refused", "yes", "refused"),
        (Reply::Json(500, "{}"), 500, "upstream-failed", "unknown", "unknown"),
        (Reply::Json(503, "{}"), 502, "upstream-failed", "unknown", "unknown"),
        (Reply::Json(202, "{\"success\": true}"), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (Reply::Json(200, "{\"success\": false}"), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (Reply::Json(200, "[]"), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (Reply::Json(418, "{}"), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (raw("HTTP/1.1 204 X\r\n\r\n"), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (raw(redirect), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (raw(&huge), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (raw(&wide), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (
            cut("HTTP/1.1 101 X\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
            502,
            "upstream-not-confirmed",
            "unknown",
            "unknown",
        ),
        (cut("SSH-2.0-x\r\n\r\n"), 502, "upstream-not-confirmed", "unknown", "unknown"),
        (
            raw("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 17\r\n\r\n{\"success\": true}"),
            502,
            "upstream-not-confirmed",
            "unknown",
            "unknown",
        ),
        (Reply::HangUp, 504, "outcome-unknown", "unknown", "unknown"),
        (cut("HTTP/1.1 200 OK\r\ncontent-le"), 504, "outcome-unknown", "unknown", "unknown"),
        (cut("HTTP/1.1 200 OK\r\ncontent-length: 17\r\n\r\n{\"succ"), 504, "outcome-unknown", "unknown", "unknown"),
        (raw(early), 200, "", "", "deleted"),
        // The last one: from then on the provider is left alone.
        (Reply::Json(429, "{}"), 429, "upstream-refused", "yes", "refused"),
    ] {
        let before = provider.heads().len();
        provider.next(reply);
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (status, code, sent), "{answer:?}");
        assert_eq!(provider.heads().len(), before + 1, "{code}: sent once");
        let last = gateway.of_kind("outcome").pop().unwrap();
        assert_eq!(
            (&last["outcome"], last["request_id"].as_str()),
            (&outcome.into(), answer.header("x-request-id")),
            "{code}"
        );
    }
}

#[test]
fn a_provider_that_asks_to_wait_is_left_alone_by_everybody_and_nothing_is_sent_again_by_itself() {
    let provider = Provider::start();
    let callers = caller("moderation", TOKEN, "") + &caller("other", "canary-token-other-000", "");
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &callers));
    provider.next(raw("HTTP/1.1 429 X\r\nretry-after: 2\r\ncontent-length: 24\r\n\r\n{\"message\":\"slow\\ndown\"}"));
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.status, answer.code()), (429, "upstream-refused".into()));
    assert_eq!((&answer.json()["message"], &answer.json()["success"]), (&"slowdown".into(), &false.into()));
    for (target, token) in [(TARGET.to_owned(), "canary-token-other-000"), (format!("/dry-run{TARGET}"), TOKEN)] {
        let held_back = delete(gateway.listen, &target, token);
        let said = (held_back.status, held_back.code(), held_back.sent());
        assert_eq!(said, (429, "upstream-backoff".into(), "no".into()), "{target}");
        let after: u64 = held_back.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=6).contains(&after), "{after}");
    }
    assert!(get(gateway.ops, "/readyz").body.contains("upstream-backoff"));
    assert_eq!((provider.heads().len(), gateway.of_kind("intent").len()), (1, 1));
    eventually("it is over", || delete(gateway.listen, TARGET, TOKEN).status == 200);
    assert_eq!(provider.heads().len(), 2);
}

#[test]
fn a_silent_provider_is_waited_for_until_the_budget_is_spent() {
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(
        &provider.url(),
        &[("upstream", "timeout_ms = 4000")],
        &caller("moderation", TOKEN, ""),
    ));
    provider.next(Reply::Silent);
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (504, "outcome-unknown", "unknown"));
    assert_eq!(gateway.of_kind("outcome")[0]["outcome"], "unknown");
}

#[test]
fn a_connection_that_ends_unread_is_unknown_and_nothing_is_sent_again() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    // First on a connection of its own, then on one that a success left open.
    for before in [0, 1] {
        assert_eq!(provider.heads().len(), before);
        provider.next(Reply::HangUpUnread);
        let answer = delete(gateway.listen, TARGET, TOKEN);
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.sent().as_str()),
            (504, "outcome-unknown", "unknown")
        );
        assert_eq!(gateway.of_kind("outcome").pop().unwrap()["outcome"], "unknown");
        assert_eq!(provider.heads().len(), before, "not sent again");
        assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    }
}

#[test]
fn an_unreachable_provider_means_that_nothing_was_sent() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gateway = Gateway::start(&format!("http://{gone}"));
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (502, "upstream-unreachable", "no"));
    assert_eq!(gateway.of_kind("outcome")[0]["outcome"], "not-sent");
    let ready = get(gateway.ops, "/readyz");
    assert_eq!(
        (ready.status, &ready.json()["status"], &ready.json()["reasons"][0]),
        (200, &"degraded".into(), &"upstream-unreachable".into())
    );
}

#[test]
fn a_refused_key_degrades_readiness_until_it_is_accepted() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    provider.next(Reply::Json(401, "{}"));
    delete(gateway.listen, TARGET, TOKEN);
    assert_eq!(get(gateway.ops, "/readyz").json()["reasons"][0], "upstream-credentials-refused");
    delete(gateway.listen, TARGET, TOKEN);
    assert_eq!(get(gateway.ops, "/readyz").json()["status"], "ready");
}

#[test]
fn the_log_says_once_what_is_wrong_with_the_provider_and_once_that_it_is_over() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let lines = |words: &str| {
        let log = gateway.log();
        let found =
            log.lines().filter(|line| line.contains(words) && !line.contains("\"INFO\",\"message\":\"request\""));
        found.map(|line| line.split("\"level\":\"").nth(1).unwrap()[..5].to_owned()).collect::<Vec<_>>()
    };
    for reply in [Reply::Json(401, "{}"), Reply::Json(401, "{}"), Reply::Json(200, "{\"success\": true}")] {
        provider.next(reply);
        delete(gateway.listen, TARGET, TOKEN);
    }
    eventually("both are said", || lines("the provider accepts the gateway's key again") == ["INFO\""]);
    assert_eq!(lines("the provider refuses the gateway's key"), ["ERROR"]);
    provider.next(raw("HTTP/1.1 429 X\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}"));
    delete(gateway.listen, TARGET, TOKEN);
    delete(gateway.listen, TARGET, TOKEN);
    eventually("that too", || lines("the provider asks to be left alone") == ["WARN\""]);
    let nobody = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&nobody, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = SocketAddr::try_from(rustix::net::getsockname(&nobody).unwrap()).unwrap();
    let gateway = Gateway::start(&format!("http://{address}"));
    delete(gateway.listen, TARGET, TOKEN);
    delete(gateway.listen, TARGET, TOKEN);
    let lines = |words: &str| gateway.log().matches(words).count();
    eventually("and this", || lines("the provider cannot be reached") == 1);
    rustix::net::listen(&nobody, 8).unwrap();
    let accepted = std::thread::spawn(move || drop(TcpListener::from(nobody).accept()));
    delete(gateway.listen, TARGET, TOKEN);
    eventually("and its end", || lines("the provider can be reached again") == 1);
    assert_eq!(lines("the provider cannot be reached"), 1);
    accepted.join().unwrap();
}

#[test]
fn a_key_that_was_taken_away_stops_everything_until_it_is_back() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let key = gateway.folder.path().join("key");
    std::fs::write(&key, "").unwrap();
    gateway.signal("HUP");
    eventually("no key", || get(gateway.ops, "/readyz").status == 503);
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.header("retry-after").is_some()),
        (503, "key-unavailable", true)
    );
    assert_eq!((provider.bytes(), gateway.of_kind("intent").len()), (0, 0));
    std::fs::write(&key, "canary-provider-key-111").unwrap();
    gateway.signal("HUP");
    eventually("a key", || get(gateway.ops, "/readyz").status == 200);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert!(provider.heads()[0].contains("Bearer canary-provider-key-111"));
}

#[test]
fn who_is_not_known_not_allowed_or_too_fast_is_refused_and_nothing_is_sent() {
    let provider = Provider::start();
    let callers = [
        caller(
            "moderation",
            TOKEN,
            "rates = [{ max = 1, per_s = 3600 }]\n[[callers.deny]]\nsessions = [\"*\"]\ngroups = [\"999@g.us\"]\n",
        ),
        caller("elsewhere", "canary-token-elsewhere-00", "from = [\"10.0.0.0/8\"]"),
        caller("late", "canary-token-late-00000000", "").replace("\" }]", "\", expires = 2020-01-01T00:00:00Z }]"),
    ];
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &callers.concat()));
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    for (target, fields, status, code) in [
        (TARGET, String::new(), 401, "unauthenticated"),
        (TARGET, bearer("canary-token-wrong"), 401, "unauthenticated"),
        (TARGET, bearer(TOKEN).repeat(2), 401, "unauthenticated"),
        (TARGET, format!("Authorization: Bearer {TOKEN}, Bearer {TOKEN}\r\n"), 401, "unauthenticated"),
        (TARGET, bearer("canary-token-late-00000000"), 401, "unauthenticated"),
        (TARGET, bearer("canary-token-elsewhere-00"), 403, "not-allowed"),
        (TARGET, format!("{}X-Forwarded-For: 10.0.0.1\r\n", bearer("canary-token-elsewhere-00")), 403, "not-allowed"),
        ("/sess2/groups/1@g.us/picture", bearer(TOKEN), 403, "not-allowed"),
        ("/sess1/groups/1/picture", bearer(TOKEN), 403, "not-allowed"),
        ("/sess1/groups/999@g.us/picture", bearer(TOKEN), 403, "not-allowed"),
        ("/sess1/groups/999/picture", bearer(TOKEN), 403, "not-allowed"),
    ] {
        let answer = delete_with(gateway.listen, target, &fields);
        assert_eq!(
            (answer.status, answer.code().as_str(), answer.sent().as_str()),
            (status, code, "no"),
            "{target} {answer:?}"
        );
        assert_eq!(answer.header("www-authenticate").is_some(), status == 401);
    }
    assert_eq!(provider.bytes(), 0);
    let first = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!(
        (first.status, first.header("ratelimit-policy"), first.header("ratelimit")),
        (200, Some("\"caller-1-3600s\";q=1;w=3600"), Some("\"caller-1-3600s\";r=0;t=3600"))
    );
    let second = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!(
        (second.status, second.code().as_str(), second.header("retry-after").is_some()),
        (429, "rate-limited", true)
    );
    assert_eq!(provider.heads().len(), 1);
}

#[test]
fn failed_authentications_of_a_peer_are_limited_and_a_valid_credential_is_not_held_back() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let limited =
        (0..40).map(|_| delete(gateway.listen, TARGET, "canary-token-wrong")).filter(|a| a.status == 429).count();
    assert!((5..=10).contains(&limited), "{limited}");
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
}

#[test]
fn a_dry_run_decides_and_does_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(
        &provider.url(),
        &[],
        &caller("moderation", TOKEN, "rates = [{ max = 1, per_s = 3600 }]"),
    ));
    let fields = |more: &str| format!("Authorization: Bearer {TOKEN}\r\n{more}");
    for (target, more) in [(format!("/dry-run{TARGET}"), ""), (TARGET.to_owned(), "X-Dry-Run: true\r\n")] {
        let answer = delete_with(gateway.listen, &target, &fields(more));
        assert_eq!(
            (answer.status, &answer.json()["dry_run"], &answer.json()["success"]),
            (200, &true.into(), &true.into())
        );
    }
    assert_eq!(delete_with(gateway.listen, TARGET, &fields("X-Dry-Run: yes\r\n")).status, 400);
    assert_eq!(delete_with(gateway.listen, "/dry-run/sess2/groups/1@g.us/picture", &fields("")).status, 403);
    eventually("both are recorded", || gateway.of_kind("dry-run").len() == 2);
    assert_eq!((provider.bytes(), gateway.of_kind("intent").len()), (0, 0));
    assert_eq!(delete_with(gateway.listen, TARGET, &fields("X-Dry-Run: false\r\n")).status, 200);
    assert_eq!(delete_with(gateway.listen, &format!("/dry-run{TARGET}"), &fields("")).status, 429);
}

#[test]
fn more_requests_than_there_may_be_are_turned_away_at_once() {
    let provider = Provider::start();
    let gateway = Gateway::with(&configuration(
        &provider.url(),
        &[("listen", "max_requests = 1")],
        &caller("moderation", TOKEN, ""),
    ));
    provider.next(Reply::Late(Duration::from_secs(2)));
    let mut slow = connect(gateway.listen);
    slow.write_all(crate::wire::request(TARGET, &format!("Authorization: Bearer {TOKEN}\r\n")).as_bytes()).unwrap();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let answer = delete(gateway.listen, TARGET, TOKEN);
    assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (503, "overloaded", "no"));
    assert_eq!(response(&mut slow).unwrap().status, 200);
}

#[test]
fn a_proxy_in_the_environment_is_not_asked() {
    let (provider, proxy) = (Provider::start(), Provider::start());
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let url = proxy.url();
    let environment = [("HTTP_PROXY", url.as_str()), ("http_proxy", &url), ("ALL_PROXY", &url)];
    let gateway = Gateway::in_folder(
        folder,
        &configuration(&provider.url(), &[], &caller("moderation", TOKEN, "")),
        &environment,
    );
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200);
    assert_eq!((provider.heads().len(), proxy.bytes()), (1, 0));
}

#[test]
fn the_ports_know_nothing_of_each_other() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    delete(gateway.listen, TARGET, TOKEN);
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(gateway.ops, path).status, 200, "{path}");
        assert_eq!(get(gateway.listen, path).status, 404, "{path}");
        assert!(get(gateway.ops, path).body.trim_end_matches("# EOF").ends_with('\n'), "whole lines: {path}");
    }
    assert_eq!(delete(gateway.ops, TARGET, TOKEN).status, 404);
    let metrics = get(gateway.ops, "/metrics").body;
    for line in [
        "wasend_gateway_requests_total{decision=\"allowed\",reason=\"ok\"} 1",
        "wasend_gateway_outcomes_total{kind=\"deleted\"} 1",
        "wasend_gateway_requests_total{decision=\"refused\",reason=\"ledger-unavailable\"} 0",
        "wasend_gateway_requests_total{decision=\"refused\",reason=\"frozen\"} 0",
        "wasend_gateway_requests_total{decision=\"refused\",reason=\"budget-exhausted\"} 0",
        "wasend_gateway_upstream_answers_total{kind=\"upstream-credentials-refused\"} 0",
        "wasend_gateway_limits_failures_total{kind=\"timeout\"} 0",
        "wasend_gateway_outcomes_total{kind=\"unknown\"} 0",
        "wasend_gateway_reloads_total{kind=\"refused\"} 0",
        "wasend_gateway_resolutions_total{kind=\"indeterminate\"} 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    assert!(!metrics.contains("sess1") && !metrics.contains("120363"), "no ids as labels");
}
