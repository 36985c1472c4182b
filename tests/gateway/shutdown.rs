//! SIGTERM, twice SIGTERM, and reload.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{connect, delete, get, request, response};
use std::io::Write;
use std::time::Duration;

#[test]
fn sigterm_finishes_what_is_under_way_and_takes_nothing_new() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    let mut idle = connect(gateway.listen);
    provider.next(Reply::Late(Duration::from_secs(1)));
    let mut waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    gateway.signal("TERM");
    eventually("it is not ready", || get(gateway.ops, "/readyz").status == 503);
    assert_eq!(response(&mut waiting).unwrap().status, 200);
    let _ = idle.write_all(request(TARGET, &format!("Authorization: Bearer {TOKEN}\r\n")).as_bytes());
    assert!(response(&mut idle).is_none_or(|answer| answer.status == 503));
    assert_eq!(gateway.ended().code(), Some(0));
    assert_eq!(gateway.of_kind("outcome")[0]["outcome"], "deleted");
    assert_eq!(gateway.entries().last().unwrap()["kind"], "stop");
    assert_eq!(provider.heads().len(), 1);
}

#[test]
fn a_request_that_has_begun_when_it_stops_is_told_so_and_the_connection_ends() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    let (mut idle, mut begun) = (connect(gateway.listen), connect(gateway.listen));
    let fields = format!("Authorization: Bearer {TOKEN}\r\n");
    for stream in [&mut idle, &mut begun] {
        stream.write_all(request(&format!("/dry-run{TARGET}"), &fields).as_bytes()).unwrap();
        let answer = response(stream).unwrap();
        assert_eq!((answer.status, answer.header("connection")), (200, None), "it is kept alive");
    }
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    let text = request(TARGET, &fields);
    let (first, rest) = text.split_at(20);
    begun.write_all(first.as_bytes()).unwrap();
    gateway.signal("TERM");
    eventually("it is draining", || get(gateway.ops, "/readyz").body.contains("draining"));
    assert!(response(&mut idle).is_none(), "closed without a word: nothing was asked");
    begun.write_all(rest.as_bytes()).unwrap();
    let answer = response(&mut begun).unwrap();
    assert_eq!((answer.status, answer.code().as_str(), answer.sent().as_str()), (503, "shutting-down", "no"));
    assert!(answer.header("retry-after").is_some(), "{}", answer.head);
    assert_eq!(answer.header("connection"), Some("close"), "{}", answer.head);
    assert!(response(&mut begun).is_none(), "the connection is at its end");
    assert!(std::net::TcpStream::connect(gateway.listen).is_err(), "new connections are not taken");
    gateway.signal("TERM");
    assert_eq!(gateway.ended().code(), Some(75), "the provider is still silent");
    assert_eq!(provider.heads().len(), 1);
}

#[test]
fn what_does_not_finish_in_time_is_recorded_as_unknown() {
    let provider = Provider::start();
    let mut gateway = Gateway::with(&configuration(
        &provider.url(),
        &[("listen", "drain_timeout_ms = 200")],
        &caller("moderation", TOKEN, ""),
    ));
    provider.next(Reply::Silent);
    let mut waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    assert_eq!(gateway.stop().code(), Some(0));
    assert_eq!(response(&mut waiting).unwrap().code(), "outcome-unknown");
    assert_eq!(gateway.of_kind("outcome")[0]["outcome"], "unknown");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    provider.next(Reply::Silent);
    let _waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    gateway.signal("TERM");
    eventually("it is draining", || gateway.log().contains("stopping"));
    gateway.signal("TERM");
    assert_eq!(gateway.ended().code(), Some(75));
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    let again = Gateway::in_folder(gateway.folder.clone(), &text, &[]);
    let outcomes = again.of_kind("outcome");
    assert_eq!((outcomes.len(), &outcomes[0]["outcome"]), (1, &"unknown".into()), "at its end or by the next start");
    assert_eq!((again.of_kind("stop").len(), again.of_kind("gap").len()), (0, 1), "it did not stop in order");
}

#[test]
fn sighup_takes_new_callers_and_a_bad_file_changes_nothing() {
    let provider = Provider::start();
    let first = configuration(&provider.url(), &[], &caller("moderation", TOKEN, ""));
    let gateway = Gateway::with(&first);
    let reload = |text: &str, said: &str| {
        let before = gateway.log().matches(said).count();
        std::fs::write(gateway.config(), text).unwrap();
        gateway.signal("HUP");
        eventually(said, || gateway.log().matches(said).count() > before);
    };
    let second = configuration(&provider.url(), &[], &caller("next", "canary-token-next-0000", ""));
    reload(&(second.clone() + "surprise = 1\n"), "was not reloaded");
    assert_eq!(
        (delete(gateway.listen, TARGET, TOKEN).status, delete(gateway.listen, TARGET, "canary-token-next-0000").status),
        (200, 401)
    );
    reload(&second, "were reloaded");
    assert_eq!(
        (delete(gateway.listen, TARGET, TOKEN).status, delete(gateway.listen, TARGET, "canary-token-next-0000").status),
        (401, 200)
    );
    assert_eq!(gateway.of_kind("policy").len(), 2);
}
