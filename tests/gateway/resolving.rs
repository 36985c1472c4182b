//! What becomes of an unknown outcome: the picture is looked at, once the provider is willing, and the ledger gets
//! exactly one resolution. The outcome stays unknown, and nothing is ever deleted a second time.

use crate::faults::{Strace, restart};
use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, command, configuration, eventually};
use crate::sandbox::Sandbox;
use crate::wire::{delete, get};
use std::time::{Duration, Instant};

/// Longer than it takes from an outcome to a look at its picture, when `delay_s` is 1.
const LONG_ENOUGH: Duration = Duration::from_millis(2500);

fn resolving(upstream: &str, resolver: &str) -> String {
    configuration(upstream, &[], &caller("moderation", TOKEN, "")) + "[resolver]\ndelay_s = 1\n" + resolver
}

fn counted(provider: &Provider, method: &str) -> usize {
    provider.heads().iter().filter(|head| head.starts_with(method)).count()
}

fn resolutions(gateway: &Gateway) -> Vec<String> {
    let entries = gateway.of_kind("resolution");
    entries.iter().map(|entry| entry["resolution"].as_str().unwrap().to_owned()).collect()
}

fn metric(gateway: &Gateway, line: &str) -> bool {
    get(gateway.ops, "/metrics").body.lines().any(|said| said == line)
}

/// One deletion, whose outcome nobody knows.
fn unknown(provider: &Provider, gateway: &Gateway) {
    provider.next(Reply::HangUp);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "outcome-unknown");
}

#[test]
fn what_happened_and_what_did_not_look_alike_at_first_and_are_told_apart_afterwards() {
    let sandbox = Sandbox::start();
    let gateway = Gateway::with(&resolving(&format!("http://{}", sandbox.address), ""));
    let cases = [
        ("hang-up-lost@g.us", "present"),
        ("hang-up-after-reading@g.us", "absent"),
        ("answer-500@g.us", "present"),
        ("cut-body@g.us", "absent"),
    ];
    let ids = cases.map(|(group, _)| {
        let answer = delete(gateway.listen, &format!("/sess1/groups/{group}/picture"), TOKEN);
        assert_eq!(answer.sent(), "unknown", "{group}");
        answer.header("x-request-id").unwrap().to_owned()
    });
    eventually("all are resolved", || gateway.of_kind("resolution").len() == cases.len());
    let entries = gateway.entries();
    for ((group, expected), id) in cases.iter().zip(&ids) {
        let of_it = |kind: &str| -> Vec<_> {
            entries.iter().filter(|e| e["kind"] == kind && e["request_id"] == **id).collect()
        };
        let (outcomes, resolutions) = (of_it("outcome"), of_it("resolution"));
        assert_eq!((outcomes.len(), resolutions.len()), (1, 1), "{group}");
        assert_eq!(outcomes[0]["outcome"], "unknown", "{group}: never rewritten");
        assert_eq!(resolutions[0]["resolution"], *expected, "{group}");
        let says = |line: &str| ["was resolved", id.as_str(), expected].iter().all(|word| line.contains(word));
        eventually(group, || gateway.log().lines().any(says));
    }
    let found = command(&["audit", "search", "--outcome", "unknown", "--json"], &gateway.config());
    let found = String::from_utf8(found.stdout).unwrap();
    assert_eq!((found.lines().count(), found.matches("\"resolution\":\"absent\"").count()), (4, 2), "{found}");
    assert!(metric(&gateway, "wasend_gateway_resolutions_total{kind=\"absent\"} 2"));
    assert!(metric(&gateway, "wasend_gateway_unresolved 0"));
    let seen = sandbox.ask("GET", "/_sandbox/seen", "", "").json();
    let of = |method: &str| seen.as_array().unwrap().iter().filter(|seen| seen["method"] == method).count();
    assert_eq!((of("DELETE"), of("GET")), (4, 4), "{seen}");
}

#[test]
fn a_provider_that_cannot_say_is_asked_again_so_often_and_then_it_is_indeterminate() {
    let provider = Provider::start();
    let gateway = Gateway::with(&resolving(&provider.url(), "attempts = 3\n"));
    unknown(&provider, &gateway);
    assert!(metric(&gateway, "wasend_gateway_unresolved 1"));
    for reply in [Reply::Json(500, "{}"), Reply::HangUp, Reply::Json(401, "{}")] {
        provider.next(reply);
    }
    eventually("it is given up", || !resolutions(&gateway).is_empty());
    assert_eq!(resolutions(&gateway), ["indeterminate"]);
    assert_eq!((counted(&provider, "DELETE "), counted(&provider, "GET ")), (1, 3));
    let look = format!("GET {TARGET}?refresh=true HTTP/1.1\r\n");
    for head in provider.heads().iter().skip(1) {
        assert!(head.starts_with(&look) && head.contains(&format!("authorization: Bearer {KEY}\r\n")), "{head}");
    }
    assert!(get(gateway.ops, "/readyz").body.contains("\"ready\""), "a look says nothing about deletions");
}

#[test]
fn a_look_that_fails_and_one_that_shows_it_after_all_make_one_resolution() {
    let picture = "{\"success\":true,\"picture\":{\"url\":\"https://x.invalid/a\",\"format\":\"png\"}}";
    for (reply, expected) in [(Reply::Json(200, picture), "present"), (Reply::Json(404, "{}"), "absent")] {
        let provider = Provider::start();
        let gateway = Gateway::with(&resolving(&provider.url(), "attempts = 2\n"));
        unknown(&provider, &gateway);
        provider.next(Reply::Json(503, "{}"));
        provider.next(reply);
        eventually("it is resolved", || !resolutions(&gateway).is_empty());
        assert_eq!(resolutions(&gateway), [expected]);
        assert_eq!((counted(&provider, "DELETE "), counted(&provider, "GET ")), (1, 2));
    }
}

#[test]
fn a_redirect_is_not_followed_and_shows_nothing() {
    let provider = Provider::start();
    let gateway = Gateway::with(&resolving(&provider.url(), "attempts = 1\n"));
    unknown(&provider, &gateway);
    let redirect = format!("HTTP/1.1 307 X\r\nlocation: {}/elsewhere\r\ncontent-length: 0\r\n\r\n", provider.url());
    provider.next(Reply::Raw(redirect.into_bytes()));
    eventually("it is given up", || !resolutions(&gateway).is_empty());
    assert_eq!((resolutions(&gateway).join(","), provider.heads().len()), ("indeterminate".to_owned(), 2));
}

#[test]
fn a_provider_that_asks_to_wait_is_left_alone_for_so_long() {
    let provider = Provider::start();
    let gateway = Gateway::with(&resolving(&provider.url(), ""));
    unknown(&provider, &gateway);
    provider.next(Reply::Raw(b"HTTP/1.1 429 X\r\nretry-after: 4\r\ncontent-length: 2\r\n\r\n{}".to_vec()));
    eventually("it asked", || counted(&provider, "GET ") == 1);
    let asked = Instant::now();
    eventually("it asked again", || counted(&provider, "GET ") == 2);
    assert!(asked.elapsed() > Duration::from_millis(3800), "{:?}", asked.elapsed());
    eventually("it is resolved", || resolutions(&gateway) == ["absent"]);
    assert_eq!(counted(&provider, "DELETE "), 1);
}

#[test]
fn switched_off_it_sends_nothing_and_switched_on_it_looks_at_what_waited() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&resolving(&provider.url(), "enabled = false\n"));
    unknown(&provider, &gateway);
    // The only way to see that nothing comes: to wait for longer than it would take.
    std::thread::sleep(LONG_ENOUGH);
    assert!(metric(&gateway, "wasend_gateway_unresolved 1"));
    assert_eq!((provider.heads().len(), resolutions(&gateway).len()), (1, 0));
    assert!(gateway.stop().success());
    let again = Gateway::in_folder(gateway.folder.clone(), &resolving(&provider.url(), ""), &[]);
    eventually("it is resolved", || resolutions(&again) == ["absent"]);
    assert_eq!((counted(&provider, "DELETE "), counted(&provider, "GET ")), (1, 1));
}

#[test]
fn however_it_ends_in_between_there_is_one_resolution_and_one_deletion() {
    let end = |gateway: &mut Gateway, kill: bool| {
        if kill {
            gateway.kill();
        } else {
            assert_eq!(gateway.stop().code(), Some(0), "a look does not hold up the end");
        }
    };
    for kill in [true, false] {
        let provider = Provider::start();
        let mut first = Gateway::with(&resolving(&provider.url(), ""));
        provider.next(Reply::Silent);
        let _waiting = first.send();
        eventually("the deletion is at the provider", || provider.heads().len() == 1);
        first.kill();
        provider.next(Reply::Silent);
        let mut second = restart(&first);
        eventually("the look is at the provider", || provider.heads().len() == 2);
        end(&mut second, kill);
        let mut third = restart(&second);
        eventually("it is resolved", || resolutions(&third) == ["absent"]);
        end(&mut third, kill);
        let fourth = restart(&third);
        // The only way to see that nothing comes: to wait for longer than it would take.
        std::thread::sleep(LONG_ENOUGH);
        assert_eq!((resolutions(&fourth), fourth.of_kind("outcome").len()), (vec!["absent".to_owned()], 1));
        assert_eq!((counted(&provider, "DELETE "), counted(&provider, "GET ")), (1, 2));
    }
}

#[test]
fn a_resolution_that_cannot_be_written_or_synced_is_there_once_after_a_restart() {
    for call in ["pwrite64", "fdatasync"] {
        let provider = Provider::start();
        let mut gateway = Gateway::with(&resolving(&provider.url(), ""));
        unknown(&provider, &gateway);
        provider.next(Reply::Late(Duration::from_secs(3)));
        eventually("the look is at the provider", || counted(&provider, "GET ") == 1);
        let strace =
            Strace::attach(&gateway, &["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error=EIO")]);
        assert_eq!(gateway.ended().code(), Some(75), "{call}");
        drop(strace);
        let again = restart(&gateway);
        eventually("it is resolved", || !resolutions(&again).is_empty());
        std::thread::sleep(LONG_ENOUGH);
        assert_eq!(resolutions(&again), ["absent"], "{call}");
        assert_eq!(counted(&provider, "DELETE "), 1, "{call}");
    }
}

#[test]
fn what_was_recorded_while_the_clock_was_ahead_is_looked_at_by_the_clock_and_not_in_years() {
    let provider = Provider::start();
    let off = resolving(&provider.url(), "enabled = false\n");
    let mut gateway = Gateway::with(&off);
    unknown(&provider, &gateway);
    assert!(gateway.stop().success());
    // As if the clock had been years ahead until now, and as nobody has written how often it was looked at.
    let ledger = gateway.folder.path().join("ledger");
    let run = |file: &str, sql: &str| {
        let script =
            "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.executescript(sys.argv[2]); db.close()";
        crate::old::python(script, &[&ledger.join(file), std::path::Path::new(sql)]);
    };
    run(
        "ledger.db",
        "UPDATE unresolved SET since_us = since_us + 9000000000000000, attempts = -1;
         UPDATE entry SET bytes = CAST(replace(bytes, '\"time\":\"2', '\"time\":\"3') AS BLOB)",
    );
    run("tree.db", "DELETE FROM tile; DELETE FROM signed");
    let mut gateway = Gateway::in_folder(gateway.folder.clone(), &off, &[]);
    unknown(&provider, &gateway);
    assert!(gateway.stop().success());
    let again = Gateway::in_folder(gateway.folder.clone(), &resolving(&provider.url(), ""), &[]);
    eventually("both are resolved", || resolutions(&again) == ["absent", "absent"]);
    assert_eq!(counted(&provider, "DELETE "), 2);
}
