//! What is decided where an intent is recorded: single flight, idempotency keys, budgets.

use crate::provider::{Provider, Reply};
use crate::running::{Gateway, KEY, TARGET, TOKEN, caller, configuration, eventually};
use crate::wire::{Response, delete, delete_with, response};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn target(group: usize) -> String {
    format!("/sess1/groups/12036300000000{group:04}@g.us/picture")
}

fn keyed(gateway: &Gateway, target: &str, key: &str) -> Response {
    delete_with(gateway.listen, target, &format!("Authorization: Bearer {TOKEN}\r\nIdempotency-Key: {key}\r\n"))
}

/// Ends, and starts again on the same ledger.
fn again(mut gateway: Gateway) -> Gateway {
    gateway.kill();
    let text = std::fs::read_to_string(gateway.config()).unwrap();
    Gateway::in_folder(gateway.folder.clone(), &text, &[])
}

#[test]
fn of_two_requests_for_one_target_one_goes_and_the_other_is_told_so() {
    let provider = Provider::start();
    let every = "[[callers.allow]]\nsessions = [\"sess1\"]\ngroups = [\"*\"]\n";
    let callers = format!("{}{every}", caller("moderation", TOKEN, ""));
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &callers));
    provider.next(Reply::Late(Duration::from_millis(500)));
    let mut first = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 1);
    for spelling in [TARGET, &TARGET.replace("@g.us", ""), &TARGET.replace('@', "%40")] {
        let second = delete(gateway.listen, spelling, TOKEN);
        assert_eq!((second.status, second.code(), second.sent()), (409, "in-flight".into(), "no".into()), "{spelling}");
    }
    assert_eq!(response(&mut first).unwrap().status, 200);
    assert_eq!(provider.heads().len(), 1);
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).status, 200, "afterwards it is a new request");
    assert_eq!((gateway.of_kind("intent").len(), gateway.of_kind("refusal").len()), (2, 3));
}

#[test]
fn a_key_gives_the_same_answer_again_and_nothing_is_sent_over_a_restart_too() {
    let provider = Provider::start();
    let mut gateway = Gateway::start(&provider.url());
    let not_found = "HTTP/1.1 404 X\r\ncontent-length: 21\r\n\r\n{\"message\": \"absent\"}";
    let (deleted, refused) = (target(1), target(2));
    let first = keyed(&gateway, &deleted, "\"k-1\"");
    provider.next(Reply::Raw(not_found.into()));
    let second = keyed(&gateway, &refused, "k-2");
    assert_eq!((first.status, second.status, second.code()), (200, 404, "upstream-refused".into()));
    for round in 0..2 {
        for (first, target, key) in [(&first, &deleted, "k-1"), (&second, &refused, "\"k-2\"")] {
            let replay = keyed(&gateway, target, key);
            assert_eq!((replay.status, &replay.body), (first.status, &first.body), "{round} {key}");
            for field in ["x-request-id", "content-type"] {
                assert_eq!(replay.header(field), first.header(field), "{round} {key} {field}");
            }
            assert_eq!(replay.header("idempotency-replayed"), Some("true"), "{round} {key}");
        }
        let other = keyed(&gateway, &refused, "k-1");
        assert_eq!((other.status, other.code(), other.sent()), (422, "idempotency-key-reused".into(), "no".into()));
        assert_eq!(provider.heads().len(), 2, "{round}");
        gateway = again(gateway);
    }
    assert_eq!(first.header("idempotency-replayed"), None);
    assert_eq!(delete(gateway.listen, &deleted, TOKEN).status, 200, "without the key it is a new request");
}

#[test]
fn a_key_whose_outcome_is_unknown_never_sends_again_and_one_that_was_not_sent_is_free() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    provider.next(Reply::RawThenClose(Vec::new()));
    let first = keyed(&gateway, TARGET, "k");
    assert_eq!((first.status, first.code()), (504, "outcome-unknown".into()));
    let gateway = again(gateway);
    provider.next(Reply::Silent);
    let waiting = gateway.send();
    eventually("it is at the provider", || provider.heads().len() == 2);
    let in_the_air = {
        use std::io::Write;
        let fields = format!("Host: gw\r\nAuthorization: Bearer {TOKEN}\r\nIdempotency-Key: k2\r\n");
        provider.next(Reply::Silent);
        let mut stream = crate::wire::connect(gateway.listen);
        stream.write_all(format!("DELETE {} HTTP/1.1\r\n{fields}\r\n", target(7)).as_bytes()).unwrap();
        stream
    };
    eventually("that too", || provider.heads().len() == 3);
    let gateway = again(gateway);
    for (target, key) in [(TARGET.to_owned(), "k"), (target(7), "k2")] {
        let replay = keyed(&gateway, &target, key);
        let said = (replay.status, replay.code(), replay.sent(), replay.header("idempotency-replayed").is_some());
        assert_eq!(said, (504, "outcome-unknown".into(), "unknown".into(), true), "{key}");
    }
    assert_eq!(keyed(&gateway, TARGET, "k").header("x-request-id"), first.header("x-request-id"));
    assert_eq!(provider.heads().len(), 3);
    drop((waiting, in_the_air));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let unreachable = Gateway::start(&format!("http://{nobody}"));
    for _ in 0..2 {
        let answer = keyed(&unreachable, TARGET, "k");
        assert_eq!((answer.status, answer.code()), (502, "upstream-unreachable".into()));
        assert_eq!(answer.header("idempotency-replayed"), None);
    }
    assert_eq!(unreachable.of_kind("intent").len(), 2);
}

#[test]
fn a_key_that_is_no_key_is_refused() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    for bad in ["", "\"\"", "\"a", "a b", "é", &"k".repeat(256), "a\r\nIdempotency-Key: a"] {
        let answer = keyed(&gateway, TARGET, bad);
        assert_eq!((answer.status, answer.code()), (400, "bad-request".into()), "{bad}");
        assert!(answer.body.contains("Idempotency-Key"), "{}", answer.body);
    }
    assert_eq!(provider.bytes(), 0);
}

#[test]
fn callers_at_once_and_a_kill_in_between_get_exactly_the_budget_through() {
    let provider = Provider::start();
    let budgets = "budgets = [{ max = 40, per_s = 86400 }]\n";
    let mut gateway = Gateway::with(&configuration(&provider.url(), &[], &caller("moderation", TOKEN, budgets)));
    for round in 0..3 {
        let passed = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for client in 0..16 {
                let (gateway, passed) = (&gateway, &passed);
                scope.spawn(move || {
                    for number in 0..2 {
                        let answer = delete(gateway.listen, &target(round * 100 + client * 2 + number), TOKEN);
                        match (answer.status, answer.code().as_str()) {
                            (200, _) => drop(passed.fetch_add(1, Ordering::Relaxed)),
                            (429, "budget-exhausted") => {
                                let after: u64 = answer.header("retry-after").unwrap().parse().unwrap();
                                assert!((86_000..=86_400).contains(&after), "{after}");
                            }
                            other => panic!("{other:?} {}", answer.body),
                        }
                    }
                });
            }
        });
        assert_eq!(passed.into_inner(), [32, 8, 0][round], "{round}");
        gateway = again(gateway);
    }
    assert_eq!(provider.heads().len(), 40);
    assert!(!gateway.log().contains(KEY));
}

#[test]
fn a_budget_that_froze_its_caller_is_no_operator() {
    let provider = Provider::start();
    let budgets = "budgets = [{ max = 1, per_s = 86400, on_exhausted = \"freeze\" }]\n";
    let gateway = Gateway::with(&configuration(&provider.url(), &[], &caller("moderation", TOKEN, budgets)));
    let answers = [(); 4].map(|()| delete(gateway.listen, TARGET, TOKEN));
    let last = &answers[3];
    assert_eq!((last.status, last.code()), (403, "frozen".into()));
    let detail = last.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("deletions are stopped: the budget of 1 "), "{detail}");
}

#[test]
fn without_the_providers_key_a_finished_key_is_answered_again_and_nothing_else_is_recorded() {
    let provider = Provider::start();
    let gateway = Gateway::start(&provider.url());
    let keyed = |target: &str, key: &str| keyed(&gateway, target, key);
    let first = keyed(TARGET, "k");
    assert_eq!(first.status, 200);
    std::fs::remove_file(gateway.folder.path().join("key")).unwrap();
    gateway.signal("HUP");
    eventually("the key is gone", || gateway.log().contains("there is no key for the provider any more"));
    assert_eq!(delete(gateway.listen, TARGET, TOKEN).code(), "key-unavailable");
    let replay = keyed(TARGET, "k");
    assert_eq!((replay.status, &replay.body), (200, &first.body));
    assert_eq!(replay.header("x-request-id"), first.header("x-request-id"));
    assert_eq!(replay.header("idempotency-replayed"), Some("true"));
    let other = "/sess1/groups/2@g.us/picture";
    assert_eq!(keyed(other, "k").code(), "idempotency-key-reused");
    assert_eq!(keyed(other, "k2").code(), "key-unavailable");
    assert_eq!((gateway.of_kind("intent").len(), gateway.of_kind("outcome").len()), (1, 1));
    assert_eq!(provider.heads().len(), 1);
}
